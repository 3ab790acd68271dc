//! Restoring a backup into a new data directory.

use std::io::Read;

use syncline_model::SpaceId;

use super::{BackupError, BackupFile, BackupItem, BackupReader, BackupSummary};
use crate::log::{Incarnation, SpaceLog};
use crate::progress::{Activity, Progress};
use crate::small_files::FileScope;
use crate::store::Store;

/// What becomes of a small file: None leaves it out.
pub type RestoreFile<'a> =
    &'a mut dyn FnMut(&BackupFile) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>>;

/// Restores a backup into a data directory that holds no spaces.
///
/// Every space gets an incarnation of `incarnation`, drawn at random. `file` is shown each small file and returns what
/// is written in its place, for the owner's eyes only. On failure the directory is marked as half restored and does
/// not open again: it is to be removed.
pub fn restore(
    input: impl Read,
    store: &Store,
    incarnation: &mut dyn FnMut() -> Incarnation,
    file: RestoreFile<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupSummary, BackupError> {
    if !store.spaces()?.is_empty() {
        return Err(BackupError::NotEmpty);
    }
    let mut reader = BackupReader::new(input)?;
    store.set_restoring(true)?;
    let mut restoring = Restoring { store, incarnation, secrets: Vec::new(), log: None };
    loop {
        let Some(item) = reader.next_item()? else { return Err(BackupError::NotABackup) };
        match item {
            BackupItem::File(backed_up) => {
                let bytes =
                    file(&backed_up).map_err(|source| BackupError::File { name: backed_up.name.clone(), source })?;
                match (backed_up.space, bytes) {
                    (_, None) => {}
                    (None, Some(bytes)) => store.files().write_secret(FileScope::Node, &backed_up.name, &bytes)?,
                    (Some(_), Some(bytes)) => restoring.secrets.push((backed_up.name, bytes)),
                }
            }
            BackupItem::Space(_) => restoring.secrets.clear(),
            BackupItem::Runs(runs) => {
                let Some(space) = runs.first().map(|filed| filed.run.space()) else { continue };
                let log = restoring.log(space)?;
                log.file(&runs)?;
                let (activity, done) = (Activity::Restoring, log.stats()?.log_bytes);
                progress(Progress { activity, space: Some(space), done, total: 0 });
            }
            BackupItem::SpaceEnd(space) => {
                restoring.log(space)?;
                if let Some(log) = restoring.log.take() {
                    log.close()?;
                }
            }
            BackupItem::Checkpoint(_) => {}
            BackupItem::End(summary) => {
                store.flush()?;
                store.set_restoring(false)?;
                return Ok(summary);
            }
        }
    }
}

struct Restoring<'a> {
    store: &'a Store,
    incarnation: &'a mut dyn FnMut() -> Incarnation,
    secrets: Vec<(String, Vec<u8>)>,
    log: Option<SpaceLog>,
}

impl Restoring<'_> {
    /// The log of the space that is being restored, made when it is first asked for: by then its files were read.
    fn log(&mut self, space: SpaceId) -> Result<&mut SpaceLog, BackupError> {
        if self.log.is_none() {
            let secrets: Vec<(&str, &[u8])> =
                self.secrets.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            self.store.create_space(space, (self.incarnation)(), &secrets)?;
            self.secrets.clear();
        }
        match &mut self.log {
            Some(log) => Ok(log),
            empty => Ok(empty.insert(self.store.open_space(space, &mut |_| {})?)),
        }
    }
}
