//! What surrounds every request: names, limits, problems in place of whatever else would be said, health, and the
//! reference of the API.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astrfleet_core::policy::Role;
use astrfleet_server::{
    config::{Addresses, ServerConfig},
    gateway::{
        self,
        listen::{Listen, bind},
    },
    internal::{IDENTITY, Identity},
    role::Role as Part,
};
use astrfleet_testkit::app::{Caller, TestApp};
use axum::{
    Router,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri},
    routing::{get, post},
};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_request_keeps_its_name_or_gets_one() {
    let test = TestApp::new().await;
    let named =
        test.send(Method::GET, &Caller::nobody(), "//health", None, &[("x-request-id", "from-the-outside.1")]).await;
    assert_eq!(named.header("x-request-id"), "from-the-outside.1");
    let forged = test.send(Method::GET, &Caller::nobody(), "//health", None, &[("x-request-id", "a b")]).await;
    assert!(forged.header("x-request-id").starts_with("req_"));
    let refused = test.get(&Caller::nobody(), "/auth/me").await;
    assert_eq!(refused.json["request_id"], refused.header("x-request-id"));
}

#[tokio::test]
async fn whatever_fails_is_a_problem() {
    let test = TestApp::new().await;
    let owner = test.admin().await;
    for (method, path, status, code) in [
        (Method::GET, "//nothing/here", 404, "not_found"),
        (Method::DELETE, "//health", 405, "method_not_allowed"),
        (Method::GET, "/tenants/%ff", 404, "not_found"),
        (Method::GET, "/tenants?limit=many", 400, "invalid"),
    ] {
        let answer = test.send(method, &owner, path, None, &[]).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{path}: {}", answer.text);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert!(!answer.json["detail"].as_str().unwrap().is_empty());
    }
    let answer = test.send(Method::DELETE, &owner, "//health", None, &[]).await;
    assert_eq!(answer.header("allow"), "GET,HEAD");
    let large = json!({"name": "x".repeat(4 << 20), "email": "a@example.com"});
    assert_eq!(test.post(&owner, "/tenants", large).await.code(), "too_large");
}

#[tokio::test]
async fn every_answer_protects_itself_and_tells_what_is_left() {
    let test = TestApp::new().await;
    let tenant = test.tenant("acme").await;
    let owner = test.member(&tenant, Role::Owner).await;
    let answer = test.get(&owner, "/tenants/acme/limits").await.expect(200);
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ] {
        assert_eq!(answer.header(name), value);
    }
    assert!(answer.header("ratelimit").starts_with("\"default\";r="), "{}", answer.header("ratelimit"));
    assert!(answer.header("ratelimit-policy").ends_with(";w=60"), "{}", answer.header("ratelimit-policy"));
}

#[tokio::test]
async fn ready_turns_first_when_a_stop_is_asked_for() {
    let test = TestApp::new().await;
    let ready = test.get(&Caller::nobody(), "//ready").await.expect(200);
    assert_eq!(ready.json["parts"], json!({"gateway": "ok", "store": "ok", "loops": "ok"}));
    test.app.gateway.begin_drain();
    assert_eq!(test.get(&Caller::nobody(), "//ready").await.expect(503).json["status"], "unavailable");
    test.get(&Caller::nobody(), "//health").await.expect(200);
}

/// Who keeps a connection open may be sending the next request on it in the moment in which it ends.
#[tokio::test]
async fn connections_end_with_an_answer_once_a_stop_is_asked_for() {
    let bound = bind(&Listen::on(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    let address = bound.address();
    let test = TestApp::configured(|config| config.gateway.listen = address).await;
    drop(gateway::serve(&test.app, bound).unwrap());
    let ask = async |path: &str, status: u16| {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        answer.headers().get("connection").cloned()
    };
    assert_eq!(ask("/health", 200).await, None);
    test.app.gateway.begin_drain();
    for (path, status) in [("/health", 200), ("/ready", 503), ("/api/v1/tenants", 401)] {
        assert_eq!(ask(path, status).await.unwrap(), "close", "{path}");
    }
}

#[tokio::test]
async fn the_reference_needs_nobody() {
    let test = TestApp::new().await;
    let page = test.get(&Caller::nobody(), "//").await.expect(200);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    let document = test.get(&Caller::nobody(), "//openapi.json").await.expect(200);
    assert_eq!(document.json["openapi"], "3.1.0");
}

/// A role that lives elsewhere says what reached it.
#[tokio::test]
async fn a_role_elsewhere_is_reached_by_whoever_may() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let echo = move |uri: Uri, headers: HeaderMap| {
        // Whether it is ready is asked again and again.
        counted.fetch_add(usize::from(uri.path() != "/ready"), Ordering::SeqCst);
        let shown = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let said =
            json!({"id": shown("x-request-id"), "trace": shown("traceparent"), "credential": shown("authorization")});
        async move { axum::Json(said) }
    };
    let elsewhere = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let remote = format!("http://{}", elsewhere.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(elsewhere, Router::new().fallback(echo)).await });

    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = bind(&Listen { workers: NonZeroUsize::new(1), ..Listen::on(local) }).unwrap();
    let address = bound.address();
    let test = TestApp::configured(|config| {
        config.gateway.listen = address;
        config.gateway.rate_limit_per_minute = 3;
        config.gateway.remote = BTreeMap::from(
            [(Part::Manager, remote.clone()), (Part::Auth, remote)].map(|(role, url)| (role, Addresses(vec![url]))),
        );
    })
    .await;
    let edge = test.beside([Part::Gateway], |_, _| {}).await;
    drop(gateway::serve(&edge.app, bound).unwrap());
    let (acme, globex) = (test.tenant("acme").await, test.tenant("globex").await);
    let (owner, stranger) = (test.member(&acme, Role::Owner).await, test.member(&globex, Role::Owner).await);

    let http = reqwest::Client::new();
    let ask = async |path: &str, caller: &Caller| {
        let mut request = http.get(format!("http://{address}{path}")).header("traceparent", TRACE);
        if let Some(credential) = &caller.credential {
            request = request.bearer_auth(credential.expose_secret());
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.json::<serde_json::Value>().await.unwrap_or_default())
    };
    let instance = "/api/v1/tenants/acme/instance";
    assert_eq!(ask(instance, &Caller::nobody()).await.0, 401);
    assert_eq!(ask(instance, &Caller::with("forged")).await.0, 401);
    assert_eq!(ask(instance, &stranger).await.0, 404);
    assert_eq!(ask("/api/v1/tenants/nobody/instance", &owner).await.0, 404);
    assert_eq!(seen.load(Ordering::SeqCst), 0, "nothing of this went on");

    let (status, headers, said) = ask(instance, &owner).await;
    assert_eq!(status, 200);
    assert_eq!(said["trace"], TRACE);
    assert_eq!(said["id"].as_str().unwrap(), headers["x-request-id"]);
    assert!(said["credential"].as_str().unwrap().starts_with("Bearer "));
    assert_eq!(headers["ratelimit-policy"], "\"default\";q=3;w=60");
    // By id and by name, from memory or not: one tenant has one limit.
    assert_eq!(ask(&format!("/api/v1/tenants/{}/instance", acme.id), &owner).await.0, 200);
    assert_eq!(ask(instance, &owner).await.0, 200);
    let (status, headers, problem) = ask(instance, &owner).await;
    assert_eq!((status, &problem["code"]), (429, &json!("too_many")));
    assert!(headers.contains_key("retry-after"));
    assert_eq!(ask("/.well-known/jwks.json", &Caller::nobody()).await.0, 200, "public, so passed on without asking");

    test.advance(Duration::from_mins(2));
    test.post(&owner, "/auth/logout", json!({})).await;
    let ended = async {
        while ask(instance, &owner).await.0 != 401 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), ended).await.expect("a login that ended is refused");

    let metrics = edge.app.metrics.render();
    let counted = r#"http_requests_total{method="GET",endpoint="/api/v1/tenants/{tenant}/instance",status="200"}"#;
    assert!(metrics.contains(counted), "{metrics}");
    edge.app.stop.cancel();
}

/// A gateway before these roles elsewhere, each at addresses with commas between them.
async fn gateway_before(roles: &[(Part, &str)], change: impl FnOnce(&mut ServerConfig)) -> (TestApp, SocketAddr) {
    let bound = bind(&Listen { workers: NonZeroUsize::new(1), ..Listen::on(([127, 0, 0, 1], 0).into()) }).unwrap();
    let address = bound.address();
    let test = TestApp::configured(|config| {
        config.gateway.listen = address;
        let addresses = |urls: &str| Addresses(urls.split(',').map(str::to_owned).collect());
        config.gateway.remote = roles.iter().map(|(role, urls)| (*role, addresses(urls))).collect();
        change(config);
    })
    .await;
    let here = Part::ALL.into_iter().filter(|role| roles.iter().all(|(other, _)| other != role));
    let test = test.beside(here, |_, _| {}).await;
    drop(gateway::serve(&test.app, bound).unwrap());
    (test, address)
}

/// Serves `router` as a process of the platform would.
async fn elsewhere(router: Router) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn behind_a_proxy_of_ours_the_client_is_whom_it_names() {
    for is_trusted in [true, false] {
        let (say, mut said) = watch::channel(HeaderValue::from_static(""));
        let hear = async move |headers: HeaderMap| {
            say.send_replace(headers.get(IDENTITY).cloned().unwrap());
        };
        let url = elsewhere(Router::new().route("/.well-known/jwks.json", get(hear))).await;
        let (test, address) = gateway_before(&[(Part::Auth, &url), (Part::Manager, &url)], |config| {
            config.gateway.trust_forwarded = is_trusted;
            config.gateway.anonymous_rate_limit_per_minute = 2;
        })
        .await;
        let http = reqwest::Client::new();
        let ask = async |path: &str, forwarded: &str| {
            let request = http.get(format!("http://{address}{path}")).header("x-forwarded-for", forwarded);
            request.header("connection", "x-astrfleet-identity").send().await.unwrap().status().as_u16()
        };
        // Of this process, and of another one; the first address is what the client says of itself.
        for (path, mine, others) in [
            ("/api/v1/tenants", "6.6.6.6, 198.51.100.7", "6.6.6.6, 198.51.100.8"),
            ("/api/v1/tenants/acme/instance", "6.6.6.6, 203.0.113.7", "6.6.6.6, 203.0.113.8"),
        ] {
            let statuses = [ask(path, mine).await, ask(path, mine).await, ask(path, mine).await];
            assert!(statuses.contains(&429), "{path}: {statuses:?}");
            let expected = if is_trusted { 401 } else { 429 };
            assert_eq!(ask(path, others).await, expected, "{path}");
        }
        // The role is told of it, and nothing that the client names in `Connection` keeps it from being told.
        for (forwarded, expected) in [("6.6.6.6, 198.51.100.7", "198.51.100.7"), ("198.51.100.7, unknown", "127.0.0.1")]
        {
            assert_eq!(ask("/.well-known/jwks.json", forwarded).await, 200);
            let shown = said.borrow_and_update().clone();
            let now = test.app.clock.now();
            let identity = test.app.fleet.verify(&shown, &Method::GET, "/.well-known/jwks.json", now).unwrap();
            let client = if is_trusted { expected } else { "127.0.0.1" }.parse().ok();
            assert_eq!(identity, Identity { client, ..Identity::default() });
        }
        test.app.stop.cancel();
    }
}

#[tokio::test]
async fn a_process_that_does_not_answer_delays_no_word_of_another() {
    let (turn, is_well) = watch::channel(true);
    let ready = async move || if *is_well.borrow() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let well = elsewhere(Router::new().route("/ready", get(ready))).await;
    // Connections are made, and nobody takes them.
    let frozen = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let urls = format!("{well},http://{}", frozen.local_addr().unwrap());
    let (test, _) = gateway_before(&[(Part::Manager, &urls)], |config| {
        config.gateway.balance.probe_period_ms = 10;
        // Far longer than this test takes.
        config.gateway.balance.probe_timeout_ms = 3_600_000;
        config.gateway.upstream_timeout_s = 3_600;
    })
    .await;
    let label = format!("upstream_ready{{role=\"manager\",address=\"{}\"}}", well.trim_start_matches("http://"));
    let shown = async |ready: u8| {
        let is_shown = async {
            while !test.app.metrics.render().contains(&format!("{label} {ready}")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), is_shown).await.expect("its word is heard");
    };
    shown(1).await;
    turn.send_replace(false);
    shown(0).await;
    test.app.stop.cancel();
}

#[tokio::test]
async fn whoever_may_wait_is_waited_for_and_slowness_of_one_refuses_nobody() {
    let (turn, answers) = watch::channel(false);
    let (arrive, mut came) = tokio::sync::mpsc::unbounded_channel();
    let patient = async move || {
        arrive.send(()).unwrap();
        answers.clone().wait_for(|answers| *answers).await.unwrap();
    };
    let router = Router::new()
        .route("/ready", get(async || StatusCode::OK))
        .route("/api/v1/tenants/acme/sessions/{session}/messages", post(patient.clone()))
        .route("/llm/v1/chat/completions", post(patient))
        .fallback(async || std::future::pending::<StatusCode>().await);
    let url = elsewhere(router).await;
    let roles = [Part::Message, Part::Llm, Part::Manager].map(|role| (role, url.as_str()));
    let (test, address) = gateway_before(&roles, |config| config.gateway.upstream_timeout_s = 1).await;
    let owner = test.member(&test.tenant("acme").await, Role::Owner).await;
    let credential = owner.credential.as_ref().unwrap().expose_secret();
    let http = reqwest::Client::new();
    let ask = async |method: Method, path: &str| {
        let request = http.request(method, format!("http://{address}{path}")).bearer_auth(credential).body("{}");
        request.header("content-type", "application/json").send().await.unwrap().status().as_u16()
    };
    let waiting = futures_util::future::join(
        ask(Method::POST, "/api/v1/tenants/acme/sessions/ses_1/messages?wait=120"),
        ask(Method::POST, "/llm/v1/chat/completions"),
    );
    let limits_pass = async {
        came.recv().await.unwrap();
        came.recv().await.unwrap();
        // One after the other, more of them than failures in a row open a circuit.
        for _ in 0..6 {
            assert_eq!(ask(Method::POST, "/api/v1/tenants/acme/instance/start").await, 504);
        }
        turn.send_replace(true);
    };
    let (statuses, ()) = futures_util::future::join(waiting, limits_pass).await;
    assert_eq!(statuses, (200, 200));
    test.app.stop.cancel();
}
