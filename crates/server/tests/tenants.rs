//! Tenants, their members and invitations, through the real router.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test where they stand")]

use std::time::Duration;

use astrfleet_core::{
    instance::{Desired, Event, Instance},
    policy::Role,
    ports::{Holder, Store, Taken, erasure_lease},
};
use astrfleet_testkit::app::{Caller, TestApp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

#[tokio::test]
async fn a_tenant_is_there_at_once_and_its_bot_is_on_its_way() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let made = app.post(&admin, "/tenants", json!({"name": "acme", "email": "Ada@Acme.Example"})).await.expect(201);
    assert_eq!(made.header("location"), "/api/v1/tenants/acme");
    assert_eq!(made.json["email"], "ada@acme.example");
    assert_eq!(made.json["instance"]["desired"], "running");
    assert_eq!(made.json["instance"]["observed"], "pending");
    let id = made.json["id"].as_str().unwrap();
    for name in ["acme", id] {
        let shown = app.get(&admin, &format!("/tenants/{name}")).await.expect(200);
        assert_eq!(shown.json["id"], id);
        assert_eq!(shown.header("etag"), "\"1\"");
    }
    let listed = app.get(&admin, "/tenants").await.expect(200);
    assert_eq!(listed.json["items"][0]["id"], id);
    let log = app.get(&admin, "/tenants/acme/audit-log").await.expect(200);
    assert_eq!(log.json["items"][0]["action"], "tenant.create");
    assert_eq!(log.json["items"][0]["actor"], admin.id().as_str());
    assert!(log.json["items"][0]["request_id"].as_str().unwrap().starts_with("req_"));
}

#[tokio::test]
async fn names_and_addresses_are_taken_once_in_any_case() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    app.post(&admin, "/tenants", json!({"name": "acme", "email": "a@acme.example"})).await.expect(201);
    let name = app.post(&admin, "/tenants", json!({"name": "acme", "email": "b@acme.example"})).await.expect(409);
    assert!(name.json["detail"].as_str().unwrap().contains("name"), "{}", name.text);
    let email = app.post(&admin, "/tenants", json!({"name": "acme2", "email": "A@ACME.example"})).await.expect(409);
    assert!(email.json["detail"].as_str().unwrap().contains("address"), "{}", email.text);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_the_answer_says_which_field() {
    let app = TestApp::new().await;
    let admin = app.admin().await;
    let good = json!({"name": "acme", "email": "a@acme.example"});
    for (field, value) in [
        ("name", json!("../etc")),
        ("name", json!("Acme")),
        ("name", json!("")),
        ("name", json!(format!("ten_{}", "0".repeat(32)))),
        ("email", json!("nobody")),
        ("display_name", json!("a\u{202e}b")),
        ("display_name", json!("x".repeat(101))),
        ("plan", json!("gold")),
        ("body", json!(null)),
    ] {
        let mut body = good.clone();
        if field == "body" {
            body["surprise"] = value;
        } else {
            body[field] = value;
        }
        let answer = app.post(&admin, "/tenants", body).await.expect(400);
        assert_eq!((answer.code(), answer.json["field"].as_str()), ("invalid", Some(field)), "{}", answer.text);
    }
    assert_eq!(app.get(&admin, "/tenants").await.json["items"], json!([]));
}

#[tokio::test]
async fn a_change_that_builds_on_something_old_is_refused() {
    let app = TestApp::new().await;
    let (admin, tenant) = (app.admin().await, app.tenant("acme").await);
    let owner = app.member(&tenant, Role::Owner).await;
    let path = "/tenants/acme";
    let send = |who: Caller, body, tag| {
        let app = &app;
        async move { app.send(axum::http::Method::PATCH, &who, path, Some(body), &[("if-match", tag)]).await }
    };
    let changed = send(owner.clone(), json!({"display_name": "Acme & Co."}), "\"1\"").await.expect(200);
    assert_eq!((changed.header("etag"), &changed.json["display_name"]), ("\"2\"", &json!("Acme & Co.")));
    send(owner.clone(), json!({"display_name": "Other"}), "\"1\"").await.expect(412);
    send(owner, json!({"plan": "pro"}), "\"2\"").await.expect(403);
    assert_eq!(send(admin, json!({"plan": "pro"}), "\"2\"").await.expect(200).json["plan"], "pro");
}

#[tokio::test]
async fn a_suspended_tenants_bot_is_to_stop_and_a_resumed_ones_to_run() {
    let app = TestApp::new().await;
    let (admin, tenant) = (app.admin().await, app.tenant("acme").await);
    for _ in 0..2 {
        let answer = app.post(&admin, "/tenants/acme/suspend", json!({})).await.expect(200);
        assert_eq!(answer.json["status"], "suspended");
        assert_eq!(app.instance(&tenant).await.desired, Desired::Stopped);
    }
    assert_eq!(app.app.tenant.resolve("acme").await.unwrap().status, astrfleet_core::tenant::Status::Suspended);
    app.post(&admin, "/tenants/acme/resume", json!({})).await.expect(200);
    assert_eq!(app.instance(&tenant).await.desired, Desired::Running);
}

/// As the manager does it.
async fn erased(app: &TestApp, instance: Instance) {
    let now = app.app.clock.now();
    let gone = instance.after(Event::ErasureBegan, "erased", now).unwrap();
    app.app.store.instances(&gone.tenant_id).update(&gone).await.unwrap();
}

async fn run_erasures(app: &TestApp) -> u64 {
    let due = astrfleet_server::tenant::loops(&app.app).into_iter().find(|job| job.name == "tenant.erase_due").unwrap();
    (due.run)().await.unwrap()
}

#[tokio::test]
async fn a_deleted_tenant_can_be_resumed_until_its_grace_is_over_and_is_then_erased() {
    let app = TestApp::new().await;
    let (admin, tenant) = (app.admin().await, app.tenant("acme").await);
    let answer = app.delete(&admin, "/tenants/acme").await.expect(202);
    assert_eq!(answer.json["status"], "deleting");
    assert!(answer.json["erase_at"].is_string());
    app.post(&admin, "/tenants/acme/resume", json!({})).await.expect(200);
    app.delete(&admin, "/tenants/acme").await.expect(202);
    assert_eq!(run_erasures(&app).await, 0, "its grace is not over");

    app.advance(Duration::from_hours(7 * 24));
    let late = app.post(&admin, "/tenants/acme/resume", json!({})).await.expect(401);
    assert_eq!(late.code(), "unauthenticated", "a week later one logs in again");
    let admin = app.admin().await;
    app.post(&admin, "/tenants/acme/resume", json!({})).await.expect(409);
    assert_eq!(run_erasures(&app).await, 1);
    let instance = app.instance(&tenant).await;
    assert_eq!(instance.desired, Desired::Deleted);
    assert_eq!(run_erasures(&app).await, 0, "its bot's data is still there");
    erased(&app, instance).await;
    assert_eq!(run_erasures(&app).await, 1);
    app.get(&admin, "/tenants/acme").await.expect(404);
    let entry = &app.get(&admin, "/audit-log").await.json["items"][0];
    assert_eq!((&entry["action"], &entry["detail"]["rows"]["tenants"]), (&json!("tenant.erase"), &json!(1)));
    let proof = app.get(&admin, &format!("/tenants/{}/erasure", tenant.id)).await.expect(200);
    assert_eq!((&proof.json["entry"], &proof.json["statement"]), (entry, &entry["detail"]["statement"]));
    let whole = app.get(&admin, "/audit-log").await.text;
    assert!(!whole.contains("acme"), "what outlives a tenant does not say who it was: {whole}");
    let nobody = app.app.ids.tenant();
    app.get(&admin, &format!("/tenants/{nobody}/erasure")).await.expect(404);
    assert_eq!(run_erasures(&app).await, 0);
}

#[tokio::test]
async fn a_tenant_is_erased_by_one_process_at_a_time_which_counts_all_of_it() {
    let app = TestApp::new().await;
    let (admin, tenant) = (app.admin().await, app.tenant("acme").await);
    app.post(&admin, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    app.delete(&admin, "/tenants/acme").await.expect(202);
    app.advance(Duration::from_hours(7 * 24));
    assert_eq!(run_erasures(&app).await, 1);
    erased(&app, app.instance(&tenant).await).await;

    // Another process is at it, and stops before its end.
    let (leases, lease) = (app.store.leases(), erasure_lease(&tenant.id, None));
    let other = Holder { id: "another process".to_owned(), url: String::new() };
    let Taken::Ours(epoch) = leases.take(&lease, &other, Duration::from_hours(1)).await.unwrap() else { panic!() };
    assert_eq!(run_erasures(&app).await, 0);
    assert_eq!(
        app.store.retention(&tenant.id).end_user_sessions("ada", 9).await.unwrap().len(),
        1,
        "nothing is touched"
    );
    assert!(leases.release(&lease, &other.id, epoch).await.unwrap());
    assert_eq!(run_erasures(&app).await, 1);
    let entry = app.store.audit(None).find("tenant.erase", tenant.id.as_str()).await.unwrap();
    assert_eq!(entry.detail["rows"]["sessions"], 1);
    let statement = entry.detail["statement"].as_str().unwrap().split('.').nth(1).unwrap();
    let said: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(statement).unwrap()).unwrap();
    assert_eq!(said["run"], 2, "{said}");
    assert_eq!(leases.get(&lease).await.unwrap(), None, "nothing of the tenant is left");
}

#[tokio::test]
async fn nobody_gives_more_than_they_have_and_the_last_owner_stays() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let (admin, agent) = (app.member(&tenant, Role::Admin).await, app.member(&tenant, Role::Agent).await);
    let path = |who: &Caller| format!("/tenants/acme/members/{}", who.id());
    app.put(&admin, &path(&agent), json!({"role": "owner"})).await.expect(403);
    app.put(&admin, &path(&owner), json!({"role": "viewer"})).await.expect(403);
    app.delete(&admin, &path(&owner)).await.expect(403);
    app.put(&owner, &path(&owner), json!({"role": "viewer"})).await.expect(409);
    app.delete(&owner, &path(&owner)).await.expect(409);
    let changed = app.put(&admin, &path(&agent), json!({"role": "viewer"})).await.expect(200);
    assert_eq!(changed.json["role"], "viewer");
    app.delete(&agent, &path(&admin)).await.expect(403);
    app.delete(&admin, &path(&agent)).await.expect(204);
    app.get(&agent, "/tenants/acme/instance").await.expect(404);
    let stranger = app.stranger("eve@example.com").await;
    app.put(&owner, &path(&stranger), json!({"role": "viewer"})).await.expect(404);
    app.put(&app.admin().await, &path(&stranger), json!({"role": "viewer"})).await.expect(200);
    assert_eq!(app.get(&owner, "/tenants/acme/members").await.expect(200).json["items"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_invitation_makes_one_member_once() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let invite = json!({"email": "Grace@Example.com", "role": "agent"});
    let made = app.post(&owner, "/tenants/acme/invitations", invite).await.expect(201);
    let token = made.json["token"].as_str().unwrap();
    let listed = app.get(&owner, "/tenants/acme/invitations").await.expect(200);
    assert!(!listed.text.contains(token), "shown once");

    let accept = json!({"token": token, "password": "grace's own password"});
    let accepted = app.post(&Caller::nobody(), "/invitations/accept", accept.clone()).await.expect(200);
    assert_eq!(
        (&accepted.json["user"]["email"], &accepted.json["membership"]["role"]),
        (&json!("grace@example.com"), &json!("agent"))
    );
    app.post(&Caller::nobody(), "/invitations/accept", accept).await.expect(409);
    app.post(&Caller::nobody(), "/invitations/accept", json!({"token": "afi_no", "password": "x"})).await.expect(404);

    let login = json!({"email": "grace@example.com", "password": "grace's own password"});
    let login = app.post(&Caller::nobody(), "/auth/login", login).await.expect(200);
    let grace = Caller::with(login.json["access_token"].as_str().unwrap());
    let me = app.get(&grace, "/auth/me").await.expect(200);
    assert_eq!(me.json["memberships"][0]["tenant"], "acme");
}

#[tokio::test]
async fn an_invitation_is_for_one_address_and_for_a_while() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let (grace, eve) = (app.stranger("grace@example.com").await, app.stranger("eve@example.com").await);
    let invite = json!({"email": "grace@example.com", "role": "viewer"});
    let made = app.post(&owner, "/tenants/acme/invitations", invite.clone()).await.expect(201);
    let token = json!({"token": made.json["token"]});
    app.post(&eve, "/invitations/accept", token.clone()).await.expect(403);
    app.post(&Caller::nobody(), "/invitations/accept", token.clone()).await.expect(400);
    let with_password = json!({"token": made.json["token"], "password": "somebody else's words"});
    app.post(&Caller::nobody(), "/invitations/accept", with_password).await.expect(409);
    app.post(&grace, "/invitations/accept", token).await.expect(200);

    let made = app.post(&owner, "/tenants/acme/invitations", invite.clone()).await.expect(201);
    let path = format!("/tenants/acme/invitations/{}", made.json["id"].as_str().unwrap());
    app.delete(&owner, &path).await.expect(204);
    app.post(&grace, "/invitations/accept", json!({"token": made.json["token"]})).await.expect(404);
    let made = app.post(&owner, "/tenants/acme/invitations", invite).await.expect(201);
    app.advance(Duration::from_hours(7 * 24));
    let grace = app.log_in(grace.user.unwrap()).await;
    app.post(&grace, "/invitations/accept", json!({"token": made.json["token"]})).await.expect(409);
}

#[tokio::test]
async fn limits_and_usage_begin_at_nothing() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let limits = app.get(&owner, "/tenants/acme/limits").await.expect(200);
    assert_eq!(limits.json["plan"], "free");
    let nothing =
        json!({"limit": 1000, "hard_limit": 1000, "used": 0, "level": "fine", "warning": false, "exhausted": false});
    assert_eq!(limits.json["messages_today"], nothing);
    let usage = app.get(&owner, "/tenants/acme/usage?from=2026-11-01&to=2026-11-23").await.expect(200);
    assert_eq!((&usage.json["days"], &usage.json["total"]["requests"]), (&json!([]), &json!(0)));
    for bad in ["from=yesterday", "from=2026-11-23&to=2026-11-01", "from=2020-01-01", "since=2026-11-01"] {
        app.get(&owner, &format!("/tenants/acme/usage?{bad}")).await.expect(400);
    }
}

#[tokio::test]
async fn a_tenant_does_not_exist_for_strangers_and_tells_members_what_it_takes() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let viewer = app.member(&tenant, Role::Viewer).await;
    let stranger = app.stranger("eve@example.com").await;
    for path in ["/tenants/acme", "/tenants/acme/members", "/tenants/acme/api-keys", "/tenants/acme/audit-log"] {
        let (hidden, absent) =
            (app.get(&stranger, path).await, app.get(&stranger, &path.replace("acme", "nobody")).await);
        assert_eq!((hidden.status, absent.status), (404, 404), "{path}");
        assert_eq!(hidden.json["detail"], absent.json["detail"], "{path}");
        app.get(&viewer, path).await.expect(403);
        app.get(&Caller::nobody(), path).await.expect(401);
    }
    app.get(&viewer, "/tenants").await.expect(403);
}
