//! The node itself: status, peers, health, metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use syncline_model::DeviceId;
use syncline_model::ids::ParseIdError;

use super::super::body::{BanRequest, BannedPeer, ConnectRequest, ConnectedPeer, Health, Peer, PeerList};
use super::super::extract::{JsonBody, Segments};
use super::super::problem::{Problem, ProblemKind};
use super::super::state::ApiState;
use crate::node::info::NodeStatus;

/// The media type of Prometheus' newer text format.
const METRICS_MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How the node is doing.
#[utoipa::path(get, path = "/v1/status", tag = "node", responses(
    (status = 200, body = NodeStatus),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn status(State(state): State<Arc<ApiState>>) -> Json<NodeStatus> {
    Json(state.node.status().await)
}

/// Lists the peers that are connected, kept or banned.
#[utoipa::path(get, path = "/v1/peers", tag = "node", responses(
    (status = 200, body = PeerList),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn peers(State(state): State<Arc<ApiState>>) -> Json<PeerList> {
    let peers = state.node.peers().await;
    Json(PeerList { peers: peers.into_iter().map(Peer::from).collect() })
}

/// Connects to a peer and keeps the connection from then on.
#[utoipa::path(post, path = "/v1/peers", tag = "node", request_body = ConnectRequest, responses(
    (status = 200, body = ConnectedPeer),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn connect(
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<ConnectRequest>,
) -> Result<Json<ConnectedPeer>, Problem> {
    let device = state.node.connect(&request.address).await?;
    Ok(Json(ConnectedPeer { device: device.to_string() }))
}

/// Ends all connections to a peer and refuses new ones for some time, also over restarts.
#[utoipa::path(put, path = "/v1/peers/{device}/ban", tag = "node", request_body = BanRequest,
    params(("device" = String, Path, description = "The peer's device id.")),
    responses(
        (status = 200, body = BannedPeer),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn ban(
    State(state): State<Arc<ApiState>>,
    Segments(device): Segments<String>,
    JsonBody(request): JsonBody<BanRequest>,
) -> Result<Json<BannedPeer>, Problem> {
    let ban = state.node.ban(peer(&device)?, Duration::from_millis(request.lasts_ms)).await?;
    Ok(Json(ban.into()))
}

/// Ends the ban of a peer, whoever set it, and forgives the peer its faults.
#[utoipa::path(delete, path = "/v1/peers/{device}/ban", tag = "node",
    params(("device" = String, Path, description = "The peer's device id.")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn unban(
    State(state): State<Arc<ApiState>>,
    Segments(device): Segments<String>,
) -> Result<StatusCode, Problem> {
    match state.node.unban(peer(&device)?).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::new(ProblemKind::NotFound, format!("`{device}` is not banned"))),
    }
}

fn peer(text: &str) -> Result<DeviceId, Problem> {
    text.parse().map_err(|error: ParseIdError| Problem::invalid(error.to_string()))
}

/// Tells that the node answers.
#[utoipa::path(get, path = "/healthz", tag = "node", security(()), responses((status = 200, body = Health)))]
pub(in crate::api) async fn health() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// Gives the metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "node", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn metrics(State(state): State<Arc<ApiState>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_MEDIA_TYPE)], state.node.metrics().await).into_response()
}
