//! `POST /bridge/v1/inbound`: a channel brought a message.

use astrfleet_core::{bridge::Verdict, id::MessageId, message::Sender};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    bridge::{
        AskingBot,
        arrive::{Arrived, Meanwhile, Number, Part},
    },
    context,
    extract::Body,
    problem::Problem,
};

/// A message that a channel brought.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::bridge) struct NewInbound {
    /// The id of the channel.
    channel: String,
    /// The bot's name of the conversation; begins with the channel.
    umo: String,
    /// The IM platform's own number of the message, 1 to 256 bytes. Together with `umo` it makes the message one.
    platform_message_id: String,
    /// One word for each time that the bot got the message: asked again with the same, the answer is the same.
    delivery: String,
    /// The number of the bot's start.
    start: i64,
    /// Who wrote.
    sender: Sender,
    /// At most 32 KiB.
    #[serde(default)]
    text: String,
    /// What is no text, at most 20.
    #[serde(default)]
    parts: Vec<Part>,
    /// Whether the bot is meant: in a group, people also talk to each other.
    addressed: bool,
    /// What the bot did with it while the platform was away; only of what is told later.
    late: Option<Meanwhile>,
    /// When it came, in milliseconds since 1970; only of what is told later.
    received_at_ms: Option<i64>,
}

/// What the bot is to do.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::bridge) struct Judged {
    verdict: Verdict,
    /// Why it is to be silent: `person`, `duplicate`, `blocked`, `quota_exceeded`, `tenant_not_served`, `ended`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// As it is stored; missing where nothing of it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
    /// To be shown with the answer: whoever answers by then may be somebody else.
    generation: i64,
}

/// Ask what to do with a message of a channel
///
/// It is durable when the answer comes. The same message is stored once, however often it is told of; only the first who
/// tells of it may answer it, or a later start of the bot where an earlier one has left it.
#[utoipa::path(
    post, path = "/bridge/v1/inbound", tag = "bridge", operation_id = "bridge_inbound",
    request_body = NewInbound,
    responses(
        (status = 200, body = Judged),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 413, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem),
    ),
    security(("bridge_token" = [])),
)]
#[tracing::instrument(skip_all, name = "bridge_inbound")]
pub(in crate::bridge) async fn handler(
    State(app): State<App>,
    bot: AskingBot,
    Body(body): Body<NewInbound>,
) -> Result<Json<Judged>, Problem> {
    let arrived = Arrived {
        channel: body.channel,
        number: Number { umo: body.umo, message: body.platform_message_id },
        delivery: body.delivery,
        start: body.start,
        sender: body.sender,
        text: body.text,
        parts: body.parts,
        addressed: body.addressed,
        late: body.late,
        received_at_ms: body.received_at_ms,
    };
    let answer = app.bridge.arrive(&bot, arrived).await?;
    context::note(|known| known.message.clone_from(&answer.message));
    Ok(Json(Judged {
        verdict: answer.verdict,
        reason: answer.reason,
        message_id: answer.message,
        generation: answer.generation,
    }))
}
