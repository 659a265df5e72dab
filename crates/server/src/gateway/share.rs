//! Passes one request to a process of a role, and to another one where the first cannot have acted on it, or where acting
//! twice does no harm: before the first byte of an answer, never after.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, request::Parts};
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
    way::target,
    wire::Question,
};
use crate::internal::IDENTITY;

/// Stands in where a client names no host (HTTP/1.0).
const NO_HOST: &str = "role.invalid";

/// Signs for a method and a target what a role is told of who sends a request.
pub type Sign = Box<dyn FnOnce(&Method, &str) -> HeaderValue>;

/// What holds for one request to a role.
pub struct Terms {
    /// Put on when nothing of the client's is taken off any more, and no earlier than it goes out: it is not good for long.
    pub identity: Sign,
    /// How long the role may take to begin its answer, once it has the whole request.
    pub answer_limit: Duration,
    /// Doing it twice is doing it once: it has a key, and its route honours that.
    pub is_keyed: bool,
}

impl Forwarder {
    /// Passes `request` on to one process after another, as `pick` chooses them, until one answers.
    ///
    /// # Errors
    /// [`ForwardError`] of the last one when no answer began; [`ForwardError::Nobody`] when there was none to be asked.
    pub async fn share(
        self: Rc<Self>,
        mut request: Request<Incoming>,
        pick: Pick,
        terms: Terms,
        edits: Rc<HeaderEdits>,
        peer: Rc<Peer>,
    ) -> Result<Response<Body>, ForwardError> {
        let bytes_max = self.limits.body_bytes_max;
        if request.body().size_hint().lower() > bytes_max {
            return Err(ForwardError::BodyTooLarge { bytes_max });
        }
        let websocket = edits.websocket && headers::wants_websocket(request.headers());
        let client = websocket.then(|| hyper::upgrade::on(&mut request));
        let nobody = Upstream::Name(NO_HOST.into());
        let (mut head, body) = prepare(request, &nobody, &edits, &peer, websocket, bytes_max).into_parts();
        let Terms { identity, answer_limit, is_keyed } = terms;
        let sign = move |head: &mut Parts| {
            let said = identity(&head.method, target(&head.uri));
            head.headers.insert(IDENTITY, said);
        };
        if !websocket && body.is_end_stream() {
            sign(&mut head);
            return self.ask_several(&head, is_keyed, answer_limit, pick).await;
        }
        if !is_keyed || websocket || !pick.is_kept(body.size_hint().exact()) {
            sign(&mut head);
            return self.send_unless_sent(Request::from_parts(head, body), client, answer_limit, pick).await;
        }
        let kept = self.collected(body).await?;
        sign(&mut head);
        self.send_again(&head, &kept, answer_limit, pick).await
    }

    /// A request without a body.
    async fn ask_several(
        &self,
        head: &Parts,
        is_keyed: bool,
        limit: Duration,
        mut pick: Pick,
    ) -> Result<Response<Body>, ForwardError> {
        let mut question = Question::default();
        question.write(head);
        let twice = is_keyed || head.method.is_idempotent();
        let mut call = pick.call().ok_or(ForwardError::Nobody)?;
        loop {
            let failed = match self.ask(question, twice, call.upstream(), limit).await {
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
        limit: Duration,
    ) -> Result<Response<Body>, Failed<Question>> {
        let mut question = question;
        if let Some(mut lease) = self.pool.reuse_wire(upstream) {
            *lease.connection.question() = question;
            match self.answer(&mut lease, twice, limit).await {
                Ok(answer) => return Ok(passed_on(answer, lease)),
                Err(Failed { unsent: Some(again), .. }) => question = again,
                Err(failed) => return Err(failed),
            }
        }
        self.ask_anew(question, twice, upstream, limit).await
    }

    /// A request whose body comes from the client as it goes: only what did not go out at all goes to another process.
    async fn send_unless_sent(
        &self,
        request: Request<Upload>,
        client: Option<OnUpgrade>,
        limit: Duration,
        mut pick: Pick,
    ) -> Result<Response<Body>, ForwardError> {
        let mut request = request;
        let mut call = pick.call().ok_or(ForwardError::Nobody)?;
        loop {
            let failed = match self.try_send(request, call.upstream(), limit).await {
                Ok((response, lease)) => return self.accept(response, lease, client).map(|answer| under(call, answer)),
                Err(failed) => failed,
            };
            (call, request) = next(call, failed, &mut pick)?;
        }
    }

    /// A request with a key, so that doing it twice is doing it once.
    async fn send_again(
        &self,
        head: &Parts,
        body: &Bytes,
        limit: Duration,
        mut pick: Pick,
    ) -> Result<Response<Body>, ForwardError> {
        let request = || Request::from_parts(head.clone(), Upload::kept(body.clone()));
        let mut call = pick.call().ok_or(ForwardError::Nobody)?;
        loop {
            let Failed { error, .. } = match self.try_send(request(), call.upstream(), limit).await {
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
