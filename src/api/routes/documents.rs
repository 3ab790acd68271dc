//! Documents: reading, writing, history, conflicts, transactions.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use utoipa::IntoParams;

use super::super::body::{ConflictPage, DocumentList, HistoryPage, TransactionRequest, Written};
use super::super::extract::{JsonBody, Parameters, Segments};
use super::super::limits::PAGE_MAX;
use super::super::problem::{Problem, ProblemKind};
use super::super::state::ApiState;
use super::{ReadParameters, page_limit, version_header, wait};
use crate::documents;

type Answer<T> = Result<(HeaderMap, Json<T>), Problem>;

fn answer_written(written: documents::Written) -> (HeaderMap, Json<Written>) {
    let written = Written::from(written);
    (version_header(&written.version), Json(written))
}

/// Which documents to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ListParameters {
    /// Only keys that begin with this text.
    #[serde(default)]
    prefix: String,
    /// Only keys after this one: `next` of the page before.
    after: Option<String>,
    /// How many documents at most; 100 unless told, 1000 at most.
    limit: Option<usize>,
    /// Whether to add the documents' values.
    #[serde(default)]
    values: bool,
    /// Answer only when this version of the space is visible here.
    wait_for: Option<String>,
    /// How long to wait for it, in milliseconds.
    timeout_ms: Option<u64>,
    #[param(ignore)]
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

/// Lists the documents of a space in key order.
#[utoipa::path(get, path = "/v1/spaces/{space}/documents", tag = "documents",
    params(("space" = String, Path, description = "Local name or id of the space."), ListParameters),
    responses(
        (status = 200, body = DocumentList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn list(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    Parameters(query): Parameters<ListParameters>,
) -> Answer<DocumentList> {
    let space = state.node.space(&space)?;
    wait(&space, query.wait_for.as_deref(), query.timeout_ms).await?;
    let limit = page_limit(query.limit);
    let list = DocumentList::from(space.list(&query.prefix, query.after.as_deref(), limit, query.values).await?);
    Ok((version_header(&list.version), Json(list)))
}

/// How to read a document.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct GetParameters {
    /// The document as it was after these changes (hashes from its history, separated by commas).
    at: Option<String>,
    /// Answer only when this version of the space is visible here.
    wait_for: Option<String>,
    /// How long to wait for it, in milliseconds.
    timeout_ms: Option<u64>,
    #[param(ignore)]
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

/// Gives a document: the body is its value, a JSON object.
#[utoipa::path(get, path = "/v1/spaces/{space}/documents/{key}", tag = "documents",
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("key" = String, Path, description = "The document's key; slashes may stand as they are."),
        GetParameters,
    ),
    responses(
        (status = 200, body = Object, headers(("syncline-version" = String, description = "The version read at."))),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn get(
    State(state): State<Arc<ApiState>>,
    Segments((space, key)): Segments<(String, String)>,
    Parameters(query): Parameters<GetParameters>,
) -> Answer<Value> {
    let space = state.node.space(&space)?;
    wait(&space, query.wait_for.as_deref(), query.timeout_ms).await?;
    let found = match query.at {
        Some(at) => space.value_at(&key, &at.split(',').map(str::to_owned).collect::<Vec<_>>()).await?,
        None => space.get(&key).await?,
    };
    match found {
        Some(document) => Ok((version_header(&document.version.to_string()), Json(document.value))),
        None => {
            let mut detail = format!("there is no document `{key}` in the space `{}`", space.name());
            let unreadable = space.figures().await?.unreadable;
            if unreadable > 0 {
                let _ = write!(
                    detail,
                    " as far as can be read here: this device has no key for {unreadable} of the operations that it \
                     holds; keys come from members once one has admitted it"
                );
            }
            Err(Problem::new(ProblemKind::NotFound, detail))
        }
    }
}

/// Makes a document equal to the JSON object in the body, changing only what differs.
#[utoipa::path(put, path = "/v1/spaces/{space}/documents/{key}", tag = "documents", request_body = Object,
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("key" = String, Path, description = "The document's key; slashes may stand as they are."),
    ),
    responses(
        (status = 200, body = Written),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn put(
    State(state): State<Arc<ApiState>>,
    Segments((space, key)): Segments<(String, String)>,
    JsonBody(value): JsonBody<Value>,
) -> Answer<Written> {
    Ok(answer_written(state.node.space(&space)?.put(&key, value).await?))
}

/// Applies the JSON merge patch (RFC 7396) in the body to a document.
#[utoipa::path(patch, path = "/v1/spaces/{space}/documents/{key}", tag = "documents",
    request_body(content = Object, content_type = "application/merge-patch+json"),
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("key" = String, Path, description = "The document's key; slashes may stand as they are."),
    ),
    responses(
        (status = 200, body = Written),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn patch(
    State(state): State<Arc<ApiState>>,
    Segments((space, key)): Segments<(String, String)>,
    JsonBody(patch): JsonBody<Value>,
) -> Answer<Written> {
    Ok(answer_written(state.node.space(&space)?.patch(&key, patch).await?))
}

/// Deletes a document; concurrent edits elsewhere restore it.
#[utoipa::path(delete, path = "/v1/spaces/{space}/documents/{key}", tag = "documents",
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("key" = String, Path, description = "The document's key; slashes may stand as they are."),
    ),
    responses(
        (status = 200, body = Written),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn delete(
    State(state): State<Arc<ApiState>>,
    Segments((space, key)): Segments<(String, String)>,
) -> Answer<Written> {
    Ok(answer_written(state.node.space(&space)?.delete(&key).await?))
}

/// Makes several operations one: all become visible at once, here and everywhere, or none does.
#[utoipa::path(post, path = "/v1/spaces/{space}/transactions", tag = "documents", request_body = TransactionRequest,
    params(("space" = String, Path, description = "Local name or id of the space.")),
    responses(
        (status = 200, body = Written),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn transact(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    JsonBody(request): JsonBody<TransactionRequest>,
) -> Answer<Written> {
    Ok(answer_written(state.node.space(&space)?.transact(request.into_steps()?).await?))
}

/// Which page of the history to give.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct HistoryParameters {
    /// Only changes after this one: `next` of the page before.
    after: Option<String>,
    /// How many changes at most; 100 unless told, 1000 at most.
    limit: Option<usize>,
    /// Answer only when this version of the space is visible here.
    wait_for: Option<String>,
    /// How long to wait for it, in milliseconds.
    timeout_ms: Option<u64>,
    #[param(ignore)]
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

/// Lists the changes of a document, newest first.
#[utoipa::path(get, path = "/v1/spaces/{space}/history/{key}", tag = "documents",
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("key" = String, Path, description = "The document's key; slashes may stand as they are."),
        HistoryParameters,
    ),
    responses(
        (status = 200, body = HistoryPage),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn history(
    State(state): State<Arc<ApiState>>,
    Segments((space, key)): Segments<(String, String)>,
    Parameters(query): Parameters<HistoryParameters>,
) -> Answer<HistoryPage> {
    let space = state.node.space(&space)?;
    wait(&space, query.wait_for.as_deref(), query.timeout_ms).await?;
    // Read before the page, so that the page shows this version at least.
    let version = space.present_version().await?;
    let limit = page_limit(query.limit);
    let items = space.history(&key, query.after.as_deref(), limit).await?;
    Ok((version_header(&version.to_string()), Json(HistoryPage::new(items, limit))))
}

/// Lists the places of one document where concurrent writes left several values.
#[utoipa::path(get, path = "/v1/spaces/{space}/conflicts/{key}", tag = "documents",
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("key" = String, Path, description = "The document's key; slashes may stand as they are."),
        ReadParameters,
    ),
    responses(
        (status = 200, body = ConflictPage),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn conflicts(
    State(state): State<Arc<ApiState>>,
    Segments((space, key)): Segments<(String, String)>,
    Parameters(query): Parameters<ReadParameters>,
) -> Answer<ConflictPage> {
    let space = state.node.space(&space)?;
    query.wait(&space).await?;
    let version = space.present_version().await?;
    let page = space.conflicts(&key).await?;
    Ok((version_header(&version.to_string()), Json(page.into())))
}

/// Which documents to search for conflicts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ConflictParameters {
    /// Only keys that begin with this text.
    #[serde(default)]
    prefix: String,
    /// Only keys after this one: `next` of the page before.
    after: Option<String>,
    /// How many documents to look at, at most; 1000 unless told, which is the greatest number.
    limit: Option<usize>,
    /// Answer only when this version of the space is visible here.
    wait_for: Option<String>,
    /// How long to wait for it, in milliseconds.
    timeout_ms: Option<u64>,
    #[param(ignore)]
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

/// Lists the conflicts of a page of documents.
#[utoipa::path(get, path = "/v1/spaces/{space}/conflicts", tag = "documents",
    params(("space" = String, Path, description = "Local name or id of the space."), ConflictParameters),
    responses(
        (status = 200, body = ConflictPage),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn all_conflicts(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    Parameters(query): Parameters<ConflictParameters>,
) -> Answer<ConflictPage> {
    let space = state.node.space(&space)?;
    wait(&space, query.wait_for.as_deref(), query.timeout_ms).await?;
    let version = space.present_version().await?;
    let limit = page_limit(query.limit.or(Some(PAGE_MAX)));
    let page = space.all_conflicts(&query.prefix, query.after.as_deref(), limit).await?;
    Ok((version_header(&version.to_string()), Json(page.into())))
}
