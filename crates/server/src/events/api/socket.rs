//! As a WebSocket: one JSON text for each event. Whatever the other side says is thrown away.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    response::Response,
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::super::{
    Heard, Tail,
    guard::{End, Reader},
};
use crate::{app::App, extract::may::May, problem::Problem};

/// A ping is sent so often.
const PING: Duration = Duration::from_secs(15);
/// Whoever has not taken a message after so long is gone.
const SEND_MAX: Duration = Duration::from_secs(30);
/// The most that anybody may say to us at once.
const BYTES_MAX: usize = 4 * 1024;
/// How often anybody may say something between two pings: there is nothing to be said but an answer to each.
const FRAMES_MAX: u32 = 64;
/// The longest reason in a close frame (RFC 6455 §5.5).
const REASON_BYTES_MAX: usize = 120;

/// The answer that makes a WebSocket of a request.
pub(super) fn response<A: May>(app: App, reader: Arc<Reader<A>>, tail: Tail, upgrade: WebSocketUpgrade) -> Response {
    let tasks = app.tasks.clone();
    upgrade
        .max_message_size(BYTES_MAX)
        .max_frame_size(BYTES_MAX)
        .write_buffer_size(0)
        .on_upgrade(move |socket| tasks.track_future(serve(app, reader, tail, socket)))
}

async fn serve<A: May>(app: App, reader: Arc<Reader<A>>, tail: Tail, mut socket: WebSocket) {
    let mut end = Box::pin(reader.until_refused(app));
    let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
    // It outlives the turns of the loop: what is being read is not read again because somebody said something.
    let mut next = Box::pin(next(tail));
    let mut said = 0;
    let mut all_told = false;
    while !all_told {
        let message = tokio::select! {
            ended = &mut end => {
                let close = Message::Close(Some(close(ended)));
                timeout(SEND_MAX, socket.send(close)).await.ok();
                return;
            }
            frame = socket.recv() => match frame {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) if said < FRAMES_MAX => {
                    said += 1;
                    continue;
                }
                Some(Ok(_)) => {
                    let reason = "nobody listens to what is said here".into();
                    let close = Message::Close(Some(CloseFrame { code: close_code::POLICY, reason }));
                    timeout(SEND_MAX, socket.send(close)).await.ok();
                    return;
                }
            },
            (tail, heard) = &mut next => {
                next.set(self::next(tail));
                all_told = matches!(heard, Heard::End(_));
                Message::Text(text(&heard).into())
            }
            _ = ping.tick() => {
                said = 0;
                Message::Ping(Vec::new().into())
            }
        };
        if !matches!(timeout(SEND_MAX, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
    timeout(SEND_MAX, socket.send(Message::Close(None))).await.ok();
}

async fn next(mut tail: Tail) -> (Tail, Heard) {
    let heard = tail.next().await;
    (tail, heard)
}

fn text(heard: &Heard) -> String {
    let (id, name, data) = super::told(heard);
    json!({ "id": id, "event": name, "data": data }).to_string()
}

fn close(end: End) -> CloseFrame {
    let (code, mut reason) = match end {
        End::Stopping => (close_code::AWAY, "this process ends: connect again".to_owned()),
        End::Refused(error) => (close_code::POLICY, Problem::from(error).detail),
    };
    while reason.len() > REASON_BYTES_MAX {
        reason.pop();
    }
    CloseFrame { code, reason: reason.into() }
}
