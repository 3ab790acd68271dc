//! Spaces: found, joined, left, and what invites into them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::super::body::{CreatedSpace, Invitation, InvitationRequest, JoinRequest, NewSpace, SpaceList};
use super::super::extract::{JsonBody, Segments};
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::node::info::SpaceStatus;

/// Lists the spaces on this device.
#[utoipa::path(get, path = "/v1/spaces", tag = "spaces", responses(
    (status = 200, body = SpaceList),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn list(State(state): State<Arc<ApiState>>) -> Json<SpaceList> {
    Json(SpaceList { spaces: state.node.spaces().await })
}

/// Founds a space whose steward is this device; the answer holds the recovery key, this once.
#[utoipa::path(post, path = "/v1/spaces", tag = "spaces", request_body = NewSpace, responses(
    (status = 201, body = CreatedSpace),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn create(
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<NewSpace>,
) -> Result<(StatusCode, Json<CreatedSpace>), Problem> {
    let created = state.node.create_space(&request.name, request.strings.into()).await?;
    Ok((StatusCode::CREATED, Json(created.into())))
}

/// Takes a ticket; the space fills as soon as a member that can admit this device is reached.
#[utoipa::path(post, path = "/v1/spaces/join", tag = "spaces", request_body = JoinRequest, responses(
    (status = 202, body = SpaceStatus),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn join(
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Result<(StatusCode, Json<SpaceStatus>), Problem> {
    let space = state.node.join(&request.ticket, request.name.as_deref()).await?;
    Ok((StatusCode::ACCEPTED, Json(space.status().await?)))
}

/// Tells how a space is doing on this device.
#[utoipa::path(get, path = "/v1/spaces/{space}", tag = "spaces",
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = SpaceStatus),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn show(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
) -> Result<Json<SpaceStatus>, Problem> {
    Ok(Json(state.node.space(&space)?.status().await?))
}

/// Ends a space on this device and deletes its log and keys here; other members keep theirs.
#[utoipa::path(delete, path = "/v1/spaces/{space}", tag = "spaces",
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn leave(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
) -> Result<StatusCode, Problem> {
    state.node.space(&space)?.leave().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Opens an invitation; the answer holds the ticket to hand over. Only the steward can.
#[utoipa::path(post, path = "/v1/spaces/{space}/invitations", tag = "spaces", request_body = InvitationRequest,
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 201, body = Invitation),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn invite(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    JsonBody(request): JsonBody<InvitationRequest>,
) -> Result<(StatusCode, Json<Invitation>), Problem> {
    let terms = request.terms()?;
    let ticket = state.node.space(&space)?.invite(terms).await?;
    Ok((StatusCode::CREATED, Json(Invitation::new(&ticket, &request))))
}
