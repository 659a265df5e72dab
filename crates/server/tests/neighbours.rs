//! Nobody reaches another tenant's things by their ids. The API description is walked: each operation with a path below
//! `{tenant}/…/{id}` is called by a tenant's owner under the own tenant with the real id of a neighbour's thing, and is not
//! found. On SQLite, which has no row-level security, what every statement says of the tenant is the only wall.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, time::Duration};

use astrfleet_core::{id::TenantId, policy::Role, ports::Store};
use astrfleet_server::app::description;
use astrfleet_testkit::{
    app::{Answer, Caller, TestApp},
    receiver::Receiver,
};
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, header},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// A hang is a failure, not a wait for ever.
const PATIENCE: Duration = Duration::from_mins(1);

/// Each operation below `{tenant}` that names something of the tenant's, with a body that it accepts (null where it takes
/// none): the id alone is wrong. What takes something away stands last, as the owner of the things walks this, too.
fn rows() -> Vec<(&'static str, Value)> {
    let none = Value::Null;
    vec![
        ("GET /api/v1/tenants/{tenant}/api-keys/{key}", none.clone()),
        ("GET /api/v1/tenants/{tenant}/attachments/{attachment}", none.clone()),
        ("GET /api/v1/tenants/{tenant}/channels/{channel}", none.clone()),
        ("PATCH /api/v1/tenants/{tenant}/channels/{channel}", json!({"enabled": true})),
        ("POST /api/v1/tenants/{tenant}/channels/{channel}/test", json!({})),
        ("GET /api/v1/tenants/{tenant}/exports/{export}", none.clone()),
        ("GET /api/v1/tenants/{tenant}/exports/{export}/archive", none.clone()),
        ("PUT /api/v1/tenants/{tenant}/members/{user}", json!({"role": "viewer"})),
        ("GET /api/v1/tenants/{tenant}/sessions/{session}", none.clone()),
        ("PATCH /api/v1/tenants/{tenant}/sessions/{session}", json!({"metadata": {"read": "by a neighbour"}})),
        ("GET /api/v1/tenants/{tenant}/sessions/{session}/events", none.clone()),
        ("GET /api/v1/tenants/{tenant}/sessions/{session}/messages", none.clone()),
        ("POST /api/v1/tenants/{tenant}/sessions/{session}/messages", json!({"text": "from a neighbour"})),
        ("GET /api/v1/tenants/{tenant}/sessions/{session}/messages/{message}", none.clone()),
        ("POST /api/v1/tenants/{tenant}/sessions/{session}/messages/{message}/stop", json!({})),
        ("POST /api/v1/tenants/{tenant}/sessions/{session}/take-over", json!({})),
        ("POST /api/v1/tenants/{tenant}/sessions/{session}/hand-back", json!({})),
        ("POST /api/v1/tenants/{tenant}/sessions/{session}/close", json!({})),
        ("GET /api/v1/tenants/{tenant}/webhooks/{webhook}", none.clone()),
        ("PATCH /api/v1/tenants/{tenant}/webhooks/{webhook}", json!({"description": "a neighbour's"})),
        ("POST /api/v1/tenants/{tenant}/webhooks/{webhook}/rotate-secret", json!({})),
        ("GET /api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries", none.clone()),
        ("GET /api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}", none.clone()),
        ("POST /api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}/replay", json!({})),
        // Before the erasure, which takes all exports with it.
        ("DELETE /api/v1/tenants/{tenant}/exports/{export}", none.clone()),
        (ERASE, json!({})),
        ("DELETE /api/v1/tenants/{tenant}/api-keys/{key}", none.clone()),
        ("DELETE /api/v1/tenants/{tenant}/blocklist/{block}", none.clone()),
        ("DELETE /api/v1/tenants/{tenant}/channels/{channel}", none.clone()),
        ("DELETE /api/v1/tenants/{tenant}/invitations/{invitation}", none.clone()),
        ("DELETE /api/v1/tenants/{tenant}/members/{user}", none.clone()),
        ("DELETE /api/v1/tenants/{tenant}/webhooks/{webhook}", none),
    ]
}

/// What it names is a name and no id: everybody has an end user of theirs under it, and nobody is told that there is none.
const ERASE: &str = "POST /api/v1/tenants/{tenant}/end-users/{end_user}/erase";

/// All operations below a tenant that name something more.
fn described() -> BTreeSet<String> {
    let document = serde_json::to_value(description()).unwrap();
    let mut all = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        // What comes to `/hooks` is the bot's to judge, by the IM platform's signature.
        let Some(rest) = path.strip_prefix("/api/v1/tenants/{tenant}/") else { continue };
        if !rest.contains('{') {
            continue;
        }
        for (method, described) in item.as_object().unwrap() {
            if described.is_object() && method.to_uppercase().parse::<Method>().is_ok() {
                all.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    all
}

#[test]
fn every_operation_that_names_a_tenants_thing_has_a_row() {
    let rows: BTreeSet<String> = rows().iter().map(|(operation, _)| (*operation).to_owned()).collect();
    let described = described();
    let missing: Vec<_> = described.difference(&rows).collect();
    let stale: Vec<_> = rows.difference(&described).collect();
    assert!(missing.is_empty() && stale.is_empty(), "without a row: {missing:#?}\nwithout an operation: {stale:#?}");
}

/// One of everything that a tenant can have.
struct Things {
    tenant: &'static str,
    tenant_id: TenantId,
    owner: Caller,
    /// By the name of the parameter that stands for it.
    ids: Vec<(&'static str, String)>,
    _receiver: Receiver,
}

impl Things {
    async fn of(app: &TestApp, tenant: &'static str) -> Self {
        let made = app.tenant(tenant).await;
        let owner = app.member(&made, Role::Owner).await;
        app.app.manager.wait_ready(&made.id, PATIENCE).await.unwrap();
        let receiver = Receiver::start().await;
        let below = |rest: &str| format!("/tenants/{tenant}/{rest}");
        let post = async |rest: &str, body: Value| {
            let made = app.post(&owner, &below(rest), body).await;
            assert!([201, 202].contains(&made.status), "{rest}: {}", made.text);
            text(&made.json["id"])
        };
        let webhook = post("webhooks", json!({"url": receiver.url()})).await;
        let session = post("sessions", json!({"end_user": "ada"})).await;
        let said = app.post(&owner, &below(&format!("sessions/{session}/messages")), json!({"text": "Hi"})).await;
        let message = text(&said.expect(200).json["message"]["id"]);
        let deliveries = below(&format!("webhooks/{webhook}/deliveries"));
        let taken = until(app, &owner, &deliveries, |page| {
            let all = page["items"].as_array().unwrap();
            all.len() == 3 && all.iter().all(|delivery| delivery["state"] == "succeeded")
        })
        .await;
        let form =
            "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nsecret\r\n--b--\r\n";
        let attached = send(app, "POST", &below("attachments"), &owner, "multipart/form-data; boundary=b", form).await;
        let export = post("exports", json!({})).await;
        until(app, &owner, &below(&format!("exports/{export}")), |export| export["state"] == "done").await;
        let ids = vec![
            ("session", session),
            ("message", message),
            ("delivery", text(&taken["items"][0]["id"])),
            ("webhook", webhook),
            ("attachment", text(&attached.expect(201).json["id"])),
            ("export", export),
            ("key", post("api-keys", json!({"name": "shop", "scopes": ["chat"]})).await),
            ("invitation", post("invitations", json!({"email": "eve@example.com", "role": "viewer"})).await),
            ("block", post("blocklist", json!({"end_user": "mallory"})).await),
            (
                "channel",
                post("channels", json!({"id": format!("of-{tenant}"), "type": "telegram", "settings": {}})).await,
            ),
            ("user", app.member(&made, Role::Agent).await.id().to_string()),
            ("end_user", "ada".to_owned()),
        ];
        Self { tenant, tenant_id: made.id, owner, ids, _receiver: receiver }
    }

    fn id(&self, name: &str) -> &str {
        let found = self.ids.iter().find(|(known, _)| *known == name);
        &found.unwrap_or_else(|| panic!("{name} is a parameter that this test makes nothing for")).1
    }

    /// All that a neighbour could have changed.
    async fn everything(&self, app: &TestApp) -> Vec<(String, Value)> {
        let session = format!("sessions/{}", self.id("session"));
        let webhook = format!("webhooks/{}", self.id("webhook"));
        let mut all = Vec::new();
        for rest in [
            "members",
            "invitations",
            "api-keys",
            "channels",
            "sessions",
            "webhooks",
            "blocklist",
            "exports",
            "audit-log",
            "limits",
            &session,
            &format!("{session}/messages"),
            &webhook,
            &format!("{webhook}/deliveries"),
        ] {
            let path = format!("/tenants/{}/{rest}", self.tenant);
            all.push((path.clone(), app.get(&self.owner, &path).await.expect(200).json));
        }
        all
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Looks until what is there is as it is wanted.
async fn until(app: &TestApp, caller: &Caller, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let found = app.get(caller, path).await.expect(200).json;
            if wanted(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{path} never came so far"))
}

/// Sends a request; of what goes on for ever, nothing is read.
async fn send(app: &TestApp, method: &str, path: &str, caller: &Caller, kind: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {}", caller.credential.as_ref().unwrap().expose_secret());
    let mut request =
        Request::builder().method(method).uri(format!("/api/v1{path}")).header(header::AUTHORIZATION, bearer);
    if !kind.is_empty() {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    let (parts, body) = app.raw(request.body(Body::from(body.to_owned())).unwrap()).await.into_parts();
    let stream = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let bytes = if stream { "a stream".into() } else { to_bytes(body, 1 << 20).await.unwrap() };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status: parts.status.as_u16(), headers: parts.headers, json, text }
}

/// Calls an operation under a tenant with these things' ids.
async fn call(
    app: &TestApp,
    caller: &Caller,
    row: &(&str, Value),
    tenant: &str,
    id: impl Fn(&str) -> String,
) -> Answer {
    let (operation, body) = row;
    let (method, template) = operation.split_once(' ').unwrap();
    let mut path = template.trim_start_matches("/api/v1").replace("{tenant}", tenant);
    while let Some((before, rest)) = path.split_once('{') {
        let (name, after) = rest.split_once('}').unwrap();
        path = format!("{before}{}{after}", id(name));
    }
    let (kind, body) = if body.is_null() { ("", String::new()) } else { ("application/json", body.to_string()) };
    send(app, method, &path, caller, kind, &body).await
}

/// The last thing that an operation names: what it is about.
fn last_parameter(operation: &str) -> &str {
    operation.rsplit_once('{').and_then(|(_, rest)| rest.split_once('}')).unwrap().0
}

#[tokio::test]
async fn a_neighbours_things_are_not_found_by_their_ids() {
    let app = TestApp::configured(|config| {
        config.gateway.rate_limit_per_minute = 100_000;
        config.webhooks.allow_http = true;
        config.webhooks.allow_private = true;
    })
    .await;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    let (acme, globex) = (Things::of(&app, "acme").await, Things::of(&app, "globex").await);
    let (of_acme, of_globex) = (acme.everything(&app).await, globex.everything(&app).await);
    for row in rows().iter().filter(|(operation, _)| *operation != ERASE) {
        let (operation, _) = row;
        let answer = call(&app, &acme.owner, row, acme.tenant, |name| globex.id(name).to_owned()).await;
        assert_eq!(answer.status, 404, "{operation} reaches a neighbour's things: {}", answer.text);
        // Also below something of one's own.
        let about = last_parameter(operation);
        let own = |name: &str| if name == about { globex.id(name) } else { acme.id(name) }.to_owned();
        let answer = call(&app, &acme.owner, row, acme.tenant, own).await;
        assert_eq!(answer.status, 404, "{operation} reaches a neighbour's {about}: {}", answer.text);
    }
    // What a body or a query names.
    let path = format!("/tenants/acme/sessions/{}/messages", acme.id("session"));
    let body = json!({"text": "See", "attachments": [globex.id("attachment")]});
    app.post(&acme.owner, &path, body).await.expect(404);
    let event = app.store.events(&globex.tenant_id).after(0, None, 1).await.unwrap()[0].id.clone();
    app.get(&acme.owner, &format!("/tenants/acme/events?after={event}")).await.expect(400);
    assert_eq!(globex.everything(&app).await, of_globex);
    assert_eq!(acme.everything(&app).await, of_acme);

    let erased = app.post(&acme.owner, "/tenants/acme/end-users/ada/erase", json!({})).await.expect(200);
    assert_eq!(erased.json["sessions"], 1, "their own");
    assert_eq!(globex.everything(&app).await, of_globex, "the neighbour has another ada");

    // The ids are real, and the bodies are right: whoever has these things reaches them.
    for row in &rows() {
        let answer = call(&app, &globex.owner, row, globex.tenant, |name| globex.id(name).to_owned()).await;
        // A session that nobody has taken over is not handed back, and an answer that is over is not stopped.
        let is_found = answer.status < 400 || answer.status == 409;
        assert!(is_found, "{} does not find what is there: {} {}", row.0, answer.status, answer.text);
    }
}
