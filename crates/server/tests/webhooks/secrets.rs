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
