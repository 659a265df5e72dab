//! The description of the API is whole: whoever generates a client from it finds names, words, errors and security for
//! every operation, and every schema that is spoken of. That the committed copy is this one, `make check` sees.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use astrfleet_server::app::description;
use serde_json::{Value, json};

/// Operations that nobody needs a credential for. Why, stands in `authorisation.rs`.
const PUBLIC: [&str; 8] = [
    "get /health",
    "get /ready",
    "get /.well-known/jwks.json",
    "post /api/v1/auth/login",
    "post /api/v1/auth/refresh",
    "post /api/v1/invitations/accept",
    "get /hooks/{tenant}/{webhook}",
    "post /hooks/{tenant}/{webhook}",
];

fn document() -> Value {
    serde_json::to_value(description()).unwrap()
}

/// `(method path, description)` of every operation.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter().filter(|(_, operation)| operation["responses"].is_object());
            methods.map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect()
}

#[test]
fn every_operation_says_what_a_client_needs() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let (mut ids, mut public, mut wrong) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (name, operation) in operations(&document) {
        let text = |field: &str| operation[field].as_str().unwrap_or_default();
        if text("operationId").is_empty() || !ids.insert(text("operationId")) {
            wrong.push(format!("{name}: its operationId is missing or another's"));
        }
        if text("summary").is_empty() {
            wrong.push(format!("{name}: no summary"));
        }
        if operation["tags"].as_array().is_none_or(|tags| tags.len() != 1) {
            wrong.push(format!("{name}: not exactly one tag"));
        }
        // An empty way is one without a credential.
        let ways = operation["security"].as_array().filter(|ways| !ways.is_empty());
        let secured = ways.is_some_and(|ways| !ways.contains(&json!({})));
        if !secured {
            public.insert(name.clone());
        }
        let responses = operation["responses"].as_object().unwrap();
        if !responses.keys().any(|status| status.starts_with('2') || status.starts_with('3')) {
            wrong.push(format!("{name}: no answer is a success"));
        }
        if secured && !responses.contains_key("401") {
            wrong.push(format!("{name}: does not say 401"));
        }
        let takes_body = !operation["requestBody"].is_null();
        if takes_body && !responses.contains_key("400") {
            wrong.push(format!("{name}: takes a body and does not say 400"));
        }
        // The model gateway has OpenAI's errors.
        if name.contains(" /llm/") {
            continue;
        }
        for (status, response) in responses.iter().filter(|(status, _)| status.starts_with('4')) {
            let kind = &response["content"]["application/problem+json"];
            if kind["schema"]["$ref"] != "#/components/schemas/Problem" {
                wrong.push(format!("{name}: {status} is no problem"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(public, PUBLIC.map(str::to_owned).into(), "what needs no credential");
}

#[test]
fn every_parameter_of_a_path_is_described() {
    let document = document();
    for (name, operation) in operations(&document) {
        let in_path: BTreeSet<String> = name
            .split('/')
            .filter_map(|part| part.strip_prefix('{').and_then(|part| part.strip_suffix('}')))
            .map(|part| part.trim_start_matches('*').to_owned())
            .collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let described: BTreeSet<String> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(in_path, described, "{name}");
    }
}

#[test]
fn every_schema_that_is_spoken_of_is_there_and_so_is_every_way_in() {
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "only {} references were found", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} lies outside"));
        assert!(document.pointer(pointer).is_some(), "{reference} is not there");
    }
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    for (name, operation) in operations(&document) {
        for way in operation["security"].as_array().into_iter().flatten() {
            for scheme in way.as_object().unwrap().keys() {
                assert!(schemes.contains_key(scheme), "{name}: {scheme} is not described");
            }
        }
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.push(reference.clone());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}
