//! `GET /tenants/{tenant}/limits`: what a tenant may use, and what is left of it.

use astrfleet_core::plan::Quota;
use axum::{Json, extract::State};
use serde::Serialize;

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Limits {
    /// The plan's name.
    plan: String,
    /// Messages of end users, today (UTC).
    messages_today: Quota,
    /// Tokens, prompt and completion, this month (UTC).
    tokens_this_month: Quota,
    /// Bytes of attachments.
    storage_bytes: Quota,
    /// Chats that are answered at the same moment; more wait.
    concurrent_chats: u32,
    /// Requests a minute.
    requests_per_minute: u32,
    /// Memory of the bot, in bytes.
    bot_memory_bytes: u64,
    /// Processor time of the bot, in thousandths of a core.
    bot_cpu_milli: u32,
}

/// Show a tenant's limits
///
/// The amounts of its plan, and what is used of them in the current period.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/limits", tag = "tenants", operation_id = "get_limits",
    params(("tenant" = String, Path, description = "Id or name")),
    responses(
        (status = 200, body = Limits), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(State(app): State<App>, of: InTenant<may::LimitsRead>) -> Result<Json<Limits>, Problem> {
    let (id, now) = (&of.tenant.id, app.clock.now());
    let plan = app.tenant.plan(&of.tenant)?;
    let messages = app.store.messages(id).count_since(now.day_start()).await?;
    let tokens = app.store.usage(id).tokens_since(now.month_start()).await?;
    let bytes = app.store.attachments(id).total_bytes().await?;
    Ok(Json(Limits {
        plan: of.tenant.plan.clone(),
        messages_today: Quota::new(plan.messages_per_day, messages),
        tokens_this_month: Quota::new(plan.tokens_per_month, tokens),
        storage_bytes: Quota::new(plan.storage_bytes, bytes),
        concurrent_chats: plan.concurrent_chats.min(app.config.message.concurrent_chats),
        requests_per_minute: app.config.gateway.rate_limit_per_minute,
        bot_memory_bytes: plan.bot_memory_bytes,
        bot_cpu_milli: plan.bot_cpu_milli,
    }))
}
