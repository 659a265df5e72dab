//! What a store has to do with API keys.

use std::time::Duration;

use astrfleet_core::{
    Error,
    api_key::{ApiKey, Scope},
    id::{TenantId, UserId},
    page::PageRequest,
    ports::Store,
};

use super::store::{Make, NOW};

/// One that is not stored yet, and the hash of its secret.
#[must_use]
pub fn key(make: &Make, tenant: &TenantId, created_by: &UserId) -> (ApiKey, [u8; 32]) {
    let id = make.ids.api_key();
    let mut hash = [0; 32];
    hash.copy_from_slice(&id.as_str().as_bytes()[4..]);
    let key = ApiKey {
        id,
        tenant_id: tenant.clone(),
        name: "Kasse 🧾".to_owned(),
        prefix: "astr_abcd".to_owned(),
        scopes: vec![Scope::Chat, Scope::Instance],
        created_by: created_by.clone(),
        created_at: NOW,
        expires_at: Some(NOW.plus(Duration::from_mins(1))),
        last_used_at: None,
        revoked_at: None,
    };
    (key, hash)
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let (tenant, owner) = make.stored_tenant_with_owner(store, "keys-ours").await;
    let other = make.stored_tenant(store, "keys-theirs").await;
    let (ours, theirs) = (store.api_keys(&tenant), store.api_keys(&other));
    let (first, hash) = key(make, &tenant, &owner);
    let (second, second_hash) = key(make, &tenant, &owner);
    let second = ApiKey { scopes: vec![], expires_at: None, ..second };
    ours.insert(&first, &hash).await.unwrap();
    ours.insert(&second, &second_hash).await.unwrap();
    let gone = store.api_keys(&make.ids.tenant()).insert(&second, &[9; 32]).await;
    assert!(matches!(gone, Err(Error::NotFound { what: "tenant" })));

    assert_eq!(ours.get(&first.id).await.unwrap(), first);
    let page = ours.list(&PageRequest { limit: 1, after: None }).await.unwrap();
    assert_eq!(page.items, std::slice::from_ref(&first), "the newest last");
    let page = ours.list(&PageRequest { limit: 1, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![second.clone()], None));
    let system = store.system("the suite of the store");
    assert_eq!(system.api_key_by_hash(&hash).await.unwrap(), first);
    assert!(matches!(system.api_key_by_hash(&[8; 32]).await, Err(Error::NotFound { what: "API key" })));

    assert_eq!(theirs.list(&PageRequest::first()).await.unwrap().items, [], "another tenant sees nothing");
    assert!(matches!(theirs.get(&first.id).await, Err(Error::NotFound { what: "API key" })));
    assert!(matches!(theirs.revoke(&first.id, NOW).await, Err(Error::NotFound { what: "API key" })));
    theirs.touch(&first.id, NOW).await.unwrap();
    assert_eq!(ours.get(&first.id).await.unwrap(), first, "and changes nothing");

    let later = NOW.plus(Duration::from_secs(1));
    ours.touch(&first.id, later).await.unwrap();
    ours.revoke(&first.id, NOW).await.unwrap();
    ours.revoke(&first.id, later).await.unwrap();
    let used = ApiKey { last_used_at: Some(later), revoked_at: Some(NOW), ..first };
    assert_eq!(ours.get(&used.id).await.unwrap(), used, "twice is the same as once");
    assert_eq!(ours.get(&second.id).await.unwrap(), second);
}
