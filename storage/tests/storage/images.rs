//! Power losses, one by one: everything that a disk may hold after any call of a script, opened and checked.
//!
//! The deep form enumerates every script of up to three steps:
//! `cargo test --release -p syncline-storage --test storage -- --ignored --nocapture any_short_script`.
#![allow(clippy::print_stdout, reason = "the deep form is for a person to read")]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use syncline_model::OperationId;
use syncline_storage::disk::{CrashImage, Fate, History, RecordingDisk};
use syncline_storage::{Disk, FileScope, MemoryDisk, MemoryIndex};

use super::scripts::{LARGE, Promise, RESERVED, Running, SMALL, Sizes, Step, copy_of, start};
use super::workload::{SPACE, shown};

/// Sizes at which a write may tear.
const SECTOR_BYTES: [usize; 2] = [512, 4096];

/// Which images of a script are looked at, and how closely.
#[derive(Debug, Clone, Copy)]
struct Depth {
    /// Pairs of lost changes, beside single ones.
    pairs: bool,
    /// Each image with the index as it was last, as it was earlier, and without; else with one of these in turns.
    every_index: bool,
    /// Every so many images, whether what was shown survives a second power loss and work goes on.
    aftermath_every: usize,
    /// Every so many images, the power goes again at each call of the recovery.
    again_every: usize,
}

const CI: Depth = Depth { pairs: true, every_index: false, aftermath_every: 4, again_every: 100 };
const DEEP: Depth = Depth { pairs: true, every_index: true, aftermath_every: 1, again_every: 20 };

#[derive(Debug, Default)]
struct Tally {
    scripts: usize,
    images: usize,
    openings: usize,
    second_losses: usize,
    operations_checked: usize,
    seen: BTreeSet<u64>,
}

/// All images of a power loss after `changes` changes.
fn images_after(history: &History, changes: usize, depth: Depth) -> Vec<CrashImage> {
    let unsynced = history.unsynced(changes);
    let image = |fates: Vec<(usize, Fate)>| CrashImage { changes, fates, swapped: None };
    let lost = |number: &usize| (*number, Fate::Lost);
    let mut images = vec![image(Vec::new()), image(unsynced.iter().map(lost).collect())];
    for (index, one) in unsynced.iter().enumerate() {
        images.push(image(vec![lost(one)]));
        // What was done from here on is lost, as when a disk writes in order.
        images.push(image(unsynced[index..].iter().map(lost).collect()));
        // All but this one is lost: it was written first.
        images.push(image(unsynced.iter().filter(|other| *other != one).map(lost).collect()));
        if history.sectors(*one, 512) > 0 {
            images.push(image(vec![(*one, Fate::LengthOnly)]));
        }
        for torn in tears(history, *one) {
            images.push(image(vec![(*one, torn)]));
            for other in unsynced.iter().filter(|other| depth.pairs && *other != one) {
                images.push(image(vec![(*one, torn), lost(other)]));
            }
        }
        for other in &unsynced[index + 1..] {
            if depth.pairs {
                images.push(image(vec![lost(one), lost(other)]));
            }
            if history.collide(*one, *other) {
                images.push(CrashImage { changes, fates: Vec::new(), swapped: Some((*one, *other)) });
            }
        }
    }
    images
}

/// A write that arrived up to a sector, from a sector on, or but for one.
fn tears(history: &History, number: usize) -> Vec<Fate> {
    let mut tears = Vec::new();
    for sector_bytes in SECTOR_BYTES {
        let sectors = history.sectors(number, sector_bytes);
        for cut in 1..sectors {
            for extended in [false, true] {
                tears.push(Fate::Sectors { sector_bytes, from: 0, to: cut, extended });
            }
            tears.push(Fate::Sectors { sector_bytes, from: cut, to: sectors, extended: true });
            tears.push(Fate::Sectors { sector_bytes, from: cut, to: cut + 1, extended: false });
        }
    }
    tears
}

/// Looks at the images of a script with power losses after each change from `from` on.
fn check_script(steps: &[Step], sizes: Sizes, from_last_step: bool, depth: Depth, tally: &mut Tally) {
    let mut running = Running::begin(sizes);
    let mut from = 0;
    for step in steps {
        from = running.disk.changes();
        running.step(*step);
    }
    let history = running.disk.history();
    tally.scripts += 1;
    for changes in if from_last_step { from } else { 0 }..=history.len() {
        let promise = running.promise_at(changes);
        for image in images_after(&history, changes, depth) {
            let disk = history.disk_after(&image);
            if !tally.seen.insert(fingerprint(&disk, promise)) {
                continue;
            }
            tally.images += 1;
            let states = running.index.states_by(changes);
            // Its last state, an earlier one, or none.
            let choices = [states.last(), states.get(tally.images % states.len().max(1)), None];
            for (number, index) in choices.into_iter().enumerate() {
                if !depth.every_index && tally.images % 3 != number {
                    continue;
                }
                let context = format!("{steps:?}, {sizes:?}, {image:?}, index {number}");
                tally.openings += 1;
                let index = index.map_or_else(MemoryIndex::new, copy_of);
                check_image(&history.disk_after(&image), &index, sizes, promise, depth, tally, &context);
            }
        }
    }
}

/// One number for all that the check of an image depends on.
fn fingerprint(disk: &MemoryDisk, promise: &Promise) -> u64 {
    fn add(disk: &MemoryDisk, path: &str, hasher: &mut DefaultHasher) {
        for name in disk.list(path).unwrap() {
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            path.hash(hasher);
            match disk.open(&path) {
                Ok(file) => {
                    let mut content = vec![0; file.length().unwrap() as usize];
                    file.read_at(0, &mut content).unwrap();
                    content.hash(hasher);
                }
                Err(_) => add(disk, &path, hasher),
            }
        }
    }
    let mut hasher = DefaultHasher::new();
    add(disk, "", &mut hasher);
    (promise.space_allowed, promise.space_required, promise.acknowledged, &promise.keys).hash(&mut hasher);
    promise.handed_in.iter().chain(&promise.dropping).for_each(|id| id.0.hash(&mut hasher));
    hasher.finish()
}

fn check_image(
    disk: &MemoryDisk,
    index: &MemoryIndex,
    sizes: Sizes,
    promise: &Promise,
    depth: Depth,
    tally: &mut Tally,
    context: &str,
) {
    let again = tally.images.is_multiple_of(depth.again_every);
    let recorded = again.then(|| RecordingDisk::new(Arc::new(disk.clone())).unwrap());
    let opened: Arc<dyn Disk> =
        recorded.as_ref().map_or_else(|| Arc::new(disk.clone()) as Arc<dyn Disk>, |disk| Arc::new(disk.clone()));
    let index_before = again.then(|| copy_of(index));
    let ids = open_and_check(&opened, index, sizes, promise, context);
    tally.operations_checked += promise.acknowledged;
    if let (Some(recorded), Some(index_before)) = (recorded, index_before) {
        check_second_loss(&recorded.history(), &index_before, sizes, promise, tally, context);
    }
    if tally.images.is_multiple_of(depth.aftermath_every) {
        disk.lose_power(&mut |_| 0);
        index.lose_power(&mut |_| 0);
        let mut later = promise.clone();
        if let Some(ids) = ids {
            (later.handed_in, later.acknowledged, later.space_required) = (ids.clone(), ids.len(), true);
        }
        let context = format!("{context}, what was shown once");
        open_and_check(&(Arc::new(disk.clone()) as Arc<dyn Disk>), index, sizes, &later, &context);
    }
}

/// The power goes a second time while the first loss is made good.
fn check_second_loss(
    history: &History,
    index: &MemoryIndex,
    sizes: Sizes,
    promise: &Promise,
    tally: &mut Tally,
    context: &str,
) {
    let once = Depth { pairs: false, every_index: false, aftermath_every: usize::MAX, again_every: usize::MAX };
    for changes in 0..=history.len() {
        for image in images_after(history, changes, once) {
            let disk = history.disk_after(&image);
            if tally.seen.insert(fingerprint(&disk, promise)) {
                tally.images += 1;
                tally.second_losses += 1;
                tally.openings += 1;
                let context = format!("{context}, then {image:?}");
                open_and_check(&(Arc::new(disk) as Arc<dyn Disk>), &copy_of(index), sizes, promise, &context);
            }
        }
    }
}

/// Opens an image and compares it with what was promised; returns the runs shown, None without the space.
fn open_and_check(
    disk: &Arc<dyn Disk>,
    index: &MemoryIndex,
    sizes: Sizes,
    promise: &Promise,
    context: &str,
) -> Option<Vec<OperationId>> {
    let store = start(disk.clone(), Arc::new(index.clone()), sizes);
    let store = store.unwrap_or_else(|error| panic!("{context}: does not open: {error}"));
    let spaces = store.spaces().unwrap();
    assert!(spaces.len() == disk.list("spaces").unwrap().len(), "{context}: leftovers stay");
    if spaces.is_empty() {
        assert!(!promise.space_required, "{context}: the space is lost");
        return None;
    }
    assert!(promise.space_allowed, "{context}: a space that was removed, or never made, is there");
    let keys = store.files().read(FileScope::Space(SPACE), "keys").unwrap();
    assert!(keys.is_some_and(|keys| promise.keys.contains(&keys)), "{context}: the keys are lost");
    let log = store.open_space(SPACE, &mut |_| {});
    let log = log.unwrap_or_else(|error| panic!("{context}: the log does not open: {error}"));
    let ids: Vec<OperationId> = shown(&log).iter().map(|(_, summary)| summary.last_id()).collect();
    let is_kept = |id: &&OperationId| !promise.dropping.contains(id);
    let possible = promise.handed_in.iter().filter(|id| is_kept(id) || ids.contains(id));
    assert!(
        possible.copied().collect::<Vec<_>>().starts_with(&ids),
        "{context}: another order, twice, or never handed in"
    );
    let acknowledged = promise.handed_in[..promise.acknowledged].iter().filter(is_kept).count();
    let kept = ids.iter().filter(is_kept).count();
    assert!(kept >= acknowledged, "{context}: {acknowledged} acknowledged, {kept} shown");
    assert_eq!(log.stats().unwrap().quarantined, 0, "{context}: a crash damages nothing that was durable");
    let report = log.reader().verify(&mut |_| {}).unwrap();
    assert!(report.is_sound() && report.unchained.count == 0, "{context}: {report:?}");
    assert_eq!(report.runs, ids.len() as u64, "{context}: what is in the files is what is shown");
    Some(ids)
}

fn report(tally: &Tally, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "scripts {}, crash images {} ({} after a second loss), opened {} times, acknowledged runs looked for {}: \
         all open, 0 lost, {seconds:.1} s",
        tally.scripts, tally.images, tally.second_losses, tally.openings, tally.operations_checked,
    );
}

#[test]
fn nothing_acknowledged_is_lost_in_any_crash_image() {
    use Step::{
        Append, AppendFailing, AppendFull, AppendLong, AppendSeveral, Die, DieWithoutIndex, DropTail, Replace, Restart,
        Sync, WriteKeys,
    };
    let scripts: [(&[Step], Sizes); 11] = [
        (&[Append, Append, Sync, AppendSeveral, Sync, AppendLong, Append, Sync], SMALL),
        (&[AppendLong, AppendLong, AppendSeveral, Sync, Die, Append, Sync], SMALL),
        (&[Append, Sync, AppendSeveral, Die, AppendLong, DieWithoutIndex, Append, Sync], SMALL),
        (&[Append, WriteKeys, Sync, WriteKeys, Restart, Append, Sync], SMALL),
        (&[AppendSeveral, Sync, Replace, Append, Sync, Replace], SMALL),
        (&[Append, AppendFailing, Sync, AppendLong, AppendFailing, Sync], SMALL),
        (&[Append, Sync, AppendFull, Sync, Die, AppendLong, AppendFull, Sync], RESERVED),
        (&[AppendLong, AppendSeveral, Sync, AppendLong, AppendLong, Die, Append, Sync], LARGE),
        (&[AppendSeveral, AppendLong, AppendLong, AppendSeveral, DropTail, Append, AppendLong, Sync], SMALL),
        (
            &[AppendSeveral, AppendSeveral, AppendLong, DropTail, AppendLong, Append, DropTail, Die, AppendLong, Sync],
            SMALL,
        ),
        (&[AppendSeveral, AppendLong, AppendSeveral, AppendLong, DropTail, DieWithoutIndex, Append, Sync], LARGE),
    ];
    let (start, mut tally) = (Instant::now(), Tally::default());
    for (steps, sizes) in scripts {
        check_script(steps, sizes, false, CI, &mut tally);
    }
    for first in Step::ALL {
        check_script(&[first], SMALL, true, CI, &mut tally);
        for second in Step::ALL {
            check_script(&[first, second], SMALL, true, CI, &mut tally);
        }
    }
    report(&tally, start);
    assert!(tally.images >= 3000 && tally.second_losses > 100, "{}", tally.images);
}

#[test]
#[ignore = "takes minutes: every script of up to three steps"]
fn nothing_acknowledged_is_lost_in_any_crash_image_of_any_short_script() {
    let (start, mut tally) = (Instant::now(), Tally::default());
    for sizes in [SMALL, LARGE] {
        let mut scripts: Vec<Vec<Step>> = vec![Vec::new()];
        while let Some(steps) = scripts.pop() {
            // What an earlier step leaves is looked at in the script that ends with it.
            check_script(&steps, sizes, !steps.is_empty(), DEEP, &mut tally);
            if steps.len() < 3 {
                scripts.extend(Step::ALL.iter().map(|step| [&steps[..], &[*step]].concat()));
            }
            if tally.scripts.is_multiple_of(100) {
                report(&tally, start);
            }
        }
    }
    report(&tally, start);
    assert_eq!(tally.scripts, 2 * (1 + 10 + 100 + 1000));
    assert!(tally.images >= 20_000, "{}", tally.images);
}
