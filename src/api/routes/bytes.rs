//! Bytes of a person's own: sealed for a device, opened, signed, verified. Bodies are the bytes as they are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::SemaphorePermit;
use utoipa::IntoParams;

use super::super::body::{SignedBytes, VerifiedBytes};
use super::super::extract::{Parameters, whole_body};
use super::super::limits::OWN_BYTES_BODY_MAX;
use super::super::problem::{Problem, ProblemKind};
use super::super::state::ApiState;
use crate::node::bytes::{BytesSignature, parse_device};
use crate::{DeviceText, Error};

const BYTES_MEDIA_TYPE: &str = "application/octet-stream";

/// For whom to seal.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct SealParameters {
    /// The device text of whom it is for, beginning with `syncline-device:`.
    #[serde(rename = "for")]
    recipient: String,
}

/// What to verify the bytes with.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct VerifyBytesParameters {
    /// The device that should have signed: its id or its device text.
    by: String,
    /// The signature, beginning with `syncline-signature:`.
    signature: String,
}

/// Seals the body so that one device alone can open it.
#[utoipa::path(post, path = "/v1/bytes/seal", tag = "bytes", params(SealParameters),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn seal(
    State(state): State<Arc<ApiState>>,
    Parameters(query): Parameters<SealParameters>,
    request: Request,
) -> Result<Response, Problem> {
    let recipient: DeviceText = query.recipient.parse().map_err(Error::from)?;
    let _turn = turn(&state).await?;
    let bytes = whole_body(request, OWN_BYTES_BODY_MAX).await?;
    Ok(answer(state.node.seal_bytes(recipient, bytes.into()).await?))
}

/// Opens a body that was sealed for this device.
#[utoipa::path(post, path = "/v1/bytes/open", tag = "bytes",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn open(State(state): State<Arc<ApiState>>, request: Request) -> Result<Response, Problem> {
    let _turn = turn(&state).await?;
    let sealed = whole_body(request, OWN_BYTES_BODY_MAX).await?;
    Ok(answer(state.node.open_bytes(sealed.into()).await?))
}

/// Signs the body with this device's key, in a domain of its own: it is never taken for an operation.
#[utoipa::path(post, path = "/v1/bytes/sign", tag = "bytes",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = SignedBytes),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn sign(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Json<SignedBytes>, Problem> {
    let _turn = turn(&state).await?;
    let bytes = whole_body(request, OWN_BYTES_BODY_MAX).await?;
    let signature = state.node.sign_bytes(bytes.into()).await?;
    Ok(Json(SignedBytes { device: signature.device().to_string(), signature: signature.to_string() }))
}

/// Checks that a device signed the body; the answer is a problem if it did not.
#[utoipa::path(post, path = "/v1/bytes/verify", tag = "bytes", params(VerifyBytesParameters),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = VerifiedBytes),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn verify(
    State(state): State<Arc<ApiState>>,
    Parameters(query): Parameters<VerifyBytesParameters>,
    request: Request,
) -> Result<Json<VerifiedBytes>, Problem> {
    let device = parse_device(&query.by)?;
    let signature: BytesSignature = query.signature.parse().map_err(Error::from)?;
    let _turn = turn(&state).await?;
    let bytes = whole_body(request, OWN_BYTES_BODY_MAX).await?;
    state.node.verify_bytes(signature, device, bytes.into()).await?;
    Ok(Json(VerifiedBytes { device: device.to_string() }))
}

/// Waits for a turn, since such bodies are held whole in memory.
async fn turn(state: &ApiState) -> Result<SemaphorePermit<'_>, Problem> {
    let stopping = |_| Problem::new(ProblemKind::Unavailable, "the node is stopping");
    state.own_bytes.acquire().await.map_err(stopping)
}

fn answer(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, BYTES_MEDIA_TYPE), (header::CACHE_CONTROL, "no-store")], bytes).into_response()
}
