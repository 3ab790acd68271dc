//! `key passphrase`: sets, replaces or removes the passphrase over the keys in the data directory.

use std::path::Path;

use serde::Serialize;
use syncline::node::upkeep::{PassphraseChange, change_passphrase, has_passphrase};

use super::access::{alone, not_served};
use super::arguments::{KeyCommand, PassphraseSource};
use super::failure::Failure;
use super::output::{Output, note};
use super::passphrase::{Purpose, ask, given_new};
use super::progress::Bar;

/// What became of the passphrase.
#[derive(Debug, Serialize)]
struct Report {
    /// `set`, `replaced`, `removed` or `none`.
    passphrase: &'static str,
}

pub(super) async fn key(
    data: &Path,
    source: &PassphraseSource,
    command: &KeyCommand,
    output: &mut Output,
) -> Result<(), Failure> {
    let KeyCommand::Passphrase { remove, new_passphrase_file } = command;
    // Whoever has to stop a node first is told so before being asked for anything.
    not_served(data).await?;
    let present = if has_passphrase(data) { Some(source.obtain()?) } else { None };
    let new = match (remove, given_new(new_passphrase_file.as_deref())?) {
        (true, _) => None,
        (false, Some(given)) => Some(given),
        (false, None) => Some(ask(Purpose::NewOfDirectory)?),
    };
    let change = alone(data, || {
        let mut bar = Bar::new();
        change_passphrase(data, present.as_ref(), new.as_ref(), &mut |progress| bar.storage(progress))
    })
    .await?;
    show(change, output)
}

fn show(change: PassphraseChange, output: &mut Output) -> Result<(), Failure> {
    let (name, text) = match change {
        PassphraseChange::Set => ("set", "the keys in the data directory are under a passphrase now"),
        PassphraseChange::Replaced => ("replaced", "the keys are under the new passphrase now"),
        PassphraseChange::Removed => ("removed", "the keys are under no passphrase any more"),
        PassphraseChange::NoneYet => ("none", "the keys were under no passphrase: nothing was changed"),
    };
    if output.json {
        return output.json(&Report { passphrase: name });
    }
    output.line(text)?;
    output.flush()?;
    if matches!(change, PassphraseChange::Set | PassphraseChange::Replaced) {
        note(
            "Nobody can recover it: without it this device is lost, and another one has to be admitted in its place. \
             Copies of the directory that were made before are not under it.",
        );
    }
    Ok(())
}
