//! A whole platform in one line: the real router and services on real [backends](crate::backends), with bots that are
//! fakes and a clock that stands still until it is told.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher};
use astrfleet_core::{
    api_key::Scope,
    id::UserId,
    instance::Instance,
    policy::Role,
    ports::{
        BusEvent, Clock, Store,
        testing::{CountingRng, FixedClock},
    },
    tenant::Tenant,
    user::User,
};
use astrfleet_server::{
    app::{App, Ports, router},
    auth::NewApiKey,
    config::ServerConfig,
    role::Role as Part,
    tenant::NewTenant,
};
use astrfleet_store::Db;
use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tower::ServiceExt;

use crate::{backends::Backends, contract::store::NOW, fake_bots::FakeBots, fake_runtime::FakeRuntime};

/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery staple";
/// The sections of the default configuration that are not the server's.
const NOT_OF_THE_SERVER: [&str; 6] = ["blobs", "bots", "data", "database", "log", "redis"];
/// The largest answer that a test reads.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Somebody who sends requests.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who; none for programs and for nobody.
    pub user: Option<User>,
    /// What they send along.
    pub credential: Option<SecretString>,
}

impl Caller {
    /// With nothing to show.
    #[must_use]
    pub fn nobody() -> Self {
        Self { user: None, credential: None }
    }

    /// With this credential.
    #[must_use]
    pub fn with(credential: &str) -> Self {
        Self { user: None, credential: Some(credential.into()) }
    }

    /// A user's id.
    ///
    /// # Panics
    /// For a caller who is no user.
    #[must_use]
    pub fn id(&self) -> &UserId {
        &self.user.as_ref().expect("this caller is a user").id
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// As they came.
    pub headers: HeaderMap,
    /// The body as JSON; null for a body that is none.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// A header as text; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The code of a problem; empty for an answer that is none.
    #[must_use]
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// The answer, if it has this status.
    ///
    /// # Panics
    /// With the body, where it has another one.
    #[expect(clippy::return_self_not_must_use, reason = "asking for the status is enough for most tests")]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

/// A platform of its own. No loop runs unless a test starts them: see [`App::start_loops`].
pub struct TestApp {
    /// The services.
    pub app: App,
    /// Turns only when told.
    pub clock: Arc<FixedClock>,
    /// The database.
    pub store: Db,
    /// Where bots "run".
    pub runtime: Arc<FakeRuntime>,
    /// What they say.
    pub bots: Arc<FakeBots>,
    router: axum::Router,
    backends: Arc<Backends>,
    folder: Arc<tempfile::TempDir>,
}

impl TestApp {
    /// With the default configuration.
    pub async fn new() -> Self {
        Self::configured(|_| {}).await
    }

    /// With a configuration that differs from the default one.
    pub async fn configured(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backends = Backends::chosen().await;
        let store = backends.store(&folder).await;
        let clock = Arc::new(FixedClock::at(NOW.micros()));
        let (runtime, bots) = (Arc::new(FakeRuntime::new(Arc::clone(&clock) as _)), Arc::new(FakeBots::default()));
        let ports = Ports {
            store: Arc::new(store.clone()),
            bus: backends.bus().await,
            limiter: backends.limiter(Arc::clone(&clock) as _).await,
            cache: backends.cache().await,
            blobs: backends.blobs(&folder),
            runtime: Arc::clone(&runtime) as _,
            bots: Arc::clone(&bots) as _,
            clock: Arc::clone(&clock) as _,
            rng: Arc::new(CountingRng::default()),
        };
        let mut config = default_config();
        change(&mut config);
        let app = App::new(ports, config, Part::ALL.into()).unwrap();
        let router = router(app.clone());
        Self { app, clock, store, runtime, bots, router, backends: Arc::new(backends), folder: Arc::new(folder) }
    }

    /// The same platform after its process was started anew: everything stored is there, nothing in memory is.
    ///
    /// # Panics
    /// Where the configuration does not serve.
    pub async fn restarted(&self) -> Self {
        self.restarted_with(|_| {}).await
    }

    /// The same with another configuration.
    ///
    /// # Panics
    /// Where the configuration does not serve.
    pub async fn restarted_with(&self, change: impl FnOnce(&mut ServerConfig)) -> Self {
        self.beside(Part::ALL, |_, config| change(config)).await
    }

    /// Another process on the same store with these roles, other ports and another configuration.
    ///
    /// # Panics
    /// Where the configuration does not serve.
    pub async fn beside(
        &self,
        roles: impl IntoIterator<Item = Part>,
        change: impl FnOnce(&mut Ports, &mut ServerConfig),
    ) -> Self {
        let (bus, cache) = (self.backends.bus().await, self.backends.cache().await);
        let mut ports = Ports { bus, cache, ..self.app.ports.clone() };
        let mut config = self.app.config.clone();
        change(&mut ports, &mut config);
        let app = App::new(ports, config, roles.into_iter().collect()).unwrap();
        let router = router(app.clone());
        let (clock, store) = (Arc::clone(&self.clock), self.store.clone());
        let (runtime, bots) = (Arc::clone(&self.runtime), Arc::clone(&self.bots));
        let (backends, folder) = (Arc::clone(&self.backends), Arc::clone(&self.folder));
        Self { app, clock, store, runtime, bots, router, backends, folder }
    }

    /// Turns the clock on.
    pub fn advance(&self, duration: Duration) {
        self.clock.advance(duration);
    }

    /// Whether the database has `text` anywhere on the disk.
    #[must_use]
    pub fn stores(&self, text: &str) -> bool {
        self.backends.stored(&self.folder).windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// The files that are stored, and how large each is; nothing of those in an S3.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.backends.files(&self.folder)
    }

    /// A platform administrator who is logged in.
    pub async fn admin(&self) -> Caller {
        let known = self.store.users().first_admin().await;
        match known {
            Ok(admin) => self.log_in(admin).await,
            Err(_) => self.log_in(self.user("root@example.com", true).await).await,
        }
    }

    /// Somebody who belongs to no tenant, logged in.
    pub async fn stranger(&self, email: &str) -> Caller {
        self.log_in(self.user(email, false).await).await
    }

    /// A tenant of this name, with its bot wanted and not started.
    pub async fn tenant(&self, name: &str) -> Tenant {
        let email = format!("owner@{name}.example");
        let new = NewTenant { name: name.to_owned(), email, display_name: None, plan: None };
        self.app.tenant.create(new).await.unwrap().0
    }

    /// A tenant's bot as it is stored.
    pub async fn instance(&self, tenant: &Tenant) -> Instance {
        self.store.instances(&tenant.id).get().await.unwrap()
    }

    /// A new member of a tenant, logged in.
    pub async fn member(&self, tenant: &Tenant, role: Role) -> Caller {
        let email = format!("{}@{}.example", self.app.ids.request(), tenant.name);
        let user = self.user(&email, false).await;
        self.store.members(&tenant.id).put(&user.id, role, self.clock.now()).await.unwrap();
        self.app.auth.publish(BusEvent::MembershipChanged(user.id.clone()));
        self.log_in(user).await
    }

    /// A new API key of a tenant.
    pub async fn api_key(&self, tenant: &Tenant, scopes: &[Scope]) -> Caller {
        let by = self.user(&format!("{}@example.com", self.app.ids.request()), false).await;
        let new = NewApiKey { name: "test".to_owned(), scopes: scopes.to_vec(), expires_at: None };
        let (_, secret) = self.app.auth.create_api_key(&tenant.id, &by.id, new).await.unwrap();
        Caller { user: None, credential: Some(secret) }
    }

    /// The bot of a tenant, by its virtual key of the model gateway.
    pub async fn bot(&self, tenant: &Tenant) -> Caller {
        let instance = self.instance(tenant).await;
        let key = self.app.secrets.llm_key(&instance.id, instance.secrets_version).unwrap();
        Caller { user: None, credential: Some(key) }
    }

    /// A new login of a user.
    pub async fn log_in(&self, user: User) -> Caller {
        let login = self.app.auth.begin_login(user).await.unwrap();
        Caller { user: Some(login.user), credential: Some(login.access_token) }
    }

    /// Sends a GET.
    pub async fn get(&self, caller: &Caller, path: &str) -> Answer {
        self.send(Method::GET, caller, path, None, &[]).await
    }

    /// Sends a POST.
    pub async fn post(&self, caller: &Caller, path: &str, body: Value) -> Answer {
        self.send(Method::POST, caller, path, Some(body), &[]).await
    }

    /// Sends a PUT.
    pub async fn put(&self, caller: &Caller, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, caller, path, Some(body), &[]).await
    }

    /// Sends a PATCH.
    pub async fn patch(&self, caller: &Caller, path: &str, body: Value) -> Answer {
        self.send(Method::PATCH, caller, path, Some(body), &[]).await
    }

    /// Sends a DELETE.
    pub async fn delete(&self, caller: &Caller, path: &str) -> Answer {
        self.send(Method::DELETE, caller, path, None, &[]).await
    }

    /// Sends a request, `path` being what follows `/api/v1`, or an address such as `/health` that begins with `//`.
    pub async fn send(
        &self,
        method: Method,
        caller: &Caller,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let address = path.strip_prefix('/').filter(|rest| rest.starts_with('/'));
        let address = address.map_or_else(|| format!("/api/v1{path}"), str::to_owned);
        let mut request = Request::builder().method(method).uri(address);
        if let Some(credential) = &caller.credential {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", credential.expose_secret()));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let mut request = request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_string()))).unwrap();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap();
            request.headers_mut().insert(name, HeaderValue::try_from(*value).unwrap());
        }
        let response = self.raw(request).await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8_lossy(&to_bytes(body, ANSWER_BYTES_MAX).await.unwrap()).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status.as_u16(), headers: parts.headers, json, text }
    }

    /// Sends a request as it is, from a loopback address where it does not say another one, and hands back the answer
    /// as it comes: for streams.
    pub async fn raw(&self, mut request: Request<Body>) -> Response<Body> {
        if request.extensions().get::<ConnectInfo<SocketAddr>>().is_none() {
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000));
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a POST to exactly this path, and hands back the answer as it comes.
    ///
    /// # Panics
    /// For nobody.
    pub async fn post_raw(&self, caller: &Caller, path: &str, body: &Value) -> Response<Body> {
        let credential = caller.credential.as_ref().map(SecretString::expose_secret).unwrap();
        let request = Request::post(path)
            .header(header::AUTHORIZATION, format!("Bearer {credential}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()));
        self.raw(request.unwrap()).await
    }

    /// Takes requests in on a port of its own too, until the test ends: for whatever comes over the network. Returns its
    /// address.
    pub async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = self.router.clone().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(axum::serve(listener, service).into_future());
        url
    }

    /// A new user with [`PASSWORD`].
    pub async fn user(&self, email: &str, platform_admin: bool) -> User {
        let now = self.clock.now();
        let user = User {
            id: self.app.ids.user(),
            email: email.to_owned(),
            display_name: email.to_owned(),
            platform_admin,
            disabled: false,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        self.store.users().insert(&user, &cheap_hash()).await.unwrap();
        user
    }
}

/// The hash of [`PASSWORD`] with the least work that argon2 allows: a hash names its own parameters.
fn cheap_hash() -> String {
    let params = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
    let hash: PasswordHash = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_with_salt(PASSWORD.as_bytes(), b"salt of tests")
        .unwrap();
    hash.to_string()
}

/// The defaults of the binary, with a secret, and without any address that is real.
#[must_use]
pub fn default_config() -> ServerConfig {
    default_sections().try_into().unwrap()
}

/// The same as it is written.
#[must_use]
pub fn default_sections() -> toml::Value {
    let mut sections: BTreeMap<String, toml::Value> =
        toml::from_str(include_str!("../../cli/src/config.default.toml")).unwrap();
    sections.retain(|name, _| !NOT_OF_THE_SERVER.contains(&name.as_str()));
    let auth = sections.get_mut("auth").and_then(toml::Value::as_table_mut).unwrap();
    auth.insert("jwt_secret".to_owned(), "a secret of tests, of at least 32 characters".into());
    toml::Value::Table(sections.into_iter().collect())
}
