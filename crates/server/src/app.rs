//! What every handler and loop may use, and how the roles are put together.

use std::{collections::BTreeSet, ops::Deref, sync::Arc};

use astrfleet_core::{
    Result,
    id::Ids,
    ports::{Blobs, Bots, Bus, BusStream, Cache, Clock, Limiter, Rng, Runtime, Store, System},
    time::Timestamp,
};
use futures_util::StreamExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    auth, bridge,
    config::ServerConfig,
    events, gateway, internal,
    internal::{Peers, Replica, Signer},
    llm, loops,
    loops::Loop,
    manager, message,
    metrics::Metrics,
    problem,
    role::Role,
    secrets::Secrets,
    session, tenant, webhook,
};

/// The backends that were picked.
#[derive(Clone)]
#[expect(missing_docs, reason = "each is the port of its name")]
pub struct Ports {
    pub store: Arc<dyn Store>,
    pub bus: Arc<dyn Bus>,
    pub limiter: Arc<dyn Limiter>,
    pub cache: Arc<dyn Cache>,
    pub blobs: Arc<dyn Blobs>,
    pub runtime: Arc<dyn Runtime>,
    pub bots: Arc<dyn Bots>,
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
}

/// What all services stand on.
pub struct Base {
    /// This process, among those of the platform.
    pub me: Replica,
    /// Signs calls to other processes of the platform, and knows theirs.
    pub fleet: Arc<Signer>,
    /// The way to them.
    pub peers: Peers,
    /// The backends.
    pub ports: Ports,
    /// Makes ids.
    pub ids: Ids,
    /// The configuration.
    pub config: ServerConfig,
    /// Derives secrets.
    pub secrets: Secrets,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What became of the loops.
    pub loops: Arc<loops::Board>,
    /// What was begun and must be finished before the process ends.
    pub tasks: TaskTracker,
    /// Set when the process is to end.
    pub stop: CancellationToken,
}

impl Base {
    /// What the bus tells from here on, until the process is to end.
    pub fn bus_events(&self) -> BusStream {
        self.bus.subscribe().take_until(self.stop.clone().cancelled_owned()).boxed()
    }

    /// The time by which one process judges how old is what others have stored: the database's, or this process's own where
    /// that is earlier. So a clock that is ahead ends nothing before its time, and one that is behind is late at most.
    ///
    /// # Errors
    /// What the store says.
    pub async fn time_for_all(&self, system: &dyn System) -> Result<Timestamp> {
        Ok(system.now().await?.min(self.clock.now()))
    }
}

impl Deref for Base {
    type Target = Ports;

    fn deref(&self) -> &Ports {
        &self.ports
    }
}

/// Shared by all handlers and loops. Cheap to clone, which every layer before a handler does for every request.
#[derive(Clone)]
pub struct App(Arc<Services>);

/// Of all roles, whichever this process has.
pub struct Services {
    base: Arc<Base>,
    /// The roles of this process.
    pub roles: BTreeSet<Role>,
    /// Role `auth`.
    pub auth: Arc<auth::Service>,
    /// Role `tenant`.
    pub tenant: Arc<tenant::Service>,
    /// Role `manager`.
    pub manager: Arc<manager::Service>,
    /// Role `llm`.
    pub llm: Arc<llm::Service>,
    /// Role `message`.
    pub message: Arc<message::Service>,
    /// What happens, told as it does.
    pub events: Arc<events::Service>,
    /// And told to tenants' own systems.
    pub webhook: Arc<webhook::Service>,
    /// Messages of IM channels; part of the role `message`.
    pub bridge: Arc<bridge::Service>,
    /// Role `gateway`.
    pub gateway: Arc<gateway::Service>,
}

impl Deref for App {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl Deref for Services {
    type Target = Base;

    fn deref(&self) -> &Base {
        &self.base
    }
}

impl App {
    /// Puts the services of `roles` together. Starts nothing.
    ///
    /// # Errors
    /// [`astrfleet_core::Error::Internal`] where the configuration's secret does not serve.
    pub fn new(ports: Ports, config: ServerConfig, roles: BTreeSet<Role>) -> astrfleet_core::Result<Self> {
        let ids = Ids::new(Arc::clone(&ports.clock), Arc::clone(&ports.rng));
        let fleet = Arc::new(Signer::new(&config.auth)?);
        let base = Arc::new(Base {
            me: Replica::new(ids.replica(), &config)?,
            peers: Peers::new(Arc::clone(&fleet), Arc::clone(&ports.clock), &config.gateway),
            fleet,
            ids,
            secrets: Secrets::new(config.auth.jwt_secret.clone()),
            metrics: Arc::new(Metrics::default()),
            loops: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            config,
            ports,
        });
        let auth = Arc::new(auth::Service::new(Arc::clone(&base))?);
        let tenant = Arc::new(tenant::Service::new(Arc::clone(&base)));
        let manager =
            Arc::new(manager::Service::new(Arc::clone(&base), Arc::clone(&tenant), roles.contains(&Role::Manager)));
        let llm = Arc::new(llm::Service::new(Arc::clone(&base), Arc::clone(&tenant))?);
        let message = Arc::new(message::Service::new(
            Arc::clone(&base),
            Arc::clone(&tenant),
            Arc::clone(&manager),
            Arc::clone(&llm),
        ));
        let events = Arc::new(events::Service::new(Arc::clone(&base)));
        let webhook = Arc::new(webhook::Service::new(Arc::clone(&base), Arc::clone(&auth)));
        let bridge =
            bridge::Service::new(Arc::clone(&base), Arc::clone(&tenant), Arc::clone(&message), Arc::clone(&llm));
        let bridge = Arc::new(bridge);
        let gateway = Arc::new(gateway::Service::new(Arc::clone(&base))?);
        let services = Services { base, roles, auth, tenant, manager, llm, message, events, webhook, bridge, gateway };
        Ok(Self(Arc::new(services)))
    }

    /// Starts the loops of this process's roles, and listens to what other processes change.
    pub fn start_loops(&self) {
        self.auth.listen();
        self.tenant.listen();
        // Whoever talks to bots has to know where they are: the role `tenant` too, for exports have their channels.
        let talks =
            [Role::Tenant, Role::Session, Role::Message, Role::Manager].iter().any(|role| self.roles.contains(role));
        let is_alone = self.manager.keeps_bots();
        let learning = (talks && !is_alone).then(|| manager::learning(self));
        let loops: Vec<Loop> = self
            .roles
            .iter()
            .flat_map(|role| match role {
                Role::Auth => auth::loops(self),
                Role::Tenant => tenant::loops(self),
                Role::Session => [session::loops(self), events::loops(self)].into_iter().flatten().collect(),
                Role::Message => {
                    [message::loops(self), webhook::loops(self), bridge::loops(self)].into_iter().flatten().collect()
                }
                Role::Manager => manager::loops(self),
                Role::Llm => llm::loops(self),
                Role::Gateway => Vec::new(),
            })
            .chain(learning)
            .collect();
        loops::start(loops, &self.metrics, &self.loops, &self.tasks, &self.stop);
    }
}

/// The description of the whole API, made from its routes. Nothing has to be started for it.
pub fn description() -> OpenApi {
    let mut document = routes(&Role::ALL.into()).into_openapi();
    problem::name_media_type(&mut document);
    document
}

/// All routes of this process's roles, ready to answer.
pub fn router(app: App) -> axum::Router {
    let (plain, _) = routes(&app.roles).merge(internal::routes(&app.roles)).split_for_parts();
    gateway::layered(plain, &app).with_state(app)
}

/// The routes of one role.
pub(crate) fn routes_of(role: Role) -> OpenApiRouter<App> {
    match role {
        Role::Auth => auth::routes(),
        Role::Tenant => tenant::routes(),
        Role::Session => session::routes().merge(events::routes()),
        Role::Message => message::routes().merge(webhook::routes()).merge(bridge::routes()),
        Role::Manager => manager::routes().merge(gateway::dashboard_routes()),
        Role::Llm => llm::routes(),
        Role::Gateway => gateway::routes(),
    }
}

fn routes(roles: &BTreeSet<Role>) -> OpenApiRouter<App> {
    let every = OpenApiRouter::with_openapi(gateway::description()).merge(gateway::health_routes());
    roles.iter().fold(every, |routes, role| routes.merge(routes_of(*role)))
}
