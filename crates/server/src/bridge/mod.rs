//! The bridge: messages of IM channels reach a tenant's bot by themselves, and the bridge in the bot asks here before
//! anything else happens. So every message of every channel is stored, held, dropped, answered and counted as those that
//! come through the API. Belongs to the role `message`.
//!
//! `bots` says who asks, `arrive` takes a message in and gives the verdict, `depart` says whether an answer may still go
//! out and stores what went out, `speak` does so for what answers no message. Nothing in here talks to a bot or calls a model.

mod api;
mod arrive;
mod bots;
mod depart;
mod speak;

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Result,
    message::{Author, Failure, State},
    ports::{BusEvent, Outcome},
};
use utoipa_axum::router::OpenApiRouter;

pub use self::bots::AskingBot;
use crate::{
    app::{App, Base},
    config::seconds,
    llm,
    loops::Loop,
    message,
    metrics::StateLabel,
    tenant,
};

/// How often messages are looked for that nobody ends.
const OVERDUE_PERIOD: Duration = Duration::from_secs(30);
/// At most so many a run.
const OVERDUE_BATCH: u32 = 200;

/// Answers the bridges in all bots.
pub struct Service {
    base: Arc<Base>,
    tenants: Arc<tenant::Service>,
    messages: Arc<message::Service>,
    llm: Arc<llm::Service>,
    bots: bots::Bots,
}

impl Service {
    /// Knows of no bot yet.
    #[must_use]
    pub fn new(
        base: Arc<Base>,
        tenants: Arc<tenant::Service>,
        messages: Arc<message::Service>,
        llm: Arc<llm::Service>,
    ) -> Self {
        Self { bots: bots::Bots::new(&base), base, tenants, messages, llm }
    }

    /// Ends what a bot took and never came back with. Returns how many.
    ///
    /// # Errors
    /// What the store says; what was ended before stays so.
    pub async fn end_overdue(&self) -> Result<u64> {
        let system = self.base.store.system("messages of IM channels that their bots do not end");
        let now = self.base.time_for_all(&*system).await?;
        let before = now.minus(seconds(self.base.config.message.answer_timeout_s));
        let mut ended = 0;
        for (tenant, id) in system.overdue_at_channels(before, OVERDUE_BATCH).await? {
            let messages = self.base.store.messages(&tenant);
            let message = messages.get(&id).await?;
            let outcome = Outcome::NoReply(State::Failed, Some(overdue(message.author)));
            if messages.finish(&id, &[State::Delivering], outcome, now).await? {
                ended += 1;
                self.base.metrics.messages.get_or_create(&StateLabel { state: "failed".to_owned() }).inc();
                self.base.bus.publish(BusEvent::SessionChanged(tenant, message.session_id));
            }
        }
        Ok(ended)
    }
}

fn overdue(author: Author) -> Failure {
    match author {
        Author::User | Author::Bot => Failure {
            code: "answer_timeout".to_owned(),
            detail: "the bot took this message and did not come back with an answer".to_owned(),
        },
        Author::Agent => Failure {
            code: "not_sent".to_owned(),
            detail: "it is not known whether the bot has sent this: look in the channel before you send it again"
                .to_owned(),
        },
    }
}

/// The routes of the bridge.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of the bridge.
pub fn loops(app: &App) -> Vec<Loop> {
    app.bridge.bots.listen();
    let service = Arc::clone(&app.bridge);
    vec![Loop::every("bridge.end_overdue", OVERDUE_PERIOD, move || {
        let service = Arc::clone(&service);
        async move { service.end_overdue().await }
    })]
}
