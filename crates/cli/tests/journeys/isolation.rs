//! Two tenants beside each other: neither learns that the other exists, and their bots share no memory.

use astrfleet_testkit::client::Api;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{Tenant, World};

/// Of tenants that are gone, for platform administrators: everybody else is told so, whether there was one or not.
const OF_THE_GONE: &str = "/api/v1/tenants/{tenant}/erasure";

/// Every operation of a tenant, by the API's own description, for the other tenant's owner and its key.
pub async fn nobody_sees_another_tenant(world: &mut World) {
    let (acme, globex) = (&world.acme, &world.globex);
    let session = acme.session("private").await;
    let exchange = session.ask("a private matter").await;
    let names = json!({
        "session": session.id, "message": exchange["message"]["id"], "tenant": acme.instance().await["tenant_id"],
    });
    let description = globex.owner.get("/openapi.json").await.ok();
    let mut tried = 0;
    for (template, operations) in description["paths"].as_object().unwrap() {
        if !template.starts_with("/api/v1/tenants/{tenant}") || template == OF_THE_GONE {
            continue;
        }
        for method in operations.as_object().unwrap().keys() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            for tenant in ["acme", names["tenant"].as_str().unwrap()] {
                let path = filled(&template.replace("{tenant}", tenant), &names);
                for caller in [&globex.owner, &globex.key] {
                    refused(caller, &method, &path).await;
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 100, "only {tried} were tried");

    // Their own address does not lead to the other's things either.
    let foreign = [
        format!("/sessions/{}", session.id),
        format!("/sessions/{}/messages", session.id),
        format!("/sessions/{}/messages/{}", session.id, names["message"].as_str().unwrap()),
    ];
    for path in foreign {
        refused(&globex.key, &Method::GET, &globex.path(&path)).await;
    }
    for tenant in ["acme", "nobody"] {
        let answer = globex.owner.get(&OF_THE_GONE.replace("{tenant}", tenant)).await;
        assert_eq!(answer.status, 403, "{}", answer.text);
    }
    let listed = globex.key.get(&globex.path("/sessions?limit=200")).await.ok();
    assert!(!listed.to_string().contains(&session.id));
    let tenants = globex.owner.get("/api/v1/tenants").await;
    assert_eq!(tenants.status, 403, "{}", tenants.text);
    assert_eq!(session.history().await.len(), 2, "nothing of it was changed");
    assert_eq!(acme.instance().await["ready"], true);
}

fn filled(template: &str, names: &Value) -> String {
    let fill = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => names[name].as_str().unwrap_or("none").to_owned(),
        None => part.to_owned(),
    };
    template.split('/').map(fill).collect::<Vec<_>>().join("/")
}

async fn refused(caller: &Api, method: &Method, path: &str) {
    let body = (*method != Method::GET).then(|| json!({}));
    let answer = caller.send(method.clone(), path, body).await;
    assert_eq!((answer.status, &answer.body["code"]), (404, &json!("not_found")), "{method} {path}: {}", answer.text);
    assert!(!answer.text.contains("private matter"), "{method} {path}");
}

/// The same end user of two tenants is two people.
pub async fn bots_remember_apart(world: &mut World) {
    let tell = async |tenant: &Tenant, words: &str| tenant.session("twin").await.answer(words).await;
    let (acme, globex) = tokio::join!(tell(&world.acme, "my word is alpaca"), tell(&world.globex, "my word is gecko"));
    assert_eq!((acme.as_str(), globex.as_str()), ("echo: my word is alpaca", "echo: my word is gecko"));
    tell(&world.globex, "what is my word").await;
    for request in world.asked("what is my word").iter().chain(&world.asked("my word is gecko")) {
        assert!(!request.body.to_string().contains("alpaca"), "a bot knows another bot's words");
    }
}
