//! Files to and from a bot. Nothing here trusts a name: neither ours in the bot's folder nor the bot's in ours.

use astrfleet_core::{
    chat::BotAttachment,
    error::{Error, Result},
    ports::BotFile,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::{
    Body, Method,
    header::{CONTENT_TYPE, ETAG},
    multipart::{Form, Part},
};

use super::{
    client::{Failure, escaped},
    connection::Connection,
};

/// Letters of a file's name.
const NAME_MAX: usize = 100;
const UNKNOWN: &str = "application/octet-stream";

/// Gives the bot a file.
pub(super) async fn upload(
    bot: &Connection,
    end_user: &str,
    name: &str,
    media_type: &str,
    content: Bytes,
) -> Result<BotAttachment> {
    let length = content.len() as u64;
    let part = Part::stream_with_length(Body::from(content), length)
        .file_name(plain(name))
        .mime_str(media_type)
        .map_err(|_| Error::invalid("media_type", "it has a form such as image/png"))?;
    let sending = bot
        .request_as(end_user, Method::POST, "files")?
        .timeout(bot.shared.limits.file)
        .multipart(Form::new().part("file", part))
        .send();
    let data = bot.data(sending.await.map_err(Failure::from)?).await?;
    match (data["attachment_id"].as_str(), data["type"].as_str()) {
        (Some(id), Some(kind)) => Ok(BotAttachment { id: id.into(), kind: kind.into() }),
        _ => Err(Failure::Away("it took a file and did not say under which id".into()).into()),
    }
}

/// Fetches a file that an answer spoke of: `<name in the bot's folder>`, or `<name in the bot's folder>|<its own name>`.
pub(super) async fn download(bot: &Connection, end_user: &str, reference: &str) -> Result<BotFile> {
    let (stored, name) = reference.split_once('|').unwrap_or((reference, reference));
    let path = format!("files/content?filename={}", escaped(stored));
    let asking = bot.request_as(end_user, Method::GET, &path)?.timeout(bot.shared.limits.file).send();
    let answer = asking.await.map_err(Failure::from)?;
    // An error is JSON with status 200, and so may a file be: only files have a tag.
    if !answer.status().is_success() || !answer.headers().contains_key(ETAG) {
        return match bot.data(answer).await {
            Err(Failure::Away(reason)) => Err(Failure::Away(reason).into()),
            _ => Err(Error::NotFound { what: "file" }),
        };
    }
    let media_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or(UNKNOWN);
    let media_type = media_type.split(';').next().unwrap_or(UNKNOWN).trim().to_owned();
    Ok(BotFile { name: plain(name), media_type, content: answer.bytes_stream().map_err(std::io::Error::other).boxed() })
}

/// A name without any folder.
fn plain(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|letter| !letter.is_control() && *letter != '"').take(NAME_MAX).collect();
    if matches!(clean.trim(), "" | "." | "..") { "file".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn names_lead_nowhere() {
        for (name, expected) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("a\\b\\报告.pdf", "报告.pdf"),
            ("..", "file"),
            ("x/", "file"),
            ("a\r\nb\".txt", "ab.txt"),
        ] {
            assert_eq!(plain(name), expected);
        }
        assert_eq!(plain(&"x".repeat(1_000)).len(), 100);
    }
}
