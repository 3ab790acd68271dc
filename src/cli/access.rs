//! The way to a data directory: through the node that runs on it, or by opening it.
//!
//! Both ways speak the HTTP API, the second within this process, so every command is written once and answers alike.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use syncline::api::{self, ApiToken, PROBLEM_MEDIA_TYPE, Problem};
use syncline::{Error, ErrorKind, IndexKind, Node};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

use super::arguments::PassphraseSource;
use super::config::{ConfigFile, mebibytes_in_bytes};
use super::failure::{Exit, Failure};

/// Longest answer that is read whole, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// The media types of bodies.
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";
/// How long a connection to the running node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a data directory that another process holds without serving it: another command, or a node
/// that starts or ends.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at such a directory.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Told whoever wants a directory that a node uses.
const ALONE_HINT: &str = "this command needs the directory for itself: stop the node, then repeat it";
/// What stands for itself in a path segment (RFC 3986, unreserved).
const SEGMENT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// A document key keeps its slashes.
const KEY: AsciiSet = SEGMENT.remove(b'/');

/// A way to a data directory.
pub(crate) enum Access {
    /// Opened by this process.
    Opened {
        node: Node,
        router: Router,
        /// Ends event streams when it goes.
        _running: watch::Sender<bool>,
    },
    /// Through the node that holds it.
    Running(RunningNode),
}

/// The HTTP API of a running node.
pub(crate) struct RunningNode {
    client: Client<HttpConnector, Body>,
    address: SocketAddr,
    token: ApiToken,
}

impl Access {
    /// Finds the way to a data directory; with `create`, makes it a new device, with that index, if it
    /// holds none.
    pub(crate) async fn to(
        data: &Path,
        create: bool,
        index: IndexKind,
        source: &PassphraseSource,
    ) -> Result<Self, Failure> {
        if !create && !data.exists() {
            return Err(Error::NotInitialised { directory: data.to_owned() }.into());
        }
        let deadline = Instant::now() + LOCK_TIMEOUT;
        let mut passphrase = None;
        // What bounds a node bounds those who open its directory themselves.
        let use_max = ConfigFile::read(None, data)?.disk_use_max_mib.map(mebibytes_in_bytes);
        loop {
            let mut builder = Node::builder()
                .data(data)
                .create(create)
                .index(index)
                .scrub_bytes_per_second(0)
                .reserve_bytes(None)
                .disk_use_max_bytes(use_max)
                .offline();
            if let Some(passphrase) = &passphrase {
                builder = builder.passphrase(Clone::clone(passphrase));
            }
            let error = match builder.start().await {
                Ok(node) => return Ok(Self::opened(node)),
                // Only now: through a running node nothing is asked for.
                Err(Error::KeysLocked) => {
                    passphrase = Some(tokio::task::block_in_place(|| source.obtain())?);
                    continue;
                }
                Err(error) => error,
            };
            if error.kind() != ErrorKind::Locked {
                return Err(error.into());
            }
            if let Some(running) = RunningNode::find(data).await {
                return Ok(Self::Running(running));
            }
            if Instant::now() >= deadline {
                let failure = Failure::new(Exit::Unavailable, error.to_string());
                return Err(
                    failure.hint("the process that holds the directory does not serve its API: wait, or end it")
                );
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    fn opened(node: Node) -> Self {
        let (running, stopping) = watch::channel(false);
        Self::Opened { router: api::in_process(node.clone(), stopping), node, _running: running }
    }

    /// Whether a node is running, which may reach peers.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Closes the directory if this process opened it.
    pub(crate) async fn close(self) {
        if let Self::Opened { node, .. } = self {
            node.shutdown().await;
        }
    }

    /// Reads a resource.
    pub(crate) async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, Failure> {
        read(self.send(Method::GET, target, None, None).await?).await
    }

    /// Sends a value to a resource and reads the answer.
    pub(crate) async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::new(Exit::Invalid, error.to_string()))?;
        read(self.send(method, target, Some((JSON, body)), None).await?).await
    }

    /// Makes a request without a body and reads the answer.
    pub(crate) async fn call<T: DeserializeOwned>(&self, method: Method, target: &Target) -> Result<T, Failure> {
        read(self.send(method, target, None, None).await?).await
    }

    /// Sends bytes as they are and reads the answer.
    pub(crate) async fn send_bytes<T: DeserializeOwned>(&self, target: &Target, body: Vec<u8>) -> Result<T, Failure> {
        read(self.send(Method::POST, target, Some((BYTES, body)), None).await?).await
    }

    /// Makes a request whose answer has no body.
    pub(crate) async fn order(&self, method: Method, target: &Target) -> Result<(), Failure> {
        checked(self.send(method, target, None, None).await?).await.map(drop)
    }

    /// Opens an event stream.
    pub(crate) async fn stream(&self, target: &Target) -> Result<Body, Failure> {
        let answer = checked(self.send(Method::GET, target, None, Some("text/event-stream")).await?).await?;
        Ok(answer.into_body())
    }

    /// Makes a request, with JSON or nothing, and gives the answer's body as it comes.
    pub(crate) async fn open(&self, method: Method, target: &Target, json: Option<Vec<u8>>) -> Result<Body, Failure> {
        let body = json.map(|json| (JSON, json));
        let answer = checked(self.send(method, target, body, None).await?).await?;
        Ok(answer.into_body())
    }

    /// Sends bytes as they are and gives the answer's body.
    pub(crate) async fn exchange_bytes(&self, target: &Target, body: Vec<u8>) -> Result<Body, Failure> {
        let answer = checked(self.send(Method::POST, target, Some((BYTES, body)), None).await?).await?;
        Ok(answer.into_body())
    }

    async fn send(
        &self,
        method: Method,
        target: &Target,
        body: Option<(&'static str, Vec<u8>)>,
        accept: Option<&'static str>,
    ) -> Result<Response<Body>, Failure> {
        let request = |uri: String| {
            let mut request = Request::builder().method(method).uri(uri);
            if let Some((media_type, _)) = &body {
                request = request.header(header::CONTENT_TYPE, *media_type);
            }
            if let Some(accept) = accept {
                request = request.header(header::ACCEPT, accept);
            }
            request.body(body.map(|(_, bytes)| Body::from(bytes)).unwrap_or_default())
        };
        // Targets are percent-encoded, so this fails for nothing but their length.
        let unsendable = |error| Failure::new(Exit::Invalid, format!("the request cannot be made: {error}"));
        match self {
            Self::Opened { router, .. } => {
                let request = request(target.0.clone()).map_err(unsendable)?;
                let answer = router.clone().oneshot(request).await;
                answer.map_err(|never| match never {})
            }
            Self::Running(running) => {
                let uri = format!("http://{}{}", running.address, target.0);
                running.send(request(uri).map_err(unsendable)?).await
            }
        }
    }
}

impl RunningNode {
    /// The node that serves the directory, if it can be reached.
    async fn find(data: &Path) -> Option<Self> {
        let found = api::read_address(data).filter(|found| found.pid != 0)?;
        let token = ApiToken::load(data).ok()?;
        let address = reachable(found.address);
        tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(address)).await.ok()?.ok()?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Some(Self { client, address, token })
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, Failure> {
        let mut bearer = header::HeaderValue::from_str(&format!("Bearer {}", self.token.reveal()))
            .map_err(|_| Failure::new(Exit::Forbidden, "the API token in the data directory is damaged"))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        match self.client.request(request).await {
            Ok(answer) => Ok(answer.map(Body::new)),
            Err(error) => {
                let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                let message = format!("the node at {} broke off: {reason}", self.address);
                Err(Failure::new(Exit::Unavailable, message).hint("see whether it still runs, then repeat the command"))
            }
        }
    }
}

/// Fails when a node serves the directory, for commands that need it for themselves and ask for something first.
pub(crate) async fn not_served(data: &Path) -> Result<(), Failure> {
    if RunningNode::find(data).await.is_none() {
        return Ok(());
    }
    let failure = Failure::new(Exit::Unavailable, format!("a node serves `{}`", data.display()));
    Err(failure.hint(ALONE_HINT))
}

/// Does something with a data directory that no other process may use meanwhile.
///
/// Waits for another command to end; a node that serves the directory has to be stopped by whoever runs it.
pub(crate) async fn alone<T>(data: &Path, mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Failure> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        let error = match tokio::task::block_in_place(&mut work) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Locked {
            return Err(error.into());
        }
        let running = RunningNode::find(data).await.is_some();
        if running || Instant::now() >= deadline {
            let failure = Failure::new(Exit::Unavailable, error.to_string());
            return Err(failure.hint(ALONE_HINT));
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// An address to connect to: a node that serves on all interfaces is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn read<T: DeserializeOwned>(answer: Response<Body>) -> Result<T, Failure> {
    let bytes = whole(checked(answer).await?).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let failure = Failure::new(Exit::Failed, format!("the node's answer is not understood: {error}"));
        failure.hint("the node may be of another release: restart it with this one")
    })
}

/// The answer if it is a success, otherwise what went wrong.
async fn checked(answer: Response<Body>) -> Result<Response<Body>, Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let is_problem = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_MEDIA_TYPE);
    let bytes = whole(answer).await?;
    match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) if is_problem => Err(problem.into()),
        _ => Err(Failure::new(Exit::Failed, format!("the node answered with status {status}"))),
    }
}

async fn whole(answer: Response<Body>) -> Result<axum::body::Bytes, Failure> {
    to_bytes(answer.into_body(), ANSWER_BYTES_MAX)
        .await
        .map_err(|error| Failure::new(Exit::Unavailable, format!("the node's answer broke off: {error}")))
}

/// A resource of the API, percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target(String);

impl Target {
    /// A resource by segments, each of which may hold any text.
    pub(crate) fn new<'a>(segments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut path = String::from("/v1");
        for segment in segments {
            path.push('/');
            path.extend(utf8_percent_encode(segment, &SEGMENT));
        }
        Self(path)
    }

    /// The same resource, for one document.
    pub(crate) fn key(mut self, key: &str) -> Self {
        self.0.push('/');
        self.0.extend(utf8_percent_encode(key, &KEY));
        self
    }

    /// With a parameter.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, &SEGMENT));
        self
    }

    /// With a parameter, if there is a value.
    pub(crate) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_hold_any_text() {
        let target = Target::new(["spaces", "my notes?", "documents"]).key("a/b c/é%2F#");
        assert_eq!(target.0, "/v1/spaces/my%20notes%3F/documents/a/b%20c/%C3%A9%252F%23");
        let target = Target::new(["status"]).with("a", "x&y=").with_some("b", None).with("c", "");
        assert_eq!(target.0, "/v1/status?a=x%26y%3D&c=");
    }

    #[test]
    fn a_node_on_all_interfaces_is_reached_on_this_machine() {
        assert_eq!(reachable("0.0.0.0:5".parse().unwrap()), "127.0.0.1:5".parse().unwrap());
        assert_eq!(reachable("[::]:5".parse().unwrap()), "[::1]:5".parse().unwrap());
        assert_eq!(reachable("192.0.2.1:5".parse().unwrap()), "192.0.2.1:5".parse().unwrap());
    }
}
