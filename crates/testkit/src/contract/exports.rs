//! What a store has to do with exports.

use std::time::Duration;

use astrfleet_core::{
    Error,
    export::{Export, State},
    id::TenantId,
    ports::Store,
    time::Timestamp,
};

use super::{
    attachments::attachment,
    messages::{accepted, message},
    sessions::stored_session,
    store::{Make, NOW},
};

/// One that is not stored yet.
#[must_use]
pub fn export(make: &Make, tenant: &TenantId, expires_at: Timestamp) -> Export {
    Export {
        id: make.ids.export(),
        tenant_id: tenant.clone(),
        state: State::Pending,
        done: 0,
        total: 0,
        requested_by: "usr_0190000000007000800000000000abcd".to_owned(),
        created_at: NOW,
        updated_at: NOW,
        expires_at,
        size: None,
        sha256: None,
        failure: None,
    }
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "exports-ours").await;
    let other = make.stored_tenant(store, "exports-theirs").await;
    let (ours, theirs) = (store.exports(&tenant), store.exports(&other));
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));
    let (first, second) = (export(make, &tenant, at(1_000)), export(make, &tenant, at(2_000)));
    ours.insert(&first).await.unwrap();
    ours.insert(&second).await.unwrap();
    assert_eq!(ours.get(&first.id).await.unwrap(), first);
    assert_eq!(ours.list(9).await.unwrap(), [second.clone(), first.clone()], "the newest first");
    assert_eq!(ours.list(1).await.unwrap(), std::slice::from_ref(&second));
    assert_eq!(theirs.list(9).await.unwrap(), []);
    assert!(matches!(theirs.get(&first.id).await, Err(Error::NotFound { what: "export" })));
    assert!(matches!(store.exports(&make.ids.tenant()).insert(&first).await, Err(Error::NotFound { what: "tenant" })));

    let system = store.system("test exports");
    let open = async |abandoned_before| {
        let open = system.open_exports(abandoned_before, 99).await.unwrap();
        let of_ours = open.into_iter().filter(|(export, _)| export.tenant_id == tenant);
        of_ours.map(|(export, attempts)| (export.id, attempts)).collect::<Vec<_>>()
    };
    assert_eq!(open(NOW).await, [(first.id.clone(), 0), (second.id.clone(), 0)]);
    assert!(!theirs.claim(&first.id, 0, at(1)).await.unwrap());
    assert!(ours.claim(&first.id, 0, at(1)).await.unwrap());
    assert!(!ours.claim(&first.id, 0, at(2)).await.unwrap(), "once");
    assert_eq!(open(at(1)).await, [(second.id.clone(), 0)], "somebody works on it");
    assert!(ours.progress(&first.id, 1, 3, 10, at(3)).await.unwrap());
    assert!(!ours.progress(&first.id, 2, 4, 10, at(3)).await.unwrap());
    assert!(!theirs.progress(&first.id, 1, 4, 10, at(3)).await.unwrap());
    let running = Export { state: State::Running, done: 3, total: 10, updated_at: at(3), ..first.clone() };
    assert_eq!(ours.get(&first.id).await.unwrap(), running);

    // Nobody works on it any more.
    assert_eq!(open(at(4)).await, [(first.id.clone(), 1), (second.id.clone(), 0)]);
    assert!(ours.claim(&first.id, 1, at(5)).await.unwrap());
    assert!(!ours.progress(&first.id, 1, 4, 10, at(6)).await.unwrap(), "whoever had it before has lost it");
    assert!(!ours.finish(&first.id, 1, Ok((9, "0a".to_owned())), at(6)).await.unwrap());
    assert!(!theirs.finish(&first.id, 2, Ok((9, "0a".to_owned())), at(6)).await.unwrap());
    assert!(ours.progress(&first.id, 2, 10, 10, at(6)).await.unwrap());
    assert!(ours.finish(&first.id, 2, Ok((9, "ab".to_owned())), at(7)).await.unwrap());
    let done = ours.get(&first.id).await.unwrap();
    assert_eq!((done.state, done.size, done.sha256.as_deref()), (State::Done, Some(9), Some("ab")));
    assert!(ours.claim(&second.id, 0, at(8)).await.unwrap());
    assert!(ours.finish(&second.id, 1, Err("the disk\u{0} is full".to_owned()), at(9)).await.unwrap());
    let failed = ours.get(&second.id).await.unwrap();
    assert_eq!((failed.state, failed.failure.as_deref()), (State::Failed, Some("the disk\u{fffd} is full")));
    assert_eq!(open(at(99)).await, []);

    let stopped = export(make, &tenant, at(2_000));
    ours.insert(&stopped).await.unwrap();
    assert!(ours.claim(&stopped.id, 0, at(8)).await.unwrap());
    assert!(!ours.release(&stopped.id, 2, at(9)).await.unwrap(), "another attempt");
    assert!(!theirs.release(&stopped.id, 1, at(9)).await.unwrap());
    assert!(ours.release(&stopped.id, 1, at(9)).await.unwrap());
    assert!(!ours.release(&stopped.id, 1, at(9)).await.unwrap(), "once");
    assert_eq!(open(NOW).await, [(stopped.id.clone(), 0)], "it waits, and the attempt does not count");
    ours.delete(&stopped.id).await.unwrap();

    let expired = system.expired_exports(at(1_000), 99).await.unwrap();
    let expired: Vec<_> = expired.into_iter().filter(|export| export.tenant_id == tenant).collect();
    assert_eq!(expired, [done], "the moment included");
    assert!(matches!(theirs.delete(&first.id).await, Err(Error::NotFound { what: "export" })));
    ours.delete(&first.id).await.unwrap();
    assert!(matches!(ours.delete(&first.id).await, Err(Error::NotFound { what: "export" })));

    assert_eq!(ours.total().await.unwrap(), 0);
    let session = stored_session(store, make, &tenant, "ada").await;
    let said: Vec<_> = (0..3).map(|_| message(make, &session)).collect();
    for one in &said {
        accepted(store, one).await;
    }
    let file = attachment(make.ids.attachment(), &tenant, 5);
    store.attachments(&tenant).insert(&file, u64::MAX).await.unwrap();
    assert_eq!((ours.total().await.unwrap(), theirs.total().await.unwrap()), (4, 0));
    assert_eq!(ours.messages(None, 2).await.unwrap(), said[..2]);
    assert_eq!(ours.messages(Some(&said[1].id), 2).await.unwrap(), said[2..]);
    assert_eq!(theirs.messages(None, 9).await.unwrap(), []);
    assert_eq!(ours.attachments(None, 9).await.unwrap(), std::slice::from_ref(&file));
    assert_eq!(ours.attachments(Some(&file.id), 9).await.unwrap(), []);
    assert_eq!(theirs.attachments(None, 9).await.unwrap(), []);
}
