//! The proxied path alone, without any policy in front of it: `plain_proxy LISTEN UPSTREAM`. What the benchmark measures as
//! `gateway plain`; no product.

use std::{error::Error, net::SocketAddr, num::NonZeroUsize, rc::Rc};

use astrfleet_server::gateway::{
    body::Body,
    forward::{ForwardLimits, Forwarder},
    gate::{Front, Gate, Route},
    headers::HeaderEdits,
    listen::{ConnectionLimits, Listen, Peer, Worker, bind},
    upstream::{ForwardError, Pool, PoolLimits, Upstream},
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Everything(Upstream, Rc<HeaderEdits>);

impl Front for Everything {
    type Visit = ();

    fn enter(&self, _peer: &Peer, _request: &mut Request<Incoming>) -> (Route, ()) {
        (Route::Forward { upstream: self.0.clone(), edits: Rc::clone(&self.1) }, ())
    }

    fn leave(&self, (): (), outcome: Result<Response<Body>, ForwardError>) -> Response<Body> {
        outcome.unwrap_or_else(|error| {
            eprintln!("{error}");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        return Err("usage: plain_proxy LISTEN UPSTREAM, both as address:port".into());
    };
    let upstream: SocketAddr = upstream.parse()?;
    let bound = bind(&Listen { workers: Some(NonZeroUsize::MIN), ..Listen::on(listen.parse()?) })?;
    println!("{}", bound.address());
    let home = tokio::runtime::Handle::current();
    let make = move |worker: &Rc<Worker>| {
        let pool = Pool::new(PoolLimits::default(), worker.ticks());
        let forwarder = Forwarder::new(pool, ForwardLimits::default(), worker.ticks());
        Gate::new(Everything(upstream.into(), Rc::default()), forwarder, axum::Router::new(), home.clone())
    };
    let stop = CancellationToken::new();
    let serving = bound.serve(make, ConnectionLimits::default(), &stop)?;
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    serving.drained().await;
    Ok(())
}
