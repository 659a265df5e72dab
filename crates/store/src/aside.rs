//! Messages of tenants whose head of events somebody holds: a process that was stopped between telling something and its
//! `COMMIT`, say. They become durable when it lets go, and nobody else's wait for that. All else is in `accept`.

use std::collections::BTreeMap;

use astrfleet_core::{Error, id::TenantId};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    accept::{Waiting, Writer},
    rows::MAX_ROWS,
};

/// The way to a task of its own. It has a connection only while there is something to write.
pub(crate) struct Aside {
    queue: mpsc::Sender<Waiting>,
    task: JoinHandle<()>,
}

impl Aside {
    /// At most `length` may wait here.
    pub(crate) fn start(writer: Writer, length: usize) -> Self {
        let (queue, waiting) = mpsc::channel(length);
        Self { queue, task: tokio::spawn(run(writer, waiting, length)) }
    }

    /// What does not find a place is refused.
    pub(crate) fn put(&self, some: Vec<Waiting>) {
        for waiting in some {
            if let Err(refused) = self.queue.try_send(waiting) {
                let why = "somebody holds this tenant's events, and many messages wait for that already";
                refused.into_inner().refuse(Error::unavailable("storage", why));
            }
        }
    }

    /// Takes no more, and waits until everything is written, or its patience is over.
    pub(crate) async fn end(self) {
        drop(self.queue);
        self.task.await.ok();
    }
}

async fn run(mut writer: Writer, mut queue: mpsc::Receiver<Waiting>, length: usize) {
    let mut waiting: Vec<Waiting> = Vec::new();
    loop {
        if waiting.is_empty() {
            writer.disconnect().await;
            let Some(first) = queue.recv().await else { return };
            waiting.push(first);
        }
        while waiting.len() < length
            && let Ok(more) = queue.try_recv()
        {
            waiting.push(more);
        }
        let mut tenants: BTreeMap<TenantId, Vec<Waiting>> = BTreeMap::new();
        for one in waiting.drain(..) {
            tenants.entry(one.tenant().clone()).or_default().push(one);
        }
        // One tenant after the other, and round again: whose head is free by now does not wait for the others for long.
        for mut theirs in tenants.into_values() {
            while !theirs.is_empty() {
                let rest = theirs.split_off(theirs.len().min(MAX_ROWS));
                let left = writer.write(theirs).await;
                let is_held = !left.is_empty();
                waiting.extend(left);
                theirs = rest;
                if is_held {
                    waiting.append(&mut theirs);
                }
            }
        }
        waiting.retain(Waiting::is_wanted);
    }
}
