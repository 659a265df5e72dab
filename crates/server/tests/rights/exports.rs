//! All that is stored of a tenant, as one archive.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use astrfleet_core::{
    export::{LEFT_OUT, TAKEN_IN},
    id::SessionId,
    policy::Role,
    ports::Store,
};
use astrfleet_server::role::Role as Part;
use astrfleet_testkit::app::TestApp;
use aws_lc_rs::digest::{SHA256, digest};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{brought, file, run, said, session, with_storage};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// The files of an archive, by name.
fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let tar = zstd::decode_all(archive).unwrap();
    let (mut files, mut rest) = (BTreeMap::new(), &tar[..]);
    while rest.first().is_some_and(|byte| *byte != 0) {
        let text = |range: std::ops::Range<usize>| {
            std::str::from_utf8(&rest[range]).unwrap().trim_end_matches('\0').to_owned()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        assert_eq!(text(257..262), "ustar");
        files.insert(text(0..100), rest[512..512 + size].to_vec());
        rest = &rest[512 + size.next_multiple_of(512)..];
    }
    assert!(rest.iter().all(|byte| *byte == 0) && rest.len() >= 1_024, "its end");
    files
}

#[tokio::test]
async fn an_export_has_everything_but_secrets_and_expires() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    app.api_key(&tenant, &[astrfleet_core::api_key::Scope::Chat]).await;
    let session = SessionId::parse(&session(&app, &owner, "小明", "api").await).unwrap();
    for number in 0..300 {
        said(&app, &tenant, &session, format!("订单 {number}")).await;
    }
    brought(&app, &tenant, "tg1:GroupMessage:42", "1", "7").await;
    let kept = file(&app, &tenant, b"content of a file").await;
    let webhook = json!({"url": "https://93.184.215.14/told", "description": "ours"});
    let secret = app.post(&owner, "/tenants/acme/webhooks", webhook).await.expect(201).json["secret"].clone();

    let asked = app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202);
    let path = asked.header("location").strip_prefix("/api/v1").unwrap().to_owned();
    assert_eq!(asked.json["state"], "pending");
    app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(409);
    app.get(&owner, &format!("{path}/archive")).await.expect(409);
    assert_eq!(run(&app, "rights.export").await, 1);
    let done = app.get(&owner, &path).await.expect(200);
    assert_eq!(
        (&done.json["state"], &done.json["done"], &done.json["total"]),
        (&json!("done"), &json!(302), &json!(302))
    );

    let request = axum::http::Request::builder().uri(format!("/api/v1{path}/archive"));
    let bearer = secrecy::ExposeSecret::expose_secret(owner.credential.as_ref().unwrap()).to_owned();
    let request = request.header("authorization", format!("Bearer {bearer}")).body(axum::body::Body::empty()).unwrap();
    let answer = app.raw(request).await;
    let archive = if let Some(link) = answer.headers().get("location") {
        // Where archives lie in an S3: nobody who has the link needs more.
        assert_eq!(answer.status(), 307);
        let there = reqwest::get(link.to_str().unwrap()).await.unwrap().error_for_status().unwrap();
        there.bytes().await.unwrap()
    } else {
        assert_eq!(answer.headers()["content-type"], "application/zstd");
        axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap()
    };
    assert_eq!(done.json["sha256"], sha256(&archive));
    assert_eq!(done.json["size"], archive.len());

    let mut files = unpacked(&archive);
    let manifest: Value = serde_json::from_slice(&files.remove("manifest.json").unwrap()).unwrap();
    let listed = manifest["files"].as_array().unwrap();
    assert_eq!(listed.len(), files.len(), "all of them");
    for file in listed {
        assert_eq!(file["sha256"], sha256(&files[file["name"].as_str().unwrap()]), "{file}");
    }
    let counts =
        [("messages", 301), ("sessions", 2), ("members", 1), ("attachments", 1), ("files", 1), ("webhooks", 1)];
    for (kind, count) in counts {
        assert_eq!(manifest["counts"][kind], count, "{kind}");
    }
    for (table, name) in TAKEN_IN {
        assert!(manifest["counts"][name].is_u64(), "{table} is said to be in {name}");
    }
    assert_eq!(manifest["left_out"].as_object().unwrap().len(), LEFT_OUT.len(), "{}", manifest["left_out"]);
    let messages = String::from_utf8(files["messages/000001.jsonl"].clone()).unwrap();
    let first: Value = serde_json::from_str(messages.lines().next().unwrap()).unwrap();
    assert_eq!((&first["text"], messages.lines().count()), (&json!("订单 0"), 301));
    let last: Value = serde_json::from_str(messages.lines().last().unwrap()).unwrap();
    assert_eq!(last["sender"], json!({"id": "7", "name": "somebody"}));
    assert!(String::from_utf8_lossy(&files["sessions/000001.jsonl"]).contains("tg1:GroupMessage:42"));
    assert!(String::from_utf8_lossy(&files["webhooks/000001.jsonl"]).contains("93.184.215.14"));
    assert_eq!(files[&format!("files/{}", kept.id)], b"content of a file");
    let whole: Vec<u8> = files.into_values().flatten().collect();
    let whole = String::from_utf8_lossy(&whole);
    assert!(!whole.contains("argon2") && !whole.contains(secret.as_str().unwrap()), "no password and no secret");
    let key = format!("{}/exports/{}.tar.zst", tenant.id, asked.json["id"].as_str().unwrap());
    assert!(app.app.blobs.get(&key).await.is_ok());

    app.advance(Duration::from_hours(7 * 24));
    assert_eq!(run(&app, "rights.export").await, 1);
    let owner = app.log_in(owner.user.unwrap()).await;
    app.get(&owner, &path).await.expect(404);
    assert!(app.app.blobs.get(&key).await.is_err(), "with its archive");
}

#[tokio::test]
async fn an_export_has_the_channels_where_its_process_keeps_no_bots() {
    let app = TestApp::new().await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap();
    let apart = app.beside([Part::Tenant], |_, _| {}).await;
    apart.app.start_loops();
    let learned = async {
        while apart.app.manager.client(&tenant).is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), learned).await.expect("it learns where bots are");
    // Whoever is asked wakes their own loop.
    let asked = apart.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202);
    let id = astrfleet_core::id::ExportId::parse(asked.json["id"].as_str().unwrap()).unwrap();
    let exports = app.store.exports(&tenant.id);
    let done = async {
        while exports.get(&id).await.unwrap().state != astrfleet_core::export::State::Done {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), done).await.unwrap();
    let key = exports.get(&id).await.unwrap().blob_key();
    let mut pieces = app.app.blobs.get(&key).await.unwrap();
    let mut archive = Vec::new();
    while let Some(piece) = pieces.next().await {
        archive.extend_from_slice(&piece.unwrap());
    }
    let channels: Value = serde_json::from_slice(&unpacked(&archive)["channels.json"]).unwrap();
    assert_eq!(channels["why_none"], json!(null), "{channels}");
}

#[tokio::test]
async fn an_export_whose_process_died_is_begun_anew_and_a_deleted_one_comes_to_nothing() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let asked = app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202);
    let id = astrfleet_core::id::ExportId::parse(asked.json["id"].as_str().unwrap()).unwrap();
    let path = format!("/tenants/acme/exports/{id}");
    let exports = app.store.exports(&tenant.id);
    assert!(exports.claim(&id, 0, app.app.clock.now()).await.unwrap(), "by a process that dies");
    assert_eq!(run(&app, "rights.export").await, 0, "somebody works on it");
    app.advance(Duration::from_mins(6));
    assert_eq!(run(&app, "rights.export").await, 1);
    assert_eq!(app.get(&owner, &path).await.expect(200).json["state"], "done");
    assert!(
        !exports.finish(&id, 1, Err("late".to_owned()), app.app.clock.now()).await.unwrap(),
        "the dead one is late"
    );

    app.delete(&owner, &path).await.expect(204);
    app.get(&owner, &path).await.expect(404);
    let asked = app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202);
    app.delete(&owner, &format!("/tenants/acme/exports/{}", asked.json["id"].as_str().unwrap())).await.expect(204);
    assert_eq!(run(&app, "rights.export").await, 0);
}

#[tokio::test]
async fn an_archive_that_cannot_be_deleted_now_is_deleted_later() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let (app, _, is_away) = with_storage(&app).await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let asked = app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202);
        assert_eq!(run(&app, "rights.export").await, 1);
        let id = asked.json["id"].as_str().unwrap().to_owned();
        made.push((format!("/tenants/acme/exports/{id}"), format!("{}/exports/{id}.tar.zst", tenant.id)));
    }
    is_away.store(true, Ordering::Release);
    app.delete(&owner, &made[0].0).await.expect(503);
    app.get(&owner, &made[0].0).await.expect(200);
    app.advance(Duration::from_hours(7 * 24));
    assert_eq!(run(&app, "rights.export").await, 0, "neither when their time is over");
    is_away.store(false, Ordering::Release);
    let owner = app.log_in(owner.user.unwrap()).await;
    app.delete(&owner, &made[0].0).await.expect(204);
    assert_eq!(run(&app, "rights.export").await, 1);
    for (path, key) in made {
        app.get(&owner, &path).await.expect(404);
        assert!(app.app.blobs.get(&key).await.is_err(), "no archive without a row");
    }
}

#[tokio::test]
async fn an_export_outlives_the_processes_that_are_stopped_while_they_write_it() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let asked = app.post(&owner, "/tenants/acme/exports", json!({})).await.expect(202);
    let path = format!("/tenants/acme/exports/{}", asked.json["id"].as_str().unwrap());
    for stops in 0..4 {
        let (process, eyes, _) = with_storage(&app).await;
        let stop = process.app.stop.clone();
        eyes.before("blobs.put", async move { stop.cancel() });
        assert_eq!(run(&process, "rights.export").await, 1);
        assert_eq!(eyes.calls("blobs.put"), 1, "it was stopped while it wrote");
        assert_eq!(app.get(&owner, &path).await.expect(200).json["state"], "pending", "after {stops} others");
    }
    assert_eq!(run(&app, "rights.export").await, 1, "and at once");
    assert_eq!(app.get(&owner, &path).await.expect(200).json["state"], "done");
}
