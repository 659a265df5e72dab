//! Requests that one of several processes answers, and another one where the first cannot.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::parts::{GET, Gateway, OK, SIGNED, Wire, accept, header, listener, status};

/// An address at which nobody listens.
async fn nowhere() -> SocketAddr {
    listener().await.1
}

/// Whichever of the two is asked first, and the other one.
async fn first_and_other(one: TcpListener, two: TcpListener) -> (Wire, TcpListener) {
    tokio::select! {
        wire = accept(&one) => (wire, two),
        wire = accept(&two) => (wire, one),
    }
}

fn post(more: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a.example\r\n{more}Content-Length: 5\r\n\r\nhello")
}

const KEY: &str = "Idempotency-Key: one\r\n";

#[tokio::test]
async fn where_nobody_listens_another_one_is_asked_whatever_the_request() {
    for request in [GET.to_owned(), post("")] {
        let (upstream, address) = listener().await;
        // Of two, the first may be chosen: with three dead ones every request meets one.
        let gateway = Gateway::sharing(&[nowhere().await, nowhere().await, address]);
        let mut client = gateway.connect().await;
        client.send(&request).await;
        let mut wire = accept(&upstream).await;
        let head = wire.head().await;
        if request.starts_with("POST") {
            assert_eq!(wire.until("hello").await, "hello");
        }
        assert_eq!(header(&head, "host"), Some("a.example"));
        wire.send(OK).await;
        assert_eq!(status(&client.answer().await), 200);
    }
}

#[tokio::test]
async fn what_may_be_done_twice_goes_to_another_one_when_the_first_breaks() {
    for request in [GET.to_owned(), post(KEY)] {
        let ((one, first), (two, second)) = (listener().await, listener().await);
        let gateway = Gateway::sharing(&[first, second]);
        let mut client = gateway.connect().await;
        client.send(&request).await;
        let (mut broken, other) = first_and_other(one, two).await;
        let head = broken.head().await;
        drop(broken);
        let mut wire = accept(&other).await;
        assert_eq!(wire.head().await, head, "the same request");
        if request.starts_with("POST") {
            assert_eq!(wire.until("hello").await, "hello", "with the same body");
        }
        wire.send(OK).await;
        assert_eq!(status(&client.answer().await), 200);
    }
}

#[tokio::test]
async fn what_may_not_be_done_twice_is_not() {
    // Without a key, and with one at a route that does not honour it.
    for request in [post(""), post(KEY).replace("POST /a ", "POST /unkeyed ")] {
        let ((one, first), (two, second)) = (listener().await, listener().await);
        let gateway = Gateway::sharing(&[first, second]);
        let mut client = gateway.connect().await;
        client.send(request).await;
        let (mut broken, other) = first_and_other(one, two).await;
        broken.until("hello").await;
        drop(broken);
        assert_eq!(status(&client.answer().await), 502);
        // The next request is the first that the other one sees.
        client.send(GET).await;
        let mut wire = accept(&other).await;
        assert!(wire.head().await.starts_with("GET"), "the other one was not asked before");
        wire.send(OK).await;
        assert_eq!(status(&client.answer().await), 200);
    }
}

#[tokio::test]
async fn a_client_takes_off_neither_what_we_say_of_it_nor_its_own_key() {
    for request in [GET.to_owned(), post(KEY)] {
        let (upstream, address) = listener().await;
        let gateway = Gateway::sharing(&[address]);
        let mut client = gateway.connect().await;
        let named = "\r\nConnection: X-Astrfleet-Identity, Idempotency-Key, X-Hop\r\nX-Hop: 1\r\nHost:";
        client.send(request.replacen("\r\nHost:", named, 1)).await;
        let mut wire = accept(&upstream).await;
        let seen = wire.answer().await;
        assert_eq!(header(&seen, "x-astrfleet-identity"), Some(SIGNED));
        assert_eq!(header(&seen, "idempotency-key"), request.contains(KEY).then_some("one"));
        assert_eq!(header(&seen, "x-hop"), None);
        wire.send(OK).await;
        assert_eq!(status(&client.answer().await), 200);
    }
}

#[tokio::test]
async fn after_the_first_byte_nobody_else_is_asked() {
    let ((one, first), (two, second)) = (listener().await, listener().await);
    let gateway = Gateway::sharing(&[first, second]);
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let (mut wire, other) = first_and_other(one, two).await;
    wire.head().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert_eq!(client.until("half").await.lines().next(), Some("HTTP/1.1 200 OK"));
    drop(wire);
    client.closed().await;
    let mut again = gateway.connect().await;
    again.send("GET /other HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let mut wire = accept(&other).await;
    assert!(wire.head().await.starts_with("GET /other"), "the first request did not come here");
    wire.send(OK).await;
    assert_eq!(status(&again.answer().await), 200);
}

#[tokio::test]
async fn whoever_fails_again_and_again_is_left_alone() {
    let dead = nowhere().await;
    let gateway = Gateway::sharing(&[dead]);
    for _ in 0..3 {
        assert_eq!(status(&gateway.ask(GET).await), 502);
    }
    let answer = gateway.ask(GET).await;
    assert!(answer.ends_with("no process that could answer is there at the moment"), "{answer}");
}
