//! Every operation of the API refuses the wrong caller. The API description is walked: an operation without a row in
//! the table fails the test, and so does a row without an operation.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use astrfleet_core::{api_key::Scope, policy, policy::Role, tenant::Tenant};
use astrfleet_server::{
    app::description,
    config::AuthConfig,
    internal::{self, Identity, Signer},
};
use astrfleet_testkit::app::{Caller, TestApp};
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, header},
};
use secrecy::ExposeSecret;
use utoipa::openapi::OpenApi;

/// Whom an operation is for.
#[derive(Clone, Copy, Debug)]
enum For {
    /// Everybody, for this reason.
    Anyone(&'static str),
    /// Whoever has proven who they are.
    Authenticated,
    /// A person who has logged in: no API key.
    Person,
    /// Platform administrators.
    Platform,
    /// Members of the tenant from this role on, and API keys with this scope.
    Members(Role, Option<Scope>),
    /// A bot with its virtual key, or with the token of its bridge.
    Bot,
}

const CHAT: For = For::Members(Role::Agent, Some(Scope::Chat));
const AGENT: For = For::Members(Role::Agent, None);
const ADMIN: For = For::Members(Role::Admin, None);
const OWNER: For = For::Members(Role::Owner, None);
const INSTANCE_READ: For = For::Members(Role::Viewer, Some(Scope::Instance));
const INSTANCE_WRITE: For = For::Members(Role::Admin, Some(Scope::Instance));

/// The table.
const TABLE: &[(&str, For)] = &[
    ("GET /health", For::Anyone("asked by whatever keeps the process alive")),
    ("GET /ready", For::Anyone("asked by load balancers")),
    ("GET /.well-known/jwks.json", For::Anyone("public keys")),
    ("POST /api/v1/auth/login", For::Anyone("proves who somebody is")),
    ("POST /api/v1/auth/refresh", For::Anyone("the refresh token proves who somebody is")),
    ("POST /api/v1/invitations/accept", For::Anyone("the invitation's token proves who is meant")),
    ("GET /hooks/{tenant}/{webhook}", For::Anyone("an IM platform proves itself to the bot, by its own signature")),
    ("POST /hooks/{tenant}/{webhook}", For::Anyone("an IM platform proves itself to the bot, by its own signature")),
    ("POST /api/v1/auth/logout", For::Person),
    ("PUT /api/v1/auth/password", For::Person),
    ("GET /api/v1/auth/me", For::Authenticated),
    ("GET /api/v1/audit-log", For::Platform),
    ("GET /api/v1/users", For::Platform),
    ("POST /api/v1/users", For::Platform),
    ("PATCH /api/v1/users/{user}", For::Platform),
    ("GET /api/v1/tenants", For::Platform),
    ("POST /api/v1/tenants", For::Platform),
    ("GET /api/v1/tenants/{tenant}", OWNER),
    ("PATCH /api/v1/tenants/{tenant}", OWNER),
    ("DELETE /api/v1/tenants/{tenant}", For::Platform),
    ("POST /api/v1/tenants/{tenant}/suspend", For::Platform),
    ("POST /api/v1/tenants/{tenant}/resume", For::Platform),
    ("GET /api/v1/tenants/{tenant}/members", ADMIN),
    ("PUT /api/v1/tenants/{tenant}/members/{user}", ADMIN),
    ("DELETE /api/v1/tenants/{tenant}/members/{user}", ADMIN),
    ("GET /api/v1/tenants/{tenant}/invitations", ADMIN),
    ("POST /api/v1/tenants/{tenant}/invitations", ADMIN),
    ("DELETE /api/v1/tenants/{tenant}/invitations/{invitation}", ADMIN),
    ("GET /api/v1/tenants/{tenant}/api-keys", ADMIN),
    ("POST /api/v1/tenants/{tenant}/api-keys", ADMIN),
    ("GET /api/v1/tenants/{tenant}/api-keys/{key}", ADMIN),
    ("DELETE /api/v1/tenants/{tenant}/api-keys/{key}", ADMIN),
    ("GET /api/v1/tenants/{tenant}/audit-log", ADMIN),
    ("GET /api/v1/tenants/{tenant}/usage", ADMIN),
    ("GET /api/v1/tenants/{tenant}/usage/export", ADMIN),
    ("GET /api/v1/tenants/{tenant}/limits", ADMIN),
    ("GET /api/v1/tenants/{tenant}/instance", INSTANCE_READ),
    ("GET /api/v1/tenants/{tenant}/instance/events", INSTANCE_READ),
    ("GET /api/v1/tenants/{tenant}/instance/logs", INSTANCE_READ),
    ("GET /api/v1/tenants/{tenant}/instance/config", INSTANCE_READ),
    ("PATCH /api/v1/tenants/{tenant}/instance/config", INSTANCE_WRITE),
    ("POST /api/v1/tenants/{tenant}/instance/start", INSTANCE_WRITE),
    ("POST /api/v1/tenants/{tenant}/instance/stop", INSTANCE_WRITE),
    ("POST /api/v1/tenants/{tenant}/instance/restart", INSTANCE_WRITE),
    ("POST /api/v1/tenants/{tenant}/instance/open", ADMIN),
    ("GET /api/v1/tenants/{tenant}/channels", ADMIN),
    ("POST /api/v1/tenants/{tenant}/channels", ADMIN),
    ("GET /api/v1/tenants/{tenant}/channels/{channel}", ADMIN),
    ("PATCH /api/v1/tenants/{tenant}/channels/{channel}", ADMIN),
    ("DELETE /api/v1/tenants/{tenant}/channels/{channel}", ADMIN),
    ("POST /api/v1/tenants/{tenant}/channels/{channel}/test", ADMIN),
    ("GET /api/v1/tenants/{tenant}/sessions", CHAT),
    ("POST /api/v1/tenants/{tenant}/sessions", CHAT),
    ("GET /api/v1/tenants/{tenant}/sessions/{session}", CHAT),
    ("PATCH /api/v1/tenants/{tenant}/sessions/{session}", CHAT),
    ("POST /api/v1/tenants/{tenant}/sessions/{session}/close", CHAT),
    ("POST /api/v1/tenants/{tenant}/sessions/{session}/take-over", CHAT),
    ("POST /api/v1/tenants/{tenant}/sessions/{session}/hand-back", CHAT),
    ("GET /api/v1/tenants/{tenant}/sessions/{session}/messages", CHAT),
    ("POST /api/v1/tenants/{tenant}/sessions/{session}/messages", CHAT),
    ("GET /api/v1/tenants/{tenant}/sessions/{session}/messages/{message}", CHAT),
    ("POST /api/v1/tenants/{tenant}/sessions/{session}/messages/{message}/stop", CHAT),
    ("GET /api/v1/tenants/{tenant}/webhooks", ADMIN),
    ("POST /api/v1/tenants/{tenant}/webhooks", ADMIN),
    ("GET /api/v1/tenants/{tenant}/webhooks/{webhook}", ADMIN),
    ("PATCH /api/v1/tenants/{tenant}/webhooks/{webhook}", ADMIN),
    ("DELETE /api/v1/tenants/{tenant}/webhooks/{webhook}", ADMIN),
    ("POST /api/v1/tenants/{tenant}/webhooks/{webhook}/rotate-secret", ADMIN),
    ("GET /api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries", ADMIN),
    ("GET /api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}", ADMIN),
    ("POST /api/v1/tenants/{tenant}/webhooks/{webhook}/deliveries/{delivery}/replay", ADMIN),
    ("GET /api/v1/tenants/{tenant}/events", CHAT),
    ("GET /api/v1/tenants/{tenant}/sessions/{session}/events", CHAT),
    ("POST /api/v1/tenants/{tenant}/attachments", CHAT),
    ("GET /api/v1/tenants/{tenant}/attachments/{attachment}", CHAT),
    ("GET /api/v1/tenants/{tenant}/messages", CHAT),
    ("GET /api/v1/tenants/{tenant}/exports", OWNER),
    ("POST /api/v1/tenants/{tenant}/exports", OWNER),
    ("GET /api/v1/tenants/{tenant}/exports/{export}", OWNER),
    ("DELETE /api/v1/tenants/{tenant}/exports/{export}", OWNER),
    ("GET /api/v1/tenants/{tenant}/exports/{export}/archive", OWNER),
    ("POST /api/v1/tenants/{tenant}/end-users/{end_user}/erase", ADMIN),
    ("GET /api/v1/tenants/{tenant}/erasure", For::Platform),
    ("GET /api/v1/tenants/{tenant}/blocklist", AGENT),
    ("POST /api/v1/tenants/{tenant}/blocklist", AGENT),
    ("DELETE /api/v1/tenants/{tenant}/blocklist/{block}", AGENT),
    ("GET /api/v1/instances", For::Platform),
    ("GET /api/v1/instances/events", For::Platform),
    ("POST /llm/v1/chat/completions", For::Bot),
    ("GET /llm/v1/models", For::Bot),
    ("POST /bridge/v1/inbound", For::Bot),
    ("POST /bridge/v1/outbound", For::Bot),
    ("POST /bridge/v1/sent", For::Bot),
];

/// Operations that only other processes of the platform may call. They are in no description that is handed out.
const INTERNAL: &[&str] = &[
    "GET /internal/v1/replica",
    "GET /internal/v1/live/{tenant}/{message}",
    "POST /internal/v1/live/{tenant}/{message}/stop",
    "GET /internal/v1/tenants/{tenant}/process",
];

/// All operations of a description, as `METHOD path`.
fn operations(document: &OpenApi) -> BTreeSet<String> {
    let document = serde_json::to_value(document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = ["get", "put", "post", "delete", "patch", "head", "options", "trace"];
    paths
        .iter()
        .flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.keys()
                .filter(|key| methods.contains(&key.as_str()))
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect()
}

/// The table and the description name the same operations.
#[test]
fn every_operation_has_a_row() {
    let rows: BTreeSet<String> = TABLE.iter().map(|(operation, _)| (*operation).to_owned()).collect();
    let operations = operations(&description());
    assert_eq!(rows.len(), TABLE.len(), "a row stands twice");
    let missing: Vec<_> = operations.difference(&rows).collect();
    let stale: Vec<_> = rows.difference(&operations).collect();
    assert!(missing.is_empty() && stale.is_empty(), "without a row: {missing:#?}\nwithout an operation: {stale:#?}");
}

/// What is internal has its row, and is described to nobody.
#[test]
fn every_internal_operation_has_a_row() {
    let rows: BTreeSet<String> = INTERNAL.iter().map(|operation| (*operation).to_owned()).collect();
    assert_eq!(rows, operations(&internal::description()));
    assert!(rows.iter().all(|row| row.contains(" /internal/v1/")), "an internal route stands elsewhere: {rows:?}");
    assert!(operations(&description()).iter().all(|operation| !operation.contains("/internal")));
}

/// Everybody who may call.
struct People {
    nobody: Caller,
    forged: Caller,
    admin: Caller,
    /// The owner of another tenant.
    neighbour: Caller,
    neighbours_key: Caller,
    roles: Vec<(Role, Caller)>,
    keys: Vec<(Scope, Caller)>,
}

impl People {
    async fn of(app: &TestApp, tenant: &Tenant, other: &Tenant) -> Self {
        let mut roles = Vec::new();
        for role in [Role::Viewer, Role::Agent, Role::Admin, Role::Owner] {
            roles.push((role, app.member(tenant, role).await));
        }
        let mut keys = Vec::new();
        for scope in [Scope::Chat, Scope::Instance] {
            keys.push((scope, app.api_key(tenant, &[scope]).await));
        }
        Self {
            nobody: Caller::nobody(),
            forged: Caller::with("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c3JfMCIsImFkbSI6dHJ1ZX0."),
            admin: app.admin().await,
            neighbour: app.member(other, Role::Owner).await,
            neighbours_key: app.api_key(other, &[Scope::Chat, Scope::Instance]).await,
            roles,
            keys,
        }
    }
}

impl People {
    /// New logins for all: the operation before may have ended some.
    async fn log_in(&mut self, app: &TestApp) {
        let people =
            [&mut self.admin, &mut self.neighbour].into_iter().chain(self.roles.iter_mut().map(|(_, member)| member));
        for person in people {
            *person = app.log_in(person.user.clone().unwrap()).await;
        }
    }
}

/// Sends an operation and gives the status and the code of the problem. A stream is not read.
async fn call(app: &TestApp, operation: &str, tenant: &Tenant, caller: &Caller) -> (u16, String) {
    let (method, template) = operation.split_once(' ').unwrap();
    let zeros = "0".repeat(32);
    let path = template
        .replace("{tenant}", &tenant.name)
        .replace("{session}", &format!("ses_{zeros}"))
        .replace("{message}", &format!("msg_{zeros}"))
        .replace("{attachment}", &format!("att_{zeros}"))
        .replace("{user}", &format!("usr_{zeros}"))
        .replace("{key}", &format!("key_{zeros}"))
        .replace("{webhook}", &format!("whk_{zeros}"))
        .replace("{delivery}", &format!("dlv_{zeros}"))
        .replace("{invitation}", &format!("inv_{zeros}"))
        .replace("{export}", &format!("exp_{zeros}"))
        .replace("{end_user}", "nobody")
        .replace("{block}", &format!("blk_{zeros}"))
        .replace("{channel}", "none");
    assert!(!path.contains('{'), "{operation}: a parameter that this test does not know");
    let method: Method = method.parse().unwrap();
    let mut request = Request::builder().method(&method).uri(&path);
    if let Some(credential) = &caller.credential {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", credential.expose_secret()));
    }
    // A body that no operation accepts: whoever is allowed gets no further than to its fields.
    let request = if method == Method::GET || method == Method::DELETE {
        request.body(Body::empty())
    } else {
        request = request.header(header::CONTENT_TYPE, "application/json");
        request.body(Body::from(r#"{"no field of ours": true}"#))
    };
    let response = app.raw(request.unwrap()).await;
    let status = response.status().as_u16();
    if status < 400 {
        return (status, String::new());
    }
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let code = problem["code"].as_str().or(problem["error"]["code"].as_str()).unwrap_or_default();
    (status, format!("{code}: {}", problem["detail"].as_str().unwrap_or_default()))
}

/// Sends an internal operation with this identity and gives the status.
async fn call_as_fleet(app: &TestApp, operation: &str, identity: Option<HeaderValue>) -> (u16, String) {
    let (method, path) = at(operation);
    let mut request = Request::builder().method(&method).uri(&path);
    if let Some(identity) = identity {
        request = request.header(internal::IDENTITY, identity);
    }
    let response = app.raw(request.body(Body::empty()).unwrap()).await;
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// The method of an internal operation, and its path with something in each place.
fn at(operation: &str) -> (Method, String) {
    let (method, template) = operation.split_once(' ').unwrap();
    let zeros = "0".repeat(32);
    let path = template
        .replace("{tenant}", &format!("ten_{zeros}"))
        .replace("{session}", &format!("ses_{zeros}"))
        .replace("{message}", &format!("msg_{zeros}"));
    assert!(!path.contains('{'), "{operation}: a parameter that this test does not know");
    (method.parse().unwrap(), path)
}

#[tokio::test]
async fn internal_operations_are_not_there_for_anybody_else() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let (admin, owner) = (app.admin().await, app.member(&tenant, Role::Owner).await);
    let nothing = call_as_fleet(&app, "GET /internal/v1/no-such-thing", None).await;
    for operation in INTERNAL {
        let (method, path) = at(operation);
        for caller in [&admin, &owner, &Caller::nobody()] {
            let (status, text) = call(&app, &format!("{method} {path}"), &tenant, caller).await;
            assert_eq!(status, 404, "{operation}: {text}");
        }
        let now = app.app.clock.now();
        let own = Identity::default();
        let stranger = AuthConfig {
            jwt_secret: "of somebody else, with 32 characters and more".into(),
            ..app.app.config.auth.clone()
        };
        let client = Identity { client: Some([203, 0, 113, 9].into()), ..Identity::default() };
        let identities = [
            None,
            Some(HeaderValue::from_static("1 0 - - - AAAA")),
            Some(Signer::new(&stranger).unwrap().sign(&own, &method, &path, now)),
            Some(app.app.fleet.sign(&own, &method, "/internal/v1/another", now)),
            Some(app.app.fleet.sign(&own, &method, &path, now.minus(2 * internal::LIFETIME))),
            // Signed by a gateway, for somebody else's request.
            Some(app.app.fleet.sign(&client, &method, &path, now)),
        ];
        for identity in identities {
            let (status, text) = call_as_fleet(&app, operation, identity.clone()).await;
            assert_eq!(status, 404, "{operation} with {identity:?}: {text}");
            assert!(!text.contains("internal"), "{operation} is told apart from what is not there: {text}");
        }
        let signed = app.app.fleet.sign(&own, &method, &path, now);
        let (status, text) = call_as_fleet(&app, operation, Some(signed)).await;
        assert!(
            status != 404 || !text.contains("nothing at this path"),
            "{operation} refuses the platform itself: {text}"
        );
    }
    assert_eq!(nothing.0, 404);
}

/// What a gateway says of a caller is believed, and nothing else is asked for.
#[tokio::test]
async fn a_caller_is_believed_on_the_word_of_a_gateway() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let owner = app.member(&tenant, Role::Owner).await;
    let viewer = app.member(&tenant, Role::Viewer).await;
    let path = format!("/api/v1/tenants/{}/members", tenant.name);
    let caller = |of: &Caller| {
        let id = of.id().clone();
        Identity {
            caller: Some(policy::Caller::User { id, platform_admin: false, login: None }),
            ..Identity::default()
        }
    };
    let status = async |identity: Identity, target: &str| {
        let header = app.app.fleet.sign(&identity, &Method::GET, target, app.app.clock.now());
        call_as_fleet(&app, &format!("GET {path}"), Some(header)).await.0
    };
    assert_eq!(status(caller(&owner), &path).await, 200);
    assert_eq!(status(caller(&viewer), &path).await, 403, "what they may do is looked up here");
    assert_eq!(status(caller(&owner), "/api/v1/tenants").await, 401, "it was for another address");
    assert_eq!(status(Identity::default(), &path).await, 401, "the platform itself is nobody");
}

/// Whether an answer means that the caller may not do this at all.
fn is_refused((status, text): &(u16, String)) -> bool {
    matches!(status, 401 | 403) || (*status == 404 && text.contains("no such tenant"))
}

#[tokio::test]
async fn every_operation_refuses_the_wrong_caller() {
    let app = TestApp::configured(|config| {
        // Every caller calls everything.
        config.gateway.rate_limit_per_minute = 100_000;
        config.gateway.anonymous_rate_limit_per_minute = 100_000;
    })
    .await;
    let (tenant, other) = (app.tenant("acme").await, app.tenant("globex").await);
    let mut people = People::of(&app, &tenant, &other).await;
    let mut tried = 0;
    for (operation, who) in TABLE {
        people.log_in(&app).await;
        let mut wrong: Vec<(&str, &Caller)> = Vec::new();
        let mut right: Vec<(&str, &Caller)> = Vec::new();
        if !matches!(who, For::Anyone(_)) {
            wrong.extend([("nobody", &people.nobody), ("somebody with a forged token", &people.forged)]);
        }
        match who {
            For::Anyone(reason) => {
                assert!(!reason.is_empty(), "{operation}");
                let answer = call(&app, operation, &tenant, &people.nobody).await;
                assert!(answer.0 != 403, "{operation} is for everybody, and answered {answer:?}");
            }
            For::Authenticated => right.extend(people.keys.iter().map(|(_, key)| ("a key", key))),
            For::Person => {
                wrong.extend(people.keys.iter().map(|(_, key)| ("a key", key)));
                right.push(("a member", &people.roles[0].1));
            }
            For::Platform => {
                wrong.extend(people.roles.iter().map(|(_, member)| ("a member", member)));
                wrong.extend(people.keys.iter().map(|(_, key)| ("a key", key)));
                wrong.push(("another tenant's owner", &people.neighbour));
                right.push(("a platform administrator", &people.admin));
            }
            For::Members(lowest, scope) => {
                wrong.extend([
                    ("another tenant's owner", &people.neighbour),
                    ("another tenant's key", &people.neighbours_key),
                ]);
                for (role, member) in &people.roles {
                    let side = if role < lowest { &mut wrong } else { &mut right };
                    side.push(("a member", member));
                }
                for (own, key) in &people.keys {
                    let side = if Some(*own) == *scope { &mut right } else { &mut wrong };
                    side.push(("a key", key));
                }
                right.push(("a platform administrator", &people.admin));
            }
            For::Bot => {
                wrong.extend(people.roles.iter().map(|(_, member)| ("a member", member)));
                wrong.extend(people.keys.iter().map(|(_, key)| ("a key", key)));
                wrong.push(("a platform administrator", &people.admin));
            }
        }
        for (name, caller) in wrong {
            let answer = call(&app, operation, &tenant, caller).await;
            assert!(
                is_refused(&answer),
                "{operation} let {name} in ({:?}): {answer:?}",
                caller.user.as_ref().map(|user| &user.email)
            );
            if name.starts_with("another tenant") && operation.contains("{tenant}") {
                assert_eq!(
                    answer.0,
                    if matches!(who, For::Platform) { answer.0 } else { 404 },
                    "{operation} tells {name} that the tenant exists"
                );
            }
            if caller.credential.is_none() {
                assert_eq!(answer.0, 401, "{operation} asks nobody to prove who they are: {answer:?}");
            }
            tried += 1;
        }
        // Whoever may come last: the operation may change something.
        for (name, caller) in right {
            let answer = call(&app, operation, &tenant, caller).await;
            assert!(!is_refused(&answer), "{operation} refused {name}: {answer:?}");
            tried += 1;
        }
    }
    assert!(tried > TABLE.len() * 5, "only {tried} calls were tried");
}
