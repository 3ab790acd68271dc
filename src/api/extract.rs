//! How routes take their input: like axum's own extractors, but every refusal is a problem that says what to correct.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header;
use axum::http::request::Parts;
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::limits::{BODY_BYTES_MAX, BODY_TIMEOUT, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIMEOUT};
use super::problem::{Problem, ProblemKind};

/// The variable segments of the path, percent-decoded.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(segments)| Self(segments))
            .map_err(|error| Problem::invalid(format!("the path cannot be read: {}", error.body_text())))
    }
}

/// The parameters of the query.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query
            .map(|Query(parameters)| Self(parameters))
            .map_err(|error| Problem::invalid(format!("the query cannot be read: {}", error.body_text())))
    }
}

/// The body, read as JSON whatever its media type says.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = whole_body(request, BODY_BYTES_MAX).await?;
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|error| Problem::invalid(format!("the body is not the JSON expected here: {error}")))
    }
}

/// The body as it is, within the time that there is for it; the route's layer sets the limit that a refusal names.
pub(super) async fn whole_body(request: Request, limit: usize) -> Result<Bytes, Problem> {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if declared.and_then(|length| length.parse::<usize>().ok()).is_some_and(|length| length > limit) {
        let waits_for_leave = request.headers().contains_key(header::EXPECT);
        if !waits_for_leave {
            read_away(request).await;
        }
        return Err(too_long(limit));
    }
    match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) => Err(unread(&rejection, limit)),
        Err(_) => {
            let detail = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(ProblemKind::Timeout, detail))
        }
    }
}

/// Takes in what a client sends all the same, for a while: one whose connection breaks while it still sends does not
/// get to see the answer (RFC 9112, section 9.6).
async fn read_away(request: Request) {
    let mut stream = request.into_body().into_data_stream();
    let read = async {
        let mut left = REFUSED_BODY_BYTES_MAX;
        while let Some(Ok(chunk)) = stream.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    let _over = tokio::time::timeout(REFUSED_BODY_TIMEOUT, read).await;
}

fn unread(rejection: &BytesRejection, limit: usize) -> Problem {
    if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
        return too_long(limit);
    }
    Problem::invalid("the body broke off: send it again")
}

fn too_long(limit: usize) -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("the body is longer than {} MiB: split the request", limit >> 20))
}
