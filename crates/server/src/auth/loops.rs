//! Loops of role `auth`: let go of what is worth nothing any more.

use std::time::Duration;

use crate::{app::App, config::seconds, loops::Loop};

/// Rows that one run deletes, at the most: it stays short whatever has piled up.
const BATCH: u32 = 1_000;
const PERIOD: Duration = Duration::from_mins(10);

pub(super) fn all(app: &App) -> Vec<Loop> {
    let (tokens, answers) = (app.clone(), app.clone());
    vec![
        Loop::every("auth.forget_logins", PERIOD, move || {
            let app = tokens.clone();
            async move { app.store.refresh_tokens().delete_expired(app.clock.now(), BATCH).await }
        }),
        Loop::every("auth.forget_answers", PERIOD, move || {
            let app = answers.clone();
            async move {
                let system = app.store.system("forget old answers");
                let before = app.time_for_all(&*system).await?.minus(seconds(app.config.message.idempotency_ttl_s));
                system.delete_idempotency(before, BATCH).await
            }
        }),
    ]
}
