//! `GET /tenants/{tenant}/usage`: what a tenant used, day by day.

use std::time::Duration;

use astrfleet_core::{Error, message::TokenUsage, time::Timestamp, usage::UsageTotal};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};

use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// What is shown where nothing is asked for.
const DEFAULT_PERIOD: Duration = Duration::from_hours(30 * 24);
/// The longest period.
const PERIOD_MAX: Duration = Duration::from_hours(366 * 24);

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Period {
    /// A day (`2026-11-23`, UTC) or a moment as in RFC 3339; thirty days before `to` where it is not given.
    from: Option<String>,
    /// The same, not included; now where it is not given.
    to: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Usage {
    /// From this moment
    from: Timestamp,
    /// to this one.
    to: Timestamp,
    /// Days on which there was something, the oldest first.
    days: Vec<UsageTotal>,
    /// All of them together; its `period` is empty.
    total: UsageTotal,
}

/// Show a tenant's usage
///
/// Calls of models, tokens and messages, by day (UTC).
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/usage", tag = "tenants", operation_id = "get_usage",
    params(("tenant" = String, Path, description = "Id or name"), Period),
    responses(
        (status = 200, body = Usage), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::UsageRead>,
    period: Result<Query<Period>, QueryRejection>,
) -> Result<Json<Usage>, Problem> {
    let Query(period) = period.map_err(|rejection| Problem::new("malformed", rejection.body_text()))?;
    let (from, to) = range(period.from.as_deref(), period.to.as_deref(), app.clock.now())?;
    let days = app.store.usage(&of.tenant.id).by_day(from, to).await?;
    let total = days.iter().fold(UsageTotal::default(), |total, day| sum(&total, day));
    Ok(Json(Usage { from, to, days, total }))
}

/// From when to when.
pub(super) fn range(
    from: Option<&str>,
    to: Option<&str>,
    now: Timestamp,
) -> astrfleet_core::Result<(Timestamp, Timestamp)> {
    let to = to.map_or(Ok(now), |to| moment("to", to))?;
    let from = from.map_or_else(|| Ok(to.minus(DEFAULT_PERIOD)), |from| moment("from", from))?;
    if from >= to || to.since(from) > PERIOD_MAX {
        return Err(Error::invalid("from", "must lie before `to`, by 366 days at the most"));
    }
    Ok((from, to))
}

fn moment(field: &'static str, text: &str) -> Result<Timestamp, Error> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    serde_json::from_value(serde_json::Value::String(whole))
        .map_err(|_| Error::invalid(field, "must be a day such as 2026-11-23, or a moment as in RFC 3339"))
}

fn sum(total: &UsageTotal, day: &UsageTotal) -> UsageTotal {
    UsageTotal {
        period: String::new(),
        requests: total.requests + day.requests,
        tokens: TokenUsage {
            prompt_tokens: total.tokens.prompt_tokens + day.tokens.prompt_tokens,
            completion_tokens: total.tokens.completion_tokens + day.tokens.completion_tokens,
        },
        messages: total.messages + day.messages,
    }
}
