//! `POST /bridge/v1/sent`: what went out, or why nothing did.

use astrfleet_core::{Error, id::MessageId, message::TokenUsage};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    bridge::{
        AskingBot,
        arrive::Number,
        depart::{Departed, Departure},
    },
    extract::Body,
    problem::Problem,
};

/// What became of an answer.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::bridge) struct NewSent {
    /// The bot's name of the conversation.
    umo: String,
    /// The IM platform's own number of the message that was answered; missing where the bot spoke by itself.
    platform_message_id: Option<String>,
    /// Names what is told: told again under the same, it is stored once.
    told_id: String,
    /// What became of it.
    outcome: Departure,
    /// What went out, at most 128 KiB.
    #[serde(default)]
    text: String,
    /// What the answer took, where the bot knows.
    usage: Option<TokenUsage>,
}

/// What is stored of it.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::bridge) struct Noted {
    /// The answer; missing where nothing went out.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
}

/// Tell what went out
///
/// The answer is stored together with the end of the message that it answers. What goes out after that end, or after
/// another answer, or by itself, is stored as a message of its own: it was said.
#[utoipa::path(
    post, path = "/bridge/v1/sent", tag = "bridge", operation_id = "bridge_sent",
    request_body = NewSent,
    responses(
        (status = 200, body = Noted),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem, description = "There is no such message, or no such conversation"),
        (status = 413, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem),
    ),
    security(("bridge_token" = [])),
)]
#[tracing::instrument(skip_all, name = "bridge_sent")]
pub(in crate::bridge) async fn handler(
    State(app): State<App>,
    bot: AskingBot,
    Body(body): Body<NewSent>,
) -> Result<Json<Noted>, Problem> {
    let Some(message) = body.platform_message_id else {
        if body.outcome != Departure::Sent {
            return Err(Error::invalid("outcome", "must be sent, where no message was answered").into());
        }
        let message_id = app.bridge.spoken(&bot, &body.umo, &body.told_id, body.text).await?;
        return Ok(Json(Noted { message_id }));
    };
    let departed = Departed {
        number: Number { umo: body.umo, message },
        told: body.told_id,
        outcome: body.outcome,
        text: body.text,
        usage: body.usage,
    };
    Ok(Json(Noted { message_id: app.bridge.departed(&bot, departed).await? }))
}
