//! What every limiter does.

use std::{sync::Arc, time::Duration};

use astrfleet_core::ports::{Limit, Limiter, Verdict, testing::FixedClock};

/// Runs all of it on a limiter that goes by `clock` and knows none of the keys yet.
///
/// # Panics
/// Where the limiter does something else.
pub fn all(limiter: &dyn Limiter, clock: &FixedClock) {
    let limit = Limit { amount: 4, per: Duration::from_secs(8) };
    for remaining in (0..4).rev() {
        let reset = Duration::from_secs(2 * (4 - u64::from(remaining)));
        assert_eq!(limiter.take("one", limit), Verdict::Allowed { remaining, reset }, "all may come at once");
    }
    let refused = Verdict::Refused { retry_after: Duration::from_secs(2) };
    assert_eq!(limiter.take("one", limit), refused, "then the next one has to wait");
    assert_eq!(limiter.take("one", limit), refused, "and being refused costs nothing");
    assert!(matches!(limiter.take("other", limit), Verdict::Allowed { remaining: 3, .. }), "keys do not share");

    clock.advance(Duration::from_secs(2));
    let last = Verdict::Allowed { remaining: 0, reset: Duration::from_secs(8) };
    assert_eq!(limiter.take("one", limit), last, "one came back");
    assert_eq!(limiter.take("one", limit), refused);

    clock.advance(Duration::from_hours(1));
    assert!(matches!(limiter.take("one", limit), Verdict::Allowed { remaining: 3, .. }), "no more than all come back");

    let none = Limit { amount: 0, per: Duration::from_secs(8) };
    assert!(matches!(limiter.take("none", none), Verdict::Refused { .. }), "none means none");

    let narrower = Limit { amount: 1, per: Duration::from_secs(8) };
    assert!(matches!(limiter.take("narrowed", limit), Verdict::Allowed { .. }));
    clock.advance(Duration::from_secs(2));
    assert!(matches!(limiter.take("narrowed", narrower), Verdict::Allowed { .. }), "a limit may change");
    assert!(matches!(limiter.take("narrowed", narrower), Verdict::Refused { .. }));
}

/// Runs what several processes with one limit do, all of which know `key` not yet and share it evenly. They ask for
/// as much as they can while `meanwhile` runs, and as much longer as it takes to use all of it.
///
/// # Panics
/// Where they allow less than all of it, or more than `excess` beyond it. Returns how many were allowed.
pub async fn shared(
    limiters: &[Arc<dyn Limiter>],
    key: &str,
    amount: u32,
    excess: u32,
    meanwhile: impl Future<Output = ()>,
) -> u32 {
    // So long that nothing comes back while this runs.
    let limit = Limit { amount, per: Duration::from_hours(100_000) };
    let mut meanwhile = std::pin::pin!(meanwhile);
    let (mut allowed, mut is_over, mut rounds_refused) = (0, false, 0);
    // Once all of it is used, some time to find out whether there is more.
    while !is_over || allowed < amount || rounds_refused < 200 {
        let before = allowed;
        for limiter in limiters {
            for _ in 0..5 {
                allowed += u32::from(matches!(limiter.take(key, limit), Verdict::Allowed { .. }));
            }
        }
        rounds_refused = if allowed == before { rounds_refused + 1 } else { 0 };
        assert!(allowed <= amount + excess, "{allowed} were allowed where {amount} are");
        assert!(rounds_refused < 20_000, "{allowed} were allowed and no more, where {amount} are");
        if is_over {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        tokio::select! {
            biased;
            () = &mut meanwhile => is_over = true,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    allowed
}
