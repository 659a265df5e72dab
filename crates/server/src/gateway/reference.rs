//! `/`: the reference of the API, one embedded page that draws what `/openapi.json` says. It loads nothing else.

use std::sync::OnceLock;

use aws_lc_rs::digest;
use axum::{
    http::{HeaderName, HeaderValue, header},
    response::IntoResponse,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::app;

const PAGE: &str = include_str!("reference.html");

/// The page. It holds no secret and knows none: whoever tries something pastes a token into it.
pub async fn page() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, PAGE)
}

/// The description of the whole API, made once.
pub async fn description() -> impl IntoResponse {
    static DESCRIPTION: OnceLock<Bytes> = OnceLock::new();
    let text = DESCRIPTION.get_or_init(|| serde_json::to_vec(&app::description()).unwrap_or_default().into());
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
    (headers, text.clone())
}

/// Nothing but what stands in the page itself, by its hash.
fn policy() -> HeaderValue {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    POLICY
        .get_or_init(|| {
            let policy = format!(
                "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
                 form-action 'none'; frame-ancestors 'none'",
                hash("script"),
                hash("style"),
            );
            HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
        })
        .clone()
}

fn hash(element: &str) -> String {
    let text = within(element).unwrap_or_default();
    format!("'sha256-{}'", STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes())))
}

/// What stands between `<element>` and `</element>`, both of which occur once.
fn within(element: &str) -> Option<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("<{element}>"))?;
    rest.split_once(&format!("</{element}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::{PAGE, within};

    #[test]
    fn the_page_needs_nobody_and_believes_nothing() {
        for element in ["script", "style"] {
            assert!(within(element).is_some_and(|text| text.len() > 100), "{element}");
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "one {element}, so one hash");
        }
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
            " style=\"",
            "onclick=",
        ] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }
}
