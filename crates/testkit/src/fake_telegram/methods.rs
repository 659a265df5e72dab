//! The methods of the Bot API that bots call, from the request's bytes to the answer's. What a bot is, is in `state`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Form, Json,
    body::Body,
    extract::{FromRequest, Multipart, Path, Query, Request, State as Extract},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    Bot, Bots, Call, Draft, Failure, Sent,
    state::{as_read, chat},
};

/// No caller waits longer for updates than this; Telegram's own limit.
const POLL_S_MAX: i64 = 50;
/// Telegram's limit for a message.
const TEXT_CHARS_MAX: usize = 4_096;
/// How long an overtaken poll stays before it says so: a client that went away is noticed meanwhile.
const OVERTAKEN: Duration = Duration::from_millis(200);

impl Bots {
    /// The bot of a path's first part, `bot<token>`.
    fn known(&self, part: &str) -> Option<Bot> {
        self.0.lock().unwrap().get(part.strip_prefix("bot")?).cloned()
    }
}

/// What a call comes to: a result, or a status and its description.
type Answer = Result<Value, (u16, String)>;

/// One call: `/bot<token>/<method>`.
pub(super) async fn call(
    Extract(bots): Extract<Arc<Bots>>,
    Path((bot, method)): Path<(String, String)>,
    request: Request,
) -> Response {
    let Some(bot) = bots.known(&bot) else { return answer(Err((401, "Unauthorized".to_owned()))) };
    let parameters = match parameters(request).await {
        Ok(parameters) => parameters,
        Err(reason) => return answer(Err((400, format!("Bad Request: {reason}")))),
    };
    let call = Call { method, parameters };
    let failure = bot.change(|state| {
        state.record(call.clone());
        state.take_failure(&call.method)
    });
    match failure {
        Some(Failure::CutBefore) => cut(),
        Some(Failure::Refuse(status)) => answer(Err((status, format!("told to answer {status}")))),
        Some(Failure::CutAfter) => {
            perform(&bot, &call).await.ok();
            cut()
        }
        None => answer(perform(&bot, &call).await),
    }
}

/// A file that a person sent: `/file/bot<token>/<path>`.
pub(super) async fn file(
    Extract(bots): Extract<Arc<Bots>>,
    Path((bot, path)): Path<(String, String)>,
) -> Result<Bytes, StatusCode> {
    let bot = bots.known(&bot).ok_or(StatusCode::UNAUTHORIZED)?;
    let content = bot.state().files.get(&path).cloned();
    content.ok_or(StatusCode::NOT_FOUND)
}

async fn perform(bot: &Bot, call: &Call) -> Answer {
    match call.method.as_str() {
        "getUpdates" => get_updates(bot, call).await,
        "getMe" => {
            let state = bot.state();
            Ok(json!({"id": state.bot_id, "is_bot": true, "first_name": "Fake", "username": state.username(),
                "can_join_groups": true, "can_read_all_group_messages": true, "supports_inline_queries": false,
                "can_connect_to_business": false, "has_main_web_app": false}))
        }
        "sendMessage" => send_message(bot, call),
        "sendPhoto" | "sendDocument" | "sendVoice" | "sendVideo" | "sendAnimation" | "sendAudio" => {
            Ok(send(bot, call, call.text("caption").unwrap_or_default()))
        }
        "sendMessageDraft" => {
            let draft = Draft {
                chat_id: call.chat_id()?,
                draft_id: call.integer("draft_id").unwrap_or_default(),
                text: as_read(&message_text(call)?, call.text("parse_mode")),
            };
            bot.change(|state| state.drafts.push(draft));
            Ok(json!(true))
        }
        "editMessageText" => edit_message_text(bot, call),
        "getFile" => {
            let path = call.text("file_id").unwrap_or_default();
            let size = bot.state().files.get(path).map(Bytes::len);
            let size = size.ok_or_else(|| (400, "Bad Request: invalid file_id".to_owned()))?;
            Ok(json!({"file_id": path, "file_unique_id": path, "file_size": size, "file_path": path}))
        }
        "setMyCommands" => {
            let commands = call.json("commands");
            bot.change(|state| state.commands = commands);
            Ok(json!(true))
        }
        "deleteMyCommands" => {
            bot.change(|state| state.commands = json!([]));
            Ok(json!(true))
        }
        "getMyCommands" => Ok(bot.state().commands.clone()),
        "getChat" => {
            Ok(with(chat(call.chat_id()?), &[("accent_color_id", json!(0)), ("max_reaction_count", json!(11))]))
        }
        "getChatMemberCount" => Ok(json!(2)),
        "getChatAdministrators" => Ok(json!([])),
        "getWebhookInfo" => {
            let pending = bot.state().pending.len();
            Ok(json!({"url": "", "has_custom_certificate": false, "pending_update_count": pending}))
        }
        "sendChatAction" | "deleteWebhook" | "setMessageReaction" | "close" | "logOut" => Ok(json!(true)),
        _ => Err((404, "Not Found".to_owned())),
    }
}

/// Counts a waiting poll for as long as it waits.
struct Polling<'a>(&'a Bot);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.polling -= 1);
    }
}

async fn get_updates(bot: &Bot, call: &Call) -> Answer {
    let offset = call.integer("offset").unwrap_or_default();
    let limit = call.integer("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(100).clamp(1, 100);
    let wait_s = call.integer("timeout").unwrap_or_default().clamp(0, POLL_S_MAX);
    let until = Instant::now() + Duration::from_secs(wait_s.unsigned_abs());
    let mut changed = bot.0.changed.subscribe();
    let turn = bot.change(|state| {
        state.turn += 1;
        state.polling += 1;
        state.turn
    });
    let _polling = Polling(bot);
    loop {
        changed.mark_unchanged();
        let (overtaken, updates) = {
            let mut state = bot.state();
            if state.turn == turn { (false, state.fetch(offset, limit)) } else { (true, Vec::new()) }
        };
        if overtaken {
            tokio::time::sleep(OVERTAKEN).await;
            bot.change(|state| state.conflicts += 1);
            let why =
                "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
            return Err((409, why.to_owned()));
        }
        if !updates.is_empty() || tokio::time::timeout_at(until, changed.changed()).await.is_err() {
            return Ok(Value::Array(updates));
        }
    }
}

fn send_message(bot: &Bot, call: &Call) -> Answer {
    call.chat_id()?;
    let text = message_text(call)?;
    Ok(send(bot, call, &text))
}

fn send(bot: &Bot, call: &Call, text: &str) -> Value {
    let reply_to = call.integer("reply_to_message_id").or_else(|| call.json("reply_parameters")["message_id"].as_i64());
    bot.change(|state| {
        let sent = Sent {
            chat_id: call.chat_id().unwrap_or_default(),
            text: as_read(text, call.text("parse_mode")),
            message_id: state.next_message_id(),
            method: call.method.clone(),
            reply_to,
            edits: 0,
            file: call.text(FILE).map(str::to_owned),
        };
        let message = state.message(&sent);
        state.sent.push(sent);
        message
    })
}

fn edit_message_text(bot: &Bot, call: &Call) -> Answer {
    let (chat_id, message_id) = (call.chat_id()?, call.integer("message_id").unwrap_or_default());
    let text = as_read(&message_text(call)?, call.text("parse_mode"));
    bot.change(|state| {
        let found = state.sent.iter().position(|sent| sent.chat_id == chat_id && sent.message_id == message_id);
        let Some(index) = found else { return Err((400, "Bad Request: message to edit not found".to_owned())) };
        if state.sent[index].text == text {
            return Err((400, "Bad Request: message is not modified".to_owned()));
        }
        state.sent[index].text = text;
        state.sent[index].edits += 1;
        Ok(state.message(&state.sent[index]))
    })
}

fn message_text(call: &Call) -> Result<String, (u16, String)> {
    let text = call.text("text").unwrap_or_default();
    if text.trim().is_empty() {
        return Err((400, "Bad Request: message text is empty".to_owned()));
    }
    if text.chars().count() > TEXT_CHARS_MAX {
        return Err((400, "Bad Request: message is too long".to_owned()));
    }
    Ok(text.to_owned())
}

impl Call {
    fn text(&self, name: &str) -> Option<&str> {
        self.parameters.get(name)?.as_str()
    }

    fn integer(&self, name: &str) -> Option<i64> {
        let value = self.parameters.get(name)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }

    /// A parameter that is JSON: as such, or as the text of a form.
    fn json(&self, name: &str) -> Value {
        match self.parameters.get(name) {
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
            Some(value) => value.clone(),
            None => Value::Null,
        }
    }

    fn chat_id(&self) -> Result<i64, (u16, String)> {
        self.integer("chat_id").filter(|id| *id != 0).ok_or_else(|| (400, "Bad Request: chat not found".to_owned()))
    }
}

/// The parameter under which the name of an uploaded file is kept.
const FILE: &str = "(file)";

/// Parameters from JSON, a form, a multipart form or the query, as the API takes them.
async fn parameters(request: Request) -> Result<Map<String, Value>, String> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json") {
        let Json(parameters) = Json::from_request(request, &()).await.map_err(|error| error.body_text())?;
        return Ok(parameters);
    }
    if kind.starts_with("multipart/form-data") {
        return uploaded(Multipart::from_request(request, &()).await.map_err(|error| error.body_text())?)
            .await
            .map_err(|error| error.body_text());
    }
    let parameters: HashMap<String, String> = if kind.starts_with("application/x-www-form-urlencoded") {
        Form::from_request(request, &()).await.map_err(|error| error.body_text())?.0
    } else {
        Query::try_from_uri(request.uri()).map_err(|error| error.body_text())?.0
    };
    Ok(parameters.into_iter().map(|(name, value)| (name, Value::String(value))).collect())
}

async fn uploaded(mut form: Multipart) -> Result<Map<String, Value>, axum::extract::multipart::MultipartError> {
    let mut parameters = Map::new();
    while let Some(field) = form.next_field().await? {
        let name = field.name().unwrap_or_default().to_owned();
        if let Some(file) = field.file_name().map(str::to_owned) {
            let bytes = field.bytes().await?.len();
            parameters.insert(name, json!(bytes));
            parameters.insert(FILE.to_owned(), json!(file));
            continue;
        }
        parameters.insert(name, Value::String(field.text().await?));
    }
    Ok(parameters)
}

fn with(mut object: Value, additions: &[(&str, Value)]) -> Value {
    for (name, value) in additions {
        object[*name] = value.clone();
    }
    object
}

fn answer(answer: Answer) -> Response {
    let (status, description) = match answer {
        Ok(result) => return Json(json!({"ok": true, "result": result})).into_response(),
        Err(refused) => refused,
    };
    let mut body = json!({"ok": false, "error_code": status, "description": description});
    if status == 429 {
        body["description"] = json!("Too Many Requests: retry after 1");
        body["parameters"] = json!({"retry_after": 1});
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}

/// Ends the connection in place of an answer.
fn cut() -> Response {
    let broken = stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("told to cut the connection")) });
    Response::new(Body::from_stream(broken))
}
