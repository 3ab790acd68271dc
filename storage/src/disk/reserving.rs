//! A disk that gives a reserve up when it is full, and repeats what did not fit.

use std::io;
use std::sync::Arc;

use super::{Access, Disk, DiskFile};
use crate::room::Room;

/// Another disk, behind which stands the reserve of its [`Room`].
///
/// A call that finds no room is repeated once, after the reserve was given up. Each says where it writes or what it
/// names, so repeating one that was done by half does it whole. A sync is never repeated: after one that failed nobody
/// knows what the disk holds.
#[derive(Debug)]
pub(crate) struct ReservingDisk {
    disk: Arc<dyn Disk>,
    room: Arc<Room>,
}

impl ReservingDisk {
    pub(crate) fn new(disk: Arc<dyn Disk>, room: Arc<Room>) -> Self {
        Self { disk, room }
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(ReservingFile { file, room: self.room.clone() })
    }
}

impl Disk for ReservingDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path)?))
    }

    fn create(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.room.with_reserve(|| self.disk.create(path, access))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.room.with_reserve(|| self.disk.rename(from, to))
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.disk.remove_directory(path)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.room.with_reserve(|| self.disk.create_directory(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.disk.sync_directory(path)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.disk.available_bytes()
    }
}

#[derive(Debug)]
struct ReservingFile {
    file: Arc<dyn DiskFile>,
    room: Arc<Room>,
}

impl DiskFile for ReservingFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.room.with_reserve(|| self.file.write_at(offset, bytes))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.room.with_reserve(|| self.file.set_length(length))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}
