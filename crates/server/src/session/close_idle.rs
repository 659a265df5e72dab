//! Loop `session.close_idle`: closes sessions in which nobody wrote for `SESSION_TIMEOUT`.

use astrfleet_core::{
    Result,
    ports::BusEvent,
    session::{CloseReason, Event},
};

use crate::{app::App, config::seconds};

/// At most so many a run, so that one run stays short whatever has piled up.
const BATCH: u32 = 200;

/// Returns how many it closed.
///
/// # Errors
/// Whatever the store says; what was done before stays done.
pub(super) async fn run(app: &App) -> Result<u64> {
    let system = app.store.system("sessions in which nobody wrote for long");
    let now = app.time_for_all(&*system).await?;
    let before = now.minus(seconds(app.config.session.idle_timeout_s));
    let mut closed = 0;
    for session in system.idle_sessions(before, BATCH).await? {
        let ended = session.after(Event::Closed(CloseReason::Idle), now)?;
        // Unless somebody wrote just now.
        if app.store.sessions(&session.tenant_id).close_idle(&ended, before).await? {
            closed += 1;
            app.bus.publish(BusEvent::SessionChanged(session.tenant_id, session.id));
        }
    }
    Ok(closed)
}
