//! Ways around a plain answer: a mention and nothing else, a command that is not for everybody, what a tool sends, and a
//! channel that gets another account. Whatever leads in or out, everything is stored, and answered once.

use astrfleet_testkit::{fake_provider::Behaviour, fake_telegram::Failure};
use serde_json::json;

use crate::{
    bridge::{Channel, echoes},
    world::{PATIENCE, World},
};

/// `@bot` alone, or `/`: the bot asks what is wanted, and waits for the next message, which is a message like any other.
pub async fn a_mention_and_nothing_else(world: &mut World) {
    let channel = Channel::open(&world.acme, "tgn", "6008:token-of-mentions").await;
    for (chat, call, stored) in [(-50, "@fake_6008_bot", "[At:fake_6008_bot]"), (50, "/", "/")] {
        channel.bot.send_text(chat, "ida", call);
        channel.bot.wait_for(|sent| sent.iter().any(|sent| sent.chat_id == chat), PATIENCE).await;
        channel.settled(chat, 1).await;
        let (mut asked, mut answered) = (vec![stored.to_owned()], Vec::new());
        // The bot begins to wait a moment after it has asked. Until then a group's words are not meant for it, and a
        // person's are answered as any others.
        while answered.is_empty() || chat > 0 && answered.len() < 2 {
            let question = format!("question {} of {chat}", asked.len());
            channel.bot.send_text(chat, "ida", &question);
            asked.push(question.clone());
            channel.settled(chat, asked.len()).await;
            if channel.read(chat).len() > answered.len() + 1 {
                answered.push(question);
            }
        }
        let history = channel.settled(chat, asked.len()).await;
        assert_eq!(channel.said(chat, "user").await, asked, "{history:?}");
        assert!(history.iter().all(|message| message["state"] == "done"), "{history:?}");
        assert_eq!(channel.read(chat)[1..], echoes(&answered), "once each");
        assert_eq!(channel.said(chat, "bot").await, channel.read(chat));
        assert!(history.iter().filter(|message| message["author"] == "bot").all(|reply| reply["reply_to"].is_string()));
    }
    // Nothing waits any more: people talk among themselves, and then to the bot.
    let (said, read) = (channel.said(-50, "user").await.len(), channel.read(-50).len());
    channel.bot.send_text(-50, "jon", "never mind");
    channel.bot.send_text(-50, "ida", "@fake_6008_bot once more");
    channel.bot.wait_for_text(-50, "once more").await;
    channel.settled(-50, said + 2).await;
    assert_eq!(channel.read(-50).len(), read + 1, "{:?}", channel.read(-50));
    channel.close().await;
}

/// Nobody is an administrator in a channel: such a command is stored, and answered by nobody.
pub async fn a_command_that_is_not_for_everybody(world: &mut World) {
    let channel = Channel::open(&world.acme, "tgc", "6009:token-of-commands").await;
    channel.bot.send_text(51, "kim", "/name mine");
    channel.bot.send_text(51, "kim", "hello");
    channel.bot.wait_for_text(51, "echo: hello").await;
    let history = channel.settled(51, 2).await;
    assert_eq!((&history[0]["text"], &history[0]["failure"]["code"]), (&json!("/name mine"), &json!("no_answer")));
    assert_eq!(channel.read(51), ["echo: hello"], "{history:?}");
    channel.close().await;
}

/// What a tool of the bot says to people goes the way of an answer: fenced, and stored.
pub async fn what_a_tool_says(world: &mut World) {
    let channel = Channel::open(&world.acme, "tgt", "6010:token-of-tools").await;
    let tool = r#"#tool=send_message_to_user #args={"messages":[{"type":"plain","text":"by_the_tool"}]}"#;
    // Once with other words at the end, and once with the same, which the bot does not send a second time.
    channel.bot.send_text(52, "lea", &format!("one {tool} #say=done"));
    channel.bot.wait_for_text(52, "done").await;
    channel.told(52, 2).await;
    assert_eq!(channel.read(52), ["by_the_tool", "done"]);
    channel.bot.send_text(52, "lea", &format!("two {tool} #say=by_the_tool"));
    let second = channel.settled(52, 2).await;
    assert_eq!(second[3]["state"], "done", "{second:?}");
    channel.told(52, 3).await;

    // A person comes while the bot thinks of its tool.
    let calls = channel.bot.sent().len();
    world.provider.next(Behaviour { stall_after: Some(0), ..Behaviour::default() });
    channel.bot.send_text(52, "lea", &format!("three {tool} #say=never"));
    world.provider.wait_until(|counts| counts.stalled == 1).await;
    let session = channel.session(52).await;
    let _ = world.acme.owner.post(&channel.path(&session, "/take-over"), json!({})).await.ok();
    world.provider.release();
    channel.settled(52, 3).await;
    channel.bot.send_text(53, "max", "and elsewhere");
    channel.bot.wait_for_text(53, "echo: and elsewhere").await;
    assert_eq!(channel.bot.sent().len(), calls + 1, "{:?}", channel.read(52));
    channel.close().await;
}

/// Another account counts its messages from the beginning: none of them is taken for one of before.
pub async fn another_account(world: &mut World) {
    let channel = Channel::open(&world.acme, "tgs", "6011:token-of-before").await;
    channel.bot.send_text(54, "ned", "to the first");
    channel.bot.wait_for_text(54, "echo: to the first").await;
    channel.settled(54, 1).await;
    let channel = channel.with_account("6012:token-of-after").await;
    let number = channel.bot.send_text(54, "ned", "to the second").message_id;
    assert_eq!(number, 1, "the number of the first message to the other account");
    channel.bot.wait_for_text(54, "echo: to the second").await;
    channel.settled(54, 2).await;
    let asked = ["to the first".to_owned(), "to the second".to_owned()];
    assert_eq!((channel.said(54, "user").await, channel.said(54, "bot").await), (asked.to_vec(), echoes(&asked)));

    // An answer that arrives, and whose connection breaks: the bot cannot know, and does not say it twice.
    channel.bot.fail_next("sendMessage", Failure::CutAfter);
    channel.bot.send_text(55, "oda", "half heard");
    let history = channel.settled(55, 1).await;
    assert_eq!(history[0]["failure"]["code"], "not_sent", "{history:?}");
    channel.bot.send_text(55, "oda", "and again");
    channel.bot.wait_for_text(55, "echo: and again").await;
    assert_eq!(channel.read(55), ["echo: half heard", "echo: and again"]);
    channel.close().await;
}
