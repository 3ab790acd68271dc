//! Whatever becomes of the index's own files, opening ends in an index that has everything.

use std::fs;
use std::path::{Path, PathBuf};

use syncline_model::OperationId;
use syncline_storage::{IndexKind, OpenOptions, StorageError, Store};

use super::workload::{Author, INCARNATION, SPACE};

/// Starts after which the index must be whole: one may find the damage only while it reads.
const STARTS_MAX: usize = 3;
const RUNS: usize = 40;

fn open(path: &Path, index: IndexKind) -> Result<Store, StorageError> {
    Store::open(path, OpenOptions { create: true, index, ..OpenOptions::default() }, &mut |_| {})
}

/// A data directory with runs of two authors, and their ids in order.
fn data_directory(path: &Path, kind: IndexKind) -> Vec<OperationId> {
    let store = open(path, kind).unwrap();
    store.create_space(SPACE, INCARNATION, &[("keys", b"secret")]).unwrap();
    let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
    let (mut one, mut other, mut ids) = (Author::new(1), Author::new(2), Vec::new());
    for number in 0..RUNS {
        let run = if number % 3 == 0 { other.write(60) } else { one.write(60) };
        ids.push(run.last_id());
        log.append(&[run]).unwrap();
        log.sync().unwrap();
    }
    log.close().unwrap();
    store.flush().unwrap();
    ids
}

/// All ids as the index and the log say them, or the first error.
fn ids(path: &Path, kind: IndexKind) -> Result<Vec<OperationId>, StorageError> {
    let store = open(path, kind)?;
    let log = store.open_space(SPACE, &mut |_| {})?;
    let (reader, mut found) = (log.reader(), Vec::new());
    log.replay(None, &mut |position, summary| found.push((position, summary.last_id())))?;
    for (position, id) in &found {
        let run = reader.run_by_position(*position)?;
        assert!(run.is_some_and(|run| run.last_id() == *id), "the index says what the log holds");
    }
    let report = reader.verify(&mut |_| {})?;
    assert!(report.is_sound(), "{report:?}");
    log.close()?;
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            assert!(fs::copy(entry.path(), target).is_ok());
        }
    }
}

fn files_below(path: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

/// Something that happens to a file.
type Damage = (String, Box<dyn Fn(&Path)>);

fn damages_of_a_file(length: usize) -> Vec<Damage> {
    fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
    let mut damages: Vec<Damage> = vec![
        ("removed".into(), Box::new(|path| fs::remove_file(path).unwrap())),
        ("zeroed".into(), Box::new(|path| change(path, |bytes| bytes.fill(0)))),
        ("garbage".into(), Box::new(|path| change(path, |bytes| bytes.fill(0x5a)))),
        ("longer".into(), Box::new(|path| change(path, |bytes| bytes.extend([0xa5; 5000])))),
        ("doubled".into(), Box::new(|path| change(path, |bytes| bytes.extend(bytes.clone())))),
        (
            "a directory".into(),
            Box::new(|path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        ),
    ];
    for part in 0..12 {
        let at = length * part / 12;
        damages.push((format!("cut to {at}"), Box::new(move |path| change(path, |bytes| bytes.truncate(at)))));
    }
    // Most of what is written stands in front.
    let places = (0..16).map(|part| part * 61).chain((0..24).map(|part| part * length.min(40_000) / 24 + part));
    for at in places.filter(|at| *at < length).collect::<Vec<_>>() {
        let flip = move |path: &Path| change(path, |bytes| bytes[at] ^= 1 << (at % 8));
        damages.push((format!("a bit of byte {at}"), Box::new(flip)));
    }
    for part in 0..8 {
        let (from, to) = (length.min(40_000) * part / 8, (length.min(40_000) * part / 8 + 512).min(length));
        let zero = move |path: &Path| change(path, |bytes| bytes[from..to].fill(0));
        damages.push((format!("zeros at {from}"), Box::new(zero)));
        let garbage = move |path: &Path| change(path, |bytes| bytes[from..to].fill(0xc3));
        damages.push((format!("garbage at {from}"), Box::new(garbage)));
    }
    damages
}

fn damages_of_the_directory() -> Vec<Damage> {
    fn replace(path: &Path, content: &[u8]) {
        fs::remove_dir_all(path).unwrap();
        fs::write(path, content).unwrap();
    }
    vec![
        ("removed".into(), Box::new(|path| fs::remove_dir_all(path).unwrap())),
        (
            "emptied".into(),
            Box::new(|path| {
                fs::remove_dir_all(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
        ),
        ("an empty file".into(), Box::new(|path| replace(path, b""))),
        ("a file".into(), Box::new(|path| replace(path, &[7; 9000]))),
        ("with a stranger".into(), Box::new(|path| fs::write(path.join("snap.00000000FFFFFFFF"), [1; 100]).unwrap())),
        #[cfg(unix)]
        (
            "unreadable".into(),
            Box::new(|path| {
                use std::os::unix::fs::PermissionsExt;
                let mut files = Vec::new();
                files_below(path, &mut files);
                // The superuser reads it nonetheless.
                files.iter().for_each(|file| fs::set_permissions(file, fs::Permissions::from_mode(0o000)).unwrap());
            }),
        ),
    ]
}

/// Tries every damage to every file of an index, and to its directory; returns how many there were.
fn try_every_damage(kind: IndexKind, directory_name: &str) -> usize {
    let home = tempfile::tempdir().unwrap();
    let whole = home.path().join("whole");
    let expected = data_directory(&whole, kind);
    let mut files = Vec::new();
    files_below(&whole.join(directory_name), &mut files);
    files.sort();
    let mut states = 0;
    let mut check = |what: &str, damaged: &Path, damage: &dyn Fn(&Path)| {
        states += 1;
        let data = home.path().join(format!("state-{states}"));
        copy(&whole, &data);
        damage(&data.join(damaged));
        let mut found = ids(&data, kind);
        for _ in 1..STARTS_MAX {
            if found.is_err() {
                found = ids(&data, kind);
            }
        }
        let context = format!("{}: {what}", damaged.display());
        assert_eq!(found.unwrap_or_else(|error| panic!("{context}: {error}")), expected, "{context}");
        fs::remove_dir_all(data).unwrap();
    };
    for file in &files {
        let length = fs::metadata(file).unwrap().len() as usize;
        for (what, damage) in damages_of_a_file(length) {
            check(&what, file.strip_prefix(&whole).unwrap(), &damage);
        }
    }
    for (what, damage) in damages_of_the_directory() {
        check(&what, Path::new(directory_name), &damage);
    }
    states
}

#[test]
fn any_state_of_sleds_files_ends_in_a_whole_index() {
    let states = try_every_damage(IndexKind::Sled, "index");
    assert!(states >= 100, "{states}");
}

#[test]
fn any_state_of_redbs_file_ends_in_a_whole_index() {
    let states = try_every_damage(IndexKind::Redb, "index-redb");
    assert!(states >= 60, "{states}");
}

#[test]
fn an_index_that_is_a_file_is_put_aside_as_often_as_it_takes() {
    let directory = tempfile::tempdir().unwrap();
    let expected = data_directory(directory.path(), IndexKind::Sled);
    for round in 0..5 {
        fs::remove_dir_all(directory.path().join("index")).unwrap();
        fs::write(directory.path().join("index"), b"not a directory").unwrap();
        let found = ids(directory.path(), IndexKind::Sled).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(found, expected);
    }
}

#[test]
fn an_index_is_converted_there_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let expected = data_directory(path, IndexKind::Sled);
    for (kind, name, other) in [
        (IndexKind::Redb, "index-redb", "index"),
        (IndexKind::Redb, "index-redb", "index"),
        (IndexKind::Sled, "index", "index-redb"),
    ] {
        Store::convert_index(path, kind, &mut |_| {}).unwrap();
        assert!(path.join(name).exists() && !path.join(other).exists(), "{kind:?}");
        // What an existing directory has counts, not what is asked for.
        assert_eq!(ids(path, IndexKind::default()).unwrap(), expected, "{kind:?}");
        assert!(path.join(name).exists() && !path.join(other).exists(), "{kind:?}");
    }
    let held = open(path, IndexKind::Sled).unwrap();
    let refused = Store::convert_index(path, IndexKind::Redb, &mut |_| {});
    assert!(matches!(refused, Err(StorageError::InUse { .. })));
    drop(held);
}

#[test]
fn a_conversion_that_was_cut_short_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let expected = data_directory(directory.path(), IndexKind::Redb);
    fs::create_dir(directory.path().join("index")).unwrap();
    fs::write(directory.path().join("index/db"), [1; 5000]).unwrap();
    assert_eq!(ids(directory.path(), IndexKind::Sled).unwrap(), expected);
    assert!(!directory.path().join("index").exists() && directory.path().join("index-redb").exists());
}
