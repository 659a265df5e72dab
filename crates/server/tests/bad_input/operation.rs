//! The operations of the API description, and what they would accept.

use astrfleet_core::tenant::Tenant;
use astrfleet_server::app::description;
use astrfleet_testkit::app::PASSWORD;
use axum::http::Method;
use serde_json::{Value, json};

pub const JSON: &str = "application/json";
/// An operation that takes any object: no field of it is unknown to us, or of the wrong type.
pub const ANY_OBJECT: &str = "PATCH /api/v1/tenants/{tenant}/instance/config";
/// What bots ask of models, with their virtual key. Its errors have OpenAI's shape.
pub const MODELS: &str = "/llm/v1/";
/// What the bridge in a bot calls, with the token of that.
pub const BRIDGE: &str = "/bridge/v1/";
/// An operation whose body is OpenAI's: what is not ours in it is passed on as it is, and held to in tests of its own.
pub const CHAT: &str = "POST /llm/v1/chat/completions";

/// What each operation that takes JSON would accept, but for the things that its path names.
pub fn bodies() -> Vec<(&'static str, Value)> {
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

/// One operation of the API description.
pub struct Operation {
    pub name: String,
    pub method: Method,
    pub template: String,
    pub described: Value,
}

impl Operation {
    /// The parameters in this place (`path`, `query`).
    pub fn parameters(&self, place: &str) -> Vec<String> {
        let parameters = self.described["parameters"].as_array().cloned().unwrap_or_default();
        let here = parameters.iter().filter(|parameter| parameter["in"] == place);
        here.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
    }

    pub fn takes_json(&self) -> bool {
        !self.described["requestBody"]["content"][JSON].is_null()
    }

    pub fn takes_credential(&self) -> bool {
        self.described["security"].as_array().is_some_and(|ways| !ways.is_empty())
    }

    /// Whether the bridges of bots alone may call it.
    pub fn is_for_bots(&self) -> bool {
        self.template.starts_with(BRIDGE)
    }

    /// Whether bots alone may call it, with their virtual key.
    pub fn is_for_models(&self) -> bool {
        self.template.starts_with(MODELS)
    }

    pub fn is_stream_only(&self) -> bool {
        let answers = self.described["responses"]["200"]["content"].as_object();
        answers.is_some_and(|kinds| kinds.keys().all(|kind| kind == "text/event-stream"))
    }

    /// The path to things that are not there, in a tenant that is.
    pub fn path(&self, tenant: &Tenant) -> String {
        self.path_with(tenant, &[])
    }

    /// The same with some parameters set to something else.
    pub fn path_with(&self, tenant: &Tenant, others: &[(&str, &str)]) -> String {
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

pub fn operations() -> Vec<Operation> {
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
