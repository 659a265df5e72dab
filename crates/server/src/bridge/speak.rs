//! What a bot says to a conversation that answers no message: by a timer, a tool or a plugin. The same fence as for an
//! answer, without a message: not where a person answers, and not into what was closed.

use astrfleet_core::{
    Error, Result,
    bridge::{Late, too_late},
    id::MessageId,
    message::State,
    ports::{BusEvent, Spoken},
};

use super::{
    AskingBot, Service,
    arrive::{UMO_BYTES_MAX, peer, text},
    depart::{ANSWER_BYTES_MAX, TOLD_BYTES_MAX},
};
use crate::metrics::StateLabel;

impl Service {
    /// Whether a bot may say something by itself; why not, where it may not.
    pub(super) async fn may_speak(&self, bot: &AskingBot, umo: &str) -> Result<Option<Late>> {
        text("umo", umo, UMO_BYTES_MAX)?;
        let session = self.base.store.bridge(&bot.tenant.id).newest_session(&peer(umo), umo).await?;
        let served = bot.tenant.must_be_served().is_ok();
        let late = if served { too_late(&session, State::Done, session.generation) } else { Some(Late::Ended) };
        if let Some(late) = late {
            tracing::info!(session_id = %session.id, ?late, "what a bot said by itself was kept back");
        }
        Ok(late)
    }

    /// Stores what went out, whoever answers by now: it was said.
    pub(super) async fn spoken(
        &self,
        bot: &AskingBot,
        umo: &str,
        told: &str,
        words: String,
    ) -> Result<Option<MessageId>> {
        text("umo", umo, UMO_BYTES_MAX)?;
        text("told_id", told, TOLD_BYTES_MAX)?;
        if words.len() > ANSWER_BYTES_MAX {
            return Err(Error::TooLarge { what: "the answer", limit_bytes: ANSWER_BYTES_MAX as u64 });
        }
        if words.trim() == self.base.secrets.failure_text()?.trim() {
            // The model failed, and nobody asked anything.
            return Ok(None);
        }
        let tenant = &bot.tenant.id;
        let bridge = self.base.store.bridge(tenant);
        let session = bridge.newest_session(&peer(umo), umo).await?.id;
        let spoken = Spoken { id: self.base.ids.message(), session, text: words };
        let heard = bridge.spoken(&spoken, &format!("told {told}"), self.base.clock.now()).await?;
        if heard.is_new {
            self.base.metrics.messages.get_or_create(&StateLabel { state: "done".to_owned() }).inc();
            self.base.bus.publish(BusEvent::SessionChanged(tenant.clone(), heard.session));
        }
        Ok(heard.said)
    }
}
