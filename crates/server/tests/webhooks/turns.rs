//! Whose turn it is: nobody waits for receivers that are not their own.

use std::time::Duration;

use astrfleet_core::policy::Role;
use astrfleet_testkit::receiver::{Answer, Receiver};
use serde_json::{Value, json};

use super::{World, open};

#[tokio::test]
async fn receivers_that_misbehave_hold_up_nobody_and_cost_no_memory() {
    let world = World::configured(|config| {
        open(config);
        config.webhooks.timeout_s = 1;
    })
    .await
    .started()
    .await;
    let good = Receiver::start().await;
    let bad = [
        (Answer::Stall, "no answer within 1 s"),
        (Answer::Redirect(good.url()), "redirects are not followed"),
        (Answer::Status(302, String::new()), "redirects are not followed"),
        (Answer::Hangup, ""),
    ];
    let mut webhooks = Vec::new();
    for (answer, error) in bad {
        let receiver = Receiver::start().await;
        receiver.always(answer);
        let webhook = world.webhook(json!({"url": receiver.url(), "events": ["session.opened"]})).await;
        webhooks.push((webhook, error, receiver));
    }
    let endless = Receiver::start().await;
    endless.always(Answer::Endless);
    let taken = world.webhook(json!({"url": endless.url(), "events": ["session.opened"]})).await;
    let nobody = world.webhook(json!({"url": "http://127.0.0.1:1/", "events": ["session.opened"]})).await;
    let other = Receiver::start().await;
    let fine = world.webhook(json!({"url": other.url(), "events": ["session.opened"]})).await;
    world.session().await;
    world.until(&fine, |all| all.first().is_some_and(|first| first["state"] == "succeeded")).await;
    let all = world.until(&taken, |all| all.first().is_some_and(|first| first["state"] == "succeeded")).await;
    assert_eq!(all[0]["response_body"].as_str().unwrap().len(), 1_024, "no more is read than is kept");
    world.until(&nobody, |all| all.first().is_some_and(|first| first["error"].is_string())).await;
    for (webhook, error, _) in &webhooks {
        if error.is_empty() {
            // Whether its status came before it hung up is for the network to say.
            let came = |first: &Value| first["state"] == "succeeded" || first["error"].is_string();
            world.until(webhook, |all| all.first().is_some_and(came)).await;
            continue;
        }
        let all = world.until(webhook, |all| all.first().is_some_and(|first| first["error"].is_string())).await;
        assert!(all[0]["error"].as_str().unwrap().contains(error), "{}", all[0]);
        assert_eq!((&all[0]["state"], &all[0]["attempts"]), (&json!("pending"), &json!(1)));
    }
    assert_eq!(good.got().len(), 0, "nobody was led there");
}

#[tokio::test]
async fn a_tenant_that_takes_all_it_may_leaves_room_for_others() {
    let world = World::configured(|config| {
        open(config);
        config.webhooks.concurrency = 8;
        config.webhooks.concurrency_per_webhook = 1;
        config.webhooks.timeout_s = 600;
    })
    .await
    .started()
    .await;
    let stalled = Receiver::start().await;
    stalled.always(Answer::Held(204));
    let mut webhooks = Vec::new();
    // More than there are tries at all, and all of them before the other tenant's.
    for _ in 0..12 {
        webhooks.push(world.webhook(json!({"url": stalled.url(), "events": ["session.opened"]})).await);
    }
    world.session().await;
    stalled.wait_for(2).await;
    world.test.advance(Duration::from_secs(1));
    let globex = world.test.tenant("globex").await;
    let owner = world.test.member(&globex, Role::Owner).await;
    let body = json!({"url": world.receiver.url(), "events": ["session.opened"]});
    world.test.post(&owner, "/tenants/globex/webhooks", body).await.expect(201);
    world.test.post(&owner, "/tenants/globex/sessions", json!({"end_user": "ada"})).await.expect(201);
    world.receiver.wait_for(1).await;
    assert_eq!(stalled.got().len(), 2, "a quarter of all");
    // Another webhook of the same tenant waits for its turn, and has it.
    stalled.always(Answer::Status(204, String::new()));
    for _ in 0..2 {
        stalled.let_on();
    }
    stalled.wait_for(12).await;
}

#[tokio::test]
async fn nothing_is_sent_for_a_tenant_while_it_is_suspended() {
    let world = World::new().await.started().await;
    let webhook = world.webhook(json!({"url": world.receiver.url(), "events": ["session.opened"]})).await;
    world.receiver.next([Answer::Status(500, String::new())]);
    world.session().await;
    world.until(&webhook, |all| all.first().is_some_and(|first| first["error"].is_string())).await;
    let admin = world.test.admin().await;
    world.test.post(&admin, "/tenants/acme/suspend", json!({})).await.expect(200);
    world.test.advance(Duration::from_secs(6));
    // Somebody else's is sent meanwhile.
    let globex = world.test.tenant("globex").await;
    let owner = world.test.member(&globex, Role::Owner).await;
    let other = Receiver::start().await;
    let body = json!({"url": other.url(), "events": ["session.opened"]});
    world.test.post(&owner, "/tenants/globex/webhooks", body).await.expect(201);
    world.test.post(&owner, "/tenants/globex/sessions", json!({"end_user": "ada"})).await.expect(201);
    other.wait_for(1).await;
    assert_eq!(world.receiver.got().len(), 1);
    world.test.post(&admin, "/tenants/acme/resume", json!({})).await.expect(200);
    world.receiver.wait_for(2).await;
}
