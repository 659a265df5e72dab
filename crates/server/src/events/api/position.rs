//! Where a reader was: `Last-Event-ID`, or `?after=` for those who cannot set a header.

use astrfleet_core::{Error, Result, id::EventId};
use axum::{extract::Query, http::request::Parts};
use serde::Deserialize;

use crate::events::Seen;

/// The same, for the description of the API.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes; `read` reads")]
pub(super) struct Position {
    /// Goes on after this event, or from the oldest that is kept with `0`. `Last-Event-ID` says the same and wins.
    /// Without either: what happens from now on.
    #[param(example = "0")]
    after: Option<String>,
    /// `false`: only what has happened so far. The last event is `end`; a stream that ends without it was cut off.
    follow: Option<bool>,
}

#[derive(Deserialize)]
struct Raw {
    after: Option<String>,
    follow: Option<String>,
}

/// What a reader wants.
pub(super) struct Wanted {
    /// What they know already; none: all that happened so far.
    pub(super) seen: Option<Seen>,
    /// Nothing of what happens from now on.
    pub(super) only_past: bool,
}

/// Reads it.
pub(super) fn read(parts: &Parts) -> Result<Wanted> {
    let Query(raw) = Query::<Raw>::try_from_uri(&parts.uri)
        .map_err(|_| Error::invalid("after", "and follow must be given once at the most"))?;
    let only_past = match raw.follow.as_deref() {
        None | Some("true") => false,
        Some("false") => true,
        Some(_) => return Err(Error::invalid("follow", "must be true or false")),
    };
    let header = parts.headers.get("last-event-id").filter(|value| !value.is_empty());
    let seen = match (header, raw.after) {
        (Some(value), _) => Some(seen("Last-Event-ID", value.to_str().unwrap_or("not text"))?),
        (None, Some(after)) => Some(seen("after", &after)?),
        (None, None) => None,
    };
    Ok(Wanted { seen, only_past })
}

fn seen(field: &'static str, text: &str) -> Result<Seen> {
    if text == "0" {
        return Ok(Seen::Nothing);
    }
    let wrong = |_| Error::invalid(field, "must be the id of an event that you have seen, or 0 for the beginning");
    EventId::parse(text).map(Seen::UpTo).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::seen;
    use crate::events::Seen;

    #[test]
    fn a_position_is_an_events_id_or_the_beginning() {
        assert_eq!(seen("after", "0").unwrap(), Seen::Nothing);
        let id = format!("evt_{:016x}{}", 7, "a".repeat(16));
        assert!(matches!(seen("after", &id).unwrap(), Seen::UpTo(id) if id.seq() == 7));
        for bad in ["", "7", "-1", "msg_00000000000000000000000000000000", "evt_x"] {
            assert!(seen("after", bad).is_err(), "{bad}");
        }
    }
}
