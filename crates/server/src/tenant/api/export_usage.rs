//! `GET /tenants/{tenant}/usage/export`: every call of a model, a line each, for accounts and spreadsheets.

use std::{fmt::Write as _, sync::Arc};

use astrfleet_core::{
    id::TenantId,
    ports::Store,
    time::Timestamp,
    usage::{Outcome, UsageRecord},
};
use axum::{
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use serde::Deserialize;

use super::usage::range;
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

/// Lines that are in memory at the same moment.
const PAGE: u32 = 500;
const HEAD: &str = "id,at,instance_id,upstream,model,prompt_tokens,completion_tokens,total_tokens,estimated,outcome,\
                    duration_ms\r\n";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// RFC 4180, with a line of names.
    #[default]
    Csv,
    /// An array of objects, one a line.
    Json,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// A day (`2026-11-23`, UTC) or a moment as in RFC 3339; thirty days before `to` where it is not given.
    from: Option<String>,
    /// The same, not included; now where it is not given.
    to: Option<String>,
    /// `csv` or `json`.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// Export a tenant's usage
///
/// Every call of a model from `from` to `to`, the oldest first, as it stands in the ledger. Sent as it is read, so that
/// the period may be long; an answer that breaks off is not whole. In CSV, a text that a spreadsheet would take for a
/// formula begins with an apostrophe.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/usage/export", tag = "tenants", operation_id = "export_usage",
    params(("tenant" = String, Path, description = "Id or name"), Wanted),
    responses(
        (status = 200, content((String = "text/csv"), (Vec<UsageRecord> = "application/json"))),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = [])),
)]
pub(super) async fn handler(
    State(app): State<App>,
    of: InTenant<may::UsageRead>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(wanted) = wanted.map_err(|rejection| Problem::new("malformed", rejection.body_text()))?;
    let (from, to) = range(wanted.from.as_deref(), wanted.to.as_deref(), app.clock.now())?;
    let format = wanted.format;
    let reader = Reader { store: Arc::clone(&app.store), tenant: of.tenant.id.clone(), from, to, last: None };
    // What can be refused is refused before the first byte.
    let (first, reader) = reader.read().await?;
    let body = stream::try_unfold((Some(first), reader, true), move |(page, reader, is_first)| async move {
        let Some(page) = page else { return Ok::<_, astrfleet_core::Error>(None) };
        let text = match format {
            Format::Csv => csv(&page, is_first),
            Format::Json => json(&page, is_first, is_last(&page))?,
        };
        let (next, reader) = if is_last(&page) {
            (None, reader)
        } else {
            let (next, reader) = reader.read().await?;
            (Some(next), reader)
        };
        Ok(Some((Bytes::from(text), (next, reader, false))))
    });
    let (kind, ending) = match format {
        Format::Csv => ("text/csv; charset=utf-8; header=present", "csv"),
        Format::Json => ("application/json", "json"),
    };
    let name = format!("attachment; filename=\"usage-{}-{}-{}.{ending}\"", of.tenant.name, from.day(), to.day());
    Ok(([(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, name)], Body::from_stream(body))
        .into_response())
}

/// Reads the ledger, a page at a time.
struct Reader {
    store: Arc<dyn Store>,
    tenant: TenantId,
    from: Timestamp,
    to: Timestamp,
    last: Option<UsageRecord>,
}

impl Reader {
    async fn read(mut self) -> astrfleet_core::Result<(Vec<UsageRecord>, Self)> {
        let ledger = self.store.usage(&self.tenant);
        let page = ledger.between(self.from, self.to, self.last.as_ref(), PAGE).await?;
        if let Some(last) = page.last() {
            self.last = Some(last.clone());
        }
        Ok((page, self))
    }
}

/// Whether nothing follows this page.
fn is_last(page: &[UsageRecord]) -> bool {
    page.len() < PAGE as usize
}

fn csv(page: &[UsageRecord], is_first: bool) -> String {
    let mut text = if is_first { HEAD.to_owned() } else { String::new() };
    for record in page {
        let outcome = match record.outcome {
            Outcome::Complete => "complete",
            Outcome::Aborted => "aborted",
            Outcome::Failed => "failed",
        };
        // Writing into a text cannot fail.
        write!(
            text,
            "{},{},{},{},{},{},{},{},{},{outcome},{}\r\n",
            record.id,
            record.at,
            record.instance_id,
            field(&record.upstream),
            field(&record.model),
            record.tokens.prompt_tokens,
            record.tokens.completion_tokens,
            record.tokens.total(),
            record.estimated,
            record.duration_ms,
        )
        .ok();
    }
    text
}

/// A text as a field of CSV that no spreadsheet takes for a formula.
fn field(text: &str) -> String {
    let is_formula = text.trim_start_matches(' ').starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let safe = if is_formula { format!("'{text}") } else { text.to_owned() };
    if safe.contains(['"', ',', '\r', '\n', ';', '\t', '\'']) || safe.starts_with(' ') || safe.ends_with(' ') {
        return format!("\"{}\"", safe.replace('"', "\"\""));
    }
    safe
}

fn json(page: &[UsageRecord], is_first: bool, is_last: bool) -> astrfleet_core::Result<String> {
    let mut text = if is_first { "[".to_owned() } else { String::new() };
    for (index, record) in page.iter().enumerate() {
        text.push_str(if is_first && index == 0 { "\n" } else { ",\n" });
        text.push_str(&serde_json::to_string(record).map_err(astrfleet_core::Error::internal)?);
    }
    if is_last {
        text.push_str("\n]\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::field;

    #[test]
    fn a_spreadsheet_finds_no_formula() {
        for (text, written) in [
            ("gpt-5", "gpt-5"),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            (" =1", "\"' =1\""),
            ("-1", "\"'-1\""),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(field(text), written, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_field_is_read_back_and_begins_with_no_formula(text in any::<String>()) {
            let written = field(&text);
            let read = if let Some(quoted) = written.strip_prefix('"') {
                quoted.strip_suffix('"').unwrap().replace("\"\"", "\"")
            } else {
                prop_assert!(!written.contains(['"', ',', '\r', '\n']));
                written
            };
            prop_assert!(!read.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']));
            let disarmed = format!("'{text}");
            prop_assert!(read == text || read == disarmed);
        }
    }
}
