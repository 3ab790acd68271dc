//! Identifiers: fixed-size byte strings that print as lower-case hexadecimal or, for people, base32.
//!
//! Each identifier is a type of its own, so that an operation id cannot be passed where a space id is meant.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: expected {expected} base32 characters (a–z, 2–7)")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
    expected: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        /// Text in formats for people such as JSON, the 32 bytes elsewhere.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map($name)
                }
            }
        }

        impl $name {
            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight characters of the text form, enough for a person to tell two apart.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), HEXLOWER.encode(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                BASE32_NOPAD
                    .decode(text.to_ascii_uppercase().as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map($name)
                    .ok_or_else(|| ParseIdError {
                        what: $what,
                        text: text.chars().take(80).collect(),
                        expected: 52,
                    })
            }
        }
    };
}

identifier!(
    /// A device: its ed25519 public key. The libp2p peer id is derived from the same key.
    DeviceId,
    "device id"
);
identifier!(
    /// A space: the BLAKE3 hash of its genesis record.
    SpaceId,
    "space id"
);
identifier!(
    /// An operation: the BLAKE3 hash of its header and of its payload's hash; what its author signs.
    OperationId,
    "operation id"
);

impl OperationId {
    /// What stands as `previous` in the first operation of a log.
    pub const ZERO: Self = Self([0; 32]);

    /// The first half, kept in memory for every held operation: second preimages cost 2^128.
    pub fn prefix(&self) -> IdPrefix {
        IdPrefix(self.0[..16].try_into().expect("32 bytes have 16 first ones"))
    }
}

/// The first 16 bytes of an [`OperationId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct IdPrefix(pub [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_rejects_other_lengths() {
        let id = SpaceId([7; 32]);
        assert_eq!(id.to_string().parse::<SpaceId>().unwrap(), id);
        assert_eq!(id.to_string().to_uppercase().parse::<SpaceId>().unwrap(), id);
        let error = "abc".parse::<SpaceId>().unwrap_err();
        assert!(error.to_string().contains("not a space id"), "{error}");
    }
}
