//! API tokens: made, listed, revoked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};

use super::super::body::{CreatedToken, Token, TokenList, TokenRequest};
use super::super::extract::{JsonBody, Segments};
use super::super::problem::Problem;
use super::super::state::ApiState;

/// Keeps an answer that holds a secret out of every cache.
const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

/// Lists the tokens that were made for other programs, the owner's own not among them.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses(
    (status = 200, body = TokenList),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn list(State(state): State<Arc<ApiState>>) -> Json<TokenList> {
    Json(TokenList { tokens: state.node.tokens().into_iter().map(Token::from).collect() })
}

/// Makes a token for another program; the answer holds it, this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenRequest, responses(
    (status = 201, body = CreatedToken),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn create(
    State(state): State<Arc<ApiState>>,
    JsonBody(request): JsonBody<TokenRequest>,
) -> Result<(StatusCode, [(HeaderName, &'static str); 1], Json<CreatedToken>), Problem> {
    let created = state.node.create_token(request.into()).await?;
    Ok((StatusCode::CREATED, [NO_STORE], Json(created.into())))
}

/// Ends a token: requests with it are refused from now on, and streams that it opened end.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "The token's id, as the list shows it.")),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn revoke(
    State(state): State<Arc<ApiState>>,
    Segments(id): Segments<String>,
) -> Result<StatusCode, Problem> {
    state.node.revoke_token(id.parse()?).await?;
    Ok(StatusCode::NO_CONTENT)
}
