//! An end user is erased, and it is proven.

use std::{sync::atomic::Ordering, time::Duration};

use astrfleet_core::{policy::Role, ports::Store};
use astrfleet_testkit::app::{Caller, TestApp};
use serde_json::{Value, json};

use super::{brought, exports::sha256, file, run, says, session, with_storage};

/// What a statement says, if one of our published keys signed it.
async fn verified(app: &TestApp, statement: &str) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let keys = app.get(&Caller::nobody(), "//.well-known/jwks.json").await.expect(200);
    let public = URL_SAFE_NO_PAD.decode(keys.json["keys"][0]["x"].as_str().unwrap()).unwrap();
    let (signed, signature) = statement.rsplit_once('.').unwrap();
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public);
    key.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap()).unwrap()
}

#[tokio::test]
async fn an_end_user_is_erased_with_all_they_said_and_nobody_else() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let admin = app.member(&tenant, Role::Admin).await;
    let (here, there) =
        (session(&app, &admin, "小 明/1", "api").await, session(&app, &admin, "小 明/1", "telegram").await);
    let other = session(&app, &admin, "ada", "api").await;
    let content = file(&app, &tenant, b"a photo").await;
    let body = json!({"text": "mine", "attachments": [content.id]});
    app.post(&admin, &format!("/tenants/acme/sessions/{here}/messages?wait=0"), body).await.expect(202);
    says(&app, &admin, &there, "mine too").await.expect(202);
    says(&app, &admin, &other, "not mine").await.expect(202);
    let group = brought(&app, &tenant, "tg1:GroupMessage:42", "1", "小 明/1").await;
    let of_another = brought(&app, &tenant, "tg1:GroupMessage:42", "2", "8").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let export = app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202).json;
    assert_eq!(run(&app, "rights.export").await, 1);

    let path = "/tenants/acme/end-users/%E5%B0%8F%20%E6%98%8E%2F1/erase";
    let erased = app.post(&admin, path, json!({})).await.expect(200);
    assert_eq!(
        (&erased.json["sessions"], &erased.json["messages"], &erased.json["attachments"]),
        (&json!(2), &json!(3), &json!(1))
    );
    let said = verified(&app, erased.json["statement"].as_str().unwrap()).await;
    assert_eq!(said["rows"], json!({"sessions": 2, "messages": 3, "attachments": 1, "events": 5, "exports": 1}));
    assert_eq!((&said["run"], &said["kept"]), (&json!(1), &json!({"blocklist": 0})));
    assert_eq!((&said["sub"], &said["erased"]), (&json!(tenant.id), &json!("end_user")));
    assert_eq!(said["end_user_sha256"], sha256(format!("{}/小 明/1", tenant.id).as_bytes()));
    let left = app.get(&admin, "/tenants/acme/messages?q=mine").await.expect(200);
    assert_eq!(left.json["items"].as_array().unwrap().len(), 1);
    app.get(&admin, &format!("/tenants/acme/sessions/{here}")).await.expect(404);
    assert!(app.app.blobs.get(&content.blob_key()).await.is_err());
    let messages = app.store.messages(&tenant.id);
    assert!(messages.get(&group.id).await.is_err() && messages.get(&of_another.id).await.is_ok());
    for event in app.store.events(&tenant.id).after(0, None, 99).await.unwrap() {
        assert!(!event.data.to_string().contains("小 明"), "{event:?}");
    }
    app.get(&owner, &format!("/tenants/acme/exports/{}", export["id"].as_str().unwrap())).await.expect(404);
    let log = app.get(&admin, "/tenants/acme/audit-log").await.expect(200);
    assert_eq!(log.json["items"][0]["action"], "end_user.erase");
    assert!(!log.text.contains("小 明"), "the log does not say who it was");
    for bad in ["%00", "a%0d%0ab", &"x".repeat(513)] {
        app.post(&admin, &format!("/tenants/acme/end-users/{bad}/erase"), json!({})).await.expect(400);
    }
    let nobody = app.post(&admin, "/tenants/acme/end-users/nobody/erase", json!({})).await.expect(200);
    assert_eq!(nobody.json["sessions"], 0);
}

#[tokio::test]
async fn an_erasure_that_broke_off_goes_on_when_it_is_asked_for_again() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let ada = session(&app, &owner, "ada", "api").await;
    says(&app, &owner, &ada, "mine").await.expect(202);
    let blocked = json!({"end_user": "ada", "reason": "said something private"});
    let block = app.post(&owner, "/tenants/acme/blocklist", blocked).await.expect(201).json;
    let export = app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202).json;
    let export = format!("/tenants/acme/exports/{}", export["id"].as_str().unwrap());
    let (app, _, is_away) = with_storage(&app).await;
    assert_eq!(run(&app, "rights.export").await, 1);
    is_away.store(true, Ordering::Release);
    let path = "/tenants/acme/end-users/ada/erase";
    app.post(&owner, path, json!({})).await.expect(503);
    is_away.store(false, Ordering::Release);
    let erased = app.post(&owner, path, json!({})).await.expect(200);
    app.get(&owner, &export).await.expect(404);
    let said = verified(&app, erased.json["statement"].as_str().unwrap()).await;
    assert_eq!((&said["run"], &said["rows"]["exports"]), (&json!(2), &json!(1)), "{said}");
    assert_eq!((&erased.json["run"], &erased.json["kept_blocks"]), (&json!(2), &json!(1)));
    let stays = app.get(&owner, "/tenants/acme/blocklist").await.expect(200);
    assert_eq!(stays.json["items"][0]["id"], block["id"]);
    assert!(!stays.text.contains("private"), "{}", stays.text);
}

#[tokio::test]
async fn an_erasure_outlives_whoever_asked_for_it_and_is_done_once_at_a_time() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let ada = session(&app, &owner, "ada", "api").await;
    let content = file(&app, &tenant, b"a photo").await;
    let body = json!({"text": "mine", "attachments": [content.id]});
    app.post(&owner, &format!("/tenants/acme/sessions/{ada}/messages?wait=0"), body).await.expect(202);
    let (process, eyes, _) = with_storage(&app).await;
    let (goes_on, held) = tokio::sync::oneshot::channel::<()>();
    let (begins, begun) = tokio::sync::oneshot::channel::<()>();
    eyes.before("blobs.delete", async move {
        begins.send(()).unwrap();
        held.await.unwrap();
    });
    let path = "/tenants/acme/end-users/ada/erase";
    let tasks = process.app.tasks.clone();
    let asking = tokio::spawn({
        let owner = owner.clone();
        async move { process.post(&owner, path, json!({})).await.status }
    });
    begun.await.unwrap();
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled(), "the client goes away");
    app.post(&owner, path, json!({})).await.expect(202);
    goes_on.send(()).unwrap();
    tasks.close();
    tokio::time::timeout(Duration::from_mins(1), tasks.wait()).await.unwrap();
    app.get(&owner, &format!("/tenants/acme/sessions/{ada}")).await.expect(404);
    let log = app.get(&owner, "/tenants/acme/audit-log").await.expect(200);
    assert_eq!(log.json["items"][0]["action"], "end_user.erase");
    let statement = log.json["items"][0]["detail"]["statement"].as_str().unwrap();
    assert_eq!(verified(&app, statement).await["rows"]["sessions"], 1);
    assert_eq!(app.post(&owner, path, json!({})).await.expect(200).json["run"], 2);
}
