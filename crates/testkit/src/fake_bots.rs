//! Bots that answer as a test's script says. Without a script they repeat what they are told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use astrfleet_core::{
    Error, Result,
    channel::Channel,
    chat::{BotAttachment, ChatEvent, ChatRequest, HistoryRecord},
    id::InstanceId,
    message::TokenUsage,
    ports::{BotAccess, BotClient, BotFile, Bots, ChannelDraft, ChatStream},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::watch;

/// All bots of a test.
pub struct FakeBots(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// While it is set, no chat goes on behind its first event.
    held: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    unready: bool,
    when_asked: Option<Arc<dyn Fn() + Send + Sync>>,
    script: VecDeque<Result<Vec<ChatEvent>>>,
    asked: Vec<ChatRequest>,
    stopped: Vec<String>,
    records: i64,
    history: BTreeMap<String, Vec<HistoryRecord>>,
    /// Of each bot its own, by its id and theirs.
    channels: BTreeMap<(InstanceId, String), Channel>,
    config: Value,
    files: BTreeMap<String, (String, String, Bytes)>,
    prepared: u32,
    said: Vec<(String, String)>,
}

impl Default for FakeBots {
    fn default() -> Self {
        let state = State { config: json!({"persona": "default"}), ..State::default() };
        Self(Arc::new(Shared { state: Mutex::new(state), held: watch::Sender::new(false) }))
    }
}

impl FakeBots {
    /// Whether bots answer at all. They do, until told otherwise.
    pub fn set_ready(&self, ready: bool) {
        self.0.with(|state| state.unready = !ready);
    }

    /// What happens while a bot is asked whether it is ready, before it answers.
    pub fn when_asked(&self, happening: impl Fn() + Send + Sync + 'static) {
        self.0.with(|state| state.when_asked = Some(Arc::new(happening)));
    }

    /// The next chat that has no script yet goes like this; its stream ends after the last event.
    pub fn next_answer(&self, events: Vec<ChatEvent>) {
        self.0.with(|state| state.script.push_back(Ok(events)));
    }

    /// The next chat that has no script yet fails before its first event.
    pub fn next_fails(&self, error: Error) {
        self.0.with(|state| state.script.push_back(Err(error)));
    }

    /// From now on, chats wait behind their first event.
    pub fn hold(&self) {
        self.0.held.send_replace(true);
    }

    /// Lets them go on.
    pub fn release(&self) {
        self.0.held.send_replace(false);
    }

    /// What bots were asked, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<ChatRequest> {
        self.0.with(|state| state.asked.clone())
    }

    /// The sessions in which an answer was stopped.
    #[must_use]
    pub fn stopped(&self) -> Vec<String> {
        self.0.with(|state| state.stopped.clone())
    }

    /// How often bots were prepared.
    #[must_use]
    pub fn prepared(&self) -> u32 {
        self.0.with(|state| state.prepared)
    }

    /// What people said through bots into conversations of IM channels, in order.
    #[must_use]
    pub fn said(&self) -> Vec<(String, String)> {
        self.0.with(|state| state.said.clone())
    }

    /// The ids of all channels that bots have, in order.
    #[must_use]
    pub fn channels(&self) -> Vec<String> {
        self.0.with(|state| state.channels.values().map(|channel| channel.id.clone()).collect())
    }

    /// What the bot remembers of a session.
    pub fn set_history(&self, session: &str, history: Vec<HistoryRecord>) {
        self.0.with(|state| state.history.insert(session.to_owned(), history));
    }
}

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Bots for FakeBots {
    fn client(&self, access: &BotAccess) -> Box<dyn BotClient> {
        Box::new(FakeBot(Arc::clone(&self.0), access.instance.clone()))
    }

    fn token(&self, access: &BotAccess, person: &str) -> Result<SecretString> {
        Ok(format!("token-of-{person}-for-{}", access.instance).into())
    }

    fn holds_platform_values(&self, path: &str) -> bool {
        path.contains("system-config") || path.contains("provider-sources")
    }

    fn mask_dashboard_answer(&self, _: &str, mut body: Value) -> Value {
        body["masked"] = true.into();
        body
    }
}

struct FakeBot(Arc<Shared>, InstanceId);

/// What a bot says without a script.
fn echo(request: &ChatRequest, records: &mut i64) -> Vec<ChatEvent> {
    let text = format!("You said: {}", request.text);
    *records += 2;
    vec![
        ChatEvent::Received { record: *records - 1 },
        ChatEvent::Delta("You said: ".to_owned()),
        ChatEvent::Delta(request.text.clone()),
        ChatEvent::Usage(TokenUsage { prompt_tokens: 7, completion_tokens: 5 }),
        ChatEvent::Complete(text),
        ChatEvent::Saved { record: *records },
    ]
}

impl FakeBot {
    /// Where a channel of this bot is kept.
    fn key(&self, channel: &str) -> (InstanceId, String) {
        (self.1.clone(), channel.to_owned())
    }
}

#[async_trait]
impl BotClient for FakeBot {
    async fn is_ready(&self) -> bool {
        if let Some(happening) = self.0.with(|state| state.when_asked.clone()) {
            happening();
        }
        self.0.with(|state| !state.unready)
    }

    async fn prepare(&self) -> Result<()> {
        self.0.with(|state| state.prepared += 1);
        Ok(())
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        let events = self.0.with(|state| {
            state.asked.push(request.clone());
            if state.unready {
                return Err(Error::unavailable("the bot", "it does not answer"));
            }
            let State { script, records, .. } = state;
            script.pop_front().unwrap_or_else(|| Ok(echo(&request, records)))
        })?;
        let held = self.0.held.subscribe();
        let events = stream::iter(events.into_iter().enumerate()).then(move |(number, event)| {
            let mut held = held.clone();
            async move {
                if number > 0 {
                    held.wait_for(|held| !held).await.ok();
                }
                Ok(event)
            }
        });
        Ok(events.boxed())
    }

    async fn stop_chat(&self, _: &str, session: &str) -> Result<()> {
        self.0.with(|state| state.stopped.push(session.to_owned()));
        Ok(())
    }

    async fn history(&self, _: &str, session: &str) -> Result<Vec<HistoryRecord>> {
        Ok(self.0.with(|state| state.history.get(session).cloned().unwrap_or_default()))
    }

    async fn upload(&self, _: &str, name: &str, media_type: &str, content: Bytes) -> Result<BotAttachment> {
        Ok(self.0.with(|state| {
            let id = format!("file-{}", state.files.len() + 1);
            state.files.insert(id.clone(), (name.to_owned(), media_type.to_owned(), content));
            BotAttachment { id, kind: "file".to_owned() }
        }))
    }

    async fn download(&self, _: &str, reference: &str) -> Result<BotFile> {
        let file = self.0.with(|state| state.files.get(reference).cloned());
        let (name, media_type, content) = file.ok_or(Error::NotFound { what: "file" })?;
        Ok(BotFile { name, media_type, content: stream::iter([Ok(content)]).boxed() })
    }

    async fn say(&self, umo: &str, text: &str) -> Result<()> {
        self.0.with(|state| {
            if state.unready {
                return Err(Error::unavailable("the bot", "it does not answer"));
            }
            state.said.push((umo.to_owned(), text.to_owned()));
            Ok(())
        })
    }

    async fn config(&self) -> Result<Value> {
        Ok(self.0.with(|state| state.config.clone()))
    }

    async fn change_config(&self, patch: &Value) -> Result<Value> {
        Ok(self.0.with(|state| {
            if let (Some(config), Some(patch)) = (state.config.as_object_mut(), patch.as_object()) {
                config.extend(patch.clone());
            }
            state.config.clone()
        }))
    }

    async fn restore_dashboard_request(&self, method: &str, _: &str, mut body: Value) -> Result<Value> {
        if method == "GET" {
            return Ok(body);
        }
        body["restored"] = true.into();
        Ok(body)
    }

    async fn channels(&self) -> Result<Vec<Channel>> {
        Ok(self.0.with(|state| {
            let own = state.channels.iter().filter(|((bot, _), _)| *bot == self.1);
            own.map(|(_, channel)| channel.clone()).collect()
        }))
    }

    async fn add_channel(&self, draft: ChannelDraft) -> Result<Channel> {
        self.0.with(|state| {
            let key = self.key(&draft.id);
            if state.channels.contains_key(&key) {
                return Err(Error::conflict("a channel of this id exists"));
            }
            let channel = channel(draft);
            state.channels.insert(key, channel.clone());
            Ok(channel)
        })
    }

    async fn change_channel(&self, draft: ChannelDraft) -> Result<Channel> {
        self.0.with(|state| {
            let known = state.channels.get_mut(&self.key(&draft.id)).ok_or(Error::NotFound { what: "channel" })?;
            *known = channel(draft);
            Ok(known.clone())
        })
    }

    async fn delete_channel(&self, id: &str) -> Result<()> {
        self.0.with(|state| state.channels.remove(&self.key(id))).map(drop).ok_or(Error::NotFound { what: "channel" })
    }

    async fn test_channel(&self, id: &str) -> Result<(bool, String)> {
        let known = self.0.with(|state| state.channels.contains_key(&self.key(id)));
        if known { Ok((true, "it answers".to_owned())) } else { Err(Error::NotFound { what: "channel" }) }
    }
}

/// A channel as it is shown: every text of its settings whose name speaks of a secret is masked.
fn channel(draft: ChannelDraft) -> Channel {
    let mut settings = draft.settings;
    for (name, value) in settings.as_object_mut().into_iter().flatten() {
        if value.is_string() && (name.contains("token") || name.contains("secret")) {
            *value = json!("***");
        }
    }
    let status = if draft.enabled { "running" } else { "stopped" };
    Channel {
        id: draft.id,
        kind: draft.kind,
        enabled: draft.enabled,
        connected: draft.enabled,
        status: status.to_owned(),
        last_error: None,
        webhook_path: None,
        settings,
    }
}
