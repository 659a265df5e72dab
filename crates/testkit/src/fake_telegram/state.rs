//! What Telegram knows about one bot: updates to hand out, messages it sent. No I/O and no waiting here.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Call, Failure};

/// Calls and fetched updates that are kept; older ones are forgotten.
const KEPT_MAX: usize = 10_000;

/// What a person wrote, by Telegram's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The id of the update.
    pub update_id: i64,
    /// The id of the message in its chat.
    pub message_id: i64,
}

/// A message of the bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// To which chat.
    pub chat_id: i64,
    /// Its text or caption as people read it: without the escapes of `MarkdownV2`.
    pub text: String,
    /// Its id.
    pub message_id: i64,
    /// The method that sent it: `sendMessage`, `sendPhoto`, …
    pub method: String,
    /// The message it answers.
    pub reply_to: Option<i64>,
    /// How often it was edited.
    pub edits: usize,
    /// The name of the file that came with it.
    pub file: Option<String>,
}

/// What the bot showed while an answer grew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// In which chat.
    pub chat_id: i64,
    /// The same for all drafts of one answer.
    pub draft_id: i64,
    /// As people read it.
    pub text: String,
}

/// Everything about one bot.
pub(super) struct State {
    pub(super) bot_id: i64,
    pub(super) pending: VecDeque<Value>,
    fetched: VecDeque<Value>,
    again: VecDeque<Value>,
    pub(super) held: bool,
    pub(super) failures: Vec<(String, Failure)>,
    pub(super) sent: Vec<Sent>,
    pub(super) drafts: Vec<Draft>,
    pub(super) calls: VecDeque<Call>,
    pub(super) commands: Value,
    /// What people sent, by the path under which it is fetched.
    pub(super) files: HashMap<String, Bytes>,
    /// Rises with every call of getUpdates; whoever waits with an older number has been overtaken.
    pub(super) turn: u64,
    pub(super) polling: usize,
    pub(super) conflicts: usize,
    last_update_id: i64,
    last_message_id: i64,
}

impl State {
    pub(super) fn new(token: &str) -> Self {
        let bot_id = token.split(':').next().and_then(|id| id.parse().ok()).unwrap_or(1);
        Self {
            bot_id,
            pending: VecDeque::new(),
            fetched: VecDeque::new(),
            again: VecDeque::new(),
            held: false,
            failures: Vec::new(),
            sent: Vec::new(),
            drafts: Vec::new(),
            calls: VecDeque::new(),
            commands: json!([]),
            files: HashMap::new(),
            turn: 0,
            polling: 0,
            conflicts: 0,
            last_update_id: 1_000,
            last_message_id: 0,
        }
    }

    pub(super) fn username(&self) -> String {
        format!("fake_{}_bot", self.bot_id)
    }

    pub(super) fn write(&mut self, chat_id: i64, from: &str, text: &str) -> Written {
        let mut content = json!({"text": text});
        let entities = entities(text);
        if !entities.is_empty() {
            content["entities"] = Value::Array(entities);
        }
        self.deliver(chat_id, from, content)
    }

    /// A person sends a file: a picture by its name's ending, a document otherwise.
    pub(super) fn upload(&mut self, chat_id: i64, from: &str, name: &str, content: Bytes, caption: &str) -> Written {
        let size = content.len();
        let is_picture = [".png", ".jpg", ".jpeg"].iter().any(|ending| name.ends_with(ending));
        let folder = if is_picture { "photos" } else { "documents" };
        let path = format!("{folder}/{}-{name}", self.files.len());
        self.files.insert(path.clone(), content);
        // The id of a file is its path here; real ones say nothing either.
        let mut file = json!({"file_id": path, "file_unique_id": path, "file_size": size});
        let sent = if is_picture {
            file["width"] = json!(1);
            file["height"] = json!(1);
            json!({"photo": [file], "caption": caption})
        } else {
            file["file_name"] = json!(name);
            json!({"document": file, "caption": caption})
        };
        self.deliver(chat_id, from, sent)
    }

    /// Puts a message into the queue; `content` is what differs between kinds of messages.
    fn deliver(&mut self, chat_id: i64, from: &str, content: Value) -> Written {
        self.last_update_id += 1;
        let (update_id, message_id) = (self.last_update_id, self.next_message_id());
        let mut message = json!({"message_id": message_id, "date": now_s(), "chat": chat(chat_id),
            "from": {"id": person_id(chat_id, from), "is_bot": false, "first_name": from, "username": from,
                "language_code": "en"}});
        if let (Value::Object(message), Value::Object(content)) = (&mut message, content) {
            message.extend(content);
        }
        self.pending.push_back(json!({"update_id": update_id, "message": message}));
        Written { update_id, message_id }
    }

    pub(super) fn next_message_id(&mut self) -> i64 {
        self.last_message_id += 1;
        self.last_message_id
    }

    /// Forgets what the caller acknowledges, and gives what there is from there on.
    pub(super) fn fetch(&mut self, offset: i64, limit: usize) -> Vec<Value> {
        while self.pending.front().is_some_and(|update| update_id(update) < offset) {
            self.fetched.extend(self.pending.pop_front());
        }
        if self.fetched.len() > KEPT_MAX {
            self.fetched.pop_front();
        }
        if self.held {
            return Vec::new();
        }
        let again = self.again.drain(..);
        again.chain(self.pending.iter().cloned()).take(limit).collect()
    }

    pub(super) fn reorder(&mut self) {
        let ids: Vec<Value> = self.pending.iter().map(|update| update["update_id"].clone()).collect();
        let turned = self.pending.drain(..).rev().zip(ids).map(|(mut update, id)| {
            update["update_id"] = id;
            update
        });
        self.pending = turned.collect::<Vec<_>>().into();
    }

    pub(super) fn redeliver(&mut self, count: usize) {
        let from = self.fetched.len().saturating_sub(count);
        self.again.extend(self.fetched.iter().skip(from).cloned());
    }

    pub(super) fn take_failure(&mut self, method: &str) -> Option<Failure> {
        let index = self.failures.iter().position(|(failing, _)| failing == method)?;
        Some(self.failures.remove(index).1)
    }

    pub(super) fn record(&mut self, call: Call) {
        if self.calls.len() == KEPT_MAX {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    pub(super) fn last_methods(&self) -> Vec<&str> {
        self.calls.iter().rev().take(10).map(|call| call.method.as_str()).collect()
    }

    /// A message of the bot, as Telegram answers it.
    pub(super) fn message(&self, sent: &Sent) -> Value {
        json!({"message_id": sent.message_id, "date": now_s(), "chat": chat(sent.chat_id), "text": sent.text,
            "from": {"id": self.bot_id, "is_bot": true, "first_name": "Fake", "username": self.username()}})
    }
}

fn update_id(update: &Value) -> i64 {
    update["update_id"].as_i64().unwrap_or_default()
}

/// A chat by its id: people have positive ids, groups negative ones.
pub(super) fn chat(chat_id: i64) -> Value {
    if chat_id < 0 {
        return json!({"id": chat_id, "type": "supergroup", "title": format!("Group {chat_id}")});
    }
    json!({"id": chat_id, "type": "private", "first_name": format!("Person {chat_id}")})
}

/// In a private chat the person has the chat's id; in a group one that their name gives.
fn person_id(chat_id: i64, name: &str) -> i64 {
    if chat_id > 0 {
        return chat_id;
    }
    let hash = name.bytes().fold(5_381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    1_000_000 + i64::from(hash)
}

/// A command at the beginning and mentions anywhere; offsets in UTF-16 units, as documented.
fn entities(text: &str) -> Vec<Value> {
    let mut entities = Vec::new();
    let mut offset = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        let name = word.trim_end();
        let kind = match name.chars().next() {
            Some('/') if offset == 0 => Some("bot_command"),
            Some('@') => Some("mention"),
            _ => None,
        };
        if let Some(kind) = kind {
            entities.push(json!({"type": kind, "offset": offset, "length": name.encode_utf16().count()}));
        }
        offset += word.encode_utf16().count();
    }
    entities
}

/// `MarkdownV2` without its escapes, which is what people read of plain words.
pub(super) fn as_read(text: &str, parse_mode: Option<&str>) -> String {
    if parse_mode != Some("MarkdownV2") {
        return text.to_owned();
    }
    let mut read = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escapes = character == '\\' && characters.peek().is_some_and(char::is_ascii_punctuation);
        read.extend(if escapes { characters.next() } else { Some(character) });
    }
    read
}

#[expect(clippy::disallowed_methods, reason = "the world outside has a clock of its own")]
fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
