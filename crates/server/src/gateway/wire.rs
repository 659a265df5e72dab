//! One HTTP/1.1 connection to an upstream, for requests without a body: most of them. Whoever waits for the answer drives
//! it, so that passing such a request on takes no task, no channel and no second copy of its head.
//!
//! Framing is RFC 9112 §6, strictly: an answer whose end is in doubt is an error, or ends its connection. What is asked, and
//! what an answer means, is decided elsewhere.

use std::{
    future::poll_fn,
    io,
    mem::{self, MaybeUninit},
    ops::Range,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request,
};
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use super::{
    chunked::{Chunked, Decoded},
    connection::Socket,
    headers,
    upstream::Place,
};

/// Of an answer's head.
const HEADERS_MAX: usize = 100;
const HEAD_BYTES_MAX: usize = 48 << 10;
const READ_BYTES: usize = 8 << 10;
/// Informational answers (1xx) before the answer.
const INFORMATIONAL_MAX: usize = 16;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection ended, or broke.
    #[error("the connection ended")]
    Broken(#[source] io::Error),
    /// What came is not HTTP/1.1.
    #[error("the answer is not valid HTTP: {0}")]
    Invalid(&'static str),
}

/// A connection, between two requests or in one.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket<Place>,
    question: Question,
    sent: usize,
    informational: usize,
    buffer: BytesMut,
}

/// The head of a request as it goes out.
#[derive(Debug, Default)]
pub(super) struct Question {
    bytes: Vec<u8>,
    method: Method,
}

/// Where an answer's body ends.
#[derive(Debug)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// Where its chunks say.
    Chunked(Chunked),
    /// With the connection.
    Close,
}

/// An answer's head, and what follows it.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) framing: Framing,
    /// The connection may carry another request after the body.
    pub(super) keep: bool,
}

impl Question {
    /// Writes `head` down; there is no body, whatever it says of one.
    pub(super) fn write(&mut self, head: &request::Parts) {
        self.method.clone_from(&head.method);
        let mut says_length = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        let bytes = &mut self.bytes;
        bytes.clear();
        bytes.extend_from_slice(head.method.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(head.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &head.headers {
            if *name == CONTENT_LENGTH {
                says_length = true;
                continue;
            }
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        if says_length {
            bytes.extend_from_slice(b"content-length: 0\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
    }
}

impl Wire {
    pub(super) fn new(socket: Socket<Place>) -> Self {
        Self { socket, question: Question::default(), sent: 0, informational: 0, buffer: BytesMut::new() }
    }

    /// Nothing has come since the last answer, not even the end. Looks at what the runtime knows, asks the system nothing.
    pub(super) fn is_quiet(&self) -> bool {
        self.socket.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// What will go out with the next [`Wire::answer`].
    pub(super) fn question(&mut self) -> &mut Question {
        self.sent = 0;
        self.informational = 0;
        &mut self.question
    }

    /// The question, for another connection, if the upstream cannot have acted on it or acting `twice` does no harm.
    pub(super) fn take_question(&mut self, twice: bool) -> Option<Question> {
        (self.sent == 0 || twice).then(|| mem::take(&mut self.question))
    }

    /// Sends the question and waits for the head of its answer.
    pub(super) async fn answer(&mut self) -> Result<Answer, WireError> {
        poll_fn(|context| self.poll_answer(context)).await
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, WireError>> {
        while self.sent < self.question.bytes.len() {
            let rest = &self.question.bytes[self.sent..];
            match ready!(Pin::new(&mut self.socket).poll_write(context, rest)) {
                Ok(0) => return Poll::Ready(Err(WireError::Broken(io::ErrorKind::WriteZero.into()))),
                Ok(written) => self.sent += written,
                Err(error) => return Poll::Ready(Err(WireError::Broken(error))),
            }
        }
        loop {
            while !self.buffer.is_empty() {
                match self.parse() {
                    Ok(Some(answer)) if answer.head.status().is_informational() => {
                        if answer.head.status() == StatusCode::SWITCHING_PROTOCOLS {
                            return Poll::Ready(Err(WireError::Invalid(
                                "it switches protocols, which nobody asked for",
                            )));
                        }
                        self.informational += 1;
                        if self.informational > INFORMATIONAL_MAX {
                            return Poll::Ready(Err(WireError::Invalid("it is announced too often")));
                        }
                    }
                    Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                    Ok(None) => break,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if self.buffer.len() >= HEAD_BYTES_MAX {
                return Poll::Ready(Err(WireError::Invalid("its head is too long")));
            }
            match ready!(self.poll_fill(context)) {
                Ok(0) => return Poll::Ready(Err(WireError::Broken(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => (),
                Err(error) => return Poll::Ready(Err(WireError::Broken(error))),
            }
        }
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(READ_BYTES);
        poll_read_buf(Pin::new(&mut self.socket), context, &mut self.buffer)
    }

    /// The head at the beginning of the buffer, which is taken off; nothing if it is not all there yet.
    fn parse(&mut self) -> Result<Option<Answer>, WireError> {
        let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut found = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut found, &self.buffer, &mut slots);
        let length = match parsed {
            // One read may have brought more than a head may have.
            Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
            Ok(httparse::Status::Complete(_)) => return Err(WireError::Invalid("its head is too long")),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(WireError::Invalid("its head cannot be read")),
        };
        let status = found.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(WireError::Invalid("its status cannot be read"))?;
        let is_http_11 = found.version == Some(1);

        // Where each header lies, as the head is about to become one shared piece of memory that they are slices of.
        let start = self.buffer.as_ptr().addr();
        let mut places = [Place16::default(); HEADERS_MAX];
        let count = found.headers.len();
        for (place, header) in places.iter_mut().zip(found.headers.iter()) {
            *place = Place16::of(start, header).ok_or(WireError::Invalid("its head is too long"))?;
        }
        let head = self.buffer.split_to(length).freeze();
        let mut map = HeaderMap::with_capacity(count);
        let mut wants = Wants::default();
        for place in &places[..count] {
            let name = HeaderName::from_bytes(&head[place.name()])
                .map_err(|_| WireError::Invalid("the name of a header cannot be read"))?;
            let value = HeaderValue::from_maybe_shared(head.slice(place.value()))
                .map_err(|_| WireError::Invalid("the value of a header cannot be read"))?;
            if wants.note(&name, &value)? {
                map.append(name, value);
            }
        }
        for listing in &wants.listings {
            headers::remove_listed(&mut map, listing);
        }
        let never_has_body = status.is_informational() || status == StatusCode::NO_CONTENT;
        let has_no_body = never_has_body || status == StatusCode::NOT_MODIFIED || self.question.method == Method::HEAD;
        if wants.is_chunked || never_has_body {
            map.remove(CONTENT_LENGTH);
        }
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        *answer.headers_mut() = map;
        let bodies_agree = !never_has_body || wants.announces_nothing();
        Ok(Some(Answer {
            head: answer,
            keep: bodies_agree && self.question.method != Method::CONNECT && wants.keeps(is_http_11, has_no_body),
            framing: wants.framing(has_no_body),
        }))
    }

    /// The next bytes of a body. While they are awaited, the buffer is empty.
    pub(super) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Option<Result<Bytes, WireError>>> {
        loop {
            match self.take(framing) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => (),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            let Poll::Ready(filled) = self.poll_fill(context) else {
                // An event stream may be silent for hours: what comes next has its memory when it comes.
                self.buffer = BytesMut::new();
                return Poll::Pending;
            };
            match filled {
                Ok(0) if matches!(framing, Framing::Close) => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(WireError::Broken(io::ErrorKind::UnexpectedEof.into())))),
                Ok(_) => (),
                Err(error) => return Poll::Ready(Some(Err(WireError::Broken(error)))),
            }
        }
    }

    /// What is in the buffer already.
    fn take(&mut self, framing: &mut Framing) -> Result<Decoded, WireError> {
        match framing {
            Framing::Length(0) => Ok(Decoded::End),
            _ if self.buffer.is_empty() => Ok(Decoded::More),
            Framing::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= length as u64;
                Ok(Decoded::Data(self.buffer.split_to(length).freeze()))
            }
            Framing::Chunked(chunks) => chunks.decode(&mut self.buffer).map_err(WireError::Invalid),
            Framing::Close => Ok(Decoded::Data(self.buffer.split().freeze())),
        }
    }

    /// The whole body, if it has come together with the head.
    pub(super) fn whole(&mut self, framing: &Framing) -> Option<Bytes> {
        match framing {
            Framing::Length(length) if usize::try_from(*length) == Ok(self.buffer.len()) => {
                Some(self.buffer.split().freeze())
            }
            _ => None,
        }
    }

    /// Nothing came that nobody asked for.
    pub(super) fn is_clean(&self) -> bool {
        !self.buffer.has_remaining()
    }
}

/// Where a header's name and value lie in a head, which is shorter than 64 KiB.
#[derive(Clone, Copy, Default)]
struct Place16 {
    name: (u16, u16),
    value: (u16, u16),
}

impl Place16 {
    fn of(start: usize, header: &httparse::Header<'_>) -> Option<Self> {
        let span = |bytes: &[u8]| {
            let at = u16::try_from(bytes.as_ptr().addr().checked_sub(start)?).ok()?;
            Some((at, at.checked_add(u16::try_from(bytes.len()).ok()?)?))
        };
        let value = if header.value.is_empty() { Some((0, 0)) } else { span(header.value) };
        Some(Self { name: span(header.name.as_bytes())?, value: value? })
    }

    fn name(self) -> Range<usize> {
        usize::from(self.name.0)..usize::from(self.name.1)
    }

    fn value(self) -> Range<usize> {
        usize::from(self.value.0)..usize::from(self.value.1)
    }
}

/// What an answer's headers say about its end, and its connection's.
#[derive(Default)]
struct Wants {
    length: Option<u64>,
    is_chunked: bool,
    closes: bool,
    keeps_alive: bool,
    listings: Vec<HeaderValue>,
}

impl Wants {
    /// Notes what the header says; whether it is passed on.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, WireError> {
        if *name == CONTENT_LENGTH {
            let length = digits(value.as_bytes()).ok_or(WireError::Invalid("its length cannot be read"))?;
            let is_first = self.length.is_none();
            if self.length.replace(length).is_some_and(|earlier| earlier != length) {
                return Err(WireError::Invalid("it has two lengths"));
            }
            return Ok(is_first);
        }
        if *name == TRANSFER_ENCODING {
            if self.is_chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(WireError::Invalid("its transfer encoding is unknown"));
            }
            self.is_chunked = true;
            return Ok(false);
        }
        if *name == CONNECTION {
            self.closes |= headers::lists(value, "close");
            self.keeps_alive |= headers::lists(value, "keep-alive");
            if headers::names_headers(value.as_bytes()) {
                self.listings.push(value.clone());
            }
            return Ok(false);
        }
        Ok(!headers::is_hop_by_hop(name))
    }

    fn framing(&self, has_no_body: bool) -> Framing {
        match self.length {
            _ if has_no_body => Framing::Length(0),
            _ if self.is_chunked => Framing::Chunked(Chunked::default()),
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    }

    /// No body, in an answer that cannot have one.
    fn announces_nothing(&self) -> bool {
        !self.is_chunked && self.length.is_none_or(|length| length == 0)
    }

    /// Both a length and chunks: somebody between us and the upstream may see another end than we do (RFC 9112 §6.3).
    fn keeps(&self, is_http_11: bool, has_no_body: bool) -> bool {
        let has_one_end = has_no_body || (self.is_chunked != self.length.is_some());
        has_one_end && !self.closes && (is_http_11 || (self.keeps_alive && !self.is_chunked))
    }
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}
