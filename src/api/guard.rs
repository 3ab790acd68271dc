//! What every request passes before it reaches a route: is it meant for this host, does it know the token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;

use super::problem::{Problem, ProblemKind};
use super::token::{ApiToken, TOKEN_FILE};

/// Resources that say nothing about this node and need no token.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/openapi.json"];

/// What the guard has to know.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) token: ApiToken,
    /// Whether the API is bound to this machine alone.
    pub(super) loopback: bool,
}

/// Checks host and token, then traces the request.
///
/// The query is left out of the trace: it may hold the token.
pub(super) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match admit(&gate, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let elapsed_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(%method, path, status = response.status().as_u16(), elapsed_us, "request");
    response
}

fn admit(gate: &Gate, request: &Request) -> Result<(), Problem> {
    if gate.loopback && !is_local_host(request.headers(), request.uri()) {
        // A page of another site whose name was made to point here would send its own name.
        let detail = "this node answers on this machine only: address it as localhost or by its IP address";
        return Err(Problem::new(ProblemKind::Misdirected, detail));
    }
    if OPEN_PATHS.contains(&request.uri().path()) || presents(&gate.token, request) {
        return Ok(());
    }
    let detail = format!(
        "send the header `Authorization: Bearer <token>` with the token in the file `{TOKEN_FILE}` of the node's data \
         directory (an event stream may send it as ?token=)"
    );
    Err(Problem::new(ProblemKind::Unauthorised, detail))
}

fn presents(token: &ApiToken, request: &Request) -> bool {
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        return bearer(value.as_bytes()).is_some_and(|secret| token.matches(secret));
    }
    // EventSource cannot send headers; nothing but reading is allowed that way.
    request.method() == Method::GET && query_token(request.uri()).is_some_and(|secret| token.matches(&secret))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| secret.trim_ascii())
}

fn query_token(uri: &Uri) -> Option<Vec<u8>> {
    let value = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("token="))?;
    Some(percent_decode_str(value).collect())
}

/// Whether the host that the client asked for is this machine by an address that no name server can give out.
fn is_local_host(headers: &HeaderMap, uri: &Uri) -> bool {
    let stated = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = stated.or_else(|| uri.authority().map(|authority| authority.as_str()));
    authority.is_some_and(|authority| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_cannot_be_rebound_are_local() {
        let local = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            is_local_host(&headers, &Uri::from_static("/v1/status"))
        };
        for host in ["localhost", "LOCALHOST:34570", "127.0.0.1:34570", "127.8.8.8", "[::1]:80", "[::1]"] {
            assert!(local(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example:80", "192.0.2.1", "[2001:db8::1]:80", "127.0.0.1.nip.io"]
        {
            assert!(!local(host), "{host}");
        }
        assert!(!is_local_host(&HeaderMap::new(), &Uri::from_static("/")));
        assert!(is_local_host(&HeaderMap::new(), &Uri::from_static("http://localhost:1/")));
    }

    #[test]
    fn the_token_comes_in_a_header_or_for_reading_in_the_query() {
        let token = ApiToken::new("sesame-sesame-16");
        let presented = |method: Method, uri: &str, authorization: Option<&str>| {
            let mut request = Request::builder().method(method).uri(uri);
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            presents(&token, &request.body(axum::body::Body::empty()).unwrap())
        };
        assert!(presented(Method::PUT, "/", Some("Bearer sesame-sesame-16")));
        assert!(presented(Method::PUT, "/", Some("bearer sesame-sesame-16 ")));
        assert!(presented(Method::GET, "/?a=1&token=sesame-sesame%2D16", None));
        assert!(!presented(Method::PUT, "/?token=sesame-sesame-16", None));
        assert!(!presented(Method::GET, "/?token=sesame-sesame-16", Some("Bearer wrong")));
        for wrong in ["", "Bearer", "Bearer ", "Basic sesame-sesame-16", "Bearer sesame-sesame-1"] {
            assert!(!presented(Method::GET, "/", Some(wrong)), "{wrong}");
        }
        assert!(!presented(Method::GET, "/", None));
    }
}
