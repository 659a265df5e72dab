//! `GET /instances/events`

use std::{collections::HashMap, convert::Infallible};

use astrfleet_core::{Error, id::TenantId, instance::Instance, page::PageRequest, ports::BusEvent};
use axum::{
    extract::State,
    response::sse::{Event, Sse},
};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use super::{view::InstanceView, watch};
use crate::{
    app::App,
    extract::{OnPlatform, may},
    problem::Problem,
};

/// Every change of any bot's state
///
/// A stream of `state` events, each with a whole instance as it is then; all bots as they are now come first.
#[utoipa::path(
    get, path = "/api/v1/instances/events", tag = "fleet", operation_id = "watch_instances",
    responses(
        (status = 200, content_type = "text/event-stream", body = InstanceView),
        (status = 401, body = Problem), (status = 403, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    _: OnPlatform<may::FleetRead>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // Subscribed before the first look: no change falls between the two.
    let changes = app.bus.subscribe();
    let (store, stop) = (app.clone(), app.stop.clone());
    let later = changes.flat_map(move |event| match event {
        BusEvent::InstanceChanged { tenant, .. } => one(store.clone(), tenant).boxed(),
        BusEvent::Missed => all(store.clone()).boxed(),
        _ => stream::empty().boxed(),
    });
    let mut shown: HashMap<TenantId, i64> = HashMap::new();
    let instances = all(app.clone()).chain(later).filter(move |instance| {
        let before = shown.insert(instance.tenant_id.clone(), instance.version_lock);
        std::future::ready(before != Some(instance.version_lock))
    });
    let events = instances.filter_map(move |instance| {
        let app = app.clone();
        async move { watch::event(&app, instance).await.ok().map(Ok) }
    });
    Sse::new(events.take_until(stop.cancelled_owned())).keep_alive(watch::heartbeat())
}

/// A tenant's bot as it is now. One that is gone is not told of any more.
fn one(app: App, tenant: TenantId) -> impl Stream<Item = Instance> {
    stream::once(async move { app.store.instances(&tenant).get().await.ok() }).filter_map(std::future::ready)
}

/// All bots as they are now, page by page; a failure ends the list.
fn all(app: App) -> impl Stream<Item = Instance> {
    let pages = stream::try_unfold(Some(PageRequest::first()), move |page| {
        let app = app.clone();
        async move {
            let Some(page) = page else { return Ok::<_, Error>(None) };
            let found = app.store.system("an administrator watches the bots of all tenants").instances(&page).await?;
            let next = found.next_cursor.map(|cursor| PageRequest { after: Some(cursor), ..page });
            Ok(Some((stream::iter(found.items).map(Ok::<_, Error>), next)))
        }
    });
    pages.try_flatten().filter_map(|instance| std::future::ready(instance.ok()))
}
