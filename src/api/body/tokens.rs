//! API tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::tokens::{self, TokenInfo, TokenTerms};

/// What a token allows; each scope includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenScope {
    /// Reading.
    Read,
    /// Writing documents.
    Write,
    /// Everything else.
    Admin,
}

impl From<TokenScope> for tokens::TokenScope {
    fn from(scope: TokenScope) -> Self {
        match scope {
            TokenScope::Read => Self::Read,
            TokenScope::Write => Self::Write,
            TokenScope::Admin => Self::Admin,
        }
    }
}

impl From<tokens::TokenScope> for TokenScope {
    fn from(scope: tokens::TokenScope) -> Self {
        match scope {
            tokens::TokenScope::Read => Self::Read,
            tokens::TokenScope::Write => Self::Write,
            tokens::TokenScope::Admin => Self::Admin,
        }
    }
}

/// What a new token is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What it allows.
    pub scope: TokenScope,
    /// The space that it is for, by name or id; otherwise it is for all of them and for the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// What a person calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For how long it is good, in milliseconds from now; otherwise until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts_ms: Option<u64>,
}

impl From<TokenRequest> for TokenTerms {
    fn from(request: TokenRequest) -> Self {
        let TokenRequest { scope, space, name, lasts_ms } = request;
        Self { scope: scope.into(), space, name, lasts_ms }
    }
}

/// What is known of a token; the secret is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its public name.
    pub id: String,
    /// What a person calls it.
    pub name: Option<String>,
    /// What it allows.
    pub scope: TokenScope,
    /// The id of the space that it is for; none: all of them, and the node.
    pub space: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// Whether its time is over.
    pub expired: bool,
}

impl From<TokenInfo> for Token {
    fn from(info: TokenInfo) -> Self {
        Self {
            id: info.id.to_string(),
            expired: info.is_expired(),
            scope: info.scope.into(),
            space: info.space.map(|space| space.to_string()),
            name: info.name,
            created_ms: info.created_ms,
            expires_ms: info.expires_ms,
        }
    }
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The token itself, to be handed over like a password: shown this once, stored nowhere.
    pub token: String,
    /// What is known of it from now on.
    #[serde(flatten)]
    pub known: Token,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CreatedToken({})", self.known.id)
    }
}

impl From<tokens::CreatedToken> for CreatedToken {
    fn from(created: tokens::CreatedToken) -> Self {
        Self { token: created.reveal().to_owned(), known: created.info.into() }
    }
}

/// The tokens of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// In the order in which they were made; the owner's own is not among them.
    pub tokens: Vec<Token>,
}
