//! What somebody else changes at the same moment is read, changed and written again, with pauses.

use std::{future::Future, time::Duration};

use astrfleet_core::{Error, Result};
use backon::{ExponentialBuilder, Retryable as _};

/// They double, and all together take about a second: that outlasts what a bot's keeper writes in a row while the bot
/// starts.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(1))
    .with_max_delay(Duration::from_millis(512))
    .with_max_times(10)
    .with_jitter();

/// Does `change`, which reads and writes, again while what it read is stale when it writes.
///
/// # Errors
/// Those of `change`; [`Error::Stale`] where it was stale at every try.
pub async fn again_while_stale<T, F: Future<Output = Result<T>>>(change: impl FnMut() -> F) -> Result<T> {
    change.retry(PAUSES).when(|error| matches!(error, Error::Stale { .. })).await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use astrfleet_core::{Error, Result};

    use super::again_while_stale;

    /// Stale so many times, then done; with how often it was tried.
    async fn tried(stale: usize) -> (Result<()>, usize) {
        let tries = Cell::new(0);
        let outcome = again_while_stale(|| async {
            tries.set(tries.get() + 1);
            if tries.get() <= stale { Err(Error::Stale { what: "bot" }) } else { Ok(()) }
        });
        (outcome.await, tries.get())
    }

    #[tokio::test]
    async fn what_is_stale_is_tried_again_and_not_for_ever() {
        let (outcome, tries) = tried(7).await;
        assert!(outcome.is_ok() && tries == 8);
        let (outcome, tries) = tried(usize::MAX).await;
        assert!(matches!(outcome, Err(Error::Stale { .. })) && tries == 11);
    }

    #[tokio::test]
    async fn any_other_error_ends_it() {
        let tries = Cell::new(0);
        let outcome: Result<()> = again_while_stale(|| async {
            tries.set(tries.get() + 1);
            Err(Error::NotFound { what: "bot" })
        })
        .await;
        assert!(matches!(outcome, Err(Error::NotFound { .. })) && tries.get() == 1);
    }
}
