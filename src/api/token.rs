//! The API token: a secret in the data directory that every client on this machine has to know.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::limits::OWN_FILE_BYTES_MAX;

/// The name of the token's file in the data directory.
pub const TOKEN_FILE: &str = "api.token";
const TOKEN_BYTES: usize = 32;

/// The secret that a request has to carry.
#[derive(Clone)]
pub struct ApiToken {
    text: Zeroizing<String>,
    // Hashes of equal length are compared in constant time; the secret itself never is.
    hash: blake3::Hash,
}

impl ApiToken {
    /// The token in this text.
    pub fn new(text: impl Into<String>) -> Self {
        let text = Zeroizing::new(text.into());
        let hash = blake3::hash(text.as_bytes());
        Self { text, hash }
    }

    /// Reads the token of a data directory, or makes one that only the owner of the file can read.
    ///
    /// # Errors
    /// Those of the file system, and [`io::ErrorKind::InvalidData`] if the file holds no token.
    pub fn load_or_create(directory: &Path) -> io::Result<Self> {
        match Self::load(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(&token_path(directory)),
            result => result,
        }
    }

    /// Reads the token of a data directory.
    ///
    /// # Errors
    /// Those of the file system, and [`io::ErrorKind::InvalidData`] if the file holds no token.
    pub fn load(directory: &Path) -> io::Result<Self> {
        let mut text = Zeroizing::new(String::new());
        File::open(token_path(directory))?.take(OWN_FILE_BYTES_MAX).read_to_string(&mut text)?;
        let text = text.trim();
        if text.len() < 16 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("`{TOKEN_FILE}` holds no token: delete the file and a new one is made");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Self::new(text))
    }

    fn create(path: &Path) -> io::Result<Self> {
        let mut secret = Zeroizing::new([0; TOKEN_BYTES]);
        getrandom::fill(&mut *secret).map_err(io::Error::other)?;
        let token = Self::new(data_encoding::BASE32_NOPAD.encode(&*secret).to_ascii_lowercase());
        // Written aside and moved, so that a crash leaves no half of a token behind.
        let fresh = path.with_extension("token.new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = owner_only().write(true).create_new(true).open(&fresh)?;
        file.write_all(token.text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        Ok(token)
    }

    /// The secret itself, to be sent in a header.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether a presented secret is this one; the time taken does not tell how much of it is right.
    pub fn matches(&self, presented: &[u8]) -> bool {
        blake3::hash(presented) == self.hash
    }
}

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiToken(…)")
    }
}

/// Where the token of a data directory is.
pub fn token_path(directory: &Path) -> PathBuf {
    directory.join(TOKEN_FILE)
}

#[cfg(unix)]
fn owner_only() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(not(unix))]
fn owner_only() -> OpenOptions {
    OpenOptions::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let made = ApiToken::load_or_create(directory.path()).unwrap();
        let again = ApiToken::load_or_create(directory.path()).unwrap();
        assert_eq!(made.reveal(), again.reveal());
        assert!(made.reveal().len() >= 50);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(token_path(directory.path())).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let other = tempfile::tempdir().unwrap();
        assert_ne!(ApiToken::load_or_create(other.path()).unwrap().reveal(), made.reveal());
    }

    #[test]
    fn only_the_whole_secret_matches() {
        let token = ApiToken::new("abcdefghijklmnop");
        assert!(token.matches(b"abcdefghijklmnop"));
        for wrong in ["", "abcdefghijklmno", "abcdefghijklmnopq", "Abcdefghijklmnop"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "ApiToken(…)");
    }

    #[test]
    fn an_empty_file_is_not_a_token() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(token_path(directory.path()), "\n").unwrap();
        let error = ApiToken::load_or_create(directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
