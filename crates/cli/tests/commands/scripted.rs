//! A platform that answers each connection as a test's script says, in order: for what a real one does only at bad moments.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What is done with one connection, after the request was read.
#[derive(Clone)]
pub enum Answer {
    /// This is said, and the connection is closed.
    Whole(String),
    /// This is said, and nothing more; the connection stays.
    AndSilence(String),
}

/// The platform.
pub struct Scripted {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    /// Which answers like this, and the last way from then on.
    pub async fn answering(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut kept = Vec::new();
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let begin = head(&mut stream).await;
                heard.lock().unwrap().push(begin.lines().next().unwrap_or_default().to_owned());
                match answers[number.min(answers.len() - 1)].clone() {
                    Answer::Whole(text) => {
                        stream.write_all(text.as_bytes()).await.ok();
                        stream.shutdown().await.ok();
                    }
                    Answer::AndSilence(text) => {
                        stream.write_all(text.as_bytes()).await.ok();
                        kept.push(stream);
                    }
                }
            }
        });
        Self { address, asked }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first line of each request.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A success, whose body ends with the connection.
pub fn ok(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}")
}

/// A success that says how long it is, whatever follows of it.
pub fn of_length(kind: &str, length: usize, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// A problem.
pub fn problem(status: u16, code: &str) -> String {
    let body = format!(r#"{{"status": {status}, "code": "{code}", "detail": "it is {code}"}}"#);
    let length = body.len();
    format!(
        "HTTP/1.1 {status} No\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
