//! What is remembered of a request that is passed on, until its answer is out: for its metrics, its headers, its line
//! in the log. Cheap: each worker keeps its own handles to the counters.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Instant,
};

use astrfleet_core::ports::{Limit, Verdict};
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

use super::{body::Body, observe, trace};
use crate::{
    app::App,
    metrics::{EndpointLabels, RequestLabels},
};

/// What a visit is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The role at this place.
    Place(usize),
    /// A bot, by an IM platform's webhook.
    Hook,
    /// A bot's own dashboard.
    Dashboard,
    /// A bot's own dashboard, by way of the process that keeps the bots.
    Elsewhere,
    /// A file of its pages whose name says what is in it.
    Asset,
}

/// One request that is passed on.
pub struct Visit {
    pub(super) goal: Goal,
    method: &'static str,
    began: Instant,
    pub(super) request_id: HeaderValue,
    /// The limiter's word; put in later where something had to be waited for.
    pub(super) rate: Rc<Cell<Option<(Limit, Verdict)>>>,
    _in_flight: InFlight,
}

/// Counts a request as being answered for as long as it lives, also where the client goes away first.
struct InFlight(Gauge);

impl InFlight {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Visit {
    /// Names the request, and passes its names on.
    pub fn new(app: &App, goal: Goal, request: &mut Request<Incoming>) -> Self {
        let began = Instant::now();
        let method = observe::known_method(request.method());
        let headers = request.headers_mut();
        // The two names of below, and what forwarding adds: the map grows at most once.
        headers.reserve(6);
        let given = trace::given_id(headers).cloned();
        let traced = trace::has_trace(headers);
        let own = (given.is_none() || !traced).then(|| app.ids.request());
        let made = own.as_ref().and_then(|own| HeaderValue::from_str(own.as_str()).ok());
        let request_id = given.or(made).unwrap_or(HeaderValue::from_static("unnamed"));
        headers.insert(trace::REQUEST_ID, request_id.clone());
        if !traced && let Some(made) = own.as_ref().and_then(trace::new_trace) {
            headers.insert(trace::TRACEPARENT, made);
        }
        let in_flight = InFlight::new(&app.metrics.in_flight);
        Self { goal, method, began, request_id, rate: Rc::default(), _in_flight: in_flight }
    }

    /// Milliseconds since the request came in.
    pub fn took_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Its method, as a label.
    pub fn method(&self) -> &'static str {
        self.method
    }
}

/// One worker's handles to the counters.
#[derive(Default)]
pub struct Tallies {
    counted: RefCell<HashMap<(Goal, &'static str, u16), Counter>>,
    timed: RefCell<HashMap<(Goal, &'static str, bool), Histogram>>,
}

impl Tallies {
    /// Counts `response`, at its stream's end where it is one. `endpoint` is asked for only the first time.
    pub fn note(
        &self,
        app: &App,
        visit: &Visit,
        response: Response<Body>,
        endpoint: impl Fn() -> String,
    ) -> Response<Body> {
        let (goal, method) = (visit.goal, visit.method);
        let status = response.status().as_u16();
        let is_stream = observe::is_stream(response.headers());
        self.counted
            .borrow_mut()
            .entry((goal, method, status))
            .or_insert_with(|| {
                let labels = RequestLabels { method: method.to_owned(), endpoint: endpoint(), status };
                app.metrics.requests.get_or_create(&labels).clone()
            })
            .inc();
        let mut timed = self.timed.borrow_mut();
        let histogram = timed.entry((goal, method, is_stream)).or_insert_with(|| {
            let labels = EndpointLabels { method: method.to_owned(), endpoint: endpoint() };
            let family = if is_stream { &app.metrics.streams } else { &app.metrics.durations };
            family.get_or_create(&labels).clone()
        });
        if !is_stream {
            histogram.observe(visit.began.elapsed().as_secs_f64());
            return response;
        }
        let end = StreamEnd { began: visit.began, histogram: histogram.clone() };
        response.map(|body| body.guarded(end))
    }
}

/// Notes how long a stream was when it is dropped.
struct StreamEnd {
    began: Instant,
    histogram: Histogram,
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        self.histogram.observe(self.began.elapsed().as_secs_f64());
    }
}
