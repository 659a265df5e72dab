//! A platform, who may call it, and what must be true of its answers.

use astrfleet_core::{id::TenantId, policy::Role, ports::Store, tenant::Tenant};
use astrfleet_server::problem::CODES;
use astrfleet_testkit::app::{Answer, Caller, TestApp};
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, header},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::operation::Operation;

/// A platform where every caller may call everything as often as it takes, with somebody in it.
pub async fn world() -> (TestApp, Tenant, Caller) {
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
pub struct Callers {
    pub admin: Caller,
    pub bridge: Caller,
    pub models: Caller,
}

impl Callers {
    pub async fn of(app: &TestApp, tenant: &Tenant, admin: &Caller) -> Self {
        let instance = app.instance(tenant).await;
        let bridge = app.app.secrets.bridge_token(&instance.id, instance.secrets_version).unwrap();
        let models = app.app.secrets.llm_key(&instance.id, instance.secrets_version).unwrap();
        let bot = |credential| Caller { user: None, credential: Some(credential) };
        Self { admin: admin.clone(), bridge: bot(bridge), models: bot(models) }
    }

    pub fn may(&self, operation: &Operation) -> &Caller {
        match operation {
            operation if operation.is_for_bots() => &self.bridge,
            operation if operation.is_for_models() => &self.models,
            _ => &self.admin,
        }
    }
}

/// Things that paths can name, all there.
pub async fn things(app: &TestApp, admin: &Caller) -> Vec<(&'static str, String)> {
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
pub async fn send(
    app: &TestApp,
    method: &Method,
    path: &str,
    caller: &Caller,
    kind: Option<&str>,
    body: &[u8],
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(credential) = &caller.credential {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", credential.expose_secret()));
    }
    if let Some(kind) = kind {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    answer(app, request.body(Body::from(body.to_vec())).unwrap()).await
}

pub async fn answer(app: &TestApp, request: Request<Body>) -> Answer {
    let (parts, body) = app.raw(request).await.into_parts();
    // A stream that was opened by mistake never ends: it must fail the test and not hang it.
    let stream = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    let bytes = if stream { "a stream".into() } else { to_bytes(body, 1 << 20).await.unwrap() };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let json = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status: parts.status.as_u16(), headers: parts.headers, json, text }
}

/// Fails unless an operation's answer is an error as we promise them, with one of these statuses.
pub fn must_refuse(operation: &Operation, what: &str, answer: &Answer, statuses: &[u16]) {
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
pub fn must_be_problem(what: &str, answer: &Answer, statuses: &[u16]) {
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
pub async fn everything(app: &TestApp, admin: &Caller) -> Vec<Value> {
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
pub async fn must_be_as_before(app: &TestApp, admin: &Caller, before: &[Value]) {
    assert_eq!(everything(app, admin).await, before);
    app.get(&Caller::nobody(), "//health").await.expect(200);
}
