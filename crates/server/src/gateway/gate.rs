//! The first thing that sees a request: asks a [`Front`] where it goes, and takes it there.
//!
//! No policy of its own. A request that is passed on touches nothing here but the way through.

use std::{future::Future, net::SocketAddr, pin::Pin, rc::Rc};

use axum::{Router, extract::ConnectInfo};
use futures_util::{FutureExt as _, future::Either};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

use super::{
    balance::Pick,
    body::Body,
    forward::Forwarder,
    headers::{self, HeaderEdits},
    listen::{Handler, Peer},
    share::Terms,
    upstream::{ForwardError, Upstream},
};
use crate::internal::Shown;

/// Where a request goes.
pub enum Route {
    /// To the router of this process.
    Local,
    /// To an upstream.
    Forward {
        /// Which.
        upstream: Upstream,
        /// How it is changed on the way. What differs from request to request is quicker said in [`Front::enter`], which may
        /// change the head.
        edits: Rc<HeaderEdits>,
    },
    /// To a process of a role.
    Shared {
        /// Which one, and which others where that one fails.
        pick: Pick,
        /// How it is asked.
        terms: Terms,
        /// As above.
        edits: Rc<HeaderEdits>,
    },
    /// Nowhere: this is the answer.
    Answer(Response<Body>),
    /// Not known yet, because something has to be waited for (a key that is not cached, a bot that wakes). It must own what
    /// it needs; the request waits beside it.
    Later(Pin<Box<dyn Future<Output = Self>>>),
}

/// Decides about requests. One for each worker, so its caches need no lock.
pub trait Front: 'static {
    /// What is remembered of a request until it is answered: its start, its tenant, its place in a metric. Dropped without
    /// [`Front::leave`] when the client goes away first.
    type Visit: 'static;

    /// Decides where `request` goes, and may change its head. Must neither block nor take long.
    fn enter(&self, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Self::Visit);

    /// Where a request comes from, for whatever is counted by address: whoever connects, or whom a proxy of ours names.
    fn client(&self, peer: &Peer, _request: &Request<Incoming>) -> SocketAddr {
        peer.address
    }

    /// Sees every answer before it goes out, may change it, and turns a failure into one.
    fn leave(&self, visit: Self::Visit, outcome: Result<Response<Body>, ForwardError>) -> Response<Body>;

    /// Called about once a second.
    fn tick(&self) {}
}

/// One worker's gate.
pub struct Gate<F> {
    front: F,
    forwarder: Rc<Forwarder>,
    router: Router,
    home: Handle,
}

impl<F: Front> Gate<F> {
    /// A gate in front of `router`, whose handlers run on `home`: what they open (connections to a database, say) then
    /// belongs to a runtime that outlives this worker.
    #[must_use]
    pub fn new(front: F, forwarder: Forwarder, router: Router, home: Handle) -> Self {
        Self { front, forwarder: Rc::new(forwarder), router, home }
    }

    async fn local(&self, peer: &Peer, mut request: Request<Incoming>) -> Result<Response<Body>, ForwardError> {
        let client = self.front.client(peer, &request);
        request.extensions_mut().insert(ConnectInfo(client));
        let answer = self.router.clone().oneshot(request.map(axum::body::Body::new));
        match AbortOnDropHandle::new(self.home.spawn(answer)).await {
            Ok(Ok(response)) => Ok(response.map(Body::from)),
            Err(error) => Err(ForwardError::Crashed(error)),
        }
    }

    async fn go(
        self: Rc<Self>,
        mut route: Route,
        peer: Rc<Peer>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, ForwardError> {
        loop {
            match route {
                Route::Local => return self.local(&peer, request).await,
                Route::Forward { upstream, edits } => {
                    return self.forwarder.forward(request, &upstream, &edits, &peer).await;
                }
                Route::Shared { pick, terms, edits } => {
                    return Rc::clone(&self.forwarder).share(request, pick, terms, edits, peer).await;
                }
                Route::Answer(response) => return Ok(response),
                Route::Later(decision) => route = decision.await,
            }
        }
    }
}

impl<F: Front> Handler for Gate<F> {
    type Body = Body;

    fn handle(
        self: Rc<Self>,
        peer: Rc<Peer>,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + 'static {
        if let Some(identity) = headers::scrub(request.headers_mut()) {
            request.extensions_mut().insert(Shown(identity));
        }
        let (route, visit) = self.front.enter(&peer, &mut request);
        let outcome = match route {
            Route::Forward { upstream, edits } => {
                Either::Left(self.forwarder.forward(request, &upstream, &edits, &peer))
            }
            route => Either::Right(Box::pin(Rc::clone(&self).go(route, peer, request))),
        };
        outcome.map(move |outcome| self.front.leave(visit, outcome))
    }

    fn tick(&self) {
        self.forwarder.pool().sweep();
        self.front.tick();
    }
}
