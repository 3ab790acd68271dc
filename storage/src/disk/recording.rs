//! A disk that remembers every change made to it, and what may be left of them after a power loss.
//!
//! [`RecordingDisk`] passes calls on to any other disk and writes down what they changed. The [`History`] it yields
//! rebuilds the disk as a power loss at any call could leave it: a [`CrashImage`] says after how many calls the power
//! went and what became of each change that was not synced by then.
//!
//! The model of the disk is the pessimistic one that POSIX allows. A file's content is certain after the file was
//! synced, a name after its directory was, and neither makes the other certain. Before that any change may be there
//! or not, whatever became of earlier ones; a write may arrive in part, sector by sector; a file may have got its
//! new length and zeros where data is missing. A sector is written whole or not at all, and so is a rename.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Disk, DiskFile, MemoryDisk, split_path};

/// Bytes of a file that are read at once when a disk is taken over.
const TAKEN_OVER_BYTES: usize = 1 << 20;

/// Which file or directory, whatever its name at the moment.
type NodeId = usize;
const ROOT: NodeId = 0;

/// One call that changed something, or made changes durable.
#[derive(Debug, Clone)]
enum Change {
    /// Names in one directory that change together; None takes a name away.
    Names {
        directory: NodeId,
        entries: Vec<(String, Option<NodeId>)>,
    },
    Write {
        file: NodeId,
        offset: usize,
        bytes: Vec<u8>,
    },
    Length {
        file: NodeId,
        length: usize,
    },
    Sync {
        file: NodeId,
    },
    SyncDirectory {
        directory: NodeId,
    },
}

#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>),
    Directory(BTreeMap<String, NodeId>),
}

/// What was done to a disk, in order.
#[derive(Debug, Clone)]
pub struct History {
    /// The nodes as they were, all durable, when recording began. Later ones follow, empty.
    nodes: Vec<Node>,
    changes: Vec<Change>,
}

/// What became of a change that was not synced when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Nothing of it is left.
    Lost,
    /// Of a write, the file's new length is there and zeros in place of what was written beyond the old one.
    LengthOnly,
    /// Of a write, only these sectors arrived, counted from its first.
    Sectors {
        /// Bytes of a sector; sectors lie at multiples of it in the file.
        sector_bytes: usize,
        /// The first sector that arrived.
        from: usize,
        /// The sector after the last that arrived.
        to: usize,
        /// Whether the file has its new length nonetheless.
        extended: bool,
    },
}

/// A power loss: after how many changes, and what it did to those that were not synced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrashImage {
    /// The changes made before.
    pub changes: usize,
    /// What became of the changes of these numbers; others arrived.
    pub fates: Vec<(usize, Fate)>,
    /// Two changes that arrived in the other order.
    pub swapped: Option<(usize, usize)>,
}

impl History {
    /// How many changes were recorded, syncs included.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes among the first `count` that no later one of these made durable.
    pub fn unsynced(&self, count: usize) -> Vec<usize> {
        let (mut files, mut directories, mut unsynced) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for (number, change) in self.changes[..count].iter().enumerate().rev() {
            match change {
                Change::Sync { file } => drop(files.insert(*file)),
                Change::SyncDirectory { directory } => drop(directories.insert(*directory)),
                Change::Write { file, .. } | Change::Length { file, .. } if files.contains(file) => {}
                Change::Names { directory, .. } if directories.contains(directory) => {}
                _ => unsynced.push(number),
            }
        }
        unsynced.reverse();
        unsynced
    }

    /// How many sectors of this size a change writes to, in part or whole; 0 when it is no write.
    pub fn sectors(&self, number: usize, sector_bytes: usize) -> usize {
        match &self.changes[number] {
            Change::Write { offset, bytes, .. } if !bytes.is_empty() => {
                (offset + bytes.len() - 1) / sector_bytes - offset / sector_bytes + 1
            }
            _ => 0,
        }
    }

    /// Whether two changes give another outcome in the other order.
    pub fn collide(&self, one: usize, other: usize) -> bool {
        let extent = |number: usize| match &self.changes[number] {
            Change::Write { file, offset, bytes } => Some((*file, *offset..offset + bytes.len())),
            Change::Length { file, length } => Some((*file, *length..usize::MAX)),
            _ => None,
        };
        match (extent(one), extent(other)) {
            (Some((file, one)), Some((same, other))) => file == same && one.start < other.end && other.start < one.end,
            _ => self.share_a_name(one, other),
        }
    }

    fn share_a_name(&self, one: usize, other: usize) -> bool {
        match (&self.changes[one], &self.changes[other]) {
            (Change::Names { directory, entries }, Change::Names { directory: same, entries: others }) => {
                directory == same && entries.iter().any(|(name, _)| others.iter().any(|(other, _)| name == other))
            }
            _ => false,
        }
    }

    /// The disk after a power loss. Everything on it is durable.
    ///
    /// # Panics
    /// When a change has a fate or is swapped that is not among the first `image.changes`.
    pub fn disk_after(&self, image: &CrashImage) -> MemoryDisk {
        let mut order: Vec<usize> = (0..image.changes).collect();
        if let Some((one, other)) = image.swapped {
            order.swap(one, other);
        }
        let fates: BTreeMap<usize, Fate> = image.fates.iter().copied().collect();
        assert!(fates.keys().all(|number| *number < image.changes), "a change that was made");
        let mut nodes = self.nodes.clone();
        for number in order {
            apply(&mut nodes, &self.changes[number], fates.get(&number));
        }
        let disk = MemoryDisk::new();
        // A disk in memory refuses nothing that it was not told to refuse.
        copy_directory(&nodes, ROOT, "", &disk).expect("a fresh disk in memory takes what a disk held");
        disk
    }
}

fn apply(nodes: &mut [Node], change: &Change, fate: Option<&Fate>) {
    match (change, fate) {
        (_, Some(Fate::Lost)) | (Change::Sync { .. } | Change::SyncDirectory { .. }, _) => {}
        (Change::Names { directory, entries }, _) => {
            let Node::Directory(names) = &mut nodes[*directory] else { return };
            for (name, node) in entries {
                match node {
                    Some(node) => drop(names.insert(name.clone(), *node)),
                    None => drop(names.remove(name)),
                }
            }
        }
        (Change::Length { file, length }, _) => {
            if let Node::File(content) = &mut nodes[*file] {
                content.resize(*length, 0);
            }
        }
        (Change::Write { file, offset, bytes }, fate) => {
            if let Node::File(content) = &mut nodes[*file] {
                write(content, *offset, bytes, fate);
            }
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8], fate: Option<&Fate>) {
    let end = offset + bytes.len();
    let (arrived, extended): (Range<usize>, bool) = match fate {
        None => (offset..end, true),
        Some(Fate::Lost) => (offset..offset, false),
        Some(Fate::LengthOnly) => (offset..offset, true),
        Some(Fate::Sectors { sector_bytes, from, to, extended }) => {
            let first = offset / sector_bytes;
            let bound = |sector: usize| ((first + sector) * sector_bytes).clamp(offset, end);
            (bound(*from)..bound(*to), *extended)
        }
    };
    let length = if extended && !bytes.is_empty() { end } else { arrived.end };
    if content.len() < length && (extended || !arrived.is_empty()) {
        content.resize(length, 0);
    }
    content[arrived.clone()].copy_from_slice(&bytes[arrived.start - offset..arrived.end - offset]);
}

fn copy_directory(nodes: &[Node], directory: NodeId, path: &str, disk: &MemoryDisk) -> io::Result<()> {
    let Node::Directory(names) = &nodes[directory] else { return Ok(()) };
    for (name, node) in names {
        let path = join(path, name);
        match &nodes[*node] {
            Node::Directory(_) => {
                disk.create_directory(&path)?;
                copy_directory(nodes, *node, &path, disk)?;
            }
            Node::File(content) => {
                let file = disk.create(&path, Access::Default)?;
                file.write_at(0, content)?;
                file.sync()?;
            }
        }
    }
    disk.sync_directory(path)
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// A disk that writes down what is changed on another one; clones share it.
///
/// A write or a cut that fails is recorded as made, since it may have been, a sync that fails is not.
#[derive(Debug, Clone)]
pub struct RecordingDisk {
    disk: Arc<dyn Disk>,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug)]
struct Record {
    history: History,
    /// What the names mean now; contents stay empty.
    seen: Vec<Node>,
}

impl RecordingDisk {
    /// Records what happens to `disk` from now on; what it holds already counts as durable.
    pub fn new(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let mut nodes = vec![Node::Directory(BTreeMap::new())];
        take_over(&*disk, "", ROOT, &mut nodes)?;
        let mut seen = nodes.clone();
        for node in &mut seen {
            if let Node::File(content) = node {
                *content = Vec::new();
            }
        }
        let history = History { nodes, changes: Vec::new() };
        Ok(Self { disk, record: Arc::new(Mutex::new(Record { history, seen })) })
    }

    /// How many changes were recorded so far.
    pub fn changes(&self) -> usize {
        self.lock().history.len()
    }

    /// What was recorded so far.
    pub fn history(&self) -> History {
        self.lock().history.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_over(disk: &dyn Disk, path: &str, directory: NodeId, nodes: &mut Vec<Node>) -> io::Result<()> {
    for name in disk.list(path)? {
        let path = join(path, &name);
        let node = nodes.len();
        if disk.list(&path).is_ok() {
            nodes.push(Node::Directory(BTreeMap::new()));
            take_over(disk, &path, node, nodes)?;
        } else {
            nodes.push(Node::File(content(&*disk.open(&path)?)?));
        }
        if let Node::Directory(names) = &mut nodes[directory] {
            names.insert(name, node);
        }
    }
    Ok(())
}

fn content(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let length = content.len();
        content.resize(length + TAKEN_OVER_BYTES, 0);
        let read = file.read_at(length as u64, &mut content[length..])?;
        content.truncate(length + read);
        if read == 0 {
            return Ok(content);
        }
    }
}

impl Record {
    fn node(&self, path: &str) -> Option<NodeId> {
        let mut node = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Node::Directory(names) = &self.seen[node] else { return None };
            node = *names.get(name)?;
        }
        Some(node)
    }

    fn add_node(&mut self, node: Node) -> NodeId {
        self.seen.push(node.clone());
        self.history.nodes.push(node);
        self.seen.len() - 1
    }

    fn rename_entries(&mut self, directory: &str, entries: Vec<(String, Option<NodeId>)>) {
        let Some(directory) = self.node(directory) else { return };
        let change = Change::Names { directory, entries };
        apply(&mut self.seen, &change, None);
        self.history.changes.push(change);
    }

    fn remove(&mut self, path: &str) {
        let (parent, name) = split_path(path);
        self.rename_entries(parent, vec![(name.to_owned(), None)]);
    }

    /// A directory goes name by name, the deepest first.
    fn remove_below(&mut self, path: &str) {
        let Some(Node::Directory(names)) = self.node(path).map(|node| self.seen[node].clone()) else { return };
        for name in names.keys() {
            let path = join(path, name);
            self.remove_below(&path);
            self.remove(&path);
        }
    }

    fn add(&mut self, path: &str, node: Node) -> NodeId {
        let (parent, name) = split_path(path);
        let node = self.add_node(node);
        self.rename_entries(parent, vec![(name.to_owned(), Some(node))]);
        node
    }
}

impl RecordingDisk {
    fn handle(&self, node: Option<NodeId>, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        match node {
            Some(node) => Arc::new(RecordingFile { disk: self.clone(), node, file }),
            None => file,
        }
    }
}

impl Disk for RecordingDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let record = self.lock();
        let file = self.disk.open(path)?;
        let node = record.node(path);
        drop(record);
        Ok(self.handle(node, file))
    }

    fn create(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut record = self.lock();
        let file = self.disk.create(path, access)?;
        let node = match record.node(path) {
            Some(node) => {
                record.history.changes.push(Change::Length { file: node, length: 0 });
                node
            }
            None => record.add(path, Node::File(Vec::new())),
        };
        drop(record);
        Ok(self.handle(Some(node), file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut record = self.lock();
        self.disk.rename(from, to)?;
        let node = record.node(from);
        let ((parent, from_name), (_, to_name)) = (split_path(from), split_path(to));
        let entries = vec![(from_name.to_owned(), None), (to_name.to_owned(), node)];
        record.rename_entries(parent, entries);
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut record = self.lock();
        self.disk.remove_file(path)?;
        record.remove(path);
        Ok(())
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        let mut record = self.lock();
        self.disk.remove_directory(path)?;
        record.remove_below(path);
        record.remove(path);
        Ok(())
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        let mut record = self.lock();
        self.disk.create_directory(path)?;
        if record.node(path).is_none() {
            record.add(path, Node::Directory(BTreeMap::new()));
        }
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        let mut record = self.lock();
        self.disk.sync_directory(path)?;
        if let Some(directory) = record.node(path) {
            record.history.changes.push(Change::SyncDirectory { directory });
        }
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.disk.available_bytes()
    }
}

#[derive(Debug)]
struct RecordingFile {
    disk: RecordingDisk,
    node: NodeId,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for RecordingFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut record = self.disk.lock();
        let written = self.file.write_at(offset, bytes);
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        record.history.changes.push(Change::Write { file: self.node, offset, bytes: bytes.to_vec() });
        written
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut record = self.disk.lock();
        let set = self.file.set_length(length);
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        record.history.changes.push(Change::Length { file: self.node, length });
        set
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut record = self.disk.lock();
        self.file.allocate(length)?;
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        record.history.changes.push(Change::Length { file: self.node, length });
        Ok(())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.file.allocated_bytes()
    }

    fn sync(&self) -> io::Result<()> {
        let mut record = self.disk.lock();
        self.file.sync()?;
        record.history.changes.push(Change::Sync { file: self.node });
        Ok(())
    }
}
