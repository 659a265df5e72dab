//! Whatever is sent, every operation answers with a problem that says what was wrong, nothing is stored or begun by it,
//! and the platform stays well. The API description is walked: an operation that takes JSON and is not in the table
//! fails the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod addresses;
mod bodies;
mod credentials;
mod operation;
mod world;

use std::collections::BTreeSet;

use astrfleet_testkit::app::{Answer, Caller, PASSWORD};
use axum::http::Method;
use futures_util::future::join_all;
use serde_json::json;

use crate::{
    operation::{Operation, bodies as table, operations},
    world::{everything, must_be_as_before, must_be_problem, send, world},
};

#[test]
fn every_operation_that_takes_json_is_in_the_table() {
    let here: BTreeSet<String> = table().iter().map(|(name, _)| (*name).to_owned()).collect();
    let described: BTreeSet<String> =
        operations().into_iter().filter(Operation::takes_json).map(|operation| operation.name).collect();
    let (missing, stale): (Vec<_>, Vec<_>) =
        (described.difference(&here).collect(), here.difference(&described).collect());
    assert!(missing.is_empty() && stale.is_empty(), "not in the table: {missing:#?}\nnot described: {stale:#?}");
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
