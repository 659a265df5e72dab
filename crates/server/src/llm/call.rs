//! One call of a model, from when it was let in: however it ends, also when the bot goes away, it is counted once.

use std::sync::Arc;

use astrfleet_core::{
    message::TokenUsage,
    time::Timestamp,
    usage::{Outcome, UsageRecord},
};
use prometheus_client::metrics::counter::Counter;

use super::{
    admission::Admitted,
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
    admitted: Option<Admitted>,
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
        admitted: Admitted,
        request: &ChatRequest,
    ) -> Self {
        Self {
            base: Arc::clone(base),
            ledger: Arc::clone(ledger),
            bot: Arc::clone(bot),
            admitted: Some(admitted),
            began: base.clock.now(),
            prompt_tokens: request.prompt_tokens,
            asked: None,
            usage: None,
            text_bytes: 0,
            outcome: Outcome::Aborted,
        }
    }

    /// Counts a call that the cache answered: nobody was asked, and nothing was taken.
    pub(super) fn count_cached(base: &Base, ledger: &Arc<Ledger>, source: &Source, bot: &Arc<Bot>, model: &str) {
        source.count(Outcome::Complete);
        let record = UsageRecord {
            id: base.ids.usage(),
            tenant_id: bot.tenant.clone(),
            instance_id: bot.id.clone(),
            upstream: source.name.clone(),
            model: model.to_owned(),
            tokens: TokenUsage::default(),
            estimated: false,
            outcome: Outcome::Complete,
            at: base.clock.now(),
            duration_ms: 0,
        };
        ledger.add(record, Arc::clone(bot));
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
        let Some(admitted) = self.admitted.take() else { return };
        // Nobody was asked: nothing was taken.
        let Some((source, model)) = self.asked.take() else { return };
        let now = self.base.clock.now();
        let (tokens, estimated) = self.tokens();
        admitted.settle(now.month_start(), tokens.total());
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
        let record = UsageRecord {
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
        };
        self.ledger.add(record, Arc::clone(&self.bot));
    }
}
