//! What a bot is asked and told through the platform: its configuration, its channels, its log and its state.

use astrfleet_core::instance::Observed;
use astrfleet_testkit::app::{Caller, TestApp};
use axum::{body::Body, http::Request};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{at_work, end, until, until_ready, works};

#[tokio::test]
async fn its_configuration_is_read_and_changed() {
    let app = at_work(|_| {}).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    let path = "/tenants/acme/instance/config";
    until_ready(&app, &acme).await;
    let read = app.get(&admin, path).await.expect(200);
    let tag = read.header("etag").to_owned();
    let change = async |tag: &str, patch: Value| {
        app.send(axum::http::Method::PATCH, &admin, path, Some(patch), &[("if-match", tag)]).await
    };
    let changed = change(&tag, json!({"persona": "pirate", "webhook_secret": "hidden"})).await.expect(200);
    assert_eq!(changed.json["persona"], "pirate");
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(app.get(&admin, path).await.header("etag"), changed.header("etag"));
    assert_eq!(change(&tag, json!({"persona": "default"})).await.expect(412).code(), "stale");
    let log = app.get(&admin, "/tenants/acme/audit-log").await.expect(200);
    assert_eq!(log.json["items"][0]["detail"], json!({"changed": ["persona", "webhook_secret"]}));
    assert!(!log.text.contains("hidden"));
    app.post(&admin, "/tenants/acme/instance/stop", json!({})).await.expect(202);
    until(&app, &acme, |bot| bot.observed == Observed::Suspended).await;
    let refused = app.get(&admin, path).await.expect(409);
    assert!(refused.json["detail"].as_str().unwrap().contains("stopped by request"), "{}", refused.text);
    end(&app).await;
}

#[tokio::test]
async fn channels_come_and_go_and_keep_their_secrets() {
    let app = at_work(|_| {}).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    let channels = "/tenants/acme/channels";
    until_ready(&app, &acme).await;
    let new = json!({"id": "shop", "type": "telegram", "settings": {"telegram_token": "42:secret", "lang": "en"}});
    let made = app.post(&admin, channels, new.clone()).await.expect(201);
    assert_eq!(made.header("location"), "/api/v1/tenants/acme/channels/shop");
    assert_eq!(made.json["settings"], json!({"telegram_token": "***", "lang": "en"}));
    app.post(&admin, channels, new).await.expect(409);
    app.post(&admin, channels, json!({"id": "x", "type": "telegram", "token": "1"})).await.expect(400);
    let brief = app.get(&admin, "/tenants/acme/instance").await.expect(200).json;
    assert_eq!(brief["channels"], json!([{"id": "shop", "type": "telegram", "connected": true}]));
    let one = "/tenants/acme/channels/shop";
    let changed = app.patch(&admin, one, json!({"enabled": false, "settings": {"lang": "zh"}})).await.expect(200);
    assert_eq!(changed.json["settings"], json!({"telegram_token": "***", "lang": "zh"}), "what is not named stays");
    let brief = app.get(&admin, "/tenants/acme/instance").await.expect(200).json;
    assert_eq!(brief["channels"][0]["connected"], false);
    assert_eq!(app.post(&admin, &format!("{one}/test"), json!({})).await.expect(200).json["ok"], true);
    assert_eq!(app.get(&admin, one).await.expect(200).json["enabled"], false);
    app.delete(&admin, one).await.expect(204);
    for answer in [app.get(&admin, one).await, app.delete(&admin, one).await, app.patch(&admin, one, json!({})).await] {
        answer.expect(404);
    }
    assert_eq!(app.get(&admin, channels).await.expect(200).json["items"], json!([]));
    let log = app.get(&admin, "/tenants/acme/audit-log").await.expect(200);
    let did: Vec<_> =
        log.json["items"].as_array().unwrap().iter().filter_map(|entry| entry["detail"]["did"].as_str()).collect();
    assert_eq!(did, ["delete", "test", "change", "add"]);
    assert!(!log.text.contains("42:secret"));
    end(&app).await;
}

#[tokio::test]
async fn its_log_is_read_and_followed() {
    let app = at_work(|_| {}).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    let bot = until_ready(&app, &acme).await;
    for number in 1..=3 {
        app.runtime.says(&bot.id, &format!("line {number}"));
    }
    let log = app.get(&admin, "/tenants/acme/instance/logs?lines=2").await.expect(200).json;
    let lines: Vec<_> = log["items"].as_array().unwrap().iter().map(|line| line["line"].as_str().unwrap()).collect();
    assert_eq!(lines, ["line 2", "line 3"]);
    for lines in ["0", "1001", "-1", "many"] {
        let refused = app.get(&admin, &format!("/tenants/acme/instance/logs?lines={lines}")).await.expect(400);
        assert_eq!(refused.json["field"], "lines");
    }
    let mut events = watch(&app, &admin, "/tenants/acme/instance/logs?lines=1&follow=true").await;
    assert_eq!(events.next().await.unwrap().1["line"], "line 3");
    app.runtime.says(&bot.id, "line 4");
    let (name, line) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &line["line"]), ("log", &json!("line 4")));
    end(&app).await;
    assert!(events.next().await.is_none(), "ends with the platform");
}

#[tokio::test]
async fn every_change_of_state_is_told() {
    let app = TestApp::configured(|_| {}).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    let mut events = watch(&app, &admin, "/tenants/acme/instance/events").await;
    let mut fleet = watch(&app, &admin, "/instances/events").await;
    let (name, first) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &first["observed"]), ("state", &json!("pending")));
    assert_eq!(fleet.next().await.unwrap().1["observed"], "pending", "all bots as they are come first");
    works(&app).await;
    for events in [&mut events, &mut fleet] {
        loop {
            let (name, state) = events.next().await.unwrap();
            assert_eq!((name.as_str(), &state["tenant_id"]), ("state", &json!(acme.id.as_str())));
            if state["ready"] == true {
                break;
            }
        }
    }
    let listed = app.get(&admin, "/instances?limit=1").await.expect(200).json;
    assert_eq!(listed["items"][0]["tenant_id"], acme.id.as_str());
    app.get(&admin, "/instances?limit=0").await.expect(400);
    end(&app).await;
    assert!(events.next().await.is_none() && fleet.next().await.is_none(), "they end with the platform");
}

/// The events of a stream: their names, and their data.
async fn watch(
    app: &TestApp,
    caller: &Caller,
    path: &str,
) -> impl futures_util::Stream<Item = (String, Value)> + Unpin + use<> {
    let credential = caller.credential.as_ref().unwrap().expose_secret();
    let request = Request::builder()
        .uri(format!("/api/v1{path}"))
        .header("authorization", format!("Bearer {credential}"))
        .body(Body::empty())
        .unwrap();
    let response = app.raw(request).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let chunks = response.into_body().into_data_stream().map(Result::unwrap);
    let events = chunks.scan(String::new(), |rest, chunk| {
        rest.push_str(&String::from_utf8_lossy(&chunk));
        let mut complete: Vec<String> = rest.split("\n\n").map(str::to_owned).collect();
        *rest = complete.pop().unwrap_or_default();
        std::future::ready(Some(futures_util::stream::iter(complete)))
    });
    let field = |event: &str, name: &str| {
        event.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let named = move |event: String| {
        let named = field(&event, "event:").zip(field(&event, "data:"));
        std::future::ready(named.map(|(name, data)| (name, serde_json::from_str(&data).unwrap())))
    };
    events.flatten().filter_map(named).boxed()
}
