//! Role `session`: conversations of a tenant with its end users.

mod api;
mod close_idle;

use std::time::Duration;

use astrfleet_core::{
    Error, Result,
    id::{SessionId, TenantId},
    ports::BusEvent,
    session::{Event, Session},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{app::App, loops::Loop};

const CLOSE_IDLE_PERIOD: Duration = Duration::from_mins(1);
/// How often a change is tried anew when somebody else changes the session at the same moment.
const TRIES_MAX: u32 = 5;

/// The routes of this role.
pub fn routes() -> OpenApiRouter<App> {
    api::routes()
}

/// The loops of this role.
pub fn loops(app: &App) -> Vec<Loop> {
    let app = app.clone();
    vec![Loop::every("session.close_idle", CLOSE_IDLE_PERIOD, move || {
        let app = app.clone();
        async move { close_idle::run(&app).await }
    })]
}

/// Lets `event` happen to a session. One that changes nothing writes nothing.
async fn happen(app: &App, tenant: &TenantId, id: &SessionId, event: Event) -> Result<Session> {
    let sessions = app.store.sessions(tenant);
    let mut tries = 0;
    loop {
        let session = sessions.get(id).await?;
        let changed = session.after(event, app.clock.now())?;
        if changed.state == session.state {
            return Ok(session);
        }
        tries += 1;
        match sessions.update(&changed).await {
            // Somebody changed it between our read and our write: look again.
            Err(Error::Stale { .. }) if tries < TRIES_MAX => {}
            stored => {
                let stored = stored?;
                app.bus.publish(BusEvent::SessionChanged(tenant.clone(), id.clone()));
                return Ok(stored);
            }
        }
    }
}
