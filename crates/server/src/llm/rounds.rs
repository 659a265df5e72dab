//! One round of writing the ledger: which lines are written together, in which order, and what becomes of those that the
//! store does not take. No tenant waits for another one's lines, and no line for one that can never be written.

use astrfleet_core::{Error, Result};

/// Failures in a row after which it is the store that is away, and not some tenants whose lines it does not take.
const AWAY_AFTER: u32 = 3;
/// Refusals of a line by itself after which it is left out.
const REFUSALS_MAX: u32 = 5;

/// Something that is to be written.
pub(super) struct Waiting<T> {
    line: T,
    /// How often it could not be.
    failures: u32,
    /// How often the store said that it never will be.
    refusals: u32,
}

/// What came of a round.
pub(super) struct Round<T> {
    /// What waits for the next one.
    pub(super) unwritten: Vec<Waiting<T>>,
    /// What can never be written, by batches.
    pub(super) left_out: Vec<(Vec<T>, Error)>,
    /// The last reason for which something waits.
    pub(super) error: Option<Error>,
}

impl<T> Waiting<T> {
    pub(super) fn new(line: T) -> Self {
        Self { line, failures: 0, refusals: 0 }
    }
}

/// Writes what waits: lines of the same `batch` together, those that failed before after all others.
pub(super) async fn round<T, K, F>(
    mut waiting: Vec<Waiting<T>>,
    batch: impl Fn(&T) -> K,
    write: impl Fn(Vec<T>) -> F,
) -> Round<T>
where
    T: Clone,
    K: Ord,
    F: Future<Output = Result<()>>,
{
    waiting.sort_by_cached_key(|waiting| (waiting.failures, batch(&waiting.line)));
    let mut round = Round { unwritten: Vec::new(), left_out: Vec::new(), error: None };
    // The next one is the last of it: parts of a batch go on where the batch was.
    let mut parts =
        chunks(waiting, |one, other| (one.failures, batch(&one.line)) == (other.failures, batch(&other.line)));
    parts.reverse();
    let mut failures_in_a_row = 0;
    while let Some(mut part) = parts.pop() {
        if failures_in_a_row >= AWAY_AFTER {
            round.unwritten.append(&mut part);
            continue;
        }
        let Err(error) = write(part.iter().map(|waiting| waiting.line.clone()).collect()).await else {
            failures_in_a_row = 0;
            continue;
        };
        if error.retryable() {
            failures_in_a_row += 1;
            for waiting in &mut part {
                waiting.failures += 1;
            }
            round.unwritten.append(&mut part);
            round.error = Some(error);
            continue;
        }
        // Whoever is to be billed is gone, and with them all of it.
        let is_gone = matches!(error, Error::NotFound { .. });
        if !is_gone && part.len() > 1 {
            // One of them is to blame: halves are tried until it stands alone.
            let rest = part.split_off(part.len() / 2);
            parts.extend([rest, part]);
            continue;
        }
        for waiting in &mut part {
            waiting.failures += 1;
            waiting.refusals += 1;
        }
        if is_gone || part.iter().all(|waiting| waiting.refusals >= REFUSALS_MAX) {
            round.left_out.push((part.into_iter().map(|waiting| waiting.line).collect(), error));
        } else {
            round.unwritten.append(&mut part);
            round.error = Some(error);
        }
    }
    round
}

fn chunks<T>(all: Vec<T>, same: impl Fn(&T, &T) -> bool) -> Vec<Vec<T>> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    for one in all {
        match chunks.last_mut() {
            Some(chunk) if chunk.last().is_some_and(|last| same(last, &one)) => chunk.push(one),
            _ => chunks.push(vec![one]),
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A line of a tenant.
    type Line = (&'static str, u32);

    fn lines(lines: &[Line]) -> Vec<Waiting<Line>> {
        lines.iter().copied().map(Waiting::new).collect()
    }

    fn of<T: Copy>(waiting: &[Waiting<T>]) -> Vec<T> {
        waiting.iter().map(|waiting| waiting.line).collect()
    }

    #[tokio::test]
    async fn no_tenant_waits_for_another_one() {
        let written = RefCell::new(Vec::new());
        let write = async |lines: Vec<Line>| {
            if lines[0].0 == "a" {
                return Err(Error::unavailable("storage", "locked"));
            }
            written.borrow_mut().extend(lines);
            Ok(())
        };
        let first = round(lines(&[("b", 1), ("a", 1), ("c", 1), ("a", 2)]), |line| line.0, write).await;
        assert_eq!(*written.borrow(), [("b", 1), ("c", 1)]);
        assert_eq!(of(&first.unwritten), [("a", 1), ("a", 2)]);
        assert!(first.error.is_some() && first.left_out.is_empty());
        // The next time, whoever failed comes last.
        let order = RefCell::new(Vec::new());
        let mut waiting = first.unwritten;
        waiting.extend(lines(&[("b", 3)]));
        let second = round(
            waiting,
            |line| line.0,
            async |lines: Vec<Line>| {
                order.borrow_mut().push(lines);
                Ok(())
            },
        )
        .await;
        assert_eq!(*order.borrow(), [vec![("b", 3)], vec![("a", 1), ("a", 2)]]);
        assert!(second.unwritten.is_empty() && second.error.is_none());
    }

    #[tokio::test]
    async fn a_line_that_can_never_be_written_is_left_out_after_its_tries_and_no_other() {
        let written = RefCell::new(Vec::new());
        let write = async |lines: Vec<Line>| {
            if lines.contains(&("a", 3)) {
                return Err(Error::internal("it cannot be held"));
            }
            written.borrow_mut().extend(lines);
            Ok(())
        };
        let mut waiting = lines(&[("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 5), ("b", 1)]);
        for number in 1..=REFUSALS_MAX {
            let round = round(waiting, |line| line.0, write).await;
            assert_eq!(*written.borrow(), [("a", 1), ("a", 2), ("a", 4), ("a", 5), ("b", 1)], "all others, once");
            if number == REFUSALS_MAX {
                assert!(round.unwritten.is_empty() && round.error.is_none());
                assert_eq!(round.left_out.len(), 1);
                assert_eq!(round.left_out[0].0, [("a", 3)]);
                return;
            }
            assert_eq!((of(&round.unwritten), round.left_out.len()), (vec![("a", 3)], 0));
            waiting = round.unwritten;
        }
    }

    #[tokio::test]
    async fn lines_of_a_tenant_that_is_gone_are_left_out_at_once() {
        let write = async |_| Err(Error::NotFound { what: "tenant" });
        let round = round(lines(&[("a", 1), ("a", 2)]), |line| line.0, write).await;
        assert!(round.unwritten.is_empty());
        assert_eq!(round.left_out[0].0, [("a", 1), ("a", 2)]);
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_not_asked_for_each_tenant() {
        let asked = RefCell::new(0);
        let write = async |_: Vec<Line>| {
            *asked.borrow_mut() += 1;
            Err(Error::unavailable("storage", "it is away"))
        };
        let round = round(lines(&[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]), |line| line.0, write).await;
        assert_eq!((*asked.borrow(), round.unwritten.len()), (AWAY_AFTER, 5));
    }
}
