//! What a bot says to a message of a channel: whether it may still go out, and what went out.

use astrfleet_core::{
    Error, Result,
    bridge::{Late, too_late},
    id::MessageId,
    message::{Failure, State, TokenUsage},
    ports::{BusEvent, Told, kept_back},
};

use super::{
    AskingBot, Service,
    arrive::{Number, text},
};
use crate::metrics::StateLabel;

/// The longest answer that is stored; a longer one is cut by the bridge.
pub(super) const ANSWER_BYTES_MAX: usize = 128 << 10;
pub(super) const TOLD_BYTES_MAX: usize = 64;

/// What a bridge tells of an answer.
pub(super) struct Departed {
    pub number: Number,
    pub told: String,
    pub outcome: Departure,
    pub text: String,
    pub usage: Option<TokenUsage>,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Departure {
    /// It went out.
    Sent,
    /// The IM platform did not take it.
    NotSent,
    /// There was none.
    Nothing,
    /// The bot answers the message together with the one before it.
    Merged,
}

impl Service {
    /// Whether an answer may still go out; why not, where it may not. Then the message is at its end.
    pub(super) async fn may_depart(&self, bot: &AskingBot, number: &Number, generation: i64) -> Result<Option<Late>> {
        number.check()?;
        let bridge = self.base.store.bridge(&bot.tenant.id);
        let (message, session) = bridge.find(&number.key()).await?;
        let served = bot.tenant.must_be_served().is_ok();
        let late = if served { too_late(&session, message.state, generation) } else { Some(Late::Ended) };
        let Some(late) = late else { return Ok(None) };
        tracing::info!(message_id = %message.id, session_id = %session.id, ?late, "an answer was kept back");
        if message.state == State::Delivering {
            let failure = kept_back(late);
            let state = if failure.is_some() { State::Failed } else { State::Done };
            self.end(bot, number, "", Told::Ended(state, failure)).await?;
        }
        Ok(Some(late))
    }

    /// Stores what went out, or why nothing did.
    pub(super) async fn departed(&self, bot: &AskingBot, departed: Departed) -> Result<Option<MessageId>> {
        departed.number.check()?;
        text("told_id", &departed.told, TOLD_BYTES_MAX)?;
        if departed.text.len() > ANSWER_BYTES_MAX {
            return Err(Error::TooLarge { what: "the answer", limit_bytes: ANSWER_BYTES_MAX as u64 });
        }
        let told = self.outcome(bot, &departed).await?;
        self.end(bot, &departed.number, &departed.told, told).await
    }

    async fn outcome(&self, bot: &AskingBot, departed: &Departed) -> Result<Told> {
        let failed = |code: &str, detail: &str| {
            Told::Ended(State::Failed, Some(Failure { code: code.to_owned(), detail: detail.to_owned() }))
        };
        Ok(match departed.outcome {
            Departure::Sent if departed.text.trim() == self.base.secrets.failure_text()?.trim() => {
                let (message, _) = self.base.store.bridge(&bot.tenant.id).find(&departed.number.key()).await?;
                match self.llm.failure_since(&bot.instance, message.created_at) {
                    Some(failure) => Told::Ended(State::Failed, Some(failure)),
                    None => failed("model_failed", "the model gave no answer to this message"),
                }
            }
            Departure::Sent => {
                Told::Sent { id: self.base.ids.message(), text: departed.text.clone(), usage: departed.usage }
            }
            Departure::NotSent => failed("not_sent", "the IM platform did not take the bot's answer to this message"),
            Departure::Nothing => failed("no_answer", "the bot ended without an answer to this message"),
            Departure::Merged => Told::Ended(State::Done, None),
        })
    }

    async fn end(&self, bot: &AskingBot, number: &Number, told_id: &str, told: Told) -> Result<Option<MessageId>> {
        let tenant = &bot.tenant.id;
        let state = match &told {
            Told::Sent { .. } => State::Done,
            Told::Ended(state, _) => *state,
        };
        let bridge = self.base.store.bridge(tenant);
        let heard = bridge.told(&number.key(), &format!("told {told_id}"), told, self.base.clock.now()).await?;
        if heard.is_new {
            let state = format!("{state:?}").to_lowercase();
            self.base.metrics.messages.get_or_create(&StateLabel { state }).inc();
            self.base.bus.publish(BusEvent::SessionChanged(tenant.clone(), heard.session));
        }
        Ok(heard.said)
    }
}
