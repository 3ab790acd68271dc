//! The server: accepts connections, bounds them, and ends them when it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::guard::Gate;
use super::limits::{ACCEPT_PAUSE, CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT, STOP_TIMEOUT};
use super::listen::{ApiAddress, BindError, bind, read_address, write_address};
use super::router::{guarded, router};
use super::state::ApiState;
use super::token::{ApiToken, TOKEN_FILE};
use crate::Node;

/// Why the API did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No address to serve on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A file of the API in the data directory cannot be read or written.
    #[error("cannot use {} in the data directory: {source}", .file)]
    File {
        /// Its name.
        file: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The HTTP API of a node, as long as it is not stopped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    directory: PathBuf,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl ApiServer {
    /// Serves the API of a node and notes its address in the data directory.
    ///
    /// Without an address it takes port 34570 of the loopback interface, or any free one and remembers it.
    ///
    /// # Errors
    /// [`ApiError::Bind`] if an explicit address cannot be had, [`ApiError::File`] if the data directory's files fail.
    pub async fn start(node: Node, directory: &Path, address: Option<SocketAddr>) -> Result<Self, ApiError> {
        let token =
            ApiToken::load_or_create(directory).map_err(|source| ApiError::File { file: TOKEN_FILE, source })?;
        let last = read_address(directory).map(|last| last.address);
        let listener = bind(address, last).await?;
        let failed = |source| ApiError::File { file: super::listen::ADDRESS_FILE, source };
        let address = listener.local_addr().map_err(failed)?;
        write_address(directory, ApiAddress { address, pid: std::process::id() }).map_err(failed)?;
        let (stop, stopping) = watch::channel(false);
        let gate = Gate { token, loopback: address.ip().is_loopback(), node: node.clone() };
        let router = guarded(ApiState::new(node, stopping.clone()), gate);
        let accepting = tokio::spawn(accept(listener, router, stopping));
        Ok(Self { address, directory: directory.to_owned(), stop, accepting })
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, lets the open ones end for a moment, then closes their connections.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // The task only fails by a panic, which its runtime has reported.
        let _ended = self.accepting.await;
        // The address stays, for the next start to take it again; nobody serves it now.
        if let Err(error) = write_address(&self.directory, ApiAddress { address: self.address, pid: 0 }) {
            tracing::warn!(%error, "cannot note that the API has ended");
        }
    }
}

/// The API of a node as a service within this process: no socket, no token.
///
/// The command line uses it when no node runs; an application can mount it behind its own checks. Event streams end
/// when `stopping` turns true or loses its sender.
pub fn in_process(node: Node, stopping: watch::Receiver<bool>) -> Router {
    router(ApiState::new(node, stopping))
}

async fn accept(listener: TcpListener, router: Router, mut stopping: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = next_connection(&listener, &permits) => accepted,
            _ = stopping.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, permit)) => {
                connections.spawn(serve(stream, router.clone(), graceful.watcher(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "closing API connections whose requests did not end");
    }
    connections.shutdown().await;
}

async fn next_connection(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    // First the permit: what is not accepted waits in the system's queue instead of in our memory.
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn serve(
    stream: TcpStream,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
    _permit: OwnedSemaphorePermit,
) {
    // Answers are small and written at once: waiting for more to send would only delay them.
    let _set = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "an API connection ended early");
    }
}
