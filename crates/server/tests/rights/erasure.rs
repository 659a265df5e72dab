//! An end user is erased, and it is proven.

use astrfleet_core::{policy::Role, ports::Store};
use astrfleet_testkit::app::{Caller, TestApp};
use serde_json::{Value, json};

use super::{brought, exports::sha256, file, run, says, session};

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
