//! A bot's configuration as its owner sees and changes it. It is read, changed and written whole, one change at a time;
//! what is the platform's is neither shown nor taken.

use astrfleet_core::error::{Error, Result};
use reqwest::Method;
use serde_json::Value;

use super::{
    client::Failure,
    config::OWNED_PATHS,
    connection::Connection,
    masking::{at, has_mask, mask_platform, mask_secrets, restore},
};

/// Parts that are changed elsewhere: the bot ignores them here.
const ELSEWHERE: [(&str, &str); 3] = [
    ("platform", "channels have addresses of their own: see …/channels"),
    ("provider", "models are changed in the bot's own dashboard"),
    ("provider_sources", "model providers are changed in the bot's own dashboard"),
];

/// As it is shown.
pub(super) async fn read(bot: &Connection) -> Result<Value> {
    Ok(shown(raw(bot).await?))
}

/// Changes it by a merge patch. Returns it as it is shown then.
pub(super) async fn change(bot: &Connection, patch: &Value) -> Result<Value> {
    if !patch.is_object() {
        return Err(Error::invalid("body", "a JSON merge patch is an object (RFC 7386)"));
    }
    let _alone = bot.alone().await;
    let current = raw(bot).await?;
    refuse_foreign(patch, &shown(current.clone()))?;
    let mut changed = current.clone();
    merge(&mut changed, patch);
    restore(&mut changed, &current);
    if has_mask(&changed) && !has_mask(&current) {
        return Err(Error::invalid("body", "*** stands for a secret that is there: here is none, so send the secret"));
    }
    bot.call(Method::PUT, "system-config", Some(&changed)).await?;
    read(bot).await
}

/// With everything in it. Never to be shown or logged.
pub(super) async fn raw(bot: &Connection) -> Result<Value> {
    let mut answer = bot.call(Method::GET, "system-config", None).await?;
    let config = answer["config"].take();
    if !config.is_object() {
        return Err(Failure::Away("its configuration is not an object".into()).into());
    }
    Ok(config)
}

fn shown(mut config: Value) -> Value {
    mask_platform(&mut config);
    mask_secrets(&mut config);
    config
}

/// A part that is sent back as it was shown is no change.
fn refuse_foreign(patch: &Value, shown: &Value) -> Result<()> {
    if let Some(owned) = OWNED_PATHS.iter().find(|owned| touches(patch, owned, shown)) {
        return Err(Error::invalid("body", format!("{owned} belongs to the platform: leave it out")));
    }
    match ELSEWHERE.iter().find(|(owned, _)| touches(patch, owned, shown)) {
        Some((owned, where_else)) => {
            Err(Error::invalid("body", format!("{owned} cannot be changed here: {where_else}")))
        }
        None => Ok(()),
    }
}

fn touches(patch: &Value, owned: &str, shown: &Value) -> bool {
    let (mut patch, mut shown) = (patch, Some(shown));
    for key in owned.split('.') {
        let Some(below) = patch.get(key) else {
            // A part that is replaced as a whole loses what is in it.
            return !patch.is_object() && Some(patch) != shown;
        };
        patch = below;
        shown = shown.and_then(|shown| at(shown, key));
    }
    Some(patch) != shown
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        patch.clone_into(target);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{merge, refuse_foreign};

    #[test]
    fn merges_as_the_rfc_says() {
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, &patch);
            assert_eq!(merged, expected, "{target} with {patch}");
        }
    }

    #[test]
    fn what_is_the_platforms_is_refused_unless_it_is_what_was_shown() {
        let shown = json!({
            "dashboard": {"jwt_secret": "***"}, "admins_id": [], "provider_sources": [{"id": "platform", "key": ["***"]}],
            "provider_settings": {"computer_use_runtime": "none", "web_search": false},
        });
        for patch in [
            json!({"admins_id": ["me"]}),
            json!({"dashboard": null}),
            json!({"dashboard": {"port": 1}}),
            json!({"provider_settings": null}),
            json!({"provider_settings": {"computer_use_runtime": "local"}}),
            json!({"disable_metrics": false}),
            json!({"provider_sources": []}),
            json!({"platform": [{"id": "x"}]}),
        ] {
            assert!(refuse_foreign(&patch, &shown).is_err(), "{patch}");
        }
        for patch in [json!({"provider_settings": {"web_search": true}}), json!({"wake_prefix": ["!"]}), shown.clone()]
        {
            assert!(refuse_foreign(&patch, &shown).is_ok(), "{patch}");
        }
    }
}
