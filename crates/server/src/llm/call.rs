//! One call of a model, from when it was let in: however it ends, also when the bot goes away, it is counted once.

use std::sync::Arc;

use astrfleet_core::{
    message::TokenUsage,
    time::Timestamp,
    usage::{Outcome, UsageRecord},
};
use prometheus_client::metrics::counter::Counter;

use super::{
    budget::Reservation,
    keys::Bot,
    ledger::Ledger,
    request::{ChatRequest, tokens},
};
use crate::{
    app::Base,
    metrics::{LlmLabels, Metrics},
};

/// Who answers, for the ledger and the metrics.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    counters: [Counter; 3],
}

impl Source {
    pub(super) fn new(name: &str, metrics: &Metrics) -> Self {
        let counters = ["complete", "aborted", "failed"].map(|outcome| {
            let labels = LlmLabels { upstream: name.to_owned(), outcome };
            Counter::clone(&metrics.llm_requests.get_or_create(&labels))
        });
        Self { name: name.to_owned(), counters }
    }

    fn count(&self, outcome: Outcome) -> &'static str {
        let (at, name) = match outcome {
            Outcome::Complete => (0, "complete"),
            Outcome::Aborted => (1, "aborted"),
            Outcome::Failed => (2, "failed"),
        };
        self.counters[at].inc();
        name
    }
}

/// Counted when dropped.
pub(super) struct Call {
    base: Arc<Base>,
    ledger: Arc<Ledger>,
    pub(super) bot: Arc<Bot>,
    reservation: Option<Reservation>,
    began: Timestamp,
    prompt_tokens: u64,
    /// Who was asked last, and for which model.
    asked: Option<(Arc<Source>, String)>,
    /// What the provider said that it took.
    pub(super) usage: Option<TokenUsage>,
    /// What has passed, for an estimate.
    pub(super) text_bytes: u64,
    /// Until something else is known, the bot went away.
    pub(super) outcome: Outcome,
}

impl Call {
    pub(super) fn begin(
        base: &Arc<Base>,
        ledger: &Arc<Ledger>,
        bot: &Arc<Bot>,
        reservation: Reservation,
        request: &ChatRequest,
    ) -> Self {
        Self {
            base: Arc::clone(base),
            ledger: Arc::clone(ledger),
            bot: Arc::clone(bot),
            reservation: Some(reservation),
            began: base.clock.now(),
            prompt_tokens: request.prompt_tokens,
            asked: None,
            usage: None,
            text_bytes: 0,
            outcome: Outcome::Aborted,
        }
    }

    /// Somebody is asked now.
    pub(super) fn asks(&mut self, source: &Arc<Source>, model: &str) {
        self.asked = Some((Arc::clone(source), model.to_owned()));
    }

    /// What it took, and whether that is a guess. A call that failed before its answer began took nothing.
    fn tokens(&self) -> (TokenUsage, bool) {
        match (self.usage, self.outcome) {
            (Some(usage), _) => (usage, false),
            (None, Outcome::Failed) if self.text_bytes == 0 => (TokenUsage::default(), false),
            (None, _) => {
                let completion_tokens = tokens(self.text_bytes);
                (TokenUsage { prompt_tokens: self.prompt_tokens, completion_tokens }, true)
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        // Nobody was asked: nothing was taken.
        let Some((source, model)) = self.asked.take() else { return };
        let now = self.base.clock.now();
        let (tokens, estimated) = self.tokens();
        reservation.settle(now.month_start(), tokens.total());
        let outcome = source.count(self.outcome);
        self.base.metrics.llm_tokens.inc_by(tokens.total());
        let duration_ms = u64::try_from(now.since(self.began).as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            tenant_id = %self.bot.tenant,
            instance_id = %self.bot.id,
            upstream = source.name,
            model,
            outcome,
            estimated,
            prompt_tokens = tokens.prompt_tokens,
            completion_tokens = tokens.completion_tokens,
            processing_time_ms = duration_ms,
            "a model was called"
        );
        self.ledger.add(UsageRecord {
            id: self.base.ids.usage(),
            tenant_id: self.bot.tenant.clone(),
            instance_id: self.bot.id.clone(),
            upstream: source.name.clone(),
            model,
            tokens,
            estimated,
            outcome: self.outcome,
            at: now,
            duration_ms,
        });
    }
}
