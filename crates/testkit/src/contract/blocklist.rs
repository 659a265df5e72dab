//! What a store has to do with blocklists.

use std::time::Duration;

use astrfleet_core::{Error, blocklist::Block, page::PageRequest, ports::Store, time::Timestamp};

use super::store::{Make, NOW};

/// An entry that is not stored yet.
#[must_use]
pub fn block(make: &Make, channel: Option<&str>, end_user: &str, until: Option<Timestamp>) -> Block {
    Block {
        id: make.ids.block(),
        channel: channel.map(str::to_owned),
        end_user: end_user.to_owned(),
        reason: Some("schreibt Werbung 广告".to_owned()),
        until,
        created_by: "usr_0190000000007000800000000000abcd".to_owned(),
        created_at: NOW,
    }
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let ours = store.blocklist(&make.stored_tenant(store, "blocking-ours").await);
    let theirs = store.blocklist(&make.stored_tenant(store, "blocking-theirs").await);
    let later = NOW.plus(Duration::from_secs(10));
    let everywhere = block(make, None, "mallory", None);
    let somewhere = block(make, Some("telegram"), "mallory", Some(later));
    let over = block(make, Some("api"), "eve", Some(NOW));
    for entry in [&everywhere, &somewhere, &over] {
        assert_eq!(ours.put(entry).await.unwrap(), *entry);
    }
    let again = block(make, None, "mallory", Some(later));
    let changed = Block { id: everywhere.id.clone(), ..again.clone() };
    assert_eq!(ours.put(&again).await.unwrap(), changed, "the same one, with its new end");
    assert_eq!((ours.count().await.unwrap(), theirs.count().await.unwrap()), (3, 0));

    let page = ours.list(&PageRequest { limit: 2, after: None }).await.unwrap();
    assert_eq!(page.items, [changed.clone(), somewhere.clone()]);
    let page = ours.list(&PageRequest { limit: 2, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![over.clone()], None));
    assert_eq!(ours.in_force(NOW, 9).await.unwrap(), [somewhere.clone(), changed.clone()], "its end is not included");
    assert_eq!(ours.in_force(NOW, 1).await.unwrap(), [somewhere]);
    assert_eq!(ours.in_force(later, 9).await.unwrap(), []);

    let given = Block { reason: Some("sells things".to_owned()), ..block(make, Some("line"), "carol", None) };
    ours.put(&given).await.unwrap();
    assert_eq!(theirs.forget_reasons("carol").await.unwrap(), 0, "another tenant's");
    assert_eq!(ours.forget_reasons("nobody").await.unwrap(), 0);
    assert_eq!(ours.forget_reasons("carol").await.unwrap(), 1);
    assert_eq!(ours.remove(&given.id).await.unwrap(), Block { reason: None, ..given }, "the entry stays");

    assert!(matches!(theirs.remove(&over.id).await, Err(Error::NotFound { what: "block" })), "another tenant's");
    assert_eq!(ours.remove(&over.id).await.unwrap(), over);
    assert!(matches!(ours.remove(&over.id).await, Err(Error::NotFound { what: "block" })));
    let homeless = store.blocklist(&make.ids.tenant()).put(&everywhere).await;
    assert!(matches!(homeless, Err(Error::NotFound { what: "tenant" })));
}
