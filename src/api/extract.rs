//! How routes take their input: like axum's own extractors, but every refusal is a problem that says what to correct.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::limits::{BODY_BYTES_MAX, BODY_TIMEOUT};
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

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(rejection)) => return Err(unread(&rejection)),
            Err(_) => {
                let detail = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
                return Err(Problem::new(ProblemKind::Timeout, detail));
            }
        };
        let value = serde_json::from_slice(&bytes);
        value.map(Self).map_err(|error| Problem::invalid(format!("the body is not the JSON expected here: {error}")))
    }
}

fn unread(rejection: &BytesRejection) -> Problem {
    if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("the body is longer than {} MiB: split the request", BODY_BYTES_MAX >> 20);
        return Problem::new(ProblemKind::TooLarge, detail);
    }
    Problem::invalid("the body broke off: send it again")
}
