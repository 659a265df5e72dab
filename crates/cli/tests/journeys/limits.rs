//! A tenant that has used up what its plan gives, and one that is suspended.

use serde_json::json;

use crate::world::World;

/// The model is not asked any more, and the message says why. Another plan, and all goes on.
pub async fn tokens_that_are_used_up(world: &mut World) {
    let globex = &world.globex;
    let session = globex.session("spender").await;
    session.answer("something to count").await;
    let _ = world.admin.patch(&globex.path(""), json!({"plan": "tiny"})).await.ok();
    let limits = globex.owner.get(&globex.path("/limits")).await.ok();
    assert!(limits.to_string().contains("\"exhausted\":true"), "{limits}");

    let events = session.stream("one too many").await.rest().await;
    let failed = events.last().unwrap();
    assert_eq!((failed.event.as_str(), &failed.data["code"]), ("failed", &json!("quota_exceeded")), "{events:?}");
    assert_eq!(failed.data["status"], 402);
    assert!(failed.data["detail"].as_str().unwrap().contains("refilled"), "it says when: {failed:?}");
    let exchange = session.ask("and once more").await;
    assert_eq!(exchange["message"]["failure"]["code"], "quota_exceeded", "{exchange}");
    assert!(world.asked("one too many").is_empty() && world.asked("and once more").is_empty());
    assert_eq!(world.acme.session("thrifty").await.answer("what about me").await, "echo: what about me");

    let _ = world.admin.patch(&globex.path(""), json!({"plan": "free"})).await.ok();
    assert_eq!(session.answer("and now").await, "echo: and now");
    let usage = globex.owner.get(&globex.path("/usage")).await.ok();
    assert!(usage.to_string().contains("tokens"), "{usage}");
}

/// Nothing is taken in and its bot does not run; nothing is lost, and nobody else notices.
pub async fn a_suspended_tenant(world: &mut World) {
    let (globex, other) = (&world.globex, world.bot(&world.acme).await);
    let session = globex.session("suspended").await;
    session.answer("before it").await;
    let _ = world.admin.post(&globex.path("/suspend"), json!({})).await.ok();
    let refused = globex.key.post(&session.path, json!({"text": "during it"})).await;
    assert_eq!((refused.status, &refused.body["code"]), (403, &json!("forbidden")), "{}", refused.text);
    assert!(refused.body["detail"].as_str().unwrap().contains("suspended"), "{}", refused.text);
    let instance = globex.until_instance(|instance| instance["observed"] == "suspended").await;
    assert_eq!(instance["ready"], false);
    assert_eq!(world.platform.bots(), [other], "one bot runs, and it is the other tenant's");
    let start = globex.owner.post(&globex.path("/instance/start"), json!({})).await;
    assert_eq!(start.status, 403, "its owner cannot undo it: {}", start.text);

    let _ = world.admin.post(&globex.path("/resume"), json!({})).await.ok();
    // It is taken in at once, and waits for the bot.
    assert_eq!(session.answer("after it").await, "echo: after it");
    let asked = world.asked("after it").remove(0).body["messages"].to_string();
    assert!(asked.contains("before it") && !asked.contains("during it"), "the bot remembers what was answered");
    assert_eq!(session.history().await.len(), 4);
    assert_eq!(world.bot(&world.acme).await, other);
}
