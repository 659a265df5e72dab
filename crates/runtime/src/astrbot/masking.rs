//! What is not shown of a bot's configuration, and how it is put back into what is written. The platform's secrets
//! (the key of its model gateway, what tokens are signed with) never leave here; a tenant's own are write-only in our
//! API, and theirs to see in the bot's own dashboard.

use serde_json::{Map, Value};

use super::config::{OWNED_PATHS, PLATFORM_PROVIDER_ID, is_platform_provider, is_platform_source};

/// In the place of a secret. Sent back, it means: as it is.
pub(super) const MASK: &str = "***";

/// Paths of the bot's API below which its configuration is read or written.
const PATHS: [&str; 7] = [
    "/api/v1/system-config",
    "/api/v1/config-profiles",
    "/api/v1/provider-sources",
    "/api/v1/providers",
    "/api/config",
    "/api/v1/plugins/enabled",
    "/api/v1/plugins/reload",
];
/// In the name of a setting, wherever they stand.
const SECRET_PARTS: [&str; 8] =
    ["token", "secret", "password", "passwd", "credential", "apikey", "recovery_code", "webhook_url"];
/// In the name of a setting, as a whole word.
const SECRET_WORDS: [&str; 4] = ["key", "keys", "pwd", "aes"];
/// Of the platform's model provider, beside what is called a secret.
const HIDDEN_OF_PROVIDER: [&str; 3] = ["api_base", "custom_headers", "proxy"];
/// Of the section `dashboard`, the one text that is none.
const SHOWN_OF_DASHBOARD: &str = "username";

/// Whether answers and requests of this path are to be masked and restored.
pub(super) fn holds_platform_values(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    PATHS.iter().any(|prefix| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// An answer of the bot's API without the platform's secrets.
pub(super) fn mask_answer(path: &str, mut body: Value) -> Value {
    if holds_platform_values(path) {
        mask_platform(&mut body);
    }
    body
}

/// Hides the platform's secrets, wherever in `value` a configuration or a part of one stands.
pub(super) fn mask_platform(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let of_platform = is_of_platform(map);
            for (key, value) in map {
                if key == "dashboard" && value.is_object() {
                    mask_dashboard(value);
                } else if of_platform && (HIDDEN_OF_PROVIDER.contains(&key.as_str()) || is_secret(key)) {
                    mask_all(value);
                } else {
                    mask_platform(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(mask_platform),
        _ => {}
    }
}

/// Hides every secret, whosever it is.
pub(super) fn mask_secrets(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if is_secret(key) {
                    mask_all(value);
                } else if key != "id" {
                    // An id tells what is meant when it is sent back, whatever it looks like.
                    mask_secrets(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(mask_secrets),
        Value::String(text) if has_password(text) => MASK.clone_into(text),
        _ => {}
    }
}

/// The secrets in `value` that are long enough to be found in a text.
pub(super) fn secrets_of(value: &Value) -> Vec<String> {
    let (mut found, mut masked) = (Vec::new(), value.clone());
    mask_secrets(&mut masked);
    differing(value, &masked, &mut found);
    found
}

fn differing(value: &Value, masked: &Value, found: &mut Vec<String>) {
    match (value, masked) {
        (Value::Object(map), Value::Object(other)) => {
            map.iter().for_each(|(key, value)| differing(value, &other[key], found));
        }
        (Value::Array(list), Value::Array(other)) => {
            list.iter().zip(other).for_each(|(value, masked)| differing(value, masked, found));
        }
        (Value::String(text), Value::String(mask)) if text != mask && text.len() >= 4 => found.push(text.clone()),
        _ => {}
    }
}

/// Puts `current` where `value` has a mask.
pub(super) fn unmask(value: &mut Value, current: &Value) {
    match (value, current) {
        (Value::Object(map), Value::Object(before)) => {
            for (key, value) in map {
                if let Some(before) = before.get(key) {
                    unmask(value, before);
                }
            }
        }
        (Value::Array(list), Value::Array(before)) => {
            for (position, value) in list.iter_mut().enumerate() {
                if let Some(before) = counterpart(value, position, before) {
                    unmask(value, before);
                }
            }
        }
        (Value::String(text), Value::String(before)) if text == MASK => before.clone_into(text),
        _ => {}
    }
}

/// Whether a mask is left somewhere: a secret that was never there cannot stay as it is.
pub(super) fn has_mask(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().any(has_mask),
        Value::Array(list) => list.iter().any(has_mask),
        Value::String(text) => text == MASK,
        _ => false,
    }
}

/// Puts the platform's values back into a whole configuration, whatever it says about them.
pub(super) fn restore(config: &mut Value, current: &Value) {
    unmask(config, current);
    for path in OWNED_PATHS {
        restore_path(config, path, current);
    }
    restore_entries(config, current, "provider_sources", is_platform_source);
    restore_entries(config, current, "provider", is_platform_provider);
}

/// The value at a dotted path.
pub(super) fn at<'value>(value: &'value Value, path: &str) -> Option<&'value Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

/// Puts back what `current` has at a dotted path, or that it has nothing there.
pub(super) fn restore_path(config: &mut Value, path: &str, current: &Value) {
    let Value::Object(map) = config else { return };
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let Some(value) = current.get(first) else {
        map.remove(first);
        return;
    };
    match (rest, map.get_mut(first)) {
        (Some(rest), Some(below)) if below.is_object() => restore_path(below, rest, value),
        // Where a whole section is missing, the bot would fill it with its own defaults.
        _ => drop(map.insert(first.to_owned(), value.clone())),
    }
}

fn restore_entries(config: &mut Value, current: &Value, key: &str, is_platform: fn(&Value) -> bool) {
    let Some(entries) = config.get_mut(key).and_then(Value::as_array_mut) else { return };
    let mut own: Vec<Value> =
        current[key].as_array().into_iter().flatten().filter(|it| is_platform(it)).cloned().collect();
    entries.retain_mut(|entry| {
        if !is_platform(entry) {
            return true;
        }
        let Some(position) = own.iter().position(|own| own["id"] == entry["id"]) else { return false };
        *entry = own.remove(position);
        true
    });
    entries.splice(0..0, own);
}

/// What an entry of a list was before: the one with its id, or, where neither has one, the one in its place. What has
/// lost its id is something new: it gets none of the secrets of what stood there.
fn counterpart<'list>(value: &Value, position: usize, before: &'list [Value]) -> Option<&'list Value> {
    let there = before.get(position).filter(|there| there.get("id") == value.get("id"));
    there.or_else(|| {
        let id = value.get("id")?;
        before.iter().find(|before| before.get("id") == Some(id))
    })
}

fn is_of_platform(entry: &Map<String, Value>) -> bool {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let id = text("id");
    id == PLATFORM_PROVIDER_ID
        || text("provider_source_id") == PLATFORM_PROVIDER_ID
        || id.strip_prefix(PLATFORM_PROVIDER_ID).is_some_and(|rest| rest.starts_with('/'))
}

fn mask_dashboard(section: &mut Value) {
    let Value::Object(map) = section else { return };
    for (key, value) in map {
        if key != SHOWN_OF_DASHBOARD {
            mask_all(value);
        }
    }
}

fn mask_all(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(mask_all),
        Value::Array(list) => list.iter_mut().for_each(mask_all),
        Value::String(text) if !text.is_empty() => MASK.clone_into(text),
        _ => {}
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_PARTS.iter().any(|part| key.contains(part))
        || key.split(['_', '-', '.']).any(|word| SECRET_WORDS.contains(&word))
}

/// Whether it is an address with a password in it.
fn has_password(text: &str) -> bool {
    let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    authority.is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
#[path = "masking_tests.rs"]
mod tests;
