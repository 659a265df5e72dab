//! A cache that processes share: values in Redis, each with its time to live, under a name in which its tenant stands.
//!
//! Whoever asks waits for [`ANSWER`] at the most, and only while Redis answers: after one question without an answer the
//! connection counts as lost, and nobody asks until another one was made and has answered. What is put waits in a short
//! queue beside all that; what does not fit in is not kept. The values are in Redis's memory: its `maxmemory` bounds them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, RedisError, RedisResult, Value, cmd};
use astrfleet_core::{id::TenantId, ports::Cache};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::redis::{Backoff, Link, Redis};

/// The longest that anybody waits for a value; what it saves takes longer.
const ANSWER: Duration = Duration::from_millis(200);
/// Values that wait to be put.
const PUTS_MAX: usize = 64;

/// Keeps in Redis.
pub struct RedisCache {
    shared: Arc<Shared>,
    puts: mpsc::Sender<Cmd>,
    /// Connects and puts; ends with this.
    _tasks: JoinSet<()>,
}

struct Shared {
    redis: Redis,
    value_bytes_max: usize,
    connection: Mutex<Connection>,
    /// Whether there is one, for those who wait until it is.
    connected: watch::Sender<bool>,
    /// A question had no answer.
    lost: Notify,
    /// Something was answered since the connection was made.
    answered: AtomicBool,
}

/// The connection for questions, and its number.
#[derive(Default)]
struct Connection {
    link: Option<Link>,
    number: u64,
}

impl RedisCache {
    /// Begins to connect, for as long as this lives. Keeps values of at most `value_bytes_max` bytes.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn new(redis: Redis, value_bytes_max: usize) -> Self {
        let shared = Arc::new(Shared {
            redis,
            value_bytes_max,
            connection: Mutex::default(),
            connected: watch::Sender::new(false),
            lost: Notify::new(),
            answered: AtomicBool::new(false),
        });
        let (puts, queue) = mpsc::channel(PUTS_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(run(Arc::clone(&shared), queue));
        Self { shared, puts, _tasks: tasks }
    }

    /// Waits until Redis is asked, for at most `limit`. Whether it is.
    pub async fn connected(&self, limit: Duration) -> bool {
        let mut connected = self.shared.connected.subscribe();
        timeout(limit, connected.wait_for(|connected| *connected)).await.is_ok_and(|waited| waited.is_ok())
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, tenant: &TenantId, key: &[u8; 32]) -> Option<Bytes> {
        let (mut link, number) = self.shared.link()?;
        let mut get = cmd("GET");
        get.arg(self.shared.name(tenant, key));
        let answer = match link.run(vec![get], self.shared.answer()).await {
            Ok(answers) => answers.into_iter().next().flatten(),
            Err(error) => {
                if is_lost(&error) {
                    self.shared.lose(number);
                }
                return None;
            }
        };
        self.shared.answered.store(true, Ordering::Relaxed);
        match answer {
            Some(Value::BulkString(value)) if value.len() <= self.shared.value_bytes_max => Some(value.into()),
            _ => None,
        }
    }

    fn put(&self, tenant: &TenantId, key: &[u8; 32], value: Bytes, ttl: Duration) {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX.unsigned_abs() >> 1);
        if value.len() > self.shared.value_bytes_max {
            return;
        }
        let mut set = cmd("SET");
        set.arg(self.shared.name(tenant, key)).arg(&value[..]).arg("PX").arg(ttl_ms);
        // Where too many wait, it is not kept.
        self.puts.try_send(set).ok();
    }
}

impl Shared {
    fn name(&self, tenant: &TenantId, key: &[u8; 32]) -> String {
        let digits = key.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex: String = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        self.redis.key(&format!("cache:{tenant}:{hex}"))
    }

    fn answer(&self) -> Duration {
        self.redis.timeout().min(ANSWER)
    }

    fn link(&self) -> Option<(Link, u64)> {
        let connection = self.lock();
        connection.link.clone().map(|link| (link, connection.number))
    }

    /// From now on this is asked.
    fn connect(&self, link: Link) -> u64 {
        let mut connection = self.lock();
        *connection = Connection { link: Some(link), number: connection.number + 1 };
        self.connected.send_replace(true);
        connection.number
    }

    /// From now on nobody asks, if this is still the connection.
    fn lose(&self, number: u64) {
        let mut connection = self.lock();
        if connection.number == number && connection.link.take().is_some() {
            self.connected.send_replace(false);
            self.lost.notify_one();
        }
    }

    fn is_lost(&self, number: u64) -> bool {
        let connection = self.lock();
        connection.number != number || connection.link.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until the cache is dropped.
async fn run(shared: Arc<Shared>, mut puts: mpsc::Receiver<Cmd>) {
    let mut backoff = Backoff::new("cached answers");
    loop {
        let ended = match connected(&shared).await {
            Ok((link, number)) => {
                let ended = serve(&shared, link, number, &mut puts).await;
                shared.lose(number);
                ended
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return };
        // One that only ever answers the first question is left alone for longer and longer.
        if shared.answered.swap(false, Ordering::Relaxed) {
            backoff.succeeded();
        }
        backoff.wait(&error).await;
    }
}

async fn connected(shared: &Shared) -> RedisResult<(Link, u64)> {
    let mut link = shared.redis.keys().await?;
    link.ping(&shared.redis.key("ping"), shared.answer()).await?;
    let number = shared.connect(link.clone());
    Ok((link, number))
}

/// Puts until the connection is lost; ends well when nobody can put any more.
async fn serve(shared: &Shared, mut link: Link, number: u64, puts: &mut mpsc::Receiver<Cmd>) -> RedisResult<()> {
    loop {
        tokio::select! {
            put = puts.recv() => {
                let Some(put) = put else { return Ok(()) };
                match link.run(vec![put], shared.redis.timeout()).await {
                    Ok(_) => shared.answered.store(true, Ordering::Relaxed),
                    Err(error) if is_lost(&error) => return Err(error),
                    // Its memory is full, for one.
                    Err(error) => tracing::info!(%error, "an answer was not kept"),
                }
            }
            () = shared.lost.notified() => if shared.is_lost(number) {
                let why = std::io::Error::new(std::io::ErrorKind::TimedOut, "a question had no answer");
                return Err(RedisError::from(why));
            },
        }
    }
}

/// Whether it is the way to Redis that failed, and not what was asked.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped()
}
