//! What every [`Index`] must do alike.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::{Batch, INDEX_CACHE_BYTES, Index, MemoryIndex, RedbIndex, SledIndex, SpaceIndex, remove_range};
use crate::disk::{FileDisk, MemoryDisk};
use crate::layout::Area;

const AREA: Area = Area::external(0x20);

fn put_all(index: &dyn Index, entries: &[(&str, &str)]) {
    let mut batch = Batch::default();
    for (key, value) in entries {
        batch.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    index.apply(batch).unwrap();
}

fn keys(index: &dyn Index, from: &str, to: &str, limit: usize) -> Vec<String> {
    let mut keys = Vec::new();
    index
        .scan(from.as_bytes(), to.as_bytes(), &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            if keys.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    keys
}

fn check(index: &Arc<dyn Index>) {
    put_all(&**index, &[("b", "1"), ("a", "2"), ("c", "3"), ("ca", "4")]);
    assert_eq!(index.value(b"a").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(index.value(b"z").unwrap(), None);
    assert_eq!(keys(&**index, "a", "d", 9), ["a", "b", "c", "ca"], "keys come in order");
    assert_eq!(keys(&**index, "b", "c", 9), ["b"], "the end is left out");
    assert_eq!(keys(&**index, "a", "d", 2), ["a", "b"], "a visitor can stop");
    assert_eq!(keys(&**index, "d", "a", 9), Vec::<String>::new(), "a reversed range is empty");
    assert_eq!(index.last(b"a", b"ca").unwrap(), Some((b"c".to_vec(), b"3".to_vec())));
    assert_eq!(index.last(b"x", b"y").unwrap(), None);
    assert_eq!(index.last(b"y", b"x").unwrap(), None);

    let mut batch = Batch::default();
    batch.put(b"a".to_vec(), b"first".to_vec());
    batch.put(b"a".to_vec(), b"last".to_vec());
    batch.remove(b"b".to_vec());
    batch.remove(b"never there".to_vec());
    index.apply(batch).unwrap();
    index.apply(Batch::default()).unwrap();
    assert_eq!(index.value(b"a").unwrap().as_deref(), Some(&b"last"[..]), "the later change wins");
    assert_eq!(index.value(b"b").unwrap(), None);

    let many: Vec<String> = (0..10_000).map(|number| format!("m{number:05}")).collect();
    put_all(&**index, &many.iter().map(|key| (key.as_str(), key.as_str())).collect::<Vec<_>>());
    assert_eq!(keys(&**index, "m", "n", usize::MAX), many);
    remove_range(&**index, b"m", b"m09999").unwrap();
    assert_eq!(keys(&**index, "m", "n", 9), ["m09999"]);

    check_space_index(index);
    index.flush().unwrap();
    assert!(index.size_bytes().unwrap() > 0);
}

fn check_space_index(index: &Arc<dyn Index>) {
    let (one, two) = (SpaceIndex::new(index.clone(), 1), SpaceIndex::new(index.clone(), 2));
    let mut batch = Batch::default();
    for suffix in ["k", "k1", "k2", "k3", "l"] {
        batch.put(one.key(AREA, suffix.as_bytes()), vec![1]);
    }
    batch.put(one.key(AREA, &[0xff; 3]), vec![3]);
    batch.put(two.key(AREA, b"k9"), vec![2]);
    batch.put(one.key(Area::external(0x21), b"k9"), vec![2]);
    one.apply(batch).unwrap();
    let page = |prefix: &[u8], after: Option<&[u8]>, limit| {
        one.page(AREA, prefix, after, limit).unwrap().into_iter().map(|(suffix, _)| suffix).collect::<Vec<_>>()
    };
    assert_eq!(page(b"k", None, 2), [b"k".to_vec(), b"k1".to_vec()]);
    assert_eq!(page(b"k", Some(b"k1"), 9), [b"k2".to_vec(), b"k3".to_vec()]);
    assert_eq!(page(b"k", Some(b"a"), 1), [b"k".to_vec()], "a start before the prefix does not widen it");
    assert_eq!(page(b"", None, 9).len(), 6);
    assert_eq!(page(&[0xff], None, 9), [vec![0xff; 3]], "a prefix without a successor ends with the area");
    assert_eq!(page(b"", None, 0), Vec::<Vec<u8>>::new());
    assert_eq!(one.last(AREA, b"", Some(b"l")).unwrap(), Some((b"k3".to_vec(), vec![1])));
    one.clear(AREA).unwrap();
    assert!(page(b"", None, 9).is_empty());
    assert_eq!(two.value(AREA, b"k9").unwrap(), Some(vec![2]), "spaces do not see each other");
    assert_eq!(one.value(Area::external(0x21), b"k9").unwrap(), Some(vec![2]));
}

#[test]
fn a_gathered_index_conforms() {
    let index: Arc<dyn Index> = Arc::new(super::GatheredIndex::new(Arc::new(super::MemoryIndex::default())));
    check(&index);
}

#[test]
fn memory_conforms() {
    let index: Arc<dyn Index> = Arc::new(MemoryIndex::new());
    check(&index);
}

#[test]
fn sled_conforms_and_keeps_what_was_flushed() {
    let directory = tempfile::tempdir().unwrap();
    let index: Arc<dyn Index> = Arc::new(SledIndex::open(directory.path(), INDEX_CACHE_BYTES).unwrap());
    check(&index);
    drop(index);
    let index = SledIndex::open(directory.path(), INDEX_CACHE_BYTES).unwrap();
    assert_eq!(index.value(b"a").unwrap().as_deref(), Some(&b"last"[..]));
}

#[test]
fn redb_conforms_and_keeps_what_was_flushed() {
    let directory = tempfile::tempdir().unwrap();
    let index: Arc<dyn Index> =
        Arc::new(RedbIndex::open_on(&FileDisk::new(directory.path()), "", INDEX_CACHE_BYTES).unwrap());
    check(&index);
    drop(index);
    let index = RedbIndex::open_on(&FileDisk::new(directory.path()), "", INDEX_CACHE_BYTES).unwrap();
    assert_eq!(index.value(b"a").unwrap().as_deref(), Some(&b"last"[..]));
}

#[test]
fn a_power_loss_takes_redb_back_to_whole_batches() {
    for kept in 0..40 {
        let disk = MemoryDisk::new();
        let index = RedbIndex::open_on(&disk, "", INDEX_CACHE_BYTES).unwrap();
        put_all(&index, &[("a", "1"), ("b", "1")]);
        index.flush().unwrap();
        put_all(&index, &[("a", "2"), ("b", "2")]);
        put_all(&index, &[("a", "3"), ("b", "3")]);
        if kept % 2 == 0 {
            // Somewhere on the way to being durable, too.
            disk.kill_after(kept / 2);
            drop(index.flush());
        }
        let mut choice = kept;
        disk.lose_power(&mut |bound| {
            choice = choice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (choice >> 33) % bound
        });
        drop(index);
        let index = RedbIndex::open_on(&disk, "", INDEX_CACHE_BYTES).unwrap();
        let (a, b) = (index.value(b"a").unwrap(), index.value(b"b").unwrap());
        assert!(a.is_some() && a == b, "{kept}: {a:?} and {b:?} were written together");
    }
}

#[test]
fn a_power_loss_takes_back_whole_batches() {
    let index = MemoryIndex::new();
    put_all(&index, &[("a", "1")]);
    index.flush().unwrap();
    put_all(&index, &[("a", "2"), ("b", "2")]);
    put_all(&index, &[("c", "3")]);
    index.lose_power(&mut |_| 1);
    assert_eq!(keys(&index, "a", "z", 9), ["a", "b"]);
    index.lose_power(&mut |_| 0);
    assert_eq!(keys(&index, "a", "z", 9), ["a", "b"]);
}

#[test]
fn sled_waits_for_the_one_before_and_refuses_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        drop(SledIndex::open(directory.path(), INDEX_CACHE_BYTES).unwrap());
    }
    let _held = SledIndex::open(directory.path(), INDEX_CACHE_BYTES).unwrap();
    assert!(matches!(SledIndex::open(directory.path(), INDEX_CACHE_BYTES), Err(super::IndexError::Locked)));
}
