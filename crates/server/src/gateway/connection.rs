//! One connection of a client: which phase it is in, whether bytes move, and the task that ends it when they do not.
//!
//! Time limits are noticed by the worker's sweep, not by a timer a request. Nothing here knows what is asked for.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

use super::listen::Worker;

/// Is told when bytes moved on a [`Socket`], and dropped with it.
pub(super) trait Track: Unpin {
    fn read(&self) {}
    fn written(&self) {}
}

/// A TCP stream that tells `T` about its bytes.
#[derive(Debug)]
pub(super) struct Socket<T> {
    stream: TcpStream,
    track: T,
}

/// Up to here, copying slices together is cheaper than handing over a list.
const FLAT_BYTES_MAX: usize = 1024;

impl<T: Track> Socket<T> {
    pub(super) const fn new(stream: TcpStream, track: T) -> Self {
        Self { stream, track }
    }

    /// Whether there is something to read, the end included, as far as the runtime has noticed.
    pub(super) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(context)
    }
}

impl<T: Track> AsyncRead for Socket<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.track.read();
        }
        Poll::Ready(outcome)
    }
}

impl<T: Track> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.track.written();
        Poll::Ready(outcome)
    }

    /// Most messages are one slice, or a head and a few bytes: one buffer costs the kernel less than a list of them.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let filled: usize = slices.iter().map(|slice| slice.len()).sum();
        if let [only] = slices {
            return self.poll_write(context, only);
        }
        if filled > FLAT_BYTES_MAX {
            let this = self.get_mut();
            let outcome = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, slices));
            this.track.written();
            return Poll::Ready(outcome);
        }
        let mut flat = [0; FLAT_BYTES_MAX];
        let mut rest = &mut flat[..];
        for slice in slices {
            let (here, after) = rest.split_at_mut(slice.len());
            here.copy_from_slice(slice);
            rest = after;
        }
        self.poll_write(context, &flat[..filled])
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;
const CUT: u8 = 3;

/// What a connection is doing, readable from the worker's sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// The head of a request is awaited or partly here.
    Head,
    /// A request is being answered.
    Busy,
}

/// The state of one connection. `Send`, because an upgraded socket must be; only ever touched by one thread.
#[derive(Debug)]
pub(super) struct Life {
    phase: AtomicU8,
    since: AtomicU32,
    ticks: Arc<AtomicU32>,
}

impl Life {
    pub(super) fn new(ticks: Arc<AtomicU32>) -> Self {
        Self { phase: AtomicU8::new(HEAD), since: AtomicU32::new(ticks.load(Relaxed)), ticks }
    }

    /// The phase, and for how many ticks nothing has happened in it.
    pub(super) fn look(&self) -> (Phase, u32) {
        let phase = match self.phase.load(Relaxed) {
            IDLE => Phase::Idle,
            HEAD => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, self.ticks.load(Relaxed).saturating_sub(self.since.load(Relaxed)))
    }

    pub(super) fn cut(&self) {
        self.phase.store(CUT, Relaxed);
    }

    pub(super) fn busy(&self) {
        self.enter(BUSY);
    }

    fn enter(&self, phase: u8) {
        if self.phase.load(Relaxed) == CUT {
            return;
        }
        self.phase.store(phase, Relaxed);
        self.since.store(self.ticks.load(Relaxed), Relaxed);
    }
}

/// Counts the sockets of a worker that are open, upgraded ones too, and tells when one is gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    open: Arc<AtomicUsize>,
    freed: Arc<Notify>,
}

impl Census {
    pub(super) fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(super) async fn one_freed(&self) {
        self.freed.notified().await;
    }
}

/// Ties a client's socket to its [`Life`] and to the [`Census`].
#[derive(Debug)]
pub(super) struct Pulse {
    life: Arc<Life>,
    census: Census,
}

impl Pulse {
    pub(super) fn new(life: Arc<Life>, census: Census) -> Self {
        census.open.fetch_add(1, Relaxed);
        Self { life, census }
    }
}

impl Track for Pulse {
    fn read(&self) {
        match self.life.phase.load(Relaxed) {
            IDLE => self.life.enter(HEAD),
            BUSY => self.life.since.store(self.life.ticks.load(Relaxed), Relaxed),
            _ => (),
        }
    }

    fn written(&self) {
        if self.life.phase.load(Relaxed) != HEAD {
            self.life.since.store(self.life.ticks.load(Relaxed), Relaxed);
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.census.open.fetch_sub(1, Relaxed);
        self.census.freed.notify_one();
    }
}

/// An answer on its way: when it is dropped, the connection is between two requests.
pub(super) struct Delivery<B> {
    body: B,
    life: Arc<Life>,
}

impl<B> Delivery<B> {
    pub(super) const fn new(body: B, life: Arc<Life>) -> Self {
        Self { body, life }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Delivery<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Delivery<B> {
    fn drop(&mut self) {
        self.life.enter(IDLE);
    }
}

/// A connection that can be asked to finish what it is doing.
pub(super) trait Drainable: Future {
    fn drain(self: Pin<&mut Self>);
}

/// Polls a connection until it ends, is cut by the sweep, or has drained.
pub(super) struct Attended<C> {
    connection: Pin<Box<C>>,
    life: Arc<Life>,
    worker: Rc<Worker>,
    key: Cell<Option<u64>>,
    draining: bool,
}

impl<C> Attended<C> {
    pub(super) fn new(connection: C, life: Arc<Life>, worker: Rc<Worker>) -> Self {
        Self { connection: Box::pin(connection), life, worker, key: Cell::new(None), draining: false }
    }
}

impl<C: Drainable> Future for Attended<C> {
    type Output = Option<C::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.life.phase.load(Relaxed) == CUT {
            return Poll::Ready(None);
        }
        if self.key.get().is_none() {
            self.key.set(Some(self.worker.attend(Arc::clone(&self.life), context.waker().clone())));
        }
        if self.worker.is_draining() && !self.draining {
            self.draining = true;
            self.connection.as_mut().drain();
        }
        self.connection.as_mut().poll(context).map(Some)
    }
}

impl<C> Drop for Attended<C> {
    fn drop(&mut self) {
        if let Some(key) = self.key.get() {
            self.worker.leave(key);
        }
    }
}
