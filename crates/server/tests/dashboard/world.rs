//! A platform that listens, with two tenants whose bots are small programs of this test's own: they say what reached
//! them.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{policy::Role, tenant::Tenant};
use astrfleet_server::{
    config::ServerConfig,
    gateway::{
        self,
        listen::{Listen, bind},
    },
};
use astrfleet_testkit::app::{Caller, TestApp};
use axum::{
    Json, Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

/// A hang is a failure, not a wait for ever.
const PATIENCE: Duration = Duration::from_mins(1);
pub const PAGE: &str = "<!doctype html><html><head><script src=\"/assets/a.js\"></script></head></html>";

pub struct World {
    pub test: TestApp,
    pub address: SocketAddr,
    pub acme: Tenant,
    pub globex: Tenant,
    pub owner: Caller,
    /// Requests that reached a bot.
    pub seen: Arc<AtomicUsize>,
    http: reqwest::Client,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl World {
    pub async fn new() -> Self {
        Self::configured(|_| {}).await
    }

    pub async fn configured(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = bind(&Listen { workers: NonZeroUsize::new(1), ..Listen::on(local) }).unwrap();
        let address = bound.address();
        let test = TestApp::configured(|config| {
            config.gateway.listen = address;
            config.gateway.metrics_listen = None;
            config.manager.liveness_period_s = 1;
            change(config);
        })
        .await;
        test.app.manager.set_llm_base_url(format!("http://{address}/llm/v1"));
        let (mut tenants, seen) = (Vec::new(), Arc::default());
        for name in ["acme", "globex"] {
            test.runtime.offer_port(bot(name, Arc::clone(&seen)).await);
            let tenant = test.tenant(name).await;
            if tenants.is_empty() {
                test.app.start_loops();
            }
            test.app.manager.wait_ready(&tenant.id, PATIENCE).await.unwrap();
            tenants.push(tenant);
        }
        drop(gateway::serve(&test.app, bound).unwrap());
        let (globex, acme) = (tenants.pop().unwrap(), tenants.pop().unwrap());
        let owner = test.member(&acme, Role::Owner).await;
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
        Self { address, acme, globex, owner, seen, http: http.build().unwrap(), test }
    }

    /// Sends these letters to the listener, as no client would put them, and gives back the status.
    pub async fn raw(&self, head: &str) -> u16 {
        let asked = async {
            let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let mut stream = tokio::io::BufReader::new(stream);
            stream.read_line(&mut answer).await.unwrap();
            answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap()
    }

    /// Sends a request to `host`.
    pub async fn ask(&self, method: Method, host: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.http.request(method, format!("http://{}{path}", self.address)).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.body(body.to_owned()).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub fn host(&self, tenant: &Tenant) -> String {
        format!("{}.localhost:{}", tenant.name, self.address.port())
    }

    /// The path of a new link to a tenant's dashboard.
    pub async fn link(&self, caller: &Caller, tenant: &Tenant) -> String {
        let answer = self.test.post(caller, &format!("/tenants/{}/instance/open", tenant.name), json!({})).await;
        let answer = answer.expect(200);
        let url = answer.json["url"].as_str().unwrap();
        let host = format!("http://{}", self.host(tenant));
        url.strip_prefix(&host).unwrap_or_else(|| panic!("{url} is not at {host}")).to_owned()
    }

    /// Opens a link, and gives back the cookie.
    pub async fn enter(&self, caller: &Caller, tenant: &Tenant) -> String {
        let link = self.link(caller, tenant).await;
        let opened = self.ask(Method::GET, &self.host(tenant), &link, &[("sec-fetch-site", "cross-site")], "").await;
        assert_eq!(opened.status, 200, "{}", opened.text);
        opened.header("set-cookie").split(';').next().unwrap().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.test.app.stop.cancel();
    }
}

/// A bot that says what reached it. Returns its port.
async fn bot(name: &'static str, seen: Arc<AtomicUsize>) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        seen.fetch_add(1, Ordering::SeqCst);
        let shown = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let said = json!({
            "bot": name,
            "method": method.as_str(),
            "target": uri.to_string(),
            "authorization": shown("authorization"),
            "cookie": shown("cookie"),
            "signature": shown("x-line-signature"),
            "body": String::from_utf8_lossy(&body),
        });
        let cookie = [(header::SET_COOKIE, "astrbot_dashboard_jwt=secret"), (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")];
        (StatusCode::OK, cookie, Json(said)).into_response()
    };
    let page = || async { ([(header::SET_COOKIE, "a=b")], Html(PAGE)).into_response() as Response };
    let file = || async { Html("<script>parent.document</script>") };
    let routes = Router::new().route("/", get(page)).route("/api/v1/files/page", get(file)).fallback(echo);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    port
}
