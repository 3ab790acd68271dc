//! The documents that clients write: their keys, their values, and what a key found in a node stands for.

use serde_json::{Value, json};

/// Stands in every element of the set: what a blind replica must not hold.
pub(crate) const MARKER: &str = "words that only members with the key can read";

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    Element { stream: usize, number: usize },
    Counter(usize),
    Text(usize),
    Link { chain: usize, link: usize },
}

/// The prefix of one stream's elements.
pub(crate) fn stream_prefix(stream: usize) -> String {
    format!("set/{stream:03}/")
}

/// An element of the set.
pub(crate) fn element(stream: usize, number: usize) -> String {
    format!("set/{stream:03}/{number:08}")
}

/// The value of an element.
pub(crate) fn element_value(stream: usize, number: usize) -> Value {
    json!({"number": number, "stream": stream, "text": MARKER})
}

/// A counter, at `/count`.
pub(crate) fn counter(number: usize) -> String {
    format!("counter/{number}")
}

/// The text of one node, at `/text`.
pub(crate) fn text(node: usize) -> String {
    format!("text/{node}")
}

/// The prefix of one chain's links.
pub(crate) fn chain_prefix(chain: usize) -> String {
    format!("causal/{chain:06}/")
}

/// A link of a causal chain, from 0.
pub(crate) fn link(chain: usize, link: usize) -> String {
    format!("causal/{chain:06}/{link}")
}

/// The value of a link.
pub(crate) fn link_value(chain: usize, link: usize) -> Value {
    json!({"chain": chain, "link": link})
}

/// What a key stands for; none if no client writes such a key.
pub(crate) fn parse(key: &str) -> Option<Named> {
    let mut parts = key.split('/');
    let kind = parts.next()?;
    let first = parts.next()?.parse().ok()?;
    let second = parts.next().map(|part| part.parse().ok());
    let named = match (kind, second) {
        ("set", Some(Some(number))) => Named::Element { stream: first, number },
        ("causal", Some(Some(link))) => Named::Link { chain: first, link },
        ("counter", None) => Named::Counter(first),
        ("text", None) => Named::Text(first),
        _ => return None,
    };
    parts.next().is_none().then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_made() {
        assert_eq!(parse(&element(7, 123)), Some(Named::Element { stream: 7, number: 123 }));
        assert_eq!(parse(&link(5, 1)), Some(Named::Link { chain: 5, link: 1 }));
        assert_eq!(parse(&counter(2)), Some(Named::Counter(2)));
        assert_eq!(parse(&text(3)), Some(Named::Text(3)));
        for other in ["", "set", "set/1", "set/x/1", "set/1/2/3", "text/1/2", "other/1"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
