//! Where the desk finds the content of admitted operations again, and what it asks about their order.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncline_model::{Action, DeviceId, DocumentKey, Entry, OperationId, Run, Transaction};
use syncline_storage::{LogReader, StorageError};

use super::limits::ACTOR_BYTES;
use super::order::Order;
use super::recent::Recent;

/// Bytes of decoded runs that are kept, since neighbouring operations are often asked for together.
const RUN_CACHE_BYTES: usize = 8 << 20;
/// Bytes of decrypted operations that are kept: those that concern several documents, which are often read together.
const CONTENT_CACHE_BYTES: usize = 8 << 20;
/// What an entry is taken to need in memory beside its key and its change.
const ENTRY_MEMORY_BYTES: usize = 96;
/// Bytes of runs that one read asks of the log.
const READ_BYTES_MAX: usize = 4 << 20;

/// The content of an operation, as it was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The device that wrote it. Of a forked log there are branches, which are read under names of their own.
    pub author: DeviceId,
    /// Its position in its author's log.
    pub sequence: u64,
    /// Its author's wall time in milliseconds since 1970.
    pub wall_time_ms: u64,
    /// The Automerge actor of its changes.
    pub actor: [u8; ACTOR_BYTES],
    /// What it does to documents.
    pub entries: Vec<Entry>,
}

impl Content {
    /// The documents that it concerns; one may come several times.
    pub fn keys(&self) -> impl Iterator<Item = &DocumentKey> {
        self.entries.iter().map(|entry| &entry.key)
    }

    /// What it takes in memory, about.
    fn memory_bytes(&self) -> usize {
        let of = |entry: &Entry| {
            let change = match &entry.action {
                Action::Change(bytes) | Action::ForeignChange(bytes) => bytes.len(),
                Action::Delete => 0,
            };
            ENTRY_MEMORY_BYTES + entry.key.as_str().len() + change
        };
        self.entries.iter().map(of).sum()
    }
}

/// Why operations cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log cannot be read.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// An operation that a document is made of is not there, or does not open any more.
    #[error("operation {sequence} of device {} is missing or does not open", .author.short())]
    Missing {
        /// Its author.
        author: DeviceId,
        /// Its position in its author's log.
        sequence: u64,
    },
}

/// The admitted operations; used from the desk's thread and from workers.
pub trait Operations: Send + Sync + fmt::Debug {
    /// Visits the operations of `author` with a sequence in (`after`, `through`], in order; those that do not open are
    /// left out.
    ///
    /// # Errors
    /// [`ReadError::Missing`] when the log has a gap there.
    fn read(
        &self,
        author: &DeviceId,
        after: u64,
        through: u64,
        visit: &mut dyn FnMut(&Content),
    ) -> Result<(), ReadError>;

    /// Whether the first operation is another one and lies in the causal past of the second.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> Result<bool, ReadError>;
}

/// Decrypts the transaction at a sequence of a run; `None` when it is no data operation or its key is not here.
pub type Opener = Arc<dyn Fn(&Run, u64) -> Option<Transaction> + Send + Sync>;

/// The operations of a log on disk.
pub struct LogOperations {
    reader: LogReader,
    opener: Opener,
    runs: Mutex<Recent<Run>>,
    /// With the id of each, since a log that forked has several operations at one place.
    contents: Mutex<Recent<(OperationId, Arc<Content>)>>,
    /// Built when first asked for.
    order: Mutex<Order>,
}

impl fmt::Debug for LogOperations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOperations").field("space", &self.reader.space()).finish_non_exhaustive()
    }
}

impl LogOperations {
    /// Reads with `reader` and decrypts with `opener`.
    pub fn new(reader: LogReader, opener: Opener) -> Self {
        let runs = Mutex::new(Recent::new(RUN_CACHE_BYTES));
        let contents = Mutex::new(Recent::new(CONTENT_CACHE_BYTES));
        Self { reader, opener, runs, contents, order: Mutex::default() }
    }

    /// The run that covers a sequence, or with which a branch begins behind it.
    fn run_at(&self, author: &DeviceId, sequence: u64, through: u64) -> Result<Arc<Run>, ReadError> {
        let covers = |run: &Run| run.operation(sequence).is_some();
        // A branch of a forked log begins somewhere.
        let begins_later = |run: &Run| run.author() != *author && run.first() > sequence;
        if let Some(run) = unpoisoned(&self.runs).ending_from(author, sequence).filter(|run| covers(run)) {
            return Ok(run.clone());
        }
        let read = self.reader.read(author, sequence - 1, through, READ_BYTES_MAX)?;
        let read: Vec<Arc<Run>> = read.into_iter().map(Arc::new).collect();
        let wanted = read.iter().find(|run| covers(run) || begins_later(run)).cloned();
        let mut runs = unpoisoned(&self.runs);
        for run in read {
            let (last, bytes) = (run.last(), run.bytes().len());
            runs.keep(*author, last, run, bytes);
        }
        wanted.ok_or(ReadError::Missing { author: *author, sequence })
    }

    /// What an operation of a run says; none when it does not open.
    fn content(&self, run: &Run, sequence: u64) -> Option<Arc<Content>> {
        let (author, id) = (run.author(), run.operation(sequence)?.id);
        let kept = unpoisoned(&self.contents).ending_from(&author, sequence).cloned();
        if let Some((_, content)) = kept.as_deref().filter(|(kept, _)| *kept == id) {
            return Some(content.clone());
        }
        let Transaction { wall_time_ms, lineage, entries } = (self.opener)(run, sequence)?;
        let actor = lineage.actor(&self.reader.space(), &author);
        let content = Arc::new(Content { author, sequence, wall_time_ms, actor, entries });
        if content.entries.len() > 1 {
            let kept = Arc::new((id, content.clone()));
            unpoisoned(&self.contents).keep(author, sequence, kept, content.memory_bytes());
        }
        Some(content)
    }
}

impl Operations for LogOperations {
    fn read(
        &self,
        author: &DeviceId,
        after: u64,
        through: u64,
        visit: &mut dyn FnMut(&Content),
    ) -> Result<(), ReadError> {
        let mut sequence = after + 1;
        while sequence <= through {
            let run = self.run_at(author, sequence, through)?;
            sequence = sequence.max(run.first());
            while sequence <= through.min(run.last()) {
                if let Some(content) = self.content(&run, sequence) {
                    visit(&content);
                }
                sequence += 1;
            }
        }
        Ok(())
    }

    fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> Result<bool, ReadError> {
        let mut order = unpoisoned(&self.order);
        order.read_on(&self.reader)?;
        Ok(first != second && order.precedes(first, second))
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is a cache that is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use syncline_model::keys::{SEAL_OVERHEAD_BYTES, open, seal};
    use syncline_model::run::RunBuilder;
    use syncline_model::{ContentKey, Dependency, DeviceKey, Header, Kind, Lineage, SpaceId, VerifiedRun};
    use syncline_storage::{Incarnation, MemoryDisk, MemoryIndex, OpenOptions, Store};

    const SPACE: SpaceId = SpaceId([3; 32]);
    const CONTENT_KEY: ContentKey = ContentKey([5; 32]);

    fn transaction(number: u64) -> Transaction {
        let key = format!("k/{number}").parse().unwrap();
        let entries = vec![Entry { key, action: Action::Change(vec![number as u8; 9]) }];
        Transaction { wall_time_ms: number, lineage: Lineage([1; 16]), entries }
    }

    /// A run of data operations that all build on the same one of another author.
    fn run(key: &DeviceKey, first: u64, previous: OperationId, count: u64, onto: Option<Dependency>) -> VerifiedRun {
        let mut builder = RunBuilder::new(SPACE, key.id(), first, previous);
        for sequence in first..first + count {
            let plaintext = transaction(sequence).to_plaintext(1);
            let header = Header {
                kind: Kind::DATA,
                space: SPACE,
                author: key.id(),
                sequence,
                previous: builder.head().1,
                membership: 1,
                epoch: 1,
                dependencies: onto.into_iter().filter(|_| sequence == first).collect(),
                payload_length: (plaintext.len() + SEAL_OVERHEAD_BYTES) as u32,
            };
            let mut random = StdRng::seed_from_u64(sequence);
            builder.push(&header, |canonical| seal(&CONTENT_KEY, canonical, &plaintext, &mut random)).unwrap();
        }
        builder.finish(key).unwrap()
    }

    #[test]
    fn operations_are_read_from_the_log_across_runs_and_their_order_is_known() {
        let (one, two) = (DeviceKey::from_seed(&[1; 32]), DeviceKey::from_seed(&[2; 32]));
        let disk = Arc::new(MemoryDisk::new());
        let store = Store::assemble(disk, Arc::new(MemoryIndex::new()), OpenOptions::default()).unwrap();
        store.create_space(SPACE, Incarnation([0; 16]), &[]).unwrap();
        let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
        let first = run(&one, 1, OperationId::ZERO, 5, None);
        let second = run(&one, 6, first.last_id(), 5, None);
        let onto = Dependency { author: one.id(), sequence: 5, id: first.last_id() };
        let other = run(&two, 1, OperationId::ZERO, 2, Some(onto));
        log.append(&[first, second, other]).unwrap();
        log.sync().unwrap();

        let opener: Opener = Arc::new(|run, sequence| {
            let header = run.header(sequence)?.canonical_bytes();
            let plaintext = open(&CONTENT_KEY, &header, run.payload(run.operation(sequence)?)).ok()?;
            // One operation is under a key that is not here.
            Transaction::from_plaintext(&plaintext).ok().filter(|found| found.wall_time_ms != 7)
        });
        let operations = LogOperations::new(log.reader(), opener);
        let mut seen = Vec::new();
        operations.read(&one.id(), 3, 8, &mut |content| seen.push(content.clone())).unwrap();
        let sequences: Vec<u64> = seen.iter().map(|content| content.sequence).collect();
        assert_eq!(sequences, [4, 5, 6, 8]);
        assert_eq!(seen[0].entries, transaction(4).entries);
        assert_eq!(seen[0].actor, Lineage([1; 16]).actor(&SPACE, &one.id()));
        let error = operations.read(&one.id(), 9, 12, &mut |_| {}).unwrap_err();
        assert!(matches!(error, ReadError::Missing { sequence: 11, .. }), "{error}");

        let precedes = |a, b| operations.precedes(a, b).unwrap();
        assert!(precedes((one.id(), 5), (two.id(), 2)) && precedes((one.id(), 1), (one.id(), 2)));
        assert!(!precedes((one.id(), 6), (two.id(), 2)) && !precedes((two.id(), 1), (one.id(), 10)));
        assert!(!precedes((one.id(), 5), (one.id(), 5)));
    }
}
