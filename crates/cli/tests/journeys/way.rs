//! A way to the platform that can be closed while the platform itself goes on: bots reach its bridge through it, and their
//! models without it.

use std::{net::SocketAddr, sync::Mutex};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Listens until it is dropped.
pub struct Way {
    address: SocketAddr,
    /// Where it leads to.
    end: Mutex<Option<SocketAddr>>,
    /// The same; nowhere while it is closed.
    target: watch::Sender<Option<SocketAddr>>,
    task: tokio::task::JoinHandle<()>,
}

impl Way {
    /// Leads nowhere yet.
    pub async fn new() -> Self {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, target) = (listener.local_addr().unwrap(), watch::Sender::new(None));
        let leads = target.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut leads = leads.clone();
                tokio::spawn(async move {
                    let Some(end) = *leads.borrow_and_update() else { return };
                    tokio::select! {
                        _ = leads.changed() => {}
                        () = pass_on(near, end) => {}
                    }
                });
            }
        });
        Self { address, end: Mutex::default(), target, task }
    }

    /// Opens it to an address.
    pub fn lead_to(&self, end: SocketAddr) {
        *self.end.lock().unwrap() = Some(end);
        self.open();
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection, and every new one at once.
    pub fn close(&self) {
        self.target.send_replace(None);
    }

    /// Lets everything pass again.
    pub fn open(&self) {
        self.target.send_replace(*self.end.lock().unwrap());
    }
}

async fn pass_on(mut near: TcpStream, end: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(end).await else { return };
    near.set_nodelay(true).ok();
    far.set_nodelay(true).ok();
    copy_bidirectional(&mut near, &mut far).await.ok();
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}
