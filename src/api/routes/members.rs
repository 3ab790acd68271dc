//! Members and what the steward does about them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::IntoParams;

use super::super::body::{
    HandoverRequest, InvitationList, MemberList, MemberRequest, MembershipLog, RecoveryRequest, ResolutionRequest,
    RoleRequest, SpaceChange,
};
use super::super::extract::{JsonBody, Parameters, Segments};
use super::super::limits::REMOVED_AT_ONCE_MAX;
use super::super::problem::Problem;
use super::super::state::ApiState;
use super::page_limit;
use crate::Space;
use crate::node::info::SpaceStatus;
use crate::node::uncounted::UncountedPage;

/// Which page of what does not count.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct UncountedParameters {
    /// Begin after this operation, by its number in this device's log.
    after: Option<u64>,
    /// How many operations at most.
    limit: Option<usize>,
    #[param(ignore)]
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

async fn member_list(space: &Space) -> Result<Json<MemberList>, Problem> {
    Ok(Json(MemberList { members: space.members().await? }))
}

/// Lists the members of a space.
#[utoipa::path(get, path = "/v1/spaces/{space}/members", tag = "members",
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = MemberList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn list(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
) -> Result<Json<MemberList>, Problem> {
    member_list(&state.node.space(&space)?).await
}

/// Makes a device a member without an invitation; it must hold the space already, as one that was restored does.
///
/// Only the steward can; so it is with all that changes members, except for a recovery.
#[utoipa::path(post, path = "/v1/spaces/{space}/members", tag = "members", request_body = MemberRequest,
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 201, body = MemberList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn add(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    JsonBody(request): JsonBody<MemberRequest>,
) -> Result<(StatusCode, Json<MemberList>), Problem> {
    let (device, role) = request.parse()?;
    let space = state.node.space(&space)?;
    space.add_member(&device, role).await?;
    Ok((StatusCode::CREATED, member_list(&space).await?))
}

/// Removes members for good and begins a new epoch; what they wrote and is held here counts.
#[utoipa::path(delete, path = "/v1/spaces/{space}/members/{device}", tag = "members",
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("device" = String, Path, description = "Device ids, or their first eight characters or more, separated by \
                                                 commas. Together they are one removal and one new epoch."),
    ),
    responses(
        (status = 200, body = MemberList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn remove(
    State(state): State<Arc<ApiState>>,
    Segments((space, devices)): Segments<(String, String)>,
) -> Result<Json<MemberList>, Problem> {
    let space = state.node.space(&space)?;
    let asked: Vec<&str> = devices.split(',').collect();
    if asked.len() > REMOVED_AT_ONCE_MAX {
        return Err(Problem::invalid(format!("{REMOVED_AT_ONCE_MAX} devices are removed at once at most")));
    }
    let mut devices = Vec::with_capacity(asked.len());
    for text in asked {
        devices.push(space.member(text).await?);
    }
    space.remove_members(&devices).await?;
    member_list(&space).await
}

/// Gives a member another role; one that loses the right to write never gets it back.
#[utoipa::path(patch, path = "/v1/spaces/{space}/members/{device}", tag = "members", request_body = RoleRequest,
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("device" = String, Path, description = "The device's id, or the first eight characters of it or more."),
    ),
    responses(
        (status = 200, body = MemberList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn change_role(
    State(state): State<Arc<ApiState>>,
    Segments((space, device)): Segments<(String, String)>,
    JsonBody(request): JsonBody<RoleRequest>,
) -> Result<Json<MemberList>, Problem> {
    let space = state.node.space(&space)?;
    space.change_role(space.member(&device).await?, request.role.into()).await?;
    member_list(&space).await
}

/// Makes another writer the steward; this device becomes a writer.
#[utoipa::path(post, path = "/v1/spaces/{space}/handover", tag = "members", request_body = HandoverRequest,
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = MemberList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn hand_over(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    JsonBody(request): JsonBody<HandoverRequest>,
) -> Result<Json<MemberList>, Problem> {
    let space = state.node.space(&space)?;
    space.hand_over(space.member(&request.device).await?).await?;
    member_list(&space).await
}

/// Makes this device the steward with the space's recovery key; the former steward is removed, a new epoch begins.
#[utoipa::path(post, path = "/v1/spaces/{space}/recovery", tag = "members", request_body = RecoveryRequest,
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = MemberList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn recover(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    JsonBody(request): JsonBody<RecoveryRequest>,
) -> Result<Json<MemberList>, Problem> {
    let recovery_key = request.parse()?;
    let space = state.node.space(&space)?;
    space.recover(&recovery_key).await?;
    member_list(&space).await
}

/// Begins a new epoch: new keys for what is written from now on.
#[utoipa::path(post, path = "/v1/spaces/{space}/rotation", tag = "members",
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = SpaceStatus),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn rotate(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
) -> Result<Json<SpaceStatus>, Problem> {
    let space = state.node.space(&space)?;
    space.rotate_keys().await?;
    Ok(Json(space.status().await?))
}

/// Lets forked or cut logs count up to the operations that are named.
#[utoipa::path(post, path = "/v1/spaces/{space}/resolutions", tag = "members", request_body = ResolutionRequest,
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = SpaceStatus),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn resolve(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    JsonBody(request): JsonBody<ResolutionRequest>,
) -> Result<Json<SpaceStatus>, Problem> {
    let heads = request.parse()?;
    let space = state.node.space(&space)?;
    space.resolve_branches(&heads).await?;
    Ok(Json(space.status().await?))
}

/// Says whether those who join from now on read what was written before they came.
#[utoipa::path(patch, path = "/v1/spaces/{space}", tag = "members", request_body = SpaceChange,
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = SpaceStatus),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn change(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    JsonBody(request): JsonBody<SpaceChange>,
) -> Result<Json<SpaceStatus>, Problem> {
    let space = state.node.space(&space)?;
    space.share_history(request.newcomers_read_history).await?;
    Ok(Json(space.status().await?))
}

/// Lists the invitations of a space, closed ones included.
#[utoipa::path(get, path = "/v1/spaces/{space}/invitations", tag = "members",
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = InvitationList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn invitations(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
) -> Result<Json<InvitationList>, Problem> {
    Ok(Json(InvitationList { invitations: state.node.space(&space)?.invitations().await? }))
}

/// Ends an invitation: nobody who knows of it admits a device by it any more.
#[utoipa::path(delete, path = "/v1/spaces/{space}/invitations/{invitation}", tag = "members",
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("invitation" = String, Path, description = "The invitation's id, or its first eight characters or more."),
    ),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn revoke(
    State(state): State<Arc<ApiState>>,
    Segments((space, invitation)): Segments<(String, String)>,
) -> Result<StatusCode, Problem> {
    let space = state.node.space(&space)?;
    space.revoke_invitation(space.invitation(&invitation).await?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells what was decided about the members: who admitted whom and when, and what was cut.
#[utoipa::path(get, path = "/v1/spaces/{space}/log", tag = "members",
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = MembershipLog),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn log(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
) -> Result<Json<MembershipLog>, Problem> {
    Ok(Json(MembershipLog { events: state.node.space(&space)?.membership_log().await? }))
}

/// Gives back what this device wrote and does not count, as the values that it would make of the documents.
#[utoipa::path(get, path = "/v1/spaces/{space}/uncounted", tag = "members",
    params(("space" = String, Path, description = "Local name or id of the space."), UncountedParameters),
    responses(
        (status = 200, body = UncountedPage),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn uncounted(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    Parameters(parameters): Parameters<UncountedParameters>,
) -> Result<Json<UncountedPage>, Problem> {
    let space = state.node.space(&space)?;
    Ok(Json(space.uncounted(parameters.after.unwrap_or(0), page_limit(parameters.limit)).await?))
}
