//! An HTTP server of a fake, on a runtime of its own: it goes on while a test's own runtime is busy, and stopping it
//! cuts every connection, as a crash would. It knows nothing of what it serves.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, runtime::Runtime};

use crate::ports::listen;

/// A server that runs until it is stopped or dropped.
pub(crate) struct Background {
    address: SocketAddr,
    router: Router,
    runtime: Option<Runtime>,
}

impl Background {
    /// Starts on an address; port 0 takes one that it gets again when it comes back.
    pub(crate) fn start(address: SocketAddr, router: Router) -> Self {
        let mut server = Self { address, router, runtime: None };
        server.resume();
        server
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens again, on the same port.
    pub(crate) fn resume(&mut self) {
        if self.runtime.is_some() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Bound before this returns, so that the first request of a test is never refused.
        let listener = match self.address.port() {
            0 if self.address.ip() == std::net::Ipv4Addr::LOCALHOST => listen(),
            _ => std::net::TcpListener::bind(self.address).expect("a fake's port is free"),
        };
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let router = self.router.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap().tap_io(|stream| {
                stream.set_nodelay(true).ok();
            });
            axum::serve(listener, router).await.ok();
        });
        self.runtime = Some(runtime);
    }

    /// Stops listening and cuts every connection; returns when the port is closed.
    pub(crate) fn stop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // A runtime must not be waited for on a thread that belongs to another one.
        std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5))).join().unwrap();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}
