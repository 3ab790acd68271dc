//! Where a passphrase comes from: a file, a variable, or the person.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use console::Term;
use syncline::node::backup::Passphrase;

use super::arguments::PassphraseSource;
use super::failure::{Exit, Failure};

/// Holds the passphrase itself.
const VARIABLE: &str = "SYNCLINE_PASSPHRASE";
/// Most bytes that are read of a passphrase's file.
const FILE_BYTES_MAX: u64 = 8192;

impl PassphraseSource {
    /// The passphrase of the file or the variable, if there is one.
    pub(super) fn given(&self) -> Result<Option<Passphrase>, Failure> {
        if let Some(path) = &self.passphrase_file {
            return Ok(Some(Passphrase::new(&first_line(path)?)?));
        }
        match std::env::var(VARIABLE) {
            Ok(text) => Ok(Some(Passphrase::new(&text)?)),
            Err(_) => Ok(None),
        }
    }
}

/// Asks the person; twice, if it is a new one.
pub(super) fn ask(is_new: bool) -> Result<Passphrase, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let failure = Failure::new(Exit::Usage, "a passphrase is needed, and there is no terminal to ask for it");
        return Err(failure.hint(format!("name a file with --passphrase-file, or set {VARIABLE}")));
    }
    let read = |prompt: &str| {
        let terminal = Term::stderr();
        let failed = |error| Failure::new(Exit::Failed, format!("cannot ask for the passphrase: {error}"));
        terminal.write_str(prompt).map_err(failed)?;
        terminal.read_secure_line().map_err(failed)
    };
    let passphrase = read("Passphrase: ")?;
    if is_new && read("Once more: ")? != passphrase {
        return Err(Failure::new(Exit::Usage, "the two passphrases differ: nothing was done"));
    }
    Ok(Passphrase::new(&passphrase)?)
}

fn first_line(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Failure::new(Exit::NotFound, format!("cannot read `{}`: {error}", path.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
