//! What became visible: as pages of JSON, or as a stream of server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::IntoParams;

use super::super::body::{Change, ChangePage, Watching};
use super::super::extract::{Parameters, Segments};
use super::super::limits::KEEP_ALIVE;
use super::super::problem::Problem;
use super::super::state::ApiState;
use super::{page_limit, parse_version, version_header, wait};
use crate::space::Watch;
use crate::{Error, Space};

/// The header by which a client resumes a stream (HTML Living Standard, server-sent events).
const LAST_EVENT_ID: &str = "last-event-id";
const EVENT_STREAM: &str = "text/event-stream";

/// Which changes to give.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct ChangeParameters {
    /// Only what became visible after this version; a page begins at the beginning without it, a stream now.
    since: Option<String>,
    /// Only keys that begin with this text.
    #[serde(default)]
    prefix: String,
    /// How many changes a page has, about: it ends with a whole operation. 100 unless told, 1000 at most.
    limit: Option<usize>,
    /// Whether the events of a stream carry the documents' values.
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

/// Gives what changed: a page, or a stream of events if the request accepts `text/event-stream`.
///
/// A stream begins with an event `watching` and goes on with an event `change` for each changed document; their data
/// are JSON. Ids are versions, and `Last-Event-ID` resumes after one: nothing is left out, the last operation may come
/// again. A stream that cannot go on ends with an event `problem`.
#[utoipa::path(get, path = "/v1/spaces/{space}/changes", tag = "documents",
    params(
        ("space" = String, Path, description = "Local name or id of the space."),
        ("Last-Event-ID" = Option<String>, Header, description = "Takes the place of `since` in a stream."),
        ChangeParameters,
    ),
    responses(
        (status = 200, content((ChangePage = "application/json"), (Change = "text/event-stream"))),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::api) async fn changes(
    State(state): State<Arc<ApiState>>,
    Segments(space): Segments<String>,
    Parameters(query): Parameters<ChangeParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let space = state.node.space(&space)?;
    wait(&space, query.wait_for.as_deref(), query.timeout_ms).await?;
    if !accepts_events(&headers) {
        return page(&space, query).await;
    }
    let resumed = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    let since = resumed.or(query.since.as_deref()).map(parse_version).transpose()?;
    let watch = space.watch(&query.prefix, since, query.values).await?;
    let version = watch.version().to_string();
    let mut stopping = state.stopping.clone();
    let stop = async move {
        // An error means that the server is gone, which is a reason to stop as well.
        let _stopped = stopping.wait_for(|stop| *stop).await;
    };
    let events = events(watch).take_until(stop);
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok((version_header(&version), stream).into_response())
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case(EVENT_STREAM)
    })
}

async fn page(space: &Space, query: ChangeParameters) -> Result<Response, Problem> {
    let since = query.since.as_deref().map(parse_version).transpose()?;
    let page = space.changes(since, page_limit(query.limit)).await?;
    let version = page.version.to_string();
    let events = page.events.into_iter().filter(|event| event.key.as_str().starts_with(&query.prefix));
    let page = ChangePage { changes: events.map(Change::from).collect(), version, more: page.more };
    Ok((version_header(&page.version), Json(page)).into_response())
}

/// The events of a stream.
///
/// An operation may touch several documents, each an event of the same version. Resuming after that version would
/// skip those that were not sent yet, so an event bears the version before its own: of all that is certainly sent.
fn events(watch: Watch) -> impl Stream<Item = Result<Event, Infallible>> {
    let start = watch.version().to_string();
    let opening = event("watching", &start, &Watching { version: start.clone() });
    let rest = stream::unfold(Some((watch, start.clone(), start)), |progress| async move {
        let (mut watch, mut complete, mut current) = progress?;
        match watch.next().await? {
            Ok(change) => {
                let change = Change::from(change);
                if change.version != current {
                    complete = std::mem::replace(&mut current, change.version.clone());
                }
                let event = event("change", &complete, &change);
                Some((event, Some((watch, complete, current))))
            }
            Err(error) => Some((last_event(error, &complete), None)),
        }
    });
    stream::once(async { opening }).chain(rest).map(Ok)
}

fn last_event(error: Error, resume: &str) -> Event {
    event("problem", resume, &Problem::from(error))
}

fn event(name: &str, id: &str, data: &impl serde::Serialize) -> Event {
    // JSON on one line: no data can break out of its event.
    let json = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).id(id).data(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_given_to_those_who_ask_for_one() {
        let accepts = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            accepts_events(&headers)
        };
        assert!(accepts("text/event-stream"));
        assert!(accepts("application/json, text/Event-Stream;q=0.9"));
        assert!(!accepts("*/*"));
        assert!(!accepts("application/json"));
        assert!(!accepts_events(&HeaderMap::new()));
    }
}
