//! How a person names the operation up to which a cut or forked log is to count: `DEVICE:SEQUENCE:OPERATION-ID`.

use std::fmt;
use std::str::FromStr;

use syncline_model::membership::Cut;

/// An operation that the steward can let count, with all that it builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchHead(pub Cut);

/// The text names no operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{shown}` names no operation: expected DEVICE:SEQUENCE:OPERATION-ID, as `syncline space show` prints it for \
     operations that do not count"
)]
pub struct ParseBranchHeadError {
    shown: String,
}

impl fmt::Display for BranchHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0.author, self.0.sequence, self.0.id)
    }
}

impl FromStr for BranchHead {
    type Err = ParseBranchHeadError;

    fn from_str(text: &str) -> Result<Self, ParseBranchHeadError> {
        let parse = || {
            let mut parts = text.trim().split(':');
            let (author, sequence, id) = (parts.next()?, parts.next()?, parts.next()?);
            let (author, sequence, id) = (author.parse().ok()?, sequence.parse().ok()?, id.parse().ok()?);
            (sequence > 0 && parts.next().is_none()).then_some(Self(Cut { author, sequence, id }))
        };
        parse().ok_or_else(|| ParseBranchHeadError { shown: text.chars().take(150).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_model::{DeviceId, OperationId};

    #[test]
    fn a_head_is_read_as_it_is_written() {
        let head = BranchHead(Cut { author: DeviceId([1; 32]), sequence: 7, id: OperationId([2; 32]) });
        let text = head.to_string();
        assert_eq!(text.parse(), Ok(head));
        for wrong in
            ["", "a:b:c", &text[1..], &text.replace(":7:", ":0:"), &text.replace(":7:", ":-7:"), &format!("{text}:")]
        {
            assert!(wrong.parse::<BranchHead>().is_err(), "{wrong}");
        }
    }
}
