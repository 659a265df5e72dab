//! `up` and `serve`: starts the roles, runs until it is told to stop, and ends in order.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use astrfleet_core::Error;
use astrfleet_runtime::environment::Report;
use astrfleet_server::{
    app::App,
    config::{ServerConfig, seconds},
    gateway::{
        self,
        listen::{self, Listen, Serving},
        loopback,
    },
    role::Role,
    secrets::Secrets,
};
use astrfleet_store::db::Db;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    client::Client,
    config::{Config, Environment},
    events::{Event, Reporter},
    host::{DataFolder, SystemRng, random_secret},
    login::{LOCAL_FILE, Local},
    ops::demo,
    wire,
};

/// The e-mail address of the first administrator where none is given.
const ADMIN_EMAIL: &str = "admin@localhost.localdomain";

/// Signals that come within this time are one.
const SAME_MOMENT: Duration = Duration::from_millis(500);

/// What `up` and `serve` differ in.
pub struct Start {
    /// Which roles.
    pub roles: BTreeSet<Role>,
    /// Make what is missing: a secret, an administrator, a way in for commands on this machine.
    pub embedded: bool,
    /// Show a tenant, its bot and an answer.
    pub demo: bool,
    /// Of the first administrator.
    pub admin_email: Option<String>,
    /// Of the first administrator.
    pub admin_password: Option<SecretString>,
}

/// Everything that runs.
struct Running {
    app: App,
    serving: Serving,
    db: Db,
    data: DataFolder,
    url: String,
}

/// Runs until a signal asks it to stop.
///
/// # Errors
/// Where it cannot start; the text says why, and the remedy.
pub async fn run(config: &Config, environment: &Environment, start: Start, reporter: Arc<Reporter>) -> Result<()> {
    let began = Instant::now();
    let mut stop = StopSignals::new()?;
    for name in environment.unused(|key| config.is_empty(key)) {
        tracing::warn!(variable = name, "is set and of no use here: what it belongs to is not configured");
    }
    for risk in config.risks(Some(&start.roles)) {
        tracing::warn!("{risk}");
    }
    // Ctrl-C during the preparation ends it; the next start goes on from there.
    let running = tokio::select! {
        running = bring_up(config, environment, &start, &reporter, began) => running?,
        () = stop.asked() => {
            reporter.tell(&Event::Stopped);
            return Ok(());
        }
    };
    let demonstration = start.demo.then(|| {
        let (reporter, url) = (Arc::clone(&reporter), running.url.clone());
        let local = running.data.join(LOCAL_FILE);
        tokio::spawn(async move { demo::run(&url, &local, &reporter).await })
    });
    let lost = tokio::select! {
        () = stop.asked() => false,
        () = running.app.manager.lost() => true,
    };
    if let Some(demonstration) = demonstration {
        demonstration.abort();
    }
    let limit = running.limit();
    reporter.tell(&Event::Stopping { limit_s: limit.as_secs() });
    tokio::select! {
        () = running.end() => {}
        () = stop.asked_again() => tracing::warn!("stopped at once: what was open is repaired at the next start"),
        () = tokio::time::sleep(limit) => tracing::warn!("stopped after the limit: what was open is repaired at the next start"),
    }
    reporter.tell(&Event::Stopped);
    if lost {
        bail!("another process keeps the bots now: start this one again, and it stands by");
    }
    Ok(())
}

async fn bring_up(
    config: &Config,
    environment: &Environment,
    start: &Start,
    reporter: &Arc<Reporter>,
    began: Instant,
) -> Result<Running> {
    // A database of its own, or a way in for commands: then nobody else may use the folder.
    let is_shared = !start.embedded && !config.database.host.is_empty();
    let data = if is_shared { DataFolder::share(&config.data.dir)? } else { DataFolder::take(&config.data.dir)? };
    let jwt_secret =
        if start.embedded && !config.has_jwt_secret() { Some(data.secret("jwt-secret", &SystemRng)?) } else { None };
    let mut server: ServerConfig = config.server(jwt_secret)?;
    // Bound before anything is prepared: a port that is taken is known at once.
    let bound = listen::bind(&Listen {
        workers: std::num::NonZeroUsize::new(server.gateway.workers),
        ..Listen::on(server.gateway.listen)
    })?;
    server.gateway.listen = bound.address();
    if start.embedded {
        give_way_with_metrics(&mut server);
    }
    let db = wire::open_database(config, &data).await?;
    let preparing = Arc::clone(reporter);
    let report = move |progress| preparing.tell(&Event::Preparing { progress });
    let secrets = Secrets::new(server.auth.jwt_secret.clone());
    let keeps_bots = start.roles.contains(&Role::Manager);
    let bots_here = keeps_bots.then_some((environment, &report as Report<'_>));
    let ports = wire::ports(config, &data, db.clone(), &secrets, bots_here).await?;
    let app = App::new(ports, server, start.roles.clone())?;
    if keeps_bots {
        prepare_for_bots(&app, bound.address(), is_shared, reporter).await?;
    }
    first_admin(&app, start, reporter).await?;
    app.start_loops();
    let metrics = gateway::serve_metrics(&app).await?;
    let serving = gateway::serve(&app, bound)?;
    let url = app.gateway.public_url();
    if start.embedded {
        let credential = random_secret(&SystemRng);
        app.auth.enable_local_admin(credential.clone()).await?;
        Local::leave(&data.join(LOCAL_FILE), &format!("http://{}", loopback(serving.address())), &credential)?;
    }
    wait_until_ready(&format!("http://{}", loopback(serving.address()))).await?;
    reporter.tell(&Event::Ready {
        url: url.clone(),
        metrics_url: metrics.map(|address| format!("http://{address}/metrics")),
        data_dir: config.data.dir.display().to_string(),
        ready_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        model_configured: config.has_model(),
        demo: start.demo,
    });
    Ok(Running { app, serving, db, data, url })
}

/// Finds the bots of an earlier run, unless another process may be keeping them.
async fn prepare_for_bots(app: &App, address: SocketAddr, is_shared: bool, reporter: &Reporter) -> Result<()> {
    let configured = app.config.manager.llm_url.trim_end_matches('/');
    let own = [Role::Llm, Role::Gateway].iter().any(|role| app.roles.contains(role));
    app.manager.set_llm_base_url(match (configured, own) {
        ("", true) => format!("http://{}/llm/v1", loopback(address)),
        ("", false) => bail!(
            "manager.llm_url is empty, and this process has neither the role llm nor the role gateway: say where bots find \
             their model, such as http://gateway:8000/llm/v1"
        ),
        (configured, _) => configured.to_owned(),
    });
    if is_shared {
        app.manager.share();
        return Ok(());
    }
    let adopted = app.manager.adopt().await.context("bots of an earlier run cannot be looked for")?;
    reporter.tell(&Event::Adopted { bots: adopted });
    Ok(())
}

/// Makes the first administrator, where that is wanted here and there is none.
async fn first_admin(app: &App, start: &Start, reporter: &Reporter) -> Result<()> {
    let is_asked = app.roles.contains(&Role::Auth) && start.admin_password.is_some();
    if !start.embedded && !is_asked {
        return Ok(());
    }
    let email = start.admin_email.as_deref().unwrap_or(ADMIN_EMAIL);
    match app.auth.ensure_first_admin(email, start.admin_password.clone()).await {
        Ok(Some((user, password))) => {
            let password = password.map(|password| secrecy::ExposeSecret::expose_secret(&password).to_owned());
            reporter.tell(&Event::Administrator { email: user.email, password });
            Ok(())
        }
        // Another process of this role has made it at the same moment.
        Ok(None) | Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A second platform on one machine takes another port for its metrics, rather than not to start.
fn give_way_with_metrics(server: &mut ServerConfig) {
    let Some(address) = &mut server.gateway.metrics_listen else { return };
    if std::net::TcpListener::bind(*address).is_err() {
        tracing::warn!(%address, "the port for metrics is taken: a free one is used instead");
        address.set_port(0);
    }
}

async fn wait_until_ready(url: &str) -> Result<()> {
    let client = Client::new(url, None)?;
    for _ in 0..2_000 {
        if client.get("/ready").await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.get("/ready").await.map(|_| ()).context("the platform started and does not become ready")
}

impl Running {
    /// How long the end may take: what requests get, what bots get, and a little to write everything down.
    fn limit(&self) -> Duration {
        self.drain_delay() + seconds(self.app.config.gateway.drain_timeout_s) + seconds(20)
    }

    /// Nobody has to notice where everything is in one process.
    fn drain_delay(&self) -> Duration {
        let is_whole = self.app.roles.len() == Role::ALL.len();
        if is_whole { Duration::ZERO } else { seconds(self.app.config.serve.drain_delay_s) }
    }

    async fn end(self) {
        let drain_delay = self.drain_delay();
        let Self { app, serving, db, data, .. } = self;
        std::fs::remove_file(data.join(LOCAL_FILE)).ok();
        app.gateway.begin_drain();
        // Whoever sends requests here is given the time to notice; they are served meanwhile.
        tokio::time::sleep(drain_delay).await;
        app.message.drain().await;
        app.stop.cancel();
        let drained = serving.drained().await;
        if drained.cut > 0 {
            tracing::warn!(connections = drained.cut, "connections were cut after the drain limit");
        }
        if app.manager.keeps_bots() && !app.config.manager.leave_bots {
            app.manager.stop_all(seconds(20)).await;
        } else {
            app.manager.keepers_ended().await;
        }
        app.manager.give_back().await;
        app.tasks.close();
        app.tasks.wait().await;
        db.close().await;
    }
}

/// SIGINT and SIGTERM.
struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Asked again, on top of an earlier time. A terminal and a wrapper may both pass on one Ctrl-C: what comes at the
    /// same moment counts once.
    async fn asked_again(&mut self) {
        tokio::time::sleep(SAME_MOMENT).await;
        while tokio::time::timeout(Duration::ZERO, self.asked()).await.is_ok() {}
        self.asked().await;
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
