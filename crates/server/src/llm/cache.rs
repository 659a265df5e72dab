//! Answers of models that are given again to the same tenant for exactly the same request, within limits, and only where
//! the configuration says so. Where they are kept is the [`Cache`]'s. A key is made of the tenant and the whole request, so
//! that nothing ever passes from one tenant to another, and a request that differs in anything but the order of its
//! fields is another one.

use std::{convert::Infallible, sync::Arc, time::Duration};

use astrfleet_core::{id::TenantId, ports::Cache};
use aws_lc_rs::digest::{Context, SHA256};
use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderValue, header};
use memchr::memmem;
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
/// What stands before an answer that is kept: which of the two it is.
const WHOLE: u8 = b'w';
const STREAM: u8 = b's';

/// The cache of one process, as far as answers go.
pub(super) struct Answers {
    cache: Option<Arc<dyn Cache>>,
    which: CachedAnswers,
    bytes_max: usize,
    ttl: Duration,
    pub(super) source: Arc<Source>,
    hits: Counter,
    misses: Counter,
}

/// The place of one request's answer.
pub(super) struct Slot {
    cache: Arc<dyn Cache>,
    tenant: TenantId,
    key: [u8; 32],
    bytes_max: usize,
    ttl: Duration,
    hits: Counter,
    misses: Counter,
}

impl Answers {
    pub(super) fn new(config: &LlmCacheConfig, metrics: &Metrics, cache: &Arc<dyn Cache>) -> Self {
        let count = |result| Counter::clone(&metrics.llm_cache.get_or_create(&ResultLabel { result }));
        Self {
            cache: (config.max_bytes > 0).then(|| Arc::clone(cache)),
            which: config.answers,
            bytes_max: config.answer_bytes_max(),
            ttl: seconds(config.ttl_s).max(Duration::from_secs(1)),
            source: Arc::new(Source::new(SOURCE, metrics)),
            hits: count("hit"),
            misses: count("miss"),
        }
    }

    /// Where the answer to a request has its place; none where it is not to be kept.
    pub(super) fn slot(&self, tenant: &TenantId, request: &ChatRequest) -> Option<Slot> {
        let cache = self.cache.as_ref()?;
        // Read as a whole only where the cache is on. Fields come in their order whatever the bot's was.
        let body: Value = serde_json::from_slice(request.body()).ok()?;
        if self.which == CachedAnswers::Repeatable && !is_repeatable(&body) {
            return None;
        }
        let mut digest = Context::new(&SHA256);
        digest.update(tenant.as_str().as_bytes());
        digest.update(b"\n");
        digest.update(body.to_string().as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(digest.finish().as_ref());
        Some(Slot {
            cache: Arc::clone(cache),
            tenant: tenant.clone(),
            key,
            bytes_max: self.bytes_max,
            ttl: self.ttl,
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
    pub(super) async fn known(&self) -> Option<Response> {
        let kept = self.cache.get(&self.tenant, &self.key).await;
        let mut response = match kept.as_deref().and_then(<[u8]>::first).zip(kept.as_ref()) {
            Some((&STREAM, kept)) => {
                let events = events(&kept.slice(1..)).into_iter().map(Ok::<_, Infallible>);
                stream_response(Body::from_stream(stream::iter(events)))
            }
            Some((&WHOLE, kept)) => ([(header::CONTENT_TYPE, "application/json")], kept.slice(1..)).into_response(),
            // Nothing, or what another release means something by.
            _ => {
                self.misses.inc();
                return None;
            }
        };
        self.hits.inc();
        response.headers_mut().insert(HEADER, HeaderValue::from_static("hit"));
        Some(response)
    }

    /// Keeps a whole answer.
    pub(super) fn keep(self, is_stream: bool, body: &[u8]) {
        if body.len() > self.bytes_max {
            return;
        }
        let mut kept = BytesMut::with_capacity(1 + body.len());
        kept.put_u8(if is_stream { STREAM } else { WHOLE });
        kept.put_slice(body);
        self.cache.put(&self.tenant, &self.key, kept.freeze(), self.ttl);
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
    use std::{collections::HashMap, sync::Mutex};

    use astrfleet_core::{
        id::{Ids, TenantId},
        ports::testing::{CountingRng, FixedClock},
    };
    use async_trait::async_trait;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Keeps all of it.
    #[derive(Default)]
    struct All(Mutex<HashMap<(TenantId, [u8; 32]), Bytes>>);

    #[async_trait]
    impl Cache for All {
        async fn get(&self, tenant: &TenantId, key: &[u8; 32]) -> Option<Bytes> {
            self.0.lock().unwrap().get(&(tenant.clone(), *key)).cloned()
        }

        fn put(&self, tenant: &TenantId, key: &[u8; 32], value: Bytes, _: Duration) {
            self.0.lock().unwrap().insert((tenant.clone(), *key), value);
        }
    }

    fn answers(answers: CachedAnswers) -> Answers {
        let config = LlmCacheConfig { max_bytes: 1 << 20, max_answer_bytes: 1_000, ttl_s: 60, answers };
        let cache: Arc<dyn Cache> = Arc::new(All::default());
        Answers::new(&config, &Metrics::default(), &cache)
    }

    fn tenants() -> [TenantId; 2] {
        let ids = Ids::new(Arc::new(FixedClock::at(1)), Arc::new(CountingRng::default()));
        [ids.tenant(), ids.tenant()]
    }

    fn request(text: &str) -> ChatRequest {
        ChatRequest::read(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[tokio::test]
    async fn the_same_request_of_the_same_tenant_and_no_other() {
        let (answers, [ours, theirs]) = (answers(CachedAnswers::All), tenants());
        let one = request(r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#);
        answers.slot(&ours, &one).unwrap().keep(false, b"{}");
        let same = request(r#"{ "messages": [{"content":"Hi","role":"user"}], "model": "m" }"#);
        assert!(answers.slot(&ours, &same).unwrap().known().await.is_some(), "the order of fields says nothing");
        assert!(answers.slot(&theirs, &one).unwrap().known().await.is_none(), "another tenant");
        for other in [
            r#"{"model":"n","messages":[{"role":"user","content":"Hi"}]}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"Hi "}]}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":0.1}"#,
        ] {
            assert!(answers.slot(&ours, &request(other)).unwrap().known().await.is_none(), "{other}");
        }
        answers.slot(&theirs, &one).unwrap().keep(false, &[b' '; 1_001]);
        assert!(answers.slot(&theirs, &one).unwrap().known().await.is_none(), "too large to be kept");
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
        let cache: Arc<dyn Cache> = Arc::new(All::default());
        let answers = Answers::new(&config, &Metrics::default(), &cache);
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
