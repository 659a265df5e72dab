//! What a person writes from the bot's own dashboard, with the platform's values put back. Which routes there are for
//! them at all is the gateway's to say; here no allowed one may change what is the platform's.

use astrfleet_core::error::{Error, Result};
use reqwest::Method;
use serde_json::Value;

use super::{
    bridge,
    client::escaped,
    config::{OWNED_PATHS, PLATFORM_PROVIDER_ID},
    connection::Connection,
    masking::{holds_platform_values, restore as restore_config, restore_path},
    settings::raw,
};

/// Names under which a provider or its source is meant, in a body or a query.
const NAMES: [&str; 5] = ["id", "source_id", "provider_id", "provider_source_id", "original_id"];
/// Parts that the bot reads from its default profile alone: no other one needs their secrets.
const OF_ALL_PROFILES: [&str; 4] = ["dashboard", "provider_sources", "provider", "platform"];
/// Where a body holds a whole provider, or one to try.
const WHOLE: [&str; 2] = ["config", "provider_config"];
/// What only tries a provider, as it is.
const TRIES: [&str; 3] = ["test", "models", "check_one"];

/// The body as it may go to the bot.
pub(super) async fn restore(bot: &Connection, method: &str, path: &str, mut body: Value) -> Result<Value> {
    if matches!(method, "GET" | "HEAD" | "OPTIONS") || !holds_platform_values(path) {
        return Ok(body);
    }
    if !body.is_object() && !body.is_null() {
        return Err(Error::invalid("body", "must be a JSON object"));
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty() && !matches!(*part, "api" | "v1")).map(decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match (method, parts.as_slice()) {
        ("PUT", ["system-config"] | ["config-profiles", "default"]) => {
            restore_config(&mut body, &raw(bot).await?);
            Ok(body)
        }
        ("PUT", ["config-profiles", profile]) => {
            restore_profile(bot, profile, &mut body).await?;
            Ok(body)
        }
        ("POST", ["config", "astrbot", "update"]) => {
            let profile = body["conf_id"].as_str().unwrap_or("default").to_owned();
            if profile == "default" {
                restore_config(&mut body["config"], &raw(bot).await?);
            } else {
                restore_profile(bot, &profile, &mut body["config"]).await?;
            }
            Ok(body)
        }
        ("POST", ["config-profiles"] | ["config", "abconf", "new"]) => {
            let current = raw(bot).await?;
            match body.get_mut("config") {
                Some(config) if config.is_object() => restore_config(config, &current),
                // Without one it would begin with the bot's own defaults, which are not ours.
                _ => body["config"] = current,
            }
            if let Some(config) = body["config"].as_object_mut() {
                config.retain(|part, _| !OF_ALL_PROFILES.contains(&part.as_str()));
            }
            Ok(body)
        }
        ("POST", [.., last]) if TRIES.contains(last) => Ok(body),
        (_, ["plugins", ..]) if names_bridge(&body) => Err(Error::Forbidden {
            reason: "this plugin connects the bot to the platform: it is placed and kept on by the platform".into(),
        }),
        (
            _,
            ["config-profiles" | "plugins", ..] | ["config", "plugin" | "file" | "abconf" | "umo_abconf_route", ..],
        ) => Ok(body),
        (_, parts) if names_platform(parts, query, &body) => Err(Error::Forbidden {
            reason: "this model provider belongs to the platform: add one of your own and choose its models".into(),
        }),
        _ => Ok(body),
    }
}

/// A profile beside the default one has parts of its own that nothing reads: those stay as they are there.
async fn restore_profile(bot: &Connection, profile: &str, body: &mut Value) -> Result<()> {
    let path = format!("config-profiles/{}", escaped(profile));
    let mut current = bot.call(Method::GET, &path, None).await?["config"].take();
    let platforms = raw(bot).await?;
    for path in OWNED_PATHS.iter().filter(|path| !OF_ALL_PROFILES.contains(path)) {
        restore_path(&mut current, path, &platforms);
    }
    restore_config(body, &current);
    Ok(())
}

/// Whether any text in a body is the name of our plugin.
fn names_bridge(body: &Value) -> bool {
    match body {
        Value::String(text) => text.trim() == bridge::NAME,
        Value::Array(items) => items.iter().any(names_bridge),
        Value::Object(fields) => fields.values().any(names_bridge),
        _ => false,
    }
}

fn names_platform(parts: &[&str], query: &str, body: &Value) -> bool {
    let in_path = parts.get(1..).unwrap_or_default().join("/");
    let in_query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .any(|(name, value)| NAMES.contains(&&*in_form(name)) && is_platform(&in_form(value)));
    let in_object =
        |object: &Value| NAMES.iter().filter_map(|name| object.get(name)).filter_map(Value::as_str).any(is_platform);
    is_platform(&in_path)
        || in_query
        || in_object(body)
        || WHOLE.iter().filter_map(|name| body.get(name)).any(in_object)
}

/// A name or a value of a query, as it is meant.
fn in_form(text: &str) -> String {
    decoded(&text.replace('+', " "))
}

fn is_platform(id: &str) -> bool {
    id.trim().strip_prefix(PLATFORM_PROVIDER_ID).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Percent-encoding undone; what is broken stays as it is.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let code = match (first, tail) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|code| u8::from_str_radix(code, 16).ok())
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{decoded, names_platform};

    #[test]
    fn the_platforms_provider_is_seen_wherever_it_is_named() {
        for (parts, query, body) in [
            (&["provider-sources", "platform"][..], "", Value::Null),
            (&["providers", "platform/fast"], "", Value::Null),
            (&["providers", "platform", "fast", "enabled"], "", json!({"enabled": false})),
            (&["provider-sources", "by-id"], "source_id=platform", Value::Null),
            (&["providers", "by-id"], "x=1&provider_id=platform%2Ffast", Value::Null),
            (&["providers", "by-id"], "provider_id=own&provider%5Fid=+platform/fast", Value::Null),
            (
                &["providers", "platform", "fast", "embedding-dimension"],
                "",
                json!({"provider_config": {"api_base": "x"}}),
            ),
            (&["providers", "embedding-dimension"], "", json!({"provider_config": {"provider_source_id": "platform"}})),
            (&["provider-sources", "own"], "", json!({"config": {"id": "platform"}})),
            (&["providers"], "", json!({"config": {"id": "own/a", "provider_source_id": "platform"}})),
            (&["config", "provider_sources", "update"], "", json!({"original_id": "platform"})),
        ] {
            assert!(names_platform(parts, query, &body), "{parts:?} {query} {body}");
        }
        let own = json!({"config": {"id": "platforms", "provider_source_id": "own"}});
        assert!(!names_platform(&["provider-sources", "platform2"], "source_id=own", &own));
    }

    #[test]
    fn broken_codes_stay() {
        assert_eq!(decoded("a%2Fb%zz%"), "a/b%zz%");
    }
}
