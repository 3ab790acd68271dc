//! Where the desk finds the content of admitted operations again, and what it asks about their order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncline_model::{Causality, DeviceId, Entry, Run, Transaction};
use syncline_storage::{LogReader, Position, StorageError};

use super::limits::ACTOR_BYTES;

/// Bytes of decoded runs that are kept, since neighbouring operations are often asked for together.
const RUN_CACHE_BYTES: usize = 8 << 20;
/// Bytes of runs that one read asks of the log.
const READ_BYTES_MAX: usize = 4 << 20;

/// The content of an operation, as it was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its position in its author's log.
    pub sequence: u64,
    /// Its author's wall time in milliseconds since 1970.
    pub wall_time_ms: u64,
    /// The Automerge actor of its changes.
    pub actor: [u8; ACTOR_BYTES],
    /// What it does to documents.
    pub entries: Vec<Entry>,
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
        visit: &mut dyn FnMut(Content),
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
    /// The most recently used last.
    runs: Mutex<VecDeque<Arc<Run>>>,
    /// Built when first asked for, up to the position.
    causality: Mutex<(Causality, Option<Position>)>,
}

impl fmt::Debug for LogOperations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOperations").field("space", &self.reader.space()).finish_non_exhaustive()
    }
}

impl LogOperations {
    /// Reads with `reader` and decrypts with `opener`.
    pub fn new(reader: LogReader, opener: Opener) -> Self {
        Self { reader, opener, runs: Mutex::default(), causality: Mutex::default() }
    }

    /// The run that covers a sequence.
    fn run_at(&self, author: &DeviceId, sequence: u64, through: u64) -> Result<Arc<Run>, ReadError> {
        let covers = |run: &Run| run.author() == *author && run.operation(sequence).is_some();
        let found = {
            let runs = unpoisoned(&self.runs);
            runs.iter().find(|run| covers(run)).cloned()
        };
        if let Some(run) = found {
            return Ok(run);
        }
        let read = self.reader.read(author, sequence - 1, through, READ_BYTES_MAX)?;
        let read: Vec<Arc<Run>> = read.into_iter().map(Arc::new).collect();
        let wanted = read.iter().find(|run| covers(run)).cloned();
        let mut runs = unpoisoned(&self.runs);
        runs.extend(read);
        let mut bytes: usize = runs.iter().map(|run| run.bytes().len()).sum();
        while bytes > RUN_CACHE_BYTES
            && let Some(oldest) = runs.pop_front()
        {
            bytes -= oldest.bytes().len();
        }
        wanted.ok_or(ReadError::Missing { author: *author, sequence })
    }
}

impl Operations for LogOperations {
    fn read(
        &self,
        author: &DeviceId,
        after: u64,
        through: u64,
        visit: &mut dyn FnMut(Content),
    ) -> Result<(), ReadError> {
        let space = self.reader.space();
        let mut sequence = after + 1;
        while sequence <= through {
            let run = self.run_at(author, sequence, through)?;
            while sequence <= through.min(run.last()) {
                if let Some(transaction) = (self.opener)(&run, sequence) {
                    visit(Content {
                        sequence,
                        wall_time_ms: transaction.wall_time_ms,
                        actor: transaction.lineage.actor(&space, author),
                        entries: transaction.entries,
                    });
                }
                sequence += 1;
            }
        }
        Ok(())
    }

    fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> Result<bool, ReadError> {
        let mut guard = unpoisoned(&self.causality);
        let (causality, reached) = &mut *guard;
        self.reader.replay(*reached, &mut |position, summary| {
            for (sequence, operation) in (summary.first..).zip(&summary.operations) {
                causality.record(summary.author, sequence, &operation.dependencies);
            }
            *reached = Some(position);
        })?;
        Ok(first != second && causality.precedes(first, second))
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is a cache that is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
