//! Clients that write messages while something happens to a fleet, and the count of what became of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Fleet, LOOK_EVERY};
use crate::client::Api;

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Messages that were acknowledged: their ids, by session.
    pub accepted: BTreeMap<String, Vec<String>>,
    /// Tries that were refused, or that nobody answered.
    pub refused: usize,
    /// The longest time in which no message was acknowledged although some were sent.
    pub outage: Duration,
}

/// What became of the messages of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Acknowledged.
    pub accepted: usize,
    /// With an answer.
    pub answered: usize,
    /// Ended without one: which, and what they said.
    pub failed: Vec<String>,
    /// Acknowledged, and not there, or never at an end.
    pub lost: usize,
    /// Stored or answered more than once.
    pub doubled: usize,
    /// Words of another session in this one.
    pub leaked: usize,
}

/// Clients that write messages, each in a session of its own, at all gateways in turn, until they are told to stop. What
/// is not acknowledged is sent again under its key.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

struct Shared {
    tally: Mutex<(Tally, Instant)>,
    stop: CancellationToken,
}

impl Load {
    /// Starts `clients` of them, as the holder of `key` in the tenant of this name. Each waits for its answer and a pause
    /// before it writes again.
    pub async fn start(fleet: &Fleet, key: &Api, tenant: &str, clients: usize, pause: Duration) -> Self {
        let gateways: Vec<Api> = fleet.gateways().iter().map(|gateway| key.at(gateway.url())).collect();
        let tally = Mutex::new((Tally::default(), Instant::now()));
        let shared = Arc::new(Shared { tally, stop: CancellationToken::new() });
        let mut tasks = Vec::new();
        for number in 0..clients {
            let path = format!("/api/v1/tenants/{tenant}/sessions");
            let session = key.post(&path, json!({"end_user": format!("load-{number}")})).await.ok();
            let id = session["id"].as_str().unwrap().to_owned();
            let path = format!("{path}/{id}/messages");
            tasks.push(tokio::spawn(client(gateways.clone(), path, id, pause, Arc::clone(&shared))));
        }
        Self { shared, clients: tasks }
    }

    /// How many were acknowledged so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.tally.lock().unwrap().0.accepted.values().map(Vec::len).sum()
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
        tokio::time::timeout(Duration::from_mins(2), wait).await.expect("messages are acknowledged");
    }

    /// Ends it.
    ///
    /// # Panics
    /// When a client failed.
    pub async fn stop(self) -> Tally {
        self.shared.stop.cancel();
        for client in self.clients {
            client.await.unwrap();
        }
        self.shared.tally.lock().unwrap().0.clone()
    }
}

async fn client(gateways: Vec<Api>, path: String, session: String, pause: Duration, shared: Arc<Shared>) {
    let mut turn = 0;
    for number in 0.. {
        let text = format!("number {number} of {session}");
        let id = loop {
            if shared.stop.is_cancelled() {
                return;
            }
            turn += 1;
            let gateway =
                gateways[turn % gateways.len()].with_header("idempotency-key", &format!("{session}-{number}"));
            let target = format!("{path}?wait=0");
            let sent = gateway.try_send(Method::POST, &target, Some(json!({"text": text})));
            match tokio::time::timeout(Duration::from_secs(15), sent).await {
                Ok(Ok(answer)) if matches!(answer.status, 200 | 202) => {
                    break answer.body["message"]["id"].as_str().unwrap().to_owned();
                }
                _ => shared.refused(),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        shared.acknowledged(&session, &id);
        // The answer is looked for as long as it may take; whether it came is counted at the end.
        for _ in 0..200 {
            if shared.stop.is_cancelled() {
                return;
            }
            turn += 1;
            let target = format!("{path}/{id}");
            let looked = gateways[turn % gateways.len()].try_send(Method::GET, &target, None);
            if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(5), looked).await
                && is_over(&answer.body["message"])
            {
                break;
            }
            tokio::time::sleep(2 * LOOK_EVERY).await;
        }
        tokio::time::sleep(pause).await;
    }
}

impl Shared {
    fn acknowledged(&self, session: &str, id: &str) {
        let mut tally = self.tally.lock().unwrap();
        let since = tally.1.elapsed();
        tally.0.outage = tally.0.outage.max(since);
        tally.1 = Instant::now();
        tally.0.accepted.entry(session.to_owned()).or_default().push(id.to_owned());
    }

    fn refused(&self) {
        self.tally.lock().unwrap().0.refused += 1;
    }
}

fn is_over(message: &Value) -> bool {
    matches!(message["state"].as_str(), Some("done" | "failed" | "blocked" | "interrupted"))
}

impl Tally {
    /// What became of everything that was acknowledged, once all of it is at its end or `patience` is over.
    ///
    /// # Panics
    /// When a history cannot be read.
    pub async fn settle(&self, key: &Api, tenant: &str, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        loop {
            let outcome = self.look(key, tenant).await;
            if outcome.answered + outcome.failed.len() == outcome.accepted || Instant::now() > deadline {
                return outcome;
            }
            tokio::time::sleep(4 * LOOK_EVERY).await;
        }
    }

    async fn look(&self, key: &Api, tenant: &str) -> Outcome {
        let mut outcome = Outcome::default();
        for (session, accepted) in &self.accepted {
            let messages = history(key, &format!("/api/v1/tenants/{tenant}/sessions/{session}/messages")).await;
            let mut texts: BTreeMap<&str, usize> = BTreeMap::new();
            for message in messages.iter().filter(|message| message["author"] == "user") {
                *texts.entry(message["text"].as_str().unwrap_or_default()).or_default() += 1;
            }
            outcome.doubled += texts.values().filter(|count| **count > 1).count();
            let is_of_another = |message: &&Value| {
                let text = message["text"].as_str().unwrap_or_default();
                text.contains(" of ses_") && !text.contains(&format!(" of {session}"))
            };
            outcome.leaked += messages.iter().filter(is_of_another).count();
            for id in accepted {
                outcome.accepted += 1;
                let Some(message) = messages.iter().find(|message| message["id"] == **id) else {
                    outcome.lost += 1;
                    continue;
                };
                let replies = messages.iter().filter(|reply| reply["reply_to"] == **id).count();
                outcome.doubled += usize::from(replies > 1);
                match message["state"].as_str().unwrap_or_default() {
                    "done" if replies > 0 => outcome.answered += 1,
                    "failed" | "blocked" => outcome.failed.push(format!("{id}: {}", message["failure"])),
                    _ => outcome.lost += 1,
                }
            }
        }
        outcome
    }
}

async fn history(key: &Api, path: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = key.get(&format!("{path}?limit=200{cursor}")).await.ok();
        all.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}
