//! The data directory: who may open it, what is refused, what is made anew.

use std::fs;
use std::path::Path;

use syncline_model::SpaceId;
use syncline_storage::{Activity, Area, Batch, Disk, FileScope, Incarnation, OpenOptions, StorageError, Store};

use super::workload::{Author, INCARNATION, Machine, SPACE, sequences, shown};

const CREATE: OpenOptions = OpenOptions {
    create: true,
    index: syncline_storage::IndexKind::Sled,
    limits: syncline_storage::AppendLimits { segment_bytes: 64 << 20, margin_bytes: 2000 },
    reserve_bytes: None,
    use_bytes_max: None,
    index_cache_bytes: None,
};

fn open(path: &Path) -> Result<Store, StorageError> {
    Store::open(path, CREATE, &mut |_| {})
}

fn directory_with_three_runs(path: &Path) -> Author {
    let store = open(path).unwrap();
    store.create_space(SPACE, INCARNATION, &[]).unwrap();
    let mut log = store.open_space(SPACE, &mut |_| {}).unwrap();
    let mut author = Author::new(1);
    log.append(&[author.write(10), author.write(10), author.write(10)]).unwrap();
    log.sync().unwrap();
    log.close().unwrap();
    author
}

#[test]
fn a_second_opener_is_told_who_holds_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let error = open(directory.path()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StorageError::InUse { .. }));
    assert!(text.contains(&format!("process {}", std::process::id())) && text.contains("--data"), "{text}");
    store.create_space(SPACE, INCARNATION, &[]).unwrap();
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    drop(store);
    assert!(matches!(open(directory.path()), Err(StorageError::InUse { .. })), "an open log holds it too");
    drop(log);
    open(directory.path()).unwrap();
}

#[test]
fn missing_and_foreign_directories_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = Store::open(&missing, OpenOptions { create: false, ..CREATE }, &mut |_| {}).unwrap_err();
    assert!(matches!(error, StorageError::Missing { .. }) && !missing.exists());
    fs::write(directory.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(open(directory.path()), Err(StorageError::NotADataDirectory { .. })));
    open(&missing).unwrap();
    Store::open(&missing, OpenOptions { create: false, ..CREATE }, &mut |_| {}).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let marker = directory.path().join("format");
    fs::write(&marker, "syncline data directory\nformat 3\n").unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("has format 3, this release knows up to 2: update Syncline"), "{error}");
    for text in ["", "format 1", "other\nformat 1\n", "syncline data directory\nformat 0\n"] {
        fs::write(&marker, text).unwrap();
        assert!(matches!(open(directory.path()), Err(StorageError::Unreadable { .. })), "{text:?}");
    }
}

#[test]
fn a_removed_index_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    directory_with_three_runs(directory.path());
    let before = shown(&open(directory.path()).unwrap().open_space(SPACE, &mut |_| {}).unwrap());
    fs::remove_dir_all(directory.path().join("index")).unwrap();
    let store = open(directory.path()).unwrap();
    let mut activities = Vec::new();
    let log = store.open_space(SPACE, &mut |progress| activities.push(progress.activity)).unwrap();
    assert_eq!(shown(&log).len(), before.len());
    assert_eq!(sequences(&log), [1, 2, 3]);
    assert!(activities.contains(&Activity::Indexing));
}

#[test]
fn a_damaged_index_is_put_aside_and_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    directory_with_three_runs(directory.path());
    for round in 1..=4 {
        for entry in fs::read_dir(directory.path().join("index")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let length = fs::metadata(&path).unwrap().len() as usize;
                fs::write(&path, vec![0x5a; length.max(4096)]).unwrap();
            }
        }
        let mut activities = Vec::new();
        let store = Store::open(directory.path(), CREATE, &mut |progress| activities.push(progress.activity)).unwrap();
        assert_eq!(activities, [Activity::IndexPutAside]);
        let log = store.open_space(SPACE, &mut |_| {}).unwrap();
        assert_eq!(sequences(&log), [1, 2, 3], "round {round}");
    }
    let mut aside: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("index.damaged-"))
        .collect();
    aside.sort();
    assert_eq!(aside, ["index.damaged-3", "index.damaged-4"], "only the latest are kept");
}

#[test]
fn a_condemned_index_is_made_anew_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    directory_with_three_runs(directory.path());
    fs::write(directory.path().join("index.condemned"), "").unwrap();
    let store = open(directory.path()).unwrap();
    assert!(directory.path().join("index.damaged-1").exists());
    assert!(!directory.path().join("index.condemned").exists());
    assert_eq!(sequences(&store.open_space(SPACE, &mut |_| {}).unwrap()), [1, 2, 3]);
}

#[test]
fn removing_a_space_takes_its_files_and_entries() {
    let machine = Machine::default();
    let store = machine.start(1 << 20).unwrap();
    let other = SpaceId([2; 32]);
    for space in [other, SPACE] {
        store.create_space(space, INCARNATION, &[("keys", b"k")]).unwrap();
    }
    assert!(matches!(store.create_space(SPACE, INCARNATION, &[]), Err(StorageError::SpaceExists(_))));
    assert_eq!(store.spaces().unwrap(), [SPACE, other]);
    const AREA: Area = Area::external(0x10);
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    let index = log.index().clone();
    let mut batch = Batch::default();
    batch.put(index.key(AREA, b"document"), b"derived".to_vec());
    index.apply(batch).unwrap();
    drop(log);
    store.remove_space(SPACE).unwrap();
    assert_eq!(index.value(AREA, b"document").unwrap(), None);
    assert_eq!(store.spaces().unwrap(), [other]);
    assert_eq!(machine.disk.list("spaces").unwrap(), [other.to_string()]);
    assert_eq!(store.files().read(FileScope::Space(SPACE), "keys").unwrap(), None);
    assert!(matches!(store.remove_space(SPACE), Err(StorageError::UnknownSpace(_))));
    assert!(matches!(store.open_space(SPACE, &mut |_| {}), Err(StorageError::UnknownSpace(_))));
    store.create_space(SPACE, Incarnation([6; 16]), &[]).unwrap();
    let log = store.open_space(SPACE, &mut |_| {}).unwrap();
    assert_ne!(log.index().number(), index.number(), "numbers are not used twice");
}

#[test]
fn entries_of_spaces_that_are_gone_are_removed_at_the_next_start() {
    let (machine, store, log) = Machine::with_log(1 << 20);
    const AREA: Area = Area::external(0x10);
    let index = log.index().clone();
    let mut batch = Batch::default();
    batch.put(index.key(AREA, b"document"), b"derived".to_vec());
    batch.put(store.node_index().key(AREA, b"peer"), b"kept".to_vec());
    index.apply(batch).unwrap();
    drop((log, store));
    machine.disk.rename(&format!("spaces/{SPACE}"), &format!("spaces/removing-{SPACE}")).unwrap();
    let store = machine.start(1 << 20).unwrap();
    assert_eq!(index.value(AREA, b"document").unwrap(), None);
    assert_eq!(store.node_index().value(AREA, b"peer").unwrap().as_deref(), Some(&b"kept"[..]));
    assert!(machine.disk.list("spaces").unwrap().is_empty());
}

#[test]
fn small_files_are_replaced_whole_at_any_crash() {
    for at in 0..20 {
        for seed in 0..8 {
            let machine = Machine::default();
            let files = machine.start(1 << 20).unwrap().files();
            files.write_secret(FileScope::Node, "device.key", b"old").unwrap();
            machine.disk.kill_after(at);
            let written = files.write_secret(FileScope::Node, "device.key", b"newer");
            let mut random = super::workload::Random(seed);
            machine.disk.lose_power(&mut |bound| random.below(bound));
            let files = machine.start(1 << 20).unwrap().files();
            let content = files.read(FileScope::Node, "device.key").unwrap().unwrap();
            match written {
                Ok(()) => assert_eq!(content, b"newer"),
                Err(_) => assert!(content == b"old" || content == b"newer", "{content:?}"),
            }
        }
    }
}

#[test]
fn small_file_names_cannot_leave_their_directory() {
    let (_machine, store, _log) = Machine::with_log(1 << 20);
    let files = store.files();
    for name in ["", "..", ".hidden", "a/b", "A", "log", "x.tmp", "ü", &"n".repeat(65)] {
        let error = files.write(FileScope::Space(SPACE), name, b"").unwrap_err();
        assert!(matches!(error, StorageError::BadName(_)), "{name}");
        assert!(files.read(FileScope::Node, name).is_err() && files.remove(FileScope::Node, name).is_err());
    }
    files.write(FileScope::Node, "config.toml", b"a").unwrap();
    files.remove(FileScope::Node, "config.toml").unwrap();
    files.remove(FileScope::Node, "config.toml").unwrap();
    assert_eq!(files.read(FileScope::Node, "config.toml").unwrap(), None);
    assert!(matches!(files.write(FileScope::Node, "x", &vec![0; (16 << 20) + 1]), Err(StorageError::TooLarge { .. })));
}

#[cfg(unix)]
#[test]
fn secrets_and_the_directory_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let store = open(&path).unwrap();
    store.create_space(SPACE, INCARNATION, &[("keys", b"k")]).unwrap();
    store.files().write_secret(FileScope::Node, "device.key", b"d").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("node/device.key")), 0o600);
    assert_eq!(mode(&path.join(format!("spaces/{SPACE}/keys"))), 0o600);
}
