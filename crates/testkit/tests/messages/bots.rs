//! Bots that do as they are told. Like a real one they have a life of their own: an answer that has begun goes on when
//! nobody listens any more, and its end stands in their memory; when their process dies, it does not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use astrfleet_core::{
    Error, Result,
    channel::Channel,
    chat::{BotAttachment, ChatEvent, ChatRequest, HistoryRecord},
    id::InstanceId,
    message::TokenUsage,
    ports::{
        BotAccess, BotClient, BotFile, BotSpec, BotStatus, Bots, ChannelDraft, ChatStream, Clock, FoundBot, LogLine,
        LogStream, Runtime,
    },
    time::Timestamp,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// What a bot does with a message, step by step.
#[derive(Clone, Debug)]
pub enum Act {
    /// Stores the message and says so.
    Receive,
    /// Stores the message and says nothing.
    ReceiveSilently,
    /// A piece of the answer.
    Say(&'static str),
    /// What it took.
    Usage(u64),
    /// The whole text.
    Complete(&'static str),
    /// A file.
    File(&'static str),
    /// Stores the answer and says so.
    Save(&'static str),
    /// Stores the answer and says nothing.
    SaveSilently(&'static str),
    /// The connection breaks; the bot goes on.
    Break,
    /// The stream ends as if all had been said; the bot goes on.
    Hush,
    /// Its process dies.
    Die,
    /// Waits until it is let on, or stopped.
    Wait,
}

/// The usual answer.
pub fn answer() -> Vec<Act> {
    vec![
        Act::Receive,
        Act::Say("Hel"),
        Act::Say("lo "),
        Act::Say("you"),
        Act::Usage(7),
        Act::Complete("Hello you"),
        Act::Save("Hello you"),
    ]
}

/// Files that bots take at once.
pub const FILES: usize = 1_000;

type Script = Box<dyn Fn(&str, usize) -> Vec<Act> + Send + Sync>;

/// All bots, and the world that they live in.
pub struct Fleet {
    clock: Arc<dyn Clock>,
    handle: tokio::runtime::Handle,
    state: Mutex<State>,
    script: Mutex<Script>,
    /// Each permit lets one bot on that waits.
    pub let_on: Semaphore,
    /// Each permit lets one file in.
    pub files: Semaphore,
    /// Counts everything that bots did.
    pub did: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    processes: HashMap<InstanceId, Process>,
    memory: HashMap<String, Vec<HistoryRecord>>,
    records: i64,
    asked: Vec<ChatRequest>,
    running: HashMap<String, usize>,
    most_at_once: usize,
    looked_into: usize,
    stopped: HashMap<String, watch::Sender<bool>>,
    uploaded: Vec<(String, Bytes)>,
    next_port: u16,
    unready: bool,
}

/// An answer that is being given, and the way to whoever asked.
struct Run {
    task: JoinHandle<()>,
    say: mpsc::WeakUnboundedSender<Result<ChatEvent>>,
}

impl Run {
    /// As when a process dies: the connection breaks, it does not end.
    fn end(self) {
        if let Some(say) = self.say.upgrade() {
            say.send(Err(Error::unavailable("the bot", "connection reset"))).ok();
        }
        self.task.abort();
    }
}

struct Process {
    generation: i64,
    port: u16,
    terms: String,
    since: Timestamp,
    runs: Vec<Run>,
    alive: bool,
}

impl Fleet {
    pub fn new(clock: Arc<dyn Clock>, handle: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self {
            clock,
            handle,
            state: Mutex::new(State { next_port: 20_000, ..State::default() }),
            script: Mutex::new(Box::new(|_, _| answer())),
            let_on: Semaphore::new(0),
            files: Semaphore::new(FILES),
            did: watch::Sender::new(0),
        })
    }

    /// What bots do with a text; the number counts how often they were asked it before.
    pub fn script(&self, script: impl Fn(&str, usize) -> Vec<Act> + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    /// Whether bots say that they are ready. They do, until told otherwise.
    pub fn set_ready(&self, ready: bool) {
        self.state.lock().unwrap().unready = !ready;
    }

    /// What bots were asked, in order.
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.iter().map(|request| request.text.clone()).collect()
    }

    /// The last request.
    pub fn last_request(&self) -> ChatRequest {
        self.state.lock().unwrap().asked.last().cloned().unwrap()
    }

    /// Chats that ran at the same moment, at the most.
    pub fn most_at_once(&self) -> usize {
        self.state.lock().unwrap().most_at_once
    }

    /// How often a bot's memory was read.
    pub fn looked_into(&self) -> usize {
        self.state.lock().unwrap().looked_into
    }

    /// Files that bots were given.
    pub fn uploaded(&self) -> Vec<(String, Bytes)> {
        self.state.lock().unwrap().uploaded.clone()
    }

    /// Every process ends at once, as with `kill -9`.
    pub fn kill_all(&self) {
        let mut state = self.state.lock().unwrap();
        for process in state.processes.values_mut() {
            process.alive = false;
            process.runs.drain(..).for_each(Run::end);
        }
        state.running.clear();
    }

    fn chat(self: &Arc<Self>, instance: &InstanceId, request: ChatRequest) -> Result<ChatStream> {
        let mut state = self.state.lock().unwrap();
        if !state.processes.get(instance).is_some_and(|process| process.alive) {
            return Err(Error::unavailable("the bot", "connection refused"));
        }
        let before = state.asked.iter().filter(|asked| asked.text == request.text).count();
        let acts = (self.script.lock().unwrap())(&request.text, before);
        state.asked.push(request.clone());
        *state.running.entry(request.session.clone()).or_default() += 1;
        assert!(state.running[&request.session] <= 1, "two at once in one session");
        let at_once = state.running.values().sum();
        state.most_at_once = state.most_at_once.max(at_once);
        let stop = watch::Sender::new(false);
        let stopping = stop.subscribe();
        state.stopped.insert(request.session.clone(), stop);
        let (say, said) = mpsc::unbounded_channel();
        let fleet = Arc::clone(self);
        let id = instance.clone();
        let way = say.downgrade();
        let task = self.handle.spawn(async move {
            fleet.run(&id, &request, acts, say, stopping).await;
            fleet.did.send_modify(|did| *did += 1);
        });
        state.processes.get_mut(instance).unwrap().runs.push(Run { task, say: way });
        Ok(UnboundedReceiverStream::new(said).boxed())
    }

    async fn run(
        &self,
        instance: &InstanceId,
        request: &ChatRequest,
        acts: Vec<Act>,
        say: mpsc::UnboundedSender<Result<ChatEvent>>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut say = Some(say);
        let mut text = String::new();
        let saved = acts.iter().any(|act| matches!(act, Act::Save(_) | Act::SaveSilently(_)));
        for act in acts {
            let event = match act {
                Act::Receive => Some(ChatEvent::Received { record: self.remember(request, false, &request.text) }),
                Act::ReceiveSilently => {
                    self.remember(request, false, &request.text);
                    None
                }
                Act::Say(piece) => {
                    text.push_str(piece);
                    Some(ChatEvent::Delta(piece.to_owned()))
                }
                Act::Usage(tokens) => {
                    Some(ChatEvent::Usage(TokenUsage { prompt_tokens: tokens, completion_tokens: tokens }))
                }
                Act::Complete(whole) => Some(ChatEvent::Complete(whole.to_owned())),
                Act::File(name) => Some(ChatEvent::Attachment { reference: name.to_owned(), kind: "file".to_owned() }),
                Act::Save(whole) => Some(ChatEvent::Saved { record: self.remember(request, true, whole) }),
                Act::SaveSilently(whole) => {
                    self.remember(request, true, whole);
                    None
                }
                Act::Break => {
                    if let Some(say) = say.take() {
                        say.send(Err(Error::unavailable("the bot", "connection reset"))).ok();
                    }
                    None
                }
                Act::Hush => {
                    say = None;
                    None
                }
                Act::Die => {
                    self.die(instance, request);
                    if let Some(say) = say.take() {
                        say.send(Err(Error::unavailable("the bot", "connection reset"))).ok();
                    }
                    self.did.send_modify(|did| *did += 1);
                    return std::future::pending().await;
                }
                Act::Wait => {
                    self.did.send_modify(|did| *did += 1);
                    tokio::select! {
                        permit = self.let_on.acquire() => permit.unwrap().forget(),
                        _ = stopping.wait_for(|stop| *stop) => {
                            let record = self.remember(request, true, &text);
                            if let Some(say) = say {
                                say.send(Ok(ChatEvent::Complete(text))).ok();
                                say.send(Ok(ChatEvent::Saved { record })).ok();
                            }
                            return;
                        }
                    }
                    None
                }
            };
            if let (Some(event), Some(say)) = (event, &say) {
                // Whether anybody listens makes no difference to it.
                say.send(Ok(event)).ok();
            }
            self.did.send_modify(|did| *did += 1);
            tokio::task::yield_now().await;
        }
        if !saved {
            self.state.lock().unwrap().running.remove(&request.session);
        }
    }

    fn die(&self, instance: &InstanceId, request: &ChatRequest) {
        let mut state = self.state.lock().unwrap();
        state.running.remove(&request.session);
        if let Some(process) = state.processes.get_mut(instance) {
            process.alive = false;
        }
    }

    fn remember(&self, request: &ChatRequest, from_bot: bool, text: &str) -> i64 {
        let mut state = self.state.lock().unwrap();
        state.records += 1;
        let record = state.records;
        if from_bot {
            // It has said what it had to say: the next one of the session may come.
            state.running.remove(&request.session);
        }
        state.memory.entry(request.session.clone()).or_default().push(HistoryRecord {
            record,
            from_bot,
            text: text.to_owned(),
            usage: None,
            failed: false,
        });
        record
    }
}

/// The fleet as the ports want it.
#[derive(Clone)]
pub struct FleetPorts(pub Arc<Fleet>);

#[async_trait]
impl Runtime for FleetPorts {
    fn astrbot_version(&self) -> &'static str {
        "fake"
    }

    fn bridge_version(&self) -> &'static str {
        "fake"
    }

    async fn find(&self) -> Result<Vec<FoundBot>> {
        let state = self.0.state.lock().unwrap();
        let alive = state.processes.iter().filter(|(_, process)| process.alive);
        Ok(alive
            .map(|(instance, process)| FoundBot {
                instance: instance.clone(),
                generation: process.generation,
                port: process.port,
                terms: process.terms.clone(),
            })
            .collect())
    }

    async fn start(&self, spec: &BotSpec) -> Result<()> {
        let mut state = self.0.state.lock().unwrap();
        if state.processes.get(&spec.instance).is_some_and(|process| process.alive) {
            return Err(Error::conflict("it runs"));
        }
        let process = Process {
            generation: spec.generation,
            port: spec.port,
            terms: spec.terms.clone(),
            since: self.0.clock.now(),
            runs: Vec::new(),
            alive: true,
        };
        state.processes.insert(spec.instance.clone(), process);
        Ok(())
    }

    async fn stop(&self, instance: &InstanceId) -> Result<()> {
        let process = self.0.state.lock().unwrap().processes.remove(instance);
        if let Some(process) = process {
            process.runs.into_iter().for_each(Run::end);
            self.0.state.lock().unwrap().running.clear();
        }
        Ok(())
    }

    async fn status(&self, instance: &InstanceId) -> Result<BotStatus> {
        let state = self.0.state.lock().unwrap();
        Ok(match state.processes.get(instance) {
            None => BotStatus::Absent,
            Some(process) if process.alive => BotStatus::Running {
                generation: process.generation,
                port: process.port,
                memory_bytes: 1,
                since: process.since,
            },
            Some(process) => BotStatus::Exited {
                generation: process.generation,
                how: "killed".to_owned(),
                last_words: String::new(),
            },
        })
    }

    async fn log(&self, _: &InstanceId, _: usize) -> Result<Vec<LogLine>> {
        Ok(Vec::new())
    }

    async fn follow_log(&self, _: &InstanceId) -> Result<LogStream> {
        Ok(stream::empty().boxed())
    }

    async fn erase(&self, _: &InstanceId) -> Result<()> {
        Ok(())
    }

    async fn free_port(&self, taken: &[u16]) -> Result<u16> {
        let mut state = self.0.state.lock().unwrap();
        state.next_port += 1;
        assert!(!taken.contains(&state.next_port));
        Ok(state.next_port)
    }
}

impl Bots for FleetPorts {
    fn client(&self, access: &BotAccess) -> Box<dyn BotClient> {
        Box::new(Client { fleet: Arc::clone(&self.0), instance: access.instance.clone() })
    }

    fn token(&self, _: &BotAccess, _: &str) -> Result<SecretString> {
        Err(Error::internal("not in this test"))
    }

    fn holds_platform_values(&self, _: &str) -> bool {
        false
    }

    fn mask_dashboard_answer(&self, _: &str, body: serde_json::Value) -> serde_json::Value {
        body
    }
}

struct Client {
    fleet: Arc<Fleet>,
    instance: InstanceId,
}

impl Client {
    fn alive(&self) -> Result<()> {
        let state = self.fleet.state.lock().unwrap();
        if state.processes.get(&self.instance).is_some_and(|process| process.alive) {
            return Ok(());
        }
        Err(Error::unavailable("the bot", "connection refused"))
    }
}

fn unused<T>() -> Result<T> {
    Err(Error::internal("not in this test"))
}

#[async_trait]
impl BotClient for Client {
    async fn is_ready(&self) -> bool {
        self.alive().is_ok() && !self.fleet.state.lock().unwrap().unready
    }

    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        self.fleet.chat(&self.instance, request)
    }

    async fn stop_chat(&self, _: &str, session: &str) -> Result<()> {
        self.alive()?;
        if let Some(stop) = self.fleet.state.lock().unwrap().stopped.get(session) {
            stop.send_replace(true);
        }
        Ok(())
    }

    async fn history(&self, _: &str, session: &str) -> Result<Vec<HistoryRecord>> {
        self.alive()?;
        let mut state = self.fleet.state.lock().unwrap();
        state.looked_into += 1;
        Ok(state.memory.get(session).cloned().unwrap_or_default())
    }

    async fn upload(&self, _: &str, name: &str, _: &str, content: Bytes) -> Result<BotAttachment> {
        self.alive()?;
        self.fleet.state.lock().unwrap().uploaded.push((name.to_owned(), content));
        self.fleet.files.acquire().await.unwrap().forget();
        Ok(BotAttachment { id: format!("given {name}"), kind: "file".to_owned() })
    }

    async fn download(&self, _: &str, reference: &str) -> Result<BotFile> {
        self.alive()?;
        let content = stream::iter([Ok(Bytes::from_static(b"from the bot"))]).boxed();
        Ok(BotFile { name: reference.to_owned(), media_type: "text/plain".to_owned(), content })
    }

    async fn say(&self, _: &str, _: &str) -> Result<()> {
        unused()
    }

    async fn config(&self) -> Result<serde_json::Value> {
        unused()
    }

    async fn change_config(&self, _: &serde_json::Value) -> Result<serde_json::Value> {
        unused()
    }

    async fn restore_dashboard_request(&self, _: &str, _: &str, _: serde_json::Value) -> Result<serde_json::Value> {
        unused()
    }

    async fn channels(&self) -> Result<Vec<Channel>> {
        Ok(Vec::new())
    }

    async fn add_channel(&self, _: ChannelDraft) -> Result<Channel> {
        unused()
    }

    async fn change_channel(&self, _: ChannelDraft) -> Result<Channel> {
        unused()
    }

    async fn delete_channel(&self, _: &str) -> Result<()> {
        unused()
    }

    async fn test_channel(&self, _: &str) -> Result<(bool, String)> {
        unused()
    }
}
