//! What passes through, what does not, and what happens when either side goes away.

use std::{fmt::Write as _, time::Duration};

use tokio::io::AsyncWriteExt;

use super::parts::{GET, Gateway, OK, Settings, Wire, accept, header, listener, local, soon, status};
use crate::gateway::{forward::ForwardLimits, upstream::PoolLimits};

const POST: &str = "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody";

async fn serve_once(wire: &mut Wire) -> String {
    let request = wire.answer().await;
    wire.send(OK).await;
    request
}

#[tokio::test]
async fn a_connection_is_used_again_by_whoever_comes_next() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move {
        let mut wire = accept(&upstream).await;
        for _ in 0..4 {
            serve_once(&mut wire).await;
        }
    });
    let mut one = gateway.connect().await;
    for _ in 0..3 {
        one.send(GET).await;
        assert!(one.answer().await.ends_with("\r\n\r\nhi"));
    }
    assert_eq!(status(&gateway.ask(GET).await), 200);
    soon(served).await.unwrap();
}

#[tokio::test]
async fn an_answer_in_chunks_frees_its_connection_too() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move {
        let mut wire = accept(&upstream).await;
        for _ in 0..2 {
            wire.answer().await;
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
        }
    });
    for _ in 0..2 {
        let mut client = gateway.connect().await;
        client.send(GET).await;
        assert_eq!(header(&client.head().await, "transfer-encoding"), Some("chunked"));
        assert_eq!(client.until("0\r\n\r\n").await, "2\r\nhi\r\n0\r\n\r\n");
    }
    soon(served).await.unwrap();
}

#[tokio::test]
async fn the_request_arrives_in_origin_form_with_our_headers() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move { serve_once(&mut accept(&upstream).await).await });
    let request = "GET http://a.example/a?b=c HTTP/1.1\r\nHost: a.example\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                   X-Forwarded-For: 6.6.6.6\r\nX-Astrfleet-Tenant: ten_other\r\nTE: gzip\r\n\r\n";
    assert_eq!(status(&gateway.ask(request).await), 200);
    let seen = soon(served).await.unwrap();
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), Some("a.example"));
    assert_eq!(header(&seen, "x-forwarded-for"), Some("127.0.0.1"));
    for gone in ["x-hop", "connection", "te", "x-astrfleet-tenant"] {
        assert_eq!(header(&seen, gone), None, "{gone} went through");
    }
}

#[tokio::test]
async fn the_answers_hop_by_hop_headers_stay_behind() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    tokio::spawn(async move {
        let mut wire = accept(&upstream).await;
        wire.answer().await;
        wire.send(
            "HTTP/1.0 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 2\r\n\r\nrest",
        )
        .await;
    });
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!((header(&head, "x-hop"), header(&head, "keep-alive"), header(&head, "x-end")), (None, None, Some("2")));
    assert_eq!(client.until("0\r\n\r\n").await, "4\r\nrest\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_get_on_a_stale_connection_goes_out_once_more() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move {
        let mut stale = accept(&upstream).await;
        serve_once(&mut stale).await;
        stale.answer().await;
        drop(stale);
        serve_once(&mut accept(&upstream).await).await
    });
    assert_eq!(status(&gateway.ask(GET).await), 200);
    assert_eq!(status(&gateway.ask(GET).await), 200);
    assert!(soon(served).await.unwrap().starts_with("GET /a?b=c "));
}

#[tokio::test]
async fn once_more_is_not_twice_more() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move {
        let mut stale = accept(&upstream).await;
        serve_once(&mut stale).await;
        stale.answer().await;
        drop(stale);
        accept(&upstream).await.answer().await;
        upstream
    });
    assert_eq!(status(&gateway.ask(GET).await), 200);
    assert!(gateway.ask(GET).await.ends_with("closed the connection before it answered"));
    let upstream = soon(served).await.unwrap();
    let probe = tokio::net::TcpStream::connect(upstream.local_addr().unwrap()).await.unwrap();
    let (_, first_in_line) = soon(upstream.accept()).await.unwrap();
    assert_eq!(first_in_line, probe.local_addr().unwrap(), "the gateway tried a third time");
}

/// The gateway's connection breaks after `request` went out for the second time: it must not try again.
async fn is_not_repeated(request: &str) {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move {
        let mut stale = accept(&upstream).await;
        serve_once(&mut stale).await;
        stale.answer().await;
        drop(stale);
        upstream
    });
    assert_eq!(status(&gateway.ask(request).await), 200);
    let answer = gateway.ask(request).await;
    assert_eq!(status(&answer), 502);
    assert!(answer.ends_with("closed the connection before it answered"), "{answer}");
    let upstream = soon(served).await.unwrap();
    let probe = tokio::net::TcpStream::connect(upstream.local_addr().unwrap()).await.unwrap();
    let (_, first_in_line) = soon(upstream.accept()).await.unwrap();
    assert_eq!(first_in_line, probe.local_addr().unwrap(), "the gateway sent it again");
}

#[tokio::test]
async fn a_post_that_went_out_is_never_sent_again() {
    is_not_repeated(POST).await;
    is_not_repeated("POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n").await;
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_is_let_go_and_not_used() {
    for request in [GET, POST] {
        let (upstream, address) = listener().await;
        let gateway = Gateway::before(address);
        let served = tokio::spawn(async move {
            let mut first = accept(&upstream).await;
            serve_once(&mut first).await;
            first.0.shutdown().await.unwrap();
            first.closed().await;
            serve_once(&mut accept(&upstream).await).await
        });
        assert_eq!(status(&gateway.ask(request).await), 200);
        // The second connection is taken only after the gateway has let go of the first.
        assert_eq!(status(&gateway.ask(request).await), 200);
        soon(served).await.unwrap();
    }
}

#[tokio::test]
async fn a_post_without_a_body_says_so() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move { serve_once(&mut accept(&upstream).await).await });
    assert_eq!(status(&gateway.ask("POST /a HTTP/1.1\r\nHost: a\r\n\r\n").await), 200);
    assert_eq!(header(&soon(served).await.unwrap(), "content-length"), Some("0"));
}

/// What a client gets for a GET when the upstream sends `answer` and nothing more, and whether the connection is kept.
async fn passed(answer: &str) -> (String, bool) {
    let answer = answer.to_owned();
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move {
        let mut wire = accept(&upstream).await;
        wire.answer().await;
        wire.send(&answer).await;
        let next = tokio::select! {
            seen = wire.head_or_end() => seen,
            _ = upstream.accept() => false,
        };
        if next {
            wire.send(OK).await;
        }
        next
    });
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let got = client.answer().await;
    let mut second = gateway.connect().await;
    second.send(GET).await;
    (got, soon(served).await.unwrap())
}

#[tokio::test]
async fn an_answer_with_one_certain_end_keeps_its_connection() {
    for kept in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    ] {
        let (got, is_kept) = passed(kept).await;
        assert!(is_kept && (status(&got) == 304 || !got.contains("77")), "{kept:?} became {got:?}");
    }
}

#[tokio::test]
async fn an_answer_with_a_doubtful_end_does_not() {
    for dropped in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more",
    ] {
        let (got, is_kept) = passed(dropped).await;
        assert!(got.ends_with("\r\n\r\nhi") && !is_kept, "{dropped:?} became {got:?}");
    }
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_not_passed_on() {
    for wrong in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
        "HTTP/2 200 OK\r\n\r\n",
    ] {
        let (got, is_kept) = passed(wrong).await;
        assert!(got.ends_with("the upstream's answer is not valid") && !is_kept, "{wrong:?} became {got:?}");
    }
}

#[tokio::test]
async fn a_body_that_cannot_come_is_not_announced_and_ends_its_connection() {
    for announced in ["Content-Length: 2", "Transfer-Encoding: chunked"] {
        let (got, is_kept) = passed(&format!("HTTP/1.1 204 No Content\r\n{announced}\r\n\r\n")).await;
        assert!(status(&got) == 204 && header(&got, "content-length").is_none() && !is_kept, "{announced}: {got:?}");
    }
}

#[tokio::test]
async fn of_two_ends_the_chunks_count_and_the_length_stays_behind() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move {
        let mut wire = accept(&upstream).await;
        wire.answer().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .await;
        wire.closed().await;
    });
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let got = client.until("0\r\n\r\n").await;
    assert!(got.ends_with("\r\n\r\n2\r\nhi\r\n0\r\n\r\n") && header(&got, "content-length").is_none(), "{got:?}");
    soon(served).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_announced_without_end_is_not_awaited() {
    let announced = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let (got, is_kept) = passed(&(announced.repeat(16) + ok)).await;
    assert!(got.ends_with("\r\n\r\nhi") && is_kept, "{got:?}");
    let (got, is_kept) = passed(&(announced.repeat(17) + ok)).await;
    assert!(got.ends_with("the upstream's answer is not valid") && !is_kept, "{got:?}");
}

#[tokio::test]
async fn a_head_has_limits() {
    let with_fields = |count: usize| {
        let fields: Vec<_> = (1..count).map(|number| format!("X-{number}: 1\r\n")).collect();
        let fields = fields.concat();
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nhi")
    };
    let of_length = |length: usize| {
        let long = "x".repeat(length - "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Long: \r\n\r\n".len());
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Long: {long}\r\n\r\nhi")
    };
    for fits in [with_fields(100), of_length(40 << 10)] {
        let (got, is_kept) = passed(&fits).await;
        assert!(status(&got) == 200 && got.ends_with("\r\n\r\nhi") && is_kept, "{} bytes", fits.len());
    }
    for too_much in [with_fields(101), of_length(50 << 10)] {
        let (got, is_kept) = passed(&too_much).await;
        assert!(got.ends_with("the upstream's answer is not valid") && !is_kept, "{} bytes: {got}", too_much.len());
    }
}

#[tokio::test]
async fn a_connection_on_which_something_came_unasked_is_not_used_again() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let (mut wire, first) = {
        let mut client = gateway.connect().await;
        client.send(GET).await;
        let mut wire = accept(&upstream).await;
        serve_once(&mut wire).await;
        (wire, client.answer().await)
    };
    assert_eq!(status(&first), 200);
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged").await;
    let (answer, _) = tokio::join!(gateway.ask(GET), async {
        // Whoever is asked next is asked over another connection.
        let mut anew = accept(&upstream).await;
        serve_once(&mut anew).await
    });
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
    wire.closed().await;
}

#[tokio::test]
async fn an_upload_in_chunks_arrives_byte_for_byte() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let echo = axum::Router::new().route("/", axum::routing::post(async |body: axum::body::Body| body));
    tokio::spawn(axum::serve(upstream, echo).into_future());
    let mut client = gateway.connect().await;
    let mut sent = String::new();
    let mut framed = String::new();
    for size in [1_usize, 2, 8191, 8192, 8193, 65_536, 300_000, 7] {
        let piece: String =
            (0..size).map(|at| char::from(b'a' + u8::try_from((at * 7 + size) % 26).unwrap())).collect();
        write!(framed, "{size:x}\r\n{piece}\r\n").unwrap();
        sent += &piece;
    }
    let (mut read, mut write) = client.0.split();
    let sending = async {
        write.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        write.write_all(framed.as_bytes()).await.unwrap();
        write.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let mut got = Vec::new();
    let receiving = async {
        while !got.ends_with(b"\r\n0\r\n\r\n") {
            tokio::io::AsyncReadExt::read_buf(&mut read, &mut got).await.unwrap();
        }
    };
    soon(futures_util::future::join(sending, receiving)).await;
    let got = String::from_utf8(got).unwrap();
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(unchunked(body), sent);
}

fn unchunked(mut framed: &str) -> String {
    let mut whole = String::new();
    loop {
        let (size, rest) = framed.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole += &rest[..size];
        framed = &rest[size + 2..];
    }
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn an_event_is_seen_while_the_next_is_awaited() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let mut wire = accept(&upstream).await;
    wire.answer().await;
    wire.send(EVENTS).await;
    client.head().await;
    for _ in 0..3 {
        wire.send("9\r\ndata: 1\n\n\r\n").await;
        assert_eq!(client.until("\n\n\r\n").await, "9\r\ndata: 1\n\n\r\n");
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_upstream_connection_along() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);

    let mut before_the_answer = gateway.connect().await;
    before_the_answer.send(GET).await;
    let mut wire = accept(&upstream).await;
    wire.answer().await;
    drop(before_the_answer);
    wire.closed().await;

    let mut in_mid_stream = gateway.connect().await;
    in_mid_stream.send(GET).await;
    let mut wire = accept(&upstream).await;
    wire.answer().await;
    wire.send(EVENTS).await;
    in_mid_stream.head().await;
    drop(in_mid_stream);
    wire.closed().await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_ends_the_clients_stream_unfinished() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let mut client = gateway.connect().await;
    client.send(GET).await;
    let mut wire = accept(&upstream).await;
    wire.answer().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    client.head().await;
    client.until("half").await;
    drop(wire);
    client.closed().await;
}

#[tokio::test]
async fn a_websocket_passes_both_ways() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let mut client = gateway.connect().await;
    client
        .send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n")
        .await;
    let mut wire = accept(&upstream).await;
    let seen = wire.head().await;
    assert_eq!((header(&seen, "connection"), header(&seen, "upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(header(&seen, "sec-websocket-key"), Some("k"));
    // The first bytes of the new protocol come in the same segment as the answer.
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst.")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!((header(&head, "upgrade"), header(&head, "sec-websocket-accept")), (Some("websocket"), Some("x")));
    assert_eq!(client.until(".").await, "first.");
    for word in ["ping.", "again."] {
        client.send(word).await;
        assert_eq!(wire.until(".").await, word);
        wire.send(word).await;
        assert_eq!(client.until(".").await, word);
    }
    drop(client);
    wire.closed().await;
}

#[tokio::test]
async fn a_silent_websocket_is_closed() {
    let (upstream, address) = listener().await;
    let forward = ForwardLimits { websocket_idle: Duration::from_millis(300), ..ForwardLimits::default() };
    let gateway = Gateway::with(address, Settings { forward, ..Settings::default() });
    let mut client = gateway.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let mut wire = accept(&upstream).await;
    wire.head().await;
    wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    client.head().await;
    client.closed().await;
    wire.closed().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let (upstream, address) = listener().await;
    let forward = ForwardLimits { body_bytes_max: 10, ..ForwardLimits::default() };
    let gateway = Gateway::with(address, Settings { forward, ..Settings::default() });

    let told = gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n").await;
    assert!(status(&told) == 413 && told.ends_with("the body is larger than 10 bytes"), "{told}");

    let mut client = gateway.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsix---\r\n").await;
    let mut wire = accept(&upstream).await;
    wire.until("six---").await;
    client.send("6\r\nsix---\r\n").await;
    assert_eq!(status(&client.answer().await), 413);
    wire.closed().await;
}

#[tokio::test]
async fn what_a_client_expects_it_gets() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    let served = tokio::spawn(async move { serve_once(&mut accept(&upstream).await).await });
    let mut client = gateway.connect().await;
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("body").await;
    assert_eq!(status(&client.answer().await), 200);
    assert!(soon(served).await.unwrap().ends_with("body"));
}

#[tokio::test]
async fn a_head_request_keeps_the_length_and_has_no_body() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    tokio::spawn(async move {
        let mut wire = accept(&upstream).await;
        for _ in 0..2 {
            wire.answer().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n").await;
        }
    });
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(header(&client.head().await, "content-length"), Some("77"));
    }
}

#[tokio::test]
async fn a_decision_may_take_its_time() {
    let (upstream, address) = listener().await;
    let gateway = Gateway::before(address);
    tokio::spawn(async move { serve_once(&mut accept(&upstream).await).await });
    assert_eq!(status(&gateway.ask("GET /later HTTP/1.1\r\nHost: a\r\n\r\n").await), 200);
}

#[tokio::test]
async fn each_failure_is_told_apart() {
    let (upstream, address) = listener().await;
    let forward = ForwardLimits { response_header: Duration::from_millis(300), ..ForwardLimits::default() };
    let pool = PoolLimits { open_max: 1, ..PoolLimits::default() };
    let gateway = Gateway::with(address, Settings { forward, pool, ..Settings::default() });

    let (answer, mut wire) = tokio::join!(gateway.ask(GET), accept(&upstream));
    assert!(answer.ends_with("the upstream did not begin its answer in time"), "{answer}");
    wire.answer().await;
    wire.closed().await;

    let mut holding = gateway.connect().await;
    holding.send(GET).await;
    let mut wire = accept(&upstream).await;
    let answer = gateway.ask(GET).await;
    assert!(answer.ends_with("the upstream is busy: too many requests are under way"), "{answer}");

    wire.answer().await;
    wire.send("SSH-2.0-OpenSSH\r\n\r\n").await;
    let answer = holding.answer().await;
    assert!(answer.ends_with("the upstream's answer is not valid"), "{answer}");
    wire.closed().await;

    let (answer, ()) = tokio::join!(gateway.ask(GET), async {
        let mut wire = accept(&upstream).await;
        wire.answer().await;
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").await;
    });
    assert!(answer.ends_with("the upstream's answer is not valid"), "{answer}");

    let bound_but_deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound_but_deaf.bind(&local().into()).unwrap();
    let nobody = bound_but_deaf.local_addr().unwrap().as_socket().unwrap();
    let answer = Gateway::before(nobody).ask(GET).await;
    assert!(answer.ends_with("the upstream refuses connections"), "{answer}");
}
