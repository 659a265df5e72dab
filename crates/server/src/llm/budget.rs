//! What a tenant has used of its plan's tokens this month, and what its calls under way may still take. In memory: the
//! ledger is the truth, from which an account is filled. No I/O and no clock here.
//!
//! **Bound.** A call is let in only while what is used and what is reserved leave anything of the plan, so a plan is
//! overspent by no more than the last call let in, and by what the calls under way take beyond their estimates. Who is
//! told that the plan is used up is told the truth: while tokens are left but reserved, the answer is to try again.
//! Where several processes serve one tenant, each learns of the others' calls when it reads the ledger again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use astrfleet_core::time::Timestamp;

/// Of one tenant.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The beginning of the month that `used` is of.
    month: Timestamp,
    used: u64,
    reserved: u64,
    calls: u32,
}

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The month's tokens are used up.
    UsedUp,
    /// Calls under way may take what is left.
    Reserved,
    /// As many calls are under way as there may be.
    Calls,
}

impl Account {
    /// Takes in what the ledger says was used since the beginning of `month`. What is known beyond that is kept: it may not be
    /// written yet.
    pub(super) fn learn(&self, month: Timestamp, used: u64) {
        let mut state = self.lock();
        state.turn(month);
        if state.month == month {
            state.used = state.used.max(used);
        }
    }

    /// Lets a call in that will take some `estimate` tokens.
    pub(super) fn reserve(
        self: &Arc<Self>,
        month: Timestamp,
        tokens_max: u64,
        calls_max: u32,
        estimate: u64,
    ) -> Result<Reservation, Refused> {
        let mut state = self.lock();
        state.turn(month);
        if state.used >= tokens_max {
            return Err(Refused::UsedUp);
        }
        if state.calls >= calls_max {
            return Err(Refused::Calls);
        }
        if state.used.saturating_add(state.reserved) >= tokens_max {
            return Err(Refused::Reserved);
        }
        state.calls += 1;
        state.reserved = state.reserved.saturating_add(estimate);
        Ok(Reservation { account: Arc::clone(self), estimate })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A new month begins with nothing used.
    fn turn(&mut self, month: Timestamp) {
        if month > self.month {
            (self.month, self.used) = (month, 0);
        }
    }
}

/// One call's part, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    account: Arc<Account>,
    estimate: u64,
}

impl Reservation {
    /// Counts what the call took, and gives the rest back.
    pub(super) fn settle(self, month: Timestamp, tokens: u64) {
        let mut state = self.account.lock();
        state.turn(month);
        state.used = state.used.saturating_add(tokens);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.account.lock();
        state.calls = state.calls.saturating_sub(1);
        state.reserved = state.reserved.saturating_sub(self.estimate);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use astrfleet_core::time::Timestamp;
    use proptest::prelude::*;

    use super::{Account, Refused};

    const MONTH: Timestamp = Timestamp::from_micros(1);
    const NEXT_MONTH: Timestamp = Timestamp::from_micros(2);

    #[derive(Clone, Debug)]
    enum Step {
        Call { estimate: u64 },
        End { which: usize, took: u64 },
        Abandon { which: usize },
        Read,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_u64..300).prop_map(|estimate| Step::Call { estimate }),
            (any::<usize>(), 0_u64..400).prop_map(|(which, took)| Step::End { which, took }),
            any::<usize>().prop_map(|which| Step::Abandon { which }),
            Just(Step::Read),
        ]
    }

    proptest! {
        #[test]
        fn never_overspent_beyond_the_bound_and_never_called_used_up_while_it_is_not(
            tokens_max in 1_u64..2_000,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let account = Arc::new(Account::default());
            let (mut running, mut used, mut beyond_estimates, mut largest) = (Vec::new(), 0_u64, 0_u64, 0_u64);
            for step in steps {
                match step {
                    Step::Call { estimate } => match account.reserve(MONTH, tokens_max, 8, estimate) {
                        Ok(reservation) => {
                            prop_assert!(used < tokens_max && running.len() < 8);
                            largest = largest.max(estimate);
                            running.push((reservation, estimate));
                        }
                        Err(Refused::UsedUp) => prop_assert!(used >= tokens_max),
                        Err(Refused::Calls) => prop_assert_eq!(running.len(), 8),
                        Err(Refused::Reserved) => prop_assert!(!running.is_empty() && used < tokens_max),
                    },
                    Step::End { which, took } if !running.is_empty() => {
                        let (reservation, estimate) = running.swap_remove(which % running.len());
                        reservation.settle(MONTH, took);
                        used += took;
                        beyond_estimates += took.saturating_sub(estimate);
                    }
                    Step::Abandon { which } if !running.is_empty() => {
                        running.swap_remove(which % running.len());
                    }
                    // The ledger may know less than we do, never more than was used.
                    Step::Read => account.learn(MONTH, used / 2),
                    Step::End { .. } | Step::Abandon { .. } => {}
                }
                prop_assert!(used < tokens_max + largest + beyond_estimates, "{used} of {tokens_max}");
            }
        }
    }

    #[test]
    fn a_new_month_begins_with_nothing_used() {
        let account = Arc::new(Account::default());
        account.learn(MONTH, 100);
        assert_eq!(account.reserve(MONTH, 100, 1, 1).unwrap_err(), Refused::UsedUp);
        let late = account.reserve(NEXT_MONTH, 100, 1, 1).unwrap();
        late.settle(NEXT_MONTH, 99);
        account.learn(MONTH, 1_000);
        assert!(account.reserve(NEXT_MONTH, 100, 1, 1).is_ok(), "last month's ledger says nothing of this one");
    }
}
