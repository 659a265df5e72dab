//! A bot's own dashboard and its webhooks, through the real listener: who comes in, what reaches the bot, and what
//! does not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use std::sync::atomic::Ordering;

use astrfleet_core::policy::Role;
use axum::http::Method;
use serde_json::json;

use world::{PAGE, World};

/// The bot's own description, and what of it is refused: a method and a template a line.
const ROUTES: &str = include_str!("astrbot-4.29.3-routes.txt");
const REFUSED: &str = include_str!("astrbot-4.29.3-refused.txt");

#[tokio::test]
async fn a_link_becomes_a_cookie_once() {
    let world = World::new().await;
    let (host, link) = (world.host(&world.acme), world.link(&world.owner, &world.acme).await);
    let opened = world.ask(Method::GET, &host, &link, &[("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(opened.status, 200);
    let cookie = opened.header("set-cookie").to_owned();
    for word in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    assert!(opened.text.contains("http-equiv=\"refresh\" content=\"0; url=/\""), "{}", opened.text);
    assert_eq!(opened.header("referrer-policy"), "same-origin");

    let again = world.ask(Method::GET, &host, &link, &[], "").await;
    assert_eq!((again.status, again.header("set-cookie")), (410, ""), "a used link");
    let old = world.link(&world.owner, &world.acme).await;
    world.test.advance(std::time::Duration::from_mins(1));
    assert_eq!(world.ask(Method::GET, &host, &old, &[], "").await.status, 410, "an old link");
    let elsewhere = world.link(&world.owner, &world.acme).await;
    let answer = world.ask(Method::GET, &world.host(&world.globex), &elsewhere, &[], "").await;
    assert_eq!(answer.status, 410, "a link to another bot");
}

#[tokio::test]
async fn the_bot_sees_a_token_of_the_person_and_nothing_of_the_browser() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    let headers = [
        ("cookie", cookie.as_str()),
        ("authorization", "Bearer signed-in-by-the-platform"),
        ("sec-fetch-site", "same-origin"),
    ];
    let answer = world.ask(Method::GET, &host, "/api/v1/personas?page=1", &headers, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let seen = answer.json();
    let email = &world.owner.user.as_ref().unwrap().email;
    let bot = world.test.instance(&world.acme).await.id;
    assert_eq!(seen["authorization"], format!("Bearer token-of-{email}-for-{bot}"));
    assert_eq!(seen["target"], "/api/v1/personas?page=1");
    assert_eq!((&seen["bot"], &seen["cookie"]), (&json!("acme"), &json!(null)));
    for (name, value) in [
        ("set-cookie", ""),
        ("access-control-allow-origin", ""),
        ("x-frame-options", "SAMEORIGIN"),
        ("content-security-policy", "frame-ancestors 'self'"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert!(answer.header("x-request-id").starts_with("req_"));

    let websocket = [
        ("cookie", cookie.as_str()),
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("origin", &format!("http://{host}")),
    ];
    let answer = world.ask(Method::GET, &host, "/api/v1/unified-chat/ws?token=theirs", &websocket, "").await;
    let target = answer.json()["target"].as_str().unwrap_or_default().to_owned();
    assert!(target.contains("token=token-of-") && !target.contains("theirs"), "{} {target}", answer.status);
}

#[tokio::test]
async fn the_first_page_signs_in_and_nothing_else_is_changed() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    let headers = [("cookie", cookie.as_str()), ("accept", "text/html"), ("sec-fetch-site", "none")];
    let page = world.ask(Method::GET, &host, "/", &headers, "").await;
    assert_eq!((page.status, page.header("set-cookie")), (200, ""), "{}", page.text);
    assert_eq!(page.text.replace("\n    <script src=\"/_astrfleet/session.js\"></script>", ""), PAGE);
    assert_ne!(page.text, PAGE);
    let script = world.ask(Method::GET, &host, "/_astrfleet/session.js", &headers, "").await;
    assert_eq!(script.status, 200);
    assert!(script.text.contains("localStorage.setItem('user', \"req_"), "{}", script.text);
    assert!(!script.text.contains("token-of"), "{}", script.text);
    for (path, kept) in [("/assets/a.js", "private, max-age=31536000, immutable"), ("/favicon.svg", "no-store")] {
        assert_eq!(world.ask(Method::GET, &host, path, &headers, "").await.header("cache-control"), kept, "{path}");
    }
    let sent = world.ask(Method::GET, &host, "/api/v1/files/page", &headers, "").await;
    assert!(
        sent.header("content-security-policy").starts_with("sandbox;"),
        "a file that somebody sent is no page of it"
    );
    let nobodys = world.ask(Method::GET, &host, "/assets/a.js", &headers[1..], "").await;
    assert_eq!((nobodys.status, nobodys.header("cache-control")), (401, "no-store"));
}

#[tokio::test]
async fn the_platforms_values_are_masked_and_put_back() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    let headers = [("cookie", cookie.as_str()), ("content-type", "application/json")];
    for path in ["/api/v1/system-config", "/api/v1/system%2Dconfig"] {
        let answer = world.ask(Method::PUT, &host, path, &headers, r#"{"timezone":"UTC"}"#).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let seen = answer.json();
        assert_eq!(seen["masked"], true);
        let body: serde_json::Value = serde_json::from_str(seen["body"].as_str().unwrap()).unwrap();
        assert_eq!(body, json!({"timezone": "UTC", "restored": true}));
    }
    // What has no body may still delete; of several values of one name, the bot gets the one that was looked at.
    let answer = world.ask(Method::DELETE, &host, "/api/v1/provider-sources/platform", &headers, "").await;
    assert_eq!(answer.json()["body"], "{\"restored\":true}", "{}", answer.text);
    let twice = r#"{"timezone":"a","timezone":"UTC","restored":false}"#;
    let answer = world.ask(Method::PUT, &host, "/api/v1/system-config/", &headers, twice).await;
    let body: serde_json::Value = serde_json::from_str(answer.json()["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({"timezone": "UTC", "restored": true}));
    let plain = [("cookie", cookie.as_str()), ("content-type", "text/plain")];
    assert_eq!(world.ask(Method::PUT, &host, "/api/v1/system-config", &plain, "{}").await.status, 415);
    let large = format!("\"{}\"", "x".repeat(4 << 20));
    assert_eq!(world.ask(Method::PUT, &host, "/api/v1/system-config", &headers, &large).await.status, 413);
}

#[tokio::test]
async fn what_must_not_pass_is_refused_with_a_sentence() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    let headers = [("cookie", cookie.as_str()), ("content-type", "application/json")];
    for path in ["/api/v1/pip/install", "/api/v1/plugins/install/git%68ub", "/api/v1/mcp/servers", "/api/new/thing"] {
        let answer = world.ask(Method::POST, &host, path, &headers, "{}").await;
        assert_eq!((answer.status, &answer.json()["status"]), (403, &json!("error")), "{path}: {}", answer.text);
        assert!(answer.json()["message"].as_str().unwrap().len() > 30);
    }
}

#[tokio::test]
async fn every_route_that_is_refused_never_reaches_the_bot_and_every_other_one_does() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    let headers = [("cookie", cookie.as_str()), ("content-type", "application/json")];
    for route in ROUTES.lines() {
        let (method, template) = route.split_once(' ').unwrap();
        let path: Vec<&str> =
            template.split('/').map(|part| if part.starts_with('{') { "some%2Done" } else { part }).collect();
        let before = world.seen.load(Ordering::SeqCst);
        let answer = world.ask(method.parse().unwrap(), &host, &path.join("/"), &headers, "{}").await;
        let reached = world.seen.load(Ordering::SeqCst) > before;
        if REFUSED.lines().any(|refused| refused == route) {
            assert_eq!((answer.status, reached), (403, false), "{route}");
            let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
            assert!(message.contains(". / "), "{route}: {}", answer.text);
        } else {
            assert_eq!((answer.status, reached), (200, true), "{route}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn no_other_spelling_gets_past_the_table() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    let before = world.seen.load(Ordering::SeqCst);
    let ask = async |method: &str, target: &str, headers: &str| {
        let head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\ncookie: {cookie}\r\n{headers}\r\n");
        world.raw(&head).await
    };
    for (method, target, status) in [
        ("POST", "//api/v1/pip/install", 400),
        ("POST", "/api//v1/pip/install", 400),
        ("POST", "/api/v1%2F%2fpip/install", 400),
        ("POST", "/x/../api/v1/pip/install", 400),
        ("POST", "/api/v1/personas/%2e%2e/pip/install", 400),
        ("POST", "/api/v1/personas/%2e%2e%2fpip%2finstall", 400),
        ("POST", "/api/v1/personas/./pip", 400),
        ("POST", "/api\\v1\\pip\\install", 400),
        ("POST", "/api/v1/personas%00", 400),
        ("POST", "/api/v1/personas%0d%0a", 400),
        ("POST", "/api/v1/%70ip/install", 403),
        ("POST", "/api/v1/pip%2Finstall", 403),
        ("POST", "/api/v1/pip/install/", 403),
        ("POST", "/API/v1/pip/install", 403),
        ("POST", "/api/v1/pip/install?method=GET", 403),
        ("post", "/api/v1/personas", 403),
        ("OPTIONS", "/api/v1/personas", 403),
        ("TRACE", "/", 403),
        ("HEAD", "/api/v1/logs/export?redact=false", 403),
        ("GET", "/api/v1/logs/export%3Fredact=false", 403),
        ("GET", "/api/plugin/get", 403),
    ] {
        assert_eq!(ask(method, target, "").await, status, "{method} {target}");
    }
    let overridden = "x-http-method-override: POST\r\nx-original-url: /api/v1/pip/install\r\n";
    assert_eq!(ask("GET", "/api/v1/pip/install", overridden).await, 403);
    // The host in the target counts, and not another one beside it.
    let absolute = format!("http://{}/api/v1/personas", world.host(&world.globex));
    assert_eq!(ask("GET", &absolute, "").await, 401);
    assert_eq!(world.seen.load(Ordering::SeqCst), before, "nothing of this reached a bot");
}

#[tokio::test]
async fn nobody_elses_cookie_host_or_page_gets_anywhere() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    let neighbour = world.test.member(&world.globex, Role::Owner).await;
    let theirs = world.enter(&neighbour, &world.globex).await;
    let ask = async |host: &str, method: Method, path: &str, headers: &[(&str, &str)]| {
        world.ask(method, host, path, headers, "").await
    };
    assert_eq!(ask(&host, Method::GET, "/api/v1/personas", &[("cookie", &cookie)]).await.status, 200);
    assert_eq!(ask(&host, Method::GET, "/api/v1/personas", &[("cookie", &theirs)]).await.status, 401);
    assert_eq!(ask(&host, Method::GET, "/api/v1/personas", &[]).await.status, 401);
    let credential = secrecy::ExposeSecret::expose_secret(world.owner.credential.as_ref().unwrap());
    let bearer = format!("Bearer {credential}");
    assert_eq!(ask(&host, Method::GET, "/api/v1/personas", &[("authorization", &bearer)]).await.status, 401);

    for other in ["nobody.localhost", "a.acme.localhost", world.acme.id.as_str()] {
        let other = if other.contains('.') { other.to_owned() } else { format!("{other}.localhost") };
        assert_eq!(ask(&other, Method::GET, "/", &[("cookie", &cookie)]).await.status, 404, "{other}");
    }
    // A host that is none of ours is the API, where this cookie is nothing.
    let api = ask("acme.localhost.evil.example", Method::GET, "/api/v1/auth/me", &[("cookie", &cookie)]).await;
    assert_eq!(api.status, 401);

    for site in ["cross-site", "same-site"] {
        for (method, path) in
            [(Method::GET, "/api/v1/personas"), (Method::POST, "/api/v1/chat"), (Method::GET, "/_astrfleet/session.js")]
        {
            let headers = [("cookie", cookie.as_str()), ("sec-fetch-site", site), ("sec-fetch-mode", "cors")];
            assert_eq!(ask(&host, method, path, &headers).await.status, 403, "{site} {path}");
        }
    }
    let origin = [("cookie", cookie.as_str()), ("origin", "http://globex.localhost")];
    assert_eq!(ask(&host, Method::POST, "/api/v1/chat", &origin).await.status, 403);
    let websocket = [origin[0], origin[1], ("upgrade", "websocket"), ("connection", "upgrade")];
    assert_eq!(ask(&host, Method::GET, "/api/v1/unified-chat/ws", &websocket).await.status, 403);
    let link = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
        ("accept", "text/html"),
    ];
    let page = ask(&host, Method::GET, "/", &link).await;
    assert_eq!(page.status, 401);
    assert!(page.text.contains("astrfleet instance open"), "{}", page.text);
}

#[tokio::test]
async fn a_cookie_ends_with_its_login_its_membership_and_its_tenant() {
    let world = World::new().await;
    let host = world.host(&world.acme);
    let status =
        async |cookie: &str| world.ask(Method::GET, &host, "/api/v1/personas", &[("cookie", cookie)], "").await.status;

    let cookie = world.enter(&world.owner, &world.acme).await;
    assert_eq!(status(&cookie).await, 200);
    world.test.post(&world.owner, "/auth/logout", json!({})).await;
    until(async || status(&cookie).await == 401).await;

    let admin = world.test.member(&world.acme, Role::Admin).await;
    let cookie = world.enter(&admin, &world.acme).await;
    assert_eq!(status(&cookie).await, 200);
    let root = world.test.admin().await;
    world.test.delete(&root, &format!("/tenants/acme/members/{}", admin.id())).await;
    until(async || matches!(status(&cookie).await, 401 | 403)).await;

    let cookie = world.enter(&root, &world.acme).await;
    assert_eq!(status(&cookie).await, 200);
    world.test.post(&root, "/tenants/acme/suspend", json!({})).await;
    until(async || status(&cookie).await == 403).await;
}

#[tokio::test]
async fn a_bot_that_is_away_is_told_of_in_a_page() {
    let world = World::new().await;
    let (host, cookie) = (world.host(&world.acme), world.enter(&world.owner, &world.acme).await);
    world.test.post(&world.owner, "/tenants/acme/instance/stop", json!({})).await.expect(202);
    let eyes = [("cookie", cookie.as_str()), ("accept", "text/html,application/xhtml+xml")];
    until(async || world.ask(Method::GET, &host, "/", &eyes, "").await.status == 503).await;
    let page = world.ask(Method::GET, &host, "/", &eyes, "").await;
    assert!(page.text.contains("机器人"), "{}", page.text);
    let script = world.ask(Method::GET, &host, "/api/v1/personas", &eyes[..1], "").await;
    assert_eq!((script.status, &script.json()["status"]), (503, &json!("error")), "{}", script.text);
    let hook = world.ask(Method::POST, "localhost", "/hooks/acme/0123abcd", &[], "x").await;
    assert_eq!((hook.status, hook.header("retry-after")), (503, "15"));
}

#[tokio::test]
async fn webhooks_reach_the_bot_byte_for_byte() {
    let world = World::new().await;
    let signed = [("x-line-signature", "abc="), ("content-type", "application/json")];
    let body = "{ \"events\" : [\u{1F600}] }";
    let answer = world.ask(Method::POST, "localhost", "/hooks/acme/0123abcd?a=%20b", &signed, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let seen = answer.json();
    assert_eq!(seen["bot"], "acme");
    assert_eq!(seen["target"], "/api/platform/webhook/0123abcd?a=%20b");
    assert_eq!((&seen["signature"], &seen["body"]), (&json!("abc="), &json!(body)));
    for path in ["/hooks/nobody/0123abcd", "/hooks/acme", "/hooks/acme/a/b", "/hooks/acme/%2e%2e"] {
        let answer = world.ask(Method::POST, "localhost", path, &signed, body).await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("not_found")), "{path}");
    }
}

/// Waits until a condition holds.
async fn until(condition: impl AsyncFn() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), waited).await.expect("this should have happened long ago");
}
