//! Where bots run ([`Runtime`]), and how one talks to them ([`Bots`], [`BotClient`]).

use bytes::Bytes;
use futures_util::stream::BoxStream;
use secrecy::SecretString;

use super::BlobStream;
use crate::{
    channel::Channel,
    chat::{BotAttachment, ChatEvent, ChatRequest, HistoryRecord},
    error::Result,
    id::{InstanceId, TenantId},
    time::Timestamp,
};

/// Everything that is needed to start a bot.
#[derive(Clone, Debug)]
pub struct BotSpec {
    /// Which.
    pub instance: InstanceId,
    /// Whose.
    pub tenant: TenantId,
    /// The tenant's name, for people who look at processes.
    pub tenant_name: String,
    /// This start's number: the process carries it, so that an older one is recognised.
    pub generation: i64,
    /// The loopback port it listens on.
    pub port: u16,
    /// Where its model is: the model gateway, with `/v1` at its end.
    pub llm_base_url: String,
    /// Its virtual key for the model gateway. Worth nothing anywhere else.
    pub llm_key: SecretString,
    /// The model that it asks for.
    pub model: String,
    /// What its own API's tokens are signed with.
    pub jwt_secret: SecretString,
    /// What it says where the model fails, for [`ChatEvent::Error`] to be recognised.
    pub failure_text: String,
    /// How it asks about messages of IM channels.
    pub bridge: BridgeSpec,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time, in thousandths of a core.
    pub cpu_milli: u32,
    /// Stands for all of the above that its process keeps to its end. One that was started on other terms is not the one
    /// that is wanted. Says nothing to who reads it.
    pub terms: String,
}

/// What the bridge in a bot needs.
#[derive(Clone, Debug)]
pub struct BridgeSpec {
    /// Where it asks, with `/v1` at its end.
    pub url: String,
    /// The bot's own token for that. Worth nothing anywhere else, and for no other tenant.
    pub token: SecretString,
    /// What the bot does while nobody answers there.
    pub when_away: WhenAway,
}

/// What a bot does with messages of IM channels while the platform is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAway {
    /// It answers, and tells later.
    #[default]
    Answer,
    /// It says nothing, and tells later what came.
    Silent,
}

impl WhenAway {
    /// As the configuration has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Silent => "silent",
        }
    }
}

/// What a driver sees of one bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BotStatus {
    /// No process.
    Absent,
    /// A process runs.
    Running {
        /// The start it belongs to.
        generation: i64,
        /// Where it listens.
        port: u16,
        /// Resident memory, in bytes.
        memory_bytes: u64,
        /// Since when.
        since: Timestamp,
    },
    /// Its process ended and nobody asked it to.
    Exited {
        /// The start it belonged to.
        generation: i64,
        /// How: an exit code or a signal, for people.
        how: String,
        /// Its last lines.
        last_words: String,
    },
}

/// A bot that was found running, for adoption after the platform itself was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBot {
    /// Which.
    pub instance: InstanceId,
    /// The start it belongs to.
    pub generation: i64,
    /// Where it listens.
    pub port: u16,
    /// [`BotSpec::terms`] of its start.
    pub terms: String,
}

/// A line of a bot's log, without colour codes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct LogLine {
    /// When it was captured.
    pub at: Timestamp,
    /// The text, at most 8 KiB.
    pub line: String,
}

/// Lines as they come.
pub type LogStream = BoxStream<'static, LogLine>;

/// Starts and stops bots. There is at most one process of a bot, ever: a driver refuses to start a second one.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync {
    /// The version of the `AstrBots` that it starts.
    fn astrbot_version(&self) -> &str;
    /// The version of the bridge that it places in them.
    fn bridge_version(&self) -> &str;
    /// Bots that run already, left by an earlier run of the platform. Asked once, before anything is started.
    async fn find(&self) -> Result<Vec<FoundBot>>;
    /// Writes its configuration and starts its process. Does not wait until it is ready.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where a process of it runs; [`crate::Error::Unavailable`] with the remedy otherwise.
    async fn start(&self, spec: &BotSpec) -> Result<()>;
    /// Lets it finish and ends its process; by force when it does not end in time. What does not run is stopped already.
    async fn stop(&self, instance: &InstanceId) -> Result<()>;
    /// Looks.
    async fn status(&self, instance: &InstanceId) -> Result<BotStatus>;
    /// The last `count` lines of its log, the newest last.
    async fn log(&self, instance: &InstanceId, count: usize) -> Result<Vec<LogLine>>;
    /// The lines of its log from now on.
    async fn follow_log(&self, instance: &InstanceId) -> Result<LogStream>;
    /// Erases all data of a bot that does not run.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where it runs.
    async fn erase(&self, instance: &InstanceId) -> Result<()>;
    /// A port that no process listens on and that is none of `taken`.
    async fn free_port(&self, taken: &[u16]) -> Result<u16>;
}

/// What it takes to talk to a bot.
#[derive(Clone, Debug)]
pub struct BotAccess {
    /// Which.
    pub instance: InstanceId,
    /// Its address: `http://127.0.0.1:16185`.
    pub base_url: String,
    /// What its tokens are signed with.
    pub jwt_secret: SecretString,
}

/// Talks to bots.
pub trait Bots: Send + Sync {
    /// A client of one bot. Cheap.
    fn client(&self, access: &BotAccess) -> Box<dyn BotClient>;
    /// A short-lived token of the bot's own API for a person's name: for the gateway alone, never for a browser.
    /// It may do everything with the bot.
    ///
    /// # Errors
    /// [`crate::Error::Internal`].
    fn token(&self, access: &BotAccess, person: &str) -> Result<SecretString>;
    /// Whether what is read and written under this path of the bot's own API may hold values of the platform: its
    /// answers go through [`Bots::mask_dashboard_answer`], its requests through
    /// [`BotClient::restore_dashboard_request`].
    fn holds_platform_values(&self, path: &str) -> bool;
    /// An answer of the bot's own API without the platform's secrets in it: each is `"***"`.
    fn mask_dashboard_answer(&self, path: &str, body: serde_json::Value) -> serde_json::Value;
}

/// An answer as it comes.
pub type ChatStream = BoxStream<'static, Result<ChatEvent>>;

/// A file that a bot sent.
pub struct BotFile {
    /// Its name, without any folder.
    pub name: String,
    /// Such as `image/png`.
    pub media_type: String,
    /// Its content.
    pub content: BlobStream,
}

/// A channel as it is to be.
#[derive(Clone, Debug)]
pub struct ChannelDraft {
    /// 1 to 32 of a-z, 0-9, `_` and `-`.
    pub id: String,
    /// The bot's name of the IM platform.
    pub kind: String,
    /// Whether the bot is to serve it.
    pub enabled: bool,
    /// Its settings, secrets included. On a change, a secret that is `"***"` stays as it is.
    pub settings: serde_json::Value,
}

/// One running bot. Every call has a time limit; [`crate::Error::Unavailable`] where it does not answer.
#[async_trait::async_trait]
pub trait BotClient: Send + Sync {
    /// Whether it answers.
    async fn is_ready(&self) -> bool;
    /// Gives a bot that is ready what only its API can set: what it says where the model fails. Called after every
    /// start; the second time changes nothing.
    async fn prepare(&self) -> Result<()>;
    /// Asks. Dropping the stream does not stop the bot: see [`BotClient::stop_chat`].
    async fn chat(&self, request: ChatRequest) -> Result<ChatStream>;
    /// Stops the answer that is being given in a session.
    async fn stop_chat(&self, end_user: &str, session: &str) -> Result<()>;
    /// The bot's own memory of a session, the oldest first; empty where it has none.
    async fn history(&self, end_user: &str, session: &str) -> Result<Vec<HistoryRecord>>;
    /// Gives the bot a file.
    async fn upload(&self, end_user: &str, name: &str, media_type: &str, content: Bytes) -> Result<BotAttachment>;
    /// Fetches a file that it sent.
    async fn download(&self, end_user: &str, reference: &str) -> Result<BotFile>;
    /// Says something in a conversation of an IM channel, by its `umo`. Twice is said twice.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] in the bot's own words where it cannot.
    async fn say(&self, umo: &str, text: &str) -> Result<()>;
    /// Its configuration, with the platform's own part masked.
    async fn config(&self) -> Result<serde_json::Value>;
    /// Changes its configuration by a JSON merge patch (RFC 7386); takes effect at once. Returns it as it is then.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a patch that touches what is the platform's.
    async fn change_config(&self, patch: &serde_json::Value) -> Result<serde_json::Value>;
    /// A request of a signed-in person to the bot's own API, with the platform's values put back where the body has a
    /// mask or something else. `path` has its query with it; a request without a body has `null`.
    ///
    /// # Errors
    /// [`crate::Error::Forbidden`] where the request is about nothing but what is the platform's.
    async fn restore_dashboard_request(
        &self,
        method: &str,
        path: &str,
        body: serde_json::Value,
    ) -> Result<serde_json::Value>;
    /// Its channels.
    async fn channels(&self) -> Result<Vec<Channel>>;
    /// Adds a channel, which begins to work at once.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] where the id is taken.
    async fn add_channel(&self, draft: ChannelDraft) -> Result<Channel>;
    /// Changes a channel.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn change_channel(&self, draft: ChannelDraft) -> Result<Channel>;
    /// Deletes a channel.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn delete_channel(&self, id: &str) -> Result<()>;
    /// Tries a channel: whether the IM platform accepts its settings, in words for people.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    async fn test_channel(&self, id: &str) -> Result<(bool, String)>;
}
