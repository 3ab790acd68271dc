//! `serve`: a node with its API, until it is ended.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use syncline::api::{ApiError, ApiServer, read_address, token_path};
use syncline::{Error, ErrorKind, Node, NodeBuilder};

use super::arguments::{PassphraseSource, ServeArguments};
use super::config::{ConfigFile, ServeSettings, mebibytes_in_bytes};
use super::failure::{Exit, Failure};
use super::output::Output;
use super::signals::ended_by_signal;

/// How long a node may take to end cleanly.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// What is told when the node is ready.
#[derive(Debug, Serialize)]
struct Ready {
    /// The device id.
    device: String,
    /// The libp2p peer id of the same key.
    peer: String,
    /// Multiaddresses it listens on, with the peer id.
    listening: Vec<String>,
    /// The address of the HTTP API.
    api: String,
    /// The file that holds the API's token.
    token_file: String,
}

pub(super) async fn serve(
    data: &Path,
    arguments: &ServeArguments,
    config: &ConfigFile,
    source: &PassphraseSource,
    output: &mut Output,
) -> Result<(), Failure> {
    let settings = ServeSettings::new(arguments, config)?;
    let named = source.passphrase_file.clone().or_else(|| config.passphrase_file.clone());
    let source = PassphraseSource { passphrase_file: named };
    // Before the start, so that a signal during it is not lost.
    let ended = ended_by_signal();
    tokio::pin!(ended);
    let node = tokio::select! {
        node = unlocked_node(data, &settings, &source) => node?,
        _ = &mut ended => return Ok(()),
    };
    let result = run(node.clone(), data, &settings, output, ended).await;
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, node.shutdown()).await.is_err() {
        tracing::warn!("the node did not end in time; the next start recovers what reached the disk");
    }
    result
}

/// Starts the node, with the passphrase of its keys if they are under one.
async fn unlocked_node(data: &Path, settings: &ServeSettings, source: &PassphraseSource) -> Result<Node, Failure> {
    let started = match node_builder(data, settings).start().await {
        Err(Error::KeysLocked) => {
            // On a thread of its own, so that Ctrl-C ends the question as well.
            let source = source.clone();
            let asked = tokio::task::spawn_blocking(move || source.obtain()).await;
            let passphrase = asked.map_err(|error| Failure::new(Exit::Failed, error.to_string()))??;
            node_builder(data, settings).passphrase(passphrase).start().await
        }
        other => other,
    };
    started.map_err(|error| not_started(error, data))
}

fn node_builder(data: &Path, settings: &ServeSettings) -> NodeBuilder {
    let mut builder = Node::builder().data(data).create(true);
    for address in &settings.listen {
        builder = builder.listen(address);
    }
    for address in &settings.bootstrap {
        builder = builder.bootstrap(address);
    }
    builder = builder.peer_rates(settings.peer_rates).relay_quota(settings.relay_quota);
    for space in &settings.relay_spaces {
        builder = builder.relay_space(*space);
    }
    builder = builder.mdns(settings.mdns).tcp(settings.tcp).quic(settings.quic);
    if let Some(mebibytes) = settings.document_cache_mib {
        builder = builder.document_cache_bytes((mebibytes as usize).saturating_mul(1 << 20));
    }
    if let Some(bytes) = settings.scrub_bytes_per_second {
        builder = builder.scrub_bytes_per_second(bytes);
    }
    if let Some(mebibytes) = settings.index_cache_mib {
        builder = builder.index_cache_bytes(u64::from(mebibytes) << 20);
    }
    if let Some(mebibytes) = settings.reserve_mib {
        builder = builder.reserve_bytes(Some(u64::from(mebibytes) << 20));
    }
    builder.disk_use_max_bytes(settings.disk_use_max_mib.map(mebibytes_in_bytes))
}

fn not_started(error: Error, data: &Path) -> Failure {
    let running = read_address(data).filter(|running| error.kind() == ErrorKind::Locked && running.pid != 0);
    let failure = Failure::from(error);
    match running {
        Some(running) => failure.hint(format!(
            "process {} serves this directory at http://{}: commands with the same --data use it",
            running.pid, running.address
        )),
        None => failure,
    }
}

async fn run(
    node: Node,
    data: &Path,
    settings: &ServeSettings,
    output: &mut Output,
    ended: impl Future<Output = std::io::Result<()>>,
) -> Result<(), Failure> {
    let api = ApiServer::start(node.clone(), data, settings.api).await.map_err(|error| {
        let exit = if matches!(error, ApiError::Bind(_)) { Exit::Unavailable } else { Exit::Failed };
        Failure::new(exit, error.to_string())
    })?;
    let announced = announce(&node, &api, data, output);
    let result = match announced {
        Err(failure) => Err(failure),
        Ok(()) => tokio::select! {
            ended = ended => ended.map_err(|error| no_signals(&error)),
            reason = node.failed() => {
                let failure = Failure::new(Exit::Failed, format!("the node has failed: {reason}"));
                Err(failure.hint("start it again: what was acknowledged is on the disk, and is recovered"))
            }
        },
    };
    tracing::info!("stopping");
    api.stop().await;
    result
}

fn no_signals(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot wait for signals: {error}"))
}

fn announce(node: &Node, api: &ApiServer, data: &Path, output: &mut Output) -> Result<(), Failure> {
    let ready = Ready {
        device: node.device().to_string(),
        peer: node.peer_id(),
        listening: node.listen_addresses(),
        api: format!("http://{}", api.address()),
        token_file: token_path(data).display().to_string(),
    };
    if output.json {
        output.json(&ready)?;
    } else {
        let mut facts = vec![("device", ready.device), ("peer", ready.peer)];
        facts.extend(ready.listening.into_iter().map(|address| ("listening", address)));
        facts.extend([("api", ready.api), ("token", ready.token_file)]);
        output.facts(&facts)?;
    }
    output.flush()
}
