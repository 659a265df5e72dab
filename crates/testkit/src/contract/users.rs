//! What a store has to do with people.

use astrfleet_core::{Error, page::PageRequest, policy::Role, ports::Store, user::User};

use super::store::{Make, NOW};

/// Everything of it. The store holds no user yet.
pub async fn all(store: &dyn Store, make: &Make) {
    first_administrator(store, make).await;
    addresses(store, make).await;
    changes(store, make).await;
    pages(store, make).await;
    memberships(store, make).await;
}

async fn first_administrator(store: &dyn Store, make: &Make) {
    let users = store.users();
    make.stored_user(store, "somebody").await;
    assert!(!users.any_admin().await.unwrap());
    assert!(matches!(users.first_admin().await, Err(Error::NotFound { what: "user" })));
    for name in ["root", "second-root"] {
        users.insert(&User { platform_admin: true, ..make.user(name) }, "hash").await.unwrap();
    }
    assert!(users.any_admin().await.unwrap());
    assert_eq!(users.first_admin().await.unwrap().display_name, "root");
}

async fn addresses(store: &dyn Store, make: &Make) {
    let users = store.users();
    let ada = User { email: "ada@users.example".to_owned(), ..make.user("ada") };
    users.insert(&ada, "hash of ada").await.unwrap();
    let (found, hash) = users.by_email("ADA@users.example").await.unwrap();
    assert_eq!((found, hash.as_str()), (ada.clone(), "hash of ada"), "case does not matter");
    assert!(matches!(users.by_email("nobody@users.example").await, Err(Error::NotFound { what: "user" })));

    assert!(matches!(users.by_email("ada\0@users.example").await, Err(Error::NotFound { what: "user" })));

    let other = User { email: "Ada@Users.example".to_owned(), ..make.user("other") };
    assert!(matches!(users.insert(&other, "hash").await, Err(Error::Conflict { .. })), "taken, in any case");
    let bob = make.user("bob");
    users.insert(&bob, "hash").await.unwrap();
    let grabbing = User { email: "ADA@users.example".to_owned(), ..bob };
    assert!(matches!(users.update(&grabbing).await, Err(Error::Conflict { .. })), "taken, also for a change");
}

async fn changes(store: &dyn Store, make: &Make) {
    let users = store.users();
    let user = make.user("changing");
    users.insert(&user, "old").await.unwrap();
    assert_eq!(users.get(&user.id).await.unwrap(), user);
    assert!(matches!(users.get(&make.ids.user()).await, Err(Error::NotFound { what: "user" })));

    let changed = User { display_name: "Changed".to_owned(), disabled: true, platform_admin: true, ..user.clone() };
    let stored = users.update(&changed).await.unwrap();
    assert_eq!(stored, User { version: 2, ..changed.clone() });
    assert_eq!(users.get(&user.id).await.unwrap(), stored);
    assert!(matches!(users.update(&changed).await, Err(Error::Stale { what: "user" })), "read before that change");
    let (_, hash) = users.by_email(&user.email).await.unwrap();
    assert_eq!(hash, "old", "a change leaves the password alone");

    users.set_password(&user.id, "new", NOW).await.unwrap();
    let (found, hash) = users.by_email(&user.email).await.unwrap();
    assert_eq!((found.version, hash.as_str()), (3, "new"));
    assert!(matches!(users.set_password(&make.ids.user(), "new", NOW).await, Err(Error::NotFound { what: "user" })));
}

async fn pages(store: &dyn Store, make: &Make) {
    let users = store.users();
    for number in 0..4 {
        make.stored_user(store, &format!("page-{number}")).await;
    }
    let whole = users.list(&PageRequest::first()).await.unwrap();
    assert!(whole.next_cursor.is_none());
    assert!(whole.items.is_sorted_by_key(|user| user.id.clone()), "the newest last");

    let mut paged = Vec::new();
    let mut request = PageRequest { limit: 3, after: None };
    loop {
        let page = users.list(&request).await.unwrap();
        assert!(page.items.len() <= 3);
        paged.extend(page.items);
        let Some(cursor) = page.next_cursor else { break };
        request.after = Some(cursor);
    }
    assert_eq!(paged, whole.items, "page after page: nothing twice, nothing left out");
}

async fn memberships(store: &dyn Store, make: &Make) {
    let user = make.stored_user(store, "of-many").await;
    assert_eq!(store.users().memberships(&user).await.unwrap(), []);
    let (one, other) = (make.stored_tenant(store, "many-one").await, make.stored_tenant(store, "many-other").await);
    store.members(&one).put(&user, Role::Agent, NOW).await.unwrap();
    store.members(&other).put(&user, Role::Owner, NOW).await.unwrap();
    let found = store.users().memberships(&user).await.unwrap();
    let seen: Vec<_> = found.iter().map(|at| (&at.tenant_id, at.tenant.as_str(), at.role)).collect();
    assert_eq!(seen, [(&one, "many-one", Role::Agent), (&other, "many-other", Role::Owner)]);
}
