//! Passes one request to a process of a role, and to another one where the first cannot have acted on it, or where acting
//! twice does no harm: before the first byte of an answer, never after.

use std::{pin::pin, rc::Rc};

use bytes::Bytes;
use http::{HeaderName, Request, Response, request::Parts};
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};

use super::{
    balance::{Call, Pick},
    body::{Body, Upload},
    forward::{Failed, Forwarder, passed_on, prepare},
    headers::{self, HeaderEdits},
    listen::Peer,
    upstream::{ForwardError, Upstream},
    wire::{Question, WireError},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Stands in where a client names no host (HTTP/1.0).
const NO_HOST: &str = "role.invalid";

impl Forwarder {
    /// Passes `request` on to one process after another, as `pick` chooses them, until one answers.
    ///
    /// # Errors
    /// [`ForwardError`] of the last one when no answer began; [`ForwardError::Nobody`] when there was none to be asked.
    pub async fn share(
        self: Rc<Self>,
        mut request: Request<Incoming>,
        pick: Pick,
        edits: Rc<HeaderEdits>,
        peer: Rc<Peer>,
    ) -> Result<Response<Body>, ForwardError> {
        let bytes_max = self.limits.body_bytes_max;
        if request.body().size_hint().lower() > bytes_max {
            return Err(ForwardError::BodyTooLarge { bytes_max });
        }
        let has_key = request.headers().contains_key(&IDEMPOTENCY_KEY);
        let websocket = edits.websocket && headers::wants_websocket(request.headers());
        let client = websocket.then(|| hyper::upgrade::on(&mut request));
        let nobody = Upstream::Name(NO_HOST.into());
        let request = prepare(request, &nobody, &edits, &peer, websocket, bytes_max);
        let (head, body) = request.into_parts();
        if !websocket && body.is_end_stream() {
            return self.ask_several(&head, has_key, pick).await;
        }
        if !has_key || websocket || !pick.is_kept(body.size_hint().exact()) {
            return self.send_unless_sent(Request::from_parts(head, body), client, pick).await;
        }
        let collected = self.limited(pin!(body.collect())).await?;
        let kept = collected.map_err(|_| ForwardError::ClientGone)?.to_bytes();
        self.send_again(&head, &kept, pick).await
    }

    /// A request without a body.
    async fn ask_several(&self, head: &Parts, has_key: bool, mut pick: Pick) -> Result<Response<Body>, ForwardError> {
        let mut question = Question::default();
        question.write(head);
        let twice = has_key || head.method.is_idempotent();
        let mut call = pick.call().ok_or(ForwardError::Nobody)?;
        loop {
            let failed = match self.ask(question, twice, call.upstream()).await {
                Ok(response) => return Ok(under(call, response)),
                Err(failed) => failed,
            };
            (call, question) = next(call, failed, &mut pick)?;
        }
    }

    /// Once over a connection that was kept, and once more over a new one if that had been closed meanwhile.
    async fn ask(
        &self,
        question: Question,
        twice: bool,
        upstream: &Upstream,
    ) -> Result<Response<Body>, Failed<Question>> {
        let mut question = question;
        if let Some(mut lease) = self.pool.reuse_wire(upstream) {
            *lease.connection.question() = question;
            let outcome = self.limited(pin!(lease.connection.answer())).await?;
            match outcome {
                Ok(answer) => return Ok(passed_on(answer, lease)),
                Err(error) => match (error, lease.connection.take_question(twice)) {
                    (WireError::Broken(_), Some(again)) => question = again,
                    (error, _) => return Err(ForwardError::from(error).into()),
                },
            }
        }
        let mut lease = match self.pool.open_wire(upstream).await {
            Ok(lease) => lease,
            Err(error) => return Err(Failed { error, unsent: Some(question) }),
        };
        *lease.connection.question() = question;
        let outcome = self.limited(pin!(lease.connection.answer())).await?;
        match outcome {
            Ok(answer) => Ok(passed_on(answer, lease)),
            Err(error @ WireError::Broken(_)) => {
                Err(Failed { unsent: lease.connection.take_question(twice), error: error.into() })
            }
            Err(error) => Err(ForwardError::from(error).into()),
        }
    }

    /// A request whose body comes from the client as it goes: only what did not go out at all goes to another process.
    async fn send_unless_sent(
        &self,
        request: Request<Upload>,
        client: Option<OnUpgrade>,
        mut pick: Pick,
    ) -> Result<Response<Body>, ForwardError> {
        let mut request = request;
        let mut call = pick.call().ok_or(ForwardError::Nobody)?;
        loop {
            let failed = match self.try_send(request, call.upstream()).await {
                Ok((response, lease)) => return self.accept(response, lease, client).map(|answer| under(call, answer)),
                Err(failed) => failed,
            };
            (call, request) = next(call, failed, &mut pick)?;
        }
    }

    /// A request with a key, so that doing it twice is doing it once.
    async fn send_again(&self, head: &Parts, body: &Bytes, mut pick: Pick) -> Result<Response<Body>, ForwardError> {
        let request = || Request::from_parts(head.clone(), Upload::kept(body.clone()));
        let mut call = pick.call().ok_or(ForwardError::Nobody)?;
        loop {
            let Failed { error, .. } = match self.try_send(request(), call.upstream()).await {
                Ok((response, lease)) => return self.accept(response, lease, None).map(|answer| under(call, answer)),
                Err(failed) => failed,
            };
            let may = error.is_before_sending() || matches!(error, ForwardError::BrokeBeforeFirstByte(_));
            (call, ()) = next(call, Failed { error, unsent: may.then_some(()) }, &mut pick)?;
        }
    }
}

/// The next process, where the request may go to one.
fn next<T>(call: Call, failed: Failed<T>, pick: &mut Pick) -> Result<(Call, T), ForwardError> {
    let Failed { error, unsent } = failed;
    if error.is_of_the_upstream() {
        call.failed();
    }
    drop(call);
    let Some(unsent) = unsent.filter(|_| pick.may_go_on()) else { return Err(error) };
    match pick.call() {
        Some(call) => {
            tracing::debug!(%error, to = %call.upstream(), "a request is tried at another process of its role");
            Ok((call, unsent))
        }
        None => Err(error),
    }
}

/// The answer, under way to its end.
fn under(call: Call, answer: Response<Body>) -> Response<Body> {
    call.answered();
    answer.map(|body| body.guarded(call))
}
