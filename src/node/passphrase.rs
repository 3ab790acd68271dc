//! Keys under a passphrase: Argon2id (RFC 9106) makes a sealing key of it.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use syncline_model::ContentKey;
use syncline_model::canonical;
use syncline_model::keys::{open, seal};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::Error;

/// Memory that one try takes, in KiB: the second recommendation of RFC 9106.
pub const ARGON2_MEMORY_KIB: u32 = 64 << 10;
/// Passes over that memory.
pub const ARGON2_PASSES: u32 = 3;
/// Lanes of that memory.
pub const ARGON2_LANES: u32 = 4;
/// What a new lock costs to open: unit tests open thousands.
const COSTS: (u32, u32, u32) = if cfg!(test) { (64, 1, 1) } else { (ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES) };
/// Most memory that is spent for a backup from elsewhere, in KiB.
const MEMORY_KIB_MAX: u32 = 1 << 20;
/// Most passes for a backup from elsewhere.
const PASSES_MAX: u32 = 16;
/// Most lanes for a backup from elsewhere.
const LANES_MAX: u32 = 16;
/// Longest passphrase, in bytes.
const PASSPHRASE_BYTES_MAX: usize = 4096;
const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// Bound by the seal that tells a wrong passphrase.
const CHECK_DOMAIN: &[u8] = b"syncline passphrase check 1";

/// What a person remembers; forgotten when dropped, printed never.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(String);

impl Passphrase {
    /// A passphrase from what a person typed or wrote into a file, without the line end.
    ///
    /// # Errors
    /// When it is empty or longer than 4096 bytes.
    pub fn new(text: &str) -> Result<Self, Error> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.len() > PASSPHRASE_BYTES_MAX {
            return Err(Error::BadPassphrase { limit: PASSPHRASE_BYTES_MAX });
        }
        Ok(Self(text.to_owned()))
    }

    /// The text, to be sent to the node that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// How a key was made of a passphrase, and what tells whether another one is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lock {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; SALT_BYTES],
    check: Vec<u8>,
}

impl Lock {
    /// A new lock with its key.
    pub(super) fn new(passphrase: &Passphrase, random: &mut impl CryptoRng) -> Result<(Self, ContentKey), Error> {
        let mut salt = [0; SALT_BYTES];
        random.fill_bytes(&mut salt);
        let (memory_kib, passes, lanes) = COSTS;
        let mut lock = Self { memory_kib, passes, lanes, salt, check: Vec::new() };
        let key = lock.derive(passphrase)?;
        lock.check = seal(&key, CHECK_DOMAIN, &[], random);
        Ok((lock, key))
    }

    /// The key, if the passphrase is the one that the lock was made with.
    ///
    /// # Errors
    /// When it is another one, or the lock asks for more work than any that is made here.
    pub(super) fn open(&self, passphrase: &Passphrase) -> Result<ContentKey, Error> {
        let fits = self.memory_kib <= MEMORY_KIB_MAX && self.passes <= PASSES_MAX && self.lanes <= LANES_MAX;
        if !fits {
            return Err(Error::DamagedFile { what: "the passphrase's lock" });
        }
        let key = self.derive(passphrase)?;
        open(&key, CHECK_DOMAIN, &self.check).map(|_| key).map_err(|_| Error::WrongPassphrase)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        canonical::decode(bytes, "passphrase lock").map_err(|_| Error::DamagedFile { what: "the passphrase's lock" })
    }

    fn derive(&self, passphrase: &Passphrase) -> Result<ContentKey, Error> {
        let damaged = |_| Error::DamagedFile { what: "the passphrase's lock" };
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES)).map_err(damaged)?;
        let mut key = ContentKey([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.0.as_bytes(), &self.salt, &mut key.0)
            .map_err(damaged)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_lock_opens_with_its_passphrase_and_no_other() {
        let mut random = StdRng::seed_from_u64(1);
        let passphrase = Passphrase::new("correct horse\n").unwrap();
        let (lock, key) = Lock::new(&passphrase, &mut random).unwrap();
        let read = Lock::decode(&lock.encode()).unwrap();
        assert_eq!(read, lock);
        assert_eq!(read.open(&Passphrase::new("correct horse").unwrap()).unwrap(), key);
        let wrong = read.open(&Passphrase::new("correct horse ").unwrap());
        assert!(matches!(wrong, Err(Error::WrongPassphrase)));
        assert_eq!(format!("{passphrase:?}"), "Passphrase(…)");
    }

    #[test]
    fn a_lock_that_asks_for_too_much_is_refused_before_any_work() {
        let lock = |memory_kib, passes, lanes| Lock { memory_kib, passes, lanes, salt: [0; 16], check: Vec::new() };
        let passphrase = Passphrase::new("a").unwrap();
        for greedy in [lock(u32::MAX, 1, 1), lock(64, u32::MAX, 1), lock(64, 1, u32::MAX), lock(0, 0, 0)] {
            assert!(matches!(greedy.open(&passphrase), Err(Error::DamagedFile { .. })), "{greedy:?}");
        }
        assert!(Passphrase::new("\n").is_err() && Passphrase::new(&"x".repeat(5000)).is_err());
    }
}
