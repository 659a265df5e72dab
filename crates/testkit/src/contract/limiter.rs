//! What every limiter does.

use std::time::Duration;

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
