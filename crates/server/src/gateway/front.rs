//! Where each request goes, decided once on each worker: to the router of this process, to a role in another one, to a
//! bot's webhook or to a bot's own dashboard.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use astrfleet_core::{
    Error,
    ports::{Limit, Verdict},
};
use axum::response::IntoResponse;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::runtime::Handle;

use super::{
    admission::{self, Admissions},
    body::Body,
    dashboard::{self, ForDashboard},
    forward::{ForwardLimits, Forwarder},
    gate::{self, Gate, Route},
    headers::HeaderEdits,
    hooks,
    hosts::{self, Hosts, Site},
    listen::{Bound, ConnectionLimits, ListenError, Peer, Serving, Worker},
    observe::{self, mark_rate},
    places::Places,
    remote, trace,
    upstream::{ForwardError, Pool, PoolLimits, Upstream},
    visit::{Goal, Tallies, Visit},
};
use crate::{
    app::{App, router},
    config::seconds,
    extract::{credential, take_anonymous},
    problem::{Problem, chain},
    role::Role,
};

/// Takes requests in until `app.stop`, and then finishes those that run.
///
/// # Errors
/// Where the system gives us no threads.
pub fn serve(app: &App, bound: Bound) -> Result<Serving, ListenError> {
    let config = &app.config.gateway;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = if config.workers == 0 { workers } else { config.workers };
    let connections = ConnectionLimits {
        header_read: seconds(config.request_timeout_s),
        connections_max: (config.max_connections / workers).max(16),
        drain: seconds(config.drain_timeout_s),
        ..ConnectionLimits::default()
    };
    let forward = ForwardLimits {
        response_header: seconds(config.upstream_timeout_s),
        body_bytes_max: config.max_forwarded_body_bytes,
        ..ForwardLimits::default()
    };
    app.gateway.watch_changes();
    let (routes, home, app) = (router(app.clone()), Handle::current(), app.clone());
    let (places, stop) = (Arc::new(Places::of_all_roles()), app.stop.clone());
    bound.serve(
        move |worker| {
            let forwarder = Forwarder::new(Pool::new(PoolLimits::default(), worker.ticks()), forward, worker.ticks());
            let front = Front::new(app.clone(), Arc::clone(&places), worker, home.clone());
            Gate::new(front, forwarder, routes.clone(), home.clone())
        },
        connections,
        &stop,
    )
}

/// One worker's front.
pub(super) struct Front {
    app: App,
    home: Handle,
    places: Arc<Places>,
    hosts: Hosts,
    remote: BTreeMap<Role, Upstream>,
    edits: Rc<HeaderEdits>,
    admissions: Rc<RefCell<Admissions>>,
    tallies: Tallies,
    ticks: Rc<super::ticks::Ticks>,
}

impl Front {
    fn new(app: App, places: Arc<Places>, worker: &Rc<Worker>, home: Handle) -> Self {
        let config = &app.config.gateway;
        // Read once before, when the service was made: it can be read.
        let remote = remote::read(&config.remote).unwrap_or_default();
        let remote = remote.into_iter().filter(|(role, _)| !app.roles.contains(role)).collect();
        let edits = HeaderEdits {
            scheme: scheme(&config.public_url),
            trust_forwarded: config.trust_forwarded,
            ..HeaderEdits::default()
        };
        Self {
            hosts: Hosts::new(config),
            home,
            places,
            remote,
            edits: Rc::new(edits),
            admissions: Rc::default(),
            tallies: Tallies::default(),
            ticks: worker.ticks(),
            app,
        }
    }

    /// To the role that answers this path, wherever it lives.
    fn to_role(&self, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        if self.remote.is_empty() {
            return (Route::Local, None);
        }
        let found = self.places.find(request.uri().path()).and_then(|(number, tenant)| {
            let place = self.places.get(number)?;
            Some((number, place, self.remote.get(&place.role)?.clone(), tenant))
        });
        let Some((number, place, upstream, tenant)) = found else { return (Route::Local, None) };
        let forward = Route::Forward { upstream, edits: Rc::clone(&self.edits) };
        if !place.is_identified(request.method()) {
            return (forward, Some(Visit::new(&self.app, Goal::Place(number), request)));
        }
        let epoch = self.app.gateway.epoch();
        let known = credential(request.headers()).and_then(|credential| {
            let mut admissions = self.admissions.borrow_mut();
            let admission = admissions.find(credential, tenant, self.ticks.now(), epoch)?;
            Some(admission.tenant.map(|tenant| take(&self.app, tenant.as_str())))
        });
        if let Some(taken) = known {
            let visit = Visit::new(&self.app, Goal::Place(number), request);
            return match taken {
                None => (forward, Some(visit)),
                Some(taken) => (limited(forward, taken, &visit), Some(visit)),
            };
        }
        let asked = credential(request.headers()).map(|credential| (credential.to_owned(), tenant.map(str::to_owned)));
        let visit = Visit::new(&self.app, Goal::Place(number), request);
        let route = match asked {
            Some((credential, tenant)) => self.admit(peer, credential, tenant, forward, &visit),
            None => self.anonymous(peer, &visit),
        };
        (route, Some(visit))
    }

    /// Somebody who did not say who they are, where they have to.
    fn anonymous(&self, peer: &Peer, visit: &Visit) -> Route {
        let error = match take_anonymous(&self.app, Some(peer.address.ip())) {
            Ok(()) => Error::Unauthenticated {
                reason: "log in and send the access token, or send an API key, as `Authorization: Bearer …`",
            },
            Err(error) => error,
        };
        Route::Answer(answer(error.into(), visit))
    }

    /// Finds out who sent a request, off this worker's thread.
    fn admit(&self, peer: &Peer, credential: String, tenant: Option<String>, forward: Route, visit: &Visit) -> Route {
        let (app, ip, home) = (self.app.clone(), peer.address.ip(), self.home.clone());
        let (admissions, ticks, epoch) =
            (Rc::clone(&self.admissions), Rc::clone(&self.ticks), self.app.gateway.epoch());
        let (rate, request_id) = (Rc::clone(&visit.rate), visit.request_id.clone());
        Route::Later(Box::pin(async move {
            let (asking, asked, named) = (app.clone(), credential.clone(), tenant.clone());
            let outcome = home
                .spawn(async move { admission::ask(&asking, &asked, ip, named.as_deref()).await })
                .await
                .unwrap_or_else(|error| Err(Error::internal(error)));
            let found = match outcome {
                Ok((_, found)) => found,
                Err(error) => return Route::Answer(answer_to(error.into(), &request_id)),
            };
            // The local administrator's credential counts for some peers alone: it is never remembered.
            if app.auth.authenticate_cached(&credential).is_some() {
                let named = tenant.as_deref().zip(found.clone());
                admissions.borrow_mut().keep(&credential, named, ticks.now(), epoch);
            }
            let Some(tenant) = found else { return forward };
            let (limit, verdict) = take(&app, tenant.as_str());
            rate.set(Some((limit, verdict)));
            match verdict {
                Verdict::Allowed { .. } => forward,
                Verdict::Refused { retry_after } => {
                    Route::Answer(answer_to(Error::TooMany { what: "requests", retry_after }.into(), &request_id))
                }
            }
        }))
    }

    fn endpoint(&self, goal: Goal) -> String {
        match goal {
            Goal::Place(number) => {
                self.places.get(number).map_or(observe::UNMATCHED, |place| place.template.as_str()).to_owned()
            }
            Goal::Hook => hooks::ENDPOINT.to_owned(),
            Goal::Dashboard | Goal::Asset => observe::DASHBOARD.to_owned(),
        }
    }

    /// Whoever keeps the bots, where that is another process.
    fn manager(&self) -> Option<&Upstream> {
        self.remote.get(&Role::Manager)
    }
}

impl gate::Front for Front {
    type Visit = Option<Visit>;

    fn enter(&self, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        if let Site::Dashboard(tenant) = self.hosts.site(hosts::named(request.uri(), request.headers())) {
            let visited = ForDashboard::new(tenant, peer.address.ip());
            return self.to_dashboard(visited, request);
        }
        if request.uri().path().starts_with(hooks::PREFIX) {
            return self.to_hook(peer, request);
        }
        self.to_role(peer, request)
    }

    fn leave(&self, visit: Option<Visit>, outcome: Result<Response<Body>, ForwardError>) -> Response<Body> {
        let Some(visit) = visit else {
            return outcome.unwrap_or_else(|error| problem(&error).into_response().map(Body::from));
        };
        let mut response = outcome.unwrap_or_else(|error| match visit.goal {
            Goal::Dashboard | Goal::Asset => dashboard::failed(&error).map(Body::from),
            Goal::Place(_) | Goal::Hook => answer(problem(&error), &visit),
        });
        let status = response.status();
        let headers = response.headers_mut();
        headers.insert(trace::REQUEST_ID, visit.request_id.clone());
        if let Some((limit, verdict)) = visit.rate.get() {
            mark_rate(headers, limit, verdict);
        }
        if matches!(visit.goal, Goal::Dashboard | Goal::Asset) {
            dashboard::strip(headers);
            dashboard::confine(headers);
            dashboard::protect(headers);
        }
        if visit.goal == Goal::Asset && status == StatusCode::OK {
            dashboard::keep(headers);
        }
        // What goes to another role has its line in that role's log, under the same id.
        if !matches!(visit.goal, Goal::Place(_)) {
            tracing::info!(
                request_id = visit.request_id.to_str().unwrap_or_default(),
                method = visit.method(),
                endpoint = self.endpoint(visit.goal),
                status = status.as_u16(),
                processing_time_ms = visit.took_ms(),
                "request"
            );
        }
        self.tallies.note(&self.app, &visit, response, || self.endpoint(visit.goal))
    }
}

impl Front {
    fn to_dashboard(&self, visited: ForDashboard, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        if let Some(upstream) = self.manager()
            && !dashboard::is_ours(request.uri().path())
        {
            let visit = Visit::new(&self.app, Goal::Dashboard, request);
            let forward = Route::Forward { upstream: upstream.clone(), edits: Rc::clone(&self.edits) };
            return (forward, Some(visit));
        }
        if dashboard::is_read_whole(&self.app, request.uri().path()) {
            request.extensions_mut().insert(visited);
            return (Route::Local, None);
        }
        let is_asset = dashboard::is_asset(request.uri().path());
        let visit = Visit::new(&self.app, if is_asset { Goal::Asset } else { Goal::Dashboard }, request);
        let asked = dashboard::Asked::of(request, visited);
        let (app, home, request_id) = (self.app.clone(), self.home.clone(), visit.request_id.clone());
        let scheme = self.edits.scheme.clone();
        let route = Route::Later(Box::pin(async move {
            let decided = home.spawn(async move { dashboard::admit(&app, &asked).await }).await;
            match decided {
                Ok(Ok(passage)) => {
                    let (upstream, edits) = passage.into_parts(scheme);
                    Route::Forward { upstream, edits: Rc::new(edits) }
                }
                Ok(Err(refused)) => Route::Answer(refused.into_response().map(Body::from)),
                Err(error) => Route::Answer(answer_to(Error::internal(error).into(), &request_id)),
            }
        }));
        (route, Some(visit))
    }

    fn to_hook(&self, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        let visit = Visit::new(&self.app, Goal::Hook, request);
        let asked = match hooks::Asked::of(request, peer.address.ip()) {
            Ok(asked) => asked,
            Err(error) => return (Route::Answer(answer(error.into(), &visit)), Some(visit)),
        };
        let manager = self.manager().cloned();
        let (app, home, request_id) = (self.app.clone(), self.home.clone(), visit.request_id.clone());
        let edits = Rc::clone(&self.edits);
        let route = Route::Later(Box::pin(async move {
            let path = asked.path.clone();
            let found = match home.spawn(async move { hooks::admit(&app, &asked).await }).await {
                Ok(Ok(found)) => found,
                Ok(Err(problem)) => return Route::Answer(answer_to(problem, &request_id)),
                Err(error) => return Route::Answer(answer_to(Error::internal(error).into(), &request_id)),
            };
            match (found, manager) {
                (_, Some(upstream)) => Route::Forward { upstream, edits },
                (None, None) => Route::Answer(answer_to(hooks::asleep(), &request_id)),
                (Some(upstream), None) => {
                    let edits = HeaderEdits { path: Some(path), websocket: false, ..(*edits).clone() };
                    Route::Forward { upstream, edits: Rc::new(edits) }
                }
            }
        }));
        (route, Some(visit))
    }
}

/// Lets a request pass if its tenant may send another one.
fn limited(forward: Route, (limit, verdict): (Limit, Verdict), visit: &Visit) -> Route {
    visit.rate.set(Some((limit, verdict)));
    match verdict {
        Verdict::Allowed { .. } => forward,
        Verdict::Refused { retry_after } => {
            Route::Answer(answer(Error::TooMany { what: "requests", retry_after }.into(), visit))
        }
    }
}

/// Takes one of a tenant's requests.
fn take(app: &App, tenant: &str) -> (Limit, Verdict) {
    let limit = per_minute(app.config.gateway.rate_limit_per_minute);
    (limit, app.limiter.take(tenant, limit))
}

fn per_minute(amount: u32) -> Limit {
    Limit { amount, per: seconds(60) }
}

fn answer(problem: Problem, visit: &Visit) -> Response<Body> {
    answer_to(problem, &visit.request_id)
}

fn answer_to(problem: Problem, request_id: &http::HeaderValue) -> Response<Body> {
    let request_id = request_id.to_str().ok().map(str::to_owned);
    Problem { request_id, ..problem }.into_response().map(Body::from)
}

fn scheme(public_url: &str) -> http::HeaderValue {
    http::HeaderValue::from_static(if public_url.starts_with("https://") { "https" } else { "http" })
}

/// What a client is told where an upstream failed.
fn problem(error: &ForwardError) -> Problem {
    let code = match error {
        ForwardError::Refused
        | ForwardError::Unreachable(_)
        | ForwardError::ConnectTimeout
        | ForwardError::Saturated => "unavailable",
        ForwardError::ResponseTimeout => "timeout",
        ForwardError::BrokeBeforeFirstByte(_) | ForwardError::BadAnswer(_) => "bad_gateway",
        ForwardError::BodyTooLarge { .. } => "too_large",
        ForwardError::ClientGone => "request_timeout",
        ForwardError::Crashed(_) => "internal",
    };
    tracing::warn!(error_code = code, error = chain(error), "a request could not be passed on");
    Problem::new(code, error.to_string())
}
