//! Why a run could not be made, as opposed to what it found.

use std::fmt::Display;

/// Why a run could not be made or finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something around the nodes does not work.
    #[error("{0}")]
    Setup(String),
    /// Somebody ended it.
    #[error("interrupted")]
    Interrupted,
}

impl Failure {
    pub(crate) fn setup(what: &str, cause: impl Display) -> Self {
        Self::Setup(format!("cannot {what}: {cause}"))
    }
}
