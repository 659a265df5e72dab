//! Credentials that are none, and ways to show one that are none.

use std::time::Duration;

use astrfleet_core::{policy::Role, tenant::Tenant};
use astrfleet_testkit::app::{Caller, PASSWORD, TestApp};
use axum::{
    body::Body,
    http::{Request, header},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    operation::{JSON, bodies, operations},
    world::{answer, everything, must_be_as_before, must_be_problem, must_refuse, send, world},
};

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
