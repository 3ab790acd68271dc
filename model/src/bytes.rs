//! Bytes of a person's own, which the replication knows nothing of: sealed for a device, signed by a device.
//!
//! ```text
//! sealed    = "syncline sealed\n" (16) ‖ version 1 ‖ encapsulated key (32) ‖ ciphertext ‖ tag (16)
//! signature = "syncline-signature:" ‖ base32 (canonical(device, signature) ‖ 4 bytes of BLAKE3 over it)
//! signed    = "syncline/signed-bytes/1\0" ‖ BLAKE3 derived by "syncline signed bytes 1" from the bytes
//! ```
//!
//! Sealing is HPKE (RFC 9180, base mode): it tells nothing of who sealed. A signature made here is over 56 bytes that
//! begin with a domain of their own. What a device signs for operations, records and certificates is a bare hash of 32
//! bytes, so that neither can ever be taken for the other.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::canonical::{self, DecodeError, signature_bytes};
use crate::device_text::DeviceText;
use crate::ids::DeviceId;
use crate::keys::{DeviceKey, open_as, seal_for, verify};
use crate::limits::{OWN_BYTES_MAX, SIGNATURE_TEXT_BYTES_MAX};

const MAGIC: &[u8; 16] = b"syncline sealed\n";
const VERSION: u8 = 1;
const FRONT_BYTES: usize = MAGIC.len() + 1;
const ENCAPSULATED_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Bytes that [`seal_bytes`] adds.
pub const SEALED_BYTES_OVERHEAD: usize = FRONT_BYTES + ENCAPSULATED_BYTES + TAG_BYTES;
/// Bound by the seal, before the recipient's id.
const SEAL_DOMAIN: &[u8] = b"syncline/sealed-bytes/1\0";

/// What every signature's text begins with.
pub const SIGNATURE_PREFIX: &str = "syncline-signature:";
const CHECKSUM_BYTES: usize = 4;
/// Stands before the hash that is signed.
const SIGN_DOMAIN: &[u8] = b"syncline/signed-bytes/1\0";
const HASH_CONTEXT: &str = "syncline signed bytes 1";

/// Why bytes cannot be sealed, opened, signed or verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BytesError {
    /// More than are taken at once.
    #[error("{} MiB is the most that is sealed or signed at once: split the data", .limit >> 20)]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Nothing can be sealed for the device.
    #[error("the exchange key of that device is not a usable one: ask for its device text again")]
    BadRecipient,
    /// Something else.
    #[error("these are not sealed bytes: `syncline bytes seal` makes them")]
    NotSealed,
    /// Made by a newer release.
    #[error("made by a newer release of Syncline: update this one")]
    Newer,
    /// For another device, or changed on the way.
    #[error("it does not open: it was sealed for another device, or was changed on the way")]
    DoesNotOpen,
    /// A text that is no signature.
    #[error("this is not a signature: it begins with `{SIGNATURE_PREFIX}`; `syncline bytes sign` makes one")]
    NotASignature,
    /// A signature's text of which characters are missing or changed.
    #[error("the signature is damaged: copy it whole, from `{SIGNATURE_PREFIX}` to its last character")]
    DamagedSignature,
    /// Another device signed.
    #[error("device {} signed this, not {}", .signer.short(), .expected.short())]
    AnotherSigner {
        /// Who the signature says it is of.
        signer: DeviceId,
        /// Whose it should be.
        expected: DeviceId,
    },
    /// The signature is not one over these bytes.
    #[error("the signature does not fit: these are not the bytes that device {} signed", .signer.short())]
    WrongSignature {
        /// Who the signature says it is of.
        signer: DeviceId,
    },
}

/// Seals bytes so that one device alone can open them.
///
/// # Errors
/// When there are too many, or the device's exchange key cannot be used.
pub fn seal_bytes(recipient: &DeviceText, bytes: &[u8], random: &mut impl CryptoRng) -> Result<Vec<u8>, BytesError> {
    check_size(bytes.len())?;
    let mut sealed = Vec::with_capacity(bytes.len() + SEALED_BYTES_OVERHEAD);
    sealed.extend_from_slice(MAGIC);
    sealed.push(VERSION);
    let info = seal_info(&recipient.device());
    let (encapsulated, ciphertext) =
        seal_for(&recipient.exchange(), &info, &sealed, bytes, random).ok_or(BytesError::BadRecipient)?;
    sealed.extend_from_slice(&encapsulated);
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

/// Opens what [`seal_bytes`] made for this device.
///
/// # Errors
/// When it is too long, something else, of a newer release, for another device or changed.
pub fn open_bytes(device: &DeviceKey, sealed: &[u8]) -> Result<Vec<u8>, BytesError> {
    check_size(sealed.len().saturating_sub(SEALED_BYTES_OVERHEAD))?;
    let (front, rest) = sealed.split_at_checked(FRONT_BYTES).ok_or(BytesError::NotSealed)?;
    match front.strip_prefix(MAGIC) {
        Some([VERSION]) => {}
        Some([version]) if *version > VERSION => return Err(BytesError::Newer),
        _ => return Err(BytesError::NotSealed),
    }
    let (encapsulated, ciphertext) = rest.split_first_chunk::<ENCAPSULATED_BYTES>().ok_or(BytesError::DoesNotOpen)?;
    open_as(device, &seal_info(&device.id()), front, encapsulated, ciphertext).map_err(|_| BytesError::DoesNotOpen)
}

fn seal_info(recipient: &DeviceId) -> Vec<u8> {
    [SEAL_DOMAIN, &recipient.0].concat()
}

fn check_size(size: usize) -> Result<(), BytesError> {
    if size > OWN_BYTES_MAX { Err(BytesError::TooLarge { limit: OWN_BYTES_MAX }) } else { Ok(()) }
}

/// A device's signature over bytes that it does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesSignature {
    device: DeviceId,
    #[serde(with = "signature_bytes")]
    signature: [u8; 64],
}

impl BytesSignature {
    /// Signs bytes.
    ///
    /// # Errors
    /// When there are too many.
    pub fn sign(key: &DeviceKey, bytes: &[u8]) -> Result<Self, BytesError> {
        check_size(bytes.len())?;
        Ok(Self { device: key.id(), signature: key.sign(&signed_bytes(bytes)) })
    }

    /// Checks that `expected` signed these bytes.
    ///
    /// # Errors
    /// When there are too many, another device signed, or other bytes.
    pub fn verify(&self, expected: &DeviceId, bytes: &[u8]) -> Result<(), BytesError> {
        check_size(bytes.len())?;
        let (signer, expected) = (self.device, *expected);
        if signer != expected {
            return Err(BytesError::AnotherSigner { signer, expected });
        }
        let fits = verify(&expected, &signed_bytes(bytes), &self.signature);
        if fits { Ok(()) } else { Err(BytesError::WrongSignature { signer }) }
    }

    /// Who signed, as far as the signature says: [`BytesSignature::verify`] tells whether that is true.
    pub fn device(&self) -> DeviceId {
        self.device
    }
}

fn signed_bytes(bytes: &[u8]) -> Vec<u8> {
    [SIGN_DOMAIN, &blake3::derive_key(HASH_CONTEXT, bytes)].concat()
}

impl fmt::Display for BytesSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = canonical::encode(self);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        write!(f, "{SIGNATURE_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for BytesSignature {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let damaged = || BytesError::DamagedSignature;
        let text = text.trim();
        let encoded = text.strip_prefix(SIGNATURE_PREFIX).ok_or(BytesError::NotASignature)?;
        if text.len() > SIGNATURE_TEXT_BYTES_MAX {
            return Err(damaged());
        }
        let encoded: String = encoded.split_ascii_whitespace().collect();
        let bytes = BASE32_NOPAD.decode(encoded.to_ascii_uppercase().as_bytes()).map_err(|_| damaged())?;
        let (bytes, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(damaged)?;
        if blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(damaged());
        }
        canonical::decode(bytes, "signature").map_err(|error| match error {
            DecodeError::NewerVersion { .. } => BytesError::Newer,
            _ => damaged(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    fn devices() -> (DeviceKey, DeviceKey) {
        (DeviceKey::generate(&mut random(1)), DeviceKey::generate(&mut random(2)))
    }

    #[test]
    fn sealed_bytes_open_on_their_device_alone_and_unchanged() {
        let (alice, eve) = devices();
        let sealed = seal_bytes(&DeviceText::new(&alice), b"a letter", &mut random(3)).unwrap();
        assert_eq!(sealed.len(), 8 + SEALED_BYTES_OVERHEAD);
        assert_eq!(open_bytes(&alice, &sealed).unwrap(), b"a letter");
        assert_eq!(open_bytes(&eve, &sealed), Err(BytesError::DoesNotOpen));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open_bytes(&alice, &changed).is_err(), "{at}");
            assert!(open_bytes(&alice, &sealed[..at]).is_err(), "{at}");
        }
        let mut newer = sealed;
        newer[MAGIC.len()] = 2;
        assert_eq!(open_bytes(&alice, &newer), Err(BytesError::Newer));
        assert_eq!(open_bytes(&alice, b"hello"), Err(BytesError::NotSealed));
        let empty = seal_bytes(&DeviceText::new(&alice), b"", &mut random(3)).unwrap();
        assert_eq!(open_bytes(&alice, &empty).unwrap(), b"");
    }

    #[test]
    fn a_key_delivery_cannot_be_opened_as_bytes() {
        let (alice, _) = devices();
        let info = crate::membership::KeyDelivery::info(&crate::SpaceId([1; 32]), 1, &alice.id(), "content");
        let text = DeviceText::new(&alice);
        let front = [MAGIC.as_slice(), &[VERSION]].concat();
        let (encapsulated, rest) = seal_for(&text.exchange(), &info, &front, &[9; 32], &mut random(4)).unwrap();
        let crafted = [front.as_slice(), &encapsulated, &rest].concat();
        assert_eq!(open_bytes(&alice, &crafted), Err(BytesError::DoesNotOpen));
    }

    #[test]
    fn a_signature_is_good_for_its_bytes_and_its_signer_alone() {
        let (alice, eve) = devices();
        let signature = BytesSignature::sign(&alice, b"a letter").unwrap();
        let text = signature.to_string();
        let (first, second) = text.split_at(60);
        assert_eq!(format!("{first}\n {second}\n").parse::<BytesSignature>().unwrap(), signature);
        let (signer, expected) = (alice.id(), eve.id());
        assert_eq!(signature.verify(&alice.id(), b"a letter"), Ok(()));
        assert_eq!(signature.verify(&alice.id(), b"a Letter"), Err(BytesError::WrongSignature { signer }));
        assert_eq!(signature.verify(&eve.id(), b"a letter"), Err(BytesError::AnotherSigner { signer, expected }));
        let claimed = BytesSignature { device: eve.id(), ..signature };
        assert_eq!(claimed.verify(&eve.id(), b"a letter"), Err(BytesError::WrongSignature { signer: eve.id() }));
        assert_eq!("hello".parse::<BytesSignature>(), Err(BytesError::NotASignature));
        for end in SIGNATURE_PREFIX.len()..text.len() {
            assert_eq!(text[..end].parse::<BytesSignature>(), Err(BytesError::DamagedSignature), "{end}");
        }
    }

    #[test]
    fn a_signature_over_bytes_is_never_one_over_an_operation() {
        let (alice, _) = devices();
        // Whatever bytes are chosen, among them an operation's id and what the signature itself covers.
        for bytes in [[7; 32].to_vec(), signed_bytes(&[7; 32]), Vec::new()] {
            let made = BytesSignature::sign(&alice, &bytes).unwrap();
            assert!(!verify(&alice.id(), &bytes, &made.signature));
            assert!(!verify(&alice.id(), &blake3::derive_key(HASH_CONTEXT, &bytes), &made.signature));
            assert_ne!(signed_bytes(&bytes).len(), 32);
            // And the other way round: what is signed as an operation is no signature over bytes.
            let signature = alice.sign(&[7; 32]);
            let taken = BytesSignature { device: alice.id(), signature };
            assert!(taken.verify(&alice.id(), &bytes).is_err());
        }
    }

    #[test]
    fn there_is_a_limit() {
        let (alice, _) = devices();
        let large = vec![0; OWN_BYTES_MAX + 1];
        let too_large = BytesError::TooLarge { limit: OWN_BYTES_MAX };
        assert_eq!(seal_bytes(&DeviceText::new(&alice), &large, &mut random(3)), Err(too_large.clone()));
        assert_eq!(BytesSignature::sign(&alice, &large), Err(too_large.clone()));
        let longer = vec![0; OWN_BYTES_MAX + SEALED_BYTES_OVERHEAD + 1];
        assert_eq!(open_bytes(&alice, &longer), Err(too_large));
    }
}
