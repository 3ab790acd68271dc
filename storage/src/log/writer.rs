//! The one writer of a space's log.

use std::sync::{Arc, Mutex};

use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, Run, RunSummary, SpaceId, VerifiedRun};

use super::body::{Filed, body_length, decode_body, encode_body};
use super::indexing::{Indexer, complete_index};
use super::reader::{LogReader, LogStats};
use super::record::{RECORD_HEADER_BYTES, RecordHeader};
use super::recovery::{Segment, next_number, remove_temporary_files, settle_last_segment, survey};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, create_segment, segment_path};
use super::tails::forget_dropped;
use super::{
    AHEAD_BYTES_MAX, AHEAD_SHARE, APPEND_BYTES_MAX, AppendLimits, Damage, Incarnation, LogParts, UNSYNCED_BYTES_MAX,
    UNSYNCED_RUNS_MAX,
};
use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::index::{GatheredIndex, IndexError, SpaceIndex};
use crate::layout::{Area, Watermark, decode_arrival, decode_position, encode_arrival};
use crate::position::Position;
use crate::progress::Progress;
use crate::room::{LogUse, NoRoom, Room};
use crate::store::OpenSpace;

/// A space's log, owned by the one thread that appends to it.
///
/// Nothing that was appended is shown or may be acknowledged before [`SpaceLog::sync`] returned Ok. After a failure
/// that leaves in doubt what is durable, the log is poisoned: every later append and sync refuses.
#[derive(Debug)]
pub struct SpaceLog {
    pub(super) parts: Arc<LogParts>,
    gathered: Option<Arc<GatheredIndex>>,
    /// Bytes that can be appended before the disk is asked for its free space again.
    known_room: u64,
    /// Bytes that can be appended before [`SpaceLog::no_room`] asks the disk again.
    known_intake: u64,
    /// How often the reserve had been given up when that was found.
    seen_given_up: u64,
    pub(super) log_use: LogUse,
    limits: AppendLimits,
    pub(super) segment: CurrentSegment,
    segments: u64,
    /// Bytes of the segments before the current one.
    earlier_bytes: u64,
    unsynced: Vec<Unsynced>,
    unsynced_bytes: u64,
    pub(super) indexer: Indexer,
    poison: Option<String>,
    _readers: Readers,
    _open: OpenSpace,
}

/// Tells the readers when the log is no longer open.
#[derive(Debug)]
struct Readers(Arc<Mutex<Damage>>);

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_over = true;
    }
}

#[derive(Debug)]
pub(super) struct CurrentSegment {
    pub(super) number: u32,
    file: Arc<dyn DiskFile>,
    length: u32,
    synced: u32,
    /// How long the file is: it grows ahead of the records.
    reach: u32,
}

impl CurrentSegment {
    /// One whose file ends with its records, all of them durable.
    fn settled(number: u32, file: Arc<dyn DiskFile>, length: u32) -> Self {
        Self { number, file, length, synced: length, reach: length }
    }

    /// Lets the file grow ahead when the records are about to reach the end that it has.
    fn grow_ahead(&mut self, records_end: u32, segment_bytes: u32) {
        if records_end <= self.reach {
            return;
        }
        let ahead = AHEAD_BYTES_MAX.min(segment_bytes / AHEAD_SHARE);
        let reach = records_end.saturating_add(ahead).min(segment_bytes.max(records_end));
        // If the file cannot grow, the write says so.
        if self.file.set_length(u64::from(reach)).is_ok() {
            self.reach = reach;
        }
    }

    /// Gives back what the file grew ahead. If it fails nothing is lost: recovery does it as well.
    fn trim(&mut self) -> std::io::Result<()> {
        if self.reach > self.length {
            self.file.set_length(u64::from(self.length))?;
            self.reach = self.length;
        }
        Ok(())
    }
}

/// A run that was appended and is not in the index yet.
#[derive(Debug)]
struct Unsynced {
    position: Position,
    end: Position,
    length: u32,
    log: DeviceId,
    summary: RunSummary,
}

impl SpaceLog {
    /// Recovers the log in `directory` and completes its index.
    ///
    /// `index_of` gives the space's part of the index, a new one when the one it has cannot be used, or is not to be:
    /// then nothing is believed that has no good signature.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        directory: String,
        limits: AppendLimits,
        room: &Arc<Room>,
        open: OpenSpace,
        index_of: &dyn Fn(SpaceId, Incarnation, IndexUse) -> Result<SpaceIndex, StorageError>,
        index_use: IndexUse,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, StorageError> {
        let space = open.space();
        remove_temporary_files(&**disk, &directory)?;
        let survey = survey(&**disk, &directory, space)?;
        let (mut segments, incarnation) = (survey.segments, survey.incarnation);
        let index = index_of(space, incarnation, index_use)?;
        let mut parts = LogParts::new(space, incarnation, disk.clone(), directory, index);
        let mut watermark = read_watermark(&parts.index).map_err(|error| parts.index_failed(error))?;
        if !fits(&parts, &segments, &watermark)? {
            tracing::warn!(space = %space.short(), "the index was made for another log and is made anew");
            parts.index = index_of(space, incarnation, IndexUse::Anew)?;
            watermark = Watermark::START;
        }
        let parts = Arc::new(parts);
        let watermark = forget_dropped(&parts, &segments, watermark)?;
        let file = settle_last_segment(&parts, &mut segments, watermark.end, progress)?;
        let watermark = complete_index(&parts, &segments, watermark, index_use, progress)?;
        parts.look_for_gaps()?;
        let last = *segments.last().expect("recovery leaves a segment to append to");
        let earlier_bytes: u64 = segments[..segments.len() - 1].iter().map(|segment| u64::from(segment.end)).sum();
        let mut log_use = LogUse::new(room.clone());
        log_use.set(earlier_bytes + u64::from(last.end));
        log_use.add_reclaimed(segments[..segments.len() - 1].iter().map(Segment::holes).sum());
        Ok(Self {
            limits,
            segment: CurrentSegment::settled(last.number, file, last.end),
            segments: segments.len() as u64,
            earlier_bytes,
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            indexer: Indexer::new(parts.index.clone(), watermark),
            poison: None,
            _readers: Readers(parts.damage.clone()),
            parts,
            gathered: None,
            known_room: 0,
            known_intake: 0,
            seen_given_up: 0,
            log_use,
            _open: open,
        })
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        self.parts.space
    }

    /// Which log it is; positions of another incarnation mean nothing here.
    pub fn incarnation(&self) -> Incarnation {
        self.parts.incarnation
    }

    /// What any thread can read the synced part of the log with.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.parts.clone())
    }

    /// The space's part of the index, for what others derive and keep beside the log's own entries.
    ///
    /// When the index is made anew all of it is gone, theirs included.
    pub fn index(&self) -> &SpaceIndex {
        &self.parts.index
    }

    /// Lets the index gather from now on, to be written by [`SpaceLog::write_index`]: its batches are small and many,
    /// and writing one costs more than making it. To be called before the first reader is made; later it does nothing.
    pub fn gather_index(&mut self) {
        if let Some(parts) = Arc::get_mut(&mut self.parts) {
            let (index, gathered) = parts.index.gathered();
            self.indexer.use_index(index.clone());
            parts.index = index;
            self.gathered = Some(gathered);
        }
    }

    /// Writes what the index has gathered.
    ///
    /// It needs no haste. What is lost of it in a crash is made again from the log at the next opening.
    pub fn write_index(&self) -> Result<(), StorageError> {
        let written = self.gathered.as_ref().map_or(Ok(()), |gathered| gathered.write());
        written.map_err(|error| self.parts.index_failed(error))
    }

    /// How many changes the index has gathered and not written.
    pub fn index_backlog(&self) -> usize {
        self.gathered.as_ref().map_or(0, |gathered| gathered.backlog())
    }

    /// Visits every run after `after` in order of arrival, from the index alone.
    pub fn replay(
        &self,
        after: Option<Position>,
        visit: &mut dyn FnMut(Position, RunSummary),
    ) -> Result<(), StorageError> {
        self.reader().replay(after, visit)
    }

    /// Visits every run after `after` with the log under which it is filed; see [`LogReader::replay_filed`].
    pub fn replay_filed(
        &self,
        after: Option<Position>,
        visit: &mut dyn FnMut(Position, DeviceId, RunSummary),
    ) -> Result<(), StorageError> {
        self.reader().replay_filed(after, visit)
    }

    /// Writes runs to the log in one write and returns where they stand. They are neither durable nor shown yet.
    ///
    /// # Errors
    /// After [`StorageError::Full`], [`StorageError::TooLarge`], [`StorageError::WrongSpace`] and
    /// [`StorageError::Io`] the log is as it was before, and can be appended to again.
    pub fn append(&mut self, runs: &[VerifiedRun]) -> Result<Vec<Position>, StorageError> {
        let filed: Vec<Filed> = runs.iter().cloned().map(Filed::from).collect();
        self.file(&filed)
    }

    /// The same for runs that may belong to branches of forked logs.
    ///
    /// # Errors
    /// As [`SpaceLog::append`].
    pub fn file(&mut self, runs: &[Filed]) -> Result<Vec<Position>, StorageError> {
        self.refuse_if_poisoned()?;
        if let Some(run) = runs.iter().find(|filed| filed.run.space() != self.parts.space) {
            return Err(StorageError::WrongSpace { what: "a run", found: run.run.space(), expected: self.parts.space });
        }
        let body = |filed: &Filed| body_length(&filed.log, &filed.run) as u32;
        let size = runs.iter().map(|filed| u64::from(RECORD_HEADER_BYTES + body(filed))).sum();
        if size > APPEND_BYTES_MAX {
            return Err(StorageError::TooLarge { what: "an append", size, limit: APPEND_BYTES_MAX });
        }
        self.make_room(size, runs.len())?;
        let (number, synced) = (self.segment.number, self.segment.synced);
        let (mut buffer, mut positions) = (Vec::with_capacity(size as usize), Vec::with_capacity(runs.len()));
        for Filed { log, run } in runs {
            let offset = self.segment.length + buffer.len() as u32;
            let noted = offset + u32::from(!positions.is_empty() && planted(Bug::RunPositionOffByOne));
            positions.push(Position::new(number, noted));
            self.parts.codec.write(&mut buffer, number, offset, synced, &encode_body(log, run));
        }
        let end = self.segment.length + buffer.len() as u32;
        self.segment.grow_ahead(end, self.limits.segment_bytes);
        if let Err(error) = self.segment.file.write_at(u64::from(self.segment.length), &buffer) {
            return Err(self.undo_write(error));
        }
        self.segment.length = end;
        self.segment.reach = self.segment.reach.max(end);
        self.log_use.set(self.log_bytes());
        self.unsynced_bytes += size;
        self.unsynced.extend(runs.iter().zip(&positions).map(|(filed, position)| {
            let length = body(filed);
            let end = Position::new(number, position.offset() + RECORD_HEADER_BYTES + length);
            Unsynced { position: *position, end, length, log: filed.log, summary: RunSummary::of(&filed.run) }
        }));
        Ok(positions)
    }

    /// Why nothing new may be taken in, or None when there is room.
    ///
    /// An append refuses only when there is no room at all, but by then something has been taken in that cannot be
    /// written, and that its taker cannot take back. So this asks for a margin, and is to be asked first.
    pub fn no_room(&mut self) -> Result<Option<NoRoom>, StorageError> {
        let room = &self.log_use.room;
        let given_up = room.given_up();
        if self.known_intake == 0 || self.seen_given_up != given_up {
            self.seen_given_up = given_up;
            self.known_intake = match room.intake() {
                Ok(Ok(spare)) => spare,
                Ok(Err(no_room)) => {
                    self.known_intake = 0;
                    return Ok(Some(no_room));
                }
                Err(StorageError::Index(error)) => return Err(self.parts.index_failed(error)),
                Err(error) => return Err(error),
            };
        }
        Ok(None)
    }

    /// Makes everything appended durable with one `fdatasync`, then shows it: only now may it be acknowledged.
    ///
    /// # Errors
    /// After any the log is poisoned. What was appended may or may not be there after a restart.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.refuse_if_poisoned()?;
        self.sync_segment()?;
        let Some(end) = self.unsynced.last().map(|last| last.end) else { return Ok(()) };
        let unsynced = std::mem::take(&mut self.unsynced);
        self.unsynced_bytes = 0;
        let index = |indexer: &mut Indexer| -> Result<(), IndexError> {
            for run in &unsynced {
                indexer.add(run.position, run.end, run.length, (&run.log, &run.summary))?;
            }
            indexer.commit(end)
        };
        index(&mut self.indexer).map_err(|error| {
            self.poison = Some(error.to_string());
            self.parts.index_failed(error)
        })
    }

    /// What the log holds.
    pub fn stats(&self) -> Result<LogStats, StorageError> {
        self.reader().stats(self.indexer.watermark(), self.segments, self.log_bytes())
    }

    fn log_bytes(&self) -> u64 {
        self.earlier_bytes + u64::from(self.segment.length)
    }

    /// Syncs and writes out the index, so that the next opening has nothing to do.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.sync()?;
        let path = segment_path(&self.parts.directory, self.segment.number);
        self.segment.trim().map_err(StorageError::io("truncate", path))?;
        self.parts.index.flush().map_err(|error| self.parts.index_failed(error))
    }

    fn refuse_if_poisoned(&self) -> Result<(), StorageError> {
        match &self.poison {
            Some(reason) => Err(StorageError::Poisoned { space: self.parts.space, reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn make_room(&mut self, size: u64, runs: usize) -> Result<(), StorageError> {
        self.check_room(size)?;
        if self.unsynced_bytes + size > UNSYNCED_BYTES_MAX || self.unsynced.len() + runs > UNSYNCED_RUNS_MAX {
            self.sync()?;
        }
        let grown = u64::from(self.segment.length) + size;
        if grown > u64::from(self.limits.segment_bytes) && self.segment.length > SEGMENT_HEADER_BYTES {
            self.begin_segment()?;
        }
        Ok(())
    }

    /// Refuses what the disk has no room for. The disk is asked again after a small share of the margin only: should
    /// somebody else fill it in between, the reserve is what still takes the write.
    fn check_room(&mut self, size: u64) -> Result<(), StorageError> {
        self.known_intake = self.known_intake.saturating_sub(size);
        if size > self.known_room {
            self.known_room = 0;
            self.known_room = self.log_use.room.append(size)?;
        }
        self.known_room -= size;
        Ok(())
    }

    fn sync_segment(&mut self) -> Result<(), StorageError> {
        if self.segment.synced == self.segment.length {
            return Ok(());
        }
        let synced = if planted(Bug::AcknowledgedBeforeSync) { Ok(()) } else { self.segment.file.sync() };
        if let Err(error) = synced
            && !planted(Bug::FailedSyncIgnored)
        {
            // Never again: the system may have dropped the pages it failed to write, and would report success.
            let path = segment_path(&self.parts.directory, self.segment.number);
            self.poison = Some(format!("the disk did not confirm a write to {path}: {error}"));
            return Err(StorageError::Io { action: "sync", path, source: error });
        }
        self.segment.synced = self.segment.length;
        Ok(())
    }

    /// Syncs, and begins a new segment unless the current one is empty: its header proves for good what is durable.
    pub(crate) fn end_segment(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        if self.segment.length > SEGMENT_HEADER_BYTES { self.begin_segment() } else { Ok(()) }
    }

    /// Ends the current segment, durable to its end, and begins the next.
    fn begin_segment(&mut self) -> Result<(), StorageError> {
        self.sync_segment()?;
        let number = next_number(self.segment.number, &self.parts.directory)?;
        let header = SegmentHeader {
            number,
            space: self.parts.space,
            incarnation: self.parts.incarnation,
            previous_end: self.segment.length - u32::from(planted(Bug::RollOverCutsLastRecord)),
            durable: SEGMENT_HEADER_BYTES,
        };
        let created = create_segment(&*self.parts.disk, &self.parts.directory, &header, &mut |_| Ok(()));
        let file = created.map_err(|failure| {
            if failure.named {
                self.poison = Some(failure.error.to_string());
            }
            failure.error
        })?;
        // The new segment's header says where this one ends.
        let _ = self.segment.trim();
        self.earlier_bytes += u64::from(self.segment.length);
        self.segments += 1;
        self.segment = CurrentSegment::settled(number, file, SEGMENT_HEADER_BYTES);
        self.log_use.set(self.log_bytes());
        Ok(())
    }

    /// Takes back a write that failed. The cut is synced, lest a record that was written whole comes back after a
    /// power loss behind others that took its place.
    fn undo_write(&mut self, error: std::io::Error) -> StorageError {
        let path = segment_path(&self.parts.directory, self.segment.number);
        let length = u64::from(self.segment.length);
        if let Err(undo) = self.segment.file.set_length(length).and_then(|()| self.segment.file.sync()) {
            self.poison = Some(format!("a failed write to {path} could not be taken back: {undo}"));
        } else {
            self.segment.synced = self.segment.length;
            self.segment.reach = self.segment.length;
        }
        StorageError::io("write", path)(error)
    }
}

/// Whether the index that is there will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexUse {
    /// Use it if it was made for this incarnation.
    Existing,
    /// Drop it and begin an empty one.
    Anew,
}

fn read_watermark(index: &SpaceIndex) -> Result<Watermark, IndexError> {
    index.value(Area::WATERMARK, &[])?.map_or(Ok(Watermark::START), |bytes| Watermark::decode(&bytes))
}

/// Whether the index can have been made for these segments: it ends inside of them, and the last run that it names
/// is not contradicted by the record that stands there.
fn fits(parts: &LogParts, segments: &[Segment], watermark: &Watermark) -> Result<bool, StorageError> {
    let end = watermark.end;
    if end == Position::START {
        return Ok(true);
    }
    let Some(segment) = segments.iter().find(|segment| segment.number == end.segment()) else { return Ok(false) };
    if !(SEGMENT_HEADER_BYTES..=segment.end).contains(&end.offset()) {
        return Ok(false);
    }
    let last = parts.index.last(Area::ARRIVAL, &[], None).map_err(|error| parts.index_failed(error))?;
    let Some((suffix, value)) = last else { return Ok(true) };
    let read = || Ok((decode_position(&suffix)?, decode_arrival(&value)?));
    let (position, arrival) = read().map_err(|error: IndexError| parts.index_failed(error))?;
    let known = segments.iter().any(|segment| segment.number == position.segment());
    if position >= end || !known {
        return Ok(false);
    }
    let mut record = vec![0; RECORD_HEADER_BYTES as usize + arrival.length as usize];
    let path = segment_path(&parts.directory, position.segment());
    let file = parts.segment_file(position.segment())?;
    file.read_at(u64::from(position.offset()), &mut record).map_err(StorageError::io("read", path))?;
    // Damage contradicts nothing, nor does what was dropped; another run, or one of another length, does.
    let (segment, offset) = (position.segment(), position.offset());
    let same_length = |header: RecordHeader| header.length == arrival.length || header.is_void;
    let body = parts.codec.body(segment, offset, &record).map(|body| decode_body(parts.space, body));
    let same_run = |(log, run): (DeviceId, Run)| encode_arrival(arrival.length, &log, &RunSummary::of(&run)) == value;
    Ok(parts.codec.header(segment, offset, &record).is_none_or(same_length) && body.flatten().is_none_or(same_run))
}
