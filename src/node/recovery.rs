//! The recovery key of a space: what a person writes down to be able to take the space over.
//!
//! ```text
//! "syncline-recovery:" ‖ base32 (32 bytes: the seed of an ed25519 key ‖ 4 bytes of BLAKE3 over them)
//! ```
//!
//! It is shown once, when the space is created, and stored nowhere; the space's first record names its public half.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use syncline_model::DeviceKey;
use zeroize::Zeroizing;

/// What every recovery key begins with.
pub const RECOVERY_KEY_PREFIX: &str = "syncline-recovery:";
/// Longest text that is looked at; a key written in groups has spaces in it.
pub const RECOVERY_KEY_TEXT_BYTES_MAX: usize = 512;
const SEED_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;

/// Why a text is no recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryKeyError {
    /// Another kind of text.
    #[error(
        "this is not a recovery key: one begins with `{RECOVERY_KEY_PREFIX}` and was shown once, when the space was \
         created"
    )]
    NotARecoveryKey,
    /// Characters are missing or changed.
    #[error(
        "the recovery key is damaged: some of its characters are missing or wrong. Compare it with what was written \
         down, from `{RECOVERY_KEY_PREFIX}` to its last character"
    )]
    Damaged,
}

/// A recovery key. It prints as dots; [`RecoveryKey::reveal`] gives its text.
pub struct RecoveryKey(DeviceKey);

impl RecoveryKey {
    /// The recovery key with this secret.
    pub(crate) fn new(key: &DeviceKey) -> Self {
        Self(key.clone())
    }

    pub(crate) fn key(&self) -> DeviceKey {
        self.0.clone()
    }

    /// The text that a person writes down.
    pub fn reveal(&self) -> String {
        let mut bytes = Zeroizing::new(Vec::with_capacity(SEED_BYTES + CHECKSUM_BYTES));
        bytes.extend_from_slice(self.0.seed());
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        format!("{RECOVERY_KEY_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(…)")
    }
}

impl FromStr for RecoveryKey {
    type Err = RecoveryKeyError;

    /// Parses a recovery key; white space and capital letters in it do not matter, since people write it by hand.
    fn from_str(text: &str) -> Result<Self, RecoveryKeyError> {
        if text.len() > RECOVERY_KEY_TEXT_BYTES_MAX {
            return Err(RecoveryKeyError::NotARecoveryKey);
        }
        let text: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect::<String>().to_ascii_lowercase());
        let encoded = text.strip_prefix(RECOVERY_KEY_PREFIX).ok_or(RecoveryKeyError::NotARecoveryKey)?;
        let bytes = BASE32_NOPAD.decode(Zeroizing::new(encoded.to_ascii_uppercase()).as_bytes());
        let bytes = Zeroizing::new(bytes.map_err(|_| RecoveryKeyError::Damaged)?);
        let (seed, checksum) = bytes.split_at_checked(SEED_BYTES).ok_or(RecoveryKeyError::Damaged)?;
        if checksum != &blake3::hash(seed).as_bytes()[..CHECKSUM_BYTES] {
            return Err(RecoveryKeyError::Damaged);
        }
        let seed = Zeroizing::new(<[u8; SEED_BYTES]>::try_from(seed).map_err(|_| RecoveryKeyError::Damaged)?);
        Ok(Self(DeviceKey::from_seed(&seed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_people_write_it_and_mistakes_are_noticed() {
        let key = DeviceKey::from_seed(&[5; 32]);
        let text = RecoveryKey::new(&key).reveal();
        let read = |text: &str| text.parse::<RecoveryKey>().map(|read| read.0.id());
        assert_eq!(read(&text), Ok(key.id()));
        assert_eq!(read(&format!(" {}\n{}", &text[..30].to_uppercase(), &text[30..])), Ok(key.id()));
        let changed = if text.ends_with('a') { "b" } else { "a" };
        let last = text.len() - 10;
        for damaged in
            [&text[..last], &format!("{}{changed}{}", &text[..last], &text[last + 1..]), &format!("{text}aa")]
        {
            // One in 32 of the changed texts would be the text itself.
            if *damaged != text {
                assert_eq!(read(damaged), Err(RecoveryKeyError::Damaged), "{damaged}");
            }
        }
        for other in ["", "hello", &text[1..], "syncline:abc", &"x".repeat(10_000)] {
            assert_eq!(read(other), Err(RecoveryKeyError::NotARecoveryKey), "{other}");
        }
        assert!(!format!("{:?}", text.parse::<RecoveryKey>()).contains(&text[20..]));
    }
}
