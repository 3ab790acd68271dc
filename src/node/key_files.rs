//! The files that hold keys, and the passphrase that they may be under.
//!
//! ```text
//! node/keyring   canonical(lock, sealed(key of the files, whether all of them are sealed))      only with a passphrase
//! node/device.key, node/local.key, the keys of each space:
//!                as they are, or "syncline key file\n" (18) ‖ version 1 ‖ sealed under the key of the files
//! ```
//!
//! The passphrase makes a key by Argon2id (see `passphrase.rs`), and that one opens the keyring alone: another
//! passphrase is one file replaced at once. Setting and removing it touch every file. Until the last one is done the
//! keyring says so and files of both forms are read; after a crash at any point the directory opens with the old
//! passphrase or the new one, and repeating the command completes it. Once all are sealed, one that is not is refused.
//!
//! What it does not do: another passphrase does not seal the files anew, so whoever has an old keyring and its
//! passphrase still opens them; and what the disk keeps of replaced files, or of a copy made before, is as it was. The
//! owner's API token stays readable, since it is of use only while a node runs.
//!
//! A directory with a keyring is marked with a format that releases without keyrings refuse.

use std::fmt;
use std::path::Path;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use syncline_model::keys::{open, seal};
use syncline_model::{ContentKey, SpaceId, canonical};
use syncline_storage::{FileScope, OpenOptions, Progress, SmallFiles, StorageError, Store};
use zeroize::Zeroizing;

use super::files::{DEVICE_KEY, LOCAL_KEY, SPACE_KEYS};
use super::passphrase::{Lock, Passphrase};
use crate::error::Error;

const KEYRING: &str = "keyring";
const MAGIC: &[u8; 18] = b"syncline key file\n";
const VERSION: u8 = 1;
/// Bound by a key file's seal, before whose file it is and its name.
const FILE_DOMAIN: &[u8] = b"syncline/key-file/1\0";
/// Bound by the keyring's seal.
const KEYRING_DOMAIN: &[u8] = b"syncline/keyring/1\0";

/// The keyring as it is stored.
#[derive(Serialize, Deserialize)]
struct Keyring {
    lock: Lock,
    sealed: Vec<u8>,
}

/// What is sealed in it.
#[derive(Serialize, Deserialize)]
struct Inside {
    key: ContentKey,
    /// Whether all key files are sealed.
    complete: bool,
}

/// Reads and writes the files that hold keys, sealed if there is a passphrase.
#[derive(Clone)]
pub(super) struct KeyFiles {
    files: SmallFiles,
    /// None without a passphrase.
    key: Option<ContentKey>,
    /// Whether a file that is not sealed is refused.
    strict: bool,
}

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFiles(sealed: {})", self.key.is_some())
    }
}

impl KeyFiles {
    /// The key files of a directory without a passphrase, as a new one is.
    pub(super) fn plain(files: SmallFiles) -> Self {
        Self { files, key: None, strict: false }
    }

    /// Opens the keyring if there is one; a passphrase is not looked at if there is none.
    ///
    /// # Errors
    /// When the passphrase is missing or wrong, or the keyring is damaged.
    pub(super) fn open(files: SmallFiles, passphrase: Option<&Passphrase>) -> Result<Self, Error> {
        let Some(keyring) = read_keyring(&files)? else { return Ok(Self::plain(files)) };
        let Inside { key, complete } = keyring.open(passphrase.ok_or(Error::KeysLocked)?)?;
        if !complete {
            tracing::warn!("a change of the passphrase was cut short: `syncline key passphrase` completes it");
        }
        Ok(Self { files, key: Some(key), strict: complete })
    }

    /// Reads a file; None when there is none.
    pub(super) fn read(&self, scope: FileScope, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(bytes) = self.files.read(scope, name)?.map(Zeroizing::new) else { return Ok(None) };
        match (bytes.strip_prefix(MAGIC), &self.key) {
            (None, _) if self.strict => Err(Error::DamagedFile { what: "a key file, which is not sealed," }),
            (None, _) => Ok(Some(bytes)),
            (Some(_), None) => Err(Error::DamagedFile { what: "the keyring, which is missing," }),
            (Some(rest), Some(key)) => {
                let damaged = |_| Error::DamagedFile { what: "a sealed key file" };
                let sealed = rest.strip_prefix(&[VERSION]).ok_or(Error::DamagedFile { what: "a sealed key file" })?;
                open(key, &bound(scope, name), sealed).map(Zeroizing::new).map(Some).map_err(damaged)
            }
        }
    }

    /// Replaces a file, durably; only its owner may read it.
    pub(super) fn write(&self, scope: FileScope, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.files.write_secret(scope, name, &self.stored(scope, name, bytes))
    }

    /// What a file with these bytes is on the disk.
    pub(super) fn stored(&self, scope: FileScope, name: &str, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
        let Some(key) = &self.key else { return Zeroizing::new(bytes.to_vec()) };
        let sealed = seal(key, &bound(scope, name), bytes, &mut rand::make_rng::<StdRng>());
        Zeroizing::new([MAGIC.as_slice(), &[VERSION], &sealed].concat())
    }
}

fn bound(scope: FileScope, name: &str) -> Vec<u8> {
    let space = match scope {
        FileScope::Node => [0; 32],
        FileScope::Space(SpaceId(space)) => space,
    };
    [FILE_DOMAIN, &space, name.as_bytes()].concat()
}

fn read_keyring(files: &SmallFiles) -> Result<Option<Keyring>, Error> {
    let damaged = |_| Error::DamagedFile { what: "the keyring" };
    let bytes = files.read(FileScope::Node, KEYRING)?;
    bytes.map(|bytes| canonical::decode(&bytes, "keyring").map_err(damaged)).transpose()
}

impl Keyring {
    fn open(&self, passphrase: &Passphrase) -> Result<Inside, Error> {
        let outer = self.lock.open(passphrase).map_err(|error| match error {
            Error::WrongPassphrase => Error::WrongKeyPassphrase,
            other => other,
        })?;
        let damaged = || Error::DamagedFile { what: "the keyring" };
        let bytes = open(&outer, KEYRING_DOMAIN, &self.sealed).map(Zeroizing::new).map_err(|_| damaged())?;
        canonical::decode(&bytes, "keyring").map_err(|_| damaged())
    }
}

fn write_keyring(
    files: &SmallFiles,
    passphrase: &Passphrase,
    inside: &Inside,
    random: &mut StdRng,
) -> Result<(), Error> {
    let (lock, outer) = Lock::new(passphrase, random)?;
    let bytes = Zeroizing::new(canonical::encode(inside));
    let keyring = Keyring { lock, sealed: seal(&outer, KEYRING_DOMAIN, &bytes, random) };
    Ok(files.write_secret(FileScope::Node, KEYRING, &canonical::encode(&keyring))?)
}

/// What became of the passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassphraseChange {
    /// There is one now.
    Set,
    /// There is another one now.
    Replaced,
    /// There is none any more.
    Removed,
    /// There was none and there is none.
    NoneYet,
}

/// Whether the keys in a data directory are under a passphrase.
pub fn has_passphrase(directory: &Path) -> bool {
    directory.join("node").join(KEYRING).exists()
}

/// Sets, replaces or removes the passphrase over the keys in a data directory that no process uses.
///
/// A crash at any point leaves a directory that opens with the present passphrase or the new one; repeating the call
/// completes the change.
///
/// # Errors
/// When the directory is in use or none, the present passphrase is missing or wrong, or the disk fails.
pub fn change_passphrase(
    directory: &Path,
    present: Option<&Passphrase>,
    new: Option<&Passphrase>,
    progress: &mut dyn FnMut(Progress),
) -> Result<PassphraseChange, Error> {
    let store = Store::open(directory, OpenOptions::default(), progress)?;
    change(&store, present, new, &mut rand::make_rng())
}

fn change(
    store: &Store,
    present: Option<&Passphrase>,
    new: Option<&Passphrase>,
    random: &mut StdRng,
) -> Result<PassphraseChange, Error> {
    let files = store.files();
    let keyring = read_keyring(&files)?;
    let is_new = keyring.is_none();
    let inside = match keyring {
        Some(keyring) => keyring.open(present.ok_or(Error::KeysLocked)?)?,
        None => Inside { key: ContentKey::generate(random), complete: false },
    };
    match new {
        Some(new) => {
            // Before anything that an older release would take for damage.
            store.mark_keys_sealed(true)?;
            write_keyring(&files, new, &inside, random)?;
            if !inside.complete {
                let sealed = KeyFiles { files: files.clone(), key: Some(inside.key.clone()), strict: false };
                rewrite(store, &sealed, &sealed)?;
                write_keyring(&files, new, &Inside { complete: true, ..inside }, random)?;
            }
            Ok(if is_new { PassphraseChange::Set } else { PassphraseChange::Replaced })
        }
        None if is_new => {
            // A change that was cut short may have left the mark.
            store.mark_keys_sealed(false)?;
            Ok(PassphraseChange::NoneYet)
        }
        None => {
            let present = present.ok_or(Error::KeysLocked)?;
            let inside = Inside { complete: false, ..inside };
            write_keyring(&files, present, &inside, random)?;
            let sealed = KeyFiles { files: files.clone(), key: Some(inside.key), strict: false };
            rewrite(store, &sealed, &KeyFiles::plain(files.clone()))?;
            files.remove(FileScope::Node, KEYRING)?;
            store.mark_keys_sealed(false)?;
            Ok(PassphraseChange::Removed)
        }
    }
}

/// Reads every key file one way and writes it the other.
fn rewrite(store: &Store, from: &KeyFiles, to: &KeyFiles) -> Result<(), Error> {
    let of_node = [DEVICE_KEY, LOCAL_KEY].map(|name| (FileScope::Node, name));
    let of_spaces = store.spaces()?.into_iter().map(|space| (FileScope::Space(space), SPACE_KEYS));
    for (scope, name) in of_node.into_iter().chain(of_spaces) {
        if let Some(bytes) = from.read(scope, name)? {
            to.write(scope, name, &bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use rand::SeedableRng;
    use syncline_storage::{Incarnation, MemoryDisk, MemoryIndex};

    const SPACES: [SpaceId; 2] = [SpaceId([1; 32]), SpaceId([2; 32])];

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    fn store(disk: &Arc<MemoryDisk>) -> Result<Store, StorageError> {
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        Store::assemble(disk.clone(), Arc::new(MemoryIndex::default()), options)
    }

    /// A directory with key files, in the state that `steps` of passphrases leave.
    fn directory(steps: &[Option<&str>]) -> Arc<MemoryDisk> {
        let disk = Arc::new(MemoryDisk::new());
        let store = store(&disk).unwrap();
        for (number, space) in (7..).zip(SPACES) {
            store.create_space(space, Incarnation([1; 16]), &[(SPACE_KEYS, &[number; 100])]).unwrap();
        }
        let plain = KeyFiles::plain(store.files());
        plain.write(FileScope::Node, DEVICE_KEY, &[5; 32]).unwrap();
        plain.write(FileScope::Node, LOCAL_KEY, &[6; 32]).unwrap();
        let mut present = None;
        for step in steps {
            let new = step.map(passphrase);
            change(&store, present.as_ref(), new.as_ref(), &mut StdRng::seed_from_u64(1)).unwrap();
            present = new;
        }
        disk
    }

    /// What all key files hold, when opened with this passphrase.
    fn contents(disk: &Arc<MemoryDisk>, present: Option<&str>) -> Result<Vec<Vec<u8>>, Error> {
        let store = store(disk)?;
        let present = present.map(passphrase);
        let keys = KeyFiles::open(store.files(), present.as_ref())?;
        let mut all = Vec::new();
        for name in [DEVICE_KEY, LOCAL_KEY] {
            all.push(keys.read(FileScope::Node, name)?.unwrap().to_vec());
        }
        for space in SPACES {
            all.push(keys.read(FileScope::Space(space), SPACE_KEYS)?.unwrap().to_vec());
        }
        Ok(all)
    }

    fn expected() -> Vec<Vec<u8>> {
        vec![vec![5; 32], vec![6; 32], vec![7; 100], vec![8; 100]]
    }

    fn is_sealed(disk: &Arc<MemoryDisk>) -> Vec<bool> {
        let files = store(disk).unwrap().files();
        let of_node = [DEVICE_KEY, LOCAL_KEY].map(|name| files.read(FileScope::Node, name));
        let of_spaces = SPACES.map(|space| files.read(FileScope::Space(space), SPACE_KEYS));
        of_node.into_iter().chain(of_spaces).map(|bytes| bytes.unwrap().unwrap().starts_with(MAGIC)).collect()
    }

    #[test]
    fn key_files_are_sealed_while_there_is_a_passphrase() {
        let disk = directory(&[Some("old")]);
        assert_eq!(is_sealed(&disk), [true; 4]);
        assert_eq!(contents(&disk, Some("old")).unwrap(), expected());
        assert!(matches!(contents(&disk, None), Err(Error::KeysLocked)));
        assert!(matches!(contents(&disk, Some("Old")), Err(Error::WrongKeyPassphrase)));
        let disk = directory(&[Some("old"), Some("new")]);
        assert_eq!(contents(&disk, Some("new")).unwrap(), expected());
        assert!(matches!(contents(&disk, Some("old")), Err(Error::WrongKeyPassphrase)));
        let disk = directory(&[Some("old"), Some("new"), None]);
        assert_eq!(is_sealed(&disk), [false; 4]);
        assert_eq!(contents(&disk, None).unwrap(), expected());
        assert_eq!(contents(&disk, Some("not looked at")).unwrap(), expected());
    }

    #[test]
    fn a_sealed_file_is_good_in_its_own_place_alone_and_a_plain_one_nowhere() {
        let disk = directory(&[Some("old")]);
        let files = store(&disk).unwrap().files();
        let keys = KeyFiles::open(files.clone(), Some(&passphrase("old"))).unwrap();
        let other = files.read(FileScope::Space(SPACES[0]), SPACE_KEYS).unwrap().unwrap();
        files.write_secret(FileScope::Space(SPACES[1]), SPACE_KEYS, &other).unwrap();
        assert!(matches!(keys.read(FileScope::Space(SPACES[1]), SPACE_KEYS), Err(Error::DamagedFile { .. })));
        files.write_secret(FileScope::Node, DEVICE_KEY, &[9; 32]).unwrap();
        assert!(matches!(keys.read(FileScope::Node, DEVICE_KEY), Err(Error::DamagedFile { .. })));
        files.remove(FileScope::Node, KEYRING).unwrap();
        let keys = KeyFiles::open(files, None).unwrap();
        assert!(matches!(keys.read(FileScope::Node, LOCAL_KEY), Err(Error::DamagedFile { .. })));
    }

    #[test]
    fn a_crash_during_a_change_leaves_a_directory_that_opens_with_the_old_or_the_new_passphrase() {
        for (before, old, new) in [
            (&[][..], None, Some("new")),
            (&[Some("old")], Some("old"), Some("new")),
            (&[Some("old")], Some("old"), None),
        ] {
            let (old_one, new_one) = (old.map(passphrase), new.map(passphrase));
            let calls = {
                let disk = directory(before);
                let store = store(&disk).unwrap();
                let start = disk.calls();
                change(&store, old_one.as_ref(), new_one.as_ref(), &mut StdRng::seed_from_u64(2)).unwrap();
                disk.calls() - start
            };
            assert!(calls >= 6, "{calls}");
            for (at, power) in (0..calls).flat_map(|at| [(at, true), (at, false)]) {
                let disk = directory(before);
                let opened = store(&disk).unwrap();
                disk.kill_after(at);
                let outcome = change(&opened, old_one.as_ref(), new_one.as_ref(), &mut StdRng::seed_from_u64(2));
                assert!(outcome.is_err(), "call {at} of {calls}");
                drop(opened);
                if power {
                    disk.restart();
                } else {
                    disk.lose_power(&mut |choices| (at * 7919) % choices.max(1));
                }
                let with = [old, new].into_iter().find(|with| contents(&disk, *with).is_ok());
                let with = with.unwrap_or_else(|| panic!("{old:?} to {new:?}, call {at}: it does not open"));
                assert_eq!(contents(&disk, with).unwrap(), expected(), "{old:?} to {new:?}, call {at}");
                // Repeating completes it.
                let store = store(&disk).unwrap();
                let present = with.map(passphrase);
                change(&store, present.as_ref(), new_one.as_ref(), &mut StdRng::seed_from_u64(3)).unwrap();
                assert_eq!(contents(&disk, new).unwrap(), expected(), "{old:?} to {new:?}, call {at}");
                assert_eq!(is_sealed(&disk), [new.is_some(); 4], "{old:?} to {new:?}, call {at}");
            }
        }
    }
}
