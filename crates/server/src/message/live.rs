//! What a message's stream has said so far, and says from now on. Whoever reads does so at their own pace: nothing in
//! here ever waits for a reader.
//!
//! A position in a stream is `<events>-<bytes>`: how many events were seen that can be told again from what is stored, and
//! how many bytes of text. Both mean the same after a restart, so a reader goes on where it was even if the memory is lost.
//! States and interruptions are not stored, and not counted.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    Error,
    attachment::Attachment,
    id::{MessageId, SessionId},
    message::{Exchange, Failure, Message, State},
};
use futures_util::{Stream, stream};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use crate::problem::Problem;

/// Finished streams that are kept, at the most.
const KEPT_MAX: usize = 1_024;
/// And their bytes.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A place in a stream: what stands after it is still to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    events: usize,
    bytes: usize,
}

impl Position {
    /// Behind everything but the end, which is always told.
    pub const END: Self = Self { events: usize::MAX, bytes: usize::MAX };
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.events, self.bytes)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.split_once('-')
            .and_then(|(events, bytes)| Some(Self { events: events.parse().ok()?, bytes: bytes.parse().ok()? }))
            .ok_or_else(|| {
                Error::invalid("Last-Event-ID", "is not one of ours: send the `id` of the last event unchanged")
            })
    }
}

/// One event, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The position behind it.
    pub id: String,
    /// `delta`, `done`, …
    pub name: &'static str,
    /// A JSON object.
    pub data: String,
    /// Nothing comes after it.
    pub last: bool,
}

impl Said {
    /// All names of events.
    pub const NAMES: [&'static str; 7] = ["accepted", "state", "delta", "attachment", "done", "failed", "interrupted"];
    /// Those after which nothing comes.
    pub const LAST: [&'static str; 3] = ["done", "failed", "interrupted"];
}

/// How far a message has come, as the stream tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for its turn.
    Queued,
    /// It waits for the bot.
    Waking,
    /// It is being given to the bot.
    Delivering,
    /// The answer has begun.
    Streaming,
}

impl Progress {
    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waking => "waking",
            Self::Delivering => "delivering",
            Self::Streaming => "streaming",
        }
    }
}

/// How a stream ends.
#[derive(Clone, Debug)]
pub enum End {
    /// With the answer; with the message itself where a person answers.
    Done(Box<Message>),
    /// Without one.
    Failed(Failure),
    /// Cut off.
    Interrupted,
}

impl End {
    /// As it is stored; none where the message is not at an end.
    #[must_use]
    pub fn stored(exchange: &Exchange) -> Option<Self> {
        let message = &exchange.message;
        Some(match message.state {
            State::Accepted | State::Delivering | State::Streaming => return None,
            State::Done => Self::Done(Box::new(exchange.reply.as_ref().unwrap_or(message).clone())),
            State::Interrupted => Self::Interrupted,
            State::Failed | State::Blocked => Self::Failed(message.failure.clone().unwrap_or_else(|| Failure {
                code: "blocked".to_owned(),
                detail: "this message was not let through to the bot".to_owned(),
            })),
        })
    }
}

const STATE: &str = "state";
const INTERRUPTED: &str = "interrupted";

/// An event other than a piece of text.
struct Entry {
    name: &'static str,
    data: String,
    /// How much of the text stands before it.
    at: usize,
}

impl Entry {
    /// Whether a position counts it.
    fn is_counted(&self) -> bool {
        self.name != STATE && self.name != INTERRUPTED
    }
}

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    text: String,
    progress: Option<Progress>,
    ended: bool,
    interrupted: bool,
}

impl Log {
    fn push(&mut self, name: &'static str, data: &serde_json::Value) {
        self.entries.push(Entry { name, data: data.to_string(), at: self.text.len() });
    }

    /// Where whoever has come to `position` goes on. Of states only the last one is news to them.
    fn index_after(&self, position: Position) -> usize {
        let Some(last) = position.events.checked_sub(1) else { return 0 };
        let mut counted = self.entries.iter().enumerate().filter(|(_, entry)| entry.is_counted());
        let Some((seen, _)) = counted.nth(last) else { return usize::MAX };
        let rest = &self.entries[seen + 1..];
        let is_old = |index: &usize| {
            rest[*index].name == STATE
                && (rest[*index].at < position.bytes || rest.get(index + 1).is_some_and(|entry| entry.name == STATE))
        };
        seen + 1 + (0..rest.len()).take_while(is_old).count()
    }

    fn after(&self, cursor: &mut Cursor) -> Option<Said> {
        let Cursor { index, position } = cursor;
        // The end is always told, also to a reader who counted otherwise before.
        if self.ended {
            *index = (*index).min(self.entries.len() - 1);
        }
        let entry = self.entries.get(*index);
        let end = entry.map_or(self.text.len(), |entry| entry.at);
        if position.bytes < end {
            let from = position.bytes;
            position.bytes = end;
            if let Some(text) = self.text.get(from..end) {
                return Some(said("delta", json!({ "text": text }).to_string(), *position, false));
            }
            // Not a place between two characters: this reader had another text before a restart, and is told the
            // whole one in the end.
        }
        let entry = entry?;
        *index += 1;
        let seen = self.entries[..*index].iter().filter(|entry| entry.is_counted()).count();
        position.events = position.events.max(seen);
        let last = self.ended && *index == self.entries.len();
        Some(said(entry.name, entry.data.clone(), *position, last))
    }
}

/// Where a reader is in the log of one process.
struct Cursor {
    index: usize,
    position: Position,
}

fn said(name: &'static str, data: String, position: Position, last: bool) -> Said {
    Said { id: position.to_string(), name, data, last }
}

/// The stream of one message.
pub struct Live {
    message: MessageId,
    log: Mutex<Log>,
    changed: watch::Sender<()>,
}

impl Live {
    fn new(message: &MessageId, session: &SessionId) -> Self {
        let mut log = Log::default();
        log.push("accepted", &json!({ "message_id": message, "session_id": session }));
        Self { message: message.clone(), log: Mutex::new(log), changed: watch::Sender::new(()) }
    }

    /// The stream of a message whose life is over, from what is stored, with the files of its answer. `None` while it is not
    /// over.
    #[must_use]
    pub fn rebuilt(exchange: &Exchange, files: &[Attachment]) -> Option<Self> {
        let end = End::stored(exchange)?;
        let live = Self::new(&exchange.message.id, &exchange.message.session_id);
        if let Some(reply) = &exchange.reply {
            live.text(&reply.text);
        }
        for file in files {
            live.attachment(file);
        }
        live.finish(&end);
        Some(live)
    }

    /// A stream that says nothing but that it was cut off.
    #[must_use]
    pub fn cut_off(message: &MessageId) -> Self {
        let live = Self { message: message.clone(), log: Mutex::default(), changed: watch::Sender::new(()) };
        live.finish(&End::Interrupted);
        live
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Log)) {
        let mut log = self.lock();
        if !log.ended {
            change(&mut log);
        }
        drop(log);
        self.changed.send_replace(());
    }

    /// Tells how far it has come; the same twice is told once.
    pub fn progress(&self, progress: Progress) {
        self.change(|log| {
            if log.progress != Some(progress) {
                log.progress = Some(progress);
                log.push(STATE, &json!({ "state": progress.name() }));
            }
        });
    }

    /// The same where nothing was told of it before.
    pub fn progress_if_none(&self, progress: Progress) {
        let is_new = self.lock().progress.is_none();
        if is_new {
            self.progress(progress);
        }
    }

    /// Tells a piece of the answer.
    pub fn text(&self, piece: &str) {
        if !piece.is_empty() {
            self.change(|log| log.text.push_str(piece));
        }
    }

    /// Tells the rest of an answer, where what was told is its beginning.
    pub fn rest_of(&self, whole: &str) {
        self.change(|log| {
            if let Some(rest) = whole.strip_prefix(log.text.as_str()) {
                log.text.push_str(rest);
            }
        });
    }

    /// Tells of a file.
    pub fn attachment(&self, attachment: &Attachment) {
        let data = json!({
            "attachment_id": attachment.id, "name": attachment.name, "media_type": attachment.media_type,
        });
        self.change(|log| log.push("attachment", &data));
    }

    fn finish(&self, end: &End) {
        let (name, data) = match end {
            End::Done(message) => ("done", json!({ "message": message, "usage": message.usage })),
            End::Failed(failure) => ("failed", json!(Problem::of_failure(failure))),
            End::Interrupted => (INTERRUPTED, json!({ "message_id": self.message })),
        };
        self.change(|log| {
            log.push(name, &data);
            log.ended = true;
            log.interrupted = matches!(end, End::Interrupted);
        });
    }

    /// Whether it has ended, with or without an answer.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    fn bytes(&self) -> usize {
        let log = self.lock();
        log.text.len() + log.entries.iter().map(|entry| entry.data.len()).sum::<usize>()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let mut changed = self.changed.subscribe();
        // It fails only when the sender is gone, which is in `self`.
        changed.wait_for(|()| self.has_ended()).await.ok();
    }

    /// Everything after `position`, as it comes, to the end.
    pub fn follow(self: Arc<Self>, position: Position) -> impl Stream<Item = Said> + Send + use<> {
        let changed = self.changed.subscribe();
        let cursor = Cursor { index: self.lock().index_after(position), position };
        stream::unfold((self, changed, cursor, false), async |(live, mut changed, mut cursor, over)| {
            if over {
                return None;
            }
            loop {
                changed.borrow_and_update();
                let said = live.lock().after(&mut cursor);
                if let Some(said) = said {
                    let over = said.last;
                    return Some((said, (live, changed, cursor, over)));
                }
                changed.changed().await.ok()?;
            }
        })
    }
}

/// The streams of all messages that are under way in this process, and of those that ended a short while ago.
pub struct Lives {
    keep: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    streams: HashMap<MessageId, Arc<Live>>,
    ended: VecDeque<(Instant, Arc<Live>, usize)>,
    ended_bytes: usize,
}

impl Known {
    fn forget_old(&mut self, keep: Duration) {
        while let Some((since, ..)) = self.ended.front() {
            let too_many = self.ended.len() > KEPT_MAX || self.ended_bytes > KEPT_BYTES_MAX;
            if since.elapsed() < keep && !too_many {
                return;
            }
            if let Some((_, live, bytes)) = self.ended.pop_front() {
                self.ended_bytes -= bytes;
                // A message may have a newer stream than this one.
                if self.streams.get(&live.message).is_some_and(|current| Arc::ptr_eq(current, &live)) {
                    self.streams.remove(&live.message);
                }
            }
        }
    }
}

impl Lives {
    /// Keeps a stream for so long after its end.
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        Self { keep, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream of a message that is under way; a new one where there is none that has not ended.
    pub fn open(&self, message: &MessageId, session: &SessionId) -> Arc<Live> {
        let mut known = self.lock();
        known.forget_old(self.keep);
        if let Some(live) = known.streams.get(message).filter(|live| !live.has_ended()) {
            return Arc::clone(live);
        }
        let live = Arc::new(Live::new(message, session));
        known.streams.insert(message.clone(), Arc::clone(&live));
        live
    }

    /// The stream of a message, if it can be read from here. One that was interrupted cannot: it may be repaired by now.
    pub fn get(&self, message: &MessageId) -> Option<Arc<Live>> {
        let mut known = self.lock();
        known.forget_old(self.keep);
        known.streams.get(message).filter(|live| !live.lock().interrupted).cloned()
    }

    /// Ends a stream, if there is one that has not ended.
    pub fn end(&self, message: &MessageId, end: &End) {
        let mut known = self.lock();
        let Some(live) = known.streams.get(message).filter(|live| !live.has_ended()).cloned() else { return };
        live.finish(end);
        let bytes = live.bytes();
        known.ended_bytes += bytes;
        known.ended.push_back((Instant::now(), live, bytes));
        known.forget_old(self.keep);
    }

    /// A stream that was interrupted has no more to tell: what is stored tells the rest.
    pub fn forget_interrupted(&self, message: &MessageId) {
        let mut known = self.lock();
        if known.streams.get(message).is_some_and(|live| live.lock().interrupted) {
            known.streams.remove(message);
        }
    }

    /// Tells everybody who reads that it ends here.
    pub fn interrupt_all(&self) {
        let open: Vec<MessageId> = self.lock().streams.keys().cloned().collect();
        for message in open {
            self.end(&message, &End::Interrupted);
        }
    }
}
