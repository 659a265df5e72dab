//! The client against a bot that behaves as a real one seldom does: cut, silent, too large, wrong.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use astrfleet_core::{
    Error,
    chat::{ChatEvent, ChatRequest},
    id::InstanceId,
    ports::{
        BotAccess, BotClient, Bots, ChannelDraft,
        testing::{CountingRng, FixedClock},
    },
};
use astrfleet_runtime::astrbot::{AstrBots, ClientLimits};
use axum::{
    Json, Router,
    body::Body,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

const DELTA: &str = "data: {\"type\":\"plain\",\"data\":\"Hel\",\"streaming\":true,\"chain_type\":null}\n\n";

async fn client(router: Router) -> Box<dyn BotClient> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let limits = ClientLimits {
        silence: Duration::from_millis(200),
        answer: Duration::from_millis(500),
        answer_bytes_max: 1_000,
        ..ClientLimits::default()
    };
    let clock = Arc::new(FixedClock::at(1_795_402_721_000_000));
    let bots = AstrBots::new(clock, Arc::new(CountingRng::default()), "It failed.", limits).unwrap();
    let instance = InstanceId::parse("bot_0123456789abcdef0123456789abcdef").unwrap();
    bots.client(&BotAccess { instance, base_url, jwt_secret: "secret-of-the-bot".into() })
}

fn question() -> ChatRequest {
    ChatRequest { end_user: "alice".into(), session: "ses".into(), text: "hi".into(), attachments: Vec::new() }
}

fn refusal(words: &str) -> Json<Value> {
    Json(json!({"status": "error", "message": words}))
}

fn events(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

#[tokio::test]
async fn a_refusal_with_status_200_is_a_refusal() {
    let bot = client(Router::new().fallback(async || refusal("Message content is empty"))).await;
    let Err(Error::Invalid { reason, .. }) = bot.chat(question()).await else { panic!("it was taken") };
    assert!(reason.contains("Message content is empty"), "{reason}");
    assert!(!bot.is_ready().await);
}

#[tokio::test]
async fn a_refused_token_is_no_fault_of_the_caller() {
    let bot = client(Router::new().fallback(async || (StatusCode::UNAUTHORIZED, refusal("Invalid API key")))).await;
    assert!(matches!(bot.chat(question()).await, Err(Error::Unavailable { .. })));
    assert!(matches!(bot.config().await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_stream_that_is_cut_gives_what_came_and_then_the_failure() {
    let heard = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&heard);
    let cut = async move || {
        let cut = async move {
            waits.notified().await;
            Err(std::io::Error::other("cut"))
        };
        events(Body::from_stream(stream::iter([Ok(DELTA)]).chain(stream::once(cut))))
    };
    let bot = client(Router::new().route("/api/v1/chat", post(cut))).await;
    let mut answer = bot.chat(question()).await.unwrap();
    assert!(matches!(answer.next().await, Some(Ok(ChatEvent::Delta(text))) if text == "Hel"));
    heard.notify_one();
    assert!(matches!(answer.next().await, Some(Err(Error::Unavailable { .. }))));
    assert!(answer.next().await.is_none());
}

#[tokio::test]
async fn a_silent_bot_is_not_waited_for_for_ever() {
    let silent = async || {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(DELTA.as_bytes()))]);
        events(Body::from_stream(first.chain(stream::pending())))
    };
    let never = async || std::future::pending::<()>().await;
    let bot = client(Router::new().route("/api/v1/chat", post(silent)).route("/api/v1/bots", get(never))).await;
    let answer: Vec<_> = bot.chat(question()).await.unwrap().collect().await;
    assert!(matches!(&answer[..], [Ok(ChatEvent::Delta(_)), Err(Error::Unavailable { .. })]), "{answer:?}");
    assert!(matches!(bot.channels().await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_no_json_is_none() {
    let large = async || Json(json!({"status": "ok", "data": {"config": {"x": "x".repeat(2_000)}}}));
    let page = async || "<html>";
    let bot = client(Router::new().route("/api/v1/system-config", get(large)).route("/api/v1/bots", get(page))).await;
    assert!(matches!(bot.config().await, Err(Error::Unavailable { .. })));
    assert!(matches!(bot.channels().await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_channel_that_cannot_be_loaded_is_taken_back() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let deleted = Arc::clone(&calls);
    let templates = async || {
        let line = json!({"Line": {"id": "line", "type": "line", "channel_secret": ""}});
        let metadata = json!({"platform_group": {"metadata": {"platform": {"config_template": line}}}});
        Json(json!({"status": "ok", "data": {"metadata": metadata}}))
    };
    let router = Router::new()
        .route(
            "/api/v1/bots",
            get(async || Json(json!({"status": "ok", "data": {"bots": []}})))
                .post(async || (StatusCode::INTERNAL_SERVER_ERROR, refusal("Internal server error"))),
        )
        .route("/api/v1/system-config/runtime", get(templates))
        .route(
            "/api/v1/bots/by-id",
            axum::routing::delete(async move |uri: axum::http::Uri| {
                deleted.lock().unwrap().push(uri.query().unwrap_or_default().to_owned());
                Json(json!({"status": "ok", "data": {}}))
            }),
        );
    let bot = client(router).await;
    let draft =
        ChannelDraft { id: "l1".into(), kind: "line".into(), enabled: true, settings: json!({"channel_secret": "x"}) };
    let refused = bot.add_channel(draft).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "settings", .. })), "{refused:?}");
    assert_eq!(*calls.lock().unwrap(), ["bot_id=l1"]);
    let masked = ChannelDraft {
        id: "l2".into(),
        kind: "line".into(),
        enabled: true,
        settings: json!({"channel_secret": "***"}),
    };
    assert!(matches!(bot.add_channel(masked).await, Err(Error::Invalid { field: "settings", .. })));
}
