//! Checking what is stored.

use std::convert::Infallible;
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
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use super::super::body::{VerifyEvent, VerifyReport};
use super::super::extract::{Parameters, Segments};
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::node::verification::{VerifyOptions, VerifyProgress};
use crate::{Node, Space};

const LINES_MEDIA_TYPE: &str = "application/x-ndjson";
/// Pause between two lines that tell of progress.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);

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
