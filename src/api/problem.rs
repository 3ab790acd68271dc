//! Problem details (RFC 9457): the form in which every failed request is answered.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Error, ErrorKind};

/// The media type of a problem.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// What kind of problem it is: the part that a program looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub enum ProblemKind {
    /// Correct the request.
    #[serde(rename = "urn:syncline:problem:invalid")]
    Invalid,
    /// Send an API token that is good.
    #[serde(rename = "urn:syncline:problem:unauthorised")]
    Unauthorised,
    /// Get the right to do it: for this device, or for the token.
    #[serde(rename = "urn:syncline:problem:forbidden")]
    Forbidden,
    /// Name something that exists.
    #[serde(rename = "urn:syncline:problem:not-found")]
    NotFound,
    /// Use one of the methods in `Allow`.
    #[serde(rename = "urn:syncline:problem:method-not-allowed")]
    MethodNotAllowed,
    /// Look at the present state and decide anew.
    #[serde(rename = "urn:syncline:problem:conflict")]
    Conflict,
    /// Split the request.
    #[serde(rename = "urn:syncline:problem:too-large")]
    TooLarge,
    /// Address the node by its IP address or as `localhost`.
    #[serde(rename = "urn:syncline:problem:misdirected")]
    Misdirected,
    /// Read the node's log.
    #[serde(rename = "urn:syncline:problem:internal")]
    Internal,
    /// Repeat later.
    #[serde(rename = "urn:syncline:problem:unavailable")]
    Unavailable,
    /// Wait longer, or give up.
    #[serde(rename = "urn:syncline:problem:timeout")]
    Timeout,
    /// A kind that a newer release answers with.
    #[serde(other, rename = "about:blank")]
    Other,
}

impl ProblemKind {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Internal | Self::Other => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Invalid => "The request is not valid",
            Self::Unauthorised => "The API token is missing or wrong",
            Self::Forbidden => "It is not allowed",
            Self::NotFound => "It does not exist",
            Self::MethodNotAllowed => "The method does not apply here",
            Self::Conflict => "The present state forbids it",
            Self::TooLarge => "The request is too large",
            Self::Misdirected => "The request was meant for another host",
            Self::Internal | Self::Other => "The node failed",
            Self::Unavailable => "It is not available now",
            Self::Timeout => "It took too long",
        }
    }
}

impl From<ErrorKind> for ProblemKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Forbidden => Self::Forbidden,
            ErrorKind::TooLarge => Self::TooLarge,
            ErrorKind::Locked | ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Internal => Self::Internal,
        }
    }
}

/// Why a request failed and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem; it never changes between releases.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// The kind in words.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
}

impl Problem {
    /// A problem of the kind, with the title and status that belong to it.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, title: kind.title().to_owned(), status: kind.status().as_u16(), detail: detail.into() }
    }

    /// The request has to be corrected.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Invalid, detail)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), detail = self.detail, "request failed");
        }
        // A problem is three strings and a number: it always serialises.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_MEDIA_TYPE)], body).into_response();
        match self.kind {
            ProblemKind::Unauthorised => {
                let challenge = HeaderValue::from_static("Bearer realm=\"syncline\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            ProblemKind::Unavailable => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_written_as_the_rfc_has_it() {
        let problem = Problem::new(ProblemKind::NotFound, "there is no document `a`");
        let json = serde_json::to_value(&problem).unwrap();
        let expected = serde_json::json!({
            "type": "urn:syncline:problem:not-found",
            "title": "It does not exist",
            "status": 404,
            "detail": "there is no document `a`",
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    #[test]
    fn a_kind_of_a_newer_release_is_still_read() {
        let json = r#"{"type":"urn:syncline:problem:haunted","title":"t","status":418,"detail":"d"}"#;
        assert_eq!(serde_json::from_str::<Problem>(json).unwrap().kind, ProblemKind::Other);
    }

    #[test]
    fn a_missing_token_is_answered_with_a_challenge() {
        let response = Problem::new(ProblemKind::Unauthorised, "send it").into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_MEDIA_TYPE);
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
    }

    #[test]
    fn errors_become_problems_by_their_kind() {
        for (kind, status) in [
            (ErrorKind::NotFound, 404),
            (ErrorKind::Invalid, 400),
            (ErrorKind::Conflict, 409),
            (ErrorKind::Forbidden, 403),
            (ErrorKind::TooLarge, 413),
            (ErrorKind::Locked, 503),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::Timeout, 504),
            (ErrorKind::Internal, 500),
        ] {
            assert_eq!(Problem::new(kind.into(), "").status, status, "{kind:?}");
        }
    }
}
