//! As a stream of events.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};

use super::super::{
    Heard, Tail,
    guard::{End, Reader},
};
use crate::{app::App, extract::may::May, problem::Problem};

/// A comment is sent so often, or a proxy may take the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The stream as a response. It reads on only as fast as it is read. With `place_is_news`, it begins with an id alone:
/// whoever is cut off before the first event goes on from there, as browsers do by themselves.
pub(super) fn response<A: May>(app: App, reader: Arc<Reader<A>>, tail: Tail, place_is_news: bool) -> Response {
    let end: Pin<Box<dyn Future<Output = End> + Send>> = Box::pin(reader.until_refused(app));
    let place = place_is_news.then(|| Ok::<_, Infallible>(Event::default().id(tail.place().to_string())));
    let events = stream::unfold(Some((tail, end)), |state| async {
        let (mut tail, mut end) = state?;
        let ended = tokio::select! {
            biased;
            ended = &mut end => ended,
            heard = tail.next() => {
                let rest = if let Heard::End(_) = heard { None } else { Some((tail, end)) };
                return Some((Ok::<_, Infallible>(event(&heard)), rest));
            }
        };
        match ended {
            End::Stopping => None,
            End::Refused(error) => {
                let problem = serde_json::to_string(&Problem::from(error)).unwrap_or_default();
                Some((Ok(Event::default().event("refused").data(problem)), None))
            }
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("still here");
    // nginx would hold the events back.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    (unbuffered, Sse::new(stream::iter(place).chain(events)).keep_alive(keep_alive)).into_response()
}

fn event(heard: &Heard) -> Event {
    let (id, name, data) = super::told(heard);
    Event::default().id(id).event(name).data(data.to_string())
}
