//! What journeys share: one platform with two tenants, each with its own real bot, in front of a fake model provider.

use std::{panic::AssertUnwindSafe, time::Duration};

use astrfleet_testkit::{
    binary::{Platform, PlatformOptions},
    client::{Api, Event, Events},
    fake_provider::{FakeProvider, Recorded},
};
use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::way::Way;

/// What opens the provider. No bot may ever have it.
pub const PROVIDER_KEY: &str = "sk-of-the-provider-5f3a9c71e2";
/// Chats that the plan of both tenants lets a bot answer at the same moment.
pub const CONCURRENT_CHATS: usize = 4;
/// How long a bot may take to start, or to come to rest, on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(3);
/// Between two looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Ports for the bots of one platform.
const PORTS: u32 = 20;
const PASSWORD: &str = "only for journeys 1";

/// The platform and what is around it.
pub struct World {
    /// The real binary.
    pub platform: Platform,
    /// By which its bots reach its bridge.
    pub way: Way,
    /// What the bots' model gateway asks.
    pub provider: FakeProvider,
    /// The first administrator.
    pub admin: Api,
    /// The tenant of the demonstration.
    pub acme: Tenant,
    /// Another one.
    pub globex: Tenant,
}

/// The configuration file of a platform whose models are at `provider`.
fn config(provider: &FakeProvider, way: &Way) -> String {
    // Beside the range of a platform that somebody runs on this machine, or that other tests do.
    let ports = 18_000 + std::process::id() % 100 * PORTS;
    format!(
        r#"
        [log]
        format = "json"
        [gateway]
        metrics_listen = "127.0.0.1:0"
        rate_limit_per_minute = 60000
        anonymous_rate_limit_per_minute = 6000
        [llm]
        model = "fast"
        [[llm.upstreams]]
        name = "fake"
        base_url = "{}"
        api_key = "{PROVIDER_KEY}"
        models = {{ fast = "fake-fast" }}
        timeout_s = 10
        [bots]
        port_first = {ports}
        port_last = {}
        [bridge]
        url = "http://{}/bridge/v1"
        [plans.free]
        concurrent_chats = {CONCURRENT_CHATS}
        [plans.mute]
        concurrent_chats = {CONCURRENT_CHATS}
        messages_per_day = 0
        tokens_per_month = 1000000
        storage_bytes = 1000000
        bot_memory_bytes = 805306368
        bot_cpu_milli = 1000
        [plans.tiny]
        concurrent_chats = 1
        messages_per_day = 10000
        tokens_per_month = 1
        storage_bytes = 1000000
        bot_memory_bytes = 805306368
        bot_cpu_milli = 1000
        "#,
        provider.url(),
        ports + PORTS - 1,
        way.address(),
    )
}

impl World {
    /// Starts everything and waits for both bots. They start side by side.
    pub async fn start() -> Self {
        let provider = FakeProvider::start();
        provider.require_key(PROVIDER_KEY);
        let way = Way::new().await;
        let mut options = PlatformOptions::with_config(&config(&provider, &way));
        options.arguments.push("--demo".to_owned());
        let platform = Platform::start(options).await;
        way.lead_to(platform.url().trim_start_matches("http://").parse().unwrap());
        let administrator = platform.wait_for_event("administrator", PATIENCE).await;
        let admin = platform
            .api()
            .log_in(administrator["email"].as_str().unwrap(), administrator["password"].as_str().unwrap())
            .await;
        let tenant = json!({"name": "globex", "email": "billing@globex.example"});
        let _ = admin.post("/api/v1/tenants", tenant).await.ok();
        // The demonstration makes acme.
        until("acme is made", async || admin.get("/api/v1/tenants/acme").await.status == 200).await;
        let acme = Tenant::join(&admin, "acme").await;
        let globex = Tenant::join(&admin, "globex").await;
        for tenant in [&acme, &globex] {
            tenant.until_instance(|instance| instance["ready"] == true).await;
        }
        // Its question must not come in between a journey's own.
        until("the demonstration is over", async || {
            platform.events().iter().any(|event| event["event"] == "demo" || event["event"] == "demo_failed")
        })
        .await;
        Self { platform, way, provider, admin, acme, globex }
    }

    /// After a journey that failed: lets go what it stalled, and starts what it left down. `None` where that fails too.
    pub async fn mended(mut self) -> Option<Self> {
        self.provider.come_back();
        self.provider.release();
        self.way.open();
        let mend = async {
            if !self.platform.is_running() {
                self.platform.restart().await;
            }
            for tenant in [&self.acme, &self.globex] {
                let _ = self.admin.patch(&tenant.path(""), json!({"plan": "free"})).await;
                let _ = self.admin.post(&tenant.path("/resume"), json!({})).await;
                tenant.until_instance(|instance| instance["ready"] == true).await;
            }
        };
        tokio::time::timeout(PATIENCE, AssertUnwindSafe(mend).catch_unwind()).await.ok()?.ok()?;
        Some(self)
    }

    /// What the provider was asked with this text in it, titles left out.
    pub fn asked(&self, text: &str) -> Vec<Recorded> {
        self.provider.chats().into_iter().filter(|request| request.user_text().contains(text)).collect()
    }

    /// The process of a tenant's bot.
    pub async fn bot(&self, tenant: &Tenant) -> i32 {
        let instance = tenant.instance().await;
        let id = instance["id"].as_str().unwrap();
        let works_there = |pid: &i32| {
            let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            folder.to_string_lossy().contains(id)
        };
        let found: Vec<i32> = self.platform.bots().into_iter().filter(works_there).collect();
        assert_eq!(found.len(), 1, "one process of {}'s bot", tenant.name);
        found[0]
    }
}

/// One tenant, as its people and programs see it.
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its owner, logged in.
    pub owner: Api,
    /// A program of it that may chat.
    pub key: Api,
}

impl Tenant {
    /// Gives a tenant that exists an owner and a key.
    pub async fn join(admin: &Api, name: &str) -> Self {
        let email = format!("owner@{name}.test");
        let user = admin.post("/api/v1/users", json!({"email": email, "password": PASSWORD})).await.ok();
        let path = format!("/api/v1/tenants/{name}/members/{}", user["id"].as_str().unwrap());
        let _ = admin.put(&path, json!({"role": "owner"})).await.ok();
        let owner = admin.log_in(&email, PASSWORD).await;
        let wanted = json!({"name": "journeys", "scopes": ["chat"]});
        let made = owner.post(&format!("/api/v1/tenants/{name}/api-keys"), wanted).await.ok();
        let key = owner.as_bearer(made["secret"].as_str().unwrap());
        Self { name: name.to_owned(), owner, key }
    }

    /// A path below this tenant.
    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/tenants/{}{rest}", self.name)
    }

    /// Opens a session, as its program does.
    pub async fn session(&self, end_user: &str) -> Session {
        let session = self.key.post(&self.path("/sessions"), json!({"end_user": end_user})).await.ok();
        let id = session["id"].as_str().unwrap().to_owned();
        Session { api: self.key.clone(), path: self.path(&format!("/sessions/{id}/messages")), id }
    }

    /// Its bot as it is now.
    pub async fn instance(&self) -> Value {
        self.owner.get(&self.path("/instance")).await.ok()
    }

    /// Waits until its bot is as wanted.
    pub async fn until_instance(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let look = async {
            let mut events = self.owner.sse(&self.path("/instance/events"), None).await;
            while let Some(event) = events.next().await {
                last = event.data;
                if wanted(&last) {
                    return;
                }
            }
            panic!("the stream of {}'s instance ended", self.name);
        };
        let in_time = tokio::time::timeout(PATIENCE, look).await.is_ok();
        assert!(in_time, "{}'s bot did not get there: {last}", self.name);
        last
    }
}

/// One conversation.
pub struct Session {
    api: Api,
    /// `ses_…`
    pub id: String,
    /// Where its messages are.
    pub path: String,
}

impl Session {
    /// Says something and waits for the exchange at its end.
    pub async fn ask(&self, text: &str) -> Value {
        let exchange = self.api.post(&format!("{}?wait=170", self.path), json!({"text": text})).await.ok();
        assert!(is_over(&exchange), "{text:?} is at its end: {exchange}");
        exchange
    }

    /// The same, where it is to be answered: the answer's text.
    pub async fn answer(&self, text: &str) -> String {
        let exchange = self.ask(text).await;
        assert_eq!(exchange["message"]["state"], "done", "{text:?} is answered: {exchange}");
        exchange["reply"]["text"].as_str().unwrap().to_owned()
    }

    /// Says something and does not wait. Gives the message's id.
    pub async fn send(&self, text: &str) -> String {
        let accepted = self.api.post(&format!("{}?wait=0", self.path), json!({"text": text})).await.ok();
        accepted["message"]["id"].as_str().unwrap().to_owned()
    }

    /// Says something and reads along.
    pub async fn stream(&self, text: &str) -> Events {
        self.api.sse(&self.path, Some(json!({"text": text}))).await
    }

    /// The exchange of a message as it is now.
    pub async fn exchange(&self, message: &str) -> Value {
        self.api.get(&format!("{}/{message}", self.path)).await.ok()
    }

    /// The exchange of a message, once it is as wanted.
    pub async fn until(&self, message: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let look = async {
            loop {
                last = self.exchange(message).await;
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, look).await.is_ok();
        assert!(in_time, "the message did not get there: {last}");
        last
    }

    /// Everything that was said, the oldest first.
    pub async fn history(&self) -> Vec<Value> {
        let page = self.api.get(&format!("{}?limit=200", self.path)).await.ok();
        page["items"].as_array().unwrap().clone()
    }
}

/// Whether a message is at its end.
pub fn is_over(exchange: &Value) -> bool {
    matches!(exchange["message"]["state"].as_str(), Some("done" | "failed" | "blocked" | "interrupted"))
}

/// Waits until something is so.
///
/// # Panics
/// When it is not for too long.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let look = async {
        while !is_so().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("it never came to this: {what}"));
}

/// The text that the pieces of a stream make up.
pub fn text_of(events: &[Event]) -> String {
    let pieces = events.iter().filter(|event| event.event == "delta");
    pieces.map(|event| event.data["text"].as_str().unwrap()).collect()
}
