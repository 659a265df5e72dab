//! Who is told of what happens in a tenant while something breaks: a reader of its events, who goes on after the last one
//! that they saw, and a receiver of its webhook.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::door::{Door, RETRY_EVERY};
use crate::{
    client::{Api, Events},
    receiver::Receiver,
};

/// A stream that says nothing for so long is opened anew. A reader who sees what is told every 15 s would not have to.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// What one was told of.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// Its place in the tenant's sequence.
    pub(super) seq: u64,
    pub(super) kind: String,
    pub(super) session: String,
    /// The message that it tells of: whose answer it is, where it is one.
    pub(super) message: String,
}

impl Told {
    fn read(event: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = event["id"].as_str()?.strip_prefix("evt_")?.get(..16)?;
        Some(Self {
            seq: u64::from_str_radix(place, 16).ok()?,
            kind: text(&event["type"]),
            session: text(&event["session_id"]),
            message: text(&event["data"]["message_id"]),
        })
    }

    /// That a message was accepted, or has its answer; those are told of once each.
    fn stage(&self) -> Option<&'static str> {
        match self.kind.as_str() {
            "message.accepted" => Some("accepted"),
            "reply.done" | "reply.repaired" => Some("answered"),
            _ => None,
        }
    }
}

/// Reads a tenant's events until it is told to stop.
pub(super) struct Follower {
    told: Arc<Mutex<Vec<Told>>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    /// Begins, and waits until something was told: from there on nothing may be missed.
    pub(super) async fn start(door: Door, tenant: &str) -> Self {
        let (told, stop) = (Arc::<Mutex<Vec<Told>>>::default(), CancellationToken::new());
        let reading = read(door.clone(), format!("/api/v1/tenants/{tenant}/events"), Arc::clone(&told));
        let until = stop.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = reading => {}
            }
        });
        // Whatever happens while it is not heard yet does no harm.
        let path = format!("/api/v1/tenants/{tenant}/sessions");
        let wanted = json!({"end_user": "load-follower"});
        while told.lock().unwrap().is_empty() {
            door.ask(|api| api.request(Method::POST, &path).json(&wanted)).await;
            tokio::time::sleep(4 * RETRY_EVERY).await;
        }
        Self { told, stop, task }
    }

    pub(super) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn read(door: Door, path: String, told: Arc<Mutex<Vec<Told>>>) {
    let mut last = String::new();
    loop {
        let open = |api: &Api| {
            let request = api.request(Method::GET, &path).header("accept", "text/event-stream");
            request.header("last-event-id", &last)
        };
        let Some(response) = door.open(open).await else {
            tokio::time::sleep(RETRY_EVERY).await;
            continue;
        };
        let mut events = Events::of(response);
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE_MAX, events.next()).await {
            match Told::read(&event.data) {
                Some(heard) => told.lock().unwrap().push(heard),
                None => door.shared.wrong(format!("{path}: {} {}", event.event, event.data)),
            }
            last = event.id;
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

/// What is wrong with what a reader of a tenant's events was told, who has to be told each one once and in order: how many
/// are missing, and how many came twice.
pub(super) fn judge_events(told: &[Told], notes: &mut Vec<String>) -> (usize, usize) {
    let (mut lost, mut doubled) = (0, 0);
    for pair in told.windows(2) {
        let (before, after) = (pair[0].seq, pair[1].seq);
        if after > before + 1 {
            lost += usize::try_from(after - before - 1).unwrap_or(usize::MAX);
            notes.push(format!("the events between {before} and {after} were not told"));
        } else if after <= before {
            doubled += 1;
            notes.push(format!("event {after} was told after {before}"));
        }
    }
    (lost, doubled)
}

/// Of which messages was told, by stage, and how often.
pub(super) fn by_message(told: &[Told]) -> BTreeMap<(&str, &'static str), usize> {
    let mut counts = BTreeMap::new();
    for told in told {
        if let Some(stage) = told.stage() {
            *counts.entry((told.message.as_str(), stage)).or_default() += 1;
        }
    }
    counts
}

/// A receiver of all that happens in a tenant.
pub(super) struct Hook {
    receiver: Receiver,
    id: String,
}

impl Hook {
    /// Makes a webhook that is told from now on.
    pub(super) async fn start(owner: &Api, tenant: &str) -> Self {
        let receiver = Receiver::start().await;
        let wanted = json!({"url": receiver.url(), "description": "load"});
        let made = owner.post(&format!("/api/v1/tenants/{tenant}/webhooks"), wanted).await.ok();
        Self { receiver, id: made["id"].as_str().expect("a webhook has an id").to_owned() }
    }

    /// What it was told first of each event, in that order. More than once is allowed.
    pub(super) fn told(&self) -> Vec<Told> {
        let mut seen = BTreeSet::new();
        let got = self.receiver.got().into_iter().filter(|got| seen.insert(got.id.clone()));
        got.filter_map(|got| Told::read(&got.json).filter(|_| got.json["id"] == *got.id)).collect()
    }

    /// What it was not told yet, in words.
    pub(super) async fn undelivered(&self, owner: &Api, tenant: &str) -> Vec<String> {
        let path = format!("/api/v1/tenants/{tenant}/webhooks/{}/deliveries?state=pending", self.id);
        let waiting = owner.get(&path).await.body;
        waiting["items"].as_array().into_iter().flatten().map(|delivery| format!("not delivered: {delivery}")).collect()
    }

    pub(super) async fn end(self, owner: &Api, tenant: &str) {
        owner.delete(&format!("/api/v1/tenants/{tenant}/webhooks/{}", self.id)).await;
    }
}

/// How many events a receiver was told of after a later one of the same session.
pub(super) fn out_of_order(told: &[Told], notes: &mut Vec<String>) -> usize {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut count = 0;
    for told in told.iter().filter(|told| !told.session.is_empty()) {
        let newest = newest.entry(&told.session).or_default();
        if told.seq < *newest {
            count += 1;
            notes.push(format!("a webhook was told of event {} after {newest}, both of {}", told.seq, told.session));
        }
        *newest = told.seq.max(*newest);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::{Told, by_message, judge_events, out_of_order};

    fn told(seq: u64, session: &str) -> Told {
        Told { seq, kind: "message.accepted".into(), session: session.into(), message: format!("msg_{seq}") }
    }

    #[test]
    fn what_is_missing_or_comes_twice_is_counted() {
        let notes = &mut Vec::new();
        assert_eq!(judge_events(&[7, 8, 9].map(|seq| told(seq, "a")), notes), (0, 0));
        assert_eq!(judge_events(&[7, 9, 10].map(|seq| told(seq, "a")), notes), (1, 0));
        assert_eq!(judge_events(&[7, 8, 8, 9].map(|seq| told(seq, "a")), notes), (0, 1));
        assert_eq!(by_message(&[told(1, "a"), told(1, "a")])[&("msg_1", "accepted")], 2);
    }

    #[test]
    fn order_counts_within_a_session_alone() {
        let notes = &mut Vec::new();
        assert_eq!(out_of_order(&[told(2, "a"), told(1, "b"), told(3, "a")], notes), 0);
        assert_eq!(out_of_order(&[told(2, "a"), told(1, "a"), told(3, "a")], notes), 1);
    }
}
