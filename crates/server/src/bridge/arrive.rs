//! A message that a channel brought: everything that can refuse it, then it is made durable, once, and only then does
//! the bot hear what to do with it.

use std::time::Duration;

use astrfleet_core::{
    Error, Result,
    bridge::{Arrival, Verdict},
    id::MessageId,
    message::{Author, Failure, MAX_TEXT_BYTES, Message, Sender, State},
    ports::{BusEvent, Inbound, TakenIn},
    session::{self, Session},
    tenant::Tenant,
    time::Timestamp,
};
use serde_json::json;

use super::{AskingBot, Service};
use crate::{message::Counted, metrics::StateLabel};

/// How far back the time of a message that is told later is believed.
const LATE_MAX: Duration = Duration::from_hours(7 * 24);
const CHANNEL_BYTES_MAX: usize = 128;
pub(super) const UMO_BYTES_MAX: usize = 512;
const NUMBER_BYTES_MAX: usize = 256;
const DELIVERY_BYTES_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 128;
const PARTS_MAX: usize = 20;
const PART_CHARS_MAX: usize = 200;

/// What a bridge tells of a message.
pub(super) struct Arrived {
    pub channel: String,
    pub number: Number,
    pub delivery: String,
    pub start: i64,
    pub sender: Sender,
    pub text: String,
    pub parts: Vec<Part>,
    /// Whether the bot is meant.
    pub addressed: bool,
    /// We were away when it came, and this is what the bot did.
    pub late: Option<Meanwhile>,
    /// When it came, in milliseconds since 1970; only of one that is told later.
    pub received_at_ms: Option<i64>,
}

/// What a bot did while we were away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Meanwhile {
    /// It answered, or is about to.
    Answered,
    /// It said nothing.
    Silent,
}

/// Something beside the text: a picture, a file, a voice.
#[derive(Clone, Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// In the bot's own word: `image`, `file`, `record`, …
    pub kind: String,
    /// A name, where it has one.
    #[serde(default)]
    pub name: String,
}

/// The IM platform's own number of a message: it counts within a conversation.
#[derive(Clone, Debug)]
pub(super) struct Number {
    pub umo: String,
    pub message: String,
}

impl Number {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<()> {
        text("umo", &self.umo, UMO_BYTES_MAX)?;
        text("platform_message_id", &self.message, NUMBER_BYTES_MAX)
    }

    /// As it stands in the store.
    pub(super) fn key(&self) -> String {
        format!("in {} {}", self.umo, self.message)
    }
}

/// What the bot is told.
pub(super) struct Answer {
    pub verdict: Verdict,
    pub reason: Option<&'static str>,
    pub message: Option<MessageId>,
    pub generation: i64,
}

/// Whether a message is let in at all.
enum Admission {
    /// Yes, and it is counted.
    Yes(Counted),
    /// It is stored, and goes no further.
    No(Failure),
    /// Nothing of it is kept.
    NotEvenStored(&'static str),
}

impl Arrived {
    fn check(&self) -> Result<()> {
        self.number.check()?;
        text("channel", &self.channel, CHANNEL_BYTES_MAX)?;
        text("delivery", &self.delivery, DELIVERY_BYTES_MAX)?;
        text("sender.id", &self.sender.id, NUMBER_BYTES_MAX)?;
        if self.channel == "webchat" || !self.number.umo.starts_with(&format!("{}:", self.channel)) {
            return Err(Error::invalid(
                "umo",
                "must be a conversation of the channel, and of one that people write in",
            ));
        }
        if self.text.len() > MAX_TEXT_BYTES {
            return Err(Error::invalid("text", format!("must have at most {MAX_TEXT_BYTES} bytes of UTF-8")));
        }
        if self.parts.len() > PARTS_MAX {
            return Err(Error::invalid("parts", format!("must be at most {PARTS_MAX}")));
        }
        Ok(())
    }

    /// What was said, with a line for everything that is no text.
    fn words(&self) -> String {
        let mut words = self.text.clone();
        for Part { kind, name } in &self.parts {
            let of = if name.is_empty() { String::new() } else { format!(": {}", cut(name, PART_CHARS_MAX)) };
            let line = format!("{}[{}{of}]", if words.is_empty() { "" } else { "\n" }, cut(kind, PART_CHARS_MAX));
            if words.len() + line.len() <= MAX_TEXT_BYTES {
                words.push_str(&line);
            }
        }
        words
    }

    /// Whoever writes in a conversation with the bot alone; of a group, the group.
    fn end_user(&self) -> String {
        peer(&self.number.umo)
    }
}

/// Who, or which group, a conversation is with.
pub(super) fn peer(umo: &str) -> String {
    cut(umo.splitn(3, ':').nth(2).unwrap_or(umo), NAME_CHARS_MAX)
}

impl Service {
    /// Takes a message in: when this returns, it is durable.
    pub(super) async fn arrive(&self, bot: &AskingBot, arrived: Arrived) -> Result<Answer> {
        arrived.check()?;
        let begun = self.base.clock.now();
        let (counted, arrival) = match self.admit(&bot.tenant, &arrived).await? {
            Admission::NotEvenStored(reason) => {
                return Ok(Answer { verdict: Verdict::Drop, reason: Some(reason), message: None, generation: 0 });
            }
            Admission::No(failure) if arrived.late != Some(Meanwhile::Answered) => (None, Arrival::Refused(failure)),
            Admission::No(_) => (None, Arrival::AnsweredMeanwhile),
            Admission::Yes(counted) => (Some(counted), arrival(&arrived)),
        };
        let inbound = self.inbound(&bot.tenant, &arrived, arrival, begun);
        let taken = self.base.store.bridge(&bot.tenant.id).take_in(inbound).await?;
        if taken.is_new {
            if let Some(counted) = counted {
                counted.keep();
            }
            self.tell(&taken, arrived.text.len(), begun);
        }
        let (verdict, reason) = (taken.verdict, reason(&taken));
        Ok(Answer { verdict, reason, message: Some(taken.message.id), generation: taken.session.generation })
    }

    /// Everything that can refuse a message.
    async fn admit(&self, tenant: &Tenant, arrived: &Arrived) -> Result<Admission> {
        if tenant.must_be_served().is_err() {
            return Ok(Admission::NotEvenStored("tenant_not_served"));
        }
        if self.tenants.is_blocked(&tenant.id, &arrived.channel, &arrived.sender.id).await? {
            return Ok(Admission::NotEvenStored("blocked"));
        }
        match self.messages.count(tenant).await {
            Ok(counted) => Ok(Admission::Yes(counted)),
            Err(error @ Error::QuotaExceeded { .. }) => {
                Ok(Admission::No(Failure { code: "quota_exceeded".to_owned(), detail: error.to_string() }))
            }
            Err(error) => Err(error),
        }
    }

    fn inbound(&self, tenant: &Tenant, arrived: &Arrived, arrival: Arrival, now: Timestamp) -> Inbound {
        let session = Session {
            id: self.base.ids.session(),
            tenant_id: tenant.id.clone(),
            end_user: arrived.end_user(),
            channel: arrived.channel.clone(),
            umo: Some(arrived.number.umo.clone()),
            state: session::State::Bot,
            close_reason: None,
            metadata: json!({}),
            generation: 0,
            created_at: now,
            last_active_at: now,
            version: 1,
        };
        let came = arrived.received_at_ms.map_or(now, |ms| Timestamp::from_micros(ms.saturating_mul(1_000)));
        let sender = Sender { id: arrived.sender.id.clone(), name: cut(&arrived.sender.name, NAME_CHARS_MAX) };
        let message = Message {
            id: self.base.ids.message(),
            tenant_id: tenant.id.clone(),
            session_id: session.id.clone(),
            author: Author::User,
            sender: Some(Box::new(sender)),
            text: arrived.words(),
            attachments: Vec::new(),
            state: State::Delivering,
            reply_to: None,
            failure: None,
            usage: None,
            created_at: came.clamp(now.minus(LATE_MAX), now),
            updated_at: now,
        };
        let (platform_id, delivery) = (arrived.number.key(), arrived.delivery.clone());
        Inbound { message, session, platform_id, delivery, start: arrived.start, arrival }
    }

    fn tell(&self, taken: &TakenIn, content_length: usize, begun: Timestamp) {
        let TakenIn { message, session, .. } = taken;
        self.base.metrics.messages.get_or_create(&StateLabel { state: "accepted".to_owned() }).inc();
        tracing::info!(
            tenant_id = %message.tenant_id,
            channel = session.channel,
            session_id = %session.id,
            message_id = %message.id,
            content_length,
            processing_time_ms = u64::try_from(self.base.clock.now().since(begun).as_millis()).unwrap_or(u64::MAX),
            "message_created"
        );
        self.base.bus.publish(BusEvent::SessionChanged(message.tenant_id.clone(), session.id.clone()));
    }
}

fn arrival(arrived: &Arrived) -> Arrival {
    match arrived.late {
        Some(Meanwhile::Answered) => Arrival::AnsweredMeanwhile,
        Some(Meanwhile::Silent) => Arrival::SilentMeanwhile,
        None if arrived.addressed => Arrival::Asked,
        None => Arrival::Overheard,
    }
}

/// Why the bot is to be silent, where it is.
fn reason(taken: &TakenIn) -> Option<&'static str> {
    if !taken.is_theirs {
        return Some("duplicate");
    }
    match (taken.verdict, taken.message.state) {
        (Verdict::Answer, _) => None,
        (Verdict::Hold, _) => Some("person"),
        (Verdict::Drop, State::Blocked) => Some("quota_exceeded"),
        (Verdict::Drop, _) => Some("ended"),
    }
}

pub(super) fn text(field: &'static str, value: &str, bytes_max: usize) -> Result<()> {
    if (1..=bytes_max).contains(&value.len()) && !value.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("must have 1 to {bytes_max} bytes of UTF-8 and no control characters")))
}

fn cut(text: &str, chars_max: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use astrfleet_core::message::{MAX_TEXT_BYTES, Sender};

    use super::{Arrived, Number, Part};

    fn arrived() -> Arrived {
        Arrived {
            channel: "tg1".to_owned(),
            number: Number { umo: "tg1:FriendMessage:7".to_owned(), message: "12".to_owned() },
            delivery: "3-0123".to_owned(),
            start: 3,
            sender: Sender { id: "7".to_owned(), name: "ann".to_owned() },
            text: "Hi".to_owned(),
            parts: Vec::new(),
            addressed: true,
            late: None,
            received_at_ms: None,
        }
    }

    #[test]
    fn everything_has_a_limit() {
        assert!(arrived().check().is_ok());
        let number = |umo: &str, message: &str| Number { umo: umo.to_owned(), message: message.to_owned() };
        let wrong = [
            Arrived { channel: "tg2".to_owned(), ..arrived() },
            Arrived { channel: "webchat".to_owned(), number: number("webchat:a:b", "1"), ..arrived() },
            Arrived { number: number("tg1:FriendMessage:7", ""), ..arrived() },
            Arrived { number: number("tg1:FriendMessage:\0", "1"), ..arrived() },
            Arrived { number: number(&format!("tg1:{}", "x".repeat(512)), "1"), ..arrived() },
            Arrived { delivery: "x".repeat(65), ..arrived() },
            Arrived { text: "x".repeat(MAX_TEXT_BYTES + 1), ..arrived() },
            Arrived { parts: vec![Part { kind: "image".to_owned(), name: String::new() }; 21], ..arrived() },
        ];
        for wrong in wrong {
            assert!(wrong.check().is_err());
        }
    }

    #[test]
    fn what_is_no_text_has_a_line() {
        let parts = vec![
            Part { kind: "image".to_owned(), name: "cat.png".to_owned() },
            Part { kind: "record".to_owned(), name: String::new() },
        ];
        let said = Arrived { parts: parts.clone(), ..arrived() };
        assert_eq!(said.words(), "Hi\n[image: cat.png]\n[record]");
        let alone = Arrived { text: String::new(), parts, ..arrived() };
        assert_eq!(alone.words(), "[image: cat.png]\n[record]");
        let full = Arrived { text: "x".repeat(MAX_TEXT_BYTES), ..alone };
        assert_eq!(full.words().len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn a_conversation_is_named_by_its_peer() {
        assert_eq!(arrived().end_user(), "7");
    }
}
