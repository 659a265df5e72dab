//! What tenants may ask of what is stored about them, through the real router.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test where they stand")]

mod erasure;
mod exports;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use astrfleet_core::{
    blocklist::Block,
    bridge::Arrival,
    id::SessionId,
    message::{Author, Message, Sender, State},
    policy::Role,
    ports::{BusEvent, Inbound, NewMessage, Store},
    session::{Session, State as SessionState},
    tenant::Tenant,
};
use astrfleet_server::{role::Role as Part, tenant::TenantChange};
use astrfleet_testkit::{
    app::{Answer, Caller, TestApp},
    watched::{Eyes, WatchedBlobs},
};
use futures_util::StreamExt;
use serde_json::json;

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

/// The same platform in another process, whose storage of files is watched and can be taken away.
async fn with_storage(app: &TestApp) -> (TestApp, Eyes, Arc<AtomicBool>) {
    let (eyes, is_away) = (Eyes::default(), Arc::new(AtomicBool::new(false)));
    let other = app
        .beside(Part::ALL, |ports, _| {
            let inner = Arc::clone(&ports.blobs);
            ports.blobs = Arc::new(WatchedBlobs { inner, eyes: eyes.clone(), is_away: Arc::clone(&is_away) });
        })
        .await;
    (other, eyes, is_away)
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
