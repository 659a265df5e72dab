//! Paths that lead nowhere, methods that they do not have, and queries that cannot be.

use axum::http::Method;
use serde_json::json;

use crate::{
    operation::{JSON, Operation, bodies, operations},
    world::{everything, must_be_as_before, must_be_problem, send, things, world},
};

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
