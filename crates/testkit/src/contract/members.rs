//! What a store has to do with members.

use astrfleet_core::{Error, id::UserId, page::PageRequest, policy::Role, ports::Store};

use super::store::{Make, NOW};

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    each_tenant_has_its_own(store, make).await;
    an_owner_stays(store, make).await;
    owners_who_take_each_other_out(store, make).await;
}

async fn ids(store: &dyn Store, tenant: &astrfleet_core::id::TenantId) -> Vec<UserId> {
    let page = store.members(tenant).list(&PageRequest::first()).await.unwrap();
    page.items.into_iter().map(|member| member.user_id).collect()
}

async fn each_tenant_has_its_own(store: &dyn Store, make: &Make) {
    let (ours, owner) = make.stored_tenant_with_owner(store, "members-ours").await;
    let (theirs, their_owner) = make.stored_tenant_with_owner(store, "members-theirs").await;
    let agent = make.stored_user(store, "an-agent").await;
    store.members(&ours).put(&agent, Role::Agent, NOW).await.unwrap();

    let member = store.members(&ours).get(&agent).await.unwrap();
    assert_eq!((member.user_id, member.role, member.created_at), (agent.clone(), Role::Agent, NOW));
    assert_eq!((member.email.as_str(), member.display_name.as_str()), ("an-agent@users.example", "an-agent"));
    store.members(&ours).put(&agent, Role::Admin, NOW).await.unwrap();
    assert_eq!(store.members(&ours).get(&agent).await.unwrap().role, Role::Admin, "put again, the role changes");

    assert_eq!(ids(store, &theirs).await, std::slice::from_ref(&their_owner), "another tenant sees nothing");
    assert!(matches!(store.members(&theirs).get(&agent).await, Err(Error::NotFound { what: "member" })));
    assert!(matches!(store.members(&theirs).remove(&agent).await, Err(Error::NotFound { what: "member" })));
    store.members(&theirs).put(&agent, Role::Viewer, NOW).await.unwrap();
    assert_eq!(store.members(&ours).get(&agent).await.unwrap().role, Role::Admin, "and changes nothing");

    let first = store.members(&ours).list(&PageRequest { limit: 1, after: None }).await.unwrap();
    assert_eq!(first.items[0].user_id, owner);
    let second = store.members(&ours).list(&PageRequest { limit: 1, after: first.next_cursor }).await.unwrap();
    assert_eq!((second.items[0].user_id.clone(), second.next_cursor), (agent.clone(), None));

    store.members(&ours).remove(&agent).await.unwrap();
    assert_eq!(ids(store, &ours).await, [owner]);
    assert_eq!(ids(store, &theirs).await, [their_owner, agent.clone()]);

    let nobody = make.ids.user();
    let put = store.members(&ours).put(&nobody, Role::Viewer, NOW).await;
    assert!(matches!(put, Err(Error::NotFound { what: "user" })));
    let put = store.members(&make.ids.tenant()).put(&agent, Role::Viewer, NOW).await;
    assert!(matches!(put, Err(Error::NotFound { what: "tenant" })));
}

async fn an_owner_stays(store: &dyn Store, make: &Make) {
    let (tenant, owner) = make.stored_tenant_with_owner(store, "owned").await;
    let members = store.members(&tenant);
    assert!(matches!(members.remove(&owner).await, Err(Error::Conflict { .. })));
    assert!(matches!(members.put(&owner, Role::Admin, NOW).await, Err(Error::Conflict { .. })));
    members.put(&owner, Role::Owner, NOW).await.unwrap();
    let second = make.stored_user(store, "second-owner").await;
    members.put(&second, Role::Owner, NOW).await.unwrap();
    members.put(&owner, Role::Viewer, NOW).await.unwrap();
    assert!(matches!(members.remove(&second).await, Err(Error::Conflict { .. })), "now the second is the last one");
    members.remove(&owner).await.unwrap();
}

async fn owners_who_take_each_other_out(store: &dyn Store, make: &Make) {
    for round in 0..8 {
        let (tenant, one) = make.stored_tenant_with_owner(store, &format!("duel-{round}")).await;
        let other = make.stored_user(store, &format!("duel-other-{round}")).await;
        let (first, second) = (store.members(&tenant), store.members(&tenant));
        first.put(&other, Role::Owner, NOW).await.unwrap();
        let (by_one, by_other) = tokio::join!(first.remove(&other), second.put(&one, Role::Viewer, NOW));
        assert!(by_one.is_ok() != by_other.is_ok(), "one of them stays: {by_one:?} {by_other:?}");
    }
}
