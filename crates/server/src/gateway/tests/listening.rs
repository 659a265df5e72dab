//! Taking an address, holding connections, letting go of them.

use std::{net::TcpListener as StdListener, time::Duration};

use axum::routing::get;
use tokio::sync::mpsc;

use super::parts::{GET, Gateway, OK, Settings, accept, header, listener, local, soon, status};
use crate::gateway::listen::{ConnectionLimits, Drained, Listen, ListenError, bind};

const SHORT: Duration = Duration::from_millis(300);
const LOCAL: &str = "GET /local HTTP/1.1\r\nHost: a\r\n\r\n";

struct Tell(mpsc::UnboundedSender<&'static str>);

impl Drop for Tell {
    fn drop(&mut self) {
        // The test may be over already.
        let _ = self.0.send("dropped");
    }
}

fn limited(connection: ConnectionLimits) -> Settings {
    let router = axum::Router::new().route("/local", get(async || "here"));
    Settings { connection, router, ..Settings::default() }
}

#[test]
fn a_taken_port_is_named_with_the_way_out() {
    let taken = StdListener::bind(local()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(&Listen::on(address)).unwrap_err();
    assert!(matches!(error, ListenError::Taken(_)));
    let text = error.to_string();
    assert!(text.contains(&address.port().to_string()) && text.contains("--listen"), "{text}");
}

#[test]
fn a_port_shared_by_another_gateway_of_ours_is_taken_too() {
    let first = bind(&Listen::on(local())).unwrap();
    assert!(matches!(bind(&Listen::on(first.address())), Err(ListenError::Taken(_))));
}

#[test]
fn an_address_of_another_machine_is_said_to_be_one() {
    let elsewhere = "192.0.2.1:0".parse().unwrap();
    assert!(matches!(bind(&Listen::on(elsewhere)), Err(ListenError::NoSuchAddress(_))));
}

#[tokio::test]
async fn handlers_of_the_router_answer_on_every_worker() {
    let gateway = Gateway::with(local(), Settings { workers: 3, ..limited(ConnectionLimits::default()) });
    for _ in 0..16 {
        assert!(gateway.ask(LOCAL).await.ends_with("here"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_handler() {
    let (sender, mut events) = mpsc::unbounded_channel();
    let handler = async move || {
        let tell = Tell(sender.clone());
        let _ = tell.0.send("started");
        std::future::pending::<()>().await;
    };
    let router = axum::Router::new().route("/local", get(handler));
    let gateway = Gateway::with(local(), Settings { router, ..Settings::default() });
    let mut client = gateway.connect().await;
    client.send(LOCAL).await;
    assert_eq!(soon(events.recv()).await, Some("started"));
    drop(client);
    assert_eq!(soon(events.recv()).await, Some("dropped"));
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut() {
    let gateway = Gateway::with(local(), limited(ConnectionLimits { header_read: SHORT, ..Default::default() }));
    let mut silent = gateway.connect().await;
    let mut slow = gateway.connect().await;
    slow.send("GET /local HTTP/1.1\r\n").await;
    let mut after_a_request = gateway.connect().await;
    after_a_request.send(LOCAL).await;
    after_a_request.answer().await;
    after_a_request.send("GET ").await;
    silent.closed().await;
    slow.closed().await;
    after_a_request.closed().await;
}

#[tokio::test]
async fn a_connection_that_asks_nothing_more_is_closed() {
    let gateway = Gateway::with(local(), limited(ConnectionLimits { keep_alive: SHORT, ..Default::default() }));
    let mut client = gateway.connect().await;
    client.send(LOCAL).await;
    assert_eq!(status(&client.answer().await), 200);
    client.closed().await;
}

#[tokio::test]
async fn a_stream_in_which_nothing_moves_is_cut() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::with(address, limited(ConnectionLimits { stream_idle: SHORT, ..Default::default() }));
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let mut wire = accept(&upstream).await;
    wire.answer().await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
    client.until("hi\r\n").await;
    client.closed().await;
    wire.closed().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let gateway = Gateway::with(local(), limited(ConnectionLimits { header_bytes_max: 8192, ..Default::default() }));
    let answer = gateway.ask(format!("GET /local HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(8192))).await;
    assert_eq!(status(&answer), 431);
}

#[tokio::test]
async fn a_full_worker_lets_an_idle_connection_go_for_a_new_one() {
    let gateway = Gateway::with(local(), limited(ConnectionLimits { connections_max: 2, ..Default::default() }));
    let mut idle = gateway.connect().await;
    idle.send(LOCAL).await;
    idle.answer().await;
    let mut other = gateway.connect().await;
    other.send(LOCAL).await;
    other.answer().await;
    assert_eq!(status(&gateway.ask(LOCAL).await), 200);
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::with(address, limited(ConnectionLimits::default()));
    let mut streaming = gateway.connect().await;
    let mut idle = gateway.connect().await;
    idle.send(LOCAL).await;
    idle.answer().await;
    streaming.send(GET).await;
    let mut wire = accept(&upstream).await;
    wire.answer().await;
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await;
    streaming.until("hi\r\n").await;

    let (address, Gateway { serving, stop, .. }) = (gateway.address, gateway);
    drop(stop);
    idle.closed().await;
    let refused = soon(tokio::net::TcpStream::connect(address)).await;
    assert!(refused.is_err(), "a new connection was taken while draining");

    wire.send("3\r\nbye\r\n0\r\n\r\n").await;
    assert_eq!(streaming.until("0\r\n\r\n").await, "3\r\nbye\r\n0\r\n\r\n");
    streaming.closed().await;
    assert_eq!(soon(serving.drained()).await, Drained::default());
}

#[tokio::test]
async fn draining_cuts_what_does_not_finish() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::with(address, limited(ConnectionLimits { drain: SHORT, ..Default::default() }));
    let mut stuck = gateway.connect().await;
    stuck.send(GET).await;
    let mut wire = accept(&upstream).await;
    let seen = wire.answer().await;
    assert_eq!(header(&seen, "host"), Some("a.example"));
    drop(gateway.stop);
    assert_eq!(soon(gateway.serving.drained()).await, Drained { cut: 1, crashed: 0 });
    stuck.closed().await;
    wire.closed().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let mut client = gateway.connect().await;
    client.send([GET, GET].concat()).await;
    let mut wire = accept(&upstream).await;
    for _ in 0..2 {
        wire.answer().await;
        wire.send(OK).await;
        assert!(client.answer().await.ends_with("hi"));
    }
}
