//! A runtime whose bots are entries in a table: they start at once, end when a test says so, and are never two of one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use astrfleet_core::{
    Error, Result,
    id::InstanceId,
    ports::{BotSpec, BotStatus, Clock, FoundBot, LogLine, LogStream, Runtime},
};
use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::broadcast;

/// Ports of bots begin here. Nobody listens on them.
const FIRST_PORT: u16 = 40_000;

/// See the module.
pub struct FakeRuntime {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    lines: broadcast::Sender<(InstanceId, LogLine)>,
}

#[derive(Default)]
struct State {
    bots: BTreeMap<InstanceId, BotStatus>,
    terms: BTreeMap<InstanceId, String>,
    starts: Vec<(InstanceId, i64)>,
    failures: VecDeque<String>,
    erased: Vec<InstanceId>,
    ports: VecDeque<u16>,
    log: BTreeMap<InstanceId, Vec<LogLine>>,
}

impl FakeRuntime {
    /// Without any bot.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), lines: broadcast::channel(256).0 }
    }

    /// All starts so far: which bot, and as which generation.
    #[must_use]
    pub fn starts(&self) -> Vec<(InstanceId, i64)> {
        self.with(|state| state.starts.clone())
    }

    /// Bots whose data was erased.
    #[must_use]
    pub fn erased(&self) -> Vec<InstanceId> {
        self.with(|state| state.erased.clone())
    }

    /// Whether a process of the bot runs.
    #[must_use]
    pub fn is_running(&self, instance: &InstanceId) -> bool {
        self.with(|state| matches!(state.bots.get(instance), Some(BotStatus::Running { .. })))
    }

    /// The next bot that asks for a port gets this one: somebody listens there.
    pub fn offer_port(&self, port: u16) {
        self.with(|state| state.ports.push_back(port));
    }

    /// The next start fails, and says this.
    pub fn fail_next_start(&self, why: &str) {
        self.with(|state| state.failures.push_back(why.to_owned()));
    }

    /// Ends a bot's process, and nobody asked for it. Nothing happens to one that does not run.
    pub fn crash(&self, instance: &InstanceId, last_words: &str) {
        self.with(|state| {
            if let Some(BotStatus::Running { generation, .. }) = state.bots.get(instance) {
                let generation = *generation;
                let (how, last_words) = ("exit code 1".to_owned(), last_words.to_owned());
                state.bots.insert(instance.clone(), BotStatus::Exited { generation, how, last_words });
            }
        });
    }

    /// The bot writes a line into its log.
    pub fn says(&self, instance: &InstanceId, line: &str) {
        let line = LogLine { at: self.clock.now(), line: line.to_owned() };
        self.with(|state| state.log.entry(instance.clone()).or_default().push(line.clone()));
        self.lines.send((instance.clone(), line)).ok();
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn astrbot_version(&self) -> &'static str {
        "4.29.3"
    }

    fn bridge_version(&self) -> &'static str {
        "fake"
    }

    async fn find(&self) -> Result<Vec<FoundBot>> {
        Ok(self.with(|state| {
            let found = |(instance, status): (&InstanceId, &BotStatus)| match status {
                BotStatus::Running { generation, port, .. } => {
                    let terms = state.terms.get(instance).cloned().unwrap_or_default();
                    Some(FoundBot { instance: instance.clone(), generation: *generation, port: *port, terms })
                }
                BotStatus::Absent | BotStatus::Exited { .. } => None,
            };
            state.bots.iter().filter_map(found).collect()
        }))
    }

    async fn start(&self, spec: &BotSpec) -> Result<()> {
        let since = self.clock.now();
        self.with(|state| {
            if matches!(state.bots.get(&spec.instance), Some(BotStatus::Running { .. })) {
                return Err(Error::conflict("a process of this bot runs already"));
            }
            if let Some(why) = state.failures.pop_front() {
                return Err(Error::unavailable("the bot", why));
            }
            state.starts.push((spec.instance.clone(), spec.generation));
            state.terms.insert(spec.instance.clone(), spec.terms.clone());
            let (generation, port, memory_bytes) = (spec.generation, spec.port, 200_000_000);
            state.bots.insert(spec.instance.clone(), BotStatus::Running { generation, port, memory_bytes, since });
            Ok(())
        })
    }

    async fn stop(&self, instance: &InstanceId) -> Result<()> {
        self.with(|state| state.bots.remove(instance));
        Ok(())
    }

    async fn status(&self, instance: &InstanceId) -> Result<BotStatus> {
        Ok(self.with(|state| state.bots.get(instance).cloned().unwrap_or(BotStatus::Absent)))
    }

    async fn log(&self, instance: &InstanceId, count: usize) -> Result<Vec<LogLine>> {
        Ok(self.with(|state| {
            let lines = state.log.get(instance).map_or(&[][..], Vec::as_slice);
            lines[lines.len().saturating_sub(count)..].to_vec()
        }))
    }

    async fn follow_log(&self, instance: &InstanceId) -> Result<LogStream> {
        let (receiver, instance) = (self.lines.subscribe(), instance.clone());
        let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let line = receiver.recv().await.ok()?;
            Some((line, receiver))
        });
        Ok(lines
            .filter_map(move |(whose, line)| {
                let line = (whose == instance).then_some(line);
                async move { line }
            })
            .boxed())
    }

    async fn erase(&self, instance: &InstanceId) -> Result<()> {
        self.with(|state| {
            if matches!(state.bots.get(instance), Some(BotStatus::Running { .. })) {
                return Err(Error::conflict("the bot runs"));
            }
            state.bots.remove(instance);
            state.log.remove(instance);
            state.erased.push(instance.clone());
            Ok(())
        })
    }

    async fn free_port(&self, taken: &[u16]) -> Result<u16> {
        if let Some(offered) = self.with(|state| state.ports.pop_front()) {
            return Ok(offered);
        }
        (FIRST_PORT..u16::MAX).find(|port| !taken.contains(port)).ok_or_else(|| Error::conflict("no port is free"))
    }
}
