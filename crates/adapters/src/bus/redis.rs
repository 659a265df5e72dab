//! The bus between processes: Redis publish/subscribe, over the bus of this process. Publishing only puts an event into
//! a bounded queue: no request ever waits for Redis, and none fails without it.
//!
//! What it promises. Listeners of this process hear at once, Redis or not. Those of other processes hear while Redis is
//! there; whenever something may have been lost on the way (a connection was lost, a queue ran over, Redis was failed
//! over or restarted), every listener that it may concern hears [`BusEvent::Missed`] once the way is open again.
//!
//! Whether it is open is not believed of a connection that merely stands: each process tells itself something every
//! second through Redis. What was sent and does not come back three times in a row means that the listening side hangs
//! (a server that is frozen, cut off, or no longer part of its cluster), and it is connected anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, Pipeline, RedisResult, Value, aio::PubSub, cmd};
use astrfleet_core::ports::{Bus, BusEvent, BusStream, Rng};
use futures_util::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{MemoryBus, wire};
use crate::redis::{Backoff, Redis, within};

/// How often a process tells itself something through Redis.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Heartbeats that were sent and not heard before the listening side counts as hanging.
const UNHEARD_MAX: u64 = 3;
/// Events in one write.
const BATCH_MAX: usize = 256;

/// Tells everybody in this process, and through Redis everybody else.
pub struct RedisBus {
    local: Arc<MemoryBus>,
    queue: mpsc::Sender<BusEvent>,
    shared: Arc<Shared>,
    connected: watch::Receiver<bool>,
    /// The two sides; they end with this.
    _tasks: JoinSet<()>,
}

/// What both sides know.
struct Shared {
    redis: Redis,
    /// Names this process, so that it does not hear itself.
    origin: String,
    /// Something was not told to the others, and they have to know that.
    is_owed: AtomicBool,
    /// The number of the newest heartbeat that Redis took.
    sent: AtomicU64,
    /// The number of the newest heartbeat that came back.
    heard: AtomicU64,
}

impl RedisBus {
    /// Begins to connect, for as long as this lives. At most `capacity` events wait for a listener that is behind, and
    /// as many for Redis.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn new(redis: Redis, rng: &dyn Rng, capacity: usize) -> Self {
        let mut origin = [0; 16];
        rng.fill(&mut origin);
        let origin = format!("{:032x}", u128::from_le_bytes(origin));
        let shared = Arc::new(Shared {
            redis,
            origin,
            is_owed: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            heard: AtomicU64::new(0),
        });
        let local = Arc::new(MemoryBus::new(capacity));
        let (queue, queued) = mpsc::channel(capacity.max(1));
        let (connect, connected) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(tell(Arc::clone(&shared), queued));
        tasks.spawn(listen(Arc::clone(&shared), Arc::clone(&local), connect));
        Self { local, queue, shared, connected, _tasks: tasks }
    }

    /// Waits until events of other processes are heard, for at most `limit`. Whether they are.
    pub async fn connected(&self, limit: Duration) -> bool {
        let mut connected = self.connected.clone();
        timeout(limit, connected.wait_for(|connected| *connected)).await.is_ok_and(|waited| waited.is_ok())
    }
}

impl Bus for RedisBus {
    fn publish(&self, event: BusEvent) {
        self.local.publish(event.clone());
        if self.queue.try_send(event).is_err() {
            self.shared.is_owed.store(true, Ordering::Release);
        }
    }

    fn subscribe(&self) -> BusStream {
        self.local.subscribe()
    }
}

impl Shared {
    /// Everybody listens here.
    fn channel(&self) -> String {
        self.redis.key("bus")
    }

    /// Only this process listens here.
    fn own_channel(&self) -> String {
        self.redis.key(&format!("bus:{}", self.origin))
    }

    fn is_hanging(&self) -> bool {
        let (sent, heard) = (self.sent.load(Ordering::Acquire), self.heard.load(Ordering::Acquire));
        sent.saturating_sub(heard) >= UNHEARD_MAX
    }
}

/// The telling side, until the bus is dropped.
async fn tell(shared: Arc<Shared>, mut queued: mpsc::Receiver<BusEvent>) {
    let mut backoff = Backoff::new("telling");
    // What was on its way when the connection broke: it is told again, perhaps twice.
    let mut unsent = Vec::new();
    loop {
        match tell_while_connected(&shared, &mut queued, &mut unsent, &mut backoff).await {
            Ok(()) => return,
            Err(error) => {
                // What Redis took just before may have gone no further.
                shared.is_owed.store(true, Ordering::Release);
                backoff.wait(&error).await;
            }
        }
    }
}

/// Ends well when nobody can publish any more.
async fn tell_while_connected(
    shared: &Shared,
    queued: &mut mpsc::Receiver<BusEvent>,
    unsent: &mut Vec<BusEvent>,
    backoff: &mut Backoff,
) -> RedisResult<()> {
    let mut node = shared.redis.node().await?;
    let (channel, own_channel) = (shared.channel(), shared.own_channel());
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut beat = None;
        if unsent.is_empty() {
            tokio::select! {
                count = queued.recv_many(unsent, BATCH_MAX) => if count == 0 {
                    return Ok(());
                },
                _ = heartbeat.tick() => beat = Some(shared.sent.load(Ordering::Acquire) + 1),
            }
        }
        let is_owed = shared.is_owed.swap(false, Ordering::AcqRel);
        let mut pipeline = Pipeline::with_capacity(unsent.len() + 2);
        for event in unsent.iter() {
            pipeline.add_command(publish(&channel, &wire::write(&shared.origin, event)));
        }
        if is_owed {
            pipeline.add_command(publish(&channel, &wire::write(&shared.origin, &BusEvent::Missed)));
        }
        if let Some(number) = beat {
            pipeline.add_command(publish(&own_channel, &number.to_string()));
        }
        within(shared.redis.timeout(), pipeline.query_async::<Vec<Value>>(&mut node)).await?;
        unsent.clear();
        if let Some(number) = beat {
            shared.sent.store(number, Ordering::Release);
        }
        backoff.succeeded();
    }
}

fn publish(channel: &str, text: &str) -> Cmd {
    let mut publish = cmd("PUBLISH");
    publish.arg(channel).arg(text);
    publish
}

/// The listening side, until the bus is dropped.
async fn listen(shared: Arc<Shared>, local: Arc<MemoryBus>, connect: watch::Sender<bool>) {
    let mut backoff = Backoff::new("listening");
    loop {
        let ended = match subscribed(&shared).await {
            Ok(connection) => {
                // Also the first time: whoever listens here since the start has heard nobody else so far.
                local.publish(BusEvent::Missed);
                connect.send_replace(true);
                backoff.succeeded();
                let ended = hear(&shared, &local, connection).await;
                connect.send_replace(false);
                ended
            }
            Err(error) => error,
        };
        backoff.wait(&ended).await;
    }
}

async fn subscribed(shared: &Shared) -> RedisResult<PubSub> {
    let mut connection = shared.redis.listener().await?;
    within(shared.redis.timeout(), connection.subscribe(&[shared.channel(), shared.own_channel()])).await?;
    shared.heard.store(shared.sent.load(Ordering::Acquire), Ordering::Release);
    Ok(connection)
}

/// Hears until the connection ends or hangs.
async fn hear(shared: &Shared, local: &MemoryBus, connection: PubSub) -> ::redis::RedisError {
    let ended = |why: &'static str| std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why).into();
    let own_channel = shared.own_channel();
    let mut messages = connection.into_on_message();
    loop {
        let message = match timeout(HEARTBEAT, messages.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => return ended("the connection that listens was closed"),
            Err(_) if shared.is_hanging() => return ended("what was sent did not come back"),
            Err(_) => continue,
        };
        let text = String::from_utf8_lossy(message.get_payload_bytes());
        if message.get_channel_name() == own_channel {
            shared.heard.fetch_max(text.parse().unwrap_or(0), Ordering::AcqRel);
        } else if let Some(event) = wire::read(&shared.origin, &text) {
            local.publish(event);
        }
        // Others may still be heard by a node that our own words do not reach any more.
        if shared.is_hanging() {
            return ended("what was sent did not come back");
        }
    }
}
