//! `GET /tenants/{tenant}/instance/events`

use std::convert::Infallible;

use astrfleet_core::ports::BusEvent;
use axum::{
    extract::State,
    response::sse::{Event, Sse},
};
use futures_util::{Stream, StreamExt, stream};

use super::{view::InstanceView, watch};
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Every change of the bot's state
///
/// A stream of `state` events, each with the whole instance as it is then; the first one at once. Ends with the bot.
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
    of: InTenant<may::InstanceRead>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let tenant = of.tenant.id.clone();
    // Subscribed before the first look: no change falls between the two.
    let changes = app.bus.subscribe().filter_map(move |event| {
        let ours = match event {
            BusEvent::InstanceChanged { tenant: changed, .. } => changed == tenant,
            BusEvent::Missed => true,
            _ => false,
        };
        std::future::ready(ours.then_some(()))
    });
    let looks = stream::select(changes, watch::looks());
    let until = watch::until_refused(&app, &of);
    let states = stream::unfold((looks.boxed(), None), move |(mut looks, mut shown)| {
        let (app, tenant) = (app.clone(), of.tenant.id.clone());
        async move {
            loop {
                if shown.is_some() {
                    looks.next().await?;
                }
                // A bot that is gone ends the stream.
                let instance = app.store.instances(&tenant).get().await.ok()?;
                if shown == Some(instance.version_lock) {
                    continue;
                }
                shown = Some(instance.version_lock);
                let event = watch::event(&app, instance).await.ok()?;
                return Some((Ok(event), (looks, shown)));
            }
        }
    });
    Ok(Sse::new(states.take_until(until)).keep_alive(watch::heartbeat()))
}
