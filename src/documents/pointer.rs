//! JSON pointers (RFC 6901): how a person names a place inside a document.

use std::fmt;
use std::str::FromStr;

use super::limits::{MAX_DEPTH, MAX_POINTER_BYTES};

/// A parsed JSON pointer, for example `/authors/0/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pointer(Vec<String>);

/// Why a text is not a usable JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointerError {
    /// The text does not begin with a slash.
    #[error("a JSON pointer is empty or starts with '/': write \"/{0}\" to name a top-level field")]
    NoLeadingSlash(String),
    /// A tilde is not followed by 0 or 1.
    #[error("in a JSON pointer '~' is written \"~0\" and '/' inside a name is written \"~1\"; got \"{0}\"")]
    BadEscape(String),
    /// The pointer is longer or deeper than a document may be.
    #[error("the JSON pointer is too long: at most {MAX_DEPTH} steps and {MAX_POINTER_BYTES} bytes")]
    TooLong,
}

impl Pointer {
    /// The pointer to the whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// The steps from the root, unescaped.
    pub fn tokens(&self) -> &[String] {
        &self.0
    }

    /// This pointer with one more step.
    #[must_use]
    pub fn child(&self, token: impl Into<String>) -> Self {
        let mut tokens = self.0.clone();
        tokens.push(token.into());
        Self(tokens)
    }

    /// The pointer of the first `steps` steps.
    pub(super) fn prefix(&self, steps: usize) -> Self {
        Self(self.0.iter().take(steps).cloned().collect())
    }

    pub(super) fn push(&mut self, token: String) {
        self.0.push(token);
    }

    pub(super) fn pop(&mut self) {
        self.0.pop();
    }
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if text.len() > MAX_POINTER_BYTES {
            return Err(PointerError::TooLong);
        }
        if text.is_empty() {
            return Ok(Self::root());
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PointerError::NoLeadingSlash(text.to_owned()));
        };
        let tokens = rest.split('/').map(unescape).collect::<Result<Vec<_>, _>>()?;
        if tokens.len() > MAX_DEPTH {
            return Err(PointerError::TooLong);
        }
        Ok(Self(tokens))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.0 {
            write!(formatter, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

/// Reads a step as a list position: digits without leading zeros.
pub(super) fn list_index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    if plain { token.parse().ok() } else { None }
}

fn unescape(token: &str) -> Result<String, PointerError> {
    let mut name = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        if character != '~' {
            name.push(character);
            continue;
        }
        match characters.next() {
            Some('0') => name.push('~'),
            Some('1') => name.push('/'),
            _ => return Err(PointerError::BadEscape(token.to_owned())),
        }
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let tokens = |text: &str| text.parse::<Pointer>().map(|pointer| pointer.tokens().to_vec());
        assert_eq!(tokens(""), Ok(vec![]));
        assert_eq!(tokens("/"), Ok(vec![String::new()]));
        assert_eq!(tokens("/foo/0"), Ok(vec!["foo".into(), "0".into()]));
        assert_eq!(tokens("/a~1b"), Ok(vec!["a/b".into()]));
        assert_eq!(tokens("/m~0n"), Ok(vec!["m~n".into()]));
        assert_eq!(tokens("/~01"), Ok(vec!["~1".into()]));
    }

    #[test]
    fn a_bad_pointer_says_what_to_write() {
        let message = |text: &str| text.parse::<Pointer>().map_err(|error| error.to_string());
        assert!(message("name").is_err_and(|text| text.contains("\"/name\"")));
        assert!(message("/a~2").is_err_and(|text| text.contains("~0")));
        assert_eq!("/x".repeat(MAX_DEPTH + 1).parse::<Pointer>(), Err(PointerError::TooLong));
    }

    #[test]
    fn list_positions_have_one_spelling() {
        assert_eq!(list_index("0"), Some(0));
        assert_eq!(list_index("10"), Some(10));
        for token in ["", "01", "-", "-1", "+1", "1e3", "99999999999999999999"] {
            assert_eq!(list_index(token), None, "{token}");
        }
    }

    proptest! {
        #[test]
        fn a_pointer_survives_printing(tokens in prop::collection::vec(".{0,6}", 0..6)) {
            let pointer = tokens.iter().fold(Pointer::root(), |pointer, token| pointer.child(token));
            prop_assert_eq!(pointer.to_string().parse::<Pointer>(), Ok(pointer));
        }
    }
}
