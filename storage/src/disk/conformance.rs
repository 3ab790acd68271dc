//! What every [`Disk`] must do alike.

use std::io::ErrorKind;

use super::{Access, Disk, FileDisk, MemoryDisk};

fn check(disk: &dyn Disk) {
    disk.create_directory("a").unwrap();
    disk.create_directory("a").unwrap();
    disk.create_directory("a/b").unwrap();
    assert_eq!(disk.create_directory("missing/b").unwrap_err().kind(), ErrorKind::NotFound);

    let file = disk.create("a/one", Access::Default).unwrap();
    file.write_at(0, b"hello").unwrap();
    file.write_at(7, b"world").unwrap();
    assert_eq!(file.length().unwrap(), 12);
    let mut buffer = [9; 16];
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), 12, "a read stops at the end");
    assert_eq!(&buffer[..12], b"hello\0\0world", "a gap reads as zeros");
    assert_eq!(file.read_at(12, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(100, &mut buffer).unwrap(), 0);
    file.set_length(5).unwrap();
    file.sync().unwrap();
    disk.sync_directory("a").unwrap();
    disk.sync_directory("").unwrap();
    assert_eq!(disk.open("a/one").unwrap().length().unwrap(), 5);

    assert_eq!(disk.open("a/none").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.remove_file("a/none").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.list("none").unwrap_err().kind(), ErrorKind::NotFound);

    disk.create("a/two", Access::Private).unwrap().write_at(0, b"2").unwrap();
    assert_eq!(disk.list("a").unwrap(), ["b", "one", "two"], "names are sorted");
    disk.rename("a/two", "a/one").unwrap();
    assert_eq!(disk.list("a").unwrap(), ["b", "one"], "a rename replaces");
    assert_eq!(file.length().unwrap(), 5, "an open file outlives its name");
    assert_eq!(disk.open("a/one").unwrap().length().unwrap(), 1);
    assert_eq!(disk.rename("a/one", "one").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(disk.create("a/one", Access::Default).unwrap().length().unwrap(), 0, "creating empties");

    let file = disk.create("a/taken", Access::Default).unwrap();
    file.set_length(1 << 16).unwrap();
    assert!(file.allocated_bytes().unwrap() < 1 << 16, "growing takes no room");
    file.set_length(0).unwrap();
    file.allocate(1 << 16).unwrap();
    assert_eq!(file.length().unwrap(), 1 << 16);
    assert!(file.allocated_bytes().unwrap() >= 1 << 16, "allocating does");
    assert_eq!((file.read_at(1 << 15, &mut buffer).unwrap(), buffer), (16, [0; 16]));
    file.set_length(0).unwrap();
    assert_eq!(file.allocated_bytes().unwrap(), 0, "cutting gives it back");

    disk.create("a/b/deep", Access::Default).unwrap();
    disk.rename("a", "c").unwrap();
    assert_eq!(disk.list("").unwrap(), ["c"]);
    assert_eq!(disk.list("c/b").unwrap(), ["deep"], "a directory moves with what it holds");
    disk.remove_directory("c").unwrap();
    assert_eq!(disk.list("").unwrap(), Vec::<String>::new());

    for path in ["../up", "/root", "a//b", "a/./b", "a\\b"] {
        assert_eq!(disk.create(path, Access::Default).unwrap_err().kind(), ErrorKind::InvalidInput, "{path}");
    }
    assert!(disk.available_bytes().unwrap() > 0);
}

#[test]
fn real_files_conform() {
    let directory = tempfile::tempdir().unwrap();
    check(&FileDisk::new(directory.path()));
}

#[test]
fn memory_conforms() {
    check(&MemoryDisk::new());
}

#[cfg(unix)]
#[test]
fn private_files_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    FileDisk::new(directory.path()).create("secret", Access::Private).unwrap();
    let mode = std::fs::metadata(directory.path().join("secret")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_power_loss_takes_what_was_not_synced() {
    let disk = MemoryDisk::new();
    let file = disk.create("kept", Access::Default).unwrap();
    file.write_at(0, b"synced").unwrap();
    file.sync().unwrap();
    disk.sync_directory("").unwrap();
    file.write_at(6, b" and not").unwrap();
    disk.create("unnamed", Access::Default).unwrap().sync().unwrap();
    disk.lose_power(&mut |_| 0);
    assert_eq!(disk.list("").unwrap(), ["kept"], "a name that was not synced goes");
    assert_eq!(disk.open("kept").unwrap().length().unwrap(), 6);
    assert!(file.sync().is_err(), "handles do not survive");
}

#[test]
fn a_process_crash_keeps_what_was_written() {
    let disk = MemoryDisk::new();
    let file = disk.create("kept", Access::Default).unwrap();
    disk.kill_after(1);
    file.write_at(0, b"whole").unwrap();
    file.write_at(5, b"half").unwrap_err();
    file.sync().unwrap_err();
    disk.restart();
    assert_eq!(disk.open("kept").unwrap().length().unwrap(), 7);
    assert_eq!(disk.faults_fired(), 1);
}

#[test]
fn a_write_that_does_not_fit_is_done_as_far_as_it_does() {
    let disk = MemoryDisk::new();
    disk.set_capacity(Some(2048));
    let file = disk.create("file", Access::Default).unwrap();
    file.write_at(0, &[1; 1000]).unwrap();
    assert_eq!((disk.available_bytes().unwrap(), disk.used_bytes()), (1024, 1024));
    assert_eq!(file.write_at(1000, &[2; 2000]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!((file.length().unwrap(), disk.available_bytes().unwrap()), (2048, 0));
    file.write_at(0, &[3; 2048]).unwrap();
    let other = disk.create("other", Access::Default).unwrap();
    assert_eq!(other.allocate(512).unwrap_err().kind(), ErrorKind::StorageFull);
    file.set_length(1000).unwrap();
    other.allocate(1024).unwrap();
    disk.remove_file("other").unwrap();
    assert_eq!(disk.available_bytes().unwrap(), 1024);
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next_one() {
    let disk = MemoryDisk::new();
    let file = disk.create("file", Access::Default).unwrap();
    disk.sync_directory("").unwrap();
    file.write_at(0, b"lost").unwrap();
    disk.inject(super::Fault { operation: super::DiskOperation::Sync, skip: 0, kind: super::FaultKind::Error });
    file.sync().unwrap_err();
    file.sync().unwrap();
    assert_eq!(file.length().unwrap(), 4, "the process still sees it");
    disk.lose_power(&mut |_| 1);
    assert_eq!(disk.open("file").unwrap().length().unwrap(), 0);
}
