//! What happens in a tenant's conversations, told to whoever follows it as it happens. Part of the role `session`.
//!
//! The store has the events, in order; the bus only says that there may be new ones. [`hub`] reads what is new of a tenant,
//! once for all who follow it, and wakes them; [`tail`] goes on for one of them, [`guard`] ends it when they may not any
//! more. Of what is told, little is kept in memory and for a moment: whoever reads slowly reads from the store, page by page.

pub mod api;
mod forget;
mod guard;
mod hub;
mod tail;

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    id::{EventId, SessionId, TenantId},
};
use utoipa_axum::router::OpenApiRouter;

pub use self::tail::{Heard, Tail};
use crate::{
    app::{App, Base},
    loops::Loop,
};

/// How often is looked whether the bus has lost something.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// How often old events are deleted.
const FORGET_PERIOD: Duration = Duration::from_mins(1);
/// When somebody who found too many readers may try again.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(10);

/// What a reader has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Nothing,
    /// Everything up to this.
    UpTo(EventId),
}

/// Tells of events.
pub struct Service {
    base: Arc<Base>,
    hub: Arc<hub::Hub>,
}

impl Service {
    /// With nobody who follows.
    #[must_use]
    pub fn new(base: Arc<Base>) -> Self {
        Self { hub: Arc::new(hub::Hub::new(Arc::clone(&base))), base }
    }

    /// Follows what happens in a tenant, or in one of its sessions: what comes after `seen`, or after this moment.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an event of another tenant; [`Error::NotFound`] for a session that is not the tenant's;
    /// [`Error::TooMany`] where too many follow already.
    pub async fn follow(&self, tenant: &TenantId, session: Option<SessionId>, seen: Option<Seen>) -> Result<Tail> {
        if let Some(Seen::UpTo(event)) = &seen
            && !event.is_of(tenant)
        {
            return Err(Error::invalid("Last-Event-ID", "is not the id of an event of this tenant"));
        }
        if let Some(session) = &session {
            self.base.store.sessions(tenant).get(session).await?;
        }
        let most = self.base.config.events.streams_per_tenant;
        let follower = self
            .hub
            .enter(tenant, session, most)
            .ok_or(Error::TooMany { what: "streams of this tenant", retry_after: FULL_RETRY_AFTER })?;
        let (oldest, newest) = self.base.store.events(tenant).bounds().await?;
        follower.begin(newest);
        let (seq, gap) = match seen {
            None => (newest, false),
            Some(Seen::Nothing) => begin(0, oldest, newest),
            Some(Seen::UpTo(event)) => begin(event.seq(), oldest, newest),
        };
        Ok(Tail::new(Arc::clone(&self.base), tenant.clone(), follower, seq, newest, gap))
    }
}

/// Where somebody goes on who has seen everything up to `seen`, and whether something is missing before that: deleted
/// since, or lost with a database that was put back to an earlier state.
fn begin(seen: i64, oldest: i64, newest: i64) -> (i64, bool) {
    if seen > newest {
        return (newest, true);
    }
    if seen.saturating_add(1) < oldest { (oldest - 1, seen > 0) } else { (seen, false) }
}

/// The routes of this part.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this part.
pub fn loops(app: &App) -> Vec<Loop> {
    let (forgetting, hub) = (Arc::clone(&app.events.base), Arc::clone(&app.events.hub));
    app.tasks.spawn(hub::listen(Arc::clone(&hub)));
    vec![
        Loop::every("events.look", LOOK_PERIOD, move || {
            let hub = Arc::clone(&hub);
            async move { hub.look().await }
        }),
        Loop::every("events.forget", FORGET_PERIOD, move || {
            let base = Arc::clone(&forgetting);
            async move { forget::run(&base).await }
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::begin;

    #[test]
    fn whoever_comes_back_goes_on_where_they_were_or_is_told_what_they_missed() {
        assert_eq!(begin(7, 1, 9), (7, false));
        assert_eq!(begin(9, 1, 9), (9, false));
        assert_eq!(begin(3, 4, 9), (3, false), "the next one is the oldest");
        assert_eq!(begin(2, 4, 9), (3, true), "the third is gone");
        assert_eq!(begin(0, 4, 9), (3, false), "from the beginning, wherever that is");
        assert_eq!(begin(0, 1, 0), (0, false), "nothing has happened");
        assert_eq!(begin(5, 10, 9), (9, true), "all is gone");
        assert_eq!(begin(12, 1, 9), (9, true), "what they have seen was lost");
    }
}
