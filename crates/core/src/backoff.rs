//! How long to wait before the next try, and when to give up.

use std::time::Duration;

/// Exponential, with an upper bound and a little disorder, so that many do not come back at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the second try.
    pub first: Duration,
    /// At the most.
    pub max: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row (1 for the first), `disorder` being a random number.
    #[must_use]
    pub fn wait(self, failures: u32, disorder: u32) -> Duration {
        let exponent = failures.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << exponent).min(self.max);
        // Between three quarters and all of it.
        full.mul_f64(1.0 - 0.25 * f64::from(disorder) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::Backoff;

    proptest! {
        #[test]
        fn never_zero_and_never_beyond_its_bound(failures in 0_u32..1_000, disorder: u32) {
            let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };
            let wait = backoff.wait(failures, disorder);
            prop_assert!(wait >= Duration::from_millis(750) && wait <= Duration::from_mins(1));
        }
    }
}
