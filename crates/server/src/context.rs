//! What is known of the request that is being answered. Set up by the gateway, filled in by the extractors, read by
//! the access log, the metrics and every problem. Lives as long as the request's own task does.

use std::sync::{Arc, Mutex, PoisonError};

use astrfleet_core::{
    id::{MessageId, RequestId, SessionId, TenantId},
    ports::Verdict,
};

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// Of one request. Cheap to clone; all clones are the same one.
#[derive(Clone, Debug)]
pub struct RequestContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    request_id: String,
    known: Mutex<Known>,
}

/// What has been found out so far.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The route's template: `/api/v1/tenants/{tenant}`.
    pub endpoint: Option<String>,
    /// Whose things are asked about.
    pub tenant: Option<TenantId>,
    /// Who asks, as the audit log names them.
    pub actor: Option<String>,
    /// Which conversation.
    pub session: Option<SessionId>,
    /// Which message.
    pub message: Option<MessageId>,
    /// The limiter's word, for the `RateLimit` header.
    pub rate: Option<(astrfleet_core::ports::Limit, Verdict)>,
    /// The code of the problem that was answered.
    pub error_code: Option<&'static str>,
}

impl RequestContext {
    /// Of a new request, with an id of ours or of whoever is in front of us.
    #[must_use]
    pub fn new(request_id: String) -> Self {
        Self(Arc::new(Inner { request_id, known: Mutex::default() }))
    }

    /// Of a request with an id of our own.
    #[must_use]
    pub fn fresh(id: &RequestId) -> Self {
        Self::new(id.to_string())
    }

    /// `X-Request-Id`.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// What has been found out so far.
    #[must_use]
    pub fn known(&self) -> Known {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes something.
    pub fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.0.known.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Runs `work` as a part of this request.
    pub async fn scope<T>(&self, work: impl Future<Output = T>) -> T {
        CURRENT.scope(self.clone(), work).await
    }
}

/// The request that this task answers; none in a loop.
#[must_use]
pub fn current() -> Option<RequestContext> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Notes something about the request that this task answers.
pub fn note(change: impl FnOnce(&mut Known)) {
    CURRENT.try_with(|context| context.note(change)).ok();
}
