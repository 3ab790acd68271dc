//! Reading and checking a backup. Its bytes come from outside: nothing is believed before it was checked.

use std::collections::BTreeMap;
use std::io::{self, Read};

use syncline_model::{DeviceId, OperationId, SpaceId, VerifiedRun, branch_log};

use super::{
    BackupCheckpoint, BackupError, BackupFile, BackupSummary, FILES_MAX, FRAME_BYTES_MAX, FRAME_HEADER_BYTES,
    FRONT_BYTES, HASH_BYTES, KIND_CHECKPOINT, KIND_END, KIND_FILE, KIND_RUNS, KIND_SPACE, KIND_SPACE_END, LOGS_MAX,
    MAGIC, Place, VERSION,
};
use crate::log::Filed;
use crate::log::body::decode_body;
use crate::small_files::check_name;

/// Bytes that are asked for at once, so that a length alone allocates nothing.
const READ_BYTES: usize = 1 << 20;

/// One thing in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupItem {
    /// A small file. Those of a space come before its runs.
    File(BackupFile),
    /// A space begins.
    Space(SpaceId),
    /// Runs of the space, their signatures checked, in order of arrival.
    Runs(Vec<Filed>),
    /// The space is complete.
    SpaceEnd(SpaceId),
    /// Everything up to here is what was written.
    Checkpoint(BackupCheckpoint),
    /// The backup is complete, and all of it is what was written.
    End(BackupSummary),
}

/// Reads a backup from a stream.
#[derive(Debug)]
pub struct BackupReader<R> {
    input: R,
    hasher: blake3::Hasher,
    offset: u64,
    place: Place,
    /// The logs of the space so far.
    logs: BTreeMap<DeviceId, LogSoFar>,
    /// Whether it began in the midst: then which logs there are is not known.
    resumed: bool,
    done: bool,
}

/// What was read of a log.
#[derive(Debug)]
struct LogSoFar {
    author: DeviceId,
    last: u64,
    head: OperationId,
}

impl<R: Read> BackupReader<R> {
    /// Begins to read.
    pub fn new(input: R) -> Result<Self, BackupError> {
        let place = Place::default();
        let (hasher, logs) = (blake3::Hasher::new(), BTreeMap::new());
        let mut reader = Self { input, hasher, offset: 0, place, logs, resumed: false, done: false };
        let mut front = [0; FRONT_BYTES];
        match reader.fill(&mut front) {
            Err(BackupError::EndsEarly { .. }) => return Err(BackupError::NotABackup),
            other => other?,
        }
        let (magic, version) = front.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        let found = u32::from_le_bytes([version[0], version[1], version[2], version[3]]);
        if found > VERSION { Err(BackupError::NewerFormat { found }) } else { Ok(reader) }
    }

    /// Goes on at a checkpoint; the stream stands at its offset.
    pub fn resume(input: R, checkpoint: BackupCheckpoint) -> Self {
        let BackupCheckpoint { offset, hash, place } = checkpoint;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&hash);
        Self { input, hasher, offset, place, logs: BTreeMap::new(), resumed: true, done: false }
    }

    /// The next item; None after the end.
    pub fn next_item(&mut self) -> Result<Option<BackupItem>, BackupError> {
        if self.done {
            return Ok(None);
        }
        let before: [u8; HASH_BYTES] = self.hasher.finalize().into();
        let mut header = [0; FRAME_HEADER_BYTES];
        self.fill(&mut header)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged("a frame is longer than any can be"));
        }
        let body = self.body(length)?;
        let item = match header[0] {
            KIND_CHECKPOINT => self.checkpoint(before, &body),
            _ if self.place.ended => Err(self.damaged("something stands behind its end")),
            KIND_FILE => self.file(&body),
            KIND_SPACE => self.space(&body),
            KIND_RUNS => self.runs(&body),
            KIND_SPACE_END => self.space_end(&body),
            KIND_END => {
                self.end(&body)?;
                return self.next_item();
            }
            _ => Err(self.damaged("a frame of an unknown kind")),
        };
        item.map(Some)
    }

    /// Checks everything to the end; `visit` is told of checkpoints, at which another check could go on.
    pub fn check(mut self, visit: &mut dyn FnMut(BackupCheckpoint)) -> Result<BackupSummary, BackupError> {
        loop {
            match self.next_item()? {
                Some(BackupItem::Checkpoint(checkpoint)) => visit(checkpoint),
                Some(BackupItem::End(summary)) => return Ok(summary),
                Some(_) => {}
                None => return Err(BackupError::EndsEarly { at: self.offset }),
            }
        }
    }

    fn file(&mut self, body: &[u8]) -> Result<BackupItem, BackupError> {
        let space = match (body.first(), self.place.space) {
            (Some(0), None) => None,
            (Some(1), Some(space)) if self.place.of_space == (0, 0) => Some(space),
            _ => return Err(self.damaged("a file where none can be")),
        };
        self.place.files += 1;
        if self.place.files > FILES_MAX {
            return Err(self.damaged("more files than there can be"));
        }
        let length = usize::from(*body.get(1).unwrap_or(&0));
        let (name, bytes) = body.get(2..).and_then(|rest| rest.split_at_checked(length)).unwrap_or_default();
        let name = std::str::from_utf8(name).ok().filter(|name| check_name(name).is_ok());
        let name = name.ok_or_else(|| self.damaged("a file without a name"))?.to_owned();
        Ok(BackupItem::File(BackupFile { space, name, bytes: bytes.to_vec() }))
    }

    fn space(&mut self, body: &[u8]) -> Result<BackupItem, BackupError> {
        let id = body.try_into().ok().filter(|_| self.place.space.is_none());
        let space = SpaceId(id.ok_or_else(|| self.damaged("a space where none can be"))?);
        (self.place.space, self.place.files, self.place.of_space) = (Some(space), 0, (0, 0));
        (self.logs, self.resumed) = (BTreeMap::new(), false);
        Ok(BackupItem::Space(space))
    }

    fn runs(&mut self, mut body: &[u8]) -> Result<BackupItem, BackupError> {
        let space = self.place.space.ok_or_else(|| self.damaged("runs without a space"))?;
        let mut runs = Vec::new();
        while let Some((length, rest)) = body.split_first_chunk::<4>() {
            let (bytes, rest) = rest
                .split_at_checked(u32::from_le_bytes(*length) as usize)
                .ok_or_else(|| self.damaged("a run that is cut short"))?;
            let (log, run) = decode_body(space, bytes).ok_or_else(|| self.damaged("a run that cannot be read"))?;
            let run = run.verify().map_err(|_| self.damaged("a run whose signature does not hold"))?;
            self.fits(log, &run)?;
            self.place.of_space.0 += 1;
            self.place.of_space.1 += run.operations().len() as u64;
            runs.push(Filed { log, run });
            body = rest;
        }
        if body.is_empty() { Ok(BackupItem::Runs(runs)) } else { Err(self.damaged("a run that is cut short")) }
    }

    /// A signature says who wrote a run, not in which log it belongs: filed in another one's log it would speak for
    /// that one, and beside an operation at the same place it would stand for that one.
    ///
    /// Runs that overlap or leave a gap are in logs that were damaged and repaired.
    fn fits(&mut self, log: DeviceId, run: &VerifiedRun) -> Result<(), BackupError> {
        let author = run.author();
        match self.logs.get(&log) {
            Some(known) if known.author != author => return Err(self.damaged("a run in the log of another device")),
            Some(known) if run.first() - 1 == known.last && known.head != run.previous() => {
                return Err(self.damaged("a run that does not follow the one before it"));
            }
            Some(_) => {}
            None if log != author && !self.resumed && branch_log(&author, &run.operations()[0].id) != log => {
                return Err(self.damaged("a run in a log that is not its author's"));
            }
            None if self.logs.len() == LOGS_MAX => return Err(self.damaged("more logs than there can be")),
            None => {}
        }
        self.logs.insert(log, LogSoFar { author, last: run.last(), head: run.last_id() });
        Ok(())
    }

    fn space_end(&mut self, body: &[u8]) -> Result<BackupItem, BackupError> {
        let (runs, operations) = self.place.of_space;
        let expected = [runs.to_le_bytes(), operations.to_le_bytes()].concat();
        let space = self.place.space.take().filter(|_| body == expected);
        let space = space.ok_or_else(|| self.damaged("a space with other runs than it should have"))?;
        self.place.spaces += 1;
        self.place.runs += runs;
        self.place.operations += operations;
        Ok(BackupItem::SpaceEnd(space))
    }

    fn end(&mut self, body: &[u8]) -> Result<(), BackupError> {
        let Place { spaces, runs, operations, space, .. } = self.place;
        let expected = [spaces.to_le_bytes(), runs.to_le_bytes(), operations.to_le_bytes()].concat();
        if space.is_some() || body != expected {
            return Err(self.damaged("an end that names something else"));
        }
        self.place.ended = true;
        Ok(())
    }

    fn checkpoint(&mut self, before: [u8; HASH_BYTES], body: &[u8]) -> Result<BackupItem, BackupError> {
        if body != before {
            return Err(self.damaged("its hash does not hold"));
        }
        self.hasher.reset();
        self.hasher.update(&before);
        let Place { spaces, runs, operations, ended, .. } = self.place;
        if ended {
            self.done = true;
            let (damaged, bytes) = (0, self.offset);
            return Ok(BackupItem::End(BackupSummary { spaces, runs, operations, damaged, bytes, hash: before }));
        }
        Ok(BackupItem::Checkpoint(BackupCheckpoint { offset: self.offset, hash: before, place: self.place }))
    }

    fn body(&mut self, length: usize) -> Result<Vec<u8>, BackupError> {
        let mut body = Vec::new();
        while body.len() < length {
            let from = body.len();
            body.resize(length.min(from + READ_BYTES), 0);
            self.fill(&mut body[from..])?;
        }
        Ok(body)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), BackupError> {
        self.input.read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::EndsEarly { at: self.offset },
            _ => BackupError::Io { action: "read", source },
        })?;
        self.hasher.update(buffer);
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn damaged(&self, reason: &'static str) -> BackupError {
        BackupError::Damaged { at: self.offset, reason }
    }
}
