//! Clients that use a fleet while something happens to it, and the count of what became of all that was acknowledged.

mod clients;
mod door;
mod follow;
mod remembered;
mod settle;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use self::{
    clients::{Accepted, Client},
    door::{Door, Shared},
    follow::{Follower, Hook},
};
pub use self::{
    door::Tries,
    settle::{Failed, Outcome},
};
use super::{Fleet, LOOK_EVERY, PASSWORD};
use crate::client::Api;

/// How long a load may wait until something is acknowledged.
const PATIENCE: Duration = Duration::from_mins(2);
/// Where clients ask.
const GATEWAYS: &[&str] = &["gateway"];
/// Where answers are followed: roles answer without a gateway too, so that streams cross from the process that was asked
/// to the one that has the bot's queue, whichever that is.
const GATEWAYS_AND_MESSAGE: &[&str] = &["gateway", "message"];
/// Deliveries of a webhook that are told of where it was not told all.
const UNDELIVERED_NOTED: usize = 3;
/// Messages that one of the writers has on their way in one session.
const AT_ONCE: usize = 3;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// So many clients write, each in a session of its own, a message after the other.
    Writers(usize),
    /// Two write, one of them several messages at once; one sends files; one follows answers as they are given; one runs
    /// errands that cross all other roles; one reads the tenant's events; and a webhook is told of them.
    Everything,
}

/// Clients of one tenant that use all gateways in turn, until they are told to stop.
pub struct Load {
    shared: Arc<Shared>,
    accepted: Arc<Mutex<Accepted>>,
    clients: Vec<(Arc<Client>, tokio::task::JoinHandle<()>)>,
    told: Option<(Follower, Hook)>,
    /// Looks at what became of all.
    key: Api,
    tenant: String,
    /// Where the bot's own memory lies, for traffic that asks for it.
    bot: Option<PathBuf>,
}

impl Load {
    /// Starts it, as the holder of `key` in the tenant of this name. Each client waits for its answer and a pause before
    /// it goes on.
    pub async fn start(fleet: &Fleet, key: &Api, tenant: &str, traffic: Traffic, pause: Duration) -> Self {
        let (shared, accepted) = (Arc::new(Shared::new()), Arc::<Mutex<Accepted>>::default());
        let door = |roles| Door::new(key.clone(), fleet.takers.clone(), roles, Arc::clone(&shared));
        let client = |name, roles| {
            let (tenant, accepted) = (tenant.to_owned(), Arc::clone(&accepted));
            Arc::new(Client { name, door: door(roles), tenant, accepted, rounds: 0.into(), pause })
        };
        let mut clients = Vec::new();
        let (mut told, mut bot) = (None, None);
        match traffic {
            Traffic::Writers(count) => {
                for _ in 0..count {
                    let client = client("writes", GATEWAYS);
                    let running = Arc::clone(&client);
                    clients.push((client, tokio::spawn(async move { running.write(1).await })));
                }
            }
            Traffic::Everything => {
                let bots = fleet.data_dir().join("bots");
                let owner = fleet.gateways()[0].log_in(&format!("owner@{tenant}.test"), PASSWORD).await;
                let instance = owner.get(&format!("/api/v1/tenants/{tenant}/instance")).await.ok();
                bot = Some(bots.join(instance["id"].as_str().expect("an instance has an id")));
                told = Some((Follower::start(door(GATEWAYS), tenant).await, Hook::start(&owner, tenant).await));
                for (name, at_once) in [("writes", 1), ("writes-ahead", AT_ONCE)] {
                    let client = client(name, GATEWAYS);
                    let running = Arc::clone(&client);
                    clients.push((client, tokio::spawn(async move { running.write(at_once).await })));
                }
                let client_of_files = client("sends-files", GATEWAYS);
                let running = Arc::clone(&client_of_files);
                clients.push((client_of_files, tokio::spawn(async move { running.send_files().await })));
                let reader = client("follows-answers", GATEWAYS_AND_MESSAGE);
                let running = Arc::clone(&reader);
                clients.push((reader, tokio::spawn(async move { running.follow_answers().await })));
                let errands = client("runs-errands", GATEWAYS);
                let running = Arc::clone(&errands);
                clients.push((errands, tokio::spawn(async move { running.run_errands(bots).await })));
            }
        }
        Self { shared, accepted, clients, told, key: key.clone(), tenant: tenant.to_owned(), bot }
    }

    /// How many messages were acknowledged so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().said.values().map(Vec::len).sum()
    }

    /// From here on, a credential may be taken for one that ran out: a clock is wrong.
    pub fn expect_wrong_clocks(&self) {
        self.shared.is_late.store(true, Ordering::Relaxed);
    }

    /// What its tries came to so far.
    #[must_use]
    pub fn tries(&self) -> Tries {
        self.shared.tries()
    }

    /// Waits until `more` messages were acknowledged from now on.
    ///
    /// # Panics
    /// When that takes longer than two minutes.
    pub async fn wait_for(&self, more: usize) {
        let wanted = self.accepted() + more;
        let wait = async {
            while self.accepted() < wanted {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let acknowledged = tokio::time::timeout(PATIENCE, wait).await;
        assert!(acknowledged.is_ok(), "messages are acknowledged: {:?}", self.tries());
    }

    /// Waits until each client has done all of its work `more` times from now on. Returns who has not within two minutes.
    pub async fn wait_for_all(&self, more: usize) -> Vec<&'static str> {
        let rounds = |client: &Client| client.rounds.load(Ordering::Relaxed);
        let wanted: Vec<usize> = self.clients.iter().map(|(client, _)| rounds(client) + more).collect();
        let late = || {
            let clients = self.clients.iter().zip(&wanted).filter(|((client, _), wanted)| rounds(client) < **wanted);
            clients.map(|((client, _), _)| client.name).collect::<Vec<_>>()
        };
        let deadline = Instant::now() + PATIENCE;
        while !late().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        late()
    }

    /// Ends it, and says what became of everything that was acknowledged, once all of it is at its end or `patience` is
    /// over.
    ///
    /// # Panics
    /// When a client failed.
    pub async fn end(mut self, fleet: &Fleet, patience: Duration) -> Outcome {
        self.shared.stop.cancel();
        for (_, client) in self.clients.drain(..) {
            client.await.unwrap();
        }
        let tries = self.shared.tries();
        let deadline = Instant::now() + patience;
        let mut outcome = loop {
            let outcome = self.look().await;
            if outcome.is_all_there() || Instant::now() > deadline {
                break outcome;
            }
            tokio::time::sleep(4 * LOOK_EVERY).await;
        };
        if let Some((follower, hook)) = self.told {
            follower.end().await;
            let owner = fleet.gateways()[0].log_in(&format!("owner@{}.test", self.tenant), PASSWORD).await;
            if !outcome.is_all_there() {
                let mut notes = hook.undelivered(&owner, &self.tenant).await;
                notes.truncate(UNDELIVERED_NOTED);
                notes.append(&mut outcome.notes);
                outcome.notes = notes;
            }
            hook.end(&owner, &self.tenant).await;
        }
        Outcome { tries, ..outcome }
    }
}
