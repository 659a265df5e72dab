//! What must never be seen is never seen, and what was hidden comes back as it was.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// No text of a configuration has this in it, unless it is one of the platform's secrets.
const SEED: &str = "S3CR3T";

fn config() -> impl Strategy<Value = Value> {
    let text = "[a-z*]{0,6}|https://[a-z]{1,3}:[a-z]{1,3}@host/|\\*\\*\\*";
    let source = (text, text).prop_map(|(id, key)| json!({"id": format!("own{id}"), "key": [key], "api_base": key}));
    let other = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    let tree = other.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("token|key|name|[a-z]{1,3}_key|dashboards", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    (proptest::collection::vec(source, 0..3), 0_usize..4, tree, any::<bool>()).prop_map(|(mut sources, place, tree, full)| {
        let platform = json!({
            "id": "platform", "provider": "openai", "key": [format!("{SEED}1")], "api_base": format!("http://{SEED}2/v1"),
            "custom_headers": {"X-Any": format!("{SEED}3")}, "timeout": 120,
        });
        sources.insert(place.min(sources.len()), platform);
        let mut config = json!({
            "admins_id": [], "disable_metrics": true, "log_level": "WARNING", "wake_prefix": ["/"],
            "dashboard": {
                "username": "platform", "port": 6_185, "jwt_secret": format!("{SEED}4"), "password": format!("{SEED}5"),
                "pbkdf2_password": format!("{SEED}6"), "totp": {"enable": false, "secret": format!("{SEED}7")},
            },
            "provider_sources": sources,
            "provider": [{"id": "platform/fast", "provider_source_id": "platform", "model": "fast"}],
            "provider_settings": {"computer_use_runtime": "none", "anything": tree.clone()},
            "anything": tree,
        });
        if full {
            config["pypi_index_url"] = json!("");
            config["t2i_endpoint"] = json!("http://127.0.0.1:9/text2img");
        }
        config
    })
}

proptest! {
    #[test]
    fn no_secret_of_the_platform_survives(config in config()) {
        for path in ["/api/v1/system-config", "/api/v1/config-profiles/default?x=1", "/api/config/get"] {
            let answer = json!({"status": "ok", "data": {"config": config, "providers": [config["provider_sources"]]}});
            prop_assert!(!mask_answer(path, answer).to_string().contains(SEED));
        }
    }

    #[test]
    fn what_was_masked_comes_back(config in config()) {
        let mut shown = config.clone();
        mask_platform(&mut shown);
        let mut written = shown.clone();
        restore(&mut written, &config);
        prop_assert_eq!(&written, &config);

        mask_secrets(&mut shown);
        restore(&mut shown, &config);
        prop_assert_eq!(&shown, &config);
    }

    #[test]
    fn what_is_the_platforms_cannot_be_changed(config in config(), other in config(), extra in any::<bool>()) {
        let mut written = other;
        written["admins_id"] = json!(["mallory"]);
        written["provider_settings"]["computer_use_runtime"] = json!("local");
        written["dashboard"] = json!({"jwt_secret": "known"});
        written["t2i_endpoint"] = json!("http://elsewhere");
        if extra {
            written["provider_sources"] = json!([{"id": "platform", "key": ["***"], "api_base": "http://elsewhere"}]);
            written["provider"] = json!([{"id": "platform/other"}]);
        }
        restore(&mut written, &config);
        for path in OWNED_PATHS {
            prop_assert_eq!(at(&written, path), at(&config, path));
        }
        let platform = |config: &Value| {
            let sources = config["provider_sources"].as_array().cloned().unwrap_or_default();
            sources.into_iter().filter(is_platform_source).collect::<Vec<_>>()
        };
        prop_assert_eq!(platform(&written), platform(&config));
        prop_assert_eq!(&written["provider"], &config["provider"]);
    }
}

#[test]
fn a_secret_goes_to_none_that_takes_its_owners_place() {
    let config = json!({
        "provider_sources": [{"id": "platform", "key": [SEED], "api_base": "http://in"}],
        "provider": [{"id": "platform/fast", "provider_source_id": "platform"}],
    });
    let mut written = json!({
        "provider_sources": [{"key": ["***"], "api_base": "http://elsewhere"}],
        "provider": [{"id": "own", "provider_source_id": "platform", "api_base": "http://elsewhere"}],
    });
    restore(&mut written, &config);
    assert_eq!(written["provider_sources"][1]["key"], json!(["***"]), "{written}");
    assert_eq!(written["provider_sources"][0], config["provider_sources"][0]);
    assert_eq!(written["provider"], config["provider"]);
}

#[test]
fn a_provider_as_the_bot_shows_it_has_no_key_of_ours() {
    let answer = json!({"data": {"providers": [
        {"id": "platform/fast", "provider_source_id": "platform", "model": "fast", "key": ["k"], "api_base": "http://in"},
        {"id": "own/a", "provider_source_id": "own", "key": ["theirs"]},
    ]}});
    let shown = mask_answer("/api/v1/providers?enabled=true", answer);
    let expected = json!({"data": {"providers": [
        {"id": "platform/fast", "provider_source_id": "platform", "model": "fast", "key": ["***"], "api_base": "***"},
        {"id": "own/a", "provider_source_id": "own", "key": ["theirs"]},
    ]}});
    assert_eq!(shown, expected);
}

#[test]
fn names_of_secrets_are_known_and_others_are_not() {
    for name in [
        "telegram_token",
        "secret",
        "app_secret",
        "lark_encrypt_key",
        "encoding_aes_key",
        "websearch_tavily_key",
        "msg_push_webhook_url",
        "signing_secret",
        "wecomaibot_ws_secret",
        "key",
        "cua_api_key",
        "moonshotai_api_key",
    ] {
        assert!(is_secret(name), "{name}");
    }
    for name in ["id", "type", "webhook_uuid", "extra_keywords", "monkey", "telegram_api_base_url", "appid", "corpid"] {
        assert!(!is_secret(name), "{name}");
    }
}

#[test]
fn other_paths_are_left_alone() {
    for path in ["/api/v1/chat", "/api/v1/system-configuration", "/api/v1/bots", "/"] {
        assert!(!holds_platform_values(path), "{path}");
        let body = json!({"dashboard": {"jwt_secret": "x"}});
        assert_eq!(mask_answer(path, body.clone()), body);
    }
}
