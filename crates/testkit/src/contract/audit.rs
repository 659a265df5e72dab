//! What a store has to do with audit logs.

use std::fmt::Write;

use astrfleet_core::{
    Error,
    audit::{Entry, NewEntry, hashed_text},
    id::TenantId,
    page::PageRequest,
    ports::{AuditLog, Store},
};
use aws_lc_rs::digest::{SHA256, digest};

use super::store::{Make, NOW};

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    chains(store, make).await;
    pages(store, make).await;
    writers_at_the_same_moment(store, make).await;
}

/// One that is not in a log yet.
#[must_use]
pub fn entry(make: &Make, tenant: Option<&TenantId>, action: &str) -> NewEntry {
    NewEntry {
        id: make.ids.audit(),
        tenant_id: tenant.cloned(),
        at: NOW,
        actor: "system".to_owned(),
        action: action.to_owned(),
        target: "bot_1".to_owned(),
        detail: serde_json::json!({"z": [1, 2.5, null], "a": "ü\n\"", "nested": {"b": true, "a": -1}}),
        request_id: make.ids.request().to_string(),
    }
}

/// The place of the first entry whose hash is not that of what stands there, or which does not follow the one before
/// it. `entries` are a whole log, the newest first.
#[must_use]
pub fn first_broken(tenant: Option<&TenantId>, entries: &[Entry]) -> Option<i64> {
    let mut previous_hash = "";
    for (entry, place) in entries.iter().rev().zip(1..) {
        let new = NewEntry {
            id: entry.id.clone(),
            tenant_id: tenant.cloned(),
            at: entry.at,
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            target: entry.target.clone(),
            detail: entry.detail.clone(),
            request_id: entry.request_id.clone(),
        };
        let text = hashed_text(&new, place, previous_hash);
        let hash = digest(&SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        if (entry.seq, entry.previous_hash.as_str(), &entry.hash) != (place, previous_hash, &hash) {
            return Some(place);
        }
        previous_hash = &entry.hash;
    }
    None
}

/// A whole log, the newest first.
pub async fn whole(log: &dyn AuditLog) -> Vec<Entry> {
    log.list(&PageRequest::first()).await.unwrap().items
}

async fn chains(store: &dyn Store, make: &Make) {
    let (ours, theirs) = (make.stored_tenant(store, "audited").await, make.stored_tenant(store, "not-audited").await);
    let (log, platform) = (store.audit(Some(&ours)), store.audit(None));
    let first = log.append(&entry(make, Some(&ours), "tenant.create")).await.unwrap();
    assert_eq!((first.seq, first.previous_hash.as_str(), first.hash.len()), (1, "", 64));
    let second = log.append(&entry(make, Some(&ours), "tenant.suspend")).await.unwrap();
    assert_eq!((second.seq, &second.previous_hash), (2, &first.hash));
    let before = whole(&*platform).await;
    let elsewhere = platform.append(&entry(make, None, "user.create")).await.unwrap();
    let newest = before.first().map_or("", |entry| &entry.hash);
    assert_eq!(elsewhere.previous_hash, newest, "each log has a chain of its own");

    assert_eq!(whole(&*log).await, [second, first], "the newest first, as it was given back");
    assert_eq!(whole(&*platform).await, [vec![elsewhere], before].concat());
    assert_eq!(whole(&*store.audit(Some(&theirs))).await, [], "another tenant sees nothing");

    let mut entries = whole(&*log).await;
    assert_eq!(first_broken(Some(&ours), &entries), None);
    assert_eq!(first_broken(None, &whole(&*platform).await), None);
    assert_eq!(first_broken(Some(&theirs), &entries), Some(1), "an entry belongs to its tenant");
    entries[0].actor.push('x');
    assert_eq!(first_broken(Some(&ours), &entries), Some(2));
    entries.remove(1);
    assert_eq!(first_broken(Some(&ours), &entries), Some(1));

    let odd = NewEntry { target: "\0'\"\u{202e}".to_owned(), ..entry(make, Some(&ours), "tenant.\0") };
    log.append(&odd).await.unwrap();
    assert_eq!(first_broken(Some(&ours), &whole(&*log).await), None, "whatever a caller's words hold");

    let misplaced = entry(make, Some(&theirs), "tenant.update");
    log.append(&misplaced).await.unwrap();
    assert_eq!(first_broken(Some(&ours), &whole(&*log).await), None, "an entry is its log's, whatever it says");
}

async fn pages(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "audited-in-pages").await;
    let log = store.audit(Some(&tenant));
    for _ in 0..5 {
        log.append(&entry(make, Some(&tenant), "member.manage")).await.unwrap();
    }
    let mut places = Vec::new();
    let mut request = PageRequest { limit: 2, after: None };
    loop {
        let page = log.list(&request).await.unwrap();
        places.extend(page.items.iter().map(|entry| entry.seq));
        let Some(cursor) = page.next_cursor else { break };
        request.after = Some(cursor);
    }
    assert_eq!(places, [5, 4, 3, 2, 1]);
    let made_up = PageRequest { limit: 2, after: Some("usr_1".to_owned()) };
    assert!(matches!(log.list(&made_up).await, Err(Error::Invalid { field: "cursor", .. })));
}

async fn writers_at_the_same_moment(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "audited-by-many").await;
    let appends = (0..12).map(|_| {
        let (log, entry) = (store.audit(Some(&tenant)), entry(make, Some(&tenant), "message.write"));
        async move { log.append(&entry).await }
    });
    for appended in futures_util::future::join_all(appends).await {
        appended.unwrap();
    }
    let entries = whole(&*store.audit(Some(&tenant))).await;
    assert_eq!((entries.len(), first_broken(Some(&tenant), &entries)), (12, None), "one chain, nothing lost");
}
