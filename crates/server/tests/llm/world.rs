//! A platform whose bot asks fake providers.

use std::{collections::BTreeMap, time::Duration};

use astrfleet_core::{ports::Store as _, tenant::Tenant, time::Timestamp, usage::UsageRecord};
use astrfleet_server::config::{ServerConfig, UpstreamConfig};
use astrfleet_testkit::{
    app::{Answer, Caller, TestApp},
    fake_provider::FakeProvider,
};
use axum::{
    body::{Body, BodyDataStream},
    http::Response,
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

pub const CHAT: &str = "//llm/v1/chat/completions";
pub const PROVIDER_KEY: &str = "sk-provider-key-that-no-bot-may-see";
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn upstream(name: &str, provider: &FakeProvider) -> UpstreamConfig {
    UpstreamConfig {
        name: name.to_owned(),
        base_url: provider.url(),
        api_key: Some(PROVIDER_KEY.into()),
        models: BTreeMap::from([("mapped".to_owned(), format!("{name}-model"))]),
        timeout_s: 30,
    }
}

/// A platform with one tenant, whose bot asks.
pub struct World {
    pub app: TestApp,
    pub tenant: Tenant,
    pub bot: Caller,
}

impl World {
    pub async fn before(upstreams: Vec<UpstreamConfig>) -> Self {
        Self::configured(|config| config.llm.upstreams = upstreams).await
    }

    pub async fn configured(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let app = TestApp::configured(change).await;
        let tenant = app.tenant("acme").await;
        let bot = app.bot(&tenant).await;
        Self { app, tenant, bot }
    }

    pub async fn ask(&self, text: &str) -> Answer {
        self.app.post(&self.bot, CHAT, chat(text, false)).await
    }

    pub async fn stream(&self, text: &str) -> Response<Body> {
        self.stream_of(&chat(text, true)).await
    }

    pub async fn stream_of(&self, body: &Value) -> Response<Body> {
        self.app.post_raw(&self.bot, &CHAT[1..], body).await
    }

    /// The ledger, the oldest first, as soon as it has so many lines.
    pub async fn ledger(&self, lines: usize) -> Vec<UsageRecord> {
        let reading = async {
            loop {
                let page = astrfleet_core::page::PageRequest { limit: 100, after: None };
                let mut found = self.app.store.usage(&self.tenant.id).list(&page).await.unwrap().items;
                if found.len() >= lines {
                    found.reverse();
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, reading).await.expect("the ledger gets its lines");
        assert_eq!(found.len(), lines);
        found
    }

    pub async fn failure(&self) -> Option<String> {
        let instance = self.app.instance(&self.tenant).await;
        self.app.app.llm.failure_since(&instance.id, Timestamp::default()).map(|failure| failure.code)
    }
}

pub fn chat(text: &str, stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream})
}

pub async fn whole(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub async fn next(stream: &mut BodyDataStream) -> String {
    let piece = tokio::time::timeout(PATIENCE, stream.next()).await.expect("a piece comes");
    String::from_utf8(piece.unwrap().unwrap().to_vec()).unwrap()
}

/// The text of a stream's pieces.
pub fn text_of(stream: &str) -> String {
    let chunks = stream.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}
