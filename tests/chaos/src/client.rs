//! A client of one node's HTTP API, on a connection that is opened anew whenever it broke.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long a connection may take to be accepted; a stopped process still accepts in its backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: longer than any process is stopped for and any restart takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where a node's API is and what opens it.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// Known once the node has started for the first time.
    pub(crate) token: Arc<OnceLock<String>>,
}

/// An answer with its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The request was not sent.
    #[error("the node cannot be reached")]
    NotSent,
    /// The request was sent, and the connection broke.
    #[error("the connection broke")]
    Broken,
    /// The request was sent, and nothing came for a long time.
    #[error("no answer came")]
    Timeout,
}

impl Answer {
    /// Whether the request was fulfilled.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; null if it is none.
    pub(crate) fn json(&self) -> Value {
        self.parse().unwrap_or_default()
    }

    /// The body as a value.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// Status and body, as far as they fit a line.
    pub(crate) fn shown(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body).chars().take(300).collect();
        format!("{} {text}", self.status)
    }
}

/// A client with one connection.
#[derive(Debug)]
pub(crate) struct Client {
    door: Door,
    connection: Option<SendRequest<String>>,
}

impl Client {
    pub(crate) fn new(door: &Door) -> Self {
        Self { door: door.clone(), connection: None }
    }

    /// Reads a resource.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, NoAnswer> {
        self.request(Method::GET, path, String::new()).await
    }

    /// Makes a request.
    pub(crate) async fn request(&mut self, method: Method, path: &str, body: String) -> Result<Answer, NoAnswer> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let token = self.door.token.get().map_or("", String::as_str);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.door.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|_| NoAnswer::NotSent)?;
        let exchange = async {
            let response = connection.send_request(request).await.map_err(|_| NoAnswer::Broken)?;
            let (head, body) = response.into_parts();
            Ok(Answer { status: head.status.as_u16(), body: read(body).await? })
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(NoAnswer::Timeout))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<String>, NoAnswer> {
        let opened = async {
            let stream = TcpStream::connect(self.door.address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            // It ends with the sender, or with the node.
            tokio::spawn(connection);
            Some(sender)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, opened).await.ok().flatten().ok_or(NoAnswer::NotSent)
    }
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, NoAnswer> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame.map_err(|_| NoAnswer::Broken)?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(NoAnswer::Broken);
        }
    }
    Ok(bytes)
}
