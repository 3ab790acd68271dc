//! What a record's body holds: a run, and under which log it is filed.
//!
//! ```text
//! body = run                              a run of its author's log: begins with the format version
//!      | b7 ‖ log (32 bytes) ‖ run        a run of a branch of a forked log, filed under the branch's name
//! ```

use std::borrow::Cow;

use syncline_model::{DeviceId, Run, SpaceId, VerifiedRun};

/// Begins the body of a run that is filed under another name than its author's; no format version has this number.
const FILED_MARK: u8 = 0xb7;

/// A run and the log under which it is filed: its author's, or a branch of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// The log.
    pub log: DeviceId,
    /// The run.
    pub run: VerifiedRun,
}

impl From<VerifiedRun> for Filed {
    fn from(run: VerifiedRun) -> Self {
        Self { log: run.author(), run }
    }
}

/// How long the body of a run is.
pub(crate) fn body_length(log: &DeviceId, run: &Run) -> usize {
    let mark = if *log == run.author() { 0 } else { 1 + log.0.len() };
    mark + run.bytes().len()
}

/// The body of a run.
pub(crate) fn encode_body<'a>(log: &DeviceId, run: &'a Run) -> Cow<'a, [u8]> {
    if *log == run.author() {
        return Cow::Borrowed(run.bytes());
    }
    Cow::Owned([&[FILED_MARK], &log.0[..], run.bytes()].concat())
}

/// The run in a body, and the log under which it is filed.
pub(crate) fn decode_body(space: SpaceId, body: &[u8]) -> Option<(DeviceId, Run)> {
    match body.split_first() {
        Some((&FILED_MARK, filed)) => {
            let (log, run) = filed.split_first_chunk()?;
            let run = Run::decode(space, run).ok()?;
            // One form for each, or a run would have two lengths.
            (run.author().0 != *log).then_some((DeviceId(*log), run))
        }
        _ => Run::decode(space, body).ok().map(|run| (run.author(), run)),
    }
}
