//! The streams of another process: one event a line, as JSON, an empty line every few seconds. A reader who reads slowly
//! slows the line down, and with it nothing but itself: the other process keeps a message's log for its own readers
//! anyway.

use std::{sync::Arc, time::Duration};

use astrfleet_core::id::{MessageId, TenantId};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Service,
    live::{Live, Position, Said},
};
use crate::{internal, problem::chain};

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Who says nothing for so long is not: the process was stopped, or the network is cut.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a stop may take there.
const STOP_MAX: Duration = Duration::from_secs(15);
/// The longest event: an answer, twice in JSON, each of whose characters may take six.
const LINE_MAX: usize = 16 * 1024 * 1024;
/// Where the reader goes on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A line.
#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    name: String,
    data: String,
}

impl Line {
    fn said(self) -> Option<Said> {
        let name = Said::NAMES.into_iter().find(|name| **name == self.name)?;
        let last = Said::LAST.contains(&name);
        Some(Said { id: self.id, name, data: self.data, last })
    }
}

/// Events as lines, as long as somebody reads them.
pub(super) fn lines(said: impl Stream<Item = Said> + Send + 'static) -> impl Stream<Item = Bytes> + Send {
    stream::unfold((Box::pin(said), interval(KEEP_ALIVE)), async |(mut said, mut alive)| {
        let line = tokio::select! {
            biased;
            next = said.next() => written(next?),
            _ = alive.tick() => Bytes::from_static(b"\n"),
        };
        Some((line, (said, alive)))
    })
}

fn written(said: Said) -> Bytes {
    let line = Line { id: said.id, name: said.name.to_owned(), data: said.data };
    // Three texts can always be written.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// Lines as they come in.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    /// Where no line ends in front of.
    searched: usize,
}

impl Lines {
    /// Takes more in. Returns whether that was not too much.
    fn take(&mut self, piece: &[u8]) -> bool {
        self.buffer.extend_from_slice(piece);
        self.buffer.len() <= LINE_MAX
    }

    /// The next event; `Err` for what is none. Lines without anything in them, and events of a newer release, are left
    /// out.
    fn next(&mut self) -> Result<Option<Said>, serde_json::Error> {
        while let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(self.searched + at);
            self.buffer.advance(1);
            self.searched = 0;
            if line.is_empty() {
                continue;
            }
            if let Some(said) = serde_json::from_slice::<Line>(&line)?.said() {
                return Ok(Some(said));
            }
        }
        self.searched = self.buffer.len();
        Ok(None)
    }
}

/// A stream that another process sends.
struct Remote {
    body: internal::Body,
    lines: Lines,
    message: MessageId,
    position: Position,
    draining: CancellationToken,
}

impl Remote {
    /// The next event; none where it broke off.
    async fn next(&mut self) -> Option<Said> {
        loop {
            match self.lines.next() {
                Ok(Some(said)) => return Some(said),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(message_id = %self.message, %error, "another process sends what is no stream");
                    return None;
                }
            }
            let frame = tokio::select! {
                () = self.draining.cancelled() => return None,
                frame = timeout(SILENCE_MAX, self.body.frame()) => frame.ok()??.ok()?,
            };
            if let Ok(piece) = frame.into_data()
                && !self.lines.take(&piece)
            {
                return None;
            }
        }
    }

    /// All of it. Where it breaks off before its end, that is told: the reader finds the rest in the store, or where the
    /// queue is then.
    fn follow(self) -> BoxStream<'static, Said> {
        let read = stream::unfold(Some(self), async |remote| {
            let mut remote = remote?;
            let Some(said) = remote.next().await else {
                let cut_off = Arc::new(Live::cut_off(&remote.message));
                let mut end = Box::pin(cut_off.follow(remote.position));
                return Some((end.next().await?, None));
            };
            if let Ok(position) = said.id.parse() {
                remote.position = position;
            }
            let next = if said.last { None } else { Some(remote) };
            Some((said, next))
        });
        read.boxed()
    }
}

impl Service {
    /// The stream of a message after `position`, from the process at `url`. None where that does not have it, or does not
    /// answer.
    pub(super) async fn read_from(
        &self,
        url: &str,
        tenant: &TenantId,
        message: &MessageId,
        position: Position,
    ) -> Option<BoxStream<'static, Said>> {
        if url.is_empty() {
            return None;
        }
        let mut headers = HeaderMap::new();
        headers.insert(LAST_EVENT_ID, HeaderValue::try_from(position.to_string()).ok()?);
        let target = format!("/internal/v1/live/{tenant}/{message}");
        let answer = match timeout(SILENCE_MAX, self.base.peers.get(url, &target, headers)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(%url, error = chain(&error), "a queue's owner does not answer");
                return None;
            }
            Err(_) => return None,
        };
        if answer.status() != StatusCode::OK {
            return None;
        }
        let remote = Remote {
            body: answer.into_body(),
            lines: Lines::default(),
            message: message.clone(),
            position,
            draining: self.draining.clone(),
        };
        Some(remote.follow())
    }

    /// Has the process at `url` stop a message. Returns whether it did.
    pub(super) async fn stop_at(&self, url: &str, tenant: &TenantId, message: &MessageId) -> bool {
        if url.is_empty() {
            return false;
        }
        let target = format!("/internal/v1/live/{tenant}/{message}/stop");
        let nothing = serde_json::json!({});
        let stop = self.base.peers.post_json(url, &target, &nothing);
        match timeout(STOP_MAX, stop).await {
            Ok(Ok(answer)) => answer.status().is_success(),
            Ok(Err(error)) => {
                tracing::debug!(%url, error = chain(&error), "a queue's owner does not answer");
                false
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use proptest::prelude::*;

    use super::{Lines, lines, written};
    use crate::message::live::Said;

    fn said() -> impl Strategy<Value = Said> {
        (prop::sample::select(Said::NAMES.to_vec()), "[0-9]-[0-9]", "\\PC{0,40}").prop_map(|(name, id, data)| Said {
            id,
            name,
            data,
            last: Said::LAST.contains(&name),
        })
    }

    proptest! {
        /// However the network cuts it into pieces.
        #[test]
        fn what_is_written_is_read(said in prop::collection::vec(said(), 0..8), size in 1_usize..40) {
            let text: Vec<u8> = said.iter().flat_map(|said| [b"\n".as_slice(), &written(said.clone())].concat()).collect();
            let (mut lines, mut read) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                prop_assert!(lines.take(piece));
                while let Some(said) = lines.next().unwrap() {
                    read.push(said);
                }
            }
            prop_assert_eq!(read, said);
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_and_what_is_none_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.take(b"{\"id\":\"1-0\",\"name\":\"newer\",\"data\":\"\"}\n\n"));
        assert_eq!(lines.next().unwrap(), None);
        assert!(lines.take(b"<html>\n"));
        assert!(lines.next().is_err());
        assert!(!Lines::default().take(&vec![b'x'; super::LINE_MAX + 1]), "and what has no end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_that_it_is_alive() {
        let mut lines = Box::pin(lines(stream::pending()));
        for _ in 0..3 {
            assert_eq!(lines.next().await.unwrap(), "\n");
        }
    }
}
