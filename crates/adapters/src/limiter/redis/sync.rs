//! Tells Redis what was allowed and fetches leases, many keys at a time, one batch after another. It decides nothing
//! about requests, and what it cannot send it does not keep: the keys know what they have to tell.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ::redis::RedisResult;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{Keys, WAITING_MAX, bucket, key::LEASE_NS};
use crate::redis::{Backoff, Link, Redis};

/// Keys in one batch.
const BATCH_MAX: usize = 512;
/// How often leases that nobody used are looked for, and whether Redis is there where nothing is asked.
const SWEEP: Duration = Duration::from_millis(500);

/// Runs until it is dropped, or nobody can ask any more.
pub(super) async fn run(
    redis: Redis,
    keys: Arc<Keys>,
    mut queue: mpsc::Receiver<Box<str>>,
    connect: watch::Sender<bool>,
) {
    let mut backoff = Backoff::new("limits");
    loop {
        let ended = match redis.keys().await {
            Ok(link) => serve(&redis, &keys, link, &mut queue, &connect, &mut backoff).await,
            Err(error) => Err(error),
        };
        keys.is_there.store(false, Ordering::Relaxed);
        connect.send_replace(false);
        match ended {
            Ok(()) => return,
            Err(error) => backoff.wait(&error).await,
        }
    }
}

async fn serve(
    redis: &Redis,
    keys: &Keys,
    mut link: Link,
    queue: &mut mpsc::Receiver<Box<str>>,
    connect: &watch::Sender<bool>,
    backoff: &mut Backoff,
) -> RedisResult<()> {
    let limit = redis.timeout();
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leased: VecDeque<(i64, Box<str>)> = VecDeque::new();
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let is_sweep = tokio::select! {
            // What an earlier batch left to tell does not wait for somebody to come along.
            biased;
            _ = sweep.tick() => true,
            () = std::future::ready(()), if !batch.is_empty() => false,
            count = queue.recv_many(&mut batch, BATCH_MAX) => if count == 0 {
                return Ok(());
            } else {
                false
            },
        };
        while batch.len() < BATCH_MAX
            && let Ok(key) = queue.try_recv()
        {
            batch.push(key);
        }
        if is_sweep {
            let now = keys.now();
            while batch.len() < BATCH_MAX
                && let Some((_, key)) = leased.pop_front_if(|(until, _)| *until <= now)
            {
                batch.push(key);
            }
        }
        if batch.is_empty() {
            link.ping(&redis.key("ping"), limit).await?;
        } else {
            exchange(redis, keys, &mut link, &mut batch, &mut leased).await?;
        }
        keys.is_there.store(true, Ordering::Relaxed);
        connect.send_replace(true);
        backoff.succeeded();
    }
}

/// One batch. Whatever happens to it, no key is left waiting for an answer.
async fn exchange(
    redis: &Redis,
    keys: &Keys,
    link: &mut Link,
    batch: &mut Vec<Box<str>>,
    leased: &mut VecDeque<(i64, Box<str>)>,
) -> RedisResult<()> {
    let now = keys.now();
    let (mut names, mut commands) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for name in batch.drain(..) {
        let asked = keys.with(&name, |key| {
            key.is_queued = false;
            key.ask(now).map(|asked| (key.rules, asked))
        });
        let Some((rules, asked)) = asked.flatten() else { continue };
        commands.push(bucket::command(&redis.key(&format!("limit:{name}")), rules, asked));
        names.push(name);
    }
    let answers = link.run(commands, redis.timeout()).await;
    let now = keys.now();
    let values = answers.as_deref().unwrap_or_default();
    for (index, name) in names.into_iter().enumerate() {
        let answer = values.get(index).and_then(Option::as_ref).and_then(bucket::answer);
        let owes = keys.with(&name, |key| match answer {
            Some(answer) => key.answered(answer, now),
            None => key.unanswered(),
        });
        if answer.is_some() && owes == Some(true) {
            batch.push(name.clone());
        }
        if answer.is_some_and(|answer| answer.granted > 0) && leased.len() < WAITING_MAX {
            leased.push_back((now.saturating_add(LEASE_NS), name));
        }
    }
    answers.map(|_| ())
}
