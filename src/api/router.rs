//! The table of routes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri, header};
use axum::routing::{delete, get, post, put};
use axum::{Router, middleware};

use super::guard::{Gate, guard};
use super::limits::{BODY_BYTES_MAX, OWN_BYTES_BODY_MAX};
use super::openapi;
use super::problem::{Problem, ProblemKind};
use super::routes::{bytes, changes, documents, members, node, spaces, tokens, upkeep};
use super::state::ApiState;

/// All routes behind the guard: what the server serves.
pub(super) fn guarded(state: ApiState, gate: Gate) -> Router {
    router(state).layer(middleware::from_fn_with_state(Arc::new(gate), guard))
}

/// All routes of the API; whoever holds the router may use them.
pub(super) fn router(state: ApiState) -> Router {
    // The description never changes while the program runs.
    let description = Bytes::from(openapi::document().to_json().unwrap_or_default());
    let description = move || std::future::ready(([(header::CONTENT_TYPE, "application/json")], description.clone()));
    Router::new()
        .route("/healthz", get(node::health))
        .route("/metrics", get(node::metrics))
        .route("/openapi.json", get(description))
        .route("/v1/status", get(node::status))
        .route("/v1/peers", get(node::peers).post(node::connect))
        .route("/v1/peers/{device}/ban", put(node::ban).delete(node::unban))
        .route("/v1/backup", get(upkeep::backup).post(upkeep::backup_with_keys))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/spaces", get(spaces::list).post(spaces::create))
        .route("/v1/spaces/join", post(spaces::join))
        .route("/v1/spaces/{space}", get(spaces::show).patch(members::change).delete(spaces::leave))
        .route("/v1/spaces/{space}/invitations", get(members::invitations).post(spaces::invite))
        .route("/v1/spaces/{space}/invitations/{invitation}", delete(members::revoke))
        .route("/v1/spaces/{space}/members", get(members::list).post(members::add))
        .route("/v1/spaces/{space}/members/{device}", delete(members::remove).patch(members::change_role))
        .route("/v1/spaces/{space}/handover", post(members::hand_over))
        .route("/v1/spaces/{space}/recovery", post(members::recover))
        .route("/v1/spaces/{space}/rotation", post(members::rotate))
        .route("/v1/spaces/{space}/resolutions", post(members::resolve))
        .route("/v1/spaces/{space}/log", get(members::log))
        .route("/v1/spaces/{space}/uncounted", get(members::uncounted))
        .route("/v1/spaces/{space}/verify", post(upkeep::verify))
        .route("/v1/spaces/{space}/documents", get(documents::list))
        .route(
            "/v1/spaces/{space}/documents/{*key}",
            get(documents::get).put(documents::put).patch(documents::patch).delete(documents::delete),
        )
        .route("/v1/spaces/{space}/history/{*key}", get(documents::history))
        .route("/v1/spaces/{space}/conflicts", get(documents::all_conflicts))
        .route("/v1/spaces/{space}/conflicts/{*key}", get(documents::conflicts))
        .route("/v1/spaces/{space}/transactions", post(documents::transact))
        .route("/v1/spaces/{space}/changes", get(changes::changes))
        .merge(own_bytes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(state))
}

/// Routes on bytes of a person's own, whose bodies may be longer.
fn own_bytes() -> Router<Arc<ApiState>> {
    Router::new()
        .route("/v1/bytes/seal", post(bytes::seal))
        .route("/v1/bytes/open", post(bytes::open))
        .route("/v1/bytes/sign", post(bytes::sign))
        .route("/v1/bytes/verify", post(bytes::verify))
        .layer(DefaultBodyLimit::max(OWN_BYTES_BODY_MAX))
}

async fn unknown_route(uri: Uri) -> Problem {
    let detail = format!("there is nothing at `{}`: /openapi.json describes what there is", uri.path());
    Problem::new(ProblemKind::NotFound, detail)
}

async fn unknown_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} does not apply to `{}`: /openapi.json describes what does", uri.path());
    Problem::new(ProblemKind::MethodNotAllowed, detail)
}
