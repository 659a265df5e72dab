//! `POST /bridge/v1/outbound`: may this answer still go out?

use astrfleet_core::{Error, bridge::Late};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    bridge::{AskingBot, arrive::Number},
    extract::Body,
    problem::Problem,
};

/// An answer that is about to go out.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::bridge) struct NewOutbound {
    /// The bot's name of the conversation.
    umo: String,
    /// The IM platform's own number of the message that it answers; missing where the bot speaks by itself.
    platform_message_id: Option<String>,
    /// As `inbound` gave it; missing where the bot speaks by itself.
    generation: Option<i64>,
}

/// Whether it may.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::bridge) struct Permission {
    send: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Late>,
}

/// Ask whether an answer may still go out
///
/// It may not where a person has taken the session over since the message came, where the session was closed, or where
/// the message was stopped. What answers no message may go out where the bot answers in an open session.
#[utoipa::path(
    post, path = "/bridge/v1/outbound", tag = "bridge", operation_id = "bridge_outbound",
    request_body = NewOutbound,
    responses(
        (status = 200, body = Permission),
        (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem, description = "There is no such message, or no such conversation"),
        (status = 429, body = Problem), (status = 503, body = Problem),
    ),
    security(("bridge_token" = [])),
)]
#[tracing::instrument(skip_all, name = "bridge_outbound")]
pub(in crate::bridge) async fn handler(
    State(app): State<App>,
    bot: AskingBot,
    Body(body): Body<NewOutbound>,
) -> Result<Json<Permission>, Problem> {
    let reason = match (body.platform_message_id, body.generation) {
        (Some(message), Some(generation)) => {
            app.bridge.may_depart(&bot, &Number { umo: body.umo, message }, generation).await?
        }
        (None, None) => app.bridge.may_speak(&bot, &body.umo).await?,
        _ => return Err(Error::invalid("generation", "must come with the message, or without both").into()),
    };
    Ok(Json(Permission { send: reason.is_none(), reason }))
}
