//! Bodies that are no JSON, JSON that is something else, and texts that are none.

use serde_json::{Value, json};

use crate::{
    operation::{ANY_OBJECT, CHAT, JSON, Operation, bodies, operations},
    world::{Callers, everything, must_be_as_before, must_be_problem, must_refuse, send, things, world},
};

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
