//! A way that counts what goes along it: whoever breaks a way knows whether anybody used it.

use std::{
    io::IoSlice,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use crate::ports::listen;

/// Leads to a port of this machine. Returns the port to use instead, and the bytes that were sent along it so far. It lasts
/// as long as the runtime does.
pub(crate) fn way_to(port: u16) -> (u16, Arc<AtomicU64>) {
    let listener = listen();
    listener.set_nonblocking(true).unwrap();
    let own = listener.local_addr().unwrap().port();
    let sent = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&sent);
    tokio::spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((client, _)) = listener.accept().await {
            let mut client = Counted { stream: client, sent: Arc::clone(&counter) };
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await {
                    server.set_nodelay(true).ok();
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
                }
            });
        }
    });
    (own, sent)
}

struct Counted {
    stream: TcpStream,
    sent: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let more = u64::try_from(buffer.filled().len() - before).unwrap_or_default();
        self.sent.fetch_add(more, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_goes_along_is_counted_one_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, sent) = way_to(listener.local_addr().unwrap().port());
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        server.read_exact(&mut [0; 8]).await.unwrap();
        server.write_all(b"a longer answer").await.unwrap();
        client.read_exact(&mut [0; 15]).await.unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), 8);
    }
}
