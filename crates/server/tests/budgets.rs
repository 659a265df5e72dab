//! Budgets and quotas through the real router: two processes on one store, keys, bursts, notices, the cache, the export.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{collections::BTreeMap, time::Duration};

use astrfleet_core::{
    budget::{Account, Ask},
    page::PageRequest,
    policy::Role,
    ports::{BudgetHolder, Store as _},
    tenant::Tenant,
    usage::{Outcome, UsageRecord},
};
use astrfleet_server::config::{CachedAnswers, ServerConfig, UpstreamConfig};
use astrfleet_testkit::{
    app::{Answer, Caller, TestApp},
    fake_provider::{Behaviour, FakeProvider},
};
use axum::{body::Body, http::Response};
use serde_json::{Value, json};

const CHAT: &str = "//llm/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(30);

fn upstream(provider: &FakeProvider) -> UpstreamConfig {
    UpstreamConfig {
        name: "first".to_owned(),
        base_url: provider.url(),
        api_key: Some("sk-of-tests".into()),
        models: BTreeMap::new(),
        timeout_s: 30,
    }
}

/// A platform with one tenant, whose bot asks.
struct World {
    app: TestApp,
    tenant: Tenant,
    bot: Caller,
    provider: FakeProvider,
}

impl World {
    async fn configured(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let provider = FakeProvider::start();
        let app = TestApp::configured(|config| {
            config.llm.upstreams = vec![upstream(&provider)];
            change(config);
        })
        .await;
        let tenant = app.tenant("acme").await;
        let bot = app.bot(&tenant).await;
        Self { app, tenant, bot, provider }
    }

    async fn ask(&self, body: Value) -> Answer {
        self.app.post(&self.bot, CHAT, body).await
    }

    async fn stream(&self, body: &Value) -> Response<Body> {
        self.app.post_raw(&self.bot, &CHAT[1..], body).await
    }

    /// The ledger, the oldest first, as soon as it has so many lines.
    async fn ledger(&self, lines: usize) -> Vec<UsageRecord> {
        let reading = async {
            loop {
                let mut found = self.app.store.usage(&self.tenant.id).list(&PageRequest::first()).await.unwrap().items;
                if found.len() >= lines {
                    found.reverse();
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the ledger gets its lines")
    }

    async fn tokens(&self) -> u64 {
        let month = self.app.app.clock.now().month_start();
        self.app.store.usage(&self.tenant.id).tokens_since(month).await.unwrap()
    }

    /// Asks until the answer is not that somebody else may use up the rest.
    async fn ask_patiently(&self, body: &Value) -> Answer {
        let asking = async {
            loop {
                let answer = self.ask(body.clone()).await;
                if answer.status != 429 {
                    return answer;
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("what is reserved is settled at last")
    }

    /// What the tenant was told, as `action` and `quota`, as soon as it is so much.
    async fn told(&self, count: usize) -> Vec<(String, String)> {
        let reading = async {
            loop {
                let log = self.app.store.audit(Some(&self.tenant.id)).list(&PageRequest::first()).await.unwrap();
                let mut told: Vec<_> = log
                    .items
                    .into_iter()
                    .filter(|entry| entry.action.starts_with("quota."))
                    .map(|entry| (entry.action, entry.detail["quota"].as_str().unwrap().to_owned()))
                    .collect();
                if told.len() >= count {
                    told.reverse();
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the tenant is told")
    }

    async fn limits(&self) -> Value {
        let admin = self.app.member(&self.tenant, Role::Admin).await;
        self.app.get(&admin, "/tenants/acme/limits").await.expect(200).json
    }
}

fn chat(text: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 40})
}

async fn whole(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Both may use all of it, neither more than one call beyond it, and nobody is told that it is used up before it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_use_up_one_budget() {
    const LIMIT: u64 = 2_500;
    let world = World::configured(|config| {
        for plan in config.plans.values_mut() {
            plan.tokens_per_month = LIMIT;
        }
    })
    .await;
    let other = world.app.restarted().await;
    let other = World {
        bot: other.bot(&world.tenant).await,
        tenant: world.tenant.clone(),
        provider: FakeProvider::start(),
        app: other,
    };
    // The answer takes what was estimated for it, a little less than the estimate of the whole.
    let body = chat("#chunks=40 hello");
    let asker = |world| {
        let body = &body;
        async move {
            let world: &World = world;
            let mut let_in = 0_u32;
            loop {
                let answer = world.ask_patiently(body).await;
                if answer.status == 402 {
                    assert!(world.tokens().await >= LIMIT, "a false `used up`: {}", world.tokens().await);
                    return let_in;
                }
                answer.expect(200);
                let_in += 1;
            }
        }
    };
    let askers = [&world, &other, &world, &other, &world, &other].map(asker);
    let let_in = futures_util::future::join_all(askers).await;
    assert!(let_in.iter().step_by(2).sum::<u32>() > 0 && let_in.iter().skip(1).step_by(2).sum::<u32>() > 0);
    let lines = world.ledger(let_in.iter().sum::<u32>() as usize).await;
    assert_eq!(lines.len(), let_in.iter().sum::<u32>() as usize, "each call is one line");
    let used = world.tokens().await;
    let estimate = 40 + body.to_string().len() as u64 / 4 + 1;
    assert!((LIMIT..LIMIT + estimate).contains(&used), "{used} of {LIMIT}");
}

/// What it had leased comes back, and what it had written counts.
#[tokio::test]
async fn a_process_that_ends_gives_back_what_it_had() {
    let world = World::configured(|config| {
        for plan in config.plans.values_mut() {
            plan.tokens_per_month = 1_000;
        }
    })
    .await;
    world.app.app.start_loops();
    world.ask(chat("hello")).await.expect(200);
    world.ledger(1).await;
    world.app.app.stop.cancel();
    world.app.app.tasks.close();
    tokio::time::timeout(PATIENCE, world.app.app.tasks.wait()).await.expect("all tasks end");
    let (budgets, month) = (world.app.store.budgets(&world.tenant.id), world.app.app.clock.now().month_start());
    let next = BudgetHolder { name: "the next one".to_owned(), ttl: PATIENCE };
    let granted = budgets.lease(&Account::Tokens, month, 1_000, &next, &Ask::default()).await.unwrap();
    assert_eq!((granted.spent, granted.others), (world.tokens().await, 0));
}

#[tokio::test]
async fn a_stream_that_is_left_gives_back_what_it_did_not_take() {
    let world = World::configured(|config| {
        for plan in config.plans.values_mut() {
            plan.tokens_per_month = 300;
        }
    })
    .await;
    let mut body = chat("#stall=3 one two three four");
    body["stream"] = true.into();
    body["max_tokens"] = 300.into();
    let stream = world.stream(&body).await;
    assert_eq!(world.ask(chat("hello")).await.expect(429).header("retry-after"), "1", "reserved, not used up");
    drop(stream);
    world.provider.wait_until(|counts| counts.cancelled == 1).await;
    let line = world.ledger(1).await.remove(0);
    assert_eq!((line.outcome, line.estimated), (Outcome::Aborted, true));
    world.ask(chat("hello")).await.expect(200);
    let used: u64 = world.ledger(2).await.iter().map(|line| line.tokens.total()).sum();
    assert_eq!(world.limits().await["tokens_this_month"]["used"], used);
}

#[tokio::test]
async fn a_key_has_an_amount_of_its_own() {
    let world = World::configured(|config| {
        for plan in config.plans.values_mut() {
            plan.tokens_per_month_of_key = 20;
        }
    })
    .await;
    world.ask(chat("#chunks=30 hello")).await.expect(200);
    let used = world.ledger(1).await[0].tokens.total();
    let refused = world.ask_patiently(&chat("hello")).await.expect(402);
    let message = refused.json["error"]["message"].as_str().unwrap();
    assert!(message.contains("this key") && message.contains("2026-12-01"), "{message}");
    let limits = world.limits().await;
    assert_eq!(limits["tokens_this_month_of_key"]["limit"], 20);
    assert_eq!(limits["tokens_this_month_of_key"]["used"], used);
    assert_eq!(limits["tokens_this_month_of_key"]["exhausted"], true);
    assert_eq!(limits["tokens_this_month"]["exhausted"], false);
}

#[tokio::test]
async fn a_burst_goes_beyond_the_plan_and_the_tenant_is_told_once_of_each_step() {
    let world = World::configured(|config| {
        for plan in config.plans.values_mut() {
            (plan.tokens_per_month, plan.burst_percent) = (100, 50);
        }
    })
    .await;
    let body = chat("#chunks=20 hello");
    let mut lines = 0;
    while world.ask_patiently(&body).await.status == 200 {
        lines += 1;
        world.ledger(lines).await;
    }
    let used = world.tokens().await;
    assert!((150..150 + 100).contains(&used), "{used}");
    let limits = world.limits().await;
    assert_eq!(limits["tokens_this_month"]["hard_limit"], 150);
    assert_eq!(limits["tokens_this_month"]["level"], "exhausted");
    world.ask_patiently(&body).await.expect(402);
    let mut told = world.told(3).await;
    told.sort();
    let expected = ["quota.burst", "quota.exhausted", "quota.warning"];
    let expected = expected.map(|action| (action.to_owned(), "tokens_per_month".to_owned()));
    assert_eq!(told, expected);
    let metrics = world.app.app.metrics.render();
    assert!(metrics.contains("quota_notices_total{quota=\"tokens_per_month\",level=\"exhausted\"} 1"), "{metrics}");
    // Another process tells nothing again.
    let other = world.app.restarted().await;
    let bot = other.bot(&world.tenant).await;
    other.post(&bot, CHAT, body).await.expect(402);
    assert_eq!(world.told(3).await.len(), 3);
}

#[tokio::test]
async fn messages_of_a_day_are_counted_for_all_processes_together() {
    const LIMIT: usize = 7;
    let app = TestApp::configured(|config| {
        for plan in config.plans.values_mut() {
            plan.messages_per_day = LIMIT as u64;
        }
    })
    .await;
    let tenant = app.tenant("acme").await;
    let other = app.restarted().await;
    let agent = app.member(&tenant, Role::Agent).await;
    let made = app.post(&agent, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201);
    let path = format!("/tenants/acme/sessions/{}/messages?wait=0", made.json["id"].as_str().unwrap());
    let mut accepted = 0;
    let sending = async {
        loop {
            let answers = [&app, &other, &app, &other].map(|app| app.post(&agent, &path, json!({"text": "Hi"})));
            let answers = futures_util::future::join_all(answers).await;
            let stored = app.store.messages(&tenant.id).count_since(app.app.clock.now().day_start()).await.unwrap();
            accepted += answers.iter().filter(|answer| answer.status == 202).count();
            if answers.iter().any(|answer| answer.status == 402) {
                assert_eq!(stored, LIMIT as u64, "a false `used up`");
                return;
            }
            for answer in answers {
                assert!(matches!(answer.status, 202 | 429), "{}", answer.text);
            }
        }
    };
    tokio::time::timeout(PATIENCE, sending).await.expect("all of them are used");
    assert_eq!(accepted, LIMIT);
    app.advance(Duration::from_hours(24));
    let agent = app.log_in(agent.user.unwrap()).await;
    other.post(&agent, &path, json!({"text": "Hi"})).await.expect(202);
}

#[tokio::test]
async fn a_tenant_is_told_when_all_chats_that_it_may_have_are_under_way() {
    let world = World::configured(|config| {
        for plan in config.plans.values_mut() {
            plan.concurrent_chats = 1;
        }
    })
    .await;
    let app = &world.app;
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    app.app.start_loops();
    app.app.manager.wait_ready(&world.tenant.id, PATIENCE).await.unwrap();
    let agent = app.member(&world.tenant, Role::Agent).await;
    let sessions = format!("/tenants/{}/sessions", world.tenant.name);
    let made = app.post(&agent, &sessions, json!({"end_user": "ada"})).await.expect(201);
    let path = format!("{sessions}/{}/messages", made.json["id"].as_str().unwrap());
    for _ in 0..2 {
        app.post(&agent, &path, json!({"text": "Hi"})).await.expect(200);
    }
    assert_eq!(world.told(1).await, [("quota.exhausted".to_owned(), "concurrent_chats".to_owned())], "once");
}

#[tokio::test]
async fn an_answer_is_given_again_to_the_same_tenant_alone() {
    let world = World::configured(|config| {
        config.llm.cache.max_bytes = 1 << 20;
    })
    .await;
    let mut body = chat("hello");
    world.ask(body.clone()).await.expect(200);
    world.ask(body.clone()).await.expect(200);
    assert_eq!(world.provider.counts().requests, 2, "an answer that may differ each time is asked for each time");
    body["temperature"] = 0.into();
    let first = world.ask(body.clone()).await.expect(200);
    assert_eq!(first.header("x-astrfleet-cache"), "");
    // It is kept beside the way back.
    let kept = async {
        loop {
            let again = world.ask(body.clone()).await.expect(200);
            if again.header("x-astrfleet-cache") == "hit" {
                return again;
            }
        }
    };
    let second = tokio::time::timeout(PATIENCE, kept).await.expect("it is kept");
    assert_eq!(first.json["choices"], second.json["choices"]);
    let asked_for = world.provider.counts().requests;
    let lines = world.ledger(asked_for + 1).await;
    let last = lines.last().unwrap();
    assert_eq!((last.upstream.as_str(), last.tokens.total(), last.outcome), ("cache", 0, Outcome::Complete));

    let theirs = world.app.tenant("globex").await;
    let bot = world.app.bot(&theirs).await;
    let asked = world.app.post(&bot, CHAT, body.clone()).await.expect(200);
    assert_eq!((asked.header("x-astrfleet-cache"), world.provider.counts().requests), ("", asked_for + 1));

    body["stream"] = true.into();
    let mut given = vec![whole(world.stream(&body).await).await];
    let kept = async {
        loop {
            let again = world.stream(&body).await;
            if again.headers().get("x-astrfleet-cache").is_some_and(|cache| cache == "hit") {
                return again;
            }
            given.push(whole(again).await);
        }
    };
    let again = tokio::time::timeout(PATIENCE, kept).await.expect("it is kept");
    assert_eq!(again.headers()["content-type"], "text/event-stream; charset=utf-8");
    assert!(given.contains(&whole(again).await), "event for event");
    let metrics = world.app.app.metrics.render();
    assert!(metrics.contains("llm_cache_requests_total{result=\"hit\"} 2"), "{metrics}");
}

/// They take no tokens, and still no more of them come than the ledger can hold.
#[tokio::test]
async fn answers_that_are_given_again_are_as_many_as_calls_may_be() {
    let world = World::configured(|config| {
        config.llm.cache.max_bytes = 1 << 20;
        config.llm.cache.answers = CachedAnswers::All;
        config.llm.concurrent_calls = 3;
    })
    .await;
    let given = async || world.ask(chat("hello")).await;
    let kept = async {
        let mut asked = 1;
        while given().await.expect(200).header("x-astrfleet-cache") != "hit" {
            asked += 1;
        }
        world.ledger(asked).await
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("it is kept");
    let answers = futures_util::future::join_all((0..200).map(|_| given())).await;
    let refused = answers.iter().filter(|answer| answer.status == 429).count();
    assert!(refused > 0, "so many lines are written at once");
    let hits = answers.iter().filter(|answer| answer.header("x-astrfleet-cache") == "hit").count();
    assert_eq!(hits + refused, 200);
    assert!(hits > 0, "and some are");
    let again = async {
        while given().await.status == 429 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("what is written is out of the way");
}

#[tokio::test]
async fn only_whole_answers_are_given_again() {
    let world = World::configured(|config| {
        config.llm.cache.max_bytes = 1 << 20;
        config.llm.cache.answers = CachedAnswers::All;
    })
    .await;
    for directive in ["#die=2", "#cut"] {
        let mut body = chat(&format!("{directive} one two three"));
        body["stream"] = true.into();
        for _ in 0..2 {
            let response = world.stream(&body).await;
            assert!(!response.headers().contains_key("x-astrfleet-cache"));
            whole(response).await;
        }
    }
    let mut body = chat("#stall=2 one two three");
    body["stream"] = true.into();
    drop(world.stream(&body).await);
    world.provider.wait_until(|counts| counts.cancelled == 1).await;
    assert!(!world.stream(&body).await.headers().contains_key("x-astrfleet-cache"));
    let asked = chat("#error=400");
    world.ask(asked.clone()).await.expect(400);
    world.ask(asked).await.expect(400);
    assert!(world.app.app.metrics.render().contains("llm_cache_requests_total{result=\"hit\"} 0"));
}

#[tokio::test]
async fn the_circuit_before_an_upstream_is_seen() {
    let world = World::configured(|_| {}).await;
    world.provider.always(Behaviour::error(500));
    for _ in 0..3 {
        world.ask(chat("hello")).await.expect(424);
    }
    let metrics = world.app.app.metrics.render();
    assert!(metrics.contains("llm_upstream_circuit{upstream=\"first\"} 2"), "{metrics}");
    assert!(metrics.contains("llm_upstream_circuit_opened_total{upstream=\"first\"} 1"), "{metrics}");
    world.provider.always(Behaviour::default());
    world.app.advance(Duration::from_secs(11));
    world.ask(chat("hello")).await.expect(200);
    assert!(world.app.app.metrics.render().contains("llm_upstream_circuit{upstream=\"first\"} 0"));
}

#[tokio::test]
async fn every_call_can_be_exported() {
    let app = TestApp::new().await;
    let tenant = app.tenant("acme").await;
    let (now, instance) = (app.app.clock.now(), app.instance(&tenant).await.id);
    let lines: Vec<_> = (0..1_203_u64)
        .map(|number| UsageRecord {
            id: app.app.ids.usage(),
            tenant_id: tenant.id.clone(),
            instance_id: instance.clone(),
            upstream: "first".to_owned(),
            model: if number == 7 { "=HYPERLINK(\"http://x\")".to_owned() } else { "gpt-5".to_owned() },
            tokens: astrfleet_core::message::TokenUsage { prompt_tokens: number, completion_tokens: 1 },
            estimated: false,
            outcome: Outcome::Complete,
            // Many of the same moment, over the border of a page.
            at: now.minus(Duration::from_secs(1_000 - number / 100)),
            duration_ms: 3,
        })
        .collect();
    app.store.usage(&tenant.id).append(&lines).await.unwrap();
    let admin = app.member(&tenant, Role::Admin).await;

    let csv = app.get(&admin, "/tenants/acme/usage/export").await.expect(200);
    assert!(csv.header("content-type").starts_with("text/csv"));
    assert!(
        csv.header("content-disposition").starts_with("attachment; filename=\"usage-acme-2026-"),
        "{:?}",
        csv.headers
    );
    let rows: Vec<&str> = csv.text.split("\r\n").collect();
    assert_eq!(rows.len(), 1_203 + 2, "a line of names, and the end of the last line");
    assert!(rows[0].starts_with("id,at,instance_id,upstream,model,prompt_tokens"), "{}", rows[0]);
    assert!(rows[8].contains("\"'=HYPERLINK(\"\"http://x\"\")\""), "{}", rows[8]);
    for (row, line) in rows[1..].iter().zip(&lines) {
        assert!(row.starts_with(line.id.as_str()), "the oldest first, each once");
    }

    let json = app.get(&admin, "/tenants/acme/usage/export?format=json").await.expect(200);
    let read: Vec<UsageRecord> = serde_json::from_value(json.json).unwrap();
    assert_eq!(read, lines);
    let none =
        app.get(&admin, "/tenants/acme/usage/export?format=json&from=2026-01-01&to=2026-01-02").await.expect(200);
    assert_eq!(none.json, json!([]));
    for query in ["?format=xml", "?from=2027-01-01", "?from=2020-01-01", "?from=now", "?x=1"] {
        app.get(&admin, &format!("/tenants/acme/usage/export{query}")).await.expect(400);
    }
}
