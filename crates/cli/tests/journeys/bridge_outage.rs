//! The platform cannot be reached for a minute, and the bot goes on: its model answers all the while.

use std::time::Duration;

use astrfleet_testkit::{fake_provider::Behaviour, processes::signal};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::{
    bridge::{Channel, echoes, numbered},
    world::{World, until},
};

/// As long as the outage lasts at least.
const OUTAGE: Duration = Duration::from_mins(1);

/// It begins between a verdict and its answer, and in the middle of it the bot is killed, with what it has not told yet on
/// the disk. All of it is stored: in order, once, and with what it took.
pub async fn the_bot_answers_all_the_while(world: &mut World) {
    let World { provider, acme, way, .. } = &*world;
    let channel = Channel::open(acme, "tgo", "6013:token-of-the-outage").await;
    channel.bot.send_text(60, "pia", "before");
    channel.bot.wait_for_text(60, "echo: before").await;
    channel.settled(60, 1).await;
    let bot = world.bot(acme).await;

    provider.next(Behaviour { stall_after: Some(0), ..Behaviour::default() });
    channel.bot.send_text(60, "pia", "in between");
    provider.wait_until(|counts| counts.stalled == 1).await;
    way.close();
    let since = Instant::now();
    provider.release();
    channel.bot.wait_for_text(60, "echo: in between").await;
    let meanwhile = numbered("meanwhile", 8);
    let (early, late) = meanwhile.split_at(5);
    for text in early {
        channel.bot.send_text(60, "pia", text);
        channel.bot.wait_for_text(60, &format!("echo: {text}")).await;
    }
    channel.bot.wait_until_drained().await;
    channel.bot.redeliver(2);
    let waiting = format!("/proc/{bot}/cwd/data/plugin_data/astrfleet_bridge/waiting.jsonl");
    until("what was said is on the disk", async || {
        std::fs::read_to_string(&waiting).unwrap().matches(r#""path":"sent""#).count() == early.len() + 1
    })
    .await;
    let generation = acme.instance().await["generation"].as_u64();
    signal(bot, Signal::KILL);
    acme.until_instance(|instance| instance["ready"] == true && instance["generation"].as_u64() > generation).await;
    channel.bot.redeliver(3);
    for text in late {
        channel.bot.send_text(60, "pia", text);
        channel.bot.wait_for_text(60, &format!("echo: {text}")).await;
    }
    tokio::time::sleep_until(since + OUTAGE).await;
    assert_eq!(channel.said(60, "user").await, ["before", "in between"], "nobody has heard of the others yet");
    way.open();
    channel.bot.send_text(60, "pia", "after");
    channel.bot.wait_for_text(60, "echo: after").await;

    let all =
        [vec!["before".to_owned(), "in between".to_owned()], meanwhile.clone(), vec!["after".to_owned()]].concat();
    let history = channel.settled(60, all.len()).await;
    assert_eq!(channel.said(60, "user").await, all, "{history:?}");
    assert_eq!(channel.read(60), echoes(&all), "people read each answer once");
    assert_eq!(channel.said(60, "bot").await, echoes(&all), "{history:?}");
    for reply in history.iter().filter(|message| message["author"] == "bot") {
        assert!(reply["usage"]["completion_tokens"].as_u64().unwrap_or(0) > 0, "{reply}");
        assert!(reply["reply_to"].is_string(), "{reply}");
    }
    assert!(history.iter().all(|message| message["state"] == "done"), "{history:?}");
    for text in &meanwhile {
        assert_eq!(world.asked(text).len(), 1, "{text:?} was asked once");
    }
    channel.close().await;
}
