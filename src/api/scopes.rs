//! Which scope a request needs: one table for all routes, and a route that it does not name is the owner's alone.
//!
//! The space that a request is about is the one in its path. A token for one space opens nothing whose path has none.

use axum::http::Method;

use crate::node::tokens::TokenScope::{self, Admin, Read, Write};

/// What a path has that is about one space.
const SPACE_SEGMENT: &str = "{space}";

/// Resources that say nothing about this node and need no token.
pub(super) const OPEN_PATHS: [&str; 2] = ["/healthz", "/openapi.json"];

/// Method, path as the router has it, and the scope that a token needs.
const SCOPES: &[(&str, &str, TokenScope)] = &[
    ("GET", "/metrics", Read),
    ("GET", "/v1/status", Read),
    ("GET", "/v1/peers", Read),
    ("POST", "/v1/peers", Admin),
    ("PUT", "/v1/peers/{device}/ban", Admin),
    ("DELETE", "/v1/peers/{device}/ban", Admin),
    ("GET", "/v1/backup", Admin),
    ("POST", "/v1/backup", Admin),
    ("GET", "/v1/tokens", Admin),
    ("POST", "/v1/tokens", Admin),
    ("DELETE", "/v1/tokens/{id}", Admin),
    ("GET", "/v1/spaces", Read),
    ("POST", "/v1/spaces", Admin),
    ("POST", "/v1/spaces/join", Admin),
    ("GET", "/v1/spaces/{space}", Read),
    ("DELETE", "/v1/spaces/{space}", Admin),
    ("PATCH", "/v1/spaces/{space}", Admin),
    ("GET", "/v1/spaces/{space}/invitations", Read),
    ("POST", "/v1/spaces/{space}/invitations", Admin),
    ("DELETE", "/v1/spaces/{space}/invitations/{invitation}", Admin),
    ("GET", "/v1/spaces/{space}/members", Read),
    ("POST", "/v1/spaces/{space}/members", Admin),
    ("PATCH", "/v1/spaces/{space}/members/{device}", Admin),
    ("DELETE", "/v1/spaces/{space}/members/{device}", Admin),
    ("POST", "/v1/spaces/{space}/handover", Admin),
    ("POST", "/v1/spaces/{space}/recovery", Admin),
    ("POST", "/v1/spaces/{space}/rotation", Admin),
    ("POST", "/v1/spaces/{space}/resolutions", Admin),
    ("GET", "/v1/spaces/{space}/log", Read),
    ("GET", "/v1/spaces/{space}/uncounted", Read),
    // It changes nothing, but reads the whole log and keeps others from checking meanwhile.
    ("POST", "/v1/spaces/{space}/verify", Admin),
    ("GET", "/v1/spaces/{space}/documents", Read),
    ("GET", "/v1/spaces/{space}/documents/{*key}", Read),
    ("PUT", "/v1/spaces/{space}/documents/{*key}", Write),
    ("PATCH", "/v1/spaces/{space}/documents/{*key}", Write),
    ("DELETE", "/v1/spaces/{space}/documents/{*key}", Write),
    ("GET", "/v1/spaces/{space}/history/{*key}", Read),
    ("GET", "/v1/spaces/{space}/conflicts", Read),
    ("GET", "/v1/spaces/{space}/conflicts/{*key}", Read),
    ("POST", "/v1/spaces/{space}/transactions", Write),
    ("GET", "/v1/spaces/{space}/changes", Read),
    // Neither tells a secret, but a large body costs memory.
    ("POST", "/v1/bytes/seal", Read),
    ("POST", "/v1/bytes/verify", Read),
    // These use the device's own key, which speaks for its owner.
    ("POST", "/v1/bytes/open", Admin),
    ("POST", "/v1/bytes/sign", Admin),
];

/// What a request asks of the token that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// This scope, for the space in the path.
    Space(TokenScope),
    /// This scope, for all spaces.
    Node(TokenScope),
    /// The owner's own token: the table does not name the route.
    Owner,
}

/// What a request to this route needs; `path` is the router's, with its variables.
pub(super) fn need(method: &Method, path: &str) -> Need {
    // Whoever may read may ask for the head alone.
    let method = if method == Method::HEAD { Method::GET } else { method.clone() };
    let named = SCOPES.iter().find(|(named, at, _)| *named == method.as_str() && *at == path);
    match named {
        Some((_, _, scope)) if path.split('/').any(|segment| segment == SPACE_SEGMENT) => Need::Space(*scope),
        Some((_, _, scope)) => Need::Node(*scope),
        None => Need::Owner,
    }
}
