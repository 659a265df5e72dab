//! Where each request goes, decided once on each worker: to the router of this process, to a role in another one, to a
//! bot's webhook or to a bot's own dashboard.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use astrfleet_core::{
    Error,
    ports::{Limit, Verdict},
};
use axum::response::IntoResponse;
use http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use hyper::body::Incoming;
use tokio::runtime::Handle;

use super::{
    admission::{self, Admissions},
    balance::{Members, key_of},
    body::Body,
    dashboard::{self, ForDashboard},
    forward::{ForwardLimits, Forwarder},
    gate::{self, Gate, Route},
    headers::{self, HeaderEdits},
    hooks,
    hosts::{self, Hosts, Site},
    listen::{Bound, ConnectionLimits, ListenError, Peer, Serving, Worker},
    observe::{self, mark_rate},
    places::Places,
    remote::{self, Remote},
    trace,
    upstream::{ForwardError, Pool, PoolLimits},
    visit::{Goal, Tallies, Visit},
    way::{Way, target},
};
use crate::{
    app::{App, router},
    config::seconds,
    extract::{credential, take_anonymous},
    internal::{self, Identity, Shown},
    problem::{Problem, chain},
    role::Role,
};

/// When whoever found nobody of a role may try again.
const RETRY_AFTER_S: u64 = 1;

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
    let pool = pool_limits(&connections);
    let forward = ForwardLimits {
        response_header: seconds(config.upstream_timeout_s),
        body_silence: seconds(config.request_timeout_s),
        body_bytes_max: config.max_forwarded_body_bytes,
        ..ForwardLimits::default()
    };
    app.gateway.watch_changes();
    if app.roles.contains(&Role::Gateway) {
        remote::watch(app);
    }
    let (routes, home, app) = (router(app.clone()), Handle::current(), app.clone());
    let (places, stop) = (Arc::new(Places::of_all_roles()), app.stop.clone());
    bound.serve(
        move |worker| {
            let forwarder = Forwarder::new(Pool::new(pool, worker.ticks()), forward, worker.ticks());
            let front = Front::new(app.clone(), Arc::clone(&places), worker, home.clone());
            Gate::new(front, forwarder, routes.clone(), home.clone())
        },
        connections,
        &stop,
    )
}

/// Each of a client's connections has one request under way at most, and all of them may go to one address: whoever was let
/// in is not refused here. Beside these are those that wait for a request, on two shelves.
fn pool_limits(connections: &ConnectionLimits) -> PoolLimits {
    let pool = PoolLimits::default();
    PoolLimits { open_max: connections.connections_max + 2 * pool.idle_max, ..pool }
}

/// One worker's front.
pub(super) struct Front {
    app: App,
    home: Handle,
    places: Arc<Places>,
    hosts: Hosts,
    remote: Arc<Remote>,
    /// Requests for other roles are passed on.
    is_gateway: bool,
    /// So are those for bots' own hosts and for their webhooks.
    reaches_bots: bool,
    edits: Rc<HeaderEdits>,
    admissions: Rc<RefCell<Admissions>>,
    tallies: Tallies,
    ticks: Rc<super::ticks::Ticks>,
}

impl Front {
    fn new(app: App, places: Arc<Places>, worker: &Rc<Worker>, home: Handle) -> Self {
        let config = &app.config.gateway;
        let is_gateway = app.roles.contains(&Role::Gateway);
        let edits = HeaderEdits {
            scheme: scheme(&config.public_url),
            trust_forwarded: config.trust_forwarded,
            ..HeaderEdits::default()
        };
        Self {
            hosts: Hosts::new(config),
            home,
            places,
            remote: app.gateway.remote(),
            is_gateway,
            reaches_bots: is_gateway || app.roles.contains(&Role::Manager),
            edits: Rc::new(edits),
            admissions: Rc::default(),
            tallies: Tallies::default(),
            ticks: worker.ticks(),
            app,
        }
    }

    /// To the role that answers this path, wherever it lives.
    fn to_role(&self, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        if !self.is_gateway || self.remote.is_empty() {
            return (Route::Local, None);
        }
        let found = self.places.find(request.uri().path()).and_then(|(number, tenant)| {
            let place = self.places.get(number)?;
            Some((number, place, self.elsewhere(place.role)?, tenant))
        });
        let Some((number, place, members, tenant)) = found else { return (Route::Local, None) };
        let way = Way::to_place(&self.app, place, members, request);
        let client = gate::Front::client(self, peer, request).ip();
        if !place.is_identified(request.method()) {
            let visit = Visit::new(&self.app, Goal::Place(number), request);
            let identity = Identity { client: Some(client), ..Identity::default() };
            return (way.route(None, Rc::clone(&self.edits), identity), Some(visit));
        }
        let epoch = self.app.gateway.epoch();
        let known = credential(request.headers()).and_then(|credential| {
            let mut admissions = self.admissions.borrow_mut();
            let admission = admissions.find(credential, tenant, self.ticks.now(), epoch)?;
            let taken = admission.tenant.map(|tenant| (take(&self.app, tenant.as_str()), key_of(tenant.as_str())));
            Some((admission.caller.clone(), taken))
        });
        if let Some((caller, taken)) = known {
            let visit = Visit::new(&self.app, Goal::Place(number), request);
            let identity = Identity { caller: Some(caller), client: Some(client), counted: taken.is_some() };
            let edits = Rc::clone(&self.edits);
            return match taken {
                None => (way.route(None, edits, identity), Some(visit)),
                Some((taken, key)) => (limited(way.route(Some(key), edits, identity), taken, &visit), Some(visit)),
            };
        }
        let asked = credential(request.headers()).map(|credential| (credential.to_owned(), tenant.map(str::to_owned)));
        let visit = Visit::new(&self.app, Goal::Place(number), request);
        let route = match asked {
            Some((credential, tenant)) => self.admit(client, credential, tenant, way, &visit),
            None => self.anonymous(client, &visit),
        };
        (route, Some(visit))
    }

    /// Where a request comes from, and whether a gateway of ours says so.
    fn origin(&self, peer: &Peer, request: &Request<Incoming>) -> (IpAddr, bool) {
        let shown = request.extensions().get::<Shown>();
        let now = self.app.clock.now();
        let said =
            shown.and_then(|shown| self.app.fleet.verify(&shown.0, request.method(), target(request.uri()), now));
        match said.and_then(|identity| identity.client) {
            Some(client) => (client, true),
            None => (gate::Front::client(self, peer, request).ip(), false),
        }
    }

    /// Somebody who did not say who they are, where they have to.
    fn anonymous(&self, client: IpAddr, visit: &Visit) -> Route {
        let error = match take_anonymous(&self.app, Some(client)) {
            Ok(()) => Error::Unauthenticated {
                reason: "log in and send the access token, or send an API key, as `Authorization: Bearer …`",
            },
            Err(error) => error,
        };
        Route::Answer(answer(error.into(), visit))
    }

    /// Finds out who sent a request, off this worker's thread.
    fn admit(&self, client: IpAddr, credential: String, tenant: Option<String>, way: Way, visit: &Visit) -> Route {
        let (app, home, edits) = (self.app.clone(), self.home.clone(), Rc::clone(&self.edits));
        let (admissions, ticks, epoch) =
            (Rc::clone(&self.admissions), Rc::clone(&self.ticks), self.app.gateway.epoch());
        let (rate, request_id) = (Rc::clone(&visit.rate), visit.request_id.clone());
        Route::Later(Box::pin(async move {
            let (asking, asked, named) = (app.clone(), credential.clone(), tenant.clone());
            let outcome = home
                .spawn(async move { admission::ask(&asking, &asked, client, named.as_deref()).await })
                .await
                .unwrap_or_else(|error| Err(Error::internal(error)));
            let (caller, found) = match outcome {
                Ok(found) => found,
                Err(error) => return Route::Answer(answer_to(error.into(), &request_id)),
            };
            // The local administrator's credential counts for some peers alone: it is never remembered.
            if app.auth.authenticate_cached(&credential).is_some() {
                let named = tenant.as_deref().zip(found.clone());
                admissions.borrow_mut().keep(&credential, &caller, named, ticks.now(), epoch);
            }
            let identity = Identity { caller: Some(caller), client: Some(client), counted: found.is_some() };
            let Some(tenant) = found else { return way.route(None, edits, identity) };
            let (limit, verdict) = take(&app, tenant.as_str());
            rate.set(Some((limit, verdict)));
            match verdict {
                Verdict::Allowed { .. } => way.route(Some(key_of(tenant.as_str())), edits, identity),
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
            Goal::Dashboard | Goal::Asset | Goal::Elsewhere => observe::DASHBOARD.to_owned(),
        }
    }

    /// Whoever keeps the bots, where that is another process.
    fn manager(&self) -> Option<&Arc<Members>> {
        self.elsewhere(Role::Manager).filter(|_| self.is_gateway)
    }

    /// The processes of a role that is not in this one.
    fn elsewhere(&self, role: Role) -> Option<&Arc<Members>> {
        if self.app.roles.contains(&role) { None } else { self.remote.of(role) }
    }
}

impl gate::Front for Front {
    type Visit = Option<Visit>;

    fn enter(&self, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        // What processes of the platform say to each other goes no further than to whom it is said.
        if request.uri().path().starts_with(internal::PREFIX) {
            return (Route::Local, None);
        }
        if self.reaches_bots {
            if let Site::Dashboard(tenant) = self.hosts.site(hosts::named(request.uri(), request.headers())) {
                let tenant = tenant.to_owned();
                return self.to_dashboard(&tenant, peer, request);
            }
            if request.uri().path().starts_with(hooks::PREFIX) {
                return self.to_hook(peer, request);
            }
        }
        self.to_role(peer, request)
    }

    fn client(&self, peer: &Peer, request: &Request<Incoming>) -> SocketAddr {
        let named = self.edits.trust_forwarded.then(|| headers::forwarded_client(request.headers())).flatten();
        named.map_or(peer.address, |client| SocketAddr::new(client, 0))
    }

    fn leave(&self, visit: Option<Visit>, outcome: Result<Response<Body>, ForwardError>) -> Response<Body> {
        let mut response = match visit {
            Some(visit) => self.mark(&visit, outcome),
            None => outcome.unwrap_or_else(|error| problem(&error).into_response().map(Body::from)),
        };
        // Told with an answer, nobody is sending the next request when the connection ends.
        if self.app.gateway.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Front {
    /// Puts onto an answer what belongs to its visit, and counts it.
    fn mark(&self, visit: &Visit, outcome: Result<Response<Body>, ForwardError>) -> Response<Body> {
        let mut response = outcome.unwrap_or_else(|error| match visit.goal {
            Goal::Dashboard | Goal::Asset | Goal::Elsewhere => dashboard::failed(&error).map(Body::from),
            Goal::Place(_) | Goal::Hook => answer(problem(&error), visit),
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
        if !matches!(visit.goal, Goal::Place(_) | Goal::Elsewhere) {
            tracing::info!(
                request_id = visit.request_id.to_str().unwrap_or_default(),
                method = visit.method(),
                endpoint = self.endpoint(visit.goal),
                status = status.as_u16(),
                processing_time_ms = visit.took_ms(),
                "request"
            );
        }
        self.tallies.note(&self.app, visit, response, || self.endpoint(visit.goal))
    }

    fn to_dashboard(&self, tenant: &str, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        let (client, _) = self.origin(peer, request);
        if let Some(members) = self.manager() {
            let visit = Visit::new(&self.app, Goal::Elsewhere, request);
            return (self.to_bot(members, client), Some(visit));
        }
        let visited = ForDashboard::new(tenant, client);
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

    /// By way of the process that keeps it.
    fn to_bot(&self, members: &Arc<Members>, client: IpAddr) -> Route {
        let identity = Identity { client: Some(client), ..Identity::default() };
        Way::to_bot(&self.app, members).route(None, Rc::clone(&self.edits), identity)
    }

    fn to_hook(&self, peer: &Peer, request: &mut Request<Incoming>) -> (Route, Option<Visit>) {
        let visit = Visit::new(&self.app, Goal::Hook, request);
        let (client, is_ours) = self.origin(peer, request);
        let asked = match hooks::Asked::of(request, client) {
            Ok(asked) => asked,
            Err(error) => return (Route::Answer(answer(error.into(), &visit)), Some(visit)),
        };
        if let Some(members) = self.manager() {
            return (self.to_bot(members, client), Some(visit));
        }
        let (app, home, request_id) = (self.app.clone(), self.home.clone(), visit.request_id.clone());
        let edits = Rc::clone(&self.edits);
        let route = Route::Later(Box::pin(async move {
            let path = asked.path.clone();
            match home.spawn(async move { hooks::admit(&app, &asked).await }).await {
                Ok(Ok(Some(upstream))) => {
                    let trust_forwarded = is_ours || edits.trust_forwarded;
                    let edits = HeaderEdits { path: Some(path), websocket: false, trust_forwarded, ..(*edits).clone() };
                    Route::Forward { upstream, edits: Rc::new(edits) }
                }
                Ok(Ok(None)) => Route::Answer(answer_to(hooks::asleep(), &request_id)),
                Ok(Err(problem)) => Route::Answer(answer_to(problem, &request_id)),
                Err(error) => Route::Answer(answer_to(Error::internal(error).into(), &request_id)),
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

fn answer_to(problem: Problem, request_id: &HeaderValue) -> Response<Body> {
    let request_id = request_id.to_str().ok().map(str::to_owned);
    Problem { request_id, ..problem }.into_response().map(Body::from)
}

fn scheme(public_url: &str) -> HeaderValue {
    HeaderValue::from_static(if public_url.starts_with("https://") { "https" } else { "http" })
}

/// What a client is told where an upstream failed.
fn problem(error: &ForwardError) -> Problem {
    let code = match error {
        ForwardError::Refused
        | ForwardError::Unreachable(_)
        | ForwardError::ConnectTimeout
        | ForwardError::Nobody
        | ForwardError::Saturated => "unavailable",
        ForwardError::ResponseTimeout => "timeout",
        ForwardError::BrokeBeforeFirstByte(_) | ForwardError::BadAnswer(_) => "bad_gateway",
        ForwardError::BodyTooLarge { .. } => "too_large",
        ForwardError::ClientGone | ForwardError::ClientTooSlow => "request_timeout",
        ForwardError::Crashed(_) => "internal",
    };
    tracing::warn!(error_code = code, error = chain(error), "a request could not be passed on");
    let retry_after_s = matches!(error, ForwardError::Nobody).then_some(RETRY_AFTER_S);
    Problem { retry_after_s, ..Problem::new(code, error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::{ConnectionLimits, pool_limits};

    #[test]
    fn whoever_is_let_in_may_be_passed_on() {
        for connections_max in [16, 10_000, 1_000_000] {
            let connections = ConnectionLimits { connections_max, ..ConnectionLimits::default() };
            let pool = pool_limits(&connections);
            assert!(pool.open_max >= connections_max + 2 * pool.idle_max, "{pool:?}");
        }
    }
}
