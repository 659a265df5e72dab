//! What tenants may ask of what is stored about them, through the real router.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test where they stand")]

use std::{collections::BTreeMap, time::Duration};

use astrfleet_core::{
    blocklist::Block,
    bridge::Arrival,
    export::{LEFT_OUT, TAKEN_IN},
    id::SessionId,
    message::{Author, Message, Sender, State},
    policy::Role,
    ports::{BusEvent, Inbound, NewMessage, Store},
    session::{Session, State as SessionState},
    tenant::Tenant,
};
use astrfleet_server::tenant::TenantChange;
use astrfleet_testkit::app::{Answer, Caller, TestApp};
use aws_lc_rs::digest::{SHA256, digest};
use futures_util::StreamExt;
use serde_json::{Value, json};

async fn session(app: &TestApp, caller: &Caller, end_user: &str, channel: &str) -> String {
    let body = json!({"end_user": end_user, "channel": channel});
    let opened = app.post(caller, "/tenants/acme/sessions", body).await.expect(201);
    opened.json["id"].as_str().unwrap().to_owned()
}

async fn says(app: &TestApp, caller: &Caller, session: &str, text: &str) -> Answer {
    app.post(caller, &format!("/tenants/acme/sessions/{session}/messages?wait=0"), json!({"text": text})).await
}

/// What somebody wrote, and was answered long ago: as many as wanted, whatever waits for the bot.
async fn said(app: &TestApp, tenant: &Tenant, session: &SessionId, text: String) {
    let now = app.app.clock.now();
    let message = Message {
        id: app.app.ids.message(),
        tenant_id: tenant.id.clone(),
        session_id: session.clone(),
        author: Author::User,
        sender: None,
        text,
        attachments: Vec::new(),
        state: State::Done,
        reply_to: None,
        failure: None,
        usage: None,
        created_at: now,
        updated_at: now,
    };
    app.store.messages(&tenant.id).accept(NewMessage { message, idempotency: None }).await.unwrap();
}

/// One run of a loop.
async fn run(app: &TestApp, name: &str) -> u64 {
    let job = astrfleet_server::tenant::loops(&app.app).into_iter().find(|job| job.name == name).unwrap();
    (job.run)().await.unwrap()
}

async fn blocked(app: &TestApp, tenant: &Tenant, channel: &str, end_user: &str) -> bool {
    app.app.tenant.is_blocked(&tenant.id, channel, end_user).await.unwrap()
}

#[tokio::test]
async fn whoever_is_blocked_is_not_heard_until_they_are_again() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let mallory = session(&app, &agent, "mallory", "api").await;
    let ada = session(&app, &agent, "ada", "api").await;
    says(&app, &agent, &mallory, "Buy!").await.expect(202);

    let body = json!({"end_user": "mallory", "reason": "sells things"});
    let block = app.post(&agent, "/tenants/acme/blocklist", body).await.expect(201);
    let id = block.json["id"].as_str().unwrap();
    let refused = says(&app, &agent, &mallory, "Buy!").await.expect(403);
    assert_eq!(refused.code(), "blocked");
    assert!(!refused.text.contains("sells"), "the end user is not told why: {}", refused.text);
    says(&app, &agent, &ada, "Hi").await.expect(202);
    let said = app.get(&agent, &format!("/tenants/acme/sessions/{mallory}/messages")).await.expect(200);
    assert_eq!(said.json["items"].as_array().unwrap().len(), 1, "what is refused is not stored");
    assert!(blocked(&app, &tenant, "telegram", "mallory").await, "on every channel");

    let listed = app.get(&agent, "/tenants/acme/blocklist").await.expect(200);
    assert_eq!(listed.json["items"][0], block.json);
    app.delete(&agent, &format!("/tenants/acme/blocklist/{id}")).await.expect(204);
    app.delete(&agent, &format!("/tenants/acme/blocklist/{id}")).await.expect(404);
    says(&app, &agent, &mallory, "Sorry.").await.expect(202);

    let admin = app.member(&tenant, Role::Admin).await;
    let log = app.get(&admin, "/tenants/acme/audit-log").await.expect(200);
    let actions: Vec<_> =
        log.json["items"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions[..2], ["blocklist.manage", "blocklist.manage"]);
}

#[tokio::test]
async fn a_block_holds_on_its_channel_and_until_its_end() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let until = app.app.clock.now().plus(Duration::from_secs(30));
    let body = json!({"end_user": "42", "channel": "telegram", "until": until});
    app.post(&agent, "/tenants/acme/blocklist", body.clone()).await.expect(201);
    assert!(blocked(&app, &tenant, "telegram", "42").await);
    assert!(!blocked(&app, &tenant, "api", "42").await);
    app.advance(Duration::from_secs(30));
    assert!(!blocked(&app, &tenant, "telegram", "42").await, "also out of what is remembered");
    let refused = app.post(&agent, "/tenants/acme/blocklist", body).await.expect(400);
    assert_eq!(refused.json["field"], "until");
    for (field, value) in [("end_user", json!("")), ("channel", json!("A B")), ("reason", json!("x".repeat(501)))] {
        let mut body = json!({"end_user": "42"});
        body[field] = value;
        assert_eq!(app.post(&agent, "/tenants/acme/blocklist", body).await.expect(400).json["field"], field);
    }
}

#[tokio::test]
async fn another_process_hears_of_a_block_over_the_bus() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    app.app.tenant.listen();
    assert!(!blocked(&app, &tenant, "api", "mallory").await);
    let block = Block {
        id: app.app.ids.block(),
        channel: None,
        end_user: "mallory".to_owned(),
        reason: None,
        until: None,
        created_by: "usr_1".to_owned(),
        created_at: app.app.clock.now(),
    };
    // As another process would: its store, and the bus.
    app.store.blocklist(&tenant.id).put(&block).await.unwrap();
    app.app.bus.publish(BusEvent::TenantChanged(tenant.id.clone()));
    tokio::time::timeout(Duration::from_secs(10), async {
        while !blocked(&app, &tenant, "api", "mallory").await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_was_said_is_found_in_any_script() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let first = session(&app, &agent, "ada", "api").await;
    let second = session(&app, &agent, "小明", "api").await;
    for (session, text) in [
        (&first, "Where is my ORDER?"),
        (&second, "我的订单在哪里？"),
        (&second, "订单号 4711，谢谢"),
        (&first, "Thanks"),
    ] {
        says(&app, &agent, session, text).await.expect(202);
    }
    let search = async |query: &str| app.get(&agent, &format!("/tenants/acme/messages?{query}")).await;
    let excerpts = |answer: &Answer| -> Vec<String> {
        let items = answer.json["items"].as_array().unwrap();
        let mark = |piece: &serde_json::Value| {
            let text = piece["text"].as_str().unwrap();
            if piece["hit"] == json!(true) { format!("[{text}]") } else { text.to_owned() }
        };
        items.iter().map(|item| item["excerpt"].as_array().unwrap().iter().map(mark).collect()).collect()
    };
    let found = search("q=order").await.expect(200);
    assert_eq!(excerpts(&found), ["Where is my [ORDER]?"]);
    assert_eq!(found.json["items"][0]["session_id"], first);
    let orders = "q=%E8%AE%A2%E5%8D%95";
    let found = search(orders).await.expect(200);
    assert_eq!(excerpts(&found), ["[订单]号 4711，谢谢", "我的[订单]在哪里？"]);
    let one = search(&format!("{orders}&limit=1")).await.expect(200);
    let cursor = one.json["next_cursor"].as_str().unwrap();
    let rest = search(&format!("{orders}&limit=1&cursor={cursor}")).await.expect(200);
    assert_eq!(excerpts(&rest), ["我的[订单]在哪里？"]);
    assert_eq!(excerpts(&search("q=%E5%8D%95").await.expect(200)).len(), 2, "a single character");
    assert_eq!(excerpts(&search("q=47%20%E8%B0%A2").await.expect(200)), ["订单号 [47]11，[谢谢]"]);
    for bad in ["", "q=", "q=%3F", "q=a&limit=0", &format!("q={}", "x".repeat(201))] {
        assert_eq!(search(bad).await.expect(400).code(), "invalid", "{bad}");
    }
    let other = app.member(&app.tenant("globex").await, Role::Owner).await;
    app.get(&other, "/tenants/acme/messages?q=order").await.expect(404);
    assert_eq!(app.get(&other, "/tenants/globex/messages?q=order").await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn a_long_history_is_searched_by_its_index_and_what_is_new_without() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let session = SessionId::parse(&session(&app, &agent, "ada", "api").await).unwrap();
    let say = async |text: String| said(&app, &tenant, &session, text).await;
    for number in 0..2_600 {
        let text = match number {
            7 | 1_500 => format!("退款 number {number}"),
            _ => format!("Nachricht {number}"),
        };
        say(text).await;
    }
    app.advance(Duration::from_hours(2));
    let agent = app.log_in(agent.user.unwrap()).await;
    app.app.start_loops();
    let search = app.store.search(&tenant.id);
    tokio::time::timeout(Duration::from_mins(1), async {
        loop {
            let indexed_to = search.indexed_to().await.unwrap();
            // Two blocks; the rest is too little for a third one.
            if let Some(last) = indexed_to
                && search.has("msg_", last.as_str(), 2_047).await.unwrap()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    say("退款, again".to_owned()).await;
    let found = app.get(&agent, "/tenants/acme/messages?q=%E9%80%80%E6%AC%BE").await.expect(200);
    let texts: Vec<_> = found.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["excerpt"][1]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, [", again", " number 1500", " number 7"]);
    assert_eq!(found.json["next_cursor"], json!(null));
    let cursor = app.get(&agent, "/tenants/acme/messages?q=%E9%80%80%E6%AC%BE&limit=2").await.expect(200);
    let path = format!("/tenants/acme/messages?q=%E9%80%80&cursor={}", cursor.json["next_cursor"].as_str().unwrap());
    let rest = app.get(&agent, &path).await.expect(200);
    assert_eq!(rest.json["items"][0]["excerpt"][1]["text"], "款 number 7");
    let all = app.get(&agent, "/tenants/acme/messages?q=nachr&limit=200").await.expect(200);
    assert_eq!(all.json["items"].as_array().unwrap().len(), 200);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn sha256(bytes: &[u8]) -> String {
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

async fn file(app: &TestApp, tenant: &Tenant, content: &'static [u8]) -> astrfleet_core::attachment::Attachment {
    let stream = futures_util::stream::iter([Ok(bytes::Bytes::from_static(content))]).boxed();
    app.app.message.keep_file(tenant, "a.txt", Some("text/plain"), stream).await.unwrap()
}

/// What `sender` wrote in a conversation of an IM channel.
async fn brought(app: &TestApp, tenant: &Tenant, umo: &str, number: &str, sender: &str) -> Message {
    let now = app.app.clock.now();
    let session = Session {
        id: app.app.ids.session(),
        tenant_id: tenant.id.clone(),
        end_user: umo.rsplit(':').next().unwrap().to_owned(),
        channel: "tg1".to_owned(),
        umo: Some(umo.to_owned()),
        state: SessionState::Bot,
        close_reason: None,
        metadata: json!({}),
        generation: 0,
        created_at: now,
        last_active_at: now,
        version: 1,
    };
    let message = Message {
        id: app.app.ids.message(),
        tenant_id: tenant.id.clone(),
        session_id: session.id.clone(),
        author: Author::User,
        sender: Some(Box::new(Sender { id: sender.to_owned(), name: "somebody".to_owned() })),
        text: format!("{sender} writes {number}"),
        attachments: Vec::new(),
        state: State::Delivering,
        reply_to: None,
        failure: None,
        usage: None,
        created_at: now,
        updated_at: now,
    };
    let platform_id = format!("in {umo} {number}");
    let inbound =
        Inbound { message, session, platform_id, delivery: "1-a".to_owned(), start: 1, arrival: Arrival::Overheard };
    app.store.bridge(&tenant.id).take_in(inbound).await.unwrap().message
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
async fn what_is_older_than_the_tenant_wants_is_deleted() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let old = session(&app, &agent, "ada", "api").await;
    says(&app, &agent, &old, "long ago").await.expect(202);
    app.post(&agent, &format!("/tenants/acme/sessions/{old}/close"), json!({})).await.expect(200);
    let content = file(&app, &tenant, b"long ago").await;
    let open = app.store.messages(&tenant.id).open(None, 9).await.unwrap();
    for waiting in open {
        let failed = astrfleet_core::ports::Outcome::NoReply(State::Failed, None);
        app.store
            .messages(&tenant.id)
            .finish(&waiting.1, &[State::Accepted], failed, app.app.clock.now())
            .await
            .unwrap();
    }
    app.advance(Duration::from_hours(24 * 40));
    let agent = app.log_in(agent.user.unwrap()).await;
    let new = session(&app, &agent, "eve", "api").await;
    says(&app, &agent, &new, "just now").await.expect(202);
    // PostgreSQL wants months for messages, first of all.
    run(&app, "rights.retain").await;
    app.get(&agent, &format!("/tenants/acme/sessions/{old}")).await.expect(200);
    assert_eq!(run(&app, "rights.retain").await, 0, "everything is kept where nobody says otherwise");

    let current = app.store.tenants().get(&tenant.id).await.unwrap();
    let change = TenantChange { retention_days: Some(30), ..TenantChange::default() };
    assert_eq!(app.app.tenant.change(current, change).await.unwrap().retention_days, Some(30));
    assert_eq!(run(&app, "rights.retain").await, 3, "a message, a file, a session");
    assert_eq!(run(&app, "rights.retain").await, 0);
    let found = app.get(&agent, "/tenants/acme/messages?q=long").await.expect(200);
    assert_eq!(found.json["items"], json!([]));
    assert!(app.app.blobs.get(&content.blob_key()).await.is_err());
    app.get(&agent, &format!("/tenants/acme/sessions/{old}")).await.expect(404);
    assert_eq!(
        app.get(&agent, "/tenants/acme/messages?q=now").await.expect(200).json["items"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn what_was_told_is_kept_no_longer_than_what_was_said() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let agent = app.member(&tenant, Role::Agent).await;
    let old = session(&app, &agent, "ada", "api").await;
    app.post(&agent, &format!("/tenants/acme/sessions/{old}/close"), json!({})).await.expect(200);
    app.advance(Duration::from_hours(48));
    let agent = app.log_in(agent.user.unwrap()).await;
    session(&app, &agent, "eve", "api").await;
    let told = async || {
        let events = app.store.events(&tenant.id).after(0, None, 99).await.unwrap();
        events.iter().map(|event| event.data["session"]["end_user"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // PostgreSQL wants months for messages, first of all.
    run(&app, "rights.retain").await;
    assert_eq!(told().await, ["ada", "ada", "eve"]);
    let current = app.store.tenants().get(&tenant.id).await.unwrap();
    let change = TenantChange { retention_days: Some(1), ..TenantChange::default() };
    app.app.tenant.change(current, change).await.unwrap();
    assert_eq!(run(&app, "rights.retain").await, 3, "two events and a session");
    assert_eq!(told().await, ["eve"]);
}

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
