//! Backups of a device's spaces in one file, and new devices made from them.
//!
//! ```text
//! the node's files   passphrase   the lock of the keys, if keys are inside (see passphrase.rs)
//! a space's files    keys         canonical(KeptSpace): its name and founder, and its keys sealed under the lock
//! ```
//!
//! What surrounds them is the storage's format. The device's key is never inside: who restores is another device, with
//! a log of its own, so that no sequence of the old one is ever used twice. It holds what was written up to then, reads
//! it if the keys are inside, and writes once a member has admitted it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use syncline_model::canonical;
use syncline_model::keys::{open, seal};
use syncline_model::{ContentKey, DeviceId, ReplicationSecret, SpaceId};
pub use syncline_storage::BackupSummary;
use syncline_storage::{
    BackupError, BackupFile, BackupItem, BackupReader, BackupWriter, Incarnation, IndexKind, LogReader, OpenOptions,
    Progress, Store,
};
use zeroize::Zeroizing;

use super::files::{self, SPACE_KEYS};
use super::key_files::KeyFiles;
use super::passphrase::Lock;
pub use super::passphrase::{ARGON2_LANES, ARGON2_MEMORY_KIB, ARGON2_PASSES, Passphrase};
use super::{Node, builder};
use crate::error::Error;
use crate::space::SpaceKeys;

/// The file of the node that holds the lock.
const LOCK_FILE: &str = "passphrase";
/// Bound by the seal of a space's keys, before the space's id.
const KEYS_DOMAIN: &[u8] = b"syncline backup keys 1";
/// Bytes that are read from a backup's file at once.
const READ_BYTES: usize = 1 << 20;

/// What stands of a space beside its log.
#[derive(Serialize, Deserialize)]
struct KeptSpace {
    name: String,
    founder: DeviceId,
    sealed: Option<Vec<u8>>,
}

/// The keys of a space, sealed as one.
#[derive(Serialize, Deserialize)]
struct KeptKeys {
    content: BTreeMap<u32, ContentKey>,
    replication: BTreeMap<u32, ReplicationSecret>,
}

/// How a new device is made from a backup.
#[derive(Debug, Default)]
pub struct RestoreOptions {
    /// The passphrase of the keys.
    pub passphrase: Option<Passphrase>,
    /// Leave the keys out, if there are any.
    pub without_keys: bool,
    /// What keeps the index.
    pub index: IndexKind,
}

/// A new device that was made from a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new device.
    pub device: DeviceId,
    /// What the backup held.
    pub summary: BackupSummary,
    /// Its spaces.
    pub spaces: Vec<RestoredSpace>,
}

/// A space of a new device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredSpace {
    /// The space.
    pub space: SpaceId,
    /// Its name on this device.
    pub name: String,
    /// Whether its keys came with it, so that it can be read.
    pub readable: bool,
}

/// What a check of a backup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedBackup {
    /// What it holds.
    pub summary: BackupSummary,
    /// Whether it holds keys, under a passphrase.
    pub has_keys: bool,
}

impl Node {
    /// Writes a backup of all spaces to a stream, each as it is when its turn comes, while everything goes on.
    ///
    /// With a passphrase the spaces' keys are inside, sealed under it. Blocks a thread of its own until it is done; a
    /// backup is complete if this succeeds and what it was written to is durable.
    ///
    /// # Errors
    /// When a space has ended, the disk cannot be read or the stream refuses.
    pub async fn backup(
        &self,
        passphrase: Option<Passphrase>,
        out: impl Write + Send + 'static,
    ) -> Result<BackupSummary, Error> {
        let mut spaces = Vec::new();
        for entry in self.entries().iter() {
            spaces.push(self.space_of(entry).log_reader().await?);
        }
        let permit = self.inner.backups.clone().acquire_owned().await.map_err(|_| Error::Stopping)?;
        let files = self.inner.keys.clone();
        builder::blocking(move || {
            let _permit = permit;
            let mut random: StdRng = rand::make_rng();
            let mut writer = BackupWriter::new(out)?;
            let key = match passphrase {
                Some(passphrase) => {
                    let (lock, key) = Lock::new(&passphrase, &mut random)?;
                    writer.node_file(LOCK_FILE, &lock.encode())?;
                    Some(key)
                }
                None => None,
            };
            for reader in &spaces {
                let keys = files::read_space(&files, reader.space())?;
                let keys = keys.ok_or(Error::DamagedFile { what: "the key file of a space" })?;
                write_space(&mut writer, reader, keys, key.as_ref(), &mut random)?;
            }
            Ok(writer.finish()?.0)
        })
        .await
    }
}

fn write_space(
    writer: &mut BackupWriter<impl Write>,
    reader: &LogReader,
    keys: SpaceKeys,
    key: Option<&ContentKey>,
    random: &mut StdRng,
) -> Result<(), Error> {
    let SpaceKeys { space, name, founder, content, replication, .. } = keys;
    let kept_keys = Zeroizing::new(canonical::encode(&KeptKeys { content, replication }));
    let sealed = key.map(|key| seal(key, &keys_bound(space), &kept_keys, random));
    let kept = canonical::encode(&KeptSpace { name, founder, sealed });
    let damaged = writer.space(reader, &[(SPACE_KEYS, &kept)], &mut builder::report)?;
    for run in damaged {
        tracing::error!(
            space = %space.short(), author = %run.author.short(), first = run.first, last = run.last,
            "damaged operations are not in the backup"
        );
    }
    Ok(())
}

fn keys_bound(space: SpaceId) -> Vec<u8> {
    [KEYS_DOMAIN, space.as_bytes()].concat()
}

/// Reads a backup to its end and checks all of it: hashes, records, signatures. `progress` is told the bytes read.
///
/// # Errors
/// When it is damaged, cut short, of a newer release or something else.
pub fn check_backup(file: &Path, progress: &mut dyn FnMut(u64)) -> Result<CheckedBackup, Error> {
    let mut reader = BackupReader::new(open_file(file)?)?;
    let mut has_keys = false;
    while let Some(item) = reader.next_item()? {
        match item {
            BackupItem::File(BackupFile { space: None, name, .. }) => has_keys |= name == LOCK_FILE,
            BackupItem::Checkpoint(checkpoint) => progress(checkpoint.offset),
            BackupItem::End(summary) => return Ok(CheckedBackup { summary, has_keys }),
            _ => {}
        }
    }
    Err(BackupError::NotABackup.into())
}

/// Makes a new device from a backup, in a directory that does not exist or is empty.
///
/// # Errors
/// When the directory is in use or not empty, the backup is damaged, or its keys need a passphrase that is missing or
/// wrong. A directory that was made for it is removed again; one that was there and empty is left as restored in part.
pub fn restore(
    file: &Path,
    directory: &Path,
    options: &RestoreOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Restored, Error> {
    let key = match read_lock(file)?.filter(|_| !options.without_keys) {
        Some(lock) => Some(lock.open(options.passphrase.as_ref().ok_or(Error::PassphraseNeeded)?)?),
        None => None,
    };
    let is_new = !directory.exists();
    let restored = restore_into(file, directory, options, key.as_ref(), progress);
    if restored.is_err() && is_new {
        // If that fails as well, the directory says itself what it is.
        let _removed = std::fs::remove_dir_all(directory);
    }
    restored
}

fn restore_into(
    file: &Path,
    directory: &Path,
    options: &RestoreOptions,
    key: Option<&ContentKey>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Restored, Error> {
    let create = OpenOptions { create: true, index: options.index, ..OpenOptions::default() };
    let store = Store::open(directory, create, progress)?;
    let files = KeyFiles::plain(store.files());
    if files::read_device(&files)?.is_some() {
        return Err(Error::AlreadyInitialised { directory: directory.to_owned() });
    }
    let mut random: StdRng = rand::make_rng();
    let mut spaces = Vec::new();
    let mut incarnation_random: StdRng = rand::make_rng();
    let mut incarnation = || {
        let mut bytes = [0; 16];
        rand::Rng::fill_bytes(&mut incarnation_random, &mut bytes);
        Incarnation(bytes)
    };
    let mut keep = |file: &BackupFile| match file.space.filter(|_| file.name == SPACE_KEYS) {
        Some(space) => {
            let keys = restored_keys(space, &file.bytes, key)?;
            spaces.push(RestoredSpace { space, name: keys.name.clone(), readable: !keys.content.is_empty() });
            Ok(Some(keys.encode()))
        }
        None => Ok(None),
    };
    let summary = syncline_storage::restore(open_file(file)?, &store, &mut incarnation, &mut keep, progress)?;
    // Last of all: a directory without it is no device.
    let device = files::create_device(&files, &mut random)?;
    Ok(Restored { device: device.id(), summary, spaces })
}

/// What the restored device keeps of a space: no ticket, and the keys if they are inside and may be used.
fn restored_keys(
    space: SpaceId,
    bytes: &[u8],
    key: Option<&ContentKey>,
) -> Result<SpaceKeys, Box<dyn std::error::Error + Send + Sync>> {
    let KeptSpace { name, founder, sealed } = canonical::decode(bytes, "space in a backup")?;
    super::check_name(&name)?;
    let KeptKeys { content, replication } = match (sealed, key) {
        (Some(sealed), Some(key)) => {
            let opened = Zeroizing::new(open(key, &keys_bound(space), &sealed)?);
            canonical::decode(&opened, "keys in a backup")?
        }
        _ => KeptKeys { content: BTreeMap::new(), replication: BTreeMap::new() },
    };
    Ok(SpaceKeys { space, name, founder, ticket: None, content, replication })
}

/// Whether a backup holds keys, which then need its passphrase.
///
/// # Errors
/// When the file cannot be read or is no backup.
pub fn has_keys(file: &Path) -> Result<bool, Error> {
    Ok(read_lock(file)?.is_some())
}

/// The lock of the keys, which stands before everything else.
fn read_lock(file: &Path) -> Result<Option<Lock>, Error> {
    match BackupReader::new(open_file(file)?)?.next_item()? {
        Some(BackupItem::File(BackupFile { space: None, name, bytes })) if name == LOCK_FILE => {
            Lock::decode(&bytes).map(Some)
        }
        _ => Ok(None),
    }
}

fn open_file(path: &Path) -> Result<impl Read, Error> {
    let file = File::open(path).map_err(|source| Error::BackupFile { path: path.to_owned(), source })?;
    Ok(BufReader::with_capacity(READ_BYTES, file))
}
