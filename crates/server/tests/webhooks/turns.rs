//! Whose turn it is: nobody waits for receivers that are not their own.

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
