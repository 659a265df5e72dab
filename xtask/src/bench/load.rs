//! Asking: `wrk` for many requests, a bare socket for one.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::proc::{AROUND, on_core};
use crate::errand::output;

/// Over which it is asked, where nothing else is said.
const CONNECTIONS: u32 = 64;

/// What is asked over and over: one request, or several in turn.
pub struct Requests {
    all: Vec<Request>,
    connections: u32,
}

struct Request {
    path: String,
    headers: Vec<(String, String)>,
    /// Sent by `POST` where there is one.
    body: Option<String>,
}

impl Requests {
    /// The same `GET` each time.
    pub fn one(path: &str, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::in_turn(vec![(path.to_owned(), headers)])
    }

    /// `GET` of each of these paths in turn, with its headers.
    pub fn in_turn(all: Vec<(String, Vec<(String, String)>)>) -> Self {
        let request = |(path, headers)| Request { path, headers, body: None };
        Self { all: all.into_iter().map(request).collect(), connections: CONNECTIONS }
    }

    /// `POST` of the same JSON to each of these paths in turn.
    pub fn posts(paths: Vec<String>, headers: &[(&str, &str)], body: &serde_json::Value) -> Self {
        let mut headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
        let request = |path| Request { path, headers: headers.clone(), body: Some(body.to_string()) };
        Self { all: paths.into_iter().map(request).collect(), connections: CONNECTIONS }
    }

    /// Over so many connections.
    pub fn over(self, connections: u32) -> Self {
        Self { connections, ..self }
    }

    /// For [`ask`].
    pub fn first(&self) -> (&str, &[(String, String)]) {
        self.all.first().map_or(("/", &[]), |request| (&request.path, &request.headers))
    }

    /// The script that makes `wrk` send them.
    fn script(&self) -> String {
        let made: Vec<String> = self
            .all
            .iter()
            .map(|Request { path, headers, body }| {
                let pairs: Vec<String> = headers.iter().map(|(name, value)| format!("[{name:?}]={value:?}")).collect();
                let (method, body) = match body {
                    Some(body) => ("POST", format!(", {body:?}")),
                    None => ("GET", String::new()),
                };
                format!("  made[#made + 1] = wrk.format({method:?}, {path:?}, {{{}}}{body})\n", pairs.join(","))
            })
            .collect();
        format!(
            "local made, at = {{}}, 0\ninit = function()\n{}end\n\
             request = function() at = at % #made + 1 return made[at] end\n",
            made.concat()
        )
    }
}

/// Asks `address` for a while, from the core around, and gives the number of answers.
///
/// # Errors
/// When any of them was not a success: what fails is quick, and compares with nothing.
pub fn drive(address: SocketAddr, requests: &Requests, seconds: u32, folder: &Path) -> Result<u32> {
    let report = report(&mut on_core(AROUND, &wrk(address, requests, seconds, folder)?))?;
    Ok(answered(&report)?.0)
}

/// The same from any core: how many answers, and how many a second.
pub fn drive_from_anywhere(
    address: SocketAddr,
    requests: &Requests,
    seconds: u32,
    folder: &Path,
) -> Result<(u32, f64)> {
    answered(&report(&mut wrk(address, requests, seconds, folder)?)?)
}

/// The median and the 99th percentile of the time that an answer takes, in milliseconds, from any core.
pub fn latency(address: SocketAddr, requests: &Requests, seconds: u32, folder: &Path) -> Result<[f64; 2]> {
    let report = report(wrk(address, requests, seconds, folder)?.arg("--latency"))?;
    percentiles(&report).with_context(|| format!("wrk says no latencies:\n{report}"))
}

fn wrk(address: SocketAddr, requests: &Requests, seconds: u32, folder: &Path) -> Result<Command> {
    let script = folder.join("requests.lua");
    fs::write(&script, requests.script())?;
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--timeout", "20s", "--duration", &format!("{seconds}s")]);
    wrk.args(["--connections", &requests.connections.to_string(), "--script"]);
    wrk.arg(&script).arg(format!("http://{address}"));
    Ok(wrk)
}

fn report(wrk: &mut Command) -> Result<String> {
    let report = output(wrk)?;
    ensure!(
        !report.contains("Non-2xx") && !report.contains("Socket errors"),
        "not every request was answered:\n{report}"
    );
    Ok(report)
}

/// The number of answers, and of answers a second.
fn answered(report: &str) -> Result<(u32, f64)> {
    let read = || {
        let count = report.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())?;
        let rate = report.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())?;
        Some((count, rate))
    };
    read().with_context(|| format!("wrk says no number of requests:\n{report}"))
}

fn percentiles(report: &str) -> Option<[f64; 2]> {
    let of = |share| report.lines().find_map(|line| milliseconds(line.trim().strip_prefix(share)?.trim()));
    Some([of("50%")?, of("99%")?])
}

/// `1.5ms` is 1.5, and `1.5s` 1,500.
fn milliseconds(time: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((time.strip_suffix(name)?, unit)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

/// The header that says who asks.
pub fn authorization(token: &str) -> (String, String) {
    ("Authorization".to_owned(), format!("Bearer {token}"))
}

/// One `GET` and its whole answer: the status and the body.
pub fn ask(address: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<(u16, String)> {
    exchange(address, "GET", path, headers, None)
}

/// One request with a body of JSON, and its whole answer: the status and the body.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &serde_json::Value,
) -> Result<(u16, String)> {
    exchange(address, method, path, headers, Some(&body.to_string()))
}

fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: Option<&str>,
) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request += "Host: bench.local\r\n";
    }
    for (name, value) in headers {
        let _ = write!(request, "{name}: {value}\r\n");
    }
    if let Some(body) = body {
        let _ = write!(request, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    Write::write_all(&mut stream, (request + "\r\n" + body.unwrap_or_default()).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no answer to {path}: {answer:?}") };
    let status = head.get(9..12).and_then(|status| status.parse().ok()).context("the answer is not HTTP")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_wrk_prints() {
        let report = "  Thread Stats   Avg\n  241785 requests in 9.03s, 94.77MB read\nRequests/sec:  26787.5\n";
        assert_eq!(answered(report).unwrap(), (241_785, 26_787.5));
        assert!(answered("unable to connect").is_err());
    }

    #[test]
    fn latencies_are_found_in_every_unit() {
        let report = "  Latency Distribution\n     50%  980.00us\n     75%    1.02ms\n     99%    1.50s\n";
        assert_eq!(percentiles(report), Some([0.98, 1_500.0]));
        assert_eq!(percentiles("  Latency   1.02ms"), None);
    }

    #[test]
    fn the_script_formats_each_set_of_headers() {
        let script = Requests::one("/a", &[("Host", "b")]).script();
        assert!(script.contains(r#"made[#made + 1] = wrk.format("GET", "/a", {["Host"]="b"})"#), "{script}");
    }

    #[test]
    fn the_script_posts_a_body() {
        let body = serde_json::json!({"text": "say \"hi\""});
        let script = Requests::posts(vec!["/a".to_owned()], &[], &body).script();
        let wanted =
            r#"wrk.format("POST", "/a", {["Content-Type"]="application/json"}, "{\"text\":\"say \\\"hi\\\"\"}")"#;
        assert!(script.contains(wanted), "{script}");
    }
}
