//! `GET /tenants/{tenant}/instance/logs`

use std::collections::VecDeque;

use astrfleet_core::{
    Error,
    ports::{LogLine, LogStream},
};
use axum::{
    Json,
    extract::{Query, State},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::watch;
use crate::{
    app::App,
    extract::{InTenant, may},
    problem::Problem,
};

const LINES_DEFAULT: usize = 100;
const LINES_MAX: usize = 1_000;

/// What is wanted.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(in crate::manager) struct LogQuery {
    /// The last so many lines: 1 to 1000, 100 where it is not given.
    lines: Option<String>,
    /// A stream of what comes, too.
    #[serde(default)]
    #[param(default = false)]
    follow: bool,
}

/// Lines, the newest last.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::manager) struct LogLines {
    items: Vec<LogLine>,
}

/// The bot's log
///
/// Its last lines, the newest last. With `follow=true`: a stream of `log` events, one a line, the last ones first and
/// then what comes.
#[utoipa::path(
    get, path = "/api/v1/tenants/{tenant}/instance/logs", tag = "instance", operation_id = "read_instance_logs",
    params(("tenant" = String, Path, description = "Id or name"), LogQuery),
    responses(
        (status = 200, content(
            (LogLines = "application/json"),
            (LogLine = "text/event-stream"),
        )),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem),
    ),
    security(("access_token" = []), ("api_key" = [])),
)]
pub(in crate::manager) async fn handler(
    State(app): State<App>,
    of: InTenant<may::InstanceRead>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::new("malformed", rejection.body_text()))?;
    // A number too large for us is out of range, not malformed.
    let lines = query.lines.map_or(LINES_DEFAULT, |lines| lines.parse().unwrap_or(0));
    if !(1..=LINES_MAX).contains(&lines) {
        return Err(Error::invalid("lines", format!("must be 1 to {LINES_MAX}")).into());
    }
    let instance = app.store.instances(&of.tenant.id).get().await?;
    if !query.follow {
        let items = app.runtime.log(&instance.id, lines).await?;
        return Ok(Json(LogLines { items }).into_response());
    }
    app.manager.must_keep_bots()?;
    // Followed before the last lines are read: no line falls between the two.
    let coming = app.runtime.follow_log(&instance.id).await?;
    let last = app.runtime.log(&instance.id, lines).await?;
    let events = joined(last, coming).filter_map(|line| async move {
        Event::default().event("log").json_data(line).ok().map(Ok::<_, std::convert::Infallible>)
    });
    let events = events.take_until(watch::until_refused(&app, &of));
    Ok(Sse::new(events).keep_alive(watch::heartbeat()).into_response())
}

/// The last lines and then those that come; a line that is among both comes once.
fn joined(last: Vec<LogLine>, coming: LogStream) -> impl Stream<Item = LogLine> {
    let mut both: VecDeque<LogLine> = last.iter().cloned().collect();
    let coming = coming.filter(move |line| {
        let known = both.iter().position(|known| known == line);
        match known {
            Some(position) => drop(both.drain(..=position)),
            // What comes now is newer than all of them.
            None => both.clear(),
        }
        std::future::ready(known.is_none())
    });
    stream::iter(last).chain(coming)
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{ports::LogLine, time::Timestamp};
    use futures_util::{StreamExt, stream};

    use super::joined;

    #[tokio::test]
    async fn no_line_comes_twice_and_none_is_lost() {
        let line = |at: i64| LogLine { at: Timestamp::from_micros(at), line: format!("line {at}") };
        let last = vec![line(1), line(2), line(3)];
        let coming = stream::iter([line(2), line(3), line(4), line(4)]).boxed();
        let lines: Vec<_> = joined(last, coming).map(|line| line.at.micros()).collect().await;
        assert_eq!(lines, [1, 2, 3, 4, 4]);
    }
}
