//! `GET /tenants/{tenant}/limits`: what a tenant may use, and what is left of it.

use astrfleet_core::quota::Quota;
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
    /// Tokens that the bot's own key took this month (UTC); absent where the plan sets it no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_this_month_of_key: Option<Quota>,
    /// Bytes of attachments.
    storage_bytes: Quota,
    /// Chats that are answered at the same moment; more wait.
    concurrent_chats: u32,
    /// Chats that are being answered now.
    chats_now: Quota,
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
    let chats = app.store.budgets(id).chats_in_progress().await?;
    let chats_max = plan.chats(app.config.message.concurrent_chats);
    let of_key = match plan.tokens_of_key() {
        Some(amount) => {
            let bot = app.store.instances(id).get().await?;
            let used = app.store.usage(id).tokens_of_key_since(&bot.id, now.month_start()).await?;
            Some(Quota::new(amount, used))
        }
        None => None,
    };
    Ok(Json(Limits {
        plan: of.tenant.plan.clone(),
        messages_today: Quota::new(plan.messages(), messages),
        tokens_this_month: Quota::new(plan.tokens(), tokens),
        tokens_this_month_of_key: of_key,
        storage_bytes: Quota::new(plan.storage(), bytes),
        concurrent_chats: u32::try_from(chats_max.limit).unwrap_or(u32::MAX),
        chats_now: Quota::new(chats_max, chats),
        requests_per_minute: app.config.gateway.rate_limit_per_minute,
        bot_memory_bytes: plan.bot_memory_bytes,
        bot_cpu_milli: plan.bot_cpu_milli,
    }))
}
