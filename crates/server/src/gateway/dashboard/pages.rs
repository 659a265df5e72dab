//! The few pages of ours at a bot's host, in English and Chinese. No script; nothing in them is believed to be harmless.

use std::{fmt::Write as _, sync::OnceLock};

use astrfleet_core::instance::Observed;
use aws_lc_rs::digest;
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:17px/1.6 system-ui,'Noto Sans','Noto Sans CJK SC',sans-serif;margin:0;min-height:100vh;display:grid;\
place-items:center;background:Canvas;color:CanvasText}\
main{max-width:34rem;padding:2rem;text-align:center}\
h1{font-size:1.5rem;line-height:1.3;margin:.2em 0}\
p{margin:.6em 0;opacity:.85}\
code{background:color-mix(in srgb,CanvasText 10%,Canvas);padding:.15em .45em;border-radius:.35em}\
.dot{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;background:#3b82f6;animation:p 1.4s infinite}\
@keyframes p{50%{opacity:.2}}\
@media(prefers-reduced-motion:reduce){.dot{animation:none}}";

/// A page with a headline in both languages, and what to do.
struct Page<'text> {
    title: [&'text str; 2],
    text: [&'text str; 2],
    detail: &'text str,
    head: &'text str,
    waits: bool,
}

impl Page<'_> {
    fn html(&self) -> String {
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{}<title>{}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
            self.head,
            escaped(self.title[0]),
        );
        if self.waits {
            html.push_str("<span class=\"dot\" aria-hidden=\"true\"></span>\n");
        }
        for (language, title, text) in [("en", self.title[0], self.text[0]), ("zh-CN", self.title[1], self.text[1])] {
            // Writing to a text cannot fail.
            let _ =
                write!(html, "<section lang=\"{language}\">\n<h1>{}</h1>\n<p>{text}</p>\n</section>\n", escaped(title));
        }
        if !self.detail.is_empty() {
            let _ = writeln!(html, "<p><code>{}</code></p>", escaped(self.detail));
        }
        html + "</main>\n</body>\n</html>\n"
    }
}

/// A link was good: on to the dashboard.
pub fn welcome(tenant: &str) -> String {
    Page {
        title: ["Opening the dashboard…", "正在打开控制台…"],
        text: ["<a href=\"/\">Go on</a> if nothing happens.", "如果没有反应，请<a href=\"/\">点击继续</a>。"],
        detail: tenant,
        head: "<meta http-equiv=\"refresh\" content=\"0; url=/\">\n",
        waits: true,
    }
    .html()
}

/// Nobody is signed in.
pub fn signed_out() -> String {
    Page {
        title: ["You are signed out", "您已退出登录"],
        text: [
            "Open a new link: in the platform's console, or with <code>astrfleet instance open</code>.",
            "请在平台控制台中，或使用 <code>astrfleet instance open</code> 打开新的链接。",
        ],
        detail: "",
        head: "",
        waits: false,
    }
    .html()
}

/// A link that works no more.
pub fn used() -> String {
    Page {
        title: ["This link was used already, or is too old", "此链接已被使用或已过期"],
        text: [
            "A link works once, within a minute. Make a new one: <code>astrfleet instance open</code>.",
            "链接只能在一分钟内使用一次。请重新生成：<code>astrfleet instance open</code>。",
        ],
        detail: "",
        head: "",
        waits: false,
    }
    .html()
}

/// Too many tries.
pub fn too_many() -> String {
    Page {
        title: ["Too many tries", "尝试次数过多"],
        text: ["Wait a minute, then open a new link.", "请稍候一分钟，然后打开新的链接。"],
        detail: "",
        head: "",
        waits: false,
    }
    .html()
}

/// A host that is nobody's.
pub fn nothing_here() -> String {
    Page {
        title: ["There is nothing here", "此处没有内容"],
        text: ["No bot has this address.", "没有机器人使用此地址。"],
        detail: "",
        head: "",
        waits: false,
    }
    .html()
}

/// A tenant that is not served.
pub fn stopped(reason: &str) -> String {
    Page {
        title: ["This bot is stopped", "此机器人已停止"],
        text: ["Its tenant is not served at the moment.", "该租户目前未启用。"],
        detail: reason,
        head: "",
        waits: false,
    }
    .html()
}

/// A bot that does not answer now. The page looks again by itself, unless somebody has to do something first.
pub fn asleep(observed: Observed, reason: &str) -> String {
    let waits = !matches!(observed, Observed::Failed | Observed::Suspended | Observed::Deleting);
    let (title, text) = match observed {
        Observed::Failed => (
            ["The bot could not be started", "机器人启动失败"],
            [
                "Start it again: <code>astrfleet instance restart</code>.",
                "请重新启动：<code>astrfleet instance restart</code>。",
            ],
        ),
        Observed::Suspended => (
            ["The bot is stopped", "机器人已停止"],
            ["Start it: <code>astrfleet instance start</code>.", "请启动：<code>astrfleet instance start</code>。"],
        ),
        Observed::Deleting => (["The bot is being erased", "机器人正在删除"], ["It will not come back.", "无法恢复。"]),
        Observed::Running
        | Observed::Degraded
        | Observed::Pending
        | Observed::Provisioning
        | Observed::Starting
        | Observed::Hibernated
        | Observed::Waking
        | Observed::Updating
        | Observed::Restoring => {
            (["The bot is getting ready", "机器人正在准备"], ["This page looks again by itself.", "本页面会自动刷新。"])
        }
    };
    let state = format!("{observed:?}").to_lowercase();
    let detail = if reason.is_empty() { state } else { format!("{state}: {reason}") };
    let head = if waits { "<meta http-equiv=\"refresh\" content=\"2\">\n" } else { "" };
    Page { title, text, detail: &detail, head, waits }.html()
}

/// The page as an answer.
pub fn respond(status: StatusCode, page: String) -> Response {
    let mut response = (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Not the address with the ticket in it.
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

fn policy() -> HeaderValue {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    POLICY
        .get_or_init(|| {
            let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
            let policy = format!(
                "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            );
            HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
        })
        .clone()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use astrfleet_core::instance::Observed;

    use super::asleep;

    #[test]
    fn a_reason_is_shown_and_never_run() {
        let page = asleep(Observed::Failed, "exit code 1: <script>alert('x')</script>");
        assert!(page.contains("failed: exit code 1: &lt;script&gt;alert(&#39;x&#39;)"), "{page}");
        assert!(!page.contains("http-equiv"), "somebody has to do something: looking again does not help");
        assert!(asleep(Observed::Starting, "").contains("http-equiv=\"refresh\""));
    }
}
