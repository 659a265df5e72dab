//! The IM platforms that a bot serves. They live in the bot's configuration; secrets go in and never come out again.

use std::time::Duration;

use astrfleet_core::{
    channel::Channel,
    error::{Error, Result},
    ports::ChannelDraft,
};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    channel_states,
    client::{Failure, escaped},
    connection::Connection,
    masking::{MASK, has_mask, mask_secrets, secrets_of, unmask},
};

const NONE: Error = Error::NotFound { what: "channel" };
const ID_MAX: usize = 32;
/// Letters of the bot's own words about a failure.
const WORDS_MAX: usize = 500;
/// Between two looks at a channel that is watched.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What a channel has beside its settings.
const NOT_SETTINGS: [&str; 3] = ["id", "type", "enable"];
/// A listener of its own on a port of its own: there is none for a bot here.
const NEEDS_A_PORT: &str = "aiocqhttp";
/// Kinds to which the IM platform delivers always.
const BY_WEBHOOK: [&str; 4] = ["line", "qq_official_webhook", "wecom", "weixin_official_account"];
/// Kinds to which it delivers where this setting is `webhook`.
const BY_WEBHOOK_IF: [(&str, &str); 3] = [
    ("slack", "slack_connection_mode"),
    ("lark", "lark_connection_mode"),
    ("wecom_ai_bot", "wecom_ai_bot_connection_mode"),
];

/// All of them.
pub(super) async fn list(bot: &Connection) -> Result<Vec<Channel>> {
    let states = channel_states::read(bot).await?;
    Ok(entries(bot).await?.iter().map(|entry| shown(entry, &states)).collect())
}

/// Adds one.
pub(super) async fn add(bot: &Connection, draft: ChannelDraft) -> Result<Channel> {
    check_id(&draft.id)?;
    let _alone = bot.alone().await;
    if find(bot, &draft.id).await?.is_some() {
        return Err(Error::conflict(format!(
            "there is a channel {} already: change it, or choose another id",
            draft.id
        )));
    }
    let template = template(bot, &draft.kind).await?;
    let entry = entry(bot, &draft, template, None)?;
    let answer = bot.call(Method::POST, "bots", Some(&json!({"config": entry}))).await;
    if let Err(failure) = answer {
        // The bot keeps the entry also where it cannot load it.
        return Err(undone(bot, &draft.id, None, failure).await);
    }
    one(bot, &draft.id).await
}

/// Changes one.
pub(super) async fn change(bot: &Connection, draft: ChannelDraft) -> Result<Channel> {
    let _alone = bot.alone().await;
    let before = find(bot, &draft.id).await?.ok_or(NONE)?;
    if before["type"] != draft.kind.as_str() {
        let reason = "a channel stays of its type: delete it and add another one".to_owned();
        return Err(Error::Invalid { field: "type", reason });
    }
    let template = template(bot, &draft.kind).await?;
    let entry = entry(bot, &draft, template, Some(&before))?;
    if let Err(failure) = write(bot, &draft.id, &entry).await {
        return Err(undone(bot, &draft.id, Some(&before), failure).await);
    }
    one(bot, &draft.id).await
}

/// Deletes one.
pub(super) async fn delete(bot: &Connection, id: &str) -> Result<()> {
    let _alone = bot.alone().await;
    find(bot, id).await?.ok_or(NONE)?;
    bot.call(Method::DELETE, &format!("bots/by-id?bot_id={}", escaped(id)), None).await?;
    Ok(())
}

/// Starts one anew and watches it for a while. A bot has a call for trying a channel, which says `unsupported` for all.
pub(super) async fn test(bot: &Connection, id: &str) -> Result<(bool, String)> {
    let _alone = bot.alone().await;
    let before = find(bot, id).await?.ok_or(NONE)?;
    if before["enable"] == false {
        return Ok((false, "it is turned off: enable it first".to_owned()));
    }
    write(bot, id, &before).await?;
    let watched = tokio::time::timeout(bot.shared.limits.channel_watch, async {
        loop {
            let channel = shown(&before, &channel_states::read(bot).await?);
            match channel.last_error {
                Some(reason) => return Ok::<_, Error>(reason),
                None if matches!(channel.status.as_str(), "error" | "stopped") => return Ok(channel.status),
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    });
    if let Ok(failed) = watched.await {
        return Ok((false, failed?));
    }
    let channel = one(bot, id).await?;
    Ok(match (channel.connected, channel.webhook_path) {
        (false, _) => (false, format!("it did not begin to work in time: it is {}", channel.status)),
        (true, None) => (true, "it runs, and reports no error".to_owned()),
        (true, Some(_)) => {
            (true, "it waits for the IM platform to call its webhook: only that can prove it".to_owned())
        }
    })
}

/// Says something in a conversation.
pub(super) async fn say(bot: &Connection, umo: &str, text: &str) -> Result<()> {
    match bot.call(Method::POST, "im/messages", Some(&json!({"umo": umo, "message": text}))).await {
        Ok(_) => Ok(()),
        Err(Failure::Refused(words)) => Err(Error::conflict(format!("the bot could not send it: {words}"))),
        Err(failure) => Err(failure.into()),
    }
}

async fn one(bot: &Connection, id: &str) -> Result<Channel> {
    let entry = find(bot, id).await?.ok_or(NONE)?;
    Ok(shown(&entry, &channel_states::read(bot).await?))
}

async fn find(bot: &Connection, id: &str) -> Result<Option<Value>> {
    Ok(entries(bot).await?.into_iter().find(|entry| entry["id"] == id))
}

async fn entries(bot: &Connection) -> Result<Vec<Value>> {
    match bot.call(Method::GET, "bots", None).await?["bots"].take() {
        Value::Array(entries) => Ok(entries),
        _ => Err(Failure::Away("its list of channels is none".into()).into()),
    }
}

async fn write(bot: &Connection, id: &str, entry: &Value) -> Result<Value, Failure> {
    let path = format!("bots/by-id?bot_id={}", escaped(id));
    bot.call(Method::PUT, &path, Some(&json!({"bot_id": id, "config": entry}))).await
}

/// What the bot's own dashboard would begin with: an adapter may need any of it.
async fn template(bot: &Connection, kind: &str) -> Result<Map<String, Value>> {
    if kind == NEEDS_A_PORT {
        let reason = format!("{kind} needs a port of its own, which bots here do not have");
        return Err(Error::Invalid { field: "type", reason });
    }
    let answer = bot.call(Method::GET, "system-config/runtime", None).await?;
    let templates = answer["metadata"]["platform_group"]["metadata"]["platform"]["config_template"]
        .as_object()
        .ok_or_else(|| Failure::Away("it does not say which channels there are".into()))?;
    let found =
        templates.values().filter_map(Value::as_object).find(|template| template.get("type") == Some(&kind.into()));
    found.cloned().ok_or_else(|| {
        let mut kinds: Vec<_> = templates.values().filter_map(|template| template["type"].as_str()).collect();
        kinds.retain(|kind| *kind != NEEDS_A_PORT);
        kinds.sort_unstable();
        kinds.dedup();
        Error::Invalid { field: "type", reason: format!("this bot knows {}", kinds.join(", ")) }
    })
}

/// What is written for `draft`.
fn entry(
    bot: &Connection,
    draft: &ChannelDraft,
    template: Map<String, Value>,
    before: Option<&Value>,
) -> Result<Value> {
    let Value::Object(settings) = &draft.settings else {
        return Err(Error::invalid("settings", "settings are an object"));
    };
    let mut entry = Value::Object(template);
    for (name, value) in settings.iter().filter(|(name, _)| !NOT_SETTINGS.contains(&name.as_str())) {
        entry[name] = value.clone();
    }
    if let Some(before) = before {
        unmask(&mut entry, before);
    }
    if has_mask(&entry) {
        let reason = format!("{MASK} stands for a secret that is there already: send the secret itself");
        return Err(Error::Invalid { field: "settings", reason });
    }
    entry["id"] = json!(draft.id);
    entry["type"] = json!(draft.kind);
    entry["enable"] = json!(draft.enabled);
    if is_by_webhook(&entry) {
        let kept = before.and_then(|before| before["webhook_uuid"].as_str()).filter(|uuid| !uuid.is_empty());
        entry["unified_webhook_mode"] = json!(true);
        entry["webhook_uuid"] = json!(kept.map_or_else(|| random_name(bot), str::to_owned));
    }
    Ok(entry)
}

fn random_name(bot: &Connection) -> String {
    let mut bytes = [0; 8];
    bot.shared.rng.fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// Takes back what the bot kept of an entry that it cannot load, and says why it was refused.
async fn undone(bot: &Connection, id: &str, before: Option<&Value>, failure: Failure) -> Error {
    let undoing = match before {
        Some(before) => write(bot, id, before).await,
        None => bot.call(Method::DELETE, &format!("bots/by-id?bot_id={}", escaped(id)), None).await,
    };
    match (failure, undoing) {
        // It answers again, so it was the settings that it failed over, and not the bot.
        (Failure::Away(_), Ok(_)) => {
            Error::invalid("settings", "the bot cannot load a channel with these: see its log for the reason")
        }
        (failure, _) => failure.into(),
    }
}

fn is_by_webhook(entry: &Value) -> bool {
    let kind = entry["type"].as_str().unwrap_or_default();
    BY_WEBHOOK.contains(&kind)
        || BY_WEBHOOK_IF.iter().any(|(name, setting)| *name == kind && entry[*setting] == "webhook")
}

fn shown(entry: &Value, reported: &[Value]) -> Channel {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let id = text("id");
    let enabled = entry["enable"] != false;
    let state = reported.iter().find(|state| state["id"] == id.as_str());
    let word = match state.and_then(|state| state["status"].as_str()) {
        Some(word) if enabled => word.to_owned(),
        _ if enabled => "not loaded".to_owned(),
        _ => "disabled".to_owned(),
    };
    let last_error = state.and_then(|state| state["last_error"]["message"].as_str()).filter(|_| enabled);
    let uuid = entry["webhook_uuid"].as_str().filter(|uuid| !uuid.is_empty() && is_by_webhook(entry));
    let mut settings = entry.clone();
    mask_secrets(&mut settings);
    if let Value::Object(settings) = &mut settings {
        settings.retain(|name, _| !NOT_SETTINGS.contains(&name.as_str()));
    }
    Channel {
        connected: enabled && word == "running",
        kind: text("type"),
        webhook_path: uuid.map(|uuid| format!("/hooks/{uuid}")),
        last_error: last_error.map(|words| without_secrets(words, entry)),
        id,
        enabled,
        status: word,
        settings,
    }
}

/// A library may quote the token that was refused.
fn without_secrets(words: &str, entry: &Value) -> String {
    let clean = secrets_of(entry).iter().fold(words.to_owned(), |words, secret| words.replace(secret.as_str(), MASK));
    clean.chars().take(WORDS_MAX).collect()
}

fn check_id(id: &str) -> Result<()> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if (1..=ID_MAX).contains(&id.len()) && id.bytes().all(allowed) && id != "webchat" {
        return Ok(());
    }
    Err(Error::invalid("id", "an id has 1 to 32 of a-z, 0-9, _ and -, and is not webchat, which every bot has"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{check_id, shown};

    #[test]
    fn secrets_are_not_shown_and_not_quoted() {
        let entry = json!({
            "id": "tg1", "type": "telegram", "enable": true, "telegram_token": "42:abc",
            "telegram_api_base_url": "http://127.0.0.1/bot",
        });
        let states =
            [json!({"id": "tg1", "status": "error", "last_error": {"message": "The token `42:abc` was rejected"}})];
        let channel = shown(&entry, &states);
        assert_eq!(channel.settings, json!({"telegram_token": "***", "telegram_api_base_url": "http://127.0.0.1/bot"}));
        assert_eq!(channel.last_error.as_deref(), Some("The token `***` was rejected"));
        assert_eq!((channel.connected, channel.status.as_str(), channel.webhook_path), (false, "error", None));
    }

    #[test]
    fn those_with_a_webhook_have_its_path() {
        let line = json!({"id": "l", "type": "line", "enable": false, "webhook_uuid": "0123456789abcdef"});
        let channel = shown(&line, &[]);
        assert_eq!(channel.webhook_path.as_deref(), Some("/hooks/0123456789abcdef"));
        assert_eq!((channel.connected, channel.status.as_str()), (false, "disabled"));
        let slack =
            json!({"id": "s", "type": "slack", "enable": true, "webhook_uuid": "0", "slack_connection_mode": "socket"});
        assert_eq!(shown(&slack, &[]).webhook_path, None);
    }

    #[test]
    fn ids_are_plain() {
        for id in ["", "a:b", "A", "a/b", "webchat", &"x".repeat(33)] {
            assert!(check_id(id).is_err(), "{id}");
        }
        assert!(check_id("tg-1_x").is_ok());
    }
}
