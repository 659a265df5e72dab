//! What is made up: who says what, in which session and when.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use astrfleet_core::{
    id::{Ids, MessageId, SessionId, TenantId},
    ports::testing::{CountingRng, FixedClock},
    search::BLOCK_MESSAGES,
    time::Timestamp,
};

use crate::{
    Outcome,
    said::{FREQUENT, NUMBERED, below, mixed, number_in, text},
};

/// Sessions in which something is said at the same time.
pub(crate) const AT_ONCE: u32 = 64;
const OF_SESSION: u32 = 100;
pub(crate) const WAVE: u32 = AT_ONCE * OF_SESSION;
/// A page of the API.
const PAGE: u32 = 50;
/// Between two messages.
const STEP: Duration = Duration::from_millis(2_500);
/// The newest message is so old: the platform indexes nothing by itself that is younger than an hour.
const AGE: Duration = Duration::from_hours(2);
/// Messages that no block of the index holds, as there are always some.
const UNINDEXED: u32 = 512;
/// How many of each thing that may be asked for are told.
const SAMPLE: u32 = 4_000;

/// What is made up.
pub(crate) struct History {
    pub(crate) tenant: TenantId,
    pub(crate) messages: u32,
    pub(crate) begin: Timestamp,
    pub(crate) sessions: Vec<SessionId>,
    /// The first and the last messages of the index's blocks, by their number.
    pub(crate) edges: HashMap<u32, Option<MessageId>>,
    /// Messages that are told, by their number.
    sample: HashMap<u32, Option<MessageId>>,
}

/// One message.
pub(crate) struct Line<'a> {
    pub(crate) id: MessageId,
    pub(crate) session: &'a SessionId,
    pub(crate) author: &'static str,
    pub(crate) text: String,
    pub(crate) reply_to: Option<&'a MessageId>,
    pub(crate) at: Timestamp,
}

impl History {
    /// `messages` of `tenant`, the last of them said [`AGE`] ago.
    pub(crate) fn new(tenant: TenantId, messages: u32) -> Self {
        let begin = now().minus(AGE).minus(STEP * messages);
        // Ids have the time of what they name.
        let clock = Arc::new(FixedClock::at(0));
        let ids = Ids::new(Arc::clone(&clock) as _, Arc::new(CountingRng::default()));
        let session = |number: u32| {
            clock.set(at(begin, number / AT_ONCE * WAVE));
            ids.session()
        };
        let sessions = (0..messages.div_ceil(WAVE) * AT_ONCE).map(session).collect();
        let edges = blocks(messages).flat_map(|(first, last)| [(first, None), (last, None)]).collect();
        let sample = (0..SAMPLE).map(|number| (sampled(number, messages), None)).collect();
        Self { tenant, messages, begin, sessions, edges, sample }
    }

    /// Makes every message up, in the order in which they were said.
    pub(crate) async fn each(&mut self, mut take: impl AsyncFnMut(Line<'_>) -> Outcome<()>) -> Outcome<()> {
        // Ids have the time of what they name.
        let clock = Arc::new(FixedClock::at(0));
        let ids = Ids::new(Arc::clone(&clock) as _, Arc::new(CountingRng::default()));
        let mut last = None;
        for number in 0..self.messages {
            let moment = at(self.begin, number);
            clock.set(moment);
            let id = ids.message();
            for known in [&mut self.edges, &mut self.sample] {
                if let Some(known) = known.get_mut(&number) {
                    *known = Some(id.clone());
                }
            }
            let (author, reply_to) = if number.is_multiple_of(2) { ("user", None) } else { ("bot", last.as_ref()) };
            let session = &self.sessions[session_of(number) as usize];
            take(Line { id: id.clone(), session, author, text: text(number), reply_to, at: moment }).await?;
            last = Some(id);
        }
        Ok(())
    }

    /// What may be asked for.
    pub(crate) fn told(&self, bytes: i64) -> serde_json::Value {
        let numbers: Vec<u32> = (0..SAMPLE).map(|number| sampled(number, self.messages)).collect();
        let of_session = |number: &u32| self.sessions[session_of(*number) as usize].as_str();
        let message = |number: &u32| self.sample.get(number).and_then(Option::as_ref).map(MessageId::as_str);
        // A page behind a cursor is a whole one, and each sample another.
        let sessions = self.messages.div_ceil(WAVE) * AT_ONCE;
        let cursor = |number: u32| {
            let place = PAGE + below(mixed(number.into()), sessions - PAGE);
            self.sessions[place as usize].as_str()
        };
        let numbered = self.messages / NUMBERED;
        let unique = |number: u32| number_in(below(mixed(number.into()), numbered) * NUMBERED);
        serde_json::json!({
            "bytes": bytes,
            "sessions": numbers.iter().map(of_session).collect::<Vec<_>>(),
            "messages": numbers.iter().map(message).collect::<Vec<_>>(),
            "cursors": (0..SAMPLE).map(cursor).collect::<Vec<_>>(),
            "frequent": FREQUENT,
            "unique": (0..SAMPLE).map(unique).collect::<Vec<_>>(),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "the platform that is measured has the same clock")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

pub(crate) fn at(begin: Timestamp, number: u32) -> Timestamp {
    begin.plus(STEP * number)
}

/// Questions and their answers follow each other; then comes the next session.
pub(crate) fn session_of(number: u32) -> u32 {
    number / WAVE * AT_ONCE + number / 2 % AT_ONCE
}

/// Where a message is in its session.
fn place_of(number: u32) -> u32 {
    number % WAVE / (2 * AT_ONCE) * 2 + number % 2
}

/// The first and the last message of each block. The first block takes what is left over, so that as many messages are in
/// none at the end of every history.
pub(crate) fn blocks(messages: u32) -> impl Iterator<Item = (u32, u32)> {
    let indexed = messages - UNINDEXED;
    let left = indexed % BLOCK_MESSAGES;
    let first = (left > 0).then(|| (0, left - 1));
    first.into_iter().chain((left..indexed).step_by(BLOCK_MESSAGES as usize).map(|at| (at, at + BLOCK_MESSAGES - 1)))
}

/// Which messages are told: such as have a page of older ones in their session.
fn sampled(number: u32, messages: u32) -> u32 {
    let mut seed = u64::from(number);
    loop {
        seed = mixed(seed);
        let number = below(seed, messages);
        if place_of(number) >= PAGE {
            return number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_take_turns_and_are_full() {
        let mut counts = HashMap::<u32, u32>::new();
        for number in 0..2 * WAVE {
            let place = counts.entry(session_of(number)).or_default();
            assert_eq!(place_of(number), *place, "message {number}");
            *place += 1;
        }
        assert_eq!(counts.len(), 2 * AT_ONCE as usize);
        assert!(counts.values().all(|count| *count == OF_SESSION));
    }

    #[test]
    fn blocks_follow_each_other_and_leave_the_newest_out() {
        for messages in [WAVE, 10_000, 10_240 + UNINDEXED] {
            let mut next = 0;
            for (first, last) in blocks(messages) {
                assert!(first == next && last - first < BLOCK_MESSAGES);
                next = last + 1;
            }
            assert_eq!(next, messages - UNINDEXED);
        }
    }
}
