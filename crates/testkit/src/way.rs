//! A way to a port of this machine that can lead elsewhere from some moment on, as a name does whose server changes, and
//! that can fall silent: what goes in is kept, nothing comes back, and no connection ends. So it is where a machine has
//! lost its power.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use crate::ports::listen;

/// The way. Dropping it ends all connections.
pub struct Way {
    port: u16,
    /// Where it leads to; none: nowhere any more.
    target: watch::Sender<Option<u16>>,
    task: AbortHandle,
}

impl Way {
    /// Leads to `target` until something else is said.
    ///
    /// # Panics
    /// When it cannot be made. To be called on a runtime.
    #[must_use]
    pub fn to(target: u16) -> Self {
        let listener = listen();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = watch::Sender::new(Some(target));
        let task = tokio::spawn(accept(TcpListener::from_std(listener).unwrap(), target.subscribe())).abort_handle();
        Self { port, target, task }
    }

    /// Where it begins.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From here on, nothing arrives on any connection.
    pub fn fall_silent(&self) {
        self.target.send_replace(None);
    }

    /// New connections lead to `target`. Those that fell silent stay so, the others go on.
    pub fn lead_to(&self, target: u16) {
        self.target.send_replace(Some(target));
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: watch::Receiver<Option<u16>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(carry(client, target.clone()));
    }
}

async fn carry(mut client: TcpStream, mut target: watch::Receiver<Option<u16>>) {
    let leads_to = *target.borrow();
    if let Some(port) = leads_to {
        let Ok(mut server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            _ = target.wait_for(Option::is_none) => {}
        }
        // Both stay open, and nobody reads them.
        std::future::pending::<()>().await;
        drop(server);
    }
    std::future::pending::<()>().await;
}
