//! What every request passes before it reaches a route: is it meant for this host, does no page of another site make
//! it, does it carry a token, and is that token good for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use super::problem::{Problem, ProblemKind};
use super::scopes::{Need, OPEN_PATHS, need};
use super::token::{ApiToken, TOKEN_FILE};
use crate::Node;
use crate::node::tokens::{TokenId, TokenInfo, TokenScope};

/// Where a browser says which kind of site makes a request (W3C, Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// What the guard has to know.
#[derive(Debug)]
pub(super) struct Gate {
    /// The owner's token, which allows everything.
    pub(super) token: ApiToken,
    /// Whether the API is bound to this machine alone.
    pub(super) loopback: bool,
    /// Who knows the other tokens.
    pub(super) node: Node,
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Caller {
    /// Anybody: the resource is open to all.
    Anybody,
    /// Whoever has the token of the data directory.
    Owner,
    /// Whoever has this token.
    Token(TokenInfo),
}

impl Caller {
    /// For the log: never the token itself.
    fn name(&self) -> String {
        match self {
            Self::Anybody => "none".to_owned(),
            Self::Owner => "owner".to_owned(),
            Self::Token(token) => token.id.to_string(),
        }
    }
}

/// Checks host, origin and token, traces the request, and ends its answer when the token ends.
///
/// The query is left out of the trace: it may hold the token.
pub(super) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (mut parts, body) = request.into_parts();
    let admitted = admit(&gate, &mut parts).await;
    let caller = admitted.as_ref().map_or_else(|_| "refused".to_owned(), Caller::name);
    let response = match admitted {
        Ok(Caller::Token(token)) => {
            with_token(gate.node.clone(), token.id, Request::from_parts(parts, body), next).await
        }
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => problem.into_response(),
    };
    let elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(%method, path, %caller, status = response.status().as_u16(), elapsed_us, "request");
    response
}

async fn admit(gate: &Gate, parts: &mut Parts) -> Result<Caller, Problem> {
    if gate.loopback && !is_local_host(&parts.headers, &parts.uri) {
        // A page of another site whose name was made to point here would send its own name.
        let detail = "this node answers on this machine only: address it as localhost or by its IP address";
        return Err(Problem::new(ProblemKind::Misdirected, detail));
    }
    if (!parts.method.is_safe() || is_web_socket(&parts.headers)) && !is_same_origin(&parts.headers, &parts.uri) {
        let detail = "a page of another origin makes this request: only programs and pages of this node's own origin \
                      may change anything or open a web socket";
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    if OPEN_PATHS.contains(&parts.uri.path()) {
        return Ok(Caller::Anybody);
    }
    let Some(caller) = caller(gate, parts) else {
        let detail = format!(
            "send the header `Authorization: Bearer <token>` with the token in the file `{TOKEN_FILE}` of the node's \
             data directory, or one that `syncline token create` made and that is still good (an event stream may \
             send it as ?token=)"
        );
        return Err(Problem::new(ProblemKind::Unauthorised, detail));
    };
    if let Caller::Token(token) = &caller {
        check_scope(gate, token, parts).await?;
    }
    Ok(caller)
}

fn caller(gate: &Gate, parts: &Parts) -> Option<Caller> {
    let secret = presented(parts)?;
    if gate.token.matches(&secret) {
        return Some(Caller::Owner);
    }
    gate.node.authenticate_token(&secret).map(Caller::Token)
}

/// The token that a request carries.
fn presented(parts: &Parts) -> Option<Zeroizing<Vec<u8>>> {
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        return bearer(value.as_bytes()).map(|secret| Zeroizing::new(secret.to_vec()));
    }
    // EventSource cannot send headers; nothing but reading is allowed that way.
    if parts.method == Method::GET { query_token(&parts.uri) } else { None }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
}

fn query_token(uri: &Uri) -> Option<Zeroizing<Vec<u8>>> {
    let value = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
    Some(Zeroizing::new(percent_decode_str(value).collect()))
}

/// Whether the token is good for what the request asks.
async fn check_scope(gate: &Gate, token: &TokenInfo, parts: &mut Parts) -> Result<(), Problem> {
    let Some(path) = parts.extensions.get::<MatchedPath>().cloned() else {
        // There is nothing at that path, which the answer will say.
        return Ok(());
    };
    let refused = |detail: String| Err(Problem::new(ProblemKind::Forbidden, detail));
    let (wanted, is_about_space) = match need(&parts.method, path.as_str()) {
        Need::Space(wanted) => (wanted, true),
        Need::Node(wanted) => (wanted, false),
        Need::Owner => {
            return refused(format!("this needs the owner's own token, the one in the file `{TOKEN_FILE}`"));
        }
    };
    if token.scope < wanted {
        return refused(too_weak(token, wanted));
    }
    let Some(allowed) = token.space else { return Ok(()) };
    let id = token.id;
    if !is_about_space {
        return refused(format!("the token `{id}` is for one space alone: this needs a token for all spaces"));
    }
    let variables = RawPathParams::from_request_parts(parts, &()).await;
    let asked =
        variables.ok().and_then(|all| all.iter().find(|(name, _)| *name == "space").map(|(_, value)| value.to_owned()));
    // One that is not here is refused like one that is, so that the answer does not tell which there are.
    match asked.and_then(|asked| gate.node.space(&asked).ok()) {
        Some(space) if space.id() == allowed => Ok(()),
        _ => refused(format!("the token `{id}` is for another space: this needs a token for this one, or for all")),
    }
}

fn too_weak(token: &TokenInfo, wanted: TokenScope) -> String {
    let (id, has, wanted) = (token.id, token.scope.name(), wanted.name());
    format!(
        "this needs a token with the scope `{wanted}`, and `{id}` has `{has}`: the owner makes one with \
         `syncline token create --scope {wanted}`"
    )
}

/// Runs a request as long as its token is good, and its answer as well.
async fn with_token(node: Node, token: TokenId, request: Request, next: Next) -> Response {
    let response = tokio::select! {
        response = next.run(request) => response,
        () = node.token_ended(token) => return ended().into_response(),
    };
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let is_events =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(EVENT_STREAM));
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::from_stream(while_good(body, node, token, is_events)))
}

fn ended() -> Problem {
    Problem::new(ProblemKind::Unauthorised, "the token was revoked or has expired")
}

/// The pieces of an answer that goes on, until the token ends: an event stream is told, any other breaks off.
fn while_good(
    body: Body,
    node: Node,
    token: TokenId,
    is_events: bool,
) -> impl Stream<Item = Result<Bytes, axum::BoxError>> {
    let end = Box::pin(async move { node.token_ended(token).await });
    stream::unfold(Some((body.into_data_stream(), end)), move |progress| async move {
        let (mut pieces, mut end) = progress?;
        tokio::select! {
            biased;
            () = &mut end => Some((last_piece(is_events), None)),
            piece = pieces.next() => Some((piece?.map_err(Into::into), Some((pieces, end)))),
        }
    })
}

fn last_piece(is_events: bool) -> Result<Bytes, axum::BoxError> {
    let problem = ended();
    if !is_events {
        return Err(problem.detail.into());
    }
    // A problem is three strings and a number: it always serialises.
    let json = serde_json::to_string(&problem).unwrap_or_default();
    Ok(Bytes::from(format!("event: problem\ndata: {json}\n\n")))
}

/// Whether the host that the client asked for is this machine by an address that no name server can give out.
fn is_local_host(headers: &HeaderMap, uri: &Uri) -> bool {
    let stated = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    let mut authorities = stated.chain(uri.authority().map(|authority| authority.as_str())).peekable();
    authorities.peek().is_some()
        && authorities.all(|authority| {
            let host = without_port(authority);
            host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        })
}

fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or("", |(host, _)| host);
    }
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

fn is_web_socket(headers: &HeaderMap) -> bool {
    let asked = headers.get_all(header::UPGRADE).iter().filter_map(|value| value.to_str().ok());
    asked.flat_map(|value| value.split(',')).any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// Whether a request comes from a program, which names no origin, or from a page of the very host that it asks for.
///
/// Browsers name the origin of every page that makes such a request, and no page can keep them from it.
fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    if headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
        return false;
    }
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        // `null` is what a page in a sandbox says: it may be anybody's.
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|authority| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)))
    })
}

#[cfg(test)]
mod tests;
