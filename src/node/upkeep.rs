//! Upkeep of a data directory that no node uses: another index, and repair after damage.

use std::path::Path;

use syncline_model::SpaceId;
pub use syncline_storage::{AuthorRange, RepairReport};
use syncline_storage::{IndexKind, OpenOptions, Progress, Store};

use super::files;
use super::key_files::KeyFiles;
pub use super::key_files::{PassphraseChange, change_passphrase, has_passphrase};
pub use super::passphrase::Passphrase;
use crate::error::Error;

/// What a repair did to one space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedSpace {
    /// The space.
    pub space: SpaceId,
    /// Its name on this device; its id when its key file cannot be read.
    pub name: String,
    /// What can be read now, and what is missing.
    pub report: RepairReport,
}

/// Gives a data directory an index of another kind, made from the logs; returns the kind that it had before.
///
/// When that is the kind asked for, nothing is done. A conversion that was cut short leaves the old index in use.
///
/// # Errors
/// When a process uses the directory, there is none, or the disk fails.
pub fn convert_index(directory: &Path, to: IndexKind, progress: &mut dyn FnMut(Progress)) -> Result<IndexKind, Error> {
    Ok(Store::convert_index(directory, to, progress)?)
}

/// Makes the index of one space, by name or id, or of all spaces anew from their logs, leaving out what is damaged.
///
/// Damaged stretches of the logs give their room back. The documents are made anew at the next start, and what is
/// missing is fetched at the next contact with a peer that holds it. Spaces have their names only if the keys of the
/// directory are under no passphrase or it is given; nothing else needs it.
///
/// # Errors
/// When a process uses the directory, there is none, the space is not in it, or the disk fails.
pub fn repair(
    directory: &Path,
    space: Option<&str>,
    passphrase: Option<&Passphrase>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<RepairedSpace>, Error> {
    let store = Store::open(directory, OpenOptions::default(), progress)?;
    let keys = match KeyFiles::open(store.files(), passphrase) {
        Err(Error::KeysLocked) => None,
        keys => Some(keys?),
    };
    let mut wanted = Vec::new();
    for id in store.spaces()? {
        let name = space_name(keys.as_ref(), id);
        if space.is_none_or(|asked| asked == name || asked == id.to_string()) {
            wanted.push((id, name));
        }
    }
    if let Some(asked) = space.filter(|_| wanted.is_empty()) {
        let names = store.spaces()?.into_iter().map(|id| space_name(keys.as_ref(), id)).collect::<Vec<_>>();
        return Err(Error::unknown_space(asked, names.iter().map(String::as_str)));
    }
    let mut repaired = Vec::with_capacity(wanted.len());
    for (space, name) in wanted {
        repaired.push(RepairedSpace { space, name, report: store.repair_space(space, progress)? });
    }
    store.flush()?;
    Ok(repaired)
}

/// The name that a space has on this device; its id when its key file is missing, damaged or sealed.
fn space_name(keys: Option<&KeyFiles>, space: SpaceId) -> String {
    let kept = keys.and_then(|keys| files::read_space(keys, space).ok().flatten());
    kept.map_or_else(|| space.to_string(), |kept| kept.name)
}
