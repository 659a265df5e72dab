//! Whatever is sent, every operation answers with a problem that says what was wrong, nothing is stored or begun by it,
//! and the platform stays well. The API description is walked: an operation that takes JSON and is not in the table
//! fails the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, time::Duration};

use astrfleet_core::{id::TenantId, policy::Role, ports::Store, tenant::Tenant};
use astrfleet_server::{app::description, problem::CODES};
use astrfleet_testkit::app::{Answer, Caller, PASSWORD, TestApp};
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, header},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

const JSON: &str = "application/json";
/// An operation that takes any object: no field of it is unknown to us, or of the wrong type.
const ANY_OBJECT: &str = "PATCH /api/v1/tenants/{tenant}/instance/config";
/// What bots ask of models, with their virtual key. Its errors have OpenAI's shape.
const MODELS: &str = "/llm/v1/";
/// What the bridge in a bot calls, with the token of that.
const BRIDGE: &str = "/bridge/v1/";
/// An operation whose body is OpenAI's: what is not ours in it is passed on as it is, and held to in tests of its own.
const CHAT: &str = "POST /llm/v1/chat/completions";

/// What each operation that takes JSON would accept, but for the things that its path names.
fn bodies() -> Vec<(&'static str, Value)> {
    vec![
        ("POST /api/v1/auth/login", json!({"email": "eve@example.com", "password": PASSWORD})),
        ("POST /api/v1/auth/refresh", json!({"refresh_token": "afr_made_up"})),
        (
            "PUT /api/v1/auth/password",
            json!({"old_password": "not my password", "new_password": "a long new password"}),
        ),
        ("POST /api/v1/invitations/accept", json!({"token": "made up", "password": PASSWORD, "display_name": "Eve"})),
        ("POST /api/v1/users", json!({"email": "eve@example.com", "password": PASSWORD, "display_name": "Eve"})),
        ("PATCH /api/v1/users/{user}", json!({"display_name": "Eve", "disabled": false, "password": PASSWORD})),
        ("POST /api/v1/tenants", json!({"name": "initech", "email": "eve@example.com", "display_name": "Initech"})),
        ("PATCH /api/v1/tenants/{tenant}", json!({"display_name": "Acme", "plan": "free", "retention_days": 7})),
        ("PUT /api/v1/tenants/{tenant}/members/{user}", json!({"role": "viewer"})),
        ("POST /api/v1/tenants/{tenant}/invitations", json!({"email": "eve@example.com", "role": "viewer"})),
        ("POST /api/v1/tenants/{tenant}/api-keys", json!({"name": "shop", "scopes": ["chat"]})),
        (
            "POST /api/v1/tenants/{tenant}/webhooks",
            json!({"url": "https://example.com/hook", "events": ["reply.done"], "enabled": true}),
        ),
        (
            "PATCH /api/v1/tenants/{tenant}/webhooks/{webhook}",
            json!({"url": "https://example.com/hook", "events": [], "description": "shop", "enabled": false}),
        ),
        (ANY_OBJECT, json!({"timezone": "Asia/Shanghai"})),
        ("POST /api/v1/tenants/{tenant}/channels", json!({"id": "shop", "type": "telegram", "settings": {}})),
        ("PATCH /api/v1/tenants/{tenant}/channels/{channel}", json!({"enabled": true, "settings": {}})),
        ("POST /api/v1/tenants/{tenant}/sessions", json!({"end_user": "eve", "channel": "api"})),
        ("POST /api/v1/tenants/{tenant}/blocklist", json!({"end_user": "eve", "channel": "api", "reason": "rude"})),
        ("PATCH /api/v1/tenants/{tenant}/sessions/{session}", json!({"metadata": {}})),
        ("POST /api/v1/tenants/{tenant}/sessions/{session}/messages", json!({"text": "hello", "attachments": []})),
        (
            "POST /bridge/v1/inbound",
            json!({"channel": "shop", "umo": "shop:FriendMessage:7", "platform_message_id": "1", "delivery": "1-a",
                "start": 1, "sender": {"id": "7", "name": "ann"}, "text": "Hi", "addressed": true}),
        ),
        (
            "POST /bridge/v1/outbound",
            json!({"umo": "shop:FriendMessage:7", "platform_message_id": "1", "generation": 1}),
        ),
        (
            "POST /bridge/v1/sent",
            json!({"umo": "shop:FriendMessage:7", "platform_message_id": "1", "told_id": "a", "outcome": "sent",
                "text": "Hello"}),
        ),
        (CHAT, json!({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]})),
    ]
}

/// Texts that may be made of anything that can be stored: passwords are hashed, and what people say is theirs. Nothing of
/// it is a name, a log line or an address.
fn is_free(operation: &Operation, field: &str) -> bool {
    let is_said = field == "text" && (operation.template.ends_with("/messages") || operation.is_for_bots());
    field.ends_with("password") || is_said
}

/// What is refused in another way than as a text that is none: credentials are wrong, and a bot that is not there is asked
/// about no channel.
fn also_refused_with(operation: &Operation) -> &'static [u16] {
    match operation.name.as_str() {
        "POST /api/v1/auth/login" | "POST /api/v1/auth/refresh" => &[401],
        "POST /api/v1/invitations/accept" => &[401, 404],
        name if name.contains("/channels") => &[404, 409],
        _ => &[],
    }
}

/// One operation of the API description.
struct Operation {
    name: String,
    method: Method,
    template: String,
    described: Value,
}

impl Operation {
    /// The parameters in this place (`path`, `query`).
    fn parameters(&self, place: &str) -> Vec<String> {
        let parameters = self.described["parameters"].as_array().cloned().unwrap_or_default();
        let here = parameters.iter().filter(|parameter| parameter["in"] == place);
        here.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
    }

    fn takes_json(&self) -> bool {
        !self.described["requestBody"]["content"][JSON].is_null()
    }

    fn takes_credential(&self) -> bool {
        self.described["security"].as_array().is_some_and(|ways| !ways.is_empty())
    }

    /// Whether the bridges of bots alone may call it.
    fn is_for_bots(&self) -> bool {
        self.template.starts_with(BRIDGE)
    }

    /// Whether bots alone may call it, with their virtual key.
    fn is_for_models(&self) -> bool {
        self.template.starts_with(MODELS)
    }

    fn is_stream_only(&self) -> bool {
        let answers = self.described["responses"]["200"]["content"].as_object();
        answers.is_some_and(|kinds| kinds.keys().all(|kind| kind == "text/event-stream"))
    }

    /// The path to things that are not there, in a tenant that is.
    fn path(&self, tenant: &Tenant) -> String {
        self.path_with(tenant, &[])
    }

    /// The same with some parameters set to something else.
    fn path_with(&self, tenant: &Tenant, others: &[(&str, &str)]) -> String {
        let zeros = "0".repeat(32);
        self.parameters("path").iter().fold(self.template.clone(), |path, name| {
            let other = others.iter().find(|(changed, _)| changed == name).map(|(_, value)| (*value).to_owned());
            let value = match (other, name.as_str()) {
                (Some(value), _) => value,
                (_, "tenant") => tenant.name.clone(),
                (_, "session") => format!("ses_{zeros}"),
                (_, "message") => format!("msg_{zeros}"),
                (_, "attachment") => format!("att_{zeros}"),
                (_, "user") => format!("usr_{zeros}"),
                (_, "key") => format!("key_{zeros}"),
                (_, "webhook") => format!("whk_{zeros}"),
                (_, "delivery") => format!("dlv_{zeros}"),
                (_, "invitation") => format!("inv_{zeros}"),
                (_, "block") => format!("blk_{zeros}"),
                (_, "export") => format!("exp_{zeros}"),
                (_, "end_user") => "nobody".to_owned(),
                (_, "channel") => "none".to_owned(),
                (_, unknown) => panic!("{}: {unknown} is a parameter that this test does not know", self.name),
            };
            path.replace(&format!("{{{name}}}"), &value)
        })
    }
}

fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(description()).unwrap();
    let mut all = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, described) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            if !described.is_object() {
                continue;
            }
            let name = format!("{method} {template}");
            all.push(Operation { name, method, template: template.clone(), described: described.clone() });
        }
    }
    all
}

/// A platform where every caller may call everything as often as it takes, with somebody in it.
async fn world() -> (TestApp, Tenant, Caller) {
    let app = TestApp::configured(|config| {
        config.gateway.rate_limit_per_minute = 1_000_000;
        config.gateway.anonymous_rate_limit_per_minute = 1_000_000;
        config.gateway.max_attachment_bytes = 100_000;
        config.auth.login_attempts = 1_000_000;
    })
    .await;
    let tenant = app.tenant("acme").await;
    app.member(&tenant, Role::Viewer).await;
    let admin = app.admin().await;
    app.post(&admin, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    (app, tenant, admin)
}

/// Who may call an operation: an administrator, or the tenant's bot in one of its two parts.
struct Callers {
    admin: Caller,
    bridge: Caller,
    models: Caller,
}

impl Callers {
    async fn of(app: &TestApp, tenant: &Tenant, admin: &Caller) -> Self {
        let instance = app.instance(tenant).await;
        let bridge = app.app.secrets.bridge_token(&instance.id, instance.secrets_version).unwrap();
        let models = app.app.secrets.llm_key(&instance.id, instance.secrets_version).unwrap();
        let bot = |credential| Caller { user: None, credential: Some(credential) };
        Self { admin: admin.clone(), bridge: bot(bridge), models: bot(models) }
    }

    fn may(&self, operation: &Operation) -> &Caller {
        match operation {
            operation if operation.is_for_bots() => &self.bridge,
            operation if operation.is_for_models() => &self.models,
            _ => &self.admin,
        }
    }
}

/// Things that paths can name, all there.
async fn things(app: &TestApp, admin: &Caller) -> Vec<(&'static str, String)> {
    let id = |made: Answer| made.json["id"].as_str().unwrap_or_else(|| panic!("{}", made.text)).to_owned();
    let make = async |rest: &str, body: Value| id(app.post(admin, &format!("/tenants/acme/{rest}"), body).await);
    let user = app.user("bob@example.com", false).await.id;
    app.put(admin, &format!("/tenants/acme/members/{user}"), json!({"role": "viewer"})).await.expect(200);
    vec![
        ("session", make("sessions", json!({"end_user": "bob"})).await),
        ("webhook", make("webhooks", json!({"url": "https://example.com/hook"})).await),
        ("user", user.to_string()),
    ]
}

/// Sends exactly these bytes.
async fn send(app: &TestApp, method: &Method, path: &str, caller: &Caller, kind: Option<&str>, body: &[u8]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(credential) = &caller.credential {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", credential.expose_secret()));
    }
    if let Some(kind) = kind {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    answer(app, request.body(Body::from(body.to_vec())).unwrap()).await
}

async fn answer(app: &TestApp, request: Request<Body>) -> Answer {
    let (parts, body) = app.raw(request).await.into_parts();
    // A stream that was opened by mistake never ends: it must fail the test and not hang it.
    let stream = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let bytes = if stream { "a stream".into() } else { to_bytes(body, 1 << 20).await.unwrap() };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status: parts.status.as_u16(), headers: parts.headers, json, text }
}

/// Fails unless an operation's answer is an error as we promise them, with one of these statuses.
fn must_refuse(operation: &Operation, what: &str, answer: &Answer, statuses: &[u16]) {
    if !operation.is_for_models() {
        return must_be_problem(what, answer, statuses);
    }
    let text = &answer.text;
    assert!(statuses.contains(&answer.status), "{what}: {} and not one of {statuses:?}: {text}", answer.status);
    assert_eq!(answer.header("content-type"), "application/json", "{what}: {text}");
    for field in ["message", "type", "code"] {
        assert!(!answer.json["error"][field].as_str().unwrap_or_default().is_empty(), "{what}: no {field}: {text}");
    }
    assert!(!text.contains("panicked") && !text.contains(".rs:"), "{what}: {text}");
}

/// Fails unless the answer is a problem as we promise them, with one of these statuses.
fn must_be_problem(what: &str, answer: &Answer, statuses: &[u16]) {
    let text = &answer.text;
    assert!(statuses.contains(&answer.status), "{what}: {} and not one of {statuses:?}: {text}", answer.status);
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}: {} {text}", answer.status);
    let known = CODES.iter().find(|(code, ..)| *code == answer.code());
    let Some((_, status, _)) = known else { panic!("{what}: the code is not listed: {text}") };
    assert_eq!((*status, &answer.json["status"]), (answer.status, &json!(answer.status)), "{what}: {text}");
    let says = |field: &str| answer.json[field].as_str().unwrap_or_default().to_owned();
    assert!(!says("detail").is_empty() && !says("title").is_empty(), "{what}: {text}");
    assert!(!says("request_id").is_empty(), "{what}: without a request id: {text}");
    assert_eq!(says("request_id"), answer.header("x-request-id"), "{what}");
    assert!(!text.contains("panicked") && !text.contains(".rs:"), "{what}: {text}");
}

/// All that bad input could have changed.
async fn everything(app: &TestApp, admin: &Caller) -> Vec<Value> {
    let lists = [
        "/tenants",
        "/users",
        "/instances",
        "/audit-log",
        "/tenants/acme",
        "/tenants/acme/members",
        "/tenants/acme/invitations",
        "/tenants/acme/api-keys",
        "/tenants/acme/sessions",
        "/tenants/acme/webhooks",
        "/tenants/acme/blocklist",
        "/tenants/acme/exports",
        "/tenants/acme/usage",
        "/tenants/acme/audit-log",
        // With what attachments take.
        "/tenants/acme/limits",
        "/tenants/acme/instance",
    ];
    let bots = [json!(app.bots.asked().len()), json!(app.bots.said()), json!(app.bots.channels())];
    let mut all = [vec![json!(app.runtime.starts().len()), json!(app.files())], bots.into()].concat();
    for list in lists {
        all.push(app.get(admin, list).await.expect(200).json);
    }
    for session in
        app.get(admin, "/tenants/acme/sessions?limit=200").await.expect(200).json["items"].as_array().unwrap()
    {
        let path = format!("/tenants/acme/sessions/{}/messages", session["id"].as_str().unwrap());
        all.push(app.get(admin, &path).await.expect(200).json);
    }
    let tenant = app.get(admin, "/tenants/acme").await.expect(200).json["id"].clone();
    let tenant = TenantId::parse(tenant.as_str().unwrap()).unwrap();
    all.push(json!(app.store.events(&tenant).after(0, None, 1_000).await.unwrap()));
    all
}

/// Nothing was stored, nothing was started, and the platform answers.
async fn must_be_as_before(app: &TestApp, admin: &Caller, before: &[Value]) {
    assert_eq!(everything(app, admin).await, before);
    app.get(&Caller::nobody(), "//health").await.expect(200);
}

#[test]
fn every_operation_that_takes_json_is_in_the_table() {
    let here: BTreeSet<String> = bodies().iter().map(|(name, _)| (*name).to_owned()).collect();
    let described: BTreeSet<String> =
        operations().into_iter().filter(Operation::takes_json).map(|operation| operation.name).collect();
    let (missing, stale): (Vec<_>, Vec<_>) =
        (described.difference(&here).collect(), here.difference(&described).collect());
    assert!(missing.is_empty() && stale.is_empty(), "not in the table: {missing:#?}\nnot described: {stale:#?}");
}

/// What is not JSON, or is not said to be: the name, the content type, the bytes and the status.
fn broken_bodies(limit_bytes: usize) -> Vec<(&'static str, Option<&'static str>, Vec<u8>, u16)> {
    let deep = |open: &str| open.repeat(20_000).into_bytes();
    vec![
        ("nothing", Some(JSON), Vec::new(), 400),
        ("half of it", Some(JSON), b"{\"name\": \"x".to_vec(), 400),
        ("two of it", Some(JSON), b"{}{}".to_vec(), 400),
        ("single quotes", Some(JSON), b"{'name': 'x'}".to_vec(), 400),
        ("bytes that are no UTF-8", Some(JSON), b"{\"name\": \"\xff\xfe\"}".to_vec(), 400),
        ("a bare control character", Some(JSON), b"{\"name\": \"a\0b\"}".to_vec(), 400),
        ("half a surrogate pair", Some(JSON), b"{\"name\": \"\\ud800\"}".to_vec(), 400),
        ("a number that is none", Some(JSON), b"{\"name\": NaN}".to_vec(), 400),
        ("deep arrays", Some(JSON), deep("["), 400),
        ("deep objects", Some(JSON), deep("{\"a\":"), 400),
        ("a form", Some("application/x-www-form-urlencoded"), b"name=x".to_vec(), 415),
        ("text", Some("text/plain"), b"{}".to_vec(), 415),
        ("a type that cannot be", Some("/"), b"{}".to_vec(), 415),
        ("no type", None, b"{}".to_vec(), 415),
        ("too much of it", Some(JSON), format!("{{\"name\": \"{}\"}}", "x".repeat(limit_bytes)).into_bytes(), 413),
    ]
}

#[tokio::test]
async fn what_is_not_json_is_refused_by_every_operation() {
    let (app, tenant, admin) = world().await;
    let callers = Callers::of(&app, &tenant, &admin).await;
    let before = everything(&app, &admin).await;
    let limit_bytes = usize::try_from(app.app.config.gateway.max_body_bytes).unwrap();
    for operation in operations().iter().filter(|operation| operation.takes_json()) {
        for (name, kind, body, status) in broken_bodies(limit_bytes) {
            let path = operation.path(&tenant);
            let answer = send(&app, &operation.method, &path, callers.may(operation), kind, &body).await;
            // OpenAI does not ask what type a body is said to have, and takes larger ones: there the body itself is wrong.
            let statuses = if operation.is_for_models() && [413, 415].contains(&status) { [400] } else { [status] };
            must_refuse(operation, &format!("{}: {name}", operation.name), &answer, &statuses);
        }
    }
    must_be_as_before(&app, &admin, &before).await;
}

/// JSON that is not what an operation takes, made of what it takes.
fn wrong_bodies(right: &Value) -> Vec<(String, String)> {
    let mut wrong: Vec<(String, String)> =
        ["null", "7", "true", "\"x\""].map(|text| (text.to_owned(), text.to_owned())).into();
    let mut more = right.clone();
    more["no field of ours"] = json!(true);
    wrong.push(("an unknown field".to_owned(), more.to_string()));
    for (field, value) in right.as_object().unwrap() {
        for other in [json!(-1.5e300), json!([[]]), json!({"a": {"b": []}})] {
            // Objects are free where they are wanted.
            if other.is_object() && value.is_object() {
                continue;
            }
            let mut body = right.clone();
            body[field] = other.clone();
            wrong.push((format!("{field} is {other}"), body.to_string()));
        }
        let twice = format!("{{{field:?}: {value}, {}", right.to_string().trim_start_matches('{'));
        wrong.push((format!("{field} twice"), twice));
    }
    wrong
}

#[tokio::test]
async fn json_that_is_something_else_is_refused_by_every_operation() {
    let (app, tenant, admin) = world().await;
    let callers = Callers::of(&app, &tenant, &admin).await;
    let before = everything(&app, &admin).await;
    let bodies = bodies();
    for operation in operations() {
        let Some((_, right)) = bodies.iter().find(|(name, _)| *name == operation.name) else { continue };
        // Its fields are the bot's: what it makes of them is held to in other tests.
        if [ANY_OBJECT, CHAT].contains(&operation.name.as_str()) {
            continue;
        }
        let caller = callers.may(&operation);
        for (name, body) in wrong_bodies(right) {
            let path = operation.path(&tenant);
            let answer = send(&app, &operation.method, &path, caller, Some(JSON), body.as_bytes()).await;
            let what = format!("{}: {name}", operation.name);
            must_be_problem(&what, &answer, &[400]);
            assert_eq!(answer.code(), "invalid", "{what}: {}", answer.text);
            assert!(answer.json["field"].is_string(), "{what}: names no field: {}", answer.text);
        }
    }
    must_be_as_before(&app, &admin, &before).await;
}

/// Every text field in turn is set to what no text of ours may be, in requests about things that are there.
#[tokio::test]
async fn texts_that_are_none_are_refused_and_never_stored() {
    let (app, tenant, admin) = world().await;
    let callers = Callers::of(&app, &tenant, &admin).await;
    let things = things(&app, &admin).await;
    let here: Vec<(&str, &str)> = things.iter().map(|(name, id)| (*name, id.as_str())).collect();
    let before = everything(&app, &admin).await;
    let bodies = bodies();
    let mut tried = 0;
    for operation in operations() {
        let Some((_, right)) = bodies.iter().find(|(name, _)| *name == operation.name) else { continue };
        // Their fields are others'; and what people write to bots is stored as far as it can be, whatever it is.
        if [ANY_OBJECT, CHAT].contains(&operation.name.as_str()) || operation.is_for_bots() {
            continue;
        }
        let texts = right.as_object().unwrap().iter().filter(|(_, value)| value.is_string()).map(|(field, _)| field);
        for field in texts {
            let long = "x".repeat(50_000);
            for bad in ["\0", "a\0b", "\u{1b}[2J", "\r\nSet-Cookie: a=b", "\u{202e}evil", "", &long] {
                let is_odd = bad.chars().any(|character| character == '\u{202e}' || character.is_control());
                if is_free(&operation, field) && is_odd && !bad.contains('\0') {
                    continue;
                }
                if field.ends_with("password") && is_odd {
                    continue;
                }
                // Who takes a description away writes none.
                if field == "description" && bad.is_empty() {
                    continue;
                }
                let mut body = right.clone();
                body[field] = json!(bad);
                let path = operation.path_with(&tenant, &here);
                let caller = callers.may(&operation);
                let answer =
                    send(&app, &operation.method, &path, caller, Some(JSON), body.to_string().as_bytes()).await;
                let short: String = bad.chars().take(20).collect();
                let statuses = [&[400], also_refused_with(&operation)].concat();
                must_be_problem(&format!("{}: {field} is {short:?}", operation.name), &answer, &statuses);
                tried += 1;
            }
        }
    }
    assert!(tried > 150, "only {tried} texts were tried");
    let session = here.iter().find(|(name, _)| *name == "session").unwrap().1;
    for metadata in [json!({"a": "x".repeat(5_000)}), json!([]), json!("a"), json!(7)] {
        let body = json!({"metadata": metadata});
        let answer = app.patch(&admin, &format!("/tenants/acme/sessions/{session}"), body).await;
        must_be_problem("metadata", &answer, &[400]);
    }
    must_be_as_before(&app, &admin, &before).await;
}

/// What each parameter of a query may not be, but for those of all lists.
fn bad_values() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let moments = vec!["tomorrow", "", "%00", "2026-13-01", "9999999999999", "2026-11-01&NAME=2026-11-02"];
    let sessions = "GET /api/v1/tenants/{tenant}/sessions";
    let places = vec!["7", "-1", "evt_x", "%00", "msg_00000000000000000000000000000000", "0&NAME=0"];
    let waits = vec!["-1", "301", "soon", "", "1&NAME=2", "99999999999999999999"];
    vec![
        ("GET /api/v1/tenants/{tenant}/events", "after", places.clone()),
        ("GET /api/v1/tenants/{tenant}/events", "follow", vec!["perhaps", "", "%00", "true&NAME=false"]),
        ("GET /api/v1/tenants/{tenant}/instance/logs", "follow", vec!["perhaps", "", "1", "true&NAME=false"]),
        ("GET /api/v1/tenants/{tenant}/instance/logs", "lines", vec!["-1", "x", "", "1.5", "99999999999999999999"]),
        ("GET /api/v1/tenants/{tenant}/messages", "q", vec!["", "%3F", "a&NAME=b"]),
        (sessions, "end_user", vec!["a&NAME=b"]),
        ("GET /api/v1/tenants/{tenant}/sessions/{session}/events", "after", places),
        ("GET /api/v1/tenants/{tenant}/sessions/{session}/events", "follow", vec!["perhaps", "", "true&NAME=false"]),
        ("POST /api/v1/tenants/{tenant}/sessions/{session}/messages", "wait", waits),
        ("GET /api/v1/tenants/{tenant}/usage", "from", moments.clone()),
        ("GET /api/v1/tenants/{tenant}/usage", "to", moments.clone()),
        ("GET /api/v1/tenants/{tenant}/usage/export", "from", moments.clone()),
        ("GET /api/v1/tenants/{tenant}/usage/export", "to", moments),
        ("GET /api/v1/tenants/{tenant}/usage/export", "format", vec!["xlsx", "", "CSV", "csv&NAME=json", "%00"]),
        (
            "GET /api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries",
            "state",
            vec!["lost", "", "PENDING", "%00", "failed&NAME=pending"],
        ),
    ]
}

#[tokio::test]
async fn parameters_of_a_query_that_cannot_be_are_refused_by_every_operation() {
    let (app, tenant, admin) = world().await;
    let things = things(&app, &admin).await;
    let here: Vec<(&str, &str)> = things.iter().map(|(name, id)| (*name, id.as_str())).collect();
    let before = everything(&app, &admin).await;
    let (bodies, table) = (bodies(), bad_values());
    let mut walked = 0;
    for operation in operations() {
        for name in operation.parameters("query") {
            if ["limit", "cursor"].contains(&name.as_str()) {
                continue;
            }
            let row = table.iter().find(|(known, parameter, _)| *known == operation.name && *parameter == name);
            let Some((.., values)) = row else { panic!("{}: no bad values for {name}", operation.name) };
            walked += 1;
            let right = bodies.iter().find(|(known, _)| *known == operation.name).map(|(_, body)| body.to_string());
            for value in values {
                let query = value.replace("NAME", &name);
                let path = format!("{}?{name}={query}", operation.path_with(&tenant, &here));
                let kind = right.as_ref().map(|_| JSON);
                let body = right.clone().unwrap_or_default();
                let answer = send(&app, &operation.method, &path, &admin, kind, body.as_bytes()).await;
                must_be_problem(&format!("{} ?{name}={query}", operation.name), &answer, &[400]);
            }
        }
    }
    assert_eq!(walked, table.len(), "a row names no parameter");
    // Any text may be somebody's name: there is nobody of this one.
    for name in ["%00", "%F0%9F%92%A9", &"x".repeat(5_000)] {
        let found = app.get(&admin, &format!("/tenants/acme/sessions?end_user={name}")).await;
        assert!(found.status == 400 || found.json["items"] == json!([]), "{name}: {}", found.text);
    }
    must_be_as_before(&app, &admin, &before).await;
}

#[tokio::test]
async fn paths_that_lead_elsewhere_lead_nowhere() {
    let (app, tenant, admin) = world().await;
    let before = everything(&app, &admin).await;
    let (long, late) = ("a".repeat(5_000), format!("acme{}", "%20".repeat(500)));
    let tricks = [
        "..",
        "%2e%2e",
        "..%2f..%2fusers",
        "..%5c..",
        "%2fetc%2fpasswd",
        "%00",
        "acme%00",
        "%ff%fe",
        "%0d%0aX:%20y",
        "*",
        "'%20OR%20'1'='1",
        "%3Bdrop%20table",
        "ten_",
        "ses_zz",
        "usr_..%2f",
        "$%7Bjndi%7D",
        "null",
        "-1",
        "ACME",
        "acme.",
        &long,
        &late,
    ];
    for operation in operations() {
        for name in operation.parameters("path") {
            // Most of them may be somebody's name.
            if name == "end_user" {
                continue;
            }
            for trick in tricks {
                let path = operation.path_with(&tenant, &[(&name, trick)]);
                let bodies = bodies();
                let right = bodies.iter().find(|(known, _)| *known == operation.name).map(|(_, body)| body.to_string());
                let kind = right.as_ref().map(|_| JSON);
                let body = right.unwrap_or_default();
                let answer = send(&app, &operation.method, &path, &admin, kind, body.as_bytes()).await;
                let what = format!("{} with {name} = {}", operation.name, &trick[..trick.len().min(40)]);
                // A bot that is not ready is asked about no channel; a form is asked for before what is in it.
                must_be_problem(&what, &answer, &[400, 404, 409, 415]);
            }
        }
    }
    for path in ["/", "/api", "/api/v1", "/api/v1/", "/api/v1/tenants/", "/api/v1//tenants", "/api/v2/tenants", "/.env"]
    {
        let answer = send(&app, &Method::POST, path, &admin, None, b"").await;
        must_be_problem(path, &answer, &[404, 405]);
    }
    must_be_as_before(&app, &admin, &before).await;
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_said_so() {
    let (app, tenant, admin) = world().await;
    let all = operations();
    // Whatever IM platforms send to their webhooks is the bot's to answer, and other methods lead nowhere; OpenAI has no
    // words for them.
    let is_ours = |operation: &&Operation| !operation.template.starts_with("/hooks/") && !operation.is_for_models();
    for operation in all.iter().filter(is_ours) {
        let here =
            |method: &Method| all.iter().any(|other| other.template == operation.template && other.method == *method);
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::TRACE] {
            if here(&method) {
                continue;
            }
            let answer = send(&app, &method, &operation.path(&tenant), &admin, None, b"").await;
            must_be_problem(&format!("{method} {}", operation.template), &answer, &[405]);
            assert!(!answer.header("allow").is_empty(), "{method} {} names no other method", operation.template);
        }
    }
}

#[tokio::test]
async fn pages_that_cannot_be_are_refused_by_every_list() {
    let (app, tenant, admin) = world().await;
    let mut lists = 0;
    for operation in operations() {
        let parameters = operation.parameters("query");
        if !parameters.iter().any(|name| name == "limit") {
            continue;
        }
        lists += 1;
        let long = "x".repeat(65);
        let limits = ["0", "201", "-1", "1.5", "many", "", "99999999999999999999", "0x10", "%00"];
        let cursors = ["", "..%2f", "%00", "a%20b", "'--", long.as_str()];
        let queries = limits.iter().map(|limit| format!("limit={limit}"));
        let queries = queries.chain(cursors.iter().map(|cursor| format!("cursor={cursor}")));
        let words = if parameters.iter().any(|name| name == "q") { "&q=word" } else { "" };
        for query in queries.chain(["limit=1&limit=2".to_owned(), "cursor=a&cursor=b".to_owned()]) {
            let path = format!("{}?{query}{words}", operation.path(&tenant));
            let answer = send(&app, &operation.method, &path, &admin, None, b"").await;
            must_be_problem(&format!("{} ?{query}", operation.name), &answer, &[400]);
        }
        // One that could be ours and names nothing that is there is a page all the same; audit entries are numbered.
        let cursor =
            if operation.name.ends_with("/audit-log") { "9".repeat(9) } else { format!("ses_{}", "0".repeat(32)) };
        let path = format!("{}?cursor={cursor}&limit=200{words}", operation.path(&tenant));
        let answer = send(&app, &operation.method, &path, &admin, None, b"").await;
        assert!([200, 404].contains(&answer.status), "{}: {}", operation.name, answer.text);
    }
    assert!(lists >= 8, "only {lists} lists were found");
}

#[tokio::test]
async fn keys_that_cannot_be_are_refused() {
    let (app, _, admin) = world().await;
    let session = app.get(&admin, "/tenants/acme/sessions").await.expect(200).json["items"][0]["id"].clone();
    let messages = format!("/api/v1/tenants/acme/sessions/{}/messages", session.as_str().unwrap());
    for key in ["", " ", &"k".repeat(300), "schlüssel"] {
        let headers = [("idempotency-key", key)];
        let body = json!({"end_user": "eve"});
        let answer = app.send(Method::POST, &admin, "/tenants/acme/sessions", Some(body), &headers).await;
        must_be_problem(&format!("a key {key:?}"), &answer, &[400]);
        let path = messages.trim_start_matches("/api/v1");
        let answer = app.send(Method::POST, &admin, path, Some(json!({"text": "hello"})), &headers).await;
        must_be_problem(&format!("a message's key {key:?}"), &answer, &[400]);
    }
    assert_eq!(app.get(&admin, messages.trim_start_matches("/api/v1")).await.expect(200).json["items"], json!([]));
    let sessions = app.get(&admin, "/tenants/acme/sessions").await.expect(200);
    assert_eq!(sessions.json["items"].as_array().unwrap().len(), 1);
}

/// Credentials that are none, made of one that is.
async fn bad_credentials(app: &TestApp, tenant: &Tenant) -> Vec<(&'static str, String)> {
    let other = TestApp::configured(|config| config.auth.jwt_secret = "another secret of 32 characters or more".into());
    let foreign = other.await.admin().await.credential.unwrap().expose_secret().to_owned();
    let good = app.admin().await.credential.unwrap().expose_secret().to_owned();
    let parts: Vec<&str> = good.split('.').collect();
    let [head, claims, signature] = parts[..] else { panic!("not a token: {good}") };
    let decoded: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
    let header_with = |alg: &str| {
        let mut header = decoded.clone();
        header["alg"] = json!(alg);
        URL_SAFE_NO_PAD.encode(header.to_string())
    };
    let mut text: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    text["exp"] = json!(i64::MAX);
    let longer = URL_SAFE_NO_PAD.encode(text.to_string());
    let viewer = app.member(tenant, Role::Viewer).await.credential.unwrap().expose_secret().to_owned();
    let viewers_signature = viewer.rsplit('.').next().unwrap().to_owned();
    vec![
        ("signed by another platform", foreign),
        ("of the algorithm none", format!("{}.{claims}.", header_with("none"))),
        ("of the algorithm none, signed", format!("{}.{claims}.{signature}", header_with("None"))),
        ("of HS256", format!("{}.{claims}.{signature}", header_with("HS256"))),
        ("of RS256", format!("{}.{claims}.{signature}", header_with("RS256"))),
        ("without a signature", format!("{head}.{claims}.")),
        ("without an end", format!("{head}.{longer}.{signature}")),
        ("with another's signature", format!("{head}.{claims}.{viewers_signature}")),
        ("with more at its end", format!("{good}.{signature}")),
        ("of an API key that is none", format!("astr_{}", "A".repeat(43))),
        ("of a refresh token that is none", format!("afr_{}", "A".repeat(43))),
        ("far too long", "x".repeat(20_000)),
    ]
}

#[tokio::test]
async fn a_credential_that_is_none_opens_nothing() {
    let (app, tenant, admin) = world().await;
    let mut bad = bad_credentials(&app, &tenant).await;
    // Refresh tokens open nothing but the next login, and access tokens end.
    app.user("ada@example.com", false).await;
    let login = json!({"email": "ada@example.com", "password": PASSWORD});
    let login = app.post(&Caller::nobody(), "/auth/login", login).await.expect(200);
    bad.push(("of a refresh token", login.json["refresh_token"].as_str().unwrap().to_owned()));
    bad.push(("that has expired", login.json["access_token"].as_str().unwrap().to_owned()));
    app.advance(Duration::from_mins(16));
    let admin = app.log_in(admin.user.unwrap()).await;
    let before = everything(&app, &admin).await;
    let bodies = bodies();
    let mut tried = 0;
    for operation in operations().iter().filter(|operation| operation.takes_credential()) {
        let right = bodies.iter().find(|(name, _)| *name == operation.name).map(|(_, body)| body.to_string());
        let body = right.unwrap_or_else(|| "{}".to_owned());
        for (name, credential) in &bad {
            let path = operation.path(&tenant);
            let caller = Caller::with(credential);
            let answer = send(&app, &operation.method, &path, &caller, Some(JSON), body.as_bytes()).await;
            let what = format!("{} with a token {name}", operation.name);
            must_refuse(operation, &what, &answer, &[401]);
            // OpenAI's answers have no such header.
            let asked_for = if operation.is_for_models() { "" } else { "Bearer" };
            assert_eq!(answer.header("www-authenticate"), asked_for, "{what}");
            assert!(!answer.text.contains(credential.as_str()), "{what}: the answer tells the credential");
            tried += 1;
        }
    }
    assert!(tried > 400, "only {tried} were tried");
    must_be_as_before(&app, &admin, &before).await;
}

#[tokio::test]
async fn other_ways_to_say_who_one_is_are_refused() {
    let (app, _, admin) = world().await;
    let token = admin.credential.unwrap().expose_secret().to_owned();
    let basic = format!("Basic {}", URL_SAFE_NO_PAD.encode("root@example.com:correct horse battery staple"));
    let headers = [
        basic,
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer{token}"),
        token.clone(),
        format!("Token {token}"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer \"{token}\""),
    ];
    for value in headers {
        let request = Request::get("/api/v1/auth/me").header(header::AUTHORIZATION, &value).body(Body::empty());
        let answer = answer(&app, request.unwrap()).await;
        must_be_problem(&value[..value.len().min(20)], &answer, &[401]);
    }
    for address in [format!("/api/v1/auth/me?access_token={token}"), format!("/api/v1/auth/me?token={token}")] {
        let answer = answer(&app, Request::get(address).body(Body::empty()).unwrap()).await;
        must_be_problem("a token in the address", &answer, &[401]);
    }
}

#[tokio::test]
async fn an_address_is_taken_once_in_any_case_however_many_ask_at_once() {
    let (app, _, admin) = world().await;
    let spellings = ["eve@example.com", "Eve@Example.com", "EVE@EXAMPLE.COM", " eve@example.com "];
    let users = join_all(spellings.iter().chain(&spellings).map(|email| {
        let body = json!({"email": email, "password": PASSWORD, "display_name": "Eve"});
        app.post(&admin, "/users", body)
    }))
    .await;
    must_be_made_once("users", &users);

    let tenants = join_all(spellings.iter().enumerate().map(|(number, email)| {
        app.post(&admin, "/tenants", json!({"name": format!("tenant-{number}"), "email": email}))
    }))
    .await;
    must_be_made_once("tenants by address", &tenants);

    let named = join_all((0..6).map(|number| {
        app.post(&admin, "/tenants", json!({"name": "initech", "email": format!("{number}@initech.example")}))
    }))
    .await;
    must_be_made_once("tenants by name", &named);
    // acme, the one of Eve and initech, each with its one bot.
    for list in ["/tenants", "/instances"] {
        let list = app.get(&admin, list).await.expect(200);
        assert_eq!(list.json["items"].as_array().unwrap().len(), 3, "{}", list.text);
    }
}

fn must_be_made_once(what: &str, answers: &[Answer]) {
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(made, 1, "{what}: {statuses:?}");
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        must_be_problem(what, refused, &[409]);
    }
}

#[tokio::test]
async fn forms_that_cannot_be_read_leave_no_file() {
    let (app, _, admin) = world().await;
    let before = everything(&app, &admin).await;
    let part = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nhello";
    let other = part.replace("name=\"file\"", "name=\"other\"");
    let forms = [
        ("no form", Some("text/plain"), "hello".to_owned(), 415),
        ("no type", None, "hello".to_owned(), 415),
        ("no boundary", Some("multipart/form-data"), format!("{part}\r\n--b--\r\n"), 415),
        ("another boundary", Some("multipart/form-data; boundary=c"), format!("{part}\r\n--b--\r\n"), 400),
        ("no end", Some("multipart/form-data; boundary=b"), part.to_owned(), 400),
        ("no file", Some("multipart/form-data; boundary=b"), format!("{other}\r\n--b--\r\n"), 400),
        ("nothing", Some("multipart/form-data; boundary=b"), String::new(), 400),
        ("half of a long one", Some("multipart/form-data; boundary=b"), format!("{part}{}", "x".repeat(50_000)), 400),
        (
            "too long a one",
            Some("multipart/form-data; boundary=b"),
            format!("{part}{}\r\n--b--\r\n", "x".repeat(100_001)),
            413,
        ),
    ];
    for (name, kind, form, status) in forms {
        let path = "/api/v1/tenants/acme/attachments";
        let answer = send(&app, &Method::POST, path, &admin, kind, form.as_bytes()).await;
        must_be_problem(name, &answer, &[status]);
    }
    assert_eq!(app.files(), []);
    must_be_as_before(&app, &admin, &before).await;
    // A file is seen where there is one: what is looked at is the right place.
    let form = format!("{part}\r\n--b--\r\n");
    let kind = Some("multipart/form-data; boundary=b");
    send(&app, &Method::POST, "/api/v1/tenants/acme/attachments", &admin, kind, form.as_bytes()).await.expect(201);
    assert_ne!(everything(&app, &admin).await, before);
}

#[tokio::test]
async fn streams_refuse_before_they_begin() {
    let (app, tenant, _) = world().await;
    let streams: Vec<Operation> = operations().into_iter().filter(Operation::is_stream_only).collect();
    assert!(!streams.is_empty(), "no stream was found in the description");
    for operation in streams {
        let answer = send(&app, &operation.method, &operation.path(&tenant), &Caller::nobody(), None, b"").await;
        must_be_problem(&operation.name, &answer, &[401]);
    }
}
