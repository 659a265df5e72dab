//! What the streams of this role share: their heartbeat, their end, and one state as an event.

use std::{future::Future, sync::Arc, time::Duration};

use astrfleet_core::{Error, Result, instance::Instance, policy::authorise};
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use super::view::InstanceView;
use crate::{
    app::App,
    extract::{InTenant, may::May},
};

/// A comment is sent so often, or a proxy may take the stream for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often is looked whether a change was missed, and whether the caller may still watch.
const LOOK_PERIOD: Duration = Duration::from_secs(15);
/// Bots that are looked at at the same time for one answer.
const AT_ONCE: usize = 16;

/// Comments while nothing happens.
pub(super) fn heartbeat() -> KeepAlive {
    KeepAlive::new().interval(HEARTBEAT)
}

/// The bus may lose an event: from time to time a stream looks by itself.
pub(super) fn looks() -> impl Stream<Item = ()> {
    stream::unfold((), |()| async {
        tokio::time::sleep(LOOK_PERIOD).await;
        Some(((), ()))
    })
}

/// Ends with this process, and when the caller may not watch any more.
pub(super) fn until_refused<A: May>(app: &App, of: &InTenant<A>) -> impl Future<Output = ()> + use<A> {
    let (app, caller, tenant) = (app.clone(), of.caller.clone(), Arc::clone(&of.tenant));
    async move {
        let refused = async {
            loop {
                tokio::time::sleep(LOOK_PERIOD).await;
                let standing = app.auth.standing(&caller, &tenant.id).await;
                if standing.is_ok_and(|standing| authorise(&standing, A::ACTION).is_err()) {
                    return;
                }
            }
        };
        tokio::select! {
            () = app.stop.cancelled() => {}
            () = refused => {}
        }
    }
}

/// A state as it is sent.
pub(super) async fn event(app: &App, instance: Instance) -> Result<Event> {
    let tenant = app.tenant.resolve(instance.tenant_id.as_str()).await?;
    let id = instance.version_lock.to_string();
    let view = InstanceView::of(app, &tenant, instance).await?;
    Event::default().id(id).event("state").json_data(view).map_err(Error::internal)
}

/// Many bots as the API shows them, in the same order. One whose tenant was erased meanwhile is left out.
pub(super) async fn views(app: &App, instances: Vec<Instance>) -> Result<Vec<InstanceView>> {
    let views = stream::iter(instances).map(|instance| async move {
        match app.tenant.resolve(instance.tenant_id.as_str()).await {
            Ok(tenant) => InstanceView::of(app, &tenant, instance).await.map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    });
    views.buffered(AT_ONCE).try_filter_map(|view| std::future::ready(Ok(view))).try_collect().await
}
