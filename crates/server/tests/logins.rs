//! Logins, tokens, keys and users, through the real router.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test where they stand")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use astrfleet_core::{api_key::Scope, policy::Role};
use astrfleet_testkit::app::{Answer, Caller, PASSWORD, TestApp};
use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{Method, Request},
};
use serde_json::{Value, json};

async fn log_in(app: &TestApp, email: &str, password: &str) -> Answer {
    app.post(&Caller::nobody(), "/auth/login", json!({"email": email, "password": password})).await
}

async fn refresh(app: &TestApp, token: &Value) -> Answer {
    app.post(&Caller::nobody(), "/auth/refresh", json!({"refresh_token": token})).await
}

fn bearer(login: &Answer) -> Caller {
    Caller::with(login.json["access_token"].as_str().unwrap())
}

#[tokio::test]
async fn who_logs_in_is_known_for_a_quarter_of_an_hour() {
    let app = TestApp::new().await;
    let ada = app.user("ada@example.com", false).await;
    let login = log_in(&app, " Ada@Example.com ", PASSWORD).await.expect(200);
    assert_eq!(login.json["expires_in"], 900);
    let me = app.get(&bearer(&login), "/auth/me").await.expect(200);
    assert_eq!(me.json["user"]["id"], ada.id.as_str());
    assert_eq!(me.json["user"].get("password_hash"), None);
    app.advance(Duration::from_secs(899));
    app.get(&bearer(&login), "/auth/me").await.expect(200);
    app.advance(Duration::from_secs(1));
    assert_eq!(app.get(&bearer(&login), "/auth/me").await.expect(401).code(), "unauthenticated");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_are_answered_alike() {
    let app = TestApp::new().await;
    app.user("ada@example.com", false).await;
    let wrong = log_in(&app, "ada@example.com", "not the password").await.expect(401);
    let unknown = log_in(&app, "eve@example.com", "not the password").await.expect(401);
    assert_eq!(wrong.json["detail"], unknown.json["detail"]);
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "remember": true});
    assert_eq!(app.post(&Caller::nobody(), "/auth/login", body).await.expect(400).code(), "invalid");
}

#[tokio::test]
async fn who_fails_too_often_has_to_wait_and_success_does_not_count() {
    let app = TestApp::configured(|config| config.auth.login_attempts = 3).await;
    app.user("ada@example.com", false).await;
    for _ in 0..5 {
        log_in(&app, "ada@example.com", PASSWORD).await.expect(200);
    }
    for _ in 0..3 {
        log_in(&app, "ada@example.com", "not the password").await.expect(401);
    }
    let waits = log_in(&app, "ada@example.com", PASSWORD).await.expect(429);
    assert_eq!((waits.code(), waits.header("retry-after")), ("too_many", "100"));
    app.advance(Duration::from_secs(100));
    log_in(&app, "ada@example.com", PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_a_second_use_ends_the_login() {
    let app = TestApp::new().await;
    app.user("ada@example.com", false).await;
    let first = log_in(&app, "ada@example.com", PASSWORD).await.expect(200);
    let other = log_in(&app, "ada@example.com", PASSWORD).await.expect(200);
    let second = refresh(&app, &first.json["refresh_token"]).await.expect(200);
    app.get(&bearer(&first), "/auth/me").await.expect(200);
    app.get(&bearer(&second), "/auth/me").await.expect(200);

    refresh(&app, &first.json["refresh_token"]).await.expect(401);
    for ended in [&first, &second] {
        app.get(&bearer(ended), "/auth/me").await.expect(401);
    }
    refresh(&app, &second.json["refresh_token"]).await.expect(401);
    app.get(&bearer(&other), "/auth/me").await.expect(200);
    refresh(&app, &json!("afr_made_up")).await.expect(401);
    app.advance(Duration::from_hours(30 * 24));
    refresh(&app, &other.json["refresh_token"]).await.expect(401);
}

#[tokio::test]
async fn who_logs_out_is_out_at_once_and_stays_out_after_a_restart() {
    let app = TestApp::new().await;
    app.user("ada@example.com", false).await;
    let login = log_in(&app, "ada@example.com", PASSWORD).await.expect(200);
    app.get(&bearer(&login), "/auth/me").await.expect(200);
    app.post(&bearer(&login), "/auth/logout", json!({})).await.expect(204);
    app.get(&bearer(&login), "/auth/me").await.expect(401);
    let restarted = app.restarted().await;
    restarted.get(&bearer(&login), "/auth/me").await.expect(401);
}

#[tokio::test]
async fn another_password_ends_all_other_logins() {
    let app = TestApp::new().await;
    app.user("ada@example.com", false).await;
    let (one, two) = (log_in(&app, "ada@example.com", PASSWORD).await, log_in(&app, "ada@example.com", PASSWORD).await);
    let change = |old: &str, new: &str| json!({"old_password": old, "new_password": new});
    let wrong = app.put(&bearer(&one), "/auth/password", change("a wrong old password", "a new long password")).await;
    assert_eq!(wrong.expect(400).json["field"], "old_password");
    let short = app.put(&bearer(&one), "/auth/password", change(PASSWORD, "short")).await;
    assert_eq!(short.expect(400).json["field"], "new_password");
    let new = app.put(&bearer(&one), "/auth/password", change(PASSWORD, "a new long password")).await.expect(200);
    app.get(&bearer(&new), "/auth/me").await.expect(200);
    for old in [&one, &two] {
        app.get(&bearer(old), "/auth/me").await.expect(401);
    }
    log_in(&app, "ada@example.com", PASSWORD).await.expect(401);
    log_in(&app, "ada@example.com", "a new long password").await.expect(200);
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let body = json!({"email": "Ada@Example.com", "password": PASSWORD, "display_name": "Ada"});
    let ada = app.post(&admin, "/users", body.clone()).await.expect(201);
    assert_eq!(ada.json["email"], "ada@example.com");
    app.post(&admin, "/users", body).await.expect(409);
    let path = format!("/users/{}", ada.json["id"].as_str().unwrap());
    let login = log_in(&app, "ada@example.com", PASSWORD).await.expect(200);
    app.patch(&bearer(&login), &path, json!({"platform_admin": true})).await.expect(403);
    let promoted = app.patch(&admin, &path, json!({"platform_admin": true})).await.expect(200);
    assert_eq!(promoted.header("etag"), "\"2\"");
    app.get(&bearer(&login), "/users").await.expect(200);
    app.send(Method::PATCH, &admin, &path, Some(json!({"disabled": true})), &[("if-match", "\"1\"")]).await.expect(412);
    app.patch(&admin, &path, json!({"disabled": true})).await.expect(200);
    app.get(&bearer(&login), "/auth/me").await.expect(401);
    log_in(&app, "ada@example.com", PASSWORD).await.expect(401);
    let own = format!("/users/{}", admin.id());
    app.patch(&admin, &own, json!({"disabled": true})).await.expect(409);
    app.patch(&admin, &own, json!({"platform_admin": false})).await.expect(409);
}

#[tokio::test]
async fn an_api_key_does_what_its_scopes_say_until_it_is_revoked() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    app.tenant("other").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let body = json!({"name": "web shop", "scopes": ["instance", "instance"]});
    let made = app.post(&owner, "/tenants/acme/api-keys", body).await.expect(201);
    let secret = made.json["secret"].as_str().unwrap();
    assert!(secret.starts_with("astr_") && secret.starts_with(made.json["prefix"].as_str().unwrap()));
    assert_eq!(made.json["scopes"], json!(["instance"]));
    let key = Caller::with(secret);
    let me = app.get(&key, "/auth/me").await.expect(200);
    assert_eq!(me.json["api_key"]["name"], "web shop");
    app.get(&key, "/tenants/acme/instance").await.expect(200);
    app.get(&key, "/tenants/other/instance").await.expect(404);
    app.get(&key, "/tenants/acme/api-keys").await.expect(403);
    app.get(&key, "/tenants/acme").await.expect(403);
    app.get(&key, "/users").await.expect(403);
    let header = app.send(Method::GET, &Caller::nobody(), "/auth/me", None, &[("x-api-key", secret)]).await;
    header.expect(200);

    let path = format!("/tenants/acme/api-keys/{}", made.json["id"].as_str().unwrap());
    app.app.tasks.close();
    app.app.tasks.wait().await;
    let shown = app.get(&owner, &path).await.expect(200);
    assert!(!shown.text.contains(secret) && shown.json["last_used_at"].is_string(), "{}", shown.text);
    for _ in 0..2 {
        app.delete(&owner, &path).await.expect(204);
        app.get(&key, "/auth/me").await.expect(401);
    }
    let log = app.get(&owner, "/tenants/acme/audit-log").await.expect(200);
    assert_eq!(log.json["items"][0]["action"], "api_key.manage");
    assert!(!log.text.contains(secret));
}

#[tokio::test]
async fn an_api_key_that_expired_or_was_never_made_is_worth_nothing() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let until = app.app.clock.now().plus(Duration::from_secs(5));
    let body = json!({"name": "short", "scopes": ["chat"], "expires_at": until});
    let made = app.post(&owner, "/tenants/acme/api-keys", body.clone()).await.expect(201);
    let key = Caller::with(made.json["secret"].as_str().unwrap());
    app.get(&key, "/auth/me").await.expect(200);
    app.advance(Duration::from_secs(5));
    app.get(&key, "/auth/me").await.expect(401);
    app.get(&Caller::with("astr_made_up"), "/auth/me").await.expect(401);
    assert_eq!(app.post(&owner, "/tenants/acme/api-keys", body).await.expect(400).json["field"], "expires_at");
    let none = app.post(&owner, "/tenants/acme/api-keys", json!({"name": "none", "scopes": []})).await;
    assert_eq!(none.expect(400).json["field"], "scopes");
}

#[tokio::test]
async fn forged_and_foreign_tokens_are_refused() {
    let app = TestApp::new().await;
    let other = TestApp::configured(|config| config.auth.jwt_secret = "another secret of 32 characters or more".into());
    let foreign = other.await.admin().await;
    app.get(&foreign, "/auth/me").await.expect(401);
    for forged in ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", &"y".repeat(9_000)] {
        app.get(&Caller::with(forged), "/auth/me").await.expect(401);
    }
    let answer = app.get(&Caller::nobody(), "/auth/me").await.expect(401);
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    let keys = app.get(&Caller::nobody(), "//.well-known/jwks.json").await.expect(200);
    assert_eq!((&keys.json["keys"][0]["alg"], keys.json["keys"].as_array().unwrap().len()), (&json!("EdDSA"), 1));
}

#[tokio::test]
async fn a_removed_member_is_out_at_once() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let (owner, viewer) = (app.member(&tenant, Role::Owner).await, app.member(&tenant, Role::Viewer).await);
    app.get(&viewer, "/tenants/acme/instance").await.expect(200);
    app.delete(&owner, &format!("/tenants/acme/members/{}", viewer.id())).await.expect(204);
    app.get(&viewer, "/tenants/acme/instance").await.expect(404);
}

#[tokio::test]
async fn the_first_administrator_is_made_once() {
    let app = TestApp::new().await;
    let auth = &app.app.auth;
    let (user, password) = auth.ensure_first_admin("root@example.com", None).await.unwrap().unwrap();
    assert!(user.platform_admin);
    let password = secrecy::ExposeSecret::expose_secret(&password.unwrap()).to_owned();
    log_in(&app, "root@example.com", &password).await.expect(200);
    assert!(auth.ensure_first_admin("other@example.com", None).await.unwrap().is_none());
}

#[tokio::test]
async fn the_local_credential_is_worth_nothing_from_elsewhere() {
    let app = TestApp::new().await;
    let credential = "local credential of at least 32 characters";
    let auth = &app.app.auth;
    assert!(auth.enable_local_admin(credential.into()).await.is_err(), "there is nobody to act for");
    let admin = app.admin().await;
    assert!(auth.enable_local_admin("short".into()).await.is_err());
    auth.enable_local_admin(credential.into()).await.unwrap();
    let from = |peer: &str| {
        let peer: IpAddr = peer.parse().unwrap();
        let request = Request::get("/api/v1/auth/me").header("authorization", format!("Bearer {credential}"));
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((peer, 50_000))));
        app.raw(request)
    };
    for (peer, status) in [("127.0.0.1", 200), ("192.0.2.7", 401), ("::1", 200), ("::ffff:127.0.0.1", 200)] {
        let response = from(peer).await;
        assert_eq!(response.status(), status, "{peer}");
        if status == 200 {
            let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
            let me: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(me["user"]["id"], admin.id().as_str());
        }
    }
    app.get(&Caller::with("local credential of at least 32 character!"), "/auth/me").await.expect(401);
}

#[tokio::test]
async fn what_was_proven_a_moment_ago_is_known_without_looking() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let auth = &app.app.auth;
    let admin = app.admin().await;
    let key = app.api_key(&tenant, &[Scope::Chat]).await;
    for caller in [&admin, &key] {
        let credential = secrecy::ExposeSecret::expose_secret(caller.credential.as_ref().unwrap());
        assert_eq!(auth.authenticate_cached(credential), None);
        let proven = auth.authenticate(credential, None).await.unwrap();
        assert_eq!(auth.authenticate_cached(credential), Some(proven));
        app.advance(Duration::from_secs(11));
        assert_eq!(auth.authenticate_cached(credential), None, "it is looked up again after a while");
    }
}

#[tokio::test]
async fn the_audit_log_is_a_chain() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    for name in ["one", "two", "three"] {
        let body = json!({"name": name, "email": format!("a@{name}.example")});
        app.post(&admin, "/tenants", body).await.expect(201);
    }
    let page = app.get(&admin, "/audit-log?limit=2").await.expect(200);
    let entries = page.json["items"].as_array().unwrap();
    assert_eq!(entries[0]["previous_hash"], entries[1]["hash"]);
    let cursor = page.json["next_cursor"].as_str().unwrap();
    let rest = app.get(&admin, &format!("/audit-log?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!(entries[1]["previous_hash"], rest.json["items"][0]["hash"]);
    assert_eq!(rest.json["items"][0]["seq"], 1);
    app.get(&admin, "/audit-log?limit=0").await.expect(400);
    app.get(&admin, "/audit-log?cursor=../x").await.expect(400);
}

#[tokio::test]
async fn who_tries_credentials_out_has_to_wait_and_who_is_known_has_not() {
    // Another one comes back after a minute: so long this takes on no machine.
    let app = TestApp::configured(|config| config.gateway.anonymous_rate_limit_per_minute = 1).await;
    let admin = app.admin().await;
    app.get(&Caller::with("astr_one"), "/auth/me").await.expect(401);
    for guess in ["astr_two", "a.b.c"] {
        app.get(&Caller::with(guess), "/auth/me").await.expect(429);
    }
    app.get(&Caller::nobody(), "/auth/me").await.expect(429);
    refresh(&app, &json!("afr_made_up")).await.expect(429);
    app.get(&admin, "/auth/me").await.expect(200);
}

#[tokio::test]
async fn tokens_of_the_secret_before_are_good_until_they_expire() {
    let old = TestApp::new().await;
    let admin = old.admin().await;
    let rotated = old.restarted_with(|config| {
        config.auth.previous_jwt_secret = Some(config.auth.jwt_secret.clone());
        config.auth.jwt_secret = "the next secret of 32 characters or more".into();
    });
    let rotated = rotated.await;
    rotated.get(&admin, "/auth/me").await.expect(200);
    let keys = rotated.get(&Caller::nobody(), "//.well-known/jwks.json").await.expect(200);
    assert_eq!(keys.json["keys"].as_array().unwrap().len(), 2);
    let forgotten =
        old.restarted_with(|config| config.auth.jwt_secret = "the next secret of 32 characters or more".into());
    let forgotten = forgotten.await;
    forgotten.get(&admin, "/auth/me").await.expect(401);
}
