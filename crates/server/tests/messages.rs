//! Messages and attachments through the real router. What happens between being sent and being answered is proven in
//! the testkit's `messages`.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{Error, page::PageRequest, policy::Role, tenant::Tenant};
use astrfleet_testkit::app::{Answer, Caller, TestApp};
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const SSE: (&str, &str) = ("accept", "text/event-stream");

/// A tenant whose bot is ready, an agent, and the path of a session's messages.
async fn ready(app: &TestApp) -> (Tenant, Caller, String) {
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    app.app.manager.wait_ready(&tenant.id, Duration::from_mins(1)).await.unwrap();
    let made = app.post(&agent, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    let path = format!("/tenants/acme/sessions/{}/messages", made.json["id"].as_str().unwrap());
    (tenant, agent, path)
}

/// `(id, name, data)` of each event.
fn events(answer: &Answer) -> Vec<(String, String, Value)> {
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    let blocks = answer.text.split("\n\n").filter(|block| block.contains("event:"));
    blocks
        .map(|block| {
            let data = serde_json::from_str(&field(block, "data:")).unwrap();
            (field(block, "id:"), field(block, "event:"), data)
        })
        .collect()
}

fn names(events: &[(String, String, Value)]) -> Vec<&str> {
    events.iter().map(|(_, name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn an_answer_comes_as_json_or_as_a_stream() {
    let app = TestApp::new().await;
    let (tenant, agent, path) = ready(&app).await;
    let whole = app.post(&agent, &path, json!({"text": "Hi"})).await.expect(200);
    assert_eq!(whole.json["message"]["state"], "done");
    assert_eq!(whole.json["reply"]["text"], "You said: Hi");
    assert_eq!(whole.json["reply"]["author"], "bot");
    assert_eq!(whole.json["usage"], json!({"prompt_tokens": 7, "completion_tokens": 5}));

    let streamed = app.send(Method::POST, &agent, &path, Some(json!({"text": "Ho"})), &[SSE]).await.expect(200);
    assert!(streamed.header("content-type").starts_with("text/event-stream"));
    let events = events(&streamed);
    assert_eq!(names(&events)[0], "accepted");
    let (_, last, done) = events.last().unwrap();
    assert_eq!((last.as_str(), &done["message"]["text"]), ("done", &json!("You said: Ho")));
    let id = events[0].2["message_id"].as_str().unwrap();
    assert!(streamed.header("location").ends_with(&format!("{}/{id}", path.trim_start_matches("/tenants/acme"))));

    let listed = app.get(&agent, &path).await.expect(200);
    let texts: Vec<_> = listed.json["items"].as_array().unwrap().iter().map(|item| &item["text"]).collect();
    assert_eq!(texts, ["Hi", "You said: Hi", "Ho", "You said: Ho"], "the newest last");
    let page = app.get(&agent, &format!("{path}?limit=1")).await.expect(200);
    assert_eq!(page.json["items"][0]["text"], "You said: Ho");
    assert_eq!(app.get(&agent, &format!("{path}/{id}")).await.expect(200).json["reply"]["text"], "You said: Ho");
    let cut = &events[events.len() - 2].0;
    let rest =
        app.send(Method::GET, &agent, &format!("{path}/{id}"), None, &[SSE, ("last-event-id", cut)]).await.expect(200);
    assert_eq!(names(&self::events(&rest)), ["done"]);
    assert_eq!(
        app.app.store.messages(&tenant.id).count_since(astrfleet_core::time::Timestamp::default()).await.unwrap(),
        2
    );
}

#[tokio::test]
async fn who_does_not_wait_is_told_where_to_look() {
    let app = TestApp::new().await;
    let (_, agent, path) = ready(&app).await;
    app.bots.hold();
    let taken = app.post(&agent, &format!("{path}?wait=0"), json!({"text": "Hi"})).await.expect(202);
    app.bots.release();
    let address = taken.header("location").strip_prefix("/api/v1").unwrap().to_owned();
    let stream = app.send(Method::GET, &agent, &address, None, &[SSE]).await.expect(200);
    assert_eq!(names(&events(&stream)).last(), Some(&"done"));
    assert_eq!(app.get(&agent, &address).await.json["reply"]["text"], "You said: Hi");
    assert_eq!(
        app.post(&agent, &format!("{path}?wait=301"), json!({"text": "Hi"})).await.expect(400).json["field"],
        "wait"
    );
}

#[tokio::test]
async fn a_key_makes_the_second_try_the_first() {
    let app = TestApp::new().await;
    let (_, agent, path) = ready(&app).await;
    let key = ("idempotency-key", "order-4711");
    let send = async |text: &str, headers: &[(&str, &str)]| {
        app.send(Method::POST, &agent, &path, Some(json!({"text": text})), headers).await
    };
    let first = send("Hi", &[key]).await.expect(200);
    assert_eq!(send("Hi", &[key]).await.expect(200).json, first.json);
    let streamed = events(&send("Hi", &[key, SSE]).await.expect(200));
    assert_eq!(streamed[0].2["message_id"], first.json["message"]["id"]);
    let rest = send("Hi", &[key, SSE, ("last-event-id", &streamed[0].0)]).await.expect(200);
    assert!(!names(&events(&rest)).contains(&"accepted"));
    assert_eq!(send("Ho", &[key]).await.expect(422).code(), "idempotency_key_reused");
    send("Hi", &[("idempotency-key", "a b")]).await.expect(400);
    send("Hi", &[("last-event-id", "../x")]).await.expect(400);
    assert_eq!(app.bots.asked().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_nothing_is_stored() {
    let app = TestApp::configured(|config| {
        if let Some(plan) = config.plans.get_mut("free") {
            plan.messages_per_day = 1;
        }
    })
    .await;
    let (tenant, agent, path) = ready(&app).await;
    for (field, body) in [
        ("text", json!({"text": ""})),
        ("text", json!({"text": " \n "})),
        ("text", json!({"text": "x".repeat(32 * 1024 + 1)})),
        ("body", json!({"text": "Hi", "state": "done"})),
        ("body", json!({"text": "Hi", "attachments": ["nothing"]})),
    ] {
        let refused = app.post(&agent, &path, body).await.expect(400);
        assert_eq!(refused.json["field"], field, "{}", refused.text);
    }
    let missing = format!("att_{}", "0".repeat(32));
    app.post(&agent, &path, json!({"text": "Hi", "attachments": [missing]})).await.expect(404);
    app.post(&agent, &path, json!({"text": "Hi"})).await.expect(200);
    let used_up = app.post(&agent, &path, json!({"text": "Hi"})).await.expect(402);
    assert!(used_up.json["detail"].as_str().unwrap().contains("00:00 UTC"), "{}", used_up.text);
    app.advance(Duration::from_hours(24));
    let agent = app.log_in(agent.user.unwrap()).await;
    app.post(&agent, &path, json!({"text": "Hi"})).await.expect(200);
    let admin = app.admin().await;
    app.post(&admin, "/tenants/acme/suspend", json!({})).await;
    let refused = app.post(&agent, &path, json!({"text": "Hi"})).await.expect(403);
    assert!(refused.json["detail"].as_str().unwrap().contains("suspended"), "{}", refused.text);
    assert_eq!(
        app.app.store.messages(&tenant.id).count_since(astrfleet_core::time::Timestamp::default()).await.unwrap(),
        2
    );
}

#[tokio::test]
async fn a_stop_is_answered_with_what_there_is() {
    let app = TestApp::new().await;
    let (_, agent, path) = ready(&app).await;
    app.bots.hold();
    let taken = app.post(&agent, &format!("{path}?wait=0"), json!({"text": "Hi"})).await.expect(202);
    let waiting = app.post(&agent, &format!("{path}?wait=0"), json!({"text": "Ho"})).await.expect(202);
    let stop = async |answer: &Answer| {
        let address = answer.header("location").strip_prefix("/api/v1").unwrap().to_owned();
        app.post(&agent, &format!("{address}/stop"), json!({})).await.expect(200)
    };
    let stopped = stop(&waiting).await;
    assert_eq!(stopped.json["message"]["failure"]["code"], "stopped");
    assert_eq!(stop(&waiting).await.json, stopped.json, "twice is the same as once");
    let stopped = stop(&taken).await;
    assert_ne!(stopped.json["message"]["state"], "accepted", "{}", stopped.text);
    app.bots.release();
}

#[tokio::test]
async fn a_model_that_fails_is_told_in_the_stream() {
    let app = TestApp::new().await;
    let (_, agent, path) = ready(&app).await;
    app.bots.next_answer(vec![
        astrfleet_core::chat::ChatEvent::Received { record: 1 },
        astrfleet_core::chat::ChatEvent::Error("it broke".to_owned()),
    ]);
    let streamed = app.send(Method::POST, &agent, &path, Some(json!({"text": "Hi"})), &[SSE]).await.expect(200);
    let events = events(&streamed);
    let (_, name, problem) = events.last().unwrap();
    assert_eq!((name.as_str(), &problem["code"], &problem["status"]), ("failed", &json!("model_failed"), &json!(502)));
}

#[tokio::test]
async fn a_bot_that_refuses_is_asked_again() {
    let app = TestApp::new().await;
    let (_, agent, path) = ready(&app).await;
    app.bots.next_fails(Error::unavailable("the bot", "connection refused"));
    let whole = app.post(&agent, &path, json!({"text": "Hi"})).await.expect(200);
    assert_eq!(whole.json["reply"]["text"], "You said: Hi", "{}", whole.text);
}

/// Sends a form with one file.
async fn upload(app: &TestApp, caller: &Caller, part: &str, name: &str, content: &[u8]) -> Answer {
    let head = format!(
        "--edge\r\ncontent-disposition: form-data; name=\"{part}\"; filename=\"{name}\"\r\ncontent-type: text/plain\r\n\r\n"
    );
    let body = [head.as_bytes(), content, b"\r\n--edge--\r\n"].concat();
    let (parts, body) = app.raw(form(caller, Body::from(body))).await.into_parts();
    let text = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status: parts.status.as_u16(), headers: parts.headers, json, text }
}

#[tokio::test]
async fn a_file_is_stored_read_and_sent() {
    let app = TestApp::configured(|config| {
        config.gateway.max_attachment_bytes = 5_000_000;
        if let Some(plan) = config.plans.get_mut("free") {
            plan.storage_bytes = 7_000_000;
        }
    })
    .await;
    let (_, agent, path) = ready(&app).await;
    let content = vec![b'x'; 4_000_000];
    let file = upload(&app, &agent, "file", "../../notes.txt", &content).await.expect(201);
    assert_eq!((&file.json["name"], &file.json["size"]), (&json!("notes.txt"), &json!(4_000_000)));
    assert_eq!(file.json["sha256"].as_str().unwrap().len(), 64);
    upload(&app, &agent, "file", "large.txt", &vec![b'x'; 5_000_001]).await.expect(402);
    upload(&app, &agent, "other", "a.txt", b"x").await.expect(400);
    let id = file.json["id"].as_str().unwrap();
    let read = app.get(&agent, &format!("/tenants/acme/attachments/{id}")).await;
    let saved_as = "attachment; filename*=UTF-8''notes.txt";
    if read.status == 307 {
        // Where files lie in an S3: nobody who has the link needs more.
        let there = reqwest::get(read.header("location")).await.unwrap().error_for_status().unwrap();
        assert_eq!(there.headers()["content-disposition"], saved_as);
        assert_eq!(there.bytes().await.unwrap(), content);
    } else {
        let read = read.expect(200);
        assert_eq!(read.text.len(), content.len());
        assert_eq!(read.header("x-content-type-options"), "nosniff");
        assert_eq!(read.header("content-disposition"), saved_as);
    }
    app.post(&agent, &path, json!({"text": "See", "attachments": [id]})).await.expect(200);
    assert_eq!(app.bots.asked()[0].attachments.len(), 1);
    let other = app.tenant("other").await;
    let stranger = app.member(&other, Role::Owner).await;
    app.get(&stranger, &format!("/tenants/other/attachments/{id}")).await.expect(404);
    app.post(&agent, "/tenants/acme/attachments", json!({})).await.expect(415);
}

const PIECE: usize = 64 * 1024;

/// A form of which more comes for as long as somebody reads it; how many pieces were read is counted.
fn endless_form(caller: &Caller, head: &'static [u8]) -> (Request<Body>, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let pieces = stream::iter(std::iter::repeat_n(Bytes::from(vec![b'x'; PIECE]), 10_000)).map(move |piece| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>(piece)
    });
    let body = Body::from_stream(stream::iter([Ok(Bytes::from_static(head))]).chain(pieces));
    (form(caller, body), read)
}

fn form(caller: &Caller, body: Body) -> Request<Body> {
    Request::post("/api/v1/tenants/acme/attachments")
        .header("content-type", "multipart/form-data; boundary=edge")
        .header("authorization", format!("Bearer {}", caller.credential.as_ref().unwrap().expose_secret()))
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn a_form_without_an_end_is_not_kept_in_memory() {
    let app = TestApp::configured(|config| config.gateway.max_attachment_bytes = 1_000).await;
    let (_, agent, _) = ready(&app).await;
    let endless_head = b"--edge\r\ncontent-disposition: form-data; name=\"file\"; filename=\"";
    let other_part = b"--edge\r\ncontent-disposition: form-data; name=\"other\"\r\n\r\n";
    for head in [&b"no edge"[..], &endless_head[..], &other_part[..]] {
        let (request, read) = endless_form(&agent, head);
        let refused = app.raw(request).await;
        assert_eq!(refused.status().as_u16(), 413, "{:?}", String::from_utf8_lossy(head));
        assert!(read.load(Ordering::SeqCst) < 40, "little more than the megabyte that a form may have");
    }
    upload(&app, &agent, "file", "a.txt", &[b'x'; 1_000]).await.expect(201);
}

#[tokio::test]
async fn who_uploads_too_much_at_once_waits_and_half_a_file_is_none() {
    let app = Arc::new(TestApp::configured(|config| config.message.concurrent_uploads_per_tenant = 1).await);
    let (tenant, agent, _) = ready(&app).await;
    let (send, pieces) = mpsc::channel::<std::io::Result<Bytes>>(1);
    let request = form(&agent, Body::from_stream(ReceiverStream::new(pieces)));
    let head = b"--edge\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nhalf a file";
    send.send(Ok(Bytes::from_static(head))).await.unwrap();
    let uploading = Arc::clone(&app);
    let first = tokio::spawn(async move { uploading.raw(request).await });
    // What it has sent was read: it has the place.
    drop(send.reserve().await.unwrap());
    let refused = upload(&app, &agent, "file", "a.txt", b"x").await.expect(429);
    assert!(!refused.header("retry-after").is_empty());
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::time::timeout(Duration::from_mins(1), async {
        loop {
            let second = upload(&app, &agent, "file", "b.txt", b"x").await;
            if second.status != 429 {
                return second;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    second.await.unwrap().expect(201);
    assert_eq!(app.app.store.attachments(&tenant.id).total_bytes().await.unwrap(), 1, "the whole one alone");
}

#[tokio::test]
async fn a_tenant_is_told_when_its_storage_is_nearly_used() {
    let app = TestApp::configured(|config| {
        if let Some(plan) = config.plans.get_mut("free") {
            plan.storage_bytes = 1_000;
        }
    })
    .await;
    let (tenant, agent, _) = ready(&app).await;
    let told = async || {
        let entries = app.app.store.audit(Some(&tenant.id)).list(&PageRequest::first()).await.unwrap().items;
        let told = entries.into_iter().filter(|entry| entry.detail["quota"] == "storage_bytes");
        told.map(|entry| entry.action).collect::<Vec<_>>()
    };
    upload(&app, &agent, "file", "a.txt", &[b'x'; 799]).await.expect(201);
    assert!(told().await.is_empty());
    upload(&app, &agent, "file", "b.txt", b"x").await.expect(201);
    tokio::time::timeout(Duration::from_mins(1), async {
        while told().await != ["quota.warning"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused() {
    let app = TestApp::configured(|config| config.gateway.max_attachment_bytes = 1_000).await;
    let (_, agent, _) = ready(&app).await;
    assert_eq!(upload(&app, &agent, "file", "a.txt", &[b'x'; 1_001]).await.expect(413).code(), "too_large");
    upload(&app, &agent, "file", "a.txt", &[b'x'; 1_000]).await.expect(201);
}
