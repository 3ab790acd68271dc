//! A disk in memory that knows what was synced, fails on demand, and can lose power.
//!
//! Each file holds two contents: what a process sees (the page cache) and what is on the platter, with the changes
//! in between. A crash of the process keeps the first; a power loss keeps the second and an arbitrary part of the
//! changes. Directories treat their names alike. A failed sync forgets the changes, as Linux does: the process goes
//! on seeing what the platter will never hold.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Access, Disk, DiskFile, check_path, split_path};

/// A power loss keeps or loses content in units of this size unless told otherwise, beside torn writes at any byte.
const SECTOR_BYTES: usize = 512;
/// Room is taken in units of this size.
const BLOCK_BYTES: usize = 512;

/// The kinds of calls that change something and can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOperation {
    /// [`Disk::create`].
    Create,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::set_length`].
    SetLength,
    /// [`DiskFile::sync`].
    Sync,
    /// [`Disk::sync_directory`].
    SyncDirectory,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove_file`] and [`Disk::remove_directory`].
    Remove,
    /// [`Disk::create_directory`].
    CreateDirectory,
    /// [`DiskFile::read_at`]: changes nothing, is not counted, but can fail.
    Read,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// An input/output error; nothing is done, but a failed sync forgets what it should have written.
    Error,
    /// Half of a write is done, then an input/output error.
    HalfWritten,
    /// No space is left; nothing is done.
    Full,
}

/// One failure to come: the call of this kind after `skip` others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of call.
    pub operation: DiskOperation,
    /// How many of them still succeed.
    pub skip: u64,
    /// How the next one fails.
    pub kind: FaultKind,
}

/// A disk in memory; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryDisk {
    controls: Arc<Mutex<Controls>>,
    root: Arc<Directory>,
    /// Counts crashes: files opened before one are dead afterwards.
    boots: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Controls {
    calls: u64,
    kill_at: Option<u64>,
    faults: Vec<Fault>,
    fired: u64,
    available: Option<u64>,
    capacity: Option<u64>,
    sector_bytes: Option<usize>,
    full: bool,
}

#[derive(Debug, Clone)]
enum Node {
    File(Arc<Mutex<Content>>),
    Directory(Arc<Directory>),
}

#[derive(Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<ContentChange>,
    /// The blocks that take room, by number.
    blocks: BTreeSet<usize>,
}

#[derive(Debug)]
enum ContentChange {
    Write { offset: usize, bytes: Vec<u8> },
    Length { length: usize },
}

#[derive(Debug, Default)]
struct Directory(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    seen: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    changes: Vec<NameChange>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Add { name: String, node: Node },
    Remove { name: String },
    Rename { from: String, to: String },
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self { controls: Arc::default(), root: Arc::default(), boots: Arc::default() }
    }

    /// How many changing calls were made so far.
    pub fn calls(&self) -> u64 {
        lock(&self.controls).calls
    }

    /// How many injected faults did fire, a kill included.
    pub fn faults_fired(&self) -> u64 {
        lock(&self.controls).fired
    }

    /// Makes one call to come fail.
    pub fn inject(&self, fault: Fault) {
        lock(&self.controls).faults.push(fault);
    }

    /// Stops the process at the changing call after `calls` more: a write there is done by half, and every later
    /// call fails until [`MemoryDisk::restart`] or [`MemoryDisk::lose_power`].
    pub fn kill_after(&self, calls: u64) {
        let mut controls = lock(&self.controls);
        controls.kill_at = Some(controls.calls + calls);
    }

    /// Sets how many bytes are reported as available; None for no end of them.
    pub fn limit_available(&self, bytes: Option<u64>) {
        lock(&self.controls).available = bytes;
    }

    /// Sets how many bytes fit on the disk in all; None for no end of them. A write that does not fit is done as far as
    /// it does, and then there is no space left.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.controls).capacity = bytes;
    }

    /// How many bytes of the disk are taken, in whole blocks.
    pub fn used_bytes(&self) -> u64 {
        (self.root.blocks() * BLOCK_BYTES) as u64
    }

    /// Blocks that can still be taken.
    fn blocks_left(&self) -> usize {
        let capacity = lock(&self.controls).capacity;
        capacity.map_or(usize::MAX, |bytes| (bytes.saturating_sub(self.used_bytes()) as usize) / BLOCK_BYTES)
    }

    /// Sets the unit in which a power loss keeps or loses content.
    pub fn set_sector_bytes(&self, bytes: usize) {
        lock(&self.controls).sector_bytes = Some(bytes);
    }

    /// Lets the disk be full from now on, or no longer: nothing that would take room succeeds.
    pub fn set_full(&self, full: bool) {
        lock(&self.controls).full = full;
    }

    /// Flips one bit of a file, on the platter and in what is seen; false when the file is not that long.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let (parent, name) = split_path(path);
        let Ok(parent) = self.directory(parent) else { return false };
        let node = lock(&parent.0).seen.get(name).cloned();
        let (Some(Node::File(content)), Ok(at)) = (node, usize::try_from(offset)) else { return false };
        let mut content = lock(&content);
        let Content { seen, durable, .. } = &mut *content;
        let mut flipped = false;
        for bytes in [seen, durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
                flipped = true;
            }
        }
        flipped
    }

    /// The process died and starts again: what it wrote is all still seen, durable or not.
    pub fn restart(&self) {
        let mut controls = lock(&self.controls);
        (controls.kill_at, controls.faults) = (None, Vec::new());
        self.boots.fetch_add(1, Ordering::SeqCst);
    }

    /// The machine lost power and starts again: what was not synced may be kept, lost, or torn.
    ///
    /// `choose(n)` returns a number below `n`; the same choices give the same outcome.
    pub fn lose_power(&self, choose: &mut dyn FnMut(u64) -> u64) {
        self.restart();
        let sector_bytes = lock(&self.controls).sector_bytes.unwrap_or(SECTOR_BYTES);
        self.root.lose_power(sector_bytes, choose);
    }

    fn admit(&self, operation: DiskOperation) -> Result<(), Refusal> {
        let mut controls = lock(&self.controls);
        if operation != DiskOperation::Read {
            controls.calls += 1;
        }
        if let Some(at) = controls.kill_at
            && controls.calls > at
        {
            let first = controls.calls == at + 1 && operation != DiskOperation::Read;
            controls.fired += u64::from(first);
            return Err(if first { Refusal::Killed } else { Refusal::Dead });
        }
        let takes_room = matches!(
            operation,
            DiskOperation::Create | DiskOperation::Write | DiskOperation::CreateDirectory | DiskOperation::Rename
        );
        if controls.full && takes_room {
            return Err(Refusal::Fault(FaultKind::Full));
        }
        let mut due = None;
        for (index, fault) in controls.faults.iter_mut().enumerate().filter(|(_, fault)| fault.operation == operation) {
            if fault.skip == 0 {
                due = due.or(Some(index));
            } else {
                fault.skip -= 1;
            }
        }
        let Some(index) = due else { return Ok(()) };
        controls.fired += 1;
        Err(Refusal::Fault(controls.faults.remove(index).kind))
    }

    fn directory(&self, path: &str) -> io::Result<Arc<Directory>> {
        check_path(path)?;
        let mut directory = self.root.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let node = lock(&directory.0).seen.get(name).cloned();
            match node {
                Some(Node::Directory(next)) => directory = next,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        Ok(directory)
    }

    fn handle(&self, content: Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile { disk: self.clone(), boot: self.boots.load(Ordering::SeqCst), content })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.admit(DiskOperation::Remove)?;
        check_path(path)?;
        let (parent, name) = split_path(path);
        let parent = self.directory(parent)?;
        let mut names = lock(&parent.0);
        names.seen.remove(name).ok_or(io::ErrorKind::NotFound)?;
        names.changes.push(NameChange::Remove { name: name.to_owned() });
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.admit(DiskOperation::Read)?;
        check_path(path)?;
        let (parent, name) = split_path(path);
        let node = lock(&self.directory(parent)?.0).seen.get(name).cloned();
        match node {
            Some(Node::File(content)) => Ok(self.handle(content)),
            Some(Node::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, path: &str, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.admit(DiskOperation::Create)?;
        check_path(path)?;
        let (parent, name) = split_path(path);
        let parent = self.directory(parent)?;
        let mut names = lock(&parent.0);
        match names.seen.get(name).cloned() {
            Some(Node::File(content)) => {
                let mut emptied = lock(&content);
                emptied.seen.clear();
                emptied.blocks.clear();
                emptied.changes.push(ContentChange::Length { length: 0 });
                drop(emptied);
                Ok(self.handle(content))
            }
            Some(Node::Directory(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => {
                let content = Arc::new(Mutex::new(Content::default()));
                names.add(name, Node::File(content.clone()));
                Ok(self.handle(content))
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.admit(DiskOperation::Rename)?;
        check_path(from)?;
        check_path(to)?;
        let ((parent, from), (other, to)) = (split_path(from), split_path(to));
        if parent != other {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a rename stays in one directory"));
        }
        let parent = self.directory(parent)?;
        let mut names = lock(&parent.0);
        if matches!(names.seen.get(to), Some(Node::Directory(_))) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = names.seen.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.seen.insert(to.to_owned(), node);
        names.changes.push(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.remove(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.remove(path)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.admit(DiskOperation::CreateDirectory)?;
        check_path(path)?;
        let (parent, name) = split_path(path);
        let parent = self.directory(parent)?;
        let mut names = lock(&parent.0);
        match names.seen.get(name) {
            Some(Node::Directory(_)) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            None => {
                names.add(name, Node::Directory(Arc::default()));
                Ok(())
            }
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.admit(DiskOperation::Read)?;
        Ok(lock(&self.directory(path)?.0).seen.keys().cloned().collect())
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        let admitted = self.admit(DiskOperation::SyncDirectory);
        let directory = self.directory(path)?;
        let mut names = lock(&directory.0);
        match admitted {
            Ok(()) => names.durable = names.seen.clone(),
            Err(Refusal::Fault(_)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
        names.changes.clear();
        Ok(admitted?)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let left = self.blocks_left().saturating_mul(BLOCK_BYTES) as u64;
        let controls = lock(&self.controls);
        Ok(if controls.full { 0 } else { controls.available.unwrap_or(u64::MAX).min(left) })
    }
}

impl Names {
    fn add(&mut self, name: &str, node: Node) {
        self.seen.insert(name.to_owned(), node.clone());
        self.changes.push(NameChange::Add { name: name.to_owned(), node });
    }
}

impl Directory {
    fn blocks(&self) -> usize {
        let of_node = |node: &Node| match node {
            Node::File(content) => lock(content).blocks.len(),
            Node::Directory(directory) => directory.blocks(),
        };
        lock(&self.0).seen.values().map(of_node).sum()
    }

    fn lose_power(&self, sector_bytes: usize, choose: &mut dyn FnMut(u64) -> u64) {
        let mut names = lock(&self.0);
        // A file system may make changes of names durable early, but keeps their order.
        let kept = choose(names.changes.len() as u64 + 1) as usize;
        let changes: Vec<NameChange> = names.changes.drain(..).take(kept).collect();
        for change in changes {
            match change {
                NameChange::Add { name, node } => drop(names.durable.insert(name, node)),
                NameChange::Remove { name } => drop(names.durable.remove(&name)),
                NameChange::Rename { from, to } => {
                    if let Some(node) = names.durable.remove(&from) {
                        names.durable.insert(to, node);
                    }
                }
            }
        }
        names.seen = names.durable.clone();
        for node in names.seen.values() {
            match node {
                Node::File(content) => lock(content).lose_power(sector_bytes, choose),
                Node::Directory(directory) => directory.lose_power(sector_bytes, choose),
            }
        }
    }
}

impl Content {
    /// How many of `length` bytes at `offset` fit when so many blocks are left.
    fn fitting(&self, offset: usize, length: usize, left: usize) -> usize {
        let missing = blocks_of(offset, length).filter(|block| !self.blocks.contains(block)).nth(left);
        missing.map_or(length, |block| (block * BLOCK_BYTES).saturating_sub(offset))
    }

    fn take_room(&mut self, offset: usize, length: usize) {
        self.blocks.extend(blocks_of(offset, length));
    }

    fn lose_power(&mut self, sector_bytes: usize, choose: &mut dyn FnMut(u64) -> u64) {
        let mut durable = std::mem::take(&mut self.durable);
        let all_or_some = choose(3);
        for change in self.changes.drain(..) {
            match change {
                _ if all_or_some == 0 => {}
                ContentChange::Length { length } if all_or_some == 1 || choose(2) == 0 => durable.resize(length, 0),
                ContentChange::Write { offset, bytes } if all_or_some == 1 => overwrite(&mut durable, offset, &bytes),
                ContentChange::Write { offset, bytes } => {
                    keep_parts(&mut durable, offset, &bytes, sector_bytes, choose);
                }
                ContentChange::Length { .. } => {}
            }
        }
        self.seen = durable.clone();
        self.blocks = blocks_of(0, durable.len()).collect();
        self.durable = durable;
    }
}

/// The blocks that `length` bytes at `offset` stand in.
fn blocks_of(offset: usize, length: usize) -> std::ops::Range<usize> {
    if length == 0 { 0..0 } else { offset / BLOCK_BYTES..(offset + length).div_ceil(BLOCK_BYTES) }
}

/// Keeps some sectors of a write, or a prefix that ends at any byte.
fn keep_parts(
    durable: &mut Vec<u8>,
    offset: usize,
    bytes: &[u8],
    sector_bytes: usize,
    choose: &mut dyn FnMut(u64) -> u64,
) {
    if choose(2) == 0 {
        let kept = choose(bytes.len() as u64 + 1) as usize;
        return overwrite(durable, offset, &bytes[..kept]);
    }
    let mut from = 0;
    while from < bytes.len() {
        let sector_end = (offset + from) / sector_bytes * sector_bytes + sector_bytes;
        let to = bytes.len().min(sector_end - offset);
        if choose(2) == 0 {
            overwrite(durable, offset + from, &bytes[from..to]);
        }
        from = to;
    }
}

fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    boot: u64,
    content: Arc<Mutex<Content>>,
}

impl MemoryFile {
    fn admit(&self, operation: DiskOperation) -> Result<(), Refusal> {
        if self.boot != self.disk.boots.load(Ordering::SeqCst) {
            return Err(Refusal::Dead);
        }
        self.disk.admit(operation)
    }
}

impl DiskFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.content).seen.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.admit(DiskOperation::Read)?;
        let content = lock(&self.content);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.seen.len());
        let length = buffer.len().min(content.seen.len() - from);
        buffer[..length].copy_from_slice(&content.seen[from..from + length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut admitted = self.admit(DiskOperation::Write);
        let mut done = match &admitted {
            Ok(()) => bytes.len(),
            Err(Refusal::Killed | Refusal::Fault(FaultKind::HalfWritten)) => bytes.len() / 2,
            Err(_) => 0,
        };
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let left = self.disk.blocks_left();
        let mut content = lock(&self.content);
        let fitting = content.fitting(offset, done, left);
        if fitting < done {
            (done, admitted) = (fitting, admitted.and(Err(Refusal::Fault(FaultKind::Full))));
        }
        overwrite(&mut content.seen, offset, &bytes[..done]);
        content.take_room(offset, done);
        content.changes.push(ContentChange::Write { offset, bytes: bytes[..done].to_vec() });
        Ok(admitted?)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.admit(DiskOperation::SetLength)?;
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut content = lock(&self.content);
        content.seen.resize(length, 0);
        drop(content.blocks.split_off(&length.div_ceil(BLOCK_BYTES)));
        content.changes.push(ContentChange::Length { length });
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.admit(DiskOperation::Write)?;
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let left = self.disk.blocks_left();
        let mut content = lock(&self.content);
        if content.fitting(0, length, left) < length {
            return Err(Refusal::Fault(FaultKind::Full).into());
        }
        content.seen.resize(length, 0);
        content.take_room(0, length);
        content.changes.push(ContentChange::Length { length });
        Ok(())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.admit(DiskOperation::Read)?;
        Ok((lock(&self.content).blocks.len() * BLOCK_BYTES) as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let admitted = self.admit(DiskOperation::Sync);
        let mut content = lock(&self.content);
        let Content { durable, changes, .. } = &mut *content;
        match admitted {
            Ok(()) => {
                for change in changes.drain(..) {
                    match change {
                        ContentChange::Write { offset, bytes } => overwrite(durable, offset, &bytes),
                        ContentChange::Length { length } => durable.resize(length, 0),
                    }
                }
            }
            Err(Refusal::Fault(_)) => changes.clear(),
            Err(_) => {}
        }
        Ok(admitted?)
    }
}

/// Why the disk does not do what it is asked for.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Killed,
    Dead,
    Fault(FaultKind),
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Killed | Refusal::Dead => Self::other("the simulated process is dead"),
            Refusal::Fault(FaultKind::Full) => io::ErrorKind::StorageFull.into(),
            Refusal::Fault(FaultKind::Error | FaultKind::HalfWritten) => Self::other("simulated disk failure"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics while it holds a lock; a panic elsewhere in a test must not hide behind a second one.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
