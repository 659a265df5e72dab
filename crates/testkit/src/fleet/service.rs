//! One address in front of several processes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

use crate::ports::listen;

/// Each connection goes to the next process that accepts it. As a service of a cluster does, it sends nobody to one that is
/// not ready yet or was told to end, and does not know of one that was killed.
pub(super) struct Service {
    pub(super) port: u16,
    ports: Arc<Mutex<Vec<u16>>>,
    task: AbortHandle,
}

impl Service {
    /// In front of nobody yet.
    pub(super) fn start() -> Self {
        let listener = listen();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ports: Arc<Mutex<Vec<u16>>> = Arc::default();
        let known = Arc::clone(&ports);
        let task = tokio::spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut turn = 0;
            while let Ok((client, _)) = listener.accept().await {
                let mut ports = known.lock().unwrap().clone();
                turn += 1;
                let first = turn % ports.len().max(1);
                ports.rotate_left(first);
                tokio::spawn(pass_on(client, ports));
            }
        });
        Self { port, ports, task: task.abort_handle() }
    }

    pub(super) fn take_in(&self, port: u16) {
        let mut ports = self.ports.lock().unwrap();
        if !ports.contains(&port) {
            ports.push(port);
        }
    }

    /// The connections that it has stay.
    pub(super) fn leave_out(&self, port: u16) {
        self.ports.lock().unwrap().retain(|known| *known != port);
    }
}

async fn pass_on(mut client: TcpStream, ports: Vec<u16>) {
    for port in ports {
        if let Ok(mut server) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await {
            tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            return;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}
