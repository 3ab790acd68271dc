//! Versions: positions in what one replica shows, which its readers use as causal tokens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// Names one start of counting; positions mean nothing across incarnations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub [u8; 8]);

/// A position in this replica's visible order: how many operations are visible.
///
/// Its text form is `<incarnation>-<position>`, both in hexadecimal and decimal respectively. It means something only
/// to the replica that gave it; any other refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Which counting it belongs to.
    pub incarnation: Incarnation,
    /// How many operations were visible.
    pub position: u64,
}

/// A text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a version: pass one as this node gave it, such as `0011223344556677-42`")]
pub struct VersionError {
    shown: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", data_encoding::HEXLOWER.encode(&self.incarnation.0), self.position)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let parse = || {
            let (incarnation, position) = text.split_once('-')?;
            let incarnation = data_encoding::HEXLOWER.decode(incarnation.as_bytes()).ok()?;
            let plain = position.bytes().all(|byte| byte.is_ascii_digit());
            Some(Self {
                incarnation: Incarnation(incarnation.try_into().ok()?),
                position: position.parse().ok().filter(|_| plain)?,
            })
        };
        parse().ok_or_else(|| VersionError { shown: text.chars().take(80).collect() })
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_survives_printing_and_nothing_else_parses() {
        let version = Version { incarnation: Incarnation([0xab, 1, 2, 3, 4, 5, 6, 7]), position: 42 };
        assert_eq!(version.to_string(), "ab01020304050607-42");
        assert_eq!("ab01020304050607-42".parse::<Version>().unwrap(), version);
        for bad in ["", "42", "ab-42", "ab01020304050607-", "ab01020304050607-+4", "AB01020304050607-4", "x-y-z"] {
            assert!(bad.parse::<Version>().unwrap_err().to_string().contains("is not a version"), "{bad}");
        }
        assert_eq!(serde_json::to_string(&version).unwrap(), "\"ab01020304050607-42\"");
    }
}
