//! Bots through the real router and the real keepers, on processes that are entries in a table.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands, in its helpers too")]

mod talk;

use std::time::Duration;

use astrfleet_core::{
    Error,
    api_key::Scope,
    instance::{Desired, Event, Instance, Observed},
    policy::Role,
    ports::{BusEvent, Store},
    tenant::Tenant,
};
use astrfleet_server::{config::ServerConfig, manager::Route};
use astrfleet_testkit::app::{Caller, TestApp};
use serde_json::{Value, json};

/// A condition that does not come true in this time never does.
const PATIENCE: Duration = Duration::from_mins(1);

fn without_backoff(config: &mut ServerConfig) {
    (config.manager.restart_backoff_s, config.manager.restart_backoff_max_s) = (0, 0);
    config.manager.max_restarts = 3;
}

/// With its keepers at work.
async fn at_work(change: impl FnOnce(&mut ServerConfig)) -> TestApp {
    let app = TestApp::configured(change).await;
    works(&app).await;
    app
}

async fn works(app: &TestApp) -> usize {
    app.app.manager.set_llm_base_url("http://127.0.0.1:1/llm/v1".to_owned());
    let adopted = app.app.manager.adopt().await.unwrap();
    app.app.start_loops();
    adopted
}

/// Waits until a bot is as it should be, in the store and for those who ask where it is: a change is stored first and
/// known a moment later.
async fn until(app: &TestApp, tenant: &Tenant, so: impl Fn(&Instance) -> bool) -> Instance {
    let waits = async {
        loop {
            app.app.manager.wake(&tenant.id);
            let instance = app.instance(tenant).await;
            if so(&instance) && is_known(app, &instance) {
                return instance;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let Ok(instance) = tokio::time::timeout(PATIENCE, waits).await else {
        panic!("never so: {:?}", app.instance(tenant).await);
    };
    instance
}

fn is_known(app: &TestApp, instance: &Instance) -> bool {
    match app.app.manager.route(&instance.tenant_id) {
        Route::Ready { generation, .. } => instance.is_ready() && instance.generation == generation,
        Route::NotReady { observed, .. } => !instance.is_ready() && instance.observed == observed,
    }
}

async fn until_ready(app: &TestApp, tenant: &Tenant) -> Instance {
    until(app, tenant, Instance::is_ready).await
}

/// Waits until a message has this state. Returns it with its reply.
async fn until_state(app: &TestApp, caller: &Caller, message: &str, state: &str) -> Value {
    let waits = async {
        loop {
            let exchange = app.get(caller, message).await.expect(200).json;
            if exchange["message"]["state"] == state {
                return exchange;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap()
}

async fn end(app: &TestApp) {
    app.app.stop.cancel();
    app.app.manager.stop_all(PATIENCE).await;
}

/// Its keepers end, and no bot is stopped.
async fn is_killed(app: &TestApp) {
    app.app.stop.cancel();
    app.app.manager.keepers_ended().await;
}

#[tokio::test]
async fn a_new_bot_gets_ready_and_is_shown() {
    let app = at_work(|_| {}).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    let bot = until_ready(&app, &acme).await;
    let shown = app.get(&admin, "/tenants/acme/instance").await.expect(200).json;
    assert_eq!(shown["id"], bot.id.as_str());
    assert_eq!(
        (&shown["desired"], &shown["observed"], &shown["ready"]),
        (&json!("running"), &json!("running"), &json!(true))
    );
    assert_eq!((&shown["generation"], &shown["version"], &shown["restarts"]), (&json!(1), &json!("4.29.3"), &json!(0)));
    assert_eq!((&shown["channels"], &shown["memory_bytes"]), (&json!([]), &json!(200_000_000)));
    assert!(shown["url"].as_str().unwrap().starts_with("http://acme."), "{shown}");
    assert_eq!(app.bots.prepared(), 1);
    end(&app).await;
}

#[tokio::test]
async fn is_stopped_started_and_restarted_by_request() {
    let app = at_work(|_| {}).await;
    let acme = app.tenant("acme").await;
    let owner = app.member(&acme, Role::Owner).await;
    let first = until_ready(&app, &acme).await;
    let operate = async |word: &str| {
        app.post(&owner, &format!("/tenants/acme/instance/{word}"), json!({})).await.expect(202).json
    };
    assert_eq!(operate("stop").await["desired"], "stopped");
    let stopped = until(&app, &acme, |bot| bot.observed == Observed::Suspended).await;
    assert_eq!((stopped.reason.as_str(), stopped.port), ("stopped by request", None));
    assert!(!app.runtime.is_running(&first.id));
    operate("stop").await;
    assert_eq!(app.instance(&acme).await, stopped, "a second stop changes nothing");
    let manager = &app.app.manager;
    assert!(manager.wait_ready(&acme.id, PATIENCE).await.is_err(), "nobody waits for what is not to come");
    // As a start is written before the keeper hears of it.
    app.store.instances(&acme.id).update(&Instance { desired: Desired::Running, ..stopped.clone() }).await.unwrap();
    let waits = manager.wait_ready(&acme.id, PATIENCE);
    let woken = async {
        tokio::task::yield_now().await;
        manager.wake(&acme.id);
    };
    assert!(tokio::join!(waits, woken).0.is_ok(), "but for what is");
    operate("stop").await;
    until(&app, &acme, |bot| bot.observed == Observed::Suspended).await;
    operate("start").await;
    let second = until_ready(&app, &acme).await;
    assert!(second.generation > first.generation);
    operate("start").await;
    assert_eq!(app.instance(&acme).await, second, "a second start changes nothing");
    operate("restart").await;
    let third = until(&app, &acme, |bot| bot.is_ready() && bot.generation > second.generation).await;
    assert_eq!((third.restarts, app.runtime.starts().len()), (0, 4), "a restart by request is no accident");
    let log = app.get(&owner, "/tenants/acme/audit-log").await.expect(200).json;
    let asked: Vec<&Value> = log["items"].as_array().unwrap().iter().map(|entry| &entry["detail"]["asked"]).collect();
    let asked: Vec<&str> = asked.into_iter().filter_map(Value::as_str).collect();
    assert_eq!(asked, ["restart", "start", "start", "stop", "stop", "stop"]);
    end(&app).await;
}

/// Who asks for a restart does not mean to cut off what the bot is saying.
#[tokio::test]
async fn an_answer_ends_before_its_bot_is_stopped() {
    for (word, desired) in [("restart", Desired::Running), ("stop", Desired::Stopped)] {
        let app = at_work(|_| {}).await;
        let acme = app.tenant("acme").await;
        let owner = app.member(&acme, Role::Owner).await;
        let first = until_ready(&app, &acme).await;
        let session = app.post(&owner, "/tenants/acme/sessions", json!({"end_user": "ada"})).await.expect(201).json;
        let path = format!("/tenants/acme/sessions/{}/messages", session["id"].as_str().unwrap());
        app.bots.hold();
        let sent = app.post(&owner, &format!("{path}?wait=0"), json!({"text": "Hi"})).await.expect(202).json;
        let message = format!("{path}/{}", sent["message"]["id"].as_str().unwrap());
        until_state(&app, &owner, &message, "delivering").await;
        app.post(&owner, &format!("/tenants/acme/instance/{word}"), json!({})).await.expect(202);
        until(&app, &acme, |bot| bot.port.is_none() && bot.desired == desired).await;
        // What comes now is for the next process.
        let later = app.post(&owner, &format!("{path}?wait=0"), json!({"text": "Ho"})).await.expect(202).json;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(app.runtime.is_running(&first.id), "{word}");
        assert_eq!(app.get(&owner, &message).await.json["message"]["state"], "delivering");
        app.bots.release();
        assert_eq!(until_state(&app, &owner, &message, "done").await["reply"]["text"], "You said: Hi");
        until(&app, &acme, |bot| match desired {
            Desired::Running => bot.is_ready() && bot.generation > first.generation,
            _ => bot.observed == Observed::Suspended,
        })
        .await;
        if desired == Desired::Running {
            let later = format!("{path}/{}", later["message"]["id"].as_str().unwrap());
            assert_eq!(until_state(&app, &owner, &later, "done").await["reply"]["text"], "You said: Ho");
            assert_eq!(app.runtime.starts().len(), 2);
        }
        end(&app).await;
    }
}

#[tokio::test]
async fn who_may_what() {
    let app = at_work(|_| {}).await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    until_ready(&app, &acme).await;
    let viewer = app.member(&acme, Role::Viewer).await;
    let key = app.api_key(&acme, &[Scope::Instance]).await;
    let strange = app.member(&other, Role::Owner).await;
    for (path, statuses) in [
        ("/tenants/acme/instance", [200, 200, 404, 401]),
        ("/tenants/acme/instance/logs", [200, 200, 404, 401]),
        ("/tenants/acme/instance/config", [200, 200, 404, 401]),
        ("/tenants/acme/channels", [403, 403, 404, 401]),
        ("/instances", [403, 403, 403, 401]),
        ("/instances/events", [403, 403, 403, 401]),
    ] {
        for (caller, status) in [&viewer, &key, &strange, &Caller::nobody()].into_iter().zip(statuses) {
            assert_eq!(app.get(caller, path).await.status, status, "{path}");
        }
    }
    app.post(&viewer, "/tenants/acme/instance/stop", json!({})).await.expect(403);
    app.patch(&viewer, "/tenants/acme/instance/config", json!({})).await.expect(403);
    app.post(&key, "/tenants/acme/instance/restart", json!({})).await.expect(202);
    end(&app).await;
}

#[tokio::test]
async fn a_bot_whose_tenant_is_suspended_comes_back_with_it() {
    let app = at_work(|_| {}).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    until_ready(&app, &acme).await;
    app.post(&admin, "/tenants/acme/suspend", json!({})).await.expect(200);
    let stopped = until(&app, &acme, |bot| bot.observed == Observed::Suspended).await;
    assert!(!app.runtime.is_running(&stopped.id));
    app.post(&admin, "/tenants/acme/instance/start", json!({})).await.expect(403);
    let refused = app.get(&admin, "/tenants/acme/instance/config").await.expect(409);
    assert!(refused.json["detail"].as_str().unwrap().contains("suspended"), "{}", refused.text);
    app.post(&admin, "/tenants/acme/resume", json!({})).await.expect(200);
    until_ready(&app, &acme).await;
    end(&app).await;
}

#[tokio::test]
async fn what_crashes_is_started_again_and_given_up_in_the_end() {
    let app = at_work(without_backoff).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    for restarts in 0..3 {
        let bot = until(&app, &acme, |bot| bot.is_ready() && bot.restarts == restarts).await;
        app.runtime.crash(&bot.id, "ImportError: no module named x");
    }
    let failed = until(&app, &acme, |bot| bot.observed == Observed::Failed).await;
    assert!(failed.reason.starts_with("given up after 3 exits in a row: exit code 1"), "{}", failed.reason);
    assert!(failed.reason.ends_with("no module named x"), "{}", failed.reason);
    assert_eq!(app.runtime.starts().len(), 3);
    app.post(&admin, "/tenants/acme/instance/start", json!({})).await.expect(202);
    assert_eq!(until_ready(&app, &acme).await.restarts, 0);
    end(&app).await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let app = TestApp::configured(without_backoff).await;
    for _ in 0..3 {
        app.runtime.fail_next_start("the disk is full");
    }
    works(&app).await;
    let acme = app.tenant("acme").await;
    let failed = until(&app, &acme, |bot| bot.observed == Observed::Failed).await;
    assert!(failed.reason.contains("the disk is full"), "{}", failed.reason);
    let admin = app.admin().await;
    app.post(&admin, "/tenants/acme/instance/restart", json!({})).await.expect(202);
    until_ready(&app, &acme).await;
    end(&app).await;
}

#[tokio::test]
async fn who_does_not_answer_is_degraded_and_then_restarted() {
    let app = at_work(without_backoff).await;
    let acme = app.tenant("acme").await;
    let bot = until_ready(&app, &acme).await;
    app.bots.set_ready(false);
    let period = Duration::from_secs(app.app.config.manager.liveness_period_s);
    until(&app, &acme, |bot| {
        app.advance(period);
        bot.observed == Observed::Degraded
    })
    .await;
    assert!(app.runtime.is_running(&bot.id));
    let again = until(&app, &acme, |found| {
        app.advance(period);
        found.generation > bot.generation
    })
    .await;
    assert_eq!(again.restarts, 1);
    app.bots.set_ready(true);
    until_ready(&app, &acme).await;
    end(&app).await;
}

#[tokio::test]
async fn who_never_gets_ready_is_stopped_in_time() {
    let app = TestApp::configured(without_backoff).await;
    app.bots.set_ready(false);
    works(&app).await;
    let acme = app.tenant("acme").await;
    until(&app, &acme, |bot| bot.observed == Observed::Starting).await;
    let limit = Duration::from_secs(app.app.config.manager.start_timeout_s);
    let failed = until(&app, &acme, |bot| {
        if bot.observed == Observed::Starting {
            app.advance(limit);
        }
        bot.observed == Observed::Failed
    })
    .await;
    assert!(failed.reason.contains("it was not ready within 120 s"), "{}", failed.reason);
    assert!(!app.runtime.is_running(&failed.id));
    end(&app).await;
}

#[tokio::test]
async fn no_more_run_than_there_are_places() {
    let app = at_work(|config| config.manager.max_instances = 1).await;
    let admin = app.admin().await;
    let first = app.tenant("first").await;
    until_ready(&app, &first).await;
    let second = app.tenant("second").await;
    let waiting = until(&app, &second, |bot| bot.reason.contains("all 1 places")).await;
    assert_eq!(waiting.observed, Observed::Pending);
    app.post(&admin, "/tenants/first/instance/stop", json!({})).await.expect(202);
    until_ready(&app, &second).await;
    assert_eq!(app.runtime.starts().len(), 2);
    end(&app).await;
}

#[tokio::test]
async fn bots_of_an_earlier_run_are_taken_over_as_far_as_they_are_wanted() {
    let app = at_work(|_| {}).await;
    let (kept, stopped, gone) = (app.tenant("kept").await, app.tenant("stopped").await, app.tenant("gone").await);
    for tenant in [&kept, &stopped, &gone] {
        until_ready(&app, tenant).await;
    }
    is_killed(&app).await;
    let wish = Instance { desired: Desired::Stopped, ..app.instance(&stopped).await };
    app.store_instance(&wish).await;
    let crashed = app.instance(&gone).await;
    app.runtime.crash(&crashed.id, "");
    let before = app.instance(&kept).await;
    let again = app.restarted().await;
    assert_eq!(works(&again).await, 1);
    let after = until_ready(&again, &kept).await;
    assert_eq!((after.generation, after.port), (before.generation, before.port), "the same process");
    until(&again, &stopped, |bot| bot.observed == Observed::Suspended).await;
    let anew = until(&again, &gone, |bot| bot.is_ready() && bot.generation > crashed.generation).await;
    assert_ne!(anew.port, after.port);
    end(&again).await;
}

#[tokio::test]
async fn a_process_that_was_begun_and_not_written_down_is_not_doubled() {
    let app = at_work(|_| {}).await;
    let acme = app.tenant("acme").await;
    let bot = until_ready(&app, &acme).await;
    is_killed(&app).await;
    let halfway = Instance { observed: Observed::Provisioning, ..app.instance(&acme).await };
    app.store_instance(&halfway).await;
    let again = app.restarted().await;
    assert_eq!(works(&again).await, 1);
    assert_eq!(until_ready(&again, &acme).await.generation, bot.generation);
    assert_eq!(again.runtime.starts().len(), 1);
    end(&again).await;
}

#[tokio::test]
async fn more_than_there_are_places_for_are_not_taken_over() {
    let app = at_work(|_| {}).await;
    let tenants = [app.tenant("first").await, app.tenant("second").await];
    for tenant in &tenants {
        until_ready(&app, tenant).await;
    }
    is_killed(&app).await;
    let again = app.restarted_with(|config| config.manager.max_instances = 1).await;
    assert_eq!(works(&again).await, 1);
    let mut running = 0;
    for tenant in &tenants {
        running += usize::from(again.runtime.is_running(&again.instance(tenant).await.id));
    }
    assert_eq!(running, 1);
    end(&again).await;
}

#[tokio::test]
async fn what_runs_with_settings_that_changed_is_started_again() {
    let app = at_work(|_| {}).await;
    let acme = app.tenant("acme").await;
    let before = until_ready(&app, &acme).await;
    is_killed(&app).await;
    let again = app.restarted_with(|config| config.llm.model = "another".to_owned()).await;
    assert_eq!(works(&again).await, 0);
    until(&again, &acme, |bot| bot.is_ready() && bot.generation > before.generation).await;
    end(&again).await;
}

#[tokio::test]
async fn all_are_stopped_at_the_end_and_wanted_as_before() {
    let app = at_work(|_| {}).await;
    let acme = app.tenant("acme").await;
    let bot = until_ready(&app, &acme).await;
    end(&app).await;
    assert!(!app.runtime.is_running(&bot.id));
    let rests = app.instance(&acme).await;
    assert_eq!((rests.desired, rests.observed, rests.restarts), (Desired::Running, Observed::Pending, 0));
    let again = app.restarted().await;
    works(&again).await;
    until_ready(&again, &acme).await;
    end(&again).await;
}

#[tokio::test]
async fn what_is_erased_is_stopped_first_and_never_started_again() {
    let app = at_work(|_| {}).await;
    let (admin, acme) = (app.admin().await, app.tenant("acme").await);
    let bot = until_ready(&app, &acme).await;
    app.store_instance(&Instance { desired: Desired::Deleted, ..app.instance(&acme).await }).await;
    let erased = until(&app, &acme, |bot| bot.observed == Observed::Deleting && bot.reason == "erased").await;
    assert_eq!((erased.port, app.runtime.erased()), (None, vec![bot.id]));
    for word in ["start", "stop", "restart"] {
        app.post(&admin, &format!("/tenants/acme/instance/{word}"), json!({})).await.expect(409);
    }
    assert!(erased.after(Event::TryAgain, "", app.app.clock.now()).is_err());
    end(&app).await;
}

/// What a test does past the platform.
trait Beyond {
    async fn store_instance(&self, instance: &Instance);
}

impl Beyond for TestApp {
    async fn store_instance(&self, instance: &Instance) {
        let mut written = self.store.instances(&instance.tenant_id).update(instance).await;
        while matches!(written, Err(Error::Stale { .. })) {
            let now = self.store.instances(&instance.tenant_id).get().await.unwrap();
            let wish = Instance { version_lock: now.version_lock, ..instance.clone() };
            written = self.store.instances(&instance.tenant_id).update(&wish).await;
        }
        written.unwrap();
        let (tenant, instance) = (instance.tenant_id.clone(), instance.id.clone());
        self.app.bus.publish(BusEvent::InstanceChanged { tenant, instance });
    }
}

/// Stopped while it asks, a keeper goes on when another process keeps the bots: what it finds is for that one to act upon.
#[tokio::test]
async fn a_keeper_that_has_lost_the_bots_ends_none() {
    for starts in [false, true] {
        let app = at_work(|config| {
            without_backoff(config);
            (config.manager.liveness_failures, config.manager.restart_after_failures) = (1, 1);
        })
        .await;
        app.bots.set_ready(!starts);
        let acme = app.tenant("acme").await;
        let observed = if starts { Observed::Starting } else { Observed::Running };
        let bot = until(&app, &acme, |bot| bot.observed == observed).await;
        let (manager, clock) = (app.app.manager.clone(), app.clock.clone());
        app.bots.when_asked(move || {
            clock.advance(Duration::from_hours(1));
            manager.share();
        });
        app.bots.set_ready(false);
        let asked = async {
            while app.app.manager.keeps_bots() {
                app.advance(Duration::from_mins(1));
                app.app.manager.wake(&acme.id);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            app.app.manager.keepers_ended().await;
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap();
        assert!(app.runtime.is_running(&bot.id), "starts: {starts}");
        app.app.stop.cancel();
    }
}
