//! Where a passphrase or a recovery key comes from: a file, a variable, or the person.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use console::Term;
use syncline::node::upkeep::Passphrase;
use zeroize::Zeroizing;

use super::arguments::{BackupPassphraseSource, PassphraseSource};
use super::failure::{Exit, Failure};

/// Holds the passphrase over the directory's keys itself.
const VARIABLE: &str = "SYNCLINE_PASSPHRASE";
/// Holds a new one.
const NEW_VARIABLE: &str = "SYNCLINE_NEW_PASSPHRASE";
/// Holds the one over the keys in a backup.
const BACKUP_VARIABLE: &str = "SYNCLINE_BACKUP_PASSPHRASE";
/// Holds the recovery key of a space.
const RECOVERY_VARIABLE: &str = "SYNCLINE_RECOVERY_KEY";
/// Most bytes that are read of a passphrase's file.
const FILE_BYTES_MAX: u64 = 8192;

/// What a passphrase is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To open the data directory.
    Directory,
    /// To put the directory's keys under it.
    NewOfDirectory,
    /// To open the keys in a backup.
    Backup,
    /// To put the keys in a backup under it.
    NewOfBackup,
}

impl Purpose {
    fn is_new(self) -> bool {
        matches!(self, Self::NewOfDirectory | Self::NewOfBackup)
    }

    fn prompt(self) -> &'static str {
        match self {
            Self::Directory => "Passphrase of the data directory: ",
            Self::NewOfDirectory => "New passphrase of the data directory: ",
            Self::Backup => "Passphrase of the backup: ",
            Self::NewOfBackup => "New passphrase of the backup: ",
        }
    }

    fn hint(self) -> String {
        let (option, variable) = match self {
            Self::Directory => ("--passphrase-file", VARIABLE),
            Self::NewOfDirectory => ("--new-passphrase-file", NEW_VARIABLE),
            Self::Backup | Self::NewOfBackup => ("--backup-passphrase-file", BACKUP_VARIABLE),
        };
        format!("name a file with {option}, or set {variable}")
    }

    /// How a command ends that lacks it: an existing directory is closed to it, anything else is a matter of usage.
    fn exit(self) -> Exit {
        if self == Self::Directory { Exit::Forbidden } else { Exit::Usage }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Directory => "the keys in the data directory are under a passphrase",
            _ => "a passphrase is needed",
        }
    }
}

impl PassphraseSource {
    /// The passphrase over the directory's keys: of the file, of the variable, or of the person.
    pub(super) fn obtain(&self) -> Result<Passphrase, Failure> {
        match given(self.passphrase_file.as_deref(), VARIABLE)? {
            Some(given) => Ok(given),
            None => ask(Purpose::Directory),
        }
    }
}

impl BackupPassphraseSource {
    /// The passphrase of the file or the variable, if there is one.
    pub(super) fn given(&self) -> Result<Option<Passphrase>, Failure> {
        given(self.backup_passphrase_file.as_deref(), BACKUP_VARIABLE)
    }
}

/// The new passphrase of the file or the variable, if there is one.
pub(super) fn given_new(file: Option<&Path>) -> Result<Option<Passphrase>, Failure> {
    given(file, NEW_VARIABLE)
}

fn given(file: Option<&Path>, variable: &str) -> Result<Option<Passphrase>, Failure> {
    let text = given_text(file, variable)?;
    text.map(|text| Ok(Passphrase::new(&text)?)).transpose()
}

fn given_text(file: Option<&Path>, variable: &str) -> Result<Option<Zeroizing<String>>, Failure> {
    match file {
        Some(path) => first_line(path).map(Some),
        None => Ok(std::env::var(variable).map(Zeroizing::new).ok()),
    }
}

/// The recovery key of the file, of the variable, or of the person.
pub(super) fn recovery_key(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    if let Some(given) = given_text(file, RECOVERY_VARIABLE)? {
        return Ok(given);
    }
    if !has_terminal() {
        let failure = Failure::new(Exit::Usage, "the recovery key is needed, and there is no terminal to ask for it");
        return Err(failure.hint(format!("name a file with --recovery-key-file, or set {RECOVERY_VARIABLE}")));
    }
    read_hidden("Recovery key: ")
}

fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn read_hidden(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let terminal = Term::stderr();
    let failed = |error| Failure::new(Exit::Failed, format!("cannot ask for it: {error}"));
    terminal.write_str(prompt).map_err(failed)?;
    terminal.read_secure_line().map(Zeroizing::new).map_err(failed)
}

/// Asks the person; twice, if it is a new one.
pub(super) fn ask(purpose: Purpose) -> Result<Passphrase, Failure> {
    if !has_terminal() {
        let failure =
            Failure::new(purpose.exit(), format!("{}, and there is no terminal to ask for it", purpose.what()));
        return Err(failure.hint(purpose.hint()));
    }
    let passphrase = read_hidden(purpose.prompt())?;
    if purpose.is_new() && read_hidden("Once more: ")? != passphrase {
        return Err(Failure::new(Exit::Usage, "the two passphrases differ: nothing was done"));
    }
    Ok(Passphrase::new(&passphrase)?)
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Failure::new(Exit::NotFound, format!("cannot read `{}`: {error}", path.display())))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}
