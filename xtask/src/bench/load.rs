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

/// What is asked over and over: one request, or several in turn.
pub struct Requests {
    path: String,
    headers: Vec<Vec<(String, String)>>,
}

impl Requests {
    /// The same `GET` each time.
    pub fn one(path: &str, headers: &[(&str, &str)]) -> Self {
        Self::in_turn(
            path,
            vec![headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()],
        )
    }

    /// `GET path` with each of these sets of headers in turn.
    pub fn in_turn(path: &str, headers: Vec<Vec<(String, String)>>) -> Self {
        Self { path: path.to_owned(), headers }
    }

    /// For [`ask`].
    pub fn first(&self) -> (&str, &[(String, String)]) {
        (&self.path, self.headers.first().map_or(&[], Vec::as_slice))
    }

    /// The script that makes `wrk` send them.
    fn script(&self) -> String {
        let made: Vec<String> = self
            .headers
            .iter()
            .map(|set| {
                let pairs: Vec<String> = set.iter().map(|(name, value)| format!("[{name:?}]={value:?}")).collect();
                format!("  made[#made + 1] = wrk.format(\"GET\", {:?}, {{{}}})\n", self.path, pairs.join(","))
            })
            .collect();
        format!(
            "local made, at = {{}}, 0\ninit = function()\n{}end\n\
             request = function() at = at % #made + 1 return made[at] end\n",
            made.concat()
        )
    }
}

/// Asks `address` for a while over 64 connections, from the core around, and gives the number of answers.
///
/// # Errors
/// When any of them was not a success: what fails is quick, and compares with nothing.
pub fn drive(address: SocketAddr, requests: &Requests, seconds: u32, folder: &Path) -> Result<u32> {
    let script = folder.join("requests.lua");
    fs::write(&script, requests.script())?;
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--connections", "64", "--duration", &format!("{seconds}s"), "--script"]);
    wrk.arg(&script).arg(format!("http://{address}"));
    let report = output(&mut on_core(AROUND, &wrk))?;
    ensure!(
        !report.contains("Non-2xx") && !report.contains("Socket errors"),
        "not every request was answered:\n{report}"
    );
    answered(&report).with_context(|| format!("wrk says no number of requests:\n{report}"))
}

fn answered(report: &str) -> Option<u32> {
    report.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
}

/// One request and its whole answer: the status and the body.
pub fn ask(address: SocketAddr, path: &str, headers: &[(String, String)]) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request += "Host: bench.local\r\n";
    }
    for (name, value) in headers {
        let _ = write!(request, "{name}: {value}\r\n");
    }
    Write::write_all(&mut stream, (request + "\r\n").as_bytes())?;
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
        let report = "  Thread Stats   Avg\n  241785 requests in 9.03s, 94.77MB read\nRequests/sec: 1\n";
        assert_eq!(answered(report), Some(241_785));
        assert_eq!(answered("unable to connect"), None);
    }

    #[test]
    fn the_script_formats_each_set_of_headers() {
        let script = Requests::one("/a", &[("Host", "b")]).script();
        assert!(script.contains(r#"made[#made + 1] = wrk.format("GET", "/a", {["Host"]="b"})"#), "{script}");
    }
}
