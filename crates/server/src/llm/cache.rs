//! Answers of models that are given again to the same tenant for exactly the same request: in memory, within limits, and
//! only where the configuration says so. A key is made of the tenant and the whole request, so that nothing ever passes
//! from one tenant to another, and a request that differs in anything but the order of its fields is another one.

use std::{convert::Infallible, sync::Arc, time::Duration};

use astrfleet_core::id::TenantId;
use aws_lc_rs::digest::{Context, SHA256};
use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use memchr::memmem;
use moka::sync::Cache;
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;

use super::{call::Source, request::ChatRequest, stream_response};
use crate::{
    config::{CachedAnswers, LlmCacheConfig, seconds},
    metrics::{Metrics, ResultLabel},
};

/// Who answered, in the ledger and the metrics, where it was the cache.
pub(super) const SOURCE: &str = "cache";
/// Tells a bot, and whoever looks at its traffic, that nobody was asked.
const HEADER: &str = "x-astrfleet-cache";
/// What one answer takes besides its bytes, roughly.
const OVERHEAD_BYTES: usize = 128;

/// All of this process.
pub(super) struct Answers {
    kept: Option<Cache<Key, Kept>>,
    which: CachedAnswers,
    bytes_max: usize,
    pub(super) source: Arc<Source>,
    hits: Counter,
    misses: Counter,
}

/// The tenant's id within the digest of it and the request would do; it stands here too, so that a tenant's answers are
/// its own by more than a digest.
type Key = (TenantId, [u8; 32]);

/// An answer, as the bot got it.
#[derive(Clone)]
struct Kept {
    is_stream: bool,
    body: Bytes,
}

/// The place of one request's answer.
pub(super) struct Slot {
    kept: Cache<Key, Kept>,
    key: Key,
    bytes_max: usize,
    hits: Counter,
    misses: Counter,
}

impl Answers {
    pub(super) fn new(config: &LlmCacheConfig, metrics: &Metrics) -> Self {
        let kept = (config.max_bytes > 0).then(|| {
            Cache::builder()
                .max_capacity(config.max_bytes)
                .weigher(|_, kept: &Kept| u32::try_from(kept.body.len() + OVERHEAD_BYTES).unwrap_or(u32::MAX))
                .time_to_live(seconds(config.ttl_s).max(Duration::from_secs(1)))
                .build()
        });
        let count = |result| Counter::clone(&metrics.llm_cache.get_or_create(&ResultLabel { result }));
        Self {
            kept,
            which: config.answers,
            bytes_max: usize::try_from(config.max_answer_bytes).unwrap_or(usize::MAX),
            source: Arc::new(Source::new(SOURCE, metrics)),
            hits: count("hit"),
            misses: count("miss"),
        }
    }

    /// Where the answer to a request has its place; none where it is not to be kept.
    pub(super) fn slot(&self, tenant: &TenantId, request: &ChatRequest) -> Option<Slot> {
        let kept = self.kept.as_ref()?;
        // Read as a whole only where the cache is on. Fields come in their order whatever the bot's was.
        let body: Value = serde_json::from_slice(request.body()).ok()?;
        if self.which == CachedAnswers::Repeatable && !is_repeatable(&body) {
            return None;
        }
        let mut digest = Context::new(&SHA256);
        digest.update(tenant.as_str().as_bytes());
        digest.update(b"\n");
        digest.update(body.to_string().as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.finish().as_ref());
        Some(Slot {
            kept: kept.clone(),
            key: (tenant.clone(), hash),
            bytes_max: self.bytes_max,
            hits: self.hits.clone(),
            misses: self.misses.clone(),
        })
    }
}

/// Whether a model that does what it is asked answers the same each time.
fn is_repeatable(body: &Value) -> bool {
    body["temperature"].as_f64() == Some(0.0) || body["seed"].is_number()
}

impl Slot {
    /// The answer that was given before.
    pub(super) fn known(&self) -> Option<Response> {
        let Some(kept) = self.kept.get(&self.key) else {
            self.misses.inc();
            return None;
        };
        self.hits.inc();
        let mut response = if kept.is_stream {
            let events = events(&kept.body).into_iter().map(Ok::<_, Infallible>);
            stream_response(Body::from_stream(stream::iter(events)))
        } else {
            ([(header::CONTENT_TYPE, "application/json")], kept.body).into_response()
        };
        response.headers_mut().insert(HEADER, HeaderValue::from_static("hit"));
        Some(response)
    }

    /// Keeps a whole answer.
    pub(super) fn keep(self, is_stream: bool, body: Bytes) {
        if body.len() <= self.bytes_max {
            self.kept.insert(self.key, Kept { is_stream, body });
        }
    }

    /// The largest answer that is kept.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

/// The events of a stream, each with its end.
fn events(body: &Bytes) -> Vec<Bytes> {
    let mut ends: Vec<usize> = memmem::find_iter(body, b"\n\n").map(|at| at + 2).collect();
    if ends.last() != Some(&body.len()) {
        ends.push(body.len());
    }
    let begins = std::iter::once(0).chain(ends.iter().copied());
    begins.zip(&ends).filter(|(begin, end)| begin < end).map(|(begin, end)| body.slice(begin..*end)).collect()
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{
        id::{Ids, TenantId},
        ports::testing::{CountingRng, FixedClock},
    };
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn answers(answers: CachedAnswers) -> Answers {
        let config = LlmCacheConfig { max_bytes: 1 << 20, max_answer_bytes: 1_000, ttl_s: 60, answers };
        Answers::new(&config, &Metrics::default())
    }

    fn tenants() -> [TenantId; 2] {
        let ids = Ids::new(Arc::new(FixedClock::at(1)), Arc::new(CountingRng::default()));
        [ids.tenant(), ids.tenant()]
    }

    fn request(text: &str) -> ChatRequest {
        ChatRequest::read(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn the_same_request_of_the_same_tenant_and_no_other() {
        let (answers, [ours, theirs]) = (answers(CachedAnswers::All), tenants());
        let one = request(r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#);
        answers.slot(&ours, &one).unwrap().keep(false, Bytes::from_static(b"{}"));
        let same = request(r#"{ "messages": [{"content":"Hi","role":"user"}], "model": "m" }"#);
        assert!(answers.slot(&ours, &same).unwrap().known().is_some(), "the order of fields says nothing");
        assert!(answers.slot(&theirs, &one).unwrap().known().is_none(), "another tenant");
        for other in [
            r#"{"model":"n","messages":[{"role":"user","content":"Hi"}]}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"Hi "}]}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0.1}"#,
        ] {
            assert!(answers.slot(&ours, &request(other)).unwrap().known().is_none(), "{other}");
        }
        answers.slot(&theirs, &one).unwrap().keep(false, Bytes::from(vec![b' '; 1_001]));
        assert!(answers.slot(&theirs, &one).unwrap().known().is_none(), "too large to be kept");
    }

    #[test]
    fn only_what_asks_for_the_same_answer_unless_all_are_kept() {
        let (answers, [tenant, _]) = (answers(CachedAnswers::Repeatable), tenants());
        for (text, kept) in [
            (r#"{"model":"m"}"#, false),
            (r#"{"model":"m","temperature":0.7}"#, false),
            (r#"{"model":"m","seed":null}"#, false),
            (r#"{"model":"m","temperature":0}"#, true),
            (r#"{"model":"m","temperature":0.0}"#, true),
            (r#"{"model":"m","temperature":1,"seed":7}"#, true),
        ] {
            assert_eq!(answers.slot(&tenant, &request(text)).is_some(), kept, "{text}");
        }
    }

    #[test]
    fn nothing_is_kept_where_it_is_off() {
        let config = LlmCacheConfig { max_bytes: 0, max_answer_bytes: 1_000, ttl_s: 60, answers: CachedAnswers::All };
        let answers = Answers::new(&config, &Metrics::default());
        assert!(answers.slot(&tenants()[0], &request(r#"{"model":"m"}"#)).is_none());
    }

    proptest! {
        #[test]
        fn a_stream_comes_in_its_events_and_byte_for_byte(body in "[a\n]{0,40}") {
            let body = Bytes::from(body);
            let events = events(&body);
            prop_assert_eq!(events.concat(), body.to_vec());
            prop_assert!(events.iter().all(|event| !event.is_empty()));
        }
    }
}
