//! What each resource does: input to library call to answer, nothing else.

pub(super) mod bytes;
pub(super) mod changes;
pub(super) mod documents;
pub(super) mod members;
pub(super) mod node;
pub(super) mod spaces;
pub(super) mod tokens;
pub(super) mod upkeep;

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::IntoParams;

use super::limits::{PAGE_DEFAULT, PAGE_MAX, WAIT_MS_DEFAULT, WAIT_MS_MAX};
use super::problem::Problem;
use crate::documents::Version;
use crate::{Error, Space};

/// The header that carries the version of the space which an answer shows.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("syncline-version");

/// Parameters of reads that have none of their own.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ReadParameters {
    /// Answer only when this version of the space is visible here.
    wait_for: Option<String>,
    /// How long to wait for it, in milliseconds.
    timeout_ms: Option<u64>,
    #[param(ignore)]
    #[serde(rename = "token")]
    _token: Option<IgnoredAny>,
}

impl ReadParameters {
    async fn wait(&self, space: &Space) -> Result<(), Problem> {
        wait(space, self.wait_for.as_deref(), self.timeout_ms).await
    }
}

/// Waits until the space shows a version, if one is named.
async fn wait(space: &Space, version: Option<&str>, timeout_ms: Option<u64>) -> Result<(), Problem> {
    let Some(version) = version else { return Ok(()) };
    let version = parse_version(version)?;
    let timeout = Duration::from_millis(timeout_ms.unwrap_or(WAIT_MS_DEFAULT).min(WAIT_MS_MAX));
    space.wait_for(version, timeout).await?;
    Ok(())
}

fn parse_version(text: &str) -> Result<Version, Problem> {
    text.parse::<Version>().map_err(|error| Error::from(error).into())
}

/// How many entries a page has when `limit` of them are asked for.
fn page_limit(limit: Option<usize>) -> usize {
    limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX)
}

/// The header that tells which version an answer shows.
fn version_header(version: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(version) {
        headers.insert(VERSION_HEADER, value);
    }
    headers
}
