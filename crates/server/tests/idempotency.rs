//! `Idempotency-Key`, through the real router.

use astrfleet_core::policy::Role;
use astrfleet_testkit::app::{Answer, Caller, TestApp};
use axum::http::Method;
use serde_json::{Value, json};

async fn post(app: &TestApp, who: &Caller, path: &str, body: Value, key: &str) -> Answer {
    app.send(Method::POST, who, path, Some(body), &[("idempotency-key", key)]).await
}

fn acme() -> Value {
    json!({"name": "acme", "email": "a@acme.example"})
}

#[tokio::test]
async fn the_same_request_again_gives_the_same_answer_and_does_nothing() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let first = post(&app, &admin, "/tenants", acme(), "k1").await.expect(201);
    let again = post(&app, &admin, "/tenants", acme(), "k1").await.expect(201);
    assert_eq!(again.text, first.text);
    for header in ["location", "etag", "content-type"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    let listed = app.get(&admin, "/tenants").await;
    assert_eq!(listed.json["items"].as_array().unwrap().len(), 1);
    assert_eq!(app.get(&admin, "/audit-log").await.json["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused_and_another_caller_has_keys_of_their_own() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    post(&app, &admin, "/tenants", acme(), "k1").await.expect(201);
    let other = post(&app, &admin, "/tenants", json!({"name": "b", "email": "b@b.example"}), "k1").await.expect(422);
    assert_eq!(other.code(), "idempotency_key_reused");
    post(&app, &admin, "/tenants/acme/suspend", acme(), "k1").await.expect(422);
    let second = app.log_in(app.user("second@example.com", true).await).await;
    post(&app, &second, "/tenants", json!({"name": "b", "email": "b@b.example"}), "k1").await.expect(201);
}

#[tokio::test]
async fn what_was_refused_may_be_sent_again() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.tenant("acme").await;
    post(&app, &admin, "/tenants", acme(), "k1").await.expect(409);
    post(&app, &admin, "/tenants", json!({"name": "fine", "email": "a@fine.example"}), "k1").await.expect(201);
    post(&app, &Caller::nobody(), "/tenants", acme(), "k2").await.expect(401);
    for bad in ["", &"k".repeat(256)] {
        assert_eq!(post(&app, &admin, "/tenants", acme(), bad).await.expect(400).json["field"], "Idempotency-Key");
    }
}

#[tokio::test]
async fn a_secret_is_shown_once_and_not_kept() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let body = json!({"name": "web shop", "scopes": ["chat"]});
    let first = post(&app, &owner, "/tenants/acme/api-keys", body.clone(), "k1").await.expect(201);
    let secret = first.json["secret"].as_str().unwrap();
    let again = post(&app, &owner, "/tenants/acme/api-keys", body, "k1").await.expect(409);
    assert!(!again.text.contains(secret) && again.json["detail"].as_str().unwrap().contains("secret"));
    let keys = app.get(&owner, "/tenants/acme/api-keys").await;
    assert_eq!(keys.json["items"].as_array().unwrap().len(), 1);
    assert!(app.stores("web shop") && !app.stores(secret), "it is in the database");
}

#[tokio::test]
async fn a_request_that_is_being_worked_on_is_not_begun_again_until_it_is_abandoned() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let (first, second) =
        tokio::join!(post(&app, &admin, "/tenants", acme(), "k1"), post(&app, &admin, "/tenants", acme(), "k1"),);
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    // The second met the first at work, or after it.
    assert!([[201, 409], [201, 201]].contains(&statuses), "{statuses:?}");
    assert_eq!(app.get(&admin, "/tenants").await.json["items"].as_array().unwrap().len(), 1);
}
