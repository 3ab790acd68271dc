//! The format marker of a data directory, and what brings an older directory up to date.
//!
//! ```text
//! syncline data directory
//! format <number>           1, or 2 while key files are sealed under a passphrase
//! index <name>              unless it is sled
//! ```
//!
//! A directory of a newer format is refused and left as it is. One of an older format is migrated when it is opened,
//! step by step; the marker moves with each step, so a migration that was cut short goes on where it was.
//!
//! The number covers what no file says of itself: which files there are and where. Segments, records, small files and
//! the index each carry a version of their own.

use crate::disk::{Access, Disk};
use crate::error::StorageError;
use crate::index::IndexKind;
use crate::small_files::{read_whole, write_whole};

/// Format of the data directory that this release writes.
const FORMAT: u32 = 1;
/// The same with key files sealed under a passphrase: releases that know none would take those files for damaged.
const FORMAT_WITH_SEALED_KEYS: u32 = 2;
/// The newest format that this release knows.
const NEWEST_FORMAT: u32 = FORMAT_WITH_SEALED_KEYS;
/// The oldest format that this release opens.
const OLDEST_FORMAT: u32 = 1;
pub(super) const FORMAT_FILE: &str = "format";
const TITLE: &str = "syncline data directory";
const FORMAT_LINE: &str = "format ";
const INDEX_LINE: &str = "index ";

/// What brings a directory from one format to the next.
#[derive(Debug, Clone, Copy)]
struct Migration {
    /// What it does, for the log.
    what: &'static str,
    /// Does it. What it did before a crash is there when it begins again.
    run: fn(&dyn Disk) -> Result<(), StorageError>,
}

/// From [`OLDEST_FORMAT`] on, one for each format that was followed by another.
const MIGRATIONS: [Migration; (FORMAT - OLDEST_FORMAT) as usize] = [];

/// What a marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marker {
    format: u32,
    index: IndexKind,
}

impl Marker {
    fn parse(bytes: Vec<u8>) -> Result<Self, StorageError> {
        let unreadable =
            || StorageError::Unreadable { path: FORMAT_FILE.to_owned(), reason: "it is not a format marker" };
        let text = String::from_utf8(bytes).map_err(|_| unreadable())?;
        let mut lines = text.lines();
        let title = lines.next();
        let format = lines.next().and_then(|line| line.strip_prefix(FORMAT_LINE)).and_then(|line| line.parse().ok());
        let format = format.filter(|format| *format > 0 && title == Some(TITLE)).ok_or_else(unreadable)?;
        if format > NEWEST_FORMAT {
            // What else it says is for newer releases.
            return Err(StorageError::NewerFormat {
                what: "the data directory".into(),
                found: format,
                known: NEWEST_FORMAT,
            });
        }
        let index = match lines.next() {
            None => IndexKind::Sled,
            Some(line) => line.strip_prefix(INDEX_LINE).and_then(IndexKind::named).ok_or_else(unreadable)?,
        };
        Ok(Self { format, index })
    }

    fn write(self, disk: &dyn Disk) -> Result<(), StorageError> {
        let mut text = format!("{TITLE}\n{FORMAT_LINE}{}\n", self.format);
        if self.index != IndexKind::Sled {
            text.push_str(&format!("{INDEX_LINE}{}\n", self.index.name()));
        }
        write_whole(disk, "", FORMAT_FILE, text.as_bytes(), Access::Default)
    }
}

/// Reads the format marker, or writes one where none is, and brings an older directory up to date; returns what keeps
/// the index.
pub(super) fn check_format(disk: &dyn Disk, new: IndexKind) -> Result<IndexKind, StorageError> {
    let Some(bytes) = read_whole(disk, FORMAT_FILE)? else {
        Marker { format: FORMAT, index: new }.write(disk)?;
        return Ok(new);
    };
    let marker = Marker::parse(bytes)?;
    migrate(disk, marker, OLDEST_FORMAT, &MIGRATIONS)?;
    Ok(marker.index)
}

/// Marks a directory whose index is of another kind now.
pub(super) fn mark_index(disk: &dyn Disk, index: IndexKind) -> Result<(), StorageError> {
    Marker { index, ..read_marker(disk)? }.write(disk)
}

/// Marks a directory whose key files are sealed, or are so no more.
pub(super) fn mark_keys_sealed(disk: &dyn Disk, sealed: bool) -> Result<(), StorageError> {
    let marker = read_marker(disk)?;
    let format = if sealed { FORMAT_WITH_SEALED_KEYS } else { FORMAT };
    if marker.format == format { Ok(()) } else { Marker { format, ..marker }.write(disk) }
}

fn read_marker(disk: &dyn Disk) -> Result<Marker, StorageError> {
    let absent = || StorageError::Unreadable { path: FORMAT_FILE.to_owned(), reason: "it is missing" };
    Marker::parse(read_whole(disk, FORMAT_FILE)?.ok_or_else(absent)?)
}

fn migrate(disk: &dyn Disk, found: Marker, oldest: u32, migrations: &[Migration]) -> Result<(), StorageError> {
    let Some(done) = found.format.checked_sub(oldest) else {
        return Err(StorageError::OlderFormat { found: found.format, oldest });
    };
    for (format, migration) in (found.format + 1..).zip(migrations.iter().skip(done as usize)) {
        tracing::info!(format, "the data directory is brought up to date: {}", migration.what);
        (migration.run)(disk)?;
        Marker { format, ..found }.write(disk)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn note(disk: &dyn Disk, text: &str) -> Result<(), StorageError> {
        let mut noted = read_whole(disk, "noted")?.unwrap_or_default();
        noted.extend_from_slice(text.as_bytes());
        write_whole(disk, "", "noted", &noted, Access::Default)
    }

    fn migrations() -> [Migration; 3] {
        [
            Migration { what: "first", run: |disk| note(disk, "first ") },
            Migration { what: "second", run: |disk| note(disk, "second ") },
            Migration { what: "third", run: |disk| note(disk, "third ") },
        ]
    }

    fn noted(disk: &MemoryDisk) -> String {
        String::from_utf8(read_whole(disk, "noted").unwrap().unwrap_or_default()).unwrap()
    }

    #[test]
    fn an_older_directory_is_migrated_step_by_step_and_keeps_its_index() {
        let disk = MemoryDisk::new();
        let found = Marker { format: 4, index: IndexKind::Redb };
        migrate(&disk, found, 3, &migrations()).unwrap();
        assert_eq!(noted(&disk), "second third ");
        let text = String::from_utf8(read_whole(&disk, FORMAT_FILE).unwrap().unwrap()).unwrap();
        assert_eq!(text, "syncline data directory\nformat 6\nindex redb\n");
        let error = migrate(&disk, Marker { format: 2, ..found }, 3, &migrations()).unwrap_err();
        assert!(matches!(error, StorageError::OlderFormat { found: 2, oldest: 3 }), "{error}");
    }

    #[test]
    fn a_migration_that_was_cut_short_goes_on_with_the_step_that_failed() {
        let calls = {
            let disk = MemoryDisk::new();
            migrate(&disk, Marker { format: 3, index: IndexKind::Sled }, 3, &migrations()).unwrap();
            disk.calls()
        };
        for at in 0..calls {
            let disk = MemoryDisk::new();
            Marker { format: 1, index: IndexKind::Sled }.write(&disk).unwrap();
            disk.kill_after(at);
            let outcome = migrate(&disk, Marker { format: 3, index: IndexKind::Sled }, 3, &migrations());
            assert!(outcome.is_err(), "call {at} of {calls}");
            disk.restart();
            let text = String::from_utf8(read_whole(&disk, FORMAT_FILE).unwrap().unwrap()).unwrap();
            let line = text.lines().nth(1).and_then(|line| line.strip_prefix(FORMAT_LINE)).unwrap();
            let format = line.parse().unwrap_or(1).max(3);
            migrate(&disk, Marker { format, index: IndexKind::Sled }, 3, &migrations()).unwrap();
            let done: Vec<String> = noted(&disk).split_whitespace().map(str::to_owned).collect();
            let mut once = done.clone();
            once.dedup();
            assert_eq!(once, ["first", "second", "third"], "call {at}");
            assert!(done.len() <= 4, "call {at}: one step may be repeated, {done:?}");
        }
    }

    #[test]
    fn sealed_keys_are_marked_and_the_index_may_change_meanwhile() {
        let disk = MemoryDisk::new();
        let text = || String::from_utf8(read_whole(&disk, FORMAT_FILE).unwrap().unwrap()).unwrap();
        check_format(&disk, IndexKind::Redb).unwrap();
        mark_keys_sealed(&disk, true).unwrap();
        assert_eq!(text(), "syncline data directory\nformat 2\nindex redb\n");
        mark_index(&disk, IndexKind::Sled).unwrap();
        assert_eq!(text(), "syncline data directory\nformat 2\n");
        assert_eq!(check_format(&disk, IndexKind::Redb).unwrap(), IndexKind::Sled);
        assert_eq!(text(), "syncline data directory\nformat 2\n");
        mark_keys_sealed(&disk, false).unwrap();
        assert_eq!(text(), "syncline data directory\nformat 1\n");
    }

    #[test]
    fn a_newer_directory_is_refused_and_left_as_it_is() {
        let disk = MemoryDisk::new();
        let text = format!("{TITLE}\n{FORMAT_LINE}{}\nsomething new\n", NEWEST_FORMAT + 1);
        write_whole(&disk, "", FORMAT_FILE, text.as_bytes(), Access::Default).unwrap();
        let error = check_format(&disk, IndexKind::Sled).unwrap_err();
        assert!(matches!(error, StorageError::NewerFormat { found, .. } if found == NEWEST_FORMAT + 1), "{error}");
        assert_eq!(read_whole(&disk, FORMAT_FILE).unwrap().unwrap(), text.as_bytes());
        for wrong in ["", "something else\nformat 1\n", "syncline data directory\nformat 0\n"] {
            let error = Marker::parse(wrong.as_bytes().to_vec()).unwrap_err();
            assert!(matches!(error, StorageError::Unreadable { .. }), "{wrong:?}: {error}");
        }
    }
}
