//! What webhooks sign with, and what they do where they cannot.

use std::time::Duration;

use serde_json::json;

use super::World;

#[tokio::test]
async fn for_a_day_both_secrets_sign() {
    let world = World::new().await.started().await;
    let webhook = world.webhook(json!({"url": world.receiver.url(), "events": ["session.opened"]})).await;
    let old = webhook["secret"].as_str().unwrap();
    let path = format!("/tenants/acme/webhooks/{}", webhook["id"].as_str().unwrap());
    let rotated = world.test.post(&world.owner, &format!("{path}/rotate-secret"), json!({})).await.expect(200).json;
    let new = rotated["secret"].as_str().unwrap();
    assert_ne!(old, new);
    assert!(rotated["previous_secret_until"].is_string());
    world.session().await;
    let got = world.receiver.wait_for(1).await;
    assert!(got[0].is_signed_with(old) && got[0].is_signed_with(new));
    world.test.advance(Duration::from_hours(24));
    // The login has expired by now.
    let world = World { owner: world.test.log_in(world.owner.user.clone().unwrap()).await, ..world };
    world.session().await;
    let got = world.receiver.wait_for(2).await;
    assert!(!got[1].is_signed_with(old) && got[1].is_signed_with(new));
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_any_more_is_said_to_be_so() {
    let world = World::new().await;
    let webhook = world.webhook(json!({"url": world.receiver.url(), "events": ["session.opened"]})).await;
    let changed = world
        .test
        .restarted_with(|config| config.auth.jwt_secret = "another secret, of at least 32 characters".into())
        .await;
    let owner = changed.log_in(world.owner.user.clone().unwrap()).await;
    let world = World { test: changed, owner, ..world };
    world.test.app.start_loops();
    world.session().await;
    let all = world.until(&webhook, |all| all.first().is_some_and(|first| first["error"].is_string())).await;
    assert_eq!(all[0]["error"], "its secret cannot be read any more: rotate it");
    assert_eq!((&all[0]["state"], &all[0]["attempts"]), (&json!("pending"), &json!(1)));
    let path = format!("/tenants/acme/webhooks/{}/rotate-secret", webhook["id"].as_str().unwrap());
    let rotated = world.test.post(&world.owner, &path, json!({})).await.expect(200).json;
    world.test.advance(Duration::from_secs(6));
    let got = world.receiver.wait_for(1).await;
    assert_eq!(got[0].signatures.len(), 1, "the one before it cannot be read");
    assert!(got[0].is_signed_with(rotated["secret"].as_str().unwrap()));
}
