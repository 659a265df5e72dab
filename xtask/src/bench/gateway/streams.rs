//! Event streams through the gateway that are open and silent: what 9,000 of them take of its memory, tokens, limits and
//! all else on. As many as fit into 20,000 open files, which is what many machines allow: each takes the gateway two. The
//! roles that send them stand in this process.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::full::{Ours, Tokens};
use crate::bench::{
    load::authorization,
    table::{OURSELVES, Row, Series, rows},
};

/// Of one role: a gateway has no more connections to one upstream than 4,096 on each of its threads.
const STREAMS_OF_ROLE: usize = 3_000;
/// Of what waits, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(30);
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\ne\r\ndata: begins\n\n\r\n";
const READY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const LAST: &[u8] = b"d\r\ndata: lasts\n\n\r\n0\r\n\r\n";

/// The roles that send events, and whose they are.
const SENDERS: [(&str, &str); 3] =
    [("manager", "instance/events"), ("session", "sessions"), ("message", "sessions/ses_0/messages")];

/// Opens all streams before a platform of its own, and looks how large it became.
pub(super) fn measured(ours: &Ours<'_>) -> Result<Vec<Row>> {
    let senders = SENDERS.map(|(role, path)| Sender::start(role, path)).into_iter().collect::<Result<Vec<_>>>()?;
    let remote: Vec<_> = senders.iter().map(|sender| (sender.role, sender.address)).collect();
    let gateway = ours.before(&remote)?;
    let before_mb = gateway.process.resident_mb()?;
    let clients = open(gateway.address, &senders, &ours.tokens)
        .context("not all streams could be opened; they need 20,000 open files, see `ulimit -n`")?;
    let after_mb = gateway.process.resident_mb()?;
    // They are whole: what is sent last arrives, everywhere.
    for sender in senders {
        sender.end()?;
    }
    for mut client in clients {
        let mut rest = String::new();
        client.read_to_string(&mut rest)?;
        ensure!(rest.contains("data: lasts"), "a stream lost its end: {rest:?}");
    }
    let row = |name: &str, value| {
        let series = Series { subject: OURSELVES.to_owned(), values: vec![value] };
        rows(name, "resident_mb", "millions of bytes", &[series])
    };
    Ok([row("no event stream", before_mb), row("9,000 idle event streams", after_mb)].concat())
}

fn open(gateway: SocketAddr, senders: &[Sender], tokens: &Tokens) -> Result<Vec<BufReader<TcpStream>>> {
    let asked = tokens.iter().cycle().zip(senders.iter().cycle()).take(SENDERS.len() * STREAMS_OF_ROLE);
    let opened = asked.enumerate().map(|(number, ((tenant, token), sender))| {
        let mut stream = TcpStream::connect(gateway)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (name, value) = authorization(token);
        let path = format!("/api/v1/tenants/{tenant}/{}", sender.path);
        let head = format!("GET {path} HTTP/1.1\r\nHost: bench.local\r\nConnection: close\r\n{name}: {value}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut reader = BufReader::with_capacity(1024, stream);
        let mut seen = String::new();
        while !seen.ends_with("data: begins\n") {
            ensure!(reader.read_line(&mut seen)? > 0, "stream {number} ended before it began: {seen:?}");
        }
        Ok(reader)
    });
    opened.collect()
}

/// Begins a stream for each that asks, and keeps it open.
struct Sender {
    role: &'static str,
    path: &'static str,
    address: SocketAddr,
    work: JoinHandle<Result<Vec<TcpStream>>>,
}

impl Sender {
    fn start(role: &'static str, path: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let work = thread::spawn(move || (0..STREAMS_OF_ROLE).map(|_| begin(&listener)).collect());
        Ok(Self { role, path, address, work })
    }

    /// Ends them all.
    fn end(self) -> Result<()> {
        let Ok(streams) = self.work.join() else { bail!("the sender of events crashed") };
        for mut stream in streams? {
            stream.write_all(LAST)?;
        }
        Ok(())
    }
}

fn begin(listener: &TcpListener) -> Result<TcpStream> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut head = BufReader::new(&stream);
        let (mut asked, mut line) = (String::new(), String::new());
        head.read_line(&mut asked)?;
        while line != "\r\n" {
            line.clear();
            ensure!(head.read_line(&mut line)? > 0, "nothing was asked");
        }
        // The gateway looks every second whether the role is there.
        let is_probe = asked.starts_with("GET /ready ");
        stream.write_all(if is_probe { READY } else { HEAD })?;
        if !is_probe {
            return Ok(stream);
        }
    }
}
