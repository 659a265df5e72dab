//! `GET /tenants/{tenant}/instance/events`

use std::{convert::Infallible, time::Duration};

use astrfleet_core::ports::BusEvent;
use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};

use super::view::InstanceView;
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// A comment is sent so often, or a proxy may take the stream for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Every change of the bot's state
///
/// A stream of `state` events, each with the whole instance as it is then; the first one at once.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/instance/events", tag = "instance", operation_id = "watch_instance",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, content_type = "text/event-stream", body = InstanceView),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    caller: InTenant<may::InstanceRead>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let tenant = caller.tenant;
    let own = tenant.id.clone();
    // Subscribed before the first look: no change falls between the two.
    let changes = app.bus.subscribe().filter(move |event| {
        let ours = matches!(event, BusEvent::InstanceChanged { tenant, .. } if *tenant == own);
        std::future::ready(ours)
    });
    let stop = app.stop.clone();
    let states = stream::once(async {}).chain(changes.map(|_| ())).then(move |()| {
        let (app, tenant) = (app.clone(), tenant.clone());
        async move {
            let instance = app.store.instances(&tenant.id).get().await.ok()?;
            let view = InstanceView::of(&app, &tenant, instance).await.ok()?;
            Event::default().event("state").json_data(view).ok()
        }
    });
    let events = states.filter_map(|event| async move { event.map(Ok) }).take_until(stop.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}
