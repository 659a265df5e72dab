//! Two upgraded connections joined: bytes pass both ways until one side ends or nothing moves for too long.

use std::{cell::Cell, io, pin::pin, rc::Rc, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ticks::{self, Ticks};

const BUFFER_BYTES: usize = 8 * 1024;

/// Joins `client` and `upstream` as soon as both have switched protocols.
pub(super) fn start(client: OnUpgrade, upstream: OnUpgrade, ticks: Rc<Ticks>, idle: Duration) {
    tokio::task::spawn_local(async move {
        let (client, upstream) = match futures_util::future::try_join(client, upstream).await {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "one side left before it had switched protocols");
                return;
            }
        };
        join(TokioIo::new(client), TokioIo::new(upstream), &ticks, idle).await;
    });
}

async fn join(
    client: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    ticks: &Ticks,
    idle: Duration,
) {
    let moved = Cell::new(ticks.now());
    let (client_read, client_write) = tokio::io::split(client);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let up = pump(client_read, upstream_write, &moved, ticks);
    let down = pump(upstream_read, client_write, &moved, ticks);
    let mut both = pin!(futures_util::future::try_join(up, down));
    loop {
        let silent = ticks.now().saturating_sub(moved.get());
        let Some(left) = ticks::count(idle).checked_sub(silent).filter(|left| *left > 0) else {
            tracing::debug!(idle_s_max = idle.as_secs(), "a WebSocket was silent for too long and is closed");
            return;
        };
        match ticks.limit(ticks::TICK * left, both.as_mut()).await {
            Err(ticks::Overdue) => (),
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a WebSocket broke off");
                return;
            }
        }
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Cell<u32>,
    ticks: &Ticks,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        moved.set(ticks.now());
    }
}
