//! How long operations are kept that count for nobody.
//!
//! Behind a cut stand operations that were stored before the cut was known. They are kept for a while, since the
//! steward may still let them count, then their room is given back: the log holds from then on what a device holds to
//! which the cut came first, and like that one it neither pulls them nor offers them.
//!
//! The time is counted while this device runs, in whole looks, and stands in the index: a clock that is wrong shortens
//! it by nothing, and an index that is made anew only begins it again.
//!
//! Never dropped: this device's own log, which is offered to be written again; logs that forked and their branches,
//! which prove it; whatever others built on or wait for.

use std::collections::BTreeMap;

use syncline_model::DeviceId;
use syncline_storage::{Area, Batch, IndexError, SpaceIndex, Tail};

/// For how long this device runs before it drops what does not count, in milliseconds: 30 days.
pub const KEEP_UNCOUNTED_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How often it is looked what does not count.
const LOOK_EVERY_MS: u64 = 60 * 60 * 1000;
/// Fewer bytes of a log are not worth a segment that is written again.
pub(super) const TAIL_BYTES_MIN: u64 = 64 << 10;

/// Where it stands in the index since when something did not count.
const WAITED: Area = Area::external(0x40);
/// Bytes of an entry: the sequence and the time.
const ENTRY_BYTES: usize = 16;

/// What does not count, and for how long that has been so.
#[derive(Debug)]
pub(super) struct Tails {
    keep_ms: u64,
    looked_ms: Option<u64>,
    /// Log → after which sequence, and for how long.
    waited: BTreeMap<DeviceId, (u64, u64)>,
}

impl Tails {
    /// What an earlier run of this device noted. An entry that is damaged begins anew.
    pub(super) fn read(index: &SpaceIndex, keep_ms: u64) -> Result<Self, IndexError> {
        let mut waited = BTreeMap::new();
        index.scan(WAITED, &[], None, &mut |log, value| {
            let noted = log.try_into().ok().zip(value.split_first_chunk::<8>());
            if let Some((log, (after, ms))) = noted
                && let Ok(ms) = ms.try_into()
            {
                waited.insert(DeviceId(log), (u64::from_le_bytes(*after), u64::from_le_bytes(ms)));
            }
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(Self { keep_ms, looked_ms: None, waited })
    }

    /// Whether it is time to look.
    pub(super) fn is_look_due(&mut self, now_ms: u64) -> bool {
        let looked = *self.looked_ms.get_or_insert(now_ms);
        now_ms >= looked.saturating_add(LOOK_EVERY_MS)
    }

    /// Looks at what does not count now, and notes it; tells whether anything has waited for long enough.
    pub(super) fn look(&mut self, tails: &[Tail], now_ms: u64, index: &SpaceIndex) -> Result<bool, IndexError> {
        let elapsed = now_ms.saturating_sub(self.looked_ms.replace(now_ms).unwrap_or(now_ms));
        let before = std::mem::take(&mut self.waited);
        let mut batch = Batch::default();
        for Tail { log, after } in tails {
            // What was cut elsewhere since waits anew.
            let waited = before.get(log).filter(|(known, _)| known == after);
            let ms = waited.map_or(0, |(_, ms)| ms.saturating_add(elapsed));
            self.waited.insert(*log, (*after, ms));
            let entry: [u8; ENTRY_BYTES] = (u128::from(ms) << 64 | u128::from(*after)).to_le_bytes();
            batch.put(index.key(WAITED, &log.0), entry.to_vec());
        }
        for log in before.keys().filter(|log| !self.waited.contains_key(log)) {
            batch.remove(index.key(WAITED, &log.0));
        }
        if !batch.is_empty() {
            index.apply(batch)?;
        }
        Ok(self.waited.values().any(|(_, ms)| *ms >= self.keep_ms))
    }

    /// Which of these have waited for long enough.
    pub(super) fn due(&self, tails: Vec<Tail>) -> Vec<Tail> {
        let is_due = |tail: &Tail| {
            let waited = self.waited.get(&tail.log);
            waited.is_some_and(|(after, ms)| *after == tail.after && *ms >= self.keep_ms)
        };
        tails.into_iter().filter(is_due).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use syncline_model::SpaceId;
    use syncline_storage::{Incarnation, MemoryDisk, MemoryIndex, OpenOptions, SpaceLog, Store};

    use super::*;

    const SPACE: SpaceId = SpaceId([1; 32]);
    const EVE: Tail = Tail { log: DeviceId([2; 32]), after: 5 };

    fn log() -> SpaceLog {
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let store = Store::assemble(Arc::new(MemoryDisk::new()), Arc::new(MemoryIndex::new()), options).unwrap();
        store.create_space(SPACE, Incarnation([0; 16]), &[]).unwrap();
        store.open_space(SPACE, &mut |_| {}).unwrap()
    }

    fn look(tails: &mut Tails, found: &[Tail], now_ms: u64, index: &SpaceIndex) -> bool {
        tails.is_look_due(now_ms) && tails.look(found, now_ms, index).unwrap()
    }

    #[test]
    fn what_waits_is_due_after_its_time_over_restarts() {
        let log = log();
        let mut now_ms = 7;
        let mut looks = 0;
        let mut run = |hours: u64| {
            let mut tails = Tails::read(log.index(), 48 * LOOK_EVERY_MS).unwrap();
            for _ in 0..=hours {
                looks += 1;
                if look(&mut tails, &[EVE], now_ms, log.index()) {
                    assert_eq!(tails.due(vec![EVE]), [EVE]);
                    return true;
                }
                now_ms += LOOK_EVERY_MS;
            }
            assert!(tails.due(vec![EVE]).is_empty());
            false
        };
        assert!(!run(30) && run(30));
        assert!((49..=53).contains(&looks), "{looks}");
    }

    #[test]
    fn what_is_cut_elsewhere_or_counts_after_all_waits_anew() {
        let log = log();
        let mut tails = Tails::read(log.index(), 2 * LOOK_EVERY_MS).unwrap();
        let other = Tail { after: 6, ..EVE };
        let found: [&[Tail]; 8] = [&[EVE], &[EVE], &[EVE], &[other], &[other], &[], &[other], &[other]];
        for (hour, found) in found.into_iter().enumerate() {
            assert!(!look(&mut tails, found, hour as u64 * LOOK_EVERY_MS, log.index()), "{hour}");
        }
        assert!(look(&mut tails, &[other], 8 * LOOK_EVERY_MS, log.index()));
        assert!(tails.due(vec![EVE]).is_empty(), "what is due is what was noted");
        assert_eq!(tails.due(vec![other]), [other]);
    }
}
