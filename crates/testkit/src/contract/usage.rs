//! What a store has to do with the usage ledger.

use astrfleet_core::{
    Error,
    id::TenantId,
    message::TokenUsage,
    page::PageRequest,
    ports::Store,
    time::Timestamp,
    usage::{Outcome, UsageRecord, UsageTotal},
};

use super::{
    messages::{accepted, message},
    sessions::stored_session,
    store::{Make, NOW},
};

const DAY: i64 = 86_400_000_000;

/// A line that is not stored yet.
#[must_use]
pub fn line(make: &Make, tenant: &TenantId, at: Timestamp, prompt: u64, completion: u64) -> UsageRecord {
    UsageRecord {
        id: make.ids.usage(),
        tenant_id: tenant.clone(),
        instance_id: make.ids.instance(),
        upstream: "openai".to_owned(),
        model: "gpt-5".to_owned(),
        tokens: TokenUsage { prompt_tokens: prompt, completion_tokens: completion },
        estimated: prompt % 2 == 1,
        outcome: Outcome::Aborted,
        at,
        duration_ms: 1_234,
    }
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "usage-ours").await;
    let other = make.stored_tenant(store, "usage-theirs").await;
    let (ours, theirs) = (store.usage(&tenant), store.usage(&other));
    ours.append(&[]).await.unwrap();
    assert_eq!(ours.tokens_since(Timestamp::default()).await.unwrap(), 0);

    // 100 lines need more than one statement; 50 of them on each of two days, with an empty one between.
    let midnight = Timestamp::from_micros(NOW.micros() / DAY * DAY);
    let last_moment = Timestamp::from_micros(midnight.micros() - 2 * DAY + DAY - 1);
    let lines: Vec<_> = (0..100)
        .map(|number| line(make, &tenant, if number < 50 { last_moment } else { midnight }, number, 10))
        .collect();
    ours.append(&lines).await.unwrap();
    ours.append(&lines[30..]).await.unwrap();
    let sum: u64 = (0..100).map(|number| number + 10).sum();
    assert_eq!(ours.tokens_since(Timestamp::default()).await.unwrap(), sum, "the same again changes nothing");
    assert_eq!(ours.tokens_since(midnight).await.unwrap(), (50..100).map(|number| number + 10).sum::<u64>());

    let session = stored_session(store, make, &tenant, "ada").await;
    for created_at in [midnight, NOW] {
        accepted(store, &astrfleet_core::message::Message { created_at, ..message(make, &session) }).await;
    }
    let total = |period: Timestamp, requests, prompt_tokens, completion_tokens, messages| UsageTotal {
        period: period.day(),
        requests,
        tokens: TokenUsage { prompt_tokens, completion_tokens },
        messages,
    };
    let (first, second) = (total(last_moment, 50, (0..50).sum(), 500, 0), total(NOW, 50, (50..100).sum(), 500, 2));
    let days = ours.by_day(Timestamp::default(), Timestamp::from_micros(midnight.micros() + DAY)).await.unwrap();
    assert_eq!(days, [first.clone(), second], "the oldest first");
    assert_eq!(ours.by_day(last_moment, midnight).await.unwrap(), [first], "the end is not part of it");

    let page = ours.list(&PageRequest { limit: 99, after: None }).await.unwrap();
    assert!(page.items.iter().rev().eq(&lines[1..]), "the newest first");
    let page = ours.list(&PageRequest { limit: 99, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![lines[0].clone()], None));

    let mut read = Vec::new();
    loop {
        let page = ours.between(last_moment, NOW, read.last(), 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 7);
        read.extend(page);
    }
    assert_eq!(read, lines, "page after page, the oldest first, many of the same moment");
    let first_day = ours.between(Timestamp::default(), midnight, None, 200).await.unwrap();
    assert_eq!(first_day.len(), 50, "the end is not part of it");
    assert_eq!(theirs.between(Timestamp::default(), NOW, None, 7).await.unwrap(), []);

    let absurd = line(make, &tenant, NOW, u64::MAX, u64::MAX);
    ours.append(&[absurd.clone(), UsageRecord { id: make.ids.usage(), ..absurd.clone() }]).await.unwrap();
    assert!(ours.tokens_since(NOW).await.unwrap() < 1 << 43, "what no model can mean spoils no sum");

    let strange =
        UsageRecord { model: "a\0b".to_owned(), upstream: "c\0".to_owned(), ..line(make, &tenant, NOW, 1, 1) };
    ours.append(std::slice::from_ref(&strange)).await.unwrap();
    let newest = ours.list(&PageRequest { limit: 1, after: None }).await.unwrap().items.remove(0);
    assert_eq!(
        (newest.model.as_str(), newest.upstream.as_str()),
        ("a\u{fffd}b", "c\u{fffd}"),
        "every name can be stored"
    );

    assert!(matches!(theirs.append(&lines[..1]).await, Err(Error::Internal { .. })), "another tenant's line");
    assert_eq!(theirs.list(&PageRequest::first()).await.unwrap().items, []);
    assert_eq!(theirs.tokens_since(Timestamp::default()).await.unwrap(), 0);
    assert_eq!(theirs.by_day(Timestamp::default(), NOW).await.unwrap(), []);
}
