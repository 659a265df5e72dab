//! A circuit breaker: whoever fails again and again is left alone for a while, then tried with one call, and trusted
//! again when that succeeds. Pure: times are handed in, in milliseconds of a clock that never goes back.

use std::time::Duration;

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row that open it; at least 1.
    pub failures: u32,
    /// How long it stays open the first time; this doubles with every trial that fails.
    pub open: Duration,
    /// At the most.
    pub open_max: Duration,
}

/// The state of one circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls go through.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// No call goes through before `until`; then one.
    Open {
        /// In milliseconds.
        until: u64,
        /// How often it opened since it was last closed.
        times: u32,
    },
    /// One call is on its way to find out. If nothing is heard of it, another one may go from `until` on.
    Trial {
        /// In milliseconds.
        until: u64,
        /// How often it opened since it was last closed.
        times: u32,
    },
}

/// What happens to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call that may go through (see [`Circuit::admits`]) begins.
    Called,
    /// A call was answered.
    Answered,
    /// A call was not.
    Failed,
}

impl Default for Circuit {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Circuit {
    /// Whether a call may go through at `now`.
    #[must_use]
    pub fn admits(self, now: u64) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Open { until, .. } | Self::Trial { until, .. } => now >= until,
        }
    }

    /// Whether nothing has failed lately: another answer changes nothing.
    #[must_use]
    pub fn is_calm(self) -> bool {
        self == Self::default()
    }

    /// The state after `event`.
    #[must_use]
    pub fn next(self, event: Event, now: u64, rules: Rules) -> Self {
        match (self, event) {
            (Self::Closed { .. } | Self::Trial { .. }, Event::Answered) => Self::default(),
            (Self::Closed { failures }, Event::Failed) => {
                let failures = failures.saturating_add(1);
                if failures < rules.failures { Self::Closed { failures } } else { rules.opened(now, 1) }
            }
            (Self::Trial { times, .. }, Event::Failed) => rules.opened(now, times.saturating_add(1)),
            (Self::Open { until, times } | Self::Trial { until, times }, Event::Called) if now >= until => {
                Self::Trial { until: now.saturating_add(rules.pause(times)), times }
            }
            // A call while it is closed; or one that began before it opened, of which the trial decides.
            (Self::Closed { .. }, Event::Called) | (Self::Open { .. } | Self::Trial { .. }, _) => self,
        }
    }
}

impl Rules {
    fn opened(self, now: u64, times: u32) -> Circuit {
        Circuit::Open { until: now.saturating_add(self.pause(times)), times }
    }

    /// How long it stays open the `times`th time.
    fn pause(self, times: u32) -> u64 {
        let doubled = self.open.saturating_mul(1 << times.saturating_sub(1).min(20));
        u64::try_from(doubled.min(self.open_max).as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Circuit, Event, Rules};

    const RULES: Rules = Rules { failures: 3, open: Duration::from_secs(1), open_max: Duration::from_secs(8) };

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![Just(Event::Called), Just(Event::Answered), Just(Event::Failed)]
    }

    #[test]
    fn it_opens_tries_once_and_closes() {
        let failed = |circuit: Circuit, now| circuit.next(Event::Failed, now, RULES);
        let open = failed(failed(failed(Circuit::default(), 0), 0), 0);
        assert_eq!(open, Circuit::Open { until: 1_000, times: 1 });
        assert!(!open.admits(999) && open.admits(1_000));
        let trial = open.next(Event::Called, 1_000, RULES);
        assert!(!trial.admits(1_001), "one call at a time finds out");
        let again = failed(trial, 1_500);
        assert_eq!(again, Circuit::Open { until: 3_500, times: 2 }, "twice as long");
        let answered = again.next(Event::Called, 3_500, RULES).next(Event::Answered, 3_501, RULES);
        assert!(answered.is_calm());
    }

    proptest! {
        /// Whatever happens: fewer failures in a row than the rule says do not open it, an open one lets nobody through
        /// before its time, never stays open for longer than the bound, and can always be closed by one good call.
        #[test]
        fn it_never_shuts_anybody_out_for_ever(happenings in prop::collection::vec((event(), 0_u64..3_000), 0..200)) {
            let (mut circuit, mut now, mut in_a_row) = (Circuit::default(), 0, 0);
            for (event, later) in happenings {
                now += later;
                if event == Event::Called && !circuit.admits(now) {
                    continue;
                }
                let before = circuit;
                circuit = circuit.next(event, now, RULES);
                in_a_row = match event {
                    Event::Failed => in_a_row + 1,
                    Event::Answered => 0,
                    Event::Called => in_a_row,
                };
                match circuit {
                    Circuit::Closed { failures } => prop_assert!(failures < RULES.failures),
                    Circuit::Open { until, times } => {
                        let was_closed = matches!(before, Circuit::Closed { .. });
                        prop_assert!(in_a_row >= RULES.failures || !was_closed);
                        prop_assert!(times >= 1 && until <= now + 8_000);
                    }
                    Circuit::Trial { until, .. } => {
                        prop_assert!(until <= now + 8_000);
                        if event == Event::Called {
                            prop_assert!(before.admits(now) && !circuit.admits(now));
                        }
                    }
                }
                let later = now + 8_000;
                prop_assert!(circuit.admits(later));
                prop_assert!(circuit.next(Event::Called, later, RULES).next(Event::Answered, later, RULES).is_calm());
            }
        }
    }
}
