//! A real toxiproxy as a child process: stands between a process and what it speaks to, and delays, cuts or resets.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::{kept::Kept, parts::find, ports::free_port};

/// How long one of its answers may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// All that stands in between.
pub struct Toxiproxy {
    server: Kept,
    api: String,
    client: Client,
}

impl Toxiproxy {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        let port = free_port();
        let server = Kept::new("toxiproxy", find("toxiproxy-server")).args([
            "-host".to_owned(),
            "127.0.0.1".to_owned(),
            "-port".to_owned(),
            port.to_string(),
        ]);
        server.start();
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let started = Self { server, api: format!("http://127.0.0.1:{port}"), client };
        let version = format!("{}/version", started.api);
        let answers =
            async || started.client.get(&version).send().await.is_ok_and(|answer| answer.status().is_success());
        started.server.wait_until("toxiproxy", answers).await;
        started
    }

    /// Stands in front of a port under a name. Returns the port to use instead.
    pub async fn stand_before(&self, name: &str, port: u16) -> u16 {
        let listen = free_port();
        let proxy = json!({
            "name": name, "listen": format!("127.0.0.1:{listen}"), "upstream": format!("127.0.0.1:{port}"),
        });
        self.ask(Method::POST, "/proxies", proxy).await;
        listen
    }

    /// Lets every answer wait.
    pub async fn delay(&self, name: &str, how_long: Duration) {
        let latency = u64::try_from(how_long.as_millis()).unwrap();
        self.poison(name, json!({"type": "latency", "attributes": {"latency": latency}})).await;
    }

    /// Resets every connection as soon as anything is said on it.
    pub async fn reset(&self, name: &str) {
        self.poison(name, json!({"type": "reset_peer", "attributes": {"timeout": 0}})).await;
    }

    /// Lets nothing through any more in either direction, and says nothing of it: as when a cable is cut.
    pub async fn silence(&self, name: &str) {
        for stream in ["upstream", "downstream"] {
            let toxic = json!({"type": "timeout", "stream": stream, "attributes": {"timeout": 0}});
            self.poison(name, toxic).await;
        }
    }

    /// Closes every connection, and refuses new ones.
    pub async fn cut(&self, name: &str) {
        self.ask(Method::POST, &format!("/proxies/{name}"), json!({"enabled": false})).await;
    }

    /// Stands in nobody's way any more.
    pub async fn heal(&self) {
        self.ask(Method::POST, "/reset", Value::Null).await;
    }

    async fn poison(&self, name: &str, toxic: Value) {
        self.ask(Method::POST, &format!("/proxies/{name}/toxics"), toxic).await;
    }

    async fn ask(&self, method: Method, path: &str, body: Value) {
        let answer = self.client.request(method, format!("{}{path}", self.api)).json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT), "{path}: {text}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::ports::listen;

    #[tokio::test]
    async fn what_is_cut_is_refused_and_what_is_healed_goes_through() {
        let listener = listen();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        let between = Toxiproxy::start().await;
        let port = between.stand_before("echo", port).await;
        let echo = async || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(b"x").await?;
            stream.read_u8().await
        };
        assert_eq!(echo().await.unwrap(), b'x');
        between.cut("echo").await;
        assert!(echo().await.is_err());
        between.heal().await;
        assert_eq!(echo().await.unwrap(), b'x');
        between.reset("echo").await;
        assert!(echo().await.is_err());
    }

    #[tokio::test]
    async fn what_is_silent_says_nothing_and_hears_nothing() {
        let listener = listen();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&heard);
        tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        count.fetch_add(1, Ordering::SeqCst);
                        stream.write_u8(byte).await.ok();
                    }
                });
            }
        });
        let between = Toxiproxy::start().await;
        let port = between.stand_before("echo", port).await;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        between.silence("echo").await;
        stream.write_all(b"y").await.unwrap();
        // The way takes what is said, and nothing comes of it.
        assert!(tokio::time::timeout(Duration::from_millis(500), stream.read_u8()).await.is_err());
        assert_eq!(heard.load(Ordering::SeqCst), 1, "the other side has heard nothing either");
    }
}
