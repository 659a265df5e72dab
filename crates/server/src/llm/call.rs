//! One call of a model, from when it was let in. However it ends, also when the bot goes away, it is counted once for each
//! provider that was given its prompt: whoever was silent for too long may have been at work all the same.

use std::sync::Arc;

use astrfleet_core::{
    message::TokenUsage,
    time::Timestamp,
    usage::{Outcome, UsageRecord},
};
use prometheus_client::metrics::counter::Counter;

use super::{
    admission::{Admitted, UnderWay},
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
    admitted: Admitted,
    prompt_tokens: u64,
    /// Who is asked, and for which model.
    asked: Option<(Arc<Source>, String)>,
    /// Since when.
    began: Timestamp,
    /// Whether whoever is asked has the prompt and did not refuse it.
    pub(super) given: bool,
    /// What the provider said that it took.
    pub(super) usage: Option<TokenUsage>,
    /// What has passed, for an estimate.
    pub(super) text_bytes: u64,
    /// While somebody is asked, and until something else is known: the bot went away.
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
            admitted,
            prompt_tokens: request.prompt_tokens,
            asked: None,
            began: base.clock.now(),
            given: false,
            usage: None,
            text_bytes: 0,
            outcome: Outcome::Aborted,
        }
    }

    /// Counts a call that the cache answered: nobody was asked, and nothing was taken. It is under way as `hit` until its
    /// line is written, so that what costs nothing does not fill the ledger faster than that can be written.
    pub(super) fn count_cached(
        base: &Base,
        ledger: &Arc<Ledger>,
        source: &Source,
        bot: &Arc<Bot>,
        hit: UnderWay,
        model: &str,
    ) {
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
        ledger.add(record, Arc::clone(bot), Some(hit));
    }

    /// Somebody is asked now.
    pub(super) fn asks(&mut self, source: &Arc<Source>, model: &str) {
        self.asked = Some((Arc::clone(source), model.to_owned()));
        self.began = self.base.clock.now();
        (self.given, self.usage, self.text_bytes) = (false, None, 0);
        self.outcome = Outcome::Aborted;
    }

    /// Whoever was asked does not answer, and perhaps another one is asked. What the prompt took there is counted now; who
    /// took nothing is only named if they were the last.
    pub(super) fn gave_up(&mut self) {
        if self.given || self.usage.is_some() {
            self.count(Outcome::Failed);
        }
    }

    /// What it took, and whether that is a guess.
    fn tokens(&self, outcome: Outcome) -> (TokenUsage, bool) {
        match (self.usage, outcome) {
            (Some(usage), _) => (usage, false),
            (None, Outcome::Failed) if !self.given => (TokenUsage::default(), false),
            (None, _) => {
                let completion_tokens = tokens(self.text_bytes);
                (TokenUsage { prompt_tokens: self.prompt_tokens, completion_tokens }, true)
            }
        }
    }

    /// Adds a line for whoever was asked, once.
    fn count(&mut self, ended: Outcome) {
        let Some((source, model)) = self.asked.take() else { return };
        let now = self.base.clock.now();
        let (tokens, estimated) = self.tokens(ended);
        self.admitted.add(now.month_start(), tokens.total());
        let outcome = source.count(ended);
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
            outcome: ended,
            at: now,
            duration_ms,
        };
        self.ledger.add(record, Arc::clone(&self.bot), None);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.count(self.outcome);
    }
}
