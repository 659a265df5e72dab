//! What the clients of a load do, each in sessions of its own, round after round until they are told to stop. What is not
//! acknowledged is sent again under its key.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use super::{
    super::{LOOK_EVERY, PASSWORD},
    door::{Door, RETRY_EVERY},
};
use crate::client::{Api, Events};

/// How long an answer is looked for; whether it came is counted at the end.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// A stream that says nothing for so long is read anew: longer than it takes to say that it is alive.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Pieces of an answer that is followed, and between two of them: it lasts while something breaks.
const PIECES: usize = 40;
const PIECE_EVERY_MS: usize = 50;
/// The size of a file.
const FILE_BYTES: usize = 100_000;
/// Rounds between two log-ins.
const LOG_IN_EVERY: usize = 4;

/// A message that was acknowledged.
#[derive(Clone, Debug)]
pub struct Said {
    /// `msg_…`
    pub(super) id: String,
    pub(super) text: String,
    /// What the answer is.
    pub(super) answer: String,
    /// It may be longer: the bot tells its model of a file, too.
    pub(super) or_longer: bool,
    /// It is given piece by piece, which takes two seconds.
    pub(super) in_pieces: bool,
}

/// What was acknowledged.
#[derive(Default)]
pub(super) struct Accepted {
    /// By session, in the order in which it was acknowledged.
    pub(super) said: BTreeMap<String, Vec<Said>>,
    /// Sessions without messages, and whether they were closed.
    pub(super) sessions: BTreeMap<String, bool>,
}

/// A client.
pub(super) struct Client {
    pub(super) name: &'static str,
    /// At the gateways.
    pub(super) door: Door,
    pub(super) tenant: String,
    pub(super) accepted: std::sync::Arc<Mutex<Accepted>>,
    /// Whole rounds so far.
    pub(super) rounds: AtomicUsize,
    pub(super) pause: Duration,
}

impl Client {
    fn path(&self, of: &str) -> String {
        format!("/api/v1/tenants/{}/{of}", self.tenant)
    }

    fn is_over(&self) -> bool {
        self.door.shared.stop.is_cancelled()
    }

    async fn round_is_over(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.pause).await;
    }

    async fn session(&self) -> Option<String> {
        let wanted = json!({"end_user": format!("load-{}", self.name)});
        let made = self.door.insist(|api| api.request(Method::POST, &self.path("sessions")).json(&wanted)).await?;
        let id = made.json["id"].as_str().expect("a session has an id").to_owned();
        self.accepted.lock().unwrap().sessions.insert(id.clone(), false);
        Some(id)
    }

    fn acknowledged(&self, session: &str, said: Said) {
        self.door.shared.acknowledged();
        self.accepted.lock().unwrap().said.entry(session.to_owned()).or_default().push(said);
    }

    /// Sends a message until it is acknowledged. Returns its id.
    async fn say(&self, session: &str, number: usize, body: &Value) -> Option<String> {
        let path = self.path(&format!("sessions/{session}/messages?wait=0"));
        let key = format!("{session}-{number}");
        let send = |api: &Api| api.request(Method::POST, &path).header("idempotency-key", &key).json(body);
        let answer = self.door.insist(send).await?;
        Some(answer.json["message"]["id"].as_str().expect("a message has an id").to_owned())
    }

    async fn wait_for_the_end(&self, session: &str, message: &str) {
        let path = self.path(&format!("sessions/{session}/messages/{message}"));
        let deadline = Instant::now() + LOOK_LIMIT;
        while Instant::now() < deadline && !self.is_over() {
            let looked = self.door.ask(|api| api.request(Method::GET, &path)).await;
            if looked.is_some_and(|looked| is_final(&looked.json["message"])) {
                return;
            }
            tokio::time::sleep(2 * LOOK_EVERY).await;
        }
    }

    /// Writes, with so many messages on their way in one session.
    pub(super) async fn write(&self, at_once: usize) {
        let Some(session) = self.session().await else { return };
        let mut open = VecDeque::new();
        for number in 0.. {
            let text = format!("number {number} of {session}");
            let Some(id) = self.say(&session, number, &json!({"text": text})).await else { return };
            let answer = format!("echo: {text}");
            self.acknowledged(&session, Said { id: id.clone(), text, answer, or_longer: false, in_pieces: false });
            open.push_back(id);
            if open.len() == at_once
                && let Some(oldest) = open.pop_front()
            {
                self.wait_for_the_end(&session, &oldest).await;
            }
            self.round_is_over().await;
        }
    }

    /// Sends a file with each message, and fetches it again.
    pub(super) async fn send_files(&self) {
        let Some(session) = self.session().await else { return };
        for number in 0.. {
            let text = format!("number {number} of {session}");
            let content = content(&text);
            let form = || {
                let part = Part::bytes(content.clone()).file_name("load.txt").mime_str("text/plain").unwrap();
                Form::new().part("file", part)
            };
            let upload = |api: &Api| api.request(Method::POST, &self.path("attachments")).multipart(form());
            let Some(uploaded) = self.door.insist(upload).await else { return };
            let file = uploaded.json["id"].as_str().expect("a file has an id").to_owned();
            let body = json!({"text": text, "attachments": [file]});
            let Some(id) = self.say(&session, number, &body).await else { return };
            let answer = format!("echo: {text}");
            self.acknowledged(&session, Said { id: id.clone(), text, answer, or_longer: true, in_pieces: false });
            self.wait_for_the_end(&session, &id).await;
            let path = self.path(&format!("attachments/{file}"));
            let Some(fetched) = self.door.insist(|api| api.request(Method::GET, &path)).await else { return };
            if fetched.bytes != content {
                self.door.shared.wrong(format!("{file} came back as {} other bytes", fetched.bytes.len()));
            }
            self.round_is_over().await;
        }
    }

    /// Follows the answer to each message as it is given, at whoever is next in turn where it breaks off. It has to come
    /// whole, and every piece once.
    pub(super) async fn follow_answers(&self) {
        let Some(session) = self.session().await else { return };
        for number in 0.. {
            let text = format!("number {number} of {session} #chunks={PIECES} #slow={PIECE_EVERY_MS}");
            let Some(id) = self.say(&session, number, &json!({"text": text})).await else { return };
            let answer = in_pieces(&format!("echo: {text}"));
            let said = Said { id: id.clone(), text, answer: answer.clone(), or_longer: false, in_pieces: true };
            self.acknowledged(&session, said);
            if let Some(heard) = self.hear(&session, &id).await
                && heard != answer
            {
                self.door.shared.wrong(format!("the stream of {id} said {heard:?}"));
            }
            self.round_is_over().await;
        }
    }

    /// All that the stream of a message says, to its end. None where that is another one than `done`, or the load ends.
    async fn hear(&self, session: &str, message: &str) -> Option<String> {
        let path = self.path(&format!("sessions/{session}/messages/{message}"));
        let (mut heard, mut position) = (String::new(), String::new());
        let deadline = Instant::now() + 4 * LOOK_LIMIT;
        while Instant::now() < deadline && !self.is_over() {
            let open = |api: &Api| {
                let request = api.request(Method::GET, &path).header("accept", "text/event-stream");
                request.header("last-event-id", &position)
            };
            let Some(response) = self.door.open(open).await else {
                tokio::time::sleep(RETRY_EVERY).await;
                continue;
            };
            let mut events = Events::of(response);
            while let Ok(Some(event)) = tokio::time::timeout(SILENCE_MAX, events.next()).await {
                match event.event.as_str() {
                    "delta" => heard.push_str(event.data["text"].as_str().unwrap_or_default()),
                    "done" => return Some(heard),
                    "failed" => return None,
                    // It goes on where the message is by then, or when it was repaired: this event is told again.
                    "interrupted" => break,
                    _ => {}
                }
                position = event.id;
            }
            tokio::time::sleep(2 * LOOK_EVERY).await;
        }
        None
    }

    /// What crosses the other roles: logs in now and then, reads, asks a model, opens a session and closes it.
    pub(super) async fn run_errands(&self, bots: PathBuf) {
        let email = format!("owner@{}.test", self.tenant);
        let who = json!({"email": email, "password": PASSWORD});
        let mut owner: Option<Door> = None;
        for number in 0.. {
            if self.is_over() {
                return;
            }
            let log_in = |api: &Api| api.request(Method::POST, "/api/v1/auth/login").json(&who);
            if number % LOG_IN_EVERY == 0 || owner.is_none() {
                let answer = if owner.is_none() { self.door.insist(log_in).await } else { self.door.ask(log_in).await };
                if let Some(answer) = answer {
                    let token = answer.json["access_token"].as_str().expect("a log-in gives a token");
                    owner = Some(self.door.as_bearer(token));
                }
            }
            let Some(owner) = &owner else { return };
            if self.errand(owner, &bots, number).await.is_some() {
                self.round_is_over().await;
            } else {
                tokio::time::sleep(RETRY_EVERY).await;
            }
        }
    }

    /// Returns something where all of it was answered.
    async fn errand(&self, owner: &Door, bots: &Path, number: usize) -> Option<()> {
        let get = async |path: String| owner.ask(|api| api.request(Method::GET, &path)).await;
        let me = get("/api/v1/auth/me".to_owned()).await;
        let tenant = get(format!("/api/v1/tenants/{}", self.tenant)).await;
        if let Some(tenant) = &tenant
            && tenant.json["name"] != *self.tenant
        {
            self.door.shared.wrong(format!("asked for {}: {}", self.tenant, tenant.json));
        }
        let instance = get(self.path("instance")).await;
        let asked = match &instance {
            Some(instance) => self.ask_a_model(bots, &instance.json, number).await,
            None => None,
        };
        let session = self.session().await?;
        let close = self.path(&format!("sessions/{session}/close"));
        let closed = self.door.ask(|api| api.request(Method::POST, &close)).await;
        if closed.is_some() {
            self.accepted.lock().unwrap().sessions.insert(session, true);
        }
        (me.is_some() && tenant.is_some() && instance.is_some() && asked.is_some() && closed.is_some()).then_some(())
    }

    /// As a bot does that finds the models behind the gateways.
    async fn ask_a_model(&self, bots: &Path, instance: &Value, number: usize) -> Option<()> {
        let id = instance["id"].as_str().expect("an instance has an id");
        let Some(key) = model_key(&bots.join(id)) else {
            self.door.shared.wrong(format!("{id} has no key to ask a model with"));
            return None;
        };
        let text = format!("errand {number}");
        let body = json!({"model": "fast", "messages": [{"role": "user", "content": text}]});
        let asking = self.door.as_bearer(&key);
        let answer = asking.ask(|api| api.request(Method::POST, "/llm/v1/chat/completions").json(&body)).await?;
        let said = &answer.json["choices"][0]["message"]["content"];
        if *said != format!("echo: {text}") {
            self.door.shared.wrong(format!("a model was asked {text:?} and said {said}"));
        }
        Some(())
    }
}

/// What the bot in this folder asks its model with.
fn model_key(bot: &Path) -> Option<String> {
    let config = std::fs::read_to_string(bot.join("data").join("cmd_config.json")).ok()?;
    // AstrBot writes a byte order mark first.
    let config: Value = serde_json::from_str(config.trim_start_matches('\u{feff}')).ok()?;
    config["provider_sources"][0]["key"][0].as_str().map(str::to_owned)
}

/// As the fake provider makes it of an answer that is to have so many pieces.
fn in_pieces(answer: &str) -> String {
    let mut whole = answer.to_owned();
    for number in answer.split_inclusive(' ').count()..PIECES {
        whole.push(' ');
        whole.push_str(&number.to_string());
    }
    whole
}

/// Of a size at which it crosses more than one packet, and different for each text.
fn content(text: &str) -> Vec<u8> {
    text.bytes().chain([b'\n']).cycle().take(FILE_BYTES).collect()
}

pub(super) fn is_final(message: &Value) -> bool {
    matches!(message["state"].as_str(), Some("done" | "failed" | "blocked" | "interrupted"))
}

#[cfg(test)]
mod tests {
    use super::in_pieces;

    #[test]
    fn an_answer_in_pieces_is_filled_up() {
        let whole = in_pieces("echo: number 0 of ses_1 #chunks=40 #slow=50");
        assert!(whole.starts_with("echo: number 0 of ses_1 #chunks=40 #slow=50 7 8 9 "), "{whole}");
        assert!(whole.ends_with(" 39"), "{whole}");
    }
}
