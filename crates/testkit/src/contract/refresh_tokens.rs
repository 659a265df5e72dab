//! What a store has to do with refresh tokens.

use std::time::Duration;

use astrfleet_core::{Error, id::LoginId, id::UserId, ports::Store, time::Timestamp, user::RefreshToken};

use super::store::{Make, NOW};

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    one_use(store, make).await;
    the_end_of_a_login(store, make).await;
    expiry(store, make).await;
}

fn token(make: &Make, user: &UserId, login: &LoginId, expires_at: Timestamp) -> RefreshToken {
    let id = make.ids.refresh_token();
    let mut hash = [0; 32];
    hash.copy_from_slice(&id.as_str().as_bytes()[4..]);
    RefreshToken { id, login: login.clone(), user: user.clone(), hash, expires_at, used_at: None, revoked_at: None }
}

async fn one_use(store: &dyn Store, make: &Make) {
    let (tokens, user) = (store.refresh_tokens(), make.stored_user(store, "refreshing").await);
    let token = token(make, &user, &make.ids.login(), NOW);
    tokens.insert(&token).await.unwrap();
    let found = tokens.by_hash(&token.hash).await.unwrap();
    assert_eq!((found.id.clone(), found.login, found.user), (token.id.clone(), token.login, user));
    assert_eq!((found.hash, found.expires_at, found.used_at, found.revoked_at), (token.hash, NOW, None, None));

    assert!(tokens.take(&token.id, NOW).await.unwrap());
    assert!(!tokens.take(&token.id, NOW).await.unwrap(), "a second use is told");
    assert_eq!(tokens.by_hash(&token.hash).await.unwrap().used_at, Some(NOW));
    assert!(matches!(tokens.by_hash(&[7; 32]).await, Err(Error::NotFound { what: "refresh token" })));
    assert!(!tokens.take(&make.ids.refresh_token(), NOW).await.unwrap());
}

async fn the_end_of_a_login(store: &dyn Store, make: &Make) {
    let (tokens, user) = (store.refresh_tokens(), make.stored_user(store, "ending").await);
    let (ended, other, third) = (make.ids.login(), make.ids.login(), make.ids.login());
    let of = |login| token(make, &user, login, NOW);
    let (one, two, three) = (of(&ended), of(&other), of(&third));
    for token in [&one, &two, &three] {
        tokens.insert(token).await.unwrap();
    }
    assert!(tokens.login_lasts(&ended).await.unwrap());
    assert!(!tokens.login_lasts(&make.ids.login()).await.unwrap(), "one that never began does not last");
    tokens.revoke_login(&ended, NOW).await.unwrap();
    assert!(!tokens.login_lasts(&ended).await.unwrap());
    assert_eq!(tokens.by_hash(&one.hash).await.unwrap().revoked_at, Some(NOW));
    assert!(!tokens.take(&one.id, NOW).await.unwrap(), "worth nothing any more");
    assert_eq!(tokens.by_hash(&two.hash).await.unwrap().revoked_at, None, "another login goes on");

    let late = of(&ended);
    tokens.insert(&late).await.unwrap();
    assert_eq!(tokens.by_hash(&late.hash).await.unwrap().revoked_at, Some(NOW), "nothing descends from an ended login");

    let mut revoked = tokens.revoke_user(&user, NOW).await.unwrap();
    revoked.sort();
    assert_eq!(revoked, [other, third], "which were still open");
    assert_eq!(tokens.revoke_user(&user, NOW).await.unwrap(), []);
}

async fn expiry(store: &dyn Store, make: &Make) {
    let (tokens, user) = (store.refresh_tokens(), make.stored_user(store, "expiring").await);
    let long_ago = NOW.minus(Duration::from_hours(1000));
    let (login, old) = (make.ids.login(), long_ago.minus(Duration::from_secs(1)));
    for expires_at in [old, old, old, long_ago] {
        tokens.insert(&token(make, &user, &login, expires_at)).await.unwrap();
    }
    assert_eq!(tokens.delete_expired(long_ago, 2).await.unwrap(), 2, "no more than asked for");
    assert_eq!(tokens.delete_expired(long_ago, 2).await.unwrap(), 1, "what expires at that moment stays");
    assert_eq!(tokens.delete_expired(long_ago, 2).await.unwrap(), 0);
}
