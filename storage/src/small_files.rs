//! Small files that are replaced as a whole: keys, configuration.

use std::sync::Arc;

use syncline_model::SpaceId;
use syncline_model::planted::{Bug, planted};

use crate::disk::{Access, Disk};
use crate::error::StorageError;
use crate::store::space_directory;

/// Longest small file.
pub(crate) const SMALL_FILE_BYTES_MAX: u64 = 16 << 20;
/// Longest name of a small file.
const NAME_BYTES_MAX: usize = 64;
/// The directory of the node's own files.
pub(crate) const NODE_DIRECTORY: &str = "node";
/// Behind the name while a file is written.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileScope {
    /// The node's.
    Node,
    /// A space's; it goes when the space is removed.
    Space(SpaceId),
}

/// The small files of a data directory; cheap to clone.
///
/// A write replaces the whole file at once and is durable when it returns: after a crash there is the old content or
/// the new one.
#[derive(Debug, Clone)]
pub struct SmallFiles {
    disk: Arc<dyn Disk>,
}

impl SmallFiles {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// Writes a file that only the owner may read.
    pub fn write_secret(&self, scope: FileScope, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        write_whole(&*self.disk, &scope_directory(scope), name, bytes, Access::Private)
    }

    /// Writes a file.
    pub fn write(&self, scope: FileScope, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        write_whole(&*self.disk, &scope_directory(scope), name, bytes, Access::Default)
    }

    /// Reads a file, secret or not; None when there is none.
    pub fn read(&self, scope: FileScope, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        check_name(name)?;
        read_whole(&*self.disk, &format!("{}/{name}", scope_directory(scope)))
    }

    /// Removes a file, if it is there, durably.
    pub fn remove(&self, scope: FileScope, name: &str) -> Result<(), StorageError> {
        check_name(name)?;
        let directory = scope_directory(scope);
        let path = format!("{directory}/{name}");
        match self.disk.remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StorageError::io("remove", path)(error)),
            Ok(()) => self.disk.sync_directory(&directory).map_err(StorageError::io("sync", directory)),
        }
    }
}

fn scope_directory(scope: FileScope) -> String {
    match scope {
        FileScope::Node => NODE_DIRECTORY.to_owned(),
        FileScope::Space(space) => space_directory(space),
    }
}

/// Replaces the file `name` in `directory` as a whole, durably.
pub(crate) fn write_whole(
    disk: &dyn Disk,
    directory: &str,
    name: &str,
    bytes: &[u8],
    access: Access,
) -> Result<(), StorageError> {
    check_name(name)?;
    if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
        let size = bytes.len() as u64;
        return Err(StorageError::TooLarge { what: "a small file", size, limit: SMALL_FILE_BYTES_MAX });
    }
    let path = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
    let temporary = format!("{path}{TEMPORARY_SUFFIX}");
    // A leftover of an earlier crash may have another mode, which creating would keep.
    match disk.remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StorageError::io("remove", &temporary)(error));
        }
        _ => {}
    }
    let file = disk.create(&temporary, access).map_err(StorageError::io("create", &temporary))?;
    file.write_at(0, bytes).map_err(StorageError::io("write", &temporary))?;
    if !planted(Bug::SmallFileNotSynced) {
        file.sync().map_err(StorageError::io("sync", &temporary))?;
    }
    disk.rename(&temporary, &path).map_err(StorageError::io("name", &path))?;
    disk.sync_directory(directory).map_err(StorageError::io("sync", directory))
}

/// Reads a whole file; None when there is none.
pub(crate) fn read_whole(disk: &dyn Disk, path: &str) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(StorageError::io("open", path))?,
    };
    let size = file.length().map_err(StorageError::io("measure", path))?;
    if size > SMALL_FILE_BYTES_MAX {
        return Err(StorageError::TooLarge { what: "a small file", size, limit: SMALL_FILE_BYTES_MAX });
    }
    let mut bytes = vec![0; size as usize];
    let read = file.read_at(0, &mut bytes).map_err(StorageError::io("read", path))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

pub(crate) fn check_name(name: &str) -> Result<(), StorageError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let good = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(plain)
        && !name.starts_with('.')
        && !name.ends_with(TEMPORARY_SUFFIX)
        && name != "log";
    if good { Ok(()) } else { Err(StorageError::BadName(name.to_owned())) }
}
