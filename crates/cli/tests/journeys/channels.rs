//! IM platforms: Telegram by its Bot API, and LINE by the signed events that it delivers.

use astrfleet_testkit::fake_telegram::FakeTelegram;
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{PATIENCE, World, until};

const TOKEN: &str = "4242:token-of-the-telegram-bot";
const LINE_SECRET: &str = "secret-of-the-line-channel";
const LINE_TOKEN: &str = "token-of-the-line-channel";

/// Added, tried, used, hidden, turned off and on, deleted.
pub async fn telegram_in_full(world: &mut World) {
    let (acme, owner) = (&world.acme, &world.acme.owner);
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    let mut settings = telegram.platform_entry("tg1", TOKEN);
    for name in ["id", "type", "enable"] {
        settings.as_object_mut().unwrap().remove(name);
    }
    let draft = json!({"id": "tg1", "type": "telegram", "settings": settings});
    let added = owner.post(&acme.path("/channels"), draft.clone()).await;
    assert_eq!(added.status, 201, "{}", added.text);
    assert!(!added.text.contains(TOKEN), "{}", added.text);
    assert_eq!(added.body["settings"]["telegram_token"], "***");
    let twice = owner.post(&acme.path("/channels"), draft).await;
    assert_eq!((twice.status, &twice.body["code"]), (409, &json!("conflict")), "{}", twice.text);

    bot.wait_until_polling(PATIENCE).await;
    bot.send_text(7, "ann", "hello by telegram");
    bot.wait_for_text(7, "echo: hello by telegram").await;
    assert_eq!(world.asked("hello by telegram").len(), 1);
    let channel = acme.path("/channels/tg1");
    until("the channel is connected", async || owner.get(&channel).await.ok()["connected"] == true).await;
    acme.until_instance(|instance| {
        instance["channels"] == json!([{"id": "tg1", "type": "telegram", "connected": true}])
    })
    .await;
    let tried = owner.post(&format!("{channel}/test"), json!({})).await.ok();
    assert_eq!(tried["ok"], true, "{tried}");

    // Its settings changed, and the secret left as it is by its mask.
    let off = owner.patch(&channel, json!({"enabled": false})).await.ok();
    assert_eq!((&off["enabled"], &off["connected"]), (&json!(false), &json!(false)), "{off}");
    bot.send_text(7, "ann", "are you asleep");
    let on = json!({"enabled": true, "settings": {"telegram_token": "***", "telegram_command_register": false}});
    let on = owner.patch(&channel, on).await.ok();
    assert_eq!(on["settings"]["telegram_command_register"], false, "{on}");
    bot.wait_for_text(7, "echo: are you asleep").await;

    for path in
        ["/channels", "/channels/tg1", "/instance", "/instance/config", "/instance/logs?lines=1000", "/audit-log"]
    {
        let answer = owner.get(&acme.path(path)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert!(!answer.text.contains(TOKEN), "{path} tells the token: {}", answer.text);
    }
    assert!(!world.platform.log().join("\n").contains(TOKEN), "the token is in the platform's log");

    assert_eq!(owner.delete(&channel).await.status, 204);
    assert_eq!(owner.get(&channel).await.status, 404);
    assert_eq!(owner.get(&acme.path("/channels")).await.ok()["items"], json!([]));
    acme.until_instance(|instance| instance["channels"] == json!([])).await;
    assert_eq!(bot.conflicts(), 0, "never two at once");
}

/// Passed to the bot byte for byte: it is the bot that tells a signed event from a forged one.
pub async fn line_by_its_signature(world: &mut World) {
    let (acme, owner) = (&world.acme, &world.acme.owner);
    let settings = json!({"channel_access_token": LINE_TOKEN, "channel_secret": LINE_SECRET});
    let draft = json!({"id": "line1", "type": "line", "settings": settings});
    let added = owner.post(&acme.path("/channels"), draft).await;
    assert_eq!(added.status, 201, "{}", added.text);
    assert!(!added.text.contains(LINE_TOKEN) && !added.text.contains(LINE_SECRET), "{}", added.text);
    let hook = added.body["webhook_path"].as_str().unwrap().to_owned();
    assert!(hook.starts_with("/hooks/acme/"), "{hook}");

    // Spaces and all: one byte changed on the way would break the signature.
    let event = event("hello by line");
    assert_eq!(deliver(world, &hook, &event, &signature(LINE_SECRET, &event)).await, 200);
    until("the model is asked", async || world.asked("hello by line").len() == 1).await;
    let forged = event.replace("hello", "forged");
    assert_eq!(deliver(world, &hook, &forged, &signature(LINE_SECRET, &event)).await, 400);
    assert_eq!(deliver(world, &hook, &forged, &signature("guessed", &forged)).await, 400);
    assert!(world.asked("forged by line").is_empty());
    let other = hook.replace("/acme/", "/globex/");
    assert_eq!(deliver(world, &other, &event, &signature(LINE_SECRET, &event)).await, 404);
    assert_eq!(deliver(world, "/hooks/nobody/0123456789abcdef", &event, "x").await, 404);
    assert_eq!(deliver(world, &format!("{hook}/../../api/v1/system-config"), &event, "x").await, 404);
    assert_eq!(owner.delete(&acme.path("/channels/line1")).await.status, 204);
}

fn event(text: &str) -> String {
    let event = json!({"type": "message", "mode": "active", "timestamp": 1_795_000_000_000_u64,
        "webhookEventId": "01JOURNEY", "deliveryContext": {"isRedelivery": false}, "replyToken": "r1",
        "source": {"type": "user", "userId": "U1"},
        "message": {"type": "text", "id": "m1", "quoteToken": "q1", "text": text}});
    serde_json::to_string_pretty(&json!({"destination": "U0", "events": [event]})).unwrap()
}

fn signature(secret: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, body.as_bytes()))
}

async fn deliver(world: &World, path: &str, body: &str, signature: &str) -> u16 {
    let request = world.platform.api().request(Method::POST, path);
    let request = request.header("x-line-signature", signature).header("content-type", "application/json");
    let response = request.body(body.to_owned()).send().await.unwrap();
    let status = response.status().as_u16();
    let _: Result<Value, _> = response.json().await;
    status
}
