//! Streams of events over HTTP.

use std::{convert::Infallible, time::Duration};

use astrfleet_core::Result;
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt};

use crate::message::live::{Position, Said};

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Whether the caller wants a stream.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream")))
}

/// Where the caller was cut off: the beginning where they do not say.
pub(in crate::message) fn position(headers: &HeaderMap) -> Result<Position> {
    match headers.get("last-event-id") {
        None => Ok(Position::default()),
        Some(value) if value.is_empty() => Ok(Position::default()),
        Some(value) => value.to_str().unwrap_or("not text").parse(),
    }
}

/// The stream as a response.
pub(super) fn response(said: impl Stream<Item = Said> + Send + 'static) -> Response {
    let events = said.map(|said| Ok::<_, Infallible>(Event::default().id(said.id).event(said.name).data(said.data)));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("still here");
    // nginx would hold the events back.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    (unbuffered, Sse::new(events).keep_alive(keep_alive)).into_response()
}
