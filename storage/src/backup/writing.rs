//! Writing a backup.

use std::io::{self, Write};

use super::{
    BackupError, BackupSummary, CHECKPOINT_EVERY_BYTES, FRAME_HEADER_BYTES, HASH_BYTES, KIND_CHECKPOINT, KIND_END,
    KIND_FILE, KIND_RUNS, KIND_SPACE, KIND_SPACE_END, MAGIC, RUNS_FRAME_BYTES, VERSION,
};
use crate::error::StorageError;
use crate::log::body::encode_body;
use crate::log::{DamagedRun, LogReader};
use crate::progress::{Activity, Progress};
use crate::small_files::{SMALL_FILE_BYTES_MAX, check_name};

/// Writes a backup to a stream.
///
/// The stream should be buffered no further than its owner can sync: a backup counts once
/// [`BackupWriter::finish`] returned and what it was written to is durable.
#[derive(Debug)]
pub struct BackupWriter<W> {
    out: W,
    hasher: blake3::Hasher,
    since_checkpoint: u64,
    summary: BackupSummary,
}

impl<W: Write> BackupWriter<W> {
    /// Begins a backup.
    pub fn new(out: W) -> Result<Self, BackupError> {
        let hasher = blake3::Hasher::new();
        let mut writer = Self { out, hasher, since_checkpoint: 0, summary: BackupSummary::default() };
        writer.write(&[&MAGIC[..], &VERSION.to_le_bytes()].concat())?;
        Ok(writer)
    }

    /// Adds a small file of the node. Never the device's key: a restored device is another one.
    pub fn node_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        self.file(0, name, bytes)
    }

    /// Adds a space: small files of it, and its log as it is now, while others may go on writing to it.
    ///
    /// Returns the runs that could not be read; they are left out.
    pub fn space(
        &mut self,
        log: &LogReader,
        files: &[(&str, &[u8])],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<DamagedRun>, BackupError> {
        self.frame(KIND_SPACE, log.space().as_bytes())?;
        for (name, bytes) in files {
            self.file(1, name, bytes)?;
        }
        let (mut damaged, mut runs, mut operations) = (Vec::new(), 0u64, 0u64);
        if let Some(through) = log.last_position()? {
            let (mut after, mut done, mut body) = (None, 0, Vec::new());
            loop {
                let page = log.passage(after, through, RUNS_FRAME_BYTES, &mut damaged)?;
                for stored in &page.runs {
                    let bytes = encode_body(&stored.log, &stored.run);
                    body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                    body.extend_from_slice(&bytes);
                    done += bytes.len() as u64;
                    runs += 1;
                    operations += stored.run.operations().len() as u64;
                    if body.len() >= RUNS_FRAME_BYTES {
                        self.frame(KIND_RUNS, &body)?;
                        body.clear();
                    }
                }
                progress(Progress { activity: Activity::BackingUp, space: Some(log.space()), done, total: 0 });
                if page.complete {
                    break;
                }
                after = Some(page.reached);
            }
            if !body.is_empty() {
                self.frame(KIND_RUNS, &body)?;
            }
        }
        self.frame(KIND_SPACE_END, &[runs.to_le_bytes(), operations.to_le_bytes()].concat())?;
        self.summary.spaces += 1;
        self.summary.runs += runs;
        self.summary.operations += operations;
        self.summary.damaged += damaged.len() as u64;
        Ok(damaged)
    }

    /// Ends the backup; returns what is in it, and the stream.
    pub fn finish(mut self) -> Result<(BackupSummary, W), BackupError> {
        let BackupSummary { spaces, runs, operations, .. } = self.summary;
        let body = [spaces.to_le_bytes(), runs.to_le_bytes(), operations.to_le_bytes()].concat();
        self.frame(KIND_END, &body)?;
        if self.since_checkpoint > 0 {
            self.checkpoint()?;
        }
        self.out.flush().map_err(failed)?;
        Ok((self.summary, self.out))
    }

    fn file(&mut self, whose: u8, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        check_name(name)?;
        if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
            let (size, limit) = (bytes.len() as u64, SMALL_FILE_BYTES_MAX);
            return Err(StorageError::TooLarge { what: "a small file", size, limit }.into());
        }
        self.frame(KIND_FILE, &[&[whose, name.len() as u8], name.as_bytes(), bytes].concat())
    }

    fn frame(&mut self, kind: u8, body: &[u8]) -> Result<(), BackupError> {
        let mut header = [kind; FRAME_HEADER_BYTES];
        header[1..].copy_from_slice(&(body.len() as u32).to_le_bytes());
        self.write(&header)?;
        self.write(body)?;
        if self.since_checkpoint >= CHECKPOINT_EVERY_BYTES { self.checkpoint() } else { Ok(()) }
    }

    fn checkpoint(&mut self) -> Result<(), BackupError> {
        let hash: [u8; HASH_BYTES] = self.hasher.finalize().into();
        let mut frame = vec![KIND_CHECKPOINT];
        frame.extend_from_slice(&(HASH_BYTES as u32).to_le_bytes());
        frame.extend_from_slice(&hash);
        self.write(&frame)?;
        self.hasher.reset();
        self.hasher.update(&hash);
        self.since_checkpoint = 0;
        self.summary.hash = hash;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.out.write_all(bytes).map_err(failed)?;
        self.hasher.update(bytes);
        self.since_checkpoint += bytes.len() as u64;
        self.summary.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn failed(source: io::Error) -> BackupError {
    BackupError::Io { action: "write", source }
}
