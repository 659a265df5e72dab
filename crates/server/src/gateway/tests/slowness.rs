//! Who is slow, and what follows from that: an upstream has its time from when it has the whole request, a client is not
//! waited for without end, and neither makes a process of a role look dead.

use std::time::Duration;

use super::parts::{GET, Gateway, OK, Settings, Wire, accept, listener, status};
use crate::gateway::forward::ForwardLimits;

const SHORT: Duration = Duration::from_millis(300);
const LATE: &str = "the upstream did not begin its answer in time";
const HALF: &str = "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 8\r\n\r\nhalf";

fn limited(response_header: Duration, body_silence: Duration) -> Settings {
    Settings {
        forward: ForwardLimits { response_header, body_silence, ..ForwardLimits::default() },
        ..Settings::default()
    }
}

/// Waits for as long as an upstream may take, by a request that is not answered.
async fn as_long_as_an_answer_may_take(gateway: &Gateway, upstream: &tokio::net::TcpListener) {
    let (answer, _silent) = tokio::join!(gateway.ask(GET), accept(upstream));
    assert!(answer.ends_with(LATE), "{answer}");
}

/// Half of an upload has arrived.
async fn half_of_an_upload(gateway: &Gateway, upstream: &tokio::net::TcpListener) -> (Wire, Wire) {
    let mut client = gateway.connect().await;
    client.send(HALF).await;
    let mut wire = accept(upstream).await;
    wire.until("half").await;
    (client, wire)
}

#[tokio::test]
async fn a_body_may_take_longer_than_its_answer() {
    let (upstream, address) = listener().await;
    let settings = || limited(SHORT, Duration::from_hours(1));
    for gateway in [Gateway::with(address, settings()), Gateway::sharing_with(&[address], settings())] {
        let (mut client, mut wire) = half_of_an_upload(&gateway, &upstream).await;
        as_long_as_an_answer_may_take(&gateway, &upstream).await;
        client.send("half").await;
        wire.until("half").await;
        wire.send(OK).await;
        assert_eq!(status(&client.answer().await), 200);
    }
}

#[tokio::test]
async fn once_the_body_is_out_the_answer_has_its_time_and_no_more() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::with(address, limited(SHORT, Duration::from_hours(1)));
    let (mut client, mut wire) = half_of_an_upload(&gateway, &upstream).await;
    client.send("half").await;
    wire.until("half").await;
    let answer = client.answer().await;
    assert!(answer.ends_with(LATE), "{answer}");
    wire.closed().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_take_the_body_is_not_waited_for() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::with(address, limited(SHORT, Duration::from_hours(1)));
    let mut client = gateway.connect().await;
    let (mut read, mut write) = client.0.split();
    let sending = async {
        use tokio::io::AsyncWriteExt as _;
        write.write_all(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let piece = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        // Until the connection is closed: it holds more than all buffers on the way.
        while write.write_all(piece.as_bytes()).await.is_ok() {}
    };
    let receiving = async {
        use tokio::io::AsyncReadExt as _;
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).ends_with(LATE) {
            assert!(super::parts::soon(read.read_buf(&mut got)).await.unwrap() > 0);
        }
    };
    let _silent = accept(&upstream);
    tokio::select! {
        () = sending => panic!("it was taken, or refused without a word"),
        () = receiving => {}
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_is_not_waited_for() {
    let (upstream, address) = listener().await;
    let settings = || limited(Duration::from_hours(1), SHORT);
    for gateway in [Gateway::with(address, settings()), Gateway::sharing_with(&[address], settings())] {
        let (mut client, mut wire) = half_of_an_upload(&gateway, &upstream).await;
        let answer = client.answer().await;
        assert!(answer.ends_with("the body did not arrive in time"), "{answer}");
        wire.closed().await;
    }
}

#[tokio::test]
async fn slowness_of_either_side_opens_no_circuit() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::sharing_with(&[address], limited(SHORT, SHORT));
    // More of each than failures in a row open one.
    for _ in 0..4 {
        as_long_as_an_answer_may_take(&gateway, &upstream).await;
        let (mut client, _wire) = half_of_an_upload(&gateway, &upstream).await;
        assert_eq!(status(&client.answer().await), 502);
    }
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let mut wire = accept(&upstream).await;
    wire.head().await;
    wire.send(OK).await;
    assert_eq!(status(&client.answer().await), 200);
}

#[tokio::test]
async fn where_a_route_may_take_longer_its_answer_is_awaited() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::sharing_with(&[address], limited(SHORT, SHORT));
    for request in [
        "GET /patient HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "POST /patient HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody",
    ] {
        let mut client = gateway.connect().await;
        client.send(request).await;
        let mut wire = accept(&upstream).await;
        wire.answer().await;
        as_long_as_an_answer_may_take(&gateway, &upstream).await;
        wire.send(OK).await;
        assert_eq!(status(&client.answer().await), 200);
    }
}
