//! What a bot says while it answers, in our words (its own are in the runtime crate).

use crate::message::TokenUsage;

/// What is asked of a bot.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// Whose words these are: the bot keeps a memory for each.
    pub end_user: String,
    /// Our session's id, which is the bot's too.
    pub session: String,
    /// The text.
    pub text: String,
    /// Files that the bot has already (see [`crate::ports::BotClient::upload`]), by the bot's own id and kind.
    pub attachments: Vec<BotAttachment>,
}

/// A file in the bot's keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BotAttachment {
    /// The bot's id of it.
    pub id: String,
    /// The bot's kind: `image`, `file`, `record` or `video`.
    pub kind: String,
}

/// One event of an answer. The stream's end is the answer's end, with or without `Complete`.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatEvent {
    /// The bot has stored the user's message under this number of its own: it must not be sent again.
    Received {
        /// The bot's number of it, growing within a session.
        record: i64,
    },
    /// A piece of the answer's text.
    Delta(String),
    /// The bot sent a file or image: its name in the bot's keeping.
    Attachment {
        /// How to fetch it (see [`crate::ports::BotClient::download`]).
        reference: String,
        /// The bot's kind: `image`, `file`, `record` or `video`.
        kind: String,
    },
    /// What the answer took. All zero where the model failed.
    Usage(TokenUsage),
    /// The whole text, which is right where the pieces were not.
    Complete(String),
    /// The bot has stored the answer under this number of its own.
    Saved {
        /// The bot's number of it.
        record: i64,
    },
    /// The bot says that it could not answer.
    Error(String),
}

/// A line of the bot's own memory of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRecord {
    /// The bot's number of it, growing within a session.
    pub record: i64,
    /// Written by the bot; otherwise by the user.
    pub from_bot: bool,
    /// Its text.
    pub text: String,
    /// What an answer took.
    pub usage: Option<TokenUsage>,
    /// It is no answer: the bot says that its model gave none.
    pub failed: bool,
}
