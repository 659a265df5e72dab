//! Messages of IM channels: two real bots with the bridge in them, and a Telegram that redelivers, turns the order around,
//! cuts connections, and goes on while the platform is away. Whatever happens: nothing lost, nothing doubled, in order.

use astrfleet_testkit::{
    fake_provider::Behaviour,
    fake_telegram::{Bot, Failure, FakeTelegram},
};
use serde_json::{Value, json};

use crate::world::{PATIENCE, Tenant, World, until};

/// A tenant's Telegram bot.
pub struct Channel<'a> {
    tenant: &'a Tenant,
    id: &'static str,
    /// As Telegram sees it.
    pub bot: Bot,
    /// Kept running.
    telegram: FakeTelegram,
}

impl<'a> Channel<'a> {
    /// Added to the tenant's bot, and connected.
    pub async fn open(tenant: &'a Tenant, id: &'static str, token: &str) -> Self {
        let telegram = FakeTelegram::start();
        let bot = telegram.bot(token);
        let mut settings = telegram.platform_entry(id, token);
        for name in ["id", "type", "enable"] {
            settings.as_object_mut().unwrap().remove(name);
        }
        let draft = json!({"id": id, "type": "telegram", "settings": settings});
        let added = tenant.owner.post(&tenant.path("/channels"), draft).await;
        assert_eq!(added.status, 201, "{}", added.text);
        bot.wait_until_polling(PATIENCE).await;
        Self { tenant, id, bot, telegram }
    }

    /// The same channel with another account.
    pub async fn with_account(mut self, token: &str) -> Self {
        let path = self.tenant.path(&format!("/channels/{}", self.id));
        let bot = self.telegram.bot(token);
        let changed = self.tenant.owner.patch(&path, json!({"settings": {"telegram_token": token}})).await;
        assert_eq!(changed.status, 200, "{}", changed.text);
        bot.wait_until_polling(PATIENCE).await;
        self.bot = bot;
        self
    }

    /// Deleted.
    pub async fn close(self) {
        let path = self.tenant.path(&format!("/channels/{}", self.id));
        assert_eq!(self.tenant.owner.delete(&path).await.status, 204);
        assert_eq!(self.bot.conflicts(), 0, "never two at once");
        drop(self.telegram);
    }

    /// The sessions of a chat, the newest first.
    async fn sessions(&self, chat: i64) -> Vec<Value> {
        let page = self.tenant.owner.get(&self.tenant.path(&format!("/sessions?end_user={chat}&limit=200"))).await.ok();
        let of_channel = |session: &&Value| session["channel"] == self.id;
        page["items"].as_array().unwrap().iter().filter(of_channel).cloned().collect()
    }

    /// The one session of a chat.
    pub async fn session(&self, chat: i64) -> Value {
        let sessions = self.sessions(chat).await;
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        sessions.into_iter().next().unwrap()
    }

    /// A path below a session.
    pub fn path(&self, session: &Value, rest: &str) -> String {
        self.tenant.path(&format!("/sessions/{}{rest}", session["id"].as_str().unwrap()))
    }

    /// Everything that was said in a chat, as it is stored, the oldest first.
    async fn history(&self, chat: i64) -> Vec<Value> {
        let mut all = Vec::new();
        for session in self.sessions(chat).await.iter().rev() {
            let page = self.tenant.owner.get(&self.path(session, "/messages?limit=200")).await.ok();
            all.extend(page["items"].as_array().unwrap().iter().cloned());
        }
        all
    }

    /// What was said in a chat by somebody, in order.
    pub async fn said(&self, chat: i64, author: &str) -> Vec<String> {
        let history = self.history(chat).await;
        let by = history.iter().filter(|message| message["author"] == author);
        by.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
    }

    /// What people read in a chat, in order.
    pub fn read(&self, chat: i64) -> Vec<String> {
        self.bot.sent().into_iter().filter(|sent| sent.chat_id == chat).map(|sent| sent.text).collect()
    }

    /// Waits until what people have read in a chat, `count` messages, is what is stored: it is told of a moment later.
    pub async fn told(&self, chat: i64, count: usize) {
        until("what people read is stored", async || {
            let read = self.read(chat);
            read.len() == count && self.said(chat, "bot").await == read
        })
        .await;
    }

    /// Waits until nothing of a chat is under way.
    pub async fn settled(&self, chat: i64, messages: usize) -> Vec<Value> {
        until("every message of the chat is at its end", async || {
            let history = self.history(chat).await;
            let users = history.iter().filter(|message| message["author"] == "user");
            let done = users.filter(|message| message["state"] != "delivering").count();
            done == messages
        })
        .await;
        self.history(chat).await
    }
}

/// What the model says to them.
pub fn echoes(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| format!("echo: {text}")).collect()
}

/// `name 0`, `name 1`, …
pub fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name} {number}")).collect()
}

/// Stored before it is answered, answered once, with what it took; by sender, in one session; each tenant its own.
pub async fn a_message_of_a_channel_is_a_message_of_a_session(world: &mut World) {
    let ours = Channel::open(&world.acme, "tgb", "6001:token-of-acme").await;
    let theirs = Channel::open(&world.globex, "tgb", "6002:token-of-globex").await;
    // One after the other, as people write who wait for an answer.
    for text in ["first", "second"] {
        for channel in [&ours, &theirs] {
            channel.bot.send_text(7, "ann", text);
            channel.bot.wait_for_text(7, &format!("echo: {text}")).await;
        }
    }
    for channel in [&ours, &theirs] {
        let history = channel.settled(7, 2).await;
        let texts: Vec<_> = history.iter().map(|message| message["text"].as_str().unwrap()).collect();
        assert_eq!(texts, ["first", "echo: first", "second", "echo: second"], "{history:?}");
        let (asked, reply) = (&history[0], &history[1]);
        assert_eq!((&asked["author"], &asked["state"]), (&json!("user"), &json!("done")), "{asked}");
        assert_eq!(asked["sender"]["name"], "ann", "{asked}");
        assert_eq!((&reply["author"], &reply["reply_to"]), (&json!("bot"), &asked["id"]), "{reply}");
        assert!(reply["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{reply}");
        let session = channel.session(7).await;
        assert_eq!(session["umo"], "tgb:FriendMessage:7", "{session}");
        assert_eq!((&session["channel"], &session["state"]), (&json!("tgb"), &json!("bot")));
        assert_eq!(channel.read(7).len(), 2, "{:?}", channel.bot.sent());
    }
    let hidden = theirs.session(7).await;
    let path = world.acme.path(&format!("/sessions/{}", hidden["id"].as_str().unwrap()));
    assert_eq!(world.acme.owner.get(&path).await.status, 404, "another tenant's");
    // The bot's own chat goes its own way.
    let session = world.acme.session("by the api").await;
    assert_eq!(session.answer("no bridge here").await, "echo: no bridge here");
    assert_eq!(session.history().await.len(), 2);
    ours.close().await;
    theirs.close().await;
}

/// An IM platform that tells of everything twice, in another order, and cuts connections.
pub async fn a_telegram_that_misbehaves(world: &mut World) {
    let channel = Channel::open(&world.acme, "tgm", "6003:token-that-misbehaves").await;
    let texts = numbered("again", 4);
    for text in &texts {
        channel.bot.send_text(9, "bob", text);
        channel.bot.wait_for_text(9, &format!("echo: {text}")).await;
    }
    channel.bot.wait_until_drained().await;
    channel.settled(9, 4).await;
    channel.bot.redeliver(4);
    channel.bot.fail_next("getUpdates", Failure::CutAfter);
    channel.bot.fail_next("getUpdates", Failure::CutBefore);
    // Handed out backwards: stored and answered as they came.
    channel.bot.hold();
    for text in numbered("turned", 3) {
        channel.bot.send_text(10, "cid", &text);
    }
    channel.bot.reorder();
    channel.bot.flow();
    channel.bot.wait_until_drained().await;
    let turned = channel.settled(10, 3).await;
    channel.bot.redeliver(7);
    // What comes after it is answered, so it was looked at.
    channel.bot.send_text(9, "bob", "and on");
    channel.bot.wait_for_text(9, "echo: and on").await;
    let history = channel.settled(9, 5).await;
    assert_eq!(channel.said(9, "user").await, [texts.clone(), vec!["and on".to_owned()]].concat());
    assert_eq!(channel.said(9, "bot").await, echoes(&channel.said(9, "user").await), "{history:?}");
    assert_eq!(channel.read(9), channel.said(9, "bot").await, "people read what is stored, once");
    let mut asked = numbered("turned", 3);
    asked.reverse();
    assert_eq!(channel.said(10, "user").await, asked, "{turned:?}");
    for text in &asked {
        assert!(world.asked(text).len() <= 1, "{text:?} was asked once at the most");
    }
    assert_eq!(channel.read(10), echoes(&asked), "each is answered exactly once");
    assert_eq!(channel.said(10, "bot").await, channel.read(10));
    // An answer that Telegram does not take is no answer.
    channel.bot.fail_next("sendMessage", Failure::CutBefore);
    channel.bot.send_text(11, "dan", "into the void");
    let void = channel.settled(11, 1).await;
    assert_eq!(void[0]["failure"]["code"], "not_sent", "{void:?}");
    channel.close().await;
}

/// Killed and started again: what came meanwhile was answered, and is told later, in order and once.
pub async fn the_platform_is_away(world: &mut World) {
    let World { platform, acme, globex, .. } = world;
    let ours = Channel::open(acme, "tga", "6004:token-of-acme-away").await;
    let theirs = Channel::open(globex, "tga", "6005:token-of-globex-away").await;
    let before = "before".to_owned();
    for channel in [&ours, &theirs] {
        channel.bot.send_text(20, "eve", &before);
        channel.bot.wait_for_text(20, "echo: before").await;
        channel.settled(20, 1).await;
    }
    // A person answers in one of them: there the bot keeps silent also while nobody says so.
    ours.bot.send_text(21, "fay", "a person, please");
    ours.bot.wait_for_text(21, "echo: a person, please").await;
    ours.settled(21, 1).await;
    let handed = ours.session(21).await;
    let _ = acme.owner.post(&ours.path(&handed, "/take-over"), json!({})).await.ok();
    ours.bot.send_text(21, "fay", "are you a person");
    ours.settled(21, 2).await;
    platform.kill_9_platform().await;
    // The model gateway is away, too: bots say what they say where the model fails, and that is told as it is.
    let meanwhile = numbered("meanwhile", 3);
    for channel in [&ours, &theirs] {
        for text in &meanwhile {
            let read = channel.read(20).len();
            channel.bot.send_text(20, "eve", text);
            channel.bot.wait_for(|sent| sent.iter().filter(|sent| sent.chat_id == 20).count() > read, PATIENCE).await;
        }
        channel.bot.redeliver(2);
        channel.bot.wait_until_drained().await;
    }
    ours.bot.send_text(21, "fay", "anybody there");
    ours.bot.wait_until_drained().await;
    platform.restart().await;
    let after = "after".to_owned();
    for channel in [&ours, &theirs] {
        channel.bot.send_text(20, "eve", &after);
        channel.bot.wait_for_text(20, "echo: after").await;
        let history = channel.settled(20, 5).await;
        let all = [vec![before.clone()], meanwhile.clone(), vec![after.clone()]].concat();
        assert_eq!(channel.said(20, "user").await, all, "{history:?}");
        assert_eq!(channel.read(20).len(), 5, "one answer each: {:?}", channel.read(20));
        for message in history.iter().filter(|message| meanwhile.iter().any(|text| message["text"] == text.as_str())) {
            assert_eq!(message["failure"]["code"], "model_failed", "{message}");
        }
        assert_eq!(channel.said(20, "bot").await, ["echo: before", "echo: after"]);
    }
    let held = ours.settled(21, 3).await;
    assert_eq!(ours.said(21, "user").await, ["a person, please", "are you a person", "anybody there"], "{held:?}");
    assert_eq!(ours.read(21).len(), 1, "the bot kept silent: {:?}", ours.read(21));
    ours.close().await;
    theirs.close().await;
}

/// An answer that comes when a person answers already is not sent; the person's own words go out through the bot.
pub async fn a_person_takes_over(world: &mut World) {
    let channel = Channel::open(&world.acme, "tgp", "6006:token-of-persons").await;
    let agent = &world.acme.owner;
    channel.bot.send_text(30, "gus", "hello bot");
    channel.bot.wait_for_text(30, "echo: hello bot").await;
    channel.settled(30, 1).await;
    let session = channel.session(30).await;
    let early = agent.post(&channel.path(&session, "/messages"), json!({"text": "too early"})).await;
    assert_eq!((early.status, &early.body["code"]), (409, &json!("conflict")), "{}", early.text);

    // The bot works on an answer while the person comes.
    world.provider.next(Behaviour { stall_after: Some(0), ..Behaviour::default() });
    channel.bot.send_text(30, "gus", "a hard question");
    world.provider.wait_until(|counts| counts.stalled == 1).await;
    let taken = agent.post(&channel.path(&session, "/take-over"), json!({})).await.ok();
    assert_eq!(taken["state"], "active");
    assert_eq!(agent.post(&channel.path(&session, "/take-over"), json!({})).await.status, 409);
    world.provider.release();
    let history = channel.settled(30, 2).await;
    assert_eq!(history.last().unwrap()["state"], "done", "{history:?}");

    channel.bot.send_text(30, "gus", "is anybody there");
    channel.settled(30, 3).await;
    let reply = json!({"text": "I am Mia. How can I help?"});
    let keyed = agent.with_header("idempotency-key", "mia-1");
    let said = keyed.post(&channel.path(&session, "/messages"), reply.clone()).await.ok();
    assert_eq!((&said["message"]["author"], &said["message"]["state"]), (&json!("agent"), &json!("done")), "{said}");
    let again = keyed.post(&channel.path(&session, "/messages"), reply).await.ok();
    assert_eq!(again["message"]["id"], said["message"]["id"], "said once");
    channel.bot.wait_for_text(30, "I am Mia").await;
    channel.bot.fail_next("sendMessage", Failure::Refuse(403));
    let refused = agent.post(&channel.path(&session, "/messages"), json!({"text": "lost"})).await.ok();
    assert_eq!(refused["message"]["failure"]["code"], "not_sent", "{refused}");

    let back = agent.post(&channel.path(&session, "/hand-back"), json!({})).await.ok();
    assert_eq!(back["state"], "bot");
    channel.bot.send_text(30, "gus", "hello again");
    channel.bot.wait_for_text(30, "echo: hello again").await;
    channel.settled(30, 4).await;
    assert_eq!(channel.read(30), ["echo: hello bot", "I am Mia. How can I help?", "echo: hello again"]);
    let said = channel.said(30, "bot").await;
    assert_eq!(said, ["echo: hello bot", "echo: hello again"], "what was not sent is not stored as said");

    // Closed while the bot works: nothing goes out, and the conversation goes on in another session.
    world.provider.next(Behaviour { stall_after: Some(0), ..Behaviour::default() });
    channel.bot.send_text(30, "gus", "one more");
    world.provider.wait_until(|counts| counts.stalled == 1).await;
    let _ = agent.post(&channel.path(&session, "/close"), json!({})).await.ok();
    world.provider.release();
    until("the message is at its end", async || {
        let history = channel.history(30).await;
        history.iter().any(|message| message["text"] == "one more" && message["state"] == "failed")
    })
    .await;
    channel.bot.send_text(30, "gus", "in another session");
    channel.bot.wait_for_text(30, "echo: in another session").await;
    assert_eq!(channel.sessions(30).await.len(), 2);
    assert_eq!(channel.read(30).len(), 4, "{:?}", channel.read(30));
    channel.close().await;
}

/// What a tenant may not or will not have answered is not answered: its messages of the day are used up, it has blocked
/// somebody, or it is suspended.
pub async fn a_tenant_that_may_not(world: &mut World) {
    let globex = &world.globex;
    let channel = Channel::open(globex, "tgq", "6007:token-without-quota").await;
    let mute = json!({"plan": "mute"});
    let _ = world.admin.patch(&globex.path(""), mute).await.ok();
    channel.bot.send_text(40, "hal", "one too many");
    let blocked = channel.settled(40, 1).await;
    assert_eq!((&blocked[0]["state"], &blocked[0]["failure"]["code"]), (&json!("blocked"), &json!("quota_exceeded")));
    let _ = world.admin.patch(&globex.path(""), json!({"plan": "free"})).await.ok();
    channel.bot.send_text(40, "hal", "and now");
    channel.bot.wait_for_text(40, "echo: and now").await;
    channel.settled(40, 2).await;
    assert!(world.asked("one too many").is_empty());

    let block = json!({"end_user": "41", "channel": "tgq"});
    assert_eq!(globex.owner.post(&globex.path("/blocklist"), block).await.status, 201);
    channel.bot.send_text(41, "rude", "insults");
    channel.bot.wait_until_drained().await;

    let _ = world.admin.post(&globex.path("/suspend"), json!({})).await.ok();
    globex.until_instance(|instance| instance["observed"] == "suspended").await;
    channel.bot.send_text(40, "hal", "while suspended");
    let _ = world.admin.post(&globex.path("/resume"), json!({})).await.ok();
    globex.until_instance(|instance| instance["ready"] == true).await;
    channel.bot.wait_for_text(40, "echo: while suspended").await;
    channel.settled(40, 3).await;
    assert_eq!(channel.read(40), ["echo: and now", "echo: while suspended"]);
    assert!(channel.history(41).await.is_empty() && channel.read(41).is_empty(), "whom it has blocked");
    channel.close().await;
}

/// What the bridge adds to a message before its answer goes out, by its own client in its own Python: printed.
pub async fn its_cost_is_measured(world: &mut World) {
    const MESSAGES: &str = "300";
    let bot = world.bot(&world.acme).await;
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{bot}/{file}")).unwrap();
    let environment = read("environ");
    let of_bridge = environment
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| name.starts_with("ASTRFLEET_BRIDGE_"));
    let python = read("cmdline").split('\0').next().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bridge");
    std::os::unix::fs::symlink(plugin, folder.path().join("astrfleet_bridge")).unwrap();
    let measured = tokio::process::Command::new(python)
        .args(["-m", "astrfleet_bridge.tests.cost", MESSAGES])
        .current_dir(folder.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(of_bridge)
        // Not by the way that can be closed.
        .env("ASTRFLEET_BRIDGE_URL", format!("{}/bridge/v1", world.platform.url()))
        .output()
        .await
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&measured.stdout), String::from_utf8_lossy(&measured.stderr));
    assert!(measured.status.success(), "{out}{error}");
    let figures: Value = serde_json::from_str(&out).unwrap();
    assert!(figures["added"]["p50"].as_f64().unwrap() > 0.0, "{figures}");
    print!("milliseconds: {figures} ... ");
}
