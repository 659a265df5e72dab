//! `/api/v1/tenants/{tenant}/sessions/{session}/messages` and `/api/v1/tenants/{tenant}/attachments`. One file per
//! endpoint.

mod download;
mod get;
mod list;
mod send;
mod sse;
mod stop;
mod upload;

pub(super) use self::sse::position;

use astrfleet_core::{
    Result,
    id::{MessageId, SessionId},
    message::{Exchange, Message, TokenUsage},
};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{app::App, context};

/// The routes of this folder.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(send::handler, list::handler))
        .routes(routes!(get::handler))
        .routes(routes!(stop::handler))
        .routes(routes!(upload::handler))
        .routes(routes!(download::handler))
}

/// A message, what was answered, and what that took.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Answered {
    /// What was asked.
    message: Message,
    /// What was answered, whole or as far as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Message>,
    /// Tokens that the answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<TokenUsage>,
}

impl From<Exchange> for Answered {
    fn from(exchange: Exchange) -> Self {
        let usage = exchange.reply.as_ref().and_then(|reply| reply.usage);
        Self { message: exchange.message, reply: exchange.reply, usage }
    }
}

/// Reads the ids of a path, and notes them for the log.
fn ids(session: &str, message: Option<&str>) -> Result<(SessionId, Option<MessageId>)> {
    let session = SessionId::parse(session)?;
    let message = message.map(MessageId::parse).transpose()?;
    context::note(|known| {
        known.session = Some(session.clone());
        known.message.clone_from(&message);
    });
    Ok((session, message))
}
