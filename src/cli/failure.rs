//! How a command ends: the exit codes, and what is said when it fails.

use std::fmt;
use std::io;
use std::process::ExitCode;

use syncline::api::{Problem, ProblemKind};
use syncline::{Error, ErrorKind};

/// What the exit codes mean, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for a reason that the message tells
  2  wrong usage
  3  not found: no such space, document, device
  4  forbidden: this device or this token may not do that
  5  invalid data, too large, or in conflict with the present state
  6  unavailable: the node cannot be reached, or the data directory is locked
  7  timed out";

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Forbidden = 4,
    Invalid = 5,
    Unavailable = 6,
    Timeout = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Forbidden => Self::Forbidden,
            ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::TooLarge => Self::Invalid,
            ErrorKind::Locked | ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Timeout => Self::Timeout,
            _ => Self::Failed,
        }
    }
}

impl From<ProblemKind> for Exit {
    fn from(kind: ProblemKind) -> Self {
        match kind {
            ProblemKind::NotFound => Self::NotFound,
            ProblemKind::Unauthorised | ProblemKind::Forbidden => Self::Forbidden,
            ProblemKind::Invalid | ProblemKind::Conflict | ProblemKind::TooLarge => Self::Invalid,
            ProblemKind::Unavailable => Self::Unavailable,
            ProblemKind::Timeout => Self::Timeout,
            _ => Self::Failed,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Whoever read the output has enough of it: nothing is wrong and nothing is said.
    pub(crate) quiet: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, quiet: false }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", one_line(&self.message))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {}", one_line(hint)),
            None => Ok(()),
        }
    }
}

/// A message is one line, whatever stands in the data that it quotes.
fn one_line(text: &str) -> String {
    let plain = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    plain.collect::<String>().trim().to_owned()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::new(problem.kind.into(), problem.detail)
    }
}

/// Of writing to the standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        Self { quiet, ..Self::new(Exit::Failed, format!("cannot write the output: {error}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_and_a_hint() {
        let failure = Failure::new(Exit::NotFound, "no `a\nb\u{1b}[31m`").hint("make it");
        assert_eq!(failure.to_string(), "error: no `a b [31m`\nhint: make it");
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure_to_speak_of() {
        assert!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).quiet);
        assert!(!Failure::from(io::Error::from(io::ErrorKind::StorageFull)).quiet);
    }

    #[test]
    fn library_and_http_lead_to_the_same_exit_code() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Invalid,
            ErrorKind::Conflict,
            ErrorKind::Forbidden,
            ErrorKind::TooLarge,
            ErrorKind::Locked,
            ErrorKind::Unavailable,
            ErrorKind::Timeout,
            ErrorKind::Internal,
        ] {
            assert_eq!(Exit::from(kind), Exit::from(ProblemKind::from(kind)), "{kind:?}");
        }
    }
}
