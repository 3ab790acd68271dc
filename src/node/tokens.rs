//! API tokens: what other programs prove themselves with, for how much of a node they may use it, and until when.
//!
//! ```text
//! token = "syncline-token-" ‖ id (8 characters) ‖ "-" ‖ secret (52 characters: 32 random bytes)
//! file  = canonical list of (id, name, scope, space, created, expires, BLAKE3 of the secret)
//! ```
//!
//! The secret is shown once, when the token is made; the file, which only its owner can read, holds a hash of it. A
//! plain hash is enough, since nobody can guess 32 random bytes. The id is no secret: it stands in logs and lists.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use syncline_model::limits::NAME_BYTES_MAX;
use syncline_model::{SpaceId, canonical};
use syncline_storage::{FileScope, SmallFiles};
use tokio::sync::watch;
use zeroize::{Zeroize, Zeroizing};

use super::files::wall_ms;
use super::{Node, builder};
use crate::error::Error;

/// Most tokens that a device keeps; those that have expired make room.
pub const TOKENS_MAX: usize = 1000;
/// Longest life of a token that expires, in milliseconds: ten years.
pub const TOKEN_MS_MAX: u64 = 3660 * 24 * 3600 * 1000;

const FILE: &str = "api-tokens";
const PREFIX: &str = "syncline-token-";
const HASH_CONTEXT: &str = "syncline api token 1";
const ID_BYTES: usize = 5;
const SECRET_BYTES: usize = 32;
/// Longest sleep until an expiry is looked at again: a clock that is set meanwhile is noticed.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);

/// What a token allows; each scope includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TokenScope {
    /// Reading.
    Read,
    /// Writing documents.
    Write,
    /// Everything else: members, invitations, spaces, peers, tokens, the device's own signature.
    Admin,
}

impl TokenScope {
    /// The name a person types and reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// The public name of a token: eight characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId([u8; ID_BYTES]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok();
        let id = bytes.and_then(|bytes| bytes.try_into().ok()).map(Self);
        id.ok_or_else(|| Error::UnknownToken { asked: text.chars().take(80).collect() })
    }
}

/// What a new token is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTerms {
    /// What it allows.
    pub scope: TokenScope,
    /// The space that it is for, by name or id; without one it is for all of them and for the node.
    pub space: Option<String>,
    /// What a person calls it.
    pub name: Option<String>,
    /// For how long it is good, in milliseconds; without a limit it is good until it is revoked.
    pub lasts_ms: Option<u64>,
}

/// What is known of a token; the secret is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its public name.
    pub id: TokenId,
    /// What a person calls it.
    pub name: Option<String>,
    /// What it allows.
    pub scope: TokenScope,
    /// The space that it is for; none: all of them, and the node.
    pub space: Option<SpaceId>,
    /// When it was made, in ms since 1970.
    pub created_ms: u64,
    /// When it ends, in ms since 1970.
    pub expires_ms: Option<u64>,
}

impl TokenInfo {
    /// Whether its time is over.
    pub fn is_expired(&self) -> bool {
        self.expires_ms.is_some_and(|end| end <= wall_ms())
    }
}

/// A token that was just made, with its secret: shown this once, stored nowhere.
#[derive(Clone)]
pub struct CreatedToken {
    /// What is known of it from now on.
    pub info: TokenInfo,
    text: Zeroizing<String>,
}

impl CreatedToken {
    /// The token itself, to be handed over like a password.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CreatedToken({})", self.info.id)
    }
}

/// A token as the file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    id: TokenId,
    name: Option<String>,
    scope: TokenScope,
    space: Option<SpaceId>,
    created_ms: u64,
    expires_ms: Option<u64>,
    hash: [u8; 32],
}

impl Stored {
    fn info(&self) -> TokenInfo {
        let Self { id, name, scope, space, created_ms, expires_ms, .. } = self.clone();
        TokenInfo { id, name, scope, space, created_ms, expires_ms }
    }
}

/// The tokens of a data directory.
#[derive(Debug)]
pub(super) struct Tokens {
    files: SmallFiles,
    /// One change of the file at a time.
    changing: Mutex<()>,
    list: watch::Sender<Vec<Stored>>,
}

impl Tokens {
    pub(super) fn load(files: SmallFiles) -> Result<Self, Error> {
        let list = match files.read(FileScope::Node, FILE)? {
            Some(bytes) => {
                canonical::decode(&bytes, "token file").map_err(|_| Error::DamagedFile { what: "the token file" })?
            }
            None => Vec::new(),
        };
        Ok(Self { files, changing: Mutex::new(()), list: watch::Sender::new(list) })
    }

    fn create(
        &self,
        terms: TokenTerms,
        space: Option<SpaceId>,
        random: &mut impl CryptoRng,
    ) -> Result<CreatedToken, Error> {
        let TokenTerms { scope, name, lasts_ms, .. } = terms;
        check_name(name.as_deref())?;
        if lasts_ms.is_some_and(|lasts| lasts == 0 || lasts > TOKEN_MS_MAX) {
            return Err(Error::BadTokenLife);
        }
        let _changing = self.lock();
        let mut list = self.list.borrow().clone();
        list.retain(|token| !token.info().is_expired());
        if list.len() >= TOKENS_MAX {
            return Err(Error::TooManyTokens { limit: TOKENS_MAX });
        }
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        random.fill_bytes(&mut *secret);
        let mut id = [0; ID_BYTES];
        while list.iter().any(|token| token.id.0 == id) || id == [0; ID_BYTES] {
            random.fill_bytes(&mut id);
        }
        let (id, created_ms) = (TokenId(id), wall_ms());
        let expires_ms = lasts_ms.map(|lasts| created_ms.saturating_add(lasts));
        let stored = Stored { id, name, scope, space, created_ms, expires_ms, hash: *hash(&*secret).as_bytes() };
        let info = stored.info();
        list.push(stored);
        self.write(&list)?;
        self.list.send_replace(list);
        tracing::info!(token = %id, scope = scope.name(), "an API token was created");
        let mut encoded = Zeroizing::new(BASE32_NOPAD.encode(&*secret));
        encoded.make_ascii_lowercase();
        Ok(CreatedToken { info, text: Zeroizing::new(format!("{PREFIX}{id}-{}", *encoded)) })
    }

    /// From here on the token is refused, whatever the disk says.
    fn revoke(&self, id: TokenId) -> Result<(), Error> {
        let _changing = self.lock();
        let known = self.list.send_if_modified(|list| {
            let before = list.len();
            list.retain(|token| token.id != id);
            list.len() < before
        });
        if !known {
            return Err(Error::UnknownToken { asked: id.to_string() });
        }
        tracing::info!(token = %id, "an API token was revoked");
        let list = self.list.borrow().clone();
        self.write(&list)
    }

    fn authenticate(&self, presented: &[u8]) -> Option<TokenInfo> {
        let (id, secret) = parse(presented)?;
        let list = self.list.borrow();
        let stored = list.iter().find(|token| token.id == id)?;
        // Hashes compare in constant time.
        let right = hash(&*secret) == blake3::Hash::from_bytes(stored.hash);
        let info = stored.info();
        (right && !info.is_expired()).then_some(info)
    }

    fn write(&self, list: &Vec<Stored>) -> Result<(), Error> {
        Ok(self.files.write_secret(FileScope::Node, FILE, &canonical::encode(list))?)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Makes a token with which other programs may use the API.
    ///
    /// # Errors
    /// When the space is unknown, name or life are out of their range, there are too many tokens, or the disk fails.
    pub async fn create_token(&self, terms: TokenTerms) -> Result<CreatedToken, Error> {
        let space = terms.space.as_deref().map(|space| self.space(space)).transpose()?.map(|space| space.id());
        let tokens = self.inner.tokens.clone();
        builder::blocking(move || tokens.create(terms, space, &mut rand::make_rng::<rand::rngs::StdRng>())).await
    }

    /// The tokens, in the order in which they were made.
    pub fn tokens(&self) -> Vec<TokenInfo> {
        self.inner.tokens.list.borrow().iter().map(Stored::info).collect()
    }

    /// Ends a token: requests with it are refused from now on, and streams that it opened end.
    ///
    /// # Errors
    /// When there is none of this id, or the disk fails; in the latter case it is refused until the node ends.
    pub async fn revoke_token(&self, id: TokenId) -> Result<(), Error> {
        let tokens = self.inner.tokens.clone();
        builder::blocking(move || tokens.revoke(id)).await
    }

    /// What a presented token allows; none if it is unknown, revoked or expired.
    pub fn authenticate_token(&self, presented: &[u8]) -> Option<TokenInfo> {
        self.inner.tokens.authenticate(presented)
    }

    /// Waits until a token is good no longer: revoked, or its time over.
    pub async fn token_ended(&self, id: TokenId) {
        let mut list = self.inner.tokens.list.subscribe();
        loop {
            let left = {
                let list = list.borrow_and_update();
                let Some(token) = list.iter().find(|token| token.id == id) else { return };
                token.expires_ms.map(|end| Duration::from_millis(end.saturating_sub(wall_ms())))
            };
            match left {
                Some(Duration::ZERO) => return,
                Some(left) => {
                    tokio::select! {
                        _ = list.changed() => {}
                        () = tokio::time::sleep(left.min(EXPIRY_LOOK)) => {}
                    }
                }
                // An error means that the node is gone, and with it whatever the token was for.
                None if list.changed().await.is_err() => return,
                None => {}
            }
        }
    }
}

fn hash(secret: &[u8]) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key(HASH_CONTEXT, secret))
}

/// The id and the secret in a presented token.
fn parse(presented: &[u8]) -> Option<(TokenId, Zeroizing<[u8; SECRET_BYTES]>)> {
    let (id, secret) = str::from_utf8(presented).ok()?.strip_prefix(PREFIX)?.split_once('-')?;
    let upper = Zeroizing::new(secret.to_ascii_uppercase());
    let mut bytes = BASE32_NOPAD.decode(upper.as_bytes()).ok()?;
    let secret = bytes.as_slice().try_into().ok().map(Zeroizing::new);
    bytes.zeroize();
    Some((id.parse().ok()?, secret?))
}

fn check_name(name: Option<&str>) -> Result<(), Error> {
    let fits = |name: &str| {
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.trim() == name && !name.chars().any(char::is_control)
    };
    if name.is_none_or(fits) { Ok(()) } else { Err(Error::BadTokenName { limit: NAME_BYTES_MAX }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn node(directory: &std::path::Path) -> Node {
        Node::builder().data(directory).create(true).offline().start().await.unwrap()
    }

    fn terms(scope: TokenScope) -> TokenTerms {
        TokenTerms { scope, space: None, name: None, lasts_ms: None }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_is_good_from_when_it_is_made_until_it_is_revoked() {
        let directory = tempfile::tempdir().unwrap();
        let first = node(directory.path()).await;
        let name = Some("a dashboard".to_owned());
        let token = first.create_token(TokenTerms { name, ..terms(TokenScope::Read) }).await.unwrap();
        let secret = token.reveal().as_bytes();
        assert_eq!(first.authenticate_token(secret), Some(token.info.clone()));
        assert_eq!(first.tokens(), std::slice::from_ref(&token.info));
        for wrong in ["", PREFIX, "syncline-token-aaaaaaaa-aaaa", &token.reveal()[..token.reveal().len() - 1]] {
            assert_eq!(first.authenticate_token(wrong.as_bytes()), None, "{wrong}");
        }
        let other = first.create_token(terms(TokenScope::Admin)).await.unwrap();
        let (_, secret_of_other) = other.reveal().rsplit_once('-').unwrap();
        let mixed = format!("{PREFIX}{}-{secret_of_other}", token.info.id);
        assert_eq!(first.authenticate_token(mixed.as_bytes()), None);
        first.shutdown().await;

        let path = directory.path().join("node").join(FILE);
        let stored = std::fs::read(&path).unwrap();
        let (_, encoded) = token.reveal().rsplit_once('-').unwrap();
        let bytes = BASE32_NOPAD.decode(encoded.to_ascii_uppercase().as_bytes()).unwrap();
        assert!(!stored.windows(8).any(|window| bytes.windows(8).any(|part| part == window)));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }

        let second = node(directory.path()).await;
        assert_eq!(second.authenticate_token(secret), Some(token.info.clone()));
        second.revoke_token(token.info.id).await.unwrap();
        assert_eq!(second.authenticate_token(secret), None);
        let error = second.revoke_token(token.info.id).await.unwrap_err();
        assert!(matches!(error, Error::UnknownToken { .. }), "{error}");
        second.shutdown().await;
        let third = node(directory.path()).await;
        assert_eq!(third.authenticate_token(secret), None);
        assert_eq!(third.tokens().len(), 1);
        third.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_ends_when_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let node = node(directory.path()).await;
        let token = node.create_token(TokenTerms { lasts_ms: Some(300), ..terms(TokenScope::Write) }).await.unwrap();
        assert!(node.authenticate_token(token.reveal().as_bytes()).is_some());
        tokio::time::timeout(Duration::from_secs(5), node.token_ended(token.info.id)).await.unwrap();
        assert!(node.authenticate_token(token.reveal().as_bytes()).is_none());
        for lasts_ms in [0, TOKEN_MS_MAX + 1] {
            let wrong = TokenTerms { lasts_ms: Some(lasts_ms), ..terms(TokenScope::Write) };
            assert!(matches!(node.create_token(wrong).await, Err(Error::BadTokenLife)));
        }
        for name in ["", " a", "a\nb", &"n".repeat(NAME_BYTES_MAX + 1)] {
            let wrong = TokenTerms { name: Some(name.to_owned()), ..terms(TokenScope::Read) };
            assert!(matches!(node.create_token(wrong).await, Err(Error::BadTokenName { .. })));
        }
        let absent = TokenTerms { space: Some("absent".to_owned()), ..terms(TokenScope::Read) };
        assert!(matches!(node.create_token(absent).await, Err(Error::UnknownSpace { .. })));
        node.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn there_is_a_limit_and_expired_tokens_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let node = node(directory.path()).await;
        let token = node.create_token(TokenTerms { lasts_ms: Some(1), ..terms(TokenScope::Read) }).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), node.token_ended(token.info.id)).await.unwrap();
        // Filled in memory: a thousand durable writes would say nothing more.
        let stored = node.inner.tokens.list.borrow()[0].clone();
        node.inner.tokens.list.send_modify(|list| {
            let more = (1..TOKENS_MAX as u32).map(|number| {
                let mut id = [1; ID_BYTES];
                id[..4].copy_from_slice(&number.to_le_bytes());
                Stored { id: TokenId(id), expires_ms: None, ..stored.clone() }
            });
            list.extend(more);
        });
        node.create_token(terms(TokenScope::Read)).await.unwrap();
        assert_eq!(node.tokens().len(), TOKENS_MAX);
        let error = node.create_token(terms(TokenScope::Read)).await.unwrap_err();
        assert!(matches!(error, Error::TooManyTokens { limit: TOKENS_MAX }), "{error}");
        node.shutdown().await;
    }
}
