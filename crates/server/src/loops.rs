//! Loops: work that nobody asks for. A loop takes no input, has a name and a period, may run twice or not at all, and
//! does no retrying of its own: the next run finds what this one left.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use astrfleet_core::Result;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{metrics::Metrics, problem::chain};

/// One loop.
pub struct Loop {
    /// `role.verb`, for logs and metrics.
    pub name: &'static str,
    /// The longest time between two runs.
    pub period: Duration,
    /// Starts a run at once.
    pub wake: Arc<Notify>,
    /// One run; returns how many things it changed.
    pub run: Box<dyn Fn() -> BoxFuture<'static, Result<u64>> + Send + Sync>,
}

impl Loop {
    /// A loop that only its period starts.
    pub fn every<F>(name: &'static str, period: Duration, run: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<u64>> + Send + 'static,
    {
        Self::woken(name, period, Arc::new(Notify::new()), run)
    }

    /// A loop that is started by `wake` too.
    pub fn woken<F>(
        name: &'static str,
        period: Duration,
        wake: Arc<Notify>,
        run: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<u64>> + Send + 'static,
    {
        Self { name, period, wake, run: Box::new(move || Box::pin(run())) }
    }
}

/// What became of each loop, for whoever asks whether this process is well.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<&'static str, LoopState>>);

/// What became of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopState {
    /// Its first run is not over.
    Starting,
    /// Its last run did what it is for.
    Well,
    /// Its last run failed; the next one tries again.
    Failing,
    /// It will not run again: a defect of ours.
    Dead,
}

impl Board {
    /// All loops of this process.
    pub fn all(&self) -> BTreeMap<&'static str, LoopState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, name: &'static str, state: LoopState) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, state);
    }
}

/// Says that a loop is dead when it ends in any way but the right one.
struct Watch {
    name: &'static str,
    board: Arc<Board>,
    stop: CancellationToken,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!(loop_name = self.name, error_code = "internal", "a loop died: a defect of ours");
            self.board.note(self.name, LoopState::Dead);
        }
    }
}

/// Does `batch`, which changes `full` things at the most, again and again: until one changed fewer, there were `most`, or
/// the process is to end. Returns how many they changed; the next run of the loop goes on.
pub(crate) async fn batches<F>(
    stop: &CancellationToken,
    most: u32,
    full: u32,
    mut batch: impl FnMut() -> F,
) -> Result<u64>
where
    F: Future<Output = Result<u64>>,
{
    let mut changed = 0;
    for _ in 0..most {
        let some = batch().await?;
        changed += some;
        if some < u64::from(full) || stop.is_cancelled() {
            break;
        }
    }
    Ok(changed)
}

/// Runs `loops` until `stop`; a run that has begun is finished.
pub fn start(
    loops: Vec<Loop>,
    metrics: &Arc<Metrics>,
    board: &Arc<Board>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    for job in loops {
        let (metrics, stop) = (Arc::clone(metrics), stop.clone());
        let watch = Watch { name: job.name, board: Arc::clone(board), stop: stop.clone() };
        board.note(job.name, LoopState::Starting);
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                let outcome = (job.run)().await;
                metrics.loop_ran(job.name, outcome.is_ok());
                watch.board.note(job.name, if outcome.is_ok() { LoopState::Well } else { LoopState::Failing });
                match outcome {
                    Ok(0) => {}
                    Ok(changed) => tracing::debug!(loop_name = job.name, changed, "a loop ran"),
                    Err(error) => tracing::warn!(loop_name = job.name, error = chain(&error), "a loop's run failed"),
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = job.wake.notified() => {}
                    () = tokio::time::sleep(job.period) => {}
                }
            }
        });
    }
}
