//! A Telegram Bot API server for the real adapters of real bots: people write to it, bots answer through it, and it can
//! redeliver, reorder, refuse and cut as the real one does. It must answer in the documented shapes
//! (<https://core.telegram.org/bots/api>), knows one bot per token, and never calls out.

mod methods;
mod state;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{any, get},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use self::state::State;
pub use self::state::{Draft, Sent, Written};
use crate::background::Background;

/// How long a wait may last before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// As large as a file that a bot may send.
const BODY_BYTES_MAX: usize = 50 << 20;

/// One call of a bot, as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// For example `sendMessage`.
    pub method: String,
    /// Its parameters: texts when they came as a form.
    pub parameters: Map<String, Value>,
}

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection is cut and the call has had no effect.
    CutBefore,
    /// The call has its effect, and the connection is cut instead of an answer.
    CutAfter,
    /// The call is refused with this status; 429 asks to wait for a second.
    Refuse(u16),
}

/// The running server; stopped when dropped.
pub struct FakeTelegram {
    bots: Arc<Bots>,
    server: Background,
}

#[derive(Default)]
struct Bots(Mutex<HashMap<String, Bot>>);

impl FakeTelegram {
    /// Starts on a free port of the loopback address, with no bot yet.
    #[must_use]
    pub fn start() -> Self {
        let bots = Arc::new(Bots::default());
        let router = Router::new()
            .route("/{bot}/{method}", any(methods::call))
            .route("/file/{bot}/{*path}", get(methods::file))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(Arc::clone(&bots));
        Self { bots, server: Background::start(SocketAddr::from(([127, 0, 0, 1], 0)), router) }
    }

    /// What `telegram_api_base_url` has to be.
    #[must_use]
    pub fn api_base_url(&self) -> String {
        format!("http://{}/bot", self.server.address())
    }

    /// What `telegram_file_base_url` has to be.
    #[must_use]
    pub fn file_base_url(&self) -> String {
        format!("http://{}/file/bot", self.server.address())
    }

    /// The bot of a token, for example `42:abc`; every other token is refused with 401.
    #[must_use]
    pub fn bot(&self, token: &str) -> Bot {
        let mut bots = self.bots.0.lock().unwrap();
        bots.entry(token.to_owned()).or_insert_with(|| Bot::new(token)).clone()
    }

    /// The entry of `AstrBot`'s `platform` list that connects a bot to this server.
    #[must_use]
    pub fn platform_entry(&self, id: &str, token: &str) -> Value {
        json!({"id": id, "type": "telegram", "enable": true, "telegram_token": token,
            "telegram_api_base_url": self.api_base_url(), "telegram_file_base_url": self.file_base_url(),
            "telegram_command_register": true, "telegram_command_auto_refresh": false,
            "telegram_polling_restart_delay": 0.2})
    }

    /// Stops listening and cuts every connection, as an outage would.
    pub fn go_down(&mut self) {
        self.server.stop();
    }

    /// Listens again, at the same address, with the same bots and updates.
    pub fn come_back(&mut self) {
        self.server.resume();
    }
}

/// One bot as Telegram sees it: what people write to it, and what it sends.
#[derive(Clone)]
pub struct Bot(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Ticks whenever the state has changed.
    changed: watch::Sender<u64>,
}

impl Bot {
    fn new(token: &str) -> Self {
        Self(Arc::new(Shared { state: Mutex::new(State::new(token)), changed: watch::Sender::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.0.changed.send_modify(|times| *times += 1);
        changed
    }

    /// A person writes to the bot. A chat with a negative id is a group.
    #[expect(clippy::must_use_candidate, reason = "most tests need no ids")]
    pub fn send_text(&self, chat_id: i64, from: &str, text: &str) -> Written {
        self.change(|state| state.write(chat_id, from, text))
    }

    /// A person sends a file: a picture when its name ends like one, a document otherwise.
    pub fn send_file(&self, chat_id: i64, from: &str, name: &str, content: impl Into<Bytes>, caption: &str) -> Written {
        self.change(|state| state.upload(chat_id, from, name, content.into(), caption))
    }

    /// Keeps what people write from now on, until [`Bot::flow`].
    pub fn hold(&self) {
        self.change(|state| state.held = true);
    }

    /// Turns the order of the messages that were not fetched yet around; their update ids go on rising.
    pub fn reorder(&self) {
        self.change(State::reorder);
    }

    /// Hands out what was held.
    pub fn flow(&self) {
        self.change(|state| state.held = false);
    }

    /// Hands out the last `count` fetched updates once more, with the same ids.
    pub fn redeliver(&self, count: usize) {
        self.change(|state| state.redeliver(count));
    }

    /// The next call of a method, for example `sendMessage`, goes wrong; several queue up.
    pub fn fail_next(&self, method: &str, failure: Failure) {
        self.change(|state| state.failures.push((method.to_owned(), failure)));
    }

    /// Every message of the bot as it stands now, edits included, oldest first.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.state().sent.clone()
    }

    /// Every draft the bot showed while an answer grew, oldest first.
    #[must_use]
    pub fn drafts(&self) -> Vec<Draft> {
        self.state().drafts.clone()
    }

    /// Every call of the bot, oldest first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.iter().cloned().collect()
    }

    /// How often two callers fetched updates at the same time: two processes with the same bot.
    #[must_use]
    pub fn conflicts(&self) -> usize {
        self.state().conflicts
    }

    /// Whether all that people wrote has been fetched and acknowledged.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.state().pending.is_empty()
    }

    /// Waits until what the bot has sent is as wanted, and returns it.
    ///
    /// # Panics
    /// When that takes longer than `timeout`.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&[Sent]) -> bool, timeout: Duration) -> Vec<Sent> {
        self.wait_until(|state| wanted(&state.sent), timeout).await;
        self.sent()
    }

    /// Waits for a message to a chat that contains a text, and returns it.
    ///
    /// # Panics
    /// When it does not come within a minute.
    pub async fn wait_for_text(&self, chat_id: i64, part: &str) -> Sent {
        let found = |sent: &Sent| sent.chat_id == chat_id && sent.text.contains(part);
        let sent = self.wait_for(|sent| sent.iter().any(found), PATIENCE).await;
        sent.into_iter().find(found).unwrap()
    }

    /// Waits until the bot waits for updates: it is connected.
    ///
    /// # Panics
    /// When that takes longer than `timeout`.
    pub async fn wait_until_polling(&self, timeout: Duration) {
        self.wait_until(|state| state.polling > 0, timeout).await;
    }

    /// Waits until everything that people wrote has been fetched and acknowledged.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub async fn wait_until_drained(&self) {
        self.wait_until(|state| state.pending.is_empty(), PATIENCE).await;
    }

    async fn wait_until(&self, mut wanted: impl FnMut(&State) -> bool, timeout: Duration) {
        let mut changed = self.0.changed.subscribe();
        let reached = tokio::time::timeout(timeout, changed.wait_for(|_| wanted(&self.state()))).await;
        if reached.is_err() {
            let seen = {
                let state = self.state();
                let last = state.sent.iter().rev().take(5).collect::<Vec<_>>();
                format!("sent last {last:?}, called last {:?}", state.last_methods())
            };
            panic!("the fake Telegram never got there: {seen}");
        }
    }
}

#[cfg(test)]
mod tests;
