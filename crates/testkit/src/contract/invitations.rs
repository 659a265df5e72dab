//! What a store has to do with invitations.

use std::time::Duration;

use astrfleet_core::{Error, id::UserId, member::Invitation, page::PageRequest, policy::Role, ports::Store};

use super::store::{Make, NOW};

/// One that is not stored yet, and the hash of its token.
#[must_use]
pub fn invitation(make: &Make, invited_by: &UserId, email: &str, role: Role) -> (Invitation, [u8; 32]) {
    let id = make.ids.invitation();
    let mut hash = [0; 32];
    hash.copy_from_slice(&id.as_str().as_bytes()[4..]);
    let invitation = Invitation {
        id,
        email: email.to_owned(),
        role,
        invited_by: invited_by.clone(),
        expires_at: NOW.plus(Duration::from_mins(1)),
        accepted_at: None,
        created_at: NOW,
    };
    (invitation, hash)
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let (ours, owner) = make.stored_tenant_with_owner(store, "inviting").await;
    let theirs = make.stored_tenant(store, "not-inviting").await;
    let (first, hash) = invitation(make, &owner, "guest@users.example", Role::Agent);
    store.invitations(&ours).insert(&first, &hash).await.unwrap();
    let (second, second_hash) = invitation(make, &owner, "other@users.example", Role::Owner);
    store.invitations(&ours).insert(&second, &second_hash).await.unwrap();
    let gone = store.invitations(&make.ids.tenant()).insert(&second, &[9; 32]).await;
    assert!(matches!(gone, Err(Error::NotFound { what: "tenant" })));

    let page = store.invitations(&ours).list(&PageRequest { limit: 1, after: None }).await.unwrap();
    assert_eq!(page.items, std::slice::from_ref(&first), "the newest last");
    let page = store.invitations(&ours).list(&PageRequest { limit: 1, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![second.clone()], None));

    let system = store.system("the suite of the store");
    assert_eq!(system.invitation_by_hash(&hash).await.unwrap(), (ours.clone(), first.clone()));
    assert!(matches!(system.invitation_by_hash(&[8; 32]).await, Err(Error::NotFound { what: "invitation" })));

    let guest = make.stored_user(store, "guest").await;
    assert_eq!(store.invitations(&theirs).list(&PageRequest::first()).await.unwrap().items, []);
    assert!(!store.invitations(&theirs).accept(&first.id, &guest, NOW).await.unwrap(), "another tenant has nothing");
    let delete = store.invitations(&theirs).delete(&first.id).await;
    assert!(matches!(delete, Err(Error::NotFound { what: "invitation" })));

    let nobody = store.invitations(&ours).accept(&first.id, &make.ids.user(), NOW).await;
    assert!(matches!(nobody, Err(Error::NotFound { what: "user" })));
    assert!(store.invitations(&ours).accept(&first.id, &guest, NOW).await.unwrap(), "which that did not take up");
    assert!(!store.invitations(&ours).accept(&first.id, &guest, NOW).await.unwrap(), "once");
    assert_eq!(store.members(&ours).get(&guest).await.unwrap().role, Role::Agent);
    assert_eq!(system.invitation_by_hash(&hash).await.unwrap().1.accepted_at, Some(NOW));

    let (lower, lower_hash) = invitation(make, &owner, "guest@users.example", Role::Viewer);
    store.invitations(&ours).insert(&lower, &lower_hash).await.unwrap();
    assert!(store.invitations(&ours).accept(&lower.id, &owner, NOW).await.unwrap());
    assert_eq!(store.members(&ours).get(&owner).await.unwrap().role, Role::Owner, "nobody loses a role by it");
    assert!(store.invitations(&ours).accept(&second.id, &guest, NOW).await.unwrap());
    assert_eq!(store.members(&ours).get(&guest).await.unwrap().role, Role::Owner, "but may win one");

    store.invitations(&ours).delete(&first.id).await.unwrap();
    let deleted = store.invitations(&ours).delete(&first.id).await;
    assert!(matches!(deleted, Err(Error::NotFound { what: "invitation" })));
}
