//! Keys: the device's signing and exchange keys, an epoch's content key, a space's replication secret.
//!
//! Secrets are zeroized when dropped and print nothing. Randomness is always passed in.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{DeviceId, SpaceId};

/// Whether this build signs, checks signatures, seals and opens.
///
/// False only with the feature `without-cryptography`, which measures what that costs: signatures are zeros that always
/// hold, sealed texts stand as they are between as many zeros as a nonce and a tag take. Anybody can forge and read
/// anything then. The program refuses to run in such a build, and a node says so when it starts.
pub const CRYPTOGRAPHY: bool = !cfg!(feature = "without-cryptography");

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Bytes that [`seal`] adds: a nonce and a tag.
pub const SEAL_OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Sealed or wrapped bytes did not open: another key, or changed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not open: wrong key, or the bytes were changed")]
pub struct OpenError;

/// The ed25519 key that makes an installation a device, and the X25519 key derived from the same seed.
#[derive(Clone, ZeroizeOnDrop)]
pub struct DeviceKey {
    signing: SigningKey,
    exchange: [u8; 32],
    #[zeroize(skip)]
    id: DeviceId,
}

impl DeviceKey {
    /// The keys of a device whose secret is `seed`.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let id = DeviceId(signing.verifying_key().to_bytes());
        let exchange = blake3::derive_key("syncline device exchange key 1", seed);
        Self { signing, exchange, id }
    }

    /// A new device.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut seed = random_bytes(random);
        let key = Self::from_seed(&seed);
        seed.zeroize();
        key
    }

    /// The secret, to be stored or handed to the transport.
    pub fn seed(&self) -> &[u8; 32] {
        self.signing.as_bytes()
    }

    /// The device's public name.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// Signs bytes; callers bring their own domain separation.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        if !CRYPTOGRAPHY {
            return [0; 64];
        }
        self.signing.sign(bytes).to_bytes()
    }

    /// The public half of the exchange key, to which others wrap keys.
    pub fn exchange_public(&self) -> ExchangeKey {
        let secret = x25519_dalek::StaticSecret::from(self.exchange);
        ExchangeKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", self.id.short())
    }
}

/// Whether `signature` over `bytes` is `device`'s, by the strict rules (no small-order keys, canonical encodings).
///
/// Batch verification is never used: it accepts signatures that this refuses, and replicas would diverge.
pub fn verify(device: &DeviceId, bytes: &[u8], signature: &[u8; 64]) -> bool {
    let holds = |key: VerifyingKey| key.verify_strict(bytes, &Signature::from_bytes(signature)).is_ok();
    !CRYPTOGRAPHY || VerifyingKey::from_bytes(&device.0).is_ok_and(holds)
}

/// The public X25519 key of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExchangeKey(pub [u8; 32]);

impl fmt::Display for ExchangeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// A fresh secret.
            pub fn generate(random: &mut impl CryptoRng) -> Self {
                Self(random_bytes(random))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

secret!(
    /// The key that seals a space's operations during one epoch.
    ContentKey
);
secret!(
    /// What members and relays share: it hides gossip, topics and common spaces from everybody else.
    ReplicationSecret
);

impl ContentKey {
    /// What an epoch record publishes of its key, since the cipher alone does not commit to one.
    pub fn commitment(&self, space: &SpaceId, epoch: u32) -> [u8; 32] {
        commitment("syncline content key commitment 1", &self.0, space, epoch)
    }
}

impl ReplicationSecret {
    /// What an epoch record publishes of the secret.
    pub fn commitment(&self, space: &SpaceId, epoch: u32) -> [u8; 32] {
        commitment("syncline replication secret commitment 1", &self.0, space, epoch)
    }

    /// The name of the space's gossip topic.
    pub fn topic(&self) -> String {
        let name = blake3::derive_key("syncline gossip topic 1", &self.0);
        format!("syncline/{}", data_encoding::HEXLOWER.encode(&name[..16]))
    }

    /// The key that seals gossip frames.
    pub fn gossip_key(&self) -> ContentKey {
        ContentKey(blake3::derive_key("syncline gossip frame key 1", &self.0))
    }

    /// What `from` shows `to` to prove that it shares the space, and nobody else can recognise.
    pub fn tag(&self, from: &DeviceId, to: &DeviceId) -> SpaceTag {
        SpaceTag::keyed(&blake3::derive_key("syncline space tag 1", &self.0), from, to)
    }
}

/// A space's name between two devices, meaningless to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpaceTag(pub [u8; 16]);

impl SpaceTag {
    pub(crate) fn keyed(key: &[u8; 32], from: &DeviceId, to: &DeviceId) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&from.0);
        hasher.update(&to.0);
        Self(hasher.finalize().as_bytes()[..16].try_into().expect("half of a hash"))
    }
}

fn commitment(context: &str, secret: &[u8; 32], space: &SpaceId, epoch: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(secret);
    hasher.update(&space.0);
    hasher.update(&epoch.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// Seals `plaintext` with XChaCha20-Poly1305: nonce ‖ ciphertext ‖ tag.
///
/// The nonce is a keyed hash over the associated data, the plaintext and fresh randomness, so a cloned machine whose
/// random generator repeats still never seals two texts under one nonce.
pub fn seal(key: &ContentKey, associated_data: &[u8], plaintext: &[u8], random: &mut impl CryptoRng) -> Vec<u8> {
    if !CRYPTOGRAPHY {
        return [[0; NONCE_BYTES].as_slice(), plaintext, &[0; TAG_BYTES]].concat();
    }
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(&(associated_data.len() as u64).to_le_bytes());
    hasher.update(associated_data);
    hasher.update(&random_bytes(random));
    hasher.update(plaintext);
    let nonce = XNonce::try_from(&hasher.finalize().as_bytes()[..NONCE_BYTES]).expect("24 bytes");
    let cipher = XChaCha20Poly1305::new(&Key::from(key.0));
    let sealed = cipher
        .encrypt(&nonce, Payload { msg: plaintext, aad: associated_data })
        .expect("texts are far shorter than the cipher's limit");
    let mut out = Vec::with_capacity(NONCE_BYTES + sealed.len());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    out
}

/// Opens what [`seal`] made.
pub fn open(key: &ContentKey, associated_data: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(OpenError)?;
    if !CRYPTOGRAPHY {
        return sealed.split_last_chunk::<TAG_BYTES>().map(|(plaintext, _)| plaintext.to_vec()).ok_or(OpenError);
    }
    let nonce = XNonce::try_from(nonce).map_err(|_| OpenError)?;
    XChaCha20Poly1305::new(&Key::from(key.0))
        .decrypt(&nonce, Payload { msg: sealed, aad: associated_data })
        .map_err(|_| OpenError)
}

/// A secret wrapped for one device with HPKE (RFC 9180, base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedSecret {
    encapsulated: [u8; 32],
    ciphertext: [u8; 32],
    tag: [u8; 16],
}

type Cipher = hpke::aead::ChaCha20Poly1305;
type Kdf = hpke::kdf::HkdfSha256;

impl WrappedSecret {
    /// Wraps `secret` for the holder of `recipient`; `info` binds space, epoch and purpose. None when the recipient's
    /// key is not a usable one.
    pub fn wrap(recipient: &ExchangeKey, info: &[u8], secret: &[u8; 32], random: &mut impl CryptoRng) -> Option<Self> {
        let (encapsulated, sealed) = seal_for(recipient, info, &[], secret, random)?;
        let (ciphertext, tag) = sealed.split_at_checked(32)?;
        Some(Self { encapsulated, ciphertext: ciphertext.try_into().ok()?, tag: tag.try_into().ok()? })
    }

    /// Unwraps with the device's exchange key and the same `info`.
    pub fn unwrap(&self, device: &DeviceKey, info: &[u8]) -> Result<[u8; 32], OpenError> {
        let sealed = [self.ciphertext.as_slice(), &self.tag].concat();
        let mut opened = open_as(device, info, &[], &self.encapsulated, &sealed)?;
        let secret = opened.as_slice().try_into().map_err(|_| OpenError);
        opened.zeroize();
        secret
    }
}

/// Seals `plaintext` for the holder of `recipient` with HPKE in base mode: the encapsulated key, and ciphertext ‖ tag.
/// None when the recipient's key is not a usable one.
pub(crate) fn seal_for(
    recipient: &ExchangeKey,
    info: &[u8],
    associated_data: &[u8],
    plaintext: &[u8],
    random: &mut impl CryptoRng,
) -> Option<([u8; 32], Vec<u8>)> {
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&recipient.0).ok()?;
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<Cipher, Kdf, X25519HkdfSha256>(
        &OpModeS::Base,
        &key,
        info,
        plaintext,
        associated_data,
        random,
    )
    .ok()?;
    Some((encapsulated.to_bytes().as_slice().try_into().ok()?, sealed))
}

/// Opens what [`seal_for`] made for the device.
pub(crate) fn open_as(
    device: &DeviceKey,
    info: &[u8],
    associated_data: &[u8],
    encapsulated: &[u8; 32],
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&device.exchange).map_err(|_| OpenError)?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| OpenError)?;
    hpke::single_shot_open::<Cipher, Kdf, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        info,
        sealed,
        associated_data,
    )
    .map_err(|_| OpenError)
}

/// 32 fresh bytes.
pub(crate) fn random_bytes(random: &mut impl CryptoRng) -> [u8; 32] {
    let mut bytes = [0; 32];
    random.fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn a_seal_opens_only_with_its_key_and_data() {
        let mut random = random(1);
        let (key, other) = (ContentKey::generate(&mut random), ContentKey::generate(&mut random));
        let sealed = seal(&key, b"header", b"text", &mut random);
        assert_eq!(sealed.len(), 4 + SEAL_OVERHEAD_BYTES);
        assert_eq!(open(&key, b"header", &sealed).unwrap(), b"text");
        assert_eq!(open(&key, b"Header", &sealed), Err(OpenError));
        assert_eq!(open(&other, b"header", &sealed), Err(OpenError));
        assert_eq!(open(&key, b"header", &sealed[..20]), Err(OpenError));
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(open(&key, b"header", &changed), Err(OpenError));
        }
    }

    #[test]
    fn a_repeating_random_generator_does_not_repeat_a_nonce() {
        let key = ContentKey([1; 32]);
        let nonce = |text: &[u8]| seal(&key, b"", text, &mut random(7))[..24].to_vec();
        assert_ne!(nonce(b"one"), nonce(b"two"));
    }

    #[test]
    fn a_wrapped_secret_opens_only_for_its_device_and_purpose() {
        let mut random = random(2);
        let (alice, eve) = (DeviceKey::generate(&mut random), DeviceKey::generate(&mut random));
        let wrapped = WrappedSecret::wrap(&alice.exchange_public(), b"purpose", &[9; 32], &mut random).unwrap();
        assert_eq!(wrapped.unwrap(&alice, b"purpose"), Ok([9; 32]));
        assert_eq!(wrapped.unwrap(&alice, b"another"), Err(OpenError));
        assert_eq!(wrapped.unwrap(&eve, b"purpose"), Err(OpenError));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", ContentKey([7; 32])), "ContentKey(…)");
        assert!(!format!("{:?}", DeviceKey::from_seed(&[7; 32])).contains("07"));
    }

    #[test]
    fn small_order_keys_are_refused() {
        // The identity point verifies any message under the plain rules with R = identity and s = 0.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify(&DeviceId(identity), b"anything", &signature));
    }
}
