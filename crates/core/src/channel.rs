//! Channels: the IM platforms that a bot serves. They live in the bot's own configuration; we never keep their secrets.

use serde::{Deserialize, Serialize};

/// One channel as it is shown. Secrets are write-only: they are never part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Channel {
    /// The bot's name of it: 1 to 32 of a-z, 0-9, `_` and `-`.
    pub id: String,
    /// The bot's name of the IM platform: `telegram`, `line`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the bot serves it.
    pub enabled: bool,
    /// Whether it works now.
    pub connected: bool,
    /// The bot's own word for its state: `running`, `error`, …
    pub status: String,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The path below our address where the IM platform delivers, for those that do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_path: Option<String>,
    /// Its settings. Every secret is replaced by `"***"`; sent back so, it stays as it is.
    #[schema(value_type = Object)]
    pub settings: serde_json::Value,
}
