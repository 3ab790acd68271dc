//! The device text: what a person copies to let others address a device by its keys, without an invitation.
//!
//! `syncline-device:` ‖ base32 (postcard behind a version byte ‖ 4 bytes of BLAKE3 over it). It holds the device's id,
//! its exchange key, and the device's signature that joins the two. Nothing in it is secret; what it cannot prove is
//! whose device that is, so it is to be sent over a channel that is trusted.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::canonical::{self, DecodeError, signature_bytes};
use crate::ids::DeviceId;
use crate::keys::{DeviceKey, ExchangeKey, verify};
use crate::limits::DEVICE_TEXT_BYTES_MAX;
use crate::ticket::TICKET_PREFIX;

/// What every device text begins with.
pub const DEVICE_TEXT_PREFIX: &str = "syncline-device:";
const CHECKSUM_BYTES: usize = 4;
/// Stands before what the device signs; operations, records and certificates are signed as bare hashes of 32 bytes.
const DOMAIN: &[u8] = b"syncline/device-text/1\0";

/// A device's id and its exchange key, with the device's proof that the one belongs to the other.
///
/// There is no value of this type whose proof was not made here or checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceText {
    device: DeviceId,
    exchange: ExchangeKey,
    #[serde(with = "signature_bytes")]
    signature: [u8; 64],
}

/// The same before its proof is checked.
#[derive(Serialize, Deserialize)]
struct Unproven {
    device: DeviceId,
    exchange: ExchangeKey,
    #[serde(with = "signature_bytes")]
    signature: [u8; 64],
}

/// Why a text does not address a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceTextError {
    /// Another kind of text.
    #[error("this is not a device text: it begins with `{DEVICE_TEXT_PREFIX}`; `syncline device` shows a device's own")]
    NotADeviceText,
    /// The id alone, which tells nothing of the exchange key.
    #[error(
        "this is a device's id, which does not hold its exchange key: use the text from `{DEVICE_TEXT_PREFIX}` on \
         that `syncline device` shows on that device"
    )]
    IdOnly,
    /// A ticket.
    #[error("this is a ticket, which invites into a space: take it with `syncline space join`")]
    Ticket,
    /// Characters are missing or changed.
    #[error("the device text is damaged: copy it whole, from `{DEVICE_TEXT_PREFIX}` to its last character")]
    Damaged,
    /// Made by a newer release.
    #[error("the device text was made by a newer release of Syncline: update this one")]
    Newer,
    /// The device did not sign this exchange key.
    #[error(
        "the device text is forged: device {} did not sign the exchange key in it; do not use it, and ask for the \
         text again over a channel that you trust",
        .device.short()
    )]
    Forged {
        /// The device that the text names.
        device: DeviceId,
    },
}

impl DeviceText {
    /// The text of the device whose key this is.
    pub fn new(key: &DeviceKey) -> Self {
        let (device, exchange) = (key.id(), key.exchange_public());
        Self { device, exchange, signature: key.sign(&signed_bytes(&device, &exchange)) }
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The key to which secrets for the device are wrapped and bytes are sealed.
    pub fn exchange(&self) -> ExchangeKey {
        self.exchange
    }
}

fn signed_bytes(device: &DeviceId, exchange: &ExchangeKey) -> Vec<u8> {
    [DOMAIN, &device.0, &exchange.0].concat()
}

impl fmt::Display for DeviceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = canonical::encode(self);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        write!(f, "{DEVICE_TEXT_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for DeviceText {
    type Err = DeviceTextError;

    /// Parses and checks a device text; white space in it, as mail programs add to long lines, does not matter.
    fn from_str(text: &str) -> Result<Self, DeviceTextError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(DEVICE_TEXT_PREFIX) else { return Err(other_text(text)) };
        if text.len() > DEVICE_TEXT_BYTES_MAX {
            return Err(DeviceTextError::Damaged);
        }
        let encoded: String = encoded.split_ascii_whitespace().collect();
        let bytes =
            BASE32_NOPAD.decode(encoded.to_ascii_uppercase().as_bytes()).map_err(|_| DeviceTextError::Damaged)?;
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(DeviceTextError::Damaged)?;
        let (bytes, checksum) = bytes.split_at(at);
        if blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(DeviceTextError::Damaged);
        }
        let unproven: Unproven = canonical::decode(bytes, "device text").map_err(|error| match error {
            DecodeError::NewerVersion { .. } => DeviceTextError::Newer,
            _ => DeviceTextError::Damaged,
        })?;
        let Unproven { device, exchange, signature } = unproven;
        if !verify(&device, &signed_bytes(&device, &exchange), &signature) {
            return Err(DeviceTextError::Forged { device });
        }
        Ok(Self { device, exchange, signature })
    }
}

fn other_text(text: &str) -> DeviceTextError {
    if text.starts_with(TICKET_PREFIX) {
        DeviceTextError::Ticket
    } else if text.parse::<DeviceId>().is_ok() {
        DeviceTextError::IdOnly
    } else {
        DeviceTextError::NotADeviceText
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    fn text_of(bytes: &[u8]) -> String {
        let hash = blake3::hash(bytes);
        let checksum = &hash.as_bytes()[..CHECKSUM_BYTES];
        format!("{DEVICE_TEXT_PREFIX}{}", BASE32_NOPAD.encode(&[bytes, checksum].concat()))
    }

    #[test]
    fn a_device_text_survives_copying_and_tells_when_it_did_not() {
        let key = DeviceKey::generate(&mut random(1));
        let device = DeviceText::new(&key);
        assert_eq!((device.device(), device.exchange()), (key.id(), key.exchange_public()));
        let text = device.to_string();
        assert_eq!(text.parse::<DeviceText>().unwrap(), device);
        let (first, second) = text.split_at(90);
        let folded = format!("\n {first}\r\n {} \n", second.to_uppercase());
        assert_eq!(folded.parse::<DeviceText>().unwrap(), device);
        for end in DEVICE_TEXT_PREFIX.len()..text.len() {
            assert_eq!(text[..end].parse::<DeviceText>(), Err(DeviceTextError::Damaged), "{end}");
        }
        for at in DEVICE_TEXT_PREFIX.len()..text.len() {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(changed.parse::<DeviceText>(), Err(DeviceTextError::Damaged), "{at}");
        }
        let long = format!("{text}{}", "a".repeat(DEVICE_TEXT_BYTES_MAX));
        assert_eq!(long.parse::<DeviceText>(), Err(DeviceTextError::Damaged));
    }

    #[test]
    fn what_is_not_a_device_text_says_what_it_is() {
        let key = DeviceKey::generate(&mut random(1));
        let parse = |text: &str| text.parse::<DeviceText>().unwrap_err();
        assert_eq!(parse("hello"), DeviceTextError::NotADeviceText);
        assert_eq!(parse(""), DeviceTextError::NotADeviceText);
        assert_eq!(parse("syncline:abc"), DeviceTextError::Ticket);
        assert_eq!(parse(&key.id().to_string()), DeviceTextError::IdOnly);
        assert_eq!(parse(DEVICE_TEXT_PREFIX), DeviceTextError::Damaged);
        assert_eq!(parse(&text_of(&[2])), DeviceTextError::Newer);
    }

    #[test]
    fn an_exchange_key_that_the_device_did_not_sign_is_refused() {
        let (alice, eve) = (DeviceKey::generate(&mut random(1)), DeviceKey::generate(&mut random(2)));
        let forged = |unproven: &Unproven| text_of(&canonical::encode(unproven)).parse::<DeviceText>();
        let (device, exchange) = (alice.id(), eve.exchange_public());
        let expected = Err(DeviceTextError::Forged { device });
        let signature = DeviceText::new(&alice).signature;
        assert_eq!(forged(&Unproven { device, exchange, signature }), expected);
        let signature = eve.sign(&signed_bytes(&device, &exchange));
        assert_eq!(forged(&Unproven { device, exchange, signature }), expected);
        // A signature for another purpose over the same bytes.
        let signature = alice.sign(&[device.0, exchange.0].concat());
        assert_eq!(forged(&Unproven { device, exchange, signature }), expected);
        let signature = alice.sign(&signed_bytes(&device, &exchange));
        assert!(forged(&Unproven { device, exchange, signature }).is_ok());
    }
}
