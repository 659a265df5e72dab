//! What a store has to do with attachments.

use astrfleet_core::{
    Error,
    attachment::Attachment,
    id::{AttachmentId, TenantId},
    ports::Store,
};

use futures_util::future::join_all;

use super::store::{Make, NOW};

/// One that is not stored yet.
#[must_use]
pub fn attachment(id: AttachmentId, tenant: &TenantId, size: u64) -> Attachment {
    Attachment {
        id,
        tenant_id: tenant.clone(),
        name: "Bild 1.png".to_owned(),
        media_type: "image/png".to_owned(),
        size,
        sha256: "0".repeat(64),
        created_at: NOW,
    }
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "files-ours").await;
    let other = make.stored_tenant(store, "files-theirs").await;
    let (ours, theirs) = (store.attachments(&tenant), store.attachments(&other));
    assert_eq!(ours.total_bytes().await.unwrap(), 0);

    let large = attachment(make.ids.attachment(), &tenant, 1 << 40);
    let empty = attachment(make.ids.attachment(), &tenant, 0);
    assert_eq!(ours.insert(&large, 1 << 40).await.unwrap(), Some(1 << 40), "as much as there may be");
    assert_eq!(ours.insert(&empty, u64::MAX).await.unwrap(), Some(1 << 40));
    assert_eq!(ours.get(&large.id).await.unwrap(), large);
    let five = attachment(make.ids.attachment(), &tenant, 5);
    assert_eq!(ours.insert(&five, (1 << 40) + 4).await.unwrap(), None, "one byte too much");
    assert!(matches!(ours.get(&five.id).await, Err(Error::NotFound { what: "attachment" })));
    assert_eq!(ours.insert(&five, (1 << 40) + 5).await.unwrap(), Some((1 << 40) + 5));
    assert_eq!(ours.total_bytes().await.unwrap(), (1 << 40) + 5);
    let homeless = store.attachments(&make.ids.tenant()).insert(&empty, u64::MAX).await;
    assert!(matches!(homeless, Err(Error::NotFound { what: "tenant" })));

    assert!(matches!(theirs.get(&large.id).await, Err(Error::NotFound { what: "attachment" })), "another tenant's");
    assert_eq!(theirs.total_bytes().await.unwrap(), 0);

    // However many come at the same moment.
    let many: Vec<_> = (0..8).map(|_| attachment(make.ids.attachment(), &other, 30)).collect();
    let outcomes = join_all(many.iter().map(|file| theirs.insert(file, 100))).await;
    let mut totals: Vec<_> = outcomes.into_iter().filter_map(|outcome| outcome.unwrap()).collect();
    totals.sort_unstable();
    assert_eq!((totals, theirs.total_bytes().await.unwrap()), (vec![30, 60, 90], 90));
}
