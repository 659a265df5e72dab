//! Sessions through the real router.

use std::time::Duration;

use astrfleet_core::{api_key::Scope, id::SessionId, policy::Role, ports::Store, session::State};
use astrfleet_server::loops::LoopState;
use astrfleet_testkit::app::TestApp;
use axum::http::Method;
use serde_json::json;

#[tokio::test]
async fn a_session_is_opened_changed_and_closed() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let made = app
        .post(&agent, "/tenants/acme/sessions", json!({"end_user": "客户 7", "metadata": {"order": 4711}}))
        .await
        .expect(201);
    assert_eq!(made.json["end_user"], "客户 7");
    assert_eq!((&made.json["state"], &made.json["channel"]), (&json!("bot"), &json!("api")));
    let id = made.json["id"].as_str().unwrap();
    assert_eq!(made.header("location"), format!("/api/v1/tenants/{}/sessions/{id}", tenant.id));
    let path = format!("/tenants/acme/sessions/{id}");

    let seen = app.get(&agent, &path).await.expect(200);
    let change = json!({"metadata": {"order": 4712}});
    let stale = [("if-match", "\"77\"")];
    app.send(Method::PATCH, &agent, &path, Some(change.clone()), &stale).await.expect(412);
    let fresh = [("if-match", seen.header("etag"))];
    let changed = app.send(Method::PATCH, &agent, &path, Some(change), &fresh).await.expect(200);
    assert_eq!(changed.json["metadata"]["order"], 4712);
    assert_ne!(changed.header("etag"), seen.header("etag"));

    for _ in 0..2 {
        let closed = app.post(&agent, &format!("{path}/close"), json!({})).await.expect(200);
        assert_eq!((&closed.json["state"], &closed.json["close_reason"]), (&json!("closed"), &json!("closed")));
    }
    let refused = app.post(&agent, &format!("{path}/messages"), json!({"text": "Hi"})).await.expect(409);
    assert!(refused.json["detail"].as_str().unwrap().contains("open a new one"), "{}", refused.text);
}

#[tokio::test]
async fn sessions_are_listed_by_end_user_in_pages() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let key = app.api_key(&tenant, &[Scope::Chat]).await;
    for end_user in ["ada", "bob", "ada"] {
        app.post(&key, "/tenants/acme/sessions", json!({"end_user": end_user})).await.expect(201);
    }
    let of_ada = app.get(&key, "/tenants/acme/sessions?end_user=ada").await.expect(200);
    assert_eq!(of_ada.json["items"].as_array().unwrap().len(), 2);
    let first = app.get(&key, "/tenants/acme/sessions?limit=2").await.expect(200);
    let cursor = first.json["next_cursor"].as_str().unwrap();
    let second = app.get(&key, &format!("/tenants/acme/sessions?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!(second.json["items"].as_array().unwrap().len(), 1);
    assert!(second.json["next_cursor"].is_null());
    assert_eq!(app.get(&key, "/tenants/acme/sessions?cursor=../x").await.expect(400).json["field"], "cursor");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_the_answer_says_which_field() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    for (field, body) in [
        ("end_user", json!({"end_user": ""})),
        ("end_user", json!({"end_user": "a\u{0}b"})),
        ("end_user", json!({"end_user": "x".repeat(129)})),
        ("channel", json!({"end_user": "ada", "channel": "Tele gram"})),
        ("metadata", json!({"end_user": "ada", "metadata": [1]})),
        ("metadata", json!({"end_user": "ada", "metadata": {"x": "y".repeat(5_000)}})),
        ("body", json!({"end_user": "ada", "state": "closed"})),
        ("body", json!({"end_user": 7})),
    ] {
        let refused = app.post(&agent, "/tenants/acme/sessions", body.clone()).await.expect(400);
        assert_eq!(refused.json["field"], field, "{body}: {}", refused.text);
    }
    assert_eq!(app.get(&agent, "/tenants/acme/sessions").await.json["items"], json!([]));
}

#[tokio::test]
async fn another_tenants_session_does_not_exist_and_a_viewer_may_not() {
    let app = TestApp::new().await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    let (ours, theirs) = (app.member(&acme, Role::Agent).await, app.member(&other, Role::Owner).await);
    let made = app.post(&ours, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    let id = made.json["id"].as_str().unwrap();
    app.get(&theirs, &format!("/tenants/acme/sessions/{id}")).await.expect(404);
    app.get(&theirs, &format!("/tenants/other/sessions/{id}")).await.expect(404);
    app.post(&theirs, &format!("/tenants/other/sessions/{id}/messages"), json!({"text": "Hi"})).await.expect(404);
    let viewer = app.member(&acme, Role::Viewer).await;
    app.get(&viewer, &format!("/tenants/acme/sessions/{id}")).await.expect(403);
}

#[tokio::test]
async fn a_session_in_which_nobody_writes_is_closed() {
    let app = TestApp::configured(|config| config.session.idle_timeout_s = 60).await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let made = app.post(&agent, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    let path = format!("/tenants/acme/sessions/{}", made.json["id"].as_str().unwrap());
    app.advance(Duration::from_secs(61));
    app.app.start_loops();
    let closed = async {
        loop {
            let session = app.get(&agent, &path).await.expect(200);
            if session.json["state"] == "closed" {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let closed = tokio::time::timeout(Duration::from_mins(1), closed).await.unwrap();
    assert_eq!(closed.json["close_reason"], "idle");
}

/// What is idle is so for all: a process whose clock is ahead closes nothing that others keep open.
#[tokio::test]
async fn a_clock_that_is_ahead_closes_no_session() {
    let app = TestApp::configured(|config| config.session.idle_timeout_s = 3_600).await;
    app.clock.set(app.store.system("a test").now().await.unwrap());
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let made = app.post(&agent, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    let id = SessionId::parse(made.json["id"].as_str().unwrap()).unwrap();
    app.advance(Duration::from_hours(24));
    app.app.start_loops();
    let ran = async {
        while app.app.loops.all()["session.close_idle"] != LoopState::Well {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), ran).await.unwrap();
    assert_eq!(app.store.sessions(&tenant.id).get(&id).await.unwrap().state, State::Bot);
}
