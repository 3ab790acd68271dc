//! Checking what is stored, and backups of it.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde::de::IgnoredAny;
use syncline_storage::Signatures;
use tokio::sync::{mpsc, watch};
use utoipa::{IntoParams, ToSchema};

use super::super::body::{BackupRequest, VerifyEvent, VerifyReport};
use super::super::extract::{JsonBody, Parameters, Segments};
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::node::backup::Passphrase;
use crate::node::verification::{VerifyOptions, VerifyProgress};
use crate::{Node, Space};

const LINES_MEDIA_TYPE: &str = "application/x-ndjson";
/// Pause between two lines that tell of progress.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);
const BACKUP_MEDIA_TYPE: &str = "application/octet-stream";
/// Bytes of a backup that go out together.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for a slow reader; the backup waits then.
const PIECES_MAX: usize = 4;

/// Which signatures are checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum SignaturesName {
    /// Every run's.
    #[default]
    All,
    /// Those of one in sixteen runs.
    Sample,
}

/// How thorough a check is.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct VerifyParameters {
    /// Which signatures are checked.
    #[serde(default)]
    #[param(inline)]
    signatures: SignaturesName,
    /// Whether to answer with lines of JSON that tell of the progress; the last one holds the report.
    #[serde(default)]
    progress: bool,
    #[param(ignore)]
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

impl VerifyParameters {
    fn options(&self) -> VerifyOptions {
        let signatures = match self.signatures {
            SignaturesName::All => Signatures::All,
            SignaturesName::Sample => Signatures::Sample,
        };
        VerifyOptions { signatures, ..VerifyOptions::default() }
    }
}

/// Checks everything that is stored of a space: records, chains, signatures, the index, documents against operations.
///
/// It reads the whole log, and makes anew every document of which a form is kept; nothing is changed. Checks run one
/// after another.
#[utoipa::path(post, path = "/v1/spaces/{space}/verify", tag = "spaces",
    params(("space" = String, Path, description = "Local name or id of the space."), VerifyParameters),
    responses(
        (status = 200, content((VerifyReport = "application/json"), (VerifyEvent = "application/x-ndjson"))),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn verify(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    Parameters(parameters): Parameters<VerifyParameters>,
) -> Result<Response, Problem> {
    let space = state.node.space(&space)?;
    let options = parameters.options();
    if parameters.progress {
        let body = Body::from_stream(events(state.node.clone(), space, options).map(Ok::<_, Infallible>));
        return Ok(([(header::CONTENT_TYPE, LINES_MEDIA_TYPE)], body).into_response());
    }
    let report = state.node.verify_with(&space, options, |_| {}).await?;
    Ok(Json(VerifyReport::new(&space, report)).into_response())
}

/// The lines of a check: its progress now and then, and what came of it.
fn events(node: Node, space: Space, options: VerifyOptions) -> impl futures::Stream<Item = Bytes> {
    let (sender, told) = watch::channel(None::<VerifyProgress>);
    let outcome = async move {
        let tell = move |progress| {
            sender.send_replace(Some(progress));
        };
        match node.verify_with(&space, options, tell).await {
            Ok(report) => VerifyEvent::Report(Box::new(VerifyReport::new(&space, report))),
            Err(error) => VerifyEvent::Problem(error.into()),
        }
    };
    stream::unfold(Some(Box::pin(outcome)), move |outcome| {
        let told = told.clone();
        async move {
            let mut outcome = outcome?;
            tokio::select! {
                event = &mut outcome => Some((line(&event), None)),
                () = tokio::time::sleep(PROGRESS_PAUSE) => {
                    let progress = *told.borrow();
                    let bytes = progress.map(|progress| line(&VerifyEvent::Progress(progress)));
                    // An empty piece could be taken for the end.
                    Some((bytes.unwrap_or(Bytes::from_static(b"\n")), Some(outcome)))
                }
            }
        }
    })
}

fn line(event: &VerifyEvent) -> Bytes {
    // Strings and numbers always serialise.
    let mut bytes = serde_json::to_vec(event).unwrap_or_default();
    bytes.push(b'\n');
    Bytes::from(bytes)
}

/// Gives a backup of all spaces as one stream, without keys: sealed operations that nobody can read by themselves.
///
/// A stream that breaks off is no backup; the last bytes hold a hash of everything before.
#[utoipa::path(get, path = "/v1/backup", tag = "node", responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn backup(State(state): State<Arc<ApiState>>) -> Response {
    stream_backup(state.node.clone(), None)
}

/// Gives a backup of all spaces with their keys, sealed under a passphrase.
#[utoipa::path(post, path = "/v1/backup", tag = "node", request_body = BackupRequest, responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn backup_with_keys(
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<BackupRequest>,
) -> Result<Response, Problem> {
    let passphrase = Passphrase::new(&request.passphrase)?;
    Ok(stream_backup(state.node.clone(), Some(passphrase)))
}

fn stream_backup(node: Node, passphrase: Option<Passphrase>) -> Response {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES_MAX);
    let failure = sender.clone();
    tokio::spawn(async move {
        if let Err(error) = node.backup(passphrase, Pieces { sender, piece: Vec::new() }).await {
            tracing::warn!(%error, "a backup broke off");
            // Whoever has gone away does not need to know.
            let _gone = failure.send(Err(io::Error::other(error.to_string()))).await;
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    ([(header::CONTENT_TYPE, BACKUP_MEDIA_TYPE)], Body::from_stream(pieces)).into_response()
}

/// Where a backup is written to: pieces of the answer.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
