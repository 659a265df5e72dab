//! What a store has to do with attachments.

use astrfleet_core::{
    Error,
    attachment::Attachment,
    id::{AttachmentId, TenantId},
    ports::Store,
};

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
    ours.insert(&large).await.unwrap();
    ours.insert(&empty).await.unwrap();
    assert_eq!(ours.get(&large.id).await.unwrap(), large);
    ours.insert(&attachment(make.ids.attachment(), &tenant, 5)).await.unwrap();
    assert_eq!(ours.total_bytes().await.unwrap(), (1 << 40) + 5);
    let homeless = store.attachments(&make.ids.tenant()).insert(&empty).await;
    assert!(matches!(homeless, Err(Error::NotFound { what: "tenant" })));

    assert!(matches!(theirs.get(&large.id).await, Err(Error::NotFound { what: "attachment" })), "another tenant's");
    assert_eq!(theirs.total_bytes().await.unwrap(), 0);
}
