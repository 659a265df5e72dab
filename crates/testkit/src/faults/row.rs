//! What became of everything while one thing was broken.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::fleet::Outcome;

/// What is told in words of one row.
const NOTES_MAX: usize = 12;

/// The row of one fault.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What went wrong.
    pub fault: String,
    /// Messages that were acknowledged.
    pub accepted: usize,
    /// With the answer that belongs to them.
    pub answered: usize,
    /// Ended without one, and said so. Must be none, but as [`MayFail`] has it.
    pub failed: usize,
    /// Of those, the ones whose model broke off.
    pub failed_midway: usize,
    /// Acknowledged (messages, sessions), or happened (events), and not there. Must be none.
    pub lost: usize,
    /// Stored, answered, said to the bot or told to a reader twice. Must be none.
    pub doubled: usize,
    /// Said to the bot, or told to a webhook, in another order than it came. Must be none.
    pub disordered: usize,
    /// Words of one tenant that another one can read. Must be none.
    pub leaked: usize,
    /// Answers that nobody may get, and clients that did not go on. Must be none.
    pub wrong: usize,
    /// Tries that were refused in so many words, or by the machine.
    pub refused: usize,
    /// Tries that nobody answered.
    pub unanswered: usize,
    /// The longest time in which no message was acknowledged to a tenant.
    pub outage: Duration,
    /// What was sent along the way that was broken, where it was one. Must be something.
    pub way_bytes: Option<u64>,
    /// What is not as it should be, in words.
    pub notes: Vec<String>,
    pub(super) may_fail: MayFail,
}

/// Which messages may end without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MayFail {
    #[default]
    None,
    /// Those of which the model was giving an answer: nobody can give the rest of it.
    Midway,
    /// Any: no room is left for bots.
    Any,
}

impl Row {
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.accepted += outcome.accepted;
        self.answered += outcome.answered;
        self.failed += outcome.failed.len();
        self.failed_midway += outcome.failed.iter().filter(|failed| failed.midway).count();
        self.lost += outcome.lost;
        self.doubled += outcome.doubled;
        self.disordered += outcome.disordered;
        self.leaked += outcome.leaked;
        self.wrong += outcome.tries.wrong;
        self.refused += outcome.tries.refused;
        self.unanswered += outcome.tries.unanswered;
        self.outage = self.outage.max(outcome.tries.outage);
        self.notes.extend(outcome.notes);
        self.notes.extend(outcome.failed.into_iter().map(|failed| failed.note));
        self.notes.extend(outcome.tries.notes);
    }

    pub(super) fn note_wrong(&mut self, what: String) {
        self.wrong += 1;
        self.notes.push(what);
    }

    /// Whether nothing happened that must not, and what was broken was in use.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let none = [self.lost, self.doubled, self.disordered, self.leaked, self.wrong];
        let may_fail = match self.may_fail {
            MayFail::None => 0,
            MayFail::Midway => self.failed_midway,
            MayFail::Any => self.failed,
        };
        self.accepted > 0
            && self.answered + self.failed == self.accepted
            && none.into_iter().all(|count| count == 0)
            && self.failed <= may_fail
            && self.way_bytes != Some(0)
    }

    /// The names above the columns of [`Row::line`].
    #[must_use]
    pub fn head() -> String {
        let names = "accepted answered failed lost doubled disordered leaked wrong refused unanswered outage(s)";
        columns("fault", names.split(' ').map(str::to_owned))
    }

    /// As a line of a table, and what is wrong below it.
    #[must_use]
    pub fn line(&self) -> String {
        let counts = [
            self.accepted,
            self.answered,
            self.failed,
            self.lost,
            self.doubled,
            self.disordered,
            self.leaked,
            self.wrong,
            self.refused,
            self.unanswered,
        ];
        let outage = format!("{:.1}", self.outage.as_secs_f64());
        let mut line = columns(&self.fault, counts.into_iter().map(|count| count.to_string()).chain([outage]));
        if self.way_bytes == Some(0) {
            line.push_str("\n    nothing was sent along the way that was broken");
        }
        if !self.is_good() {
            for note in self.notes.iter().take(NOTES_MAX) {
                let _ = write!(line, "\n    {note}");
            }
        }
        line
    }

    /// As the file of figures has it.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "fault": self.fault,
            "accepted": self.accepted,
            "answered": self.answered,
            "failed": self.failed,
            "failed_midway": self.failed_midway,
            "lost": self.lost,
            "doubled": self.doubled,
            "disordered": self.disordered,
            "leaked": self.leaked,
            "wrong": self.wrong,
            "refused": self.refused,
            "unanswered": self.unanswered,
            "outage_ms": u64::try_from(self.outage.as_millis()).unwrap_or(u64::MAX),
            "way_bytes": self.way_bytes,
            "good": self.is_good(),
            "notes": self.notes.iter().take(NOTES_MAX).collect::<Vec<_>>(),
        })
    }
}

fn columns(first: &str, others: impl Iterator<Item = String>) -> String {
    let mut line = format!("{first:<42}");
    for other in others {
        let _ = write!(line, "{other:>11}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Row {
        Row { accepted: 3, answered: 3, refused: 4, unanswered: 2, way_bytes: Some(9), ..Row::default() }
    }

    #[test]
    fn a_row_is_good_where_all_is_answered_once_and_the_way_was_used() {
        assert!(good().is_good());
        let bad = [
            Row { answered: 2, lost: 1, ..good() },
            Row { answered: 2, failed: 1, ..good() },
            Row { doubled: 1, ..good() },
            Row { disordered: 1, ..good() },
            Row { leaked: 1, ..good() },
            Row { wrong: 1, ..good() },
            Row { way_bytes: Some(0), ..good() },
            Row::default(),
        ];
        for row in bad {
            assert!(!row.is_good(), "{row:?}");
        }
        let failed = Row { answered: 2, failed: 1, ..good() };
        assert!(Row { may_fail: MayFail::Any, ..failed.clone() }.is_good());
        assert!(!Row { may_fail: MayFail::Midway, ..failed.clone() }.is_good());
        let midway = Row { failed_midway: 1, ..failed };
        assert!(Row { may_fail: MayFail::Midway, ..midway.clone() }.is_good());
        assert!(!midway.is_good());
    }
}
