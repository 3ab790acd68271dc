//! The files below one directory, behind a narrow trait with a real and a faulty implementation.

mod file;
mod memory;
mod recording;
mod reserving;

#[cfg(test)]
mod conformance;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use file::FileDisk;
pub use memory::{DiskOperation, Fault, FaultKind, MemoryDisk};
pub use recording::{CrashImage, Fate, History, RecordingDisk};
pub(crate) use reserving::ReservingDisk;

/// Who may read a file that is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever the system's defaults allow.
    Default,
    /// The owner alone (mode 0600 where modes exist).
    Private,
}

/// The files below one directory.
///
/// Paths are relative, with `/` between components, and never leave the directory; the empty path is the directory
/// itself. Nothing survives a power loss before it was synced: a file's content by [`DiskFile::sync`], a name in a
/// directory by [`Disk::sync_directory`].
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file, or empties the one that is there.
    fn create(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file or directory another name in the same directory, replacing a file of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Removes a directory with everything in it.
    fn remove_directory(&self, path: &str) -> io::Result<()>;

    /// Creates a directory in an existing one; nothing happens when it is there already.
    fn create_directory(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, sorted.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &str) -> io::Result<()>;

    /// Bytes that can still be written.
    fn available_bytes(&self) -> io::Result<u64>;
}

/// One open file; it stays usable when its name changes.
pub trait DiskFile: Send + Sync + Debug {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads from `offset` until the buffer is full or the file ends; returns how many bytes were read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes at `offset`; on failure some may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to `length` bytes, or lets it grow to them; what is new reads as zeros and takes no room yet.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Lets an empty file grow to `length` bytes that read as zeros and take their room on the disk at once.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// About how many bytes of the disk it takes: less than its length where nothing was written.
    fn allocated_bytes(&self) -> io::Result<u64>;

    /// Makes content and length durable (`fdatasync`). After a failure the content must be taken for lost: the system
    /// may drop what it could not write and report success the next time.
    fn sync(&self) -> io::Result<()>;
}

/// Whether a call failed because there was no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Splits a path into its last component and what stands before it, refusing paths that leave the directory.
fn check_path(path: &str) -> io::Result<()> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0', ':']);
    if path.is_empty() || path.split('/').all(plain) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{path}` is not a plain relative path")))
    }
}

/// The directory that `path` stands in, and its name there.
fn split_path(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
