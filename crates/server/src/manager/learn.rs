//! Where bots are, for processes that do not keep them: from the store, told by the bus when to look.

use std::{collections::HashSet, sync::Arc};

use astrfleet_core::{
    Error, Result,
    id::{InstanceId, TenantId},
    ports::{BotStatus, BusEvent},
    time::Timestamp,
};
use axum::{
    Json,
    extract::{Path, State},
    http::HeaderMap,
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Service;
use crate::{
    app::App,
    config::seconds,
    internal::{FromFleet, read_json},
    loops::Loop,
    problem::{Problem, chain},
};

/// The largest answer to the question about a process.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// A bot's process, as the process of the platform that keeps it sees it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
enum ProcessView {
    /// See [`BotStatus::Absent`].
    Absent,
    /// See [`BotStatus::Running`].
    Running { generation: i64, port: u16, memory_bytes: u64, since: Timestamp },
    /// See [`BotStatus::Exited`].
    Exited { generation: i64, how: String, last_words: String },
}

impl From<BotStatus> for ProcessView {
    fn from(status: BotStatus) -> Self {
        match status {
            BotStatus::Absent => Self::Absent,
            BotStatus::Running { generation, port, memory_bytes, since } => {
                Self::Running { generation, port, memory_bytes, since }
            }
            BotStatus::Exited { generation, how, last_words } => Self::Exited { generation, how, last_words },
        }
    }
}

impl From<ProcessView> for BotStatus {
    fn from(view: ProcessView) -> Self {
        match view {
            ProcessView::Absent => Self::Absent,
            ProcessView::Running { generation, port, memory_bytes, since } => {
                Self::Running { generation, port, memory_bytes, since }
            }
            ProcessView::Exited { generation, how, last_words } => Self::Exited { generation, how, last_words },
        }
    }
}

/// What only other processes of the platform may ask.
pub fn internal_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(process))
}

/// A bot's process
///
/// As the process that keeps the bots sees it; 503 where this one does not.
#[utoipa::path(
    get, path = "/internal/v1/tenants/{tenant}/process", tag = "internal", operation_id = "bot_process",
    params(("tenant" = String, Path, description = "`ten_…`")),
    responses((status = 200, body = ProcessView), (status = 404, body = Problem), (status = 503, body = Problem)),
)]
async fn process(
    State(app): State<App>,
    _: FromFleet,
    Path(tenant): Path<String>,
) -> Result<Json<ProcessView>, Problem> {
    let tenant = TenantId::parse(&tenant)?;
    let instance = app.store.instances(&tenant).get().await?;
    if !app.manager.keeps_bots() {
        return Err(Error::unavailable("the manager of the bots", "this process does not keep them").into());
    }
    Ok(Json(app.runtime.status(&instance.id).await?.into()))
}

impl Service {
    /// A tenant's bot's process, wherever it is kept.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the process of the platform that keeps it does not say.
    pub async fn process(&self, tenant: &TenantId, instance: &InstanceId) -> Result<BotStatus> {
        if self.keeps_bots() {
            return self.base.runtime.status(instance).await;
        }
        let url = self.keeper_url().await?;
        let target = format!("/internal/v1/tenants/{tenant}/process");
        let answer = self.base.peers.get(&url, &target, HeaderMap::new()).await?;
        let view: ProcessView = read_json(answer, ANSWER_BYTES_MAX).await?;
        Ok(view.into())
    }

    /// Reads where every bot is. Returns how many were not known as they are.
    async fn learn_all(&self) -> Result<u64> {
        if self.keeps_bots() {
            return Ok(0);
        }
        let all = self.all_instances().await?;
        let there: HashSet<TenantId> = all.iter().map(|instance| instance.tenant_id.clone()).collect();
        let gone: Vec<TenantId> = self.known().keys().filter(|tenant| !there.contains(*tenant)).cloned().collect();
        for tenant in &gone {
            self.forget(tenant);
        }
        let before = self.known().values().map(|known| known.instance.version_lock).sum::<i64>();
        for instance in &all {
            self.know(instance);
        }
        let after = self.known().values().map(|known| known.instance.version_lock).sum::<i64>();
        Ok(u64::from(before != after))
    }

    async fn learn(&self, tenant: &TenantId) {
        match self.base.store.instances(tenant).get().await {
            Ok(instance) => self.know(&instance),
            Err(Error::NotFound { .. }) => self.forget(tenant),
            // The next round reads all of them.
            Err(error) => tracing::warn!(tenant_id = %tenant, error = chain(&error), "a bot's state could not be read"),
        }
    }
}

/// Keeps what is known of bots fresh in a process that does not keep them.
pub fn learning(app: &App) -> Loop {
    let (service, wake) = (Arc::clone(&app.manager), Arc::new(Notify::new()));
    let (listener, woken) = (Arc::clone(&service), Arc::clone(&wake));
    let mut events = app.bus_events();
    app.tasks.spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                BusEvent::InstanceChanged { tenant, .. } if !listener.keeps_bots() => listener.learn(&tenant).await,
                BusEvent::Missed => woken.notify_one(),
                _ => {}
            }
        }
    });
    Loop::woken("manager.learn", seconds(app.config.manager.liveness_period_s), wake, move || {
        let service = Arc::clone(&service);
        async move { service.learn_all().await }
    })
}
