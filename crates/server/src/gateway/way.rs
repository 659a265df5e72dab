//! The way of a request to a role: which processes may take it, how long they may take, and what they are told of who
//! sends it.

use std::{rc::Rc, sync::Arc, time::Duration};

use astrfleet_core::ports::Clock;
use http::{Method, Request, Uri};
use hyper::body::Incoming;

use super::{
    balance::{Members, Pick},
    gate::Route,
    headers::HeaderEdits,
    places::Place,
    share::Terms,
};
use crate::{
    app::App,
    config::{ServerConfig, seconds},
    idempotency,
    internal::{Identity, Signer},
    role::Role,
};

/// What a role gets beyond the time for which it waits itself: to say how that ended.
const MARGIN: Duration = Duration::from_secs(15);
/// How long models may take where the gateway is not told of their upstreams: five times what one has by default.
const MODELS_MIN: Duration = Duration::from_mins(5);

/// The way of one request.
pub struct Way {
    members: Arc<Members>,
    /// A tenant's requests go to one process.
    kept_together: bool,
    answer_limit: Duration,
    is_keyed: bool,
    fleet: Arc<Signer>,
    clock: Arc<dyn Clock>,
}

impl Way {
    /// To the role that answers at `place`.
    pub fn to_place(app: &App, place: &Place, members: &Arc<Members>, request: &Request<Incoming>) -> Self {
        Self {
            kept_together: place.role == Role::Message,
            answer_limit: answer_limit(&app.config, place),
            is_keyed: place.is_done_once(request.method()) && idempotency::is_keyed(request.headers()),
            ..Self::to_bot(app, members)
        }
    }

    /// To a bot, by way of the process that keeps it and waits for it.
    pub fn to_bot(app: &App, members: &Arc<Members>) -> Self {
        let answer_limit = seconds(app.config.gateway.upstream_timeout_s) + MARGIN;
        let (members, fleet, clock) = (Arc::clone(members), Arc::clone(&app.fleet), Arc::clone(&app.clock));
        Self { members, kept_together: false, answer_limit, is_keyed: false, fleet, clock }
    }

    /// The route. `key` stands for the tenant, `identity` is what the role is told of who sends the request.
    pub fn route(self, key: Option<u64>, edits: Rc<HeaderEdits>, identity: Identity) -> Route {
        let Self { members, kept_together, answer_limit, is_keyed, fleet, clock } = self;
        let sign = move |method: &Method, target: &str| fleet.sign(&identity, method, target, clock.now());
        let terms = Terms { identity: Box::new(sign), answer_limit, is_keyed };
        Route::Shared { pick: Pick::new(&members, key.filter(|_| kept_together)), terms, edits }
    }
}

/// How long the role at `place` may take to begin its answer.
fn answer_limit(config: &ServerConfig, place: &Place) -> Duration {
    let upstream = seconds(config.gateway.upstream_timeout_s);
    let own = match (place.wait_max(), place.role) {
        (Some(wait), _) => wait,
        // Each provider may be asked, and has its time twice: to begin its answer, and to end one that is not streamed.
        (None, Role::Llm) => {
            let providers = config.llm.upstreams.iter().map(|provider| seconds(provider.timeout_s) * 2);
            providers.sum::<Duration>().max(MODELS_MIN)
        }
        (None, _) => return upstream,
    };
    upstream.max(own + MARGIN)
}

/// The path and the query: what is signed of an address.
pub fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}
