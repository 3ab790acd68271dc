//! What was read lately of authors' logs, within a bound of bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use syncline_model::DeviceId;

/// Stretches of logs by author and last sequence; the oldest go first.
#[derive(Debug)]
pub(super) struct Recent<T> {
    stretches: BTreeMap<(DeviceId, u64), (Arc<T>, usize)>,
    order: VecDeque<(DeviceId, u64)>,
    bytes: usize,
    bytes_max: usize,
}

impl<T> Recent<T> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { stretches: BTreeMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The stretch of an author's log that ends at `sequence` or is the first to end after it.
    pub(super) fn ending_from(&self, author: &DeviceId, sequence: u64) -> Option<&Arc<T>> {
        let mut found = self.stretches.range((*author, sequence)..=(*author, u64::MAX));
        found.next().map(|(_, (stretch, _))| stretch)
    }

    /// Keeps a stretch that takes so many bytes; one that ends at the same place is replaced.
    pub(super) fn keep(&mut self, author: DeviceId, last: u64, stretch: Arc<T>, bytes: usize) {
        self.bytes += bytes;
        match self.stretches.insert((author, last), (stretch, bytes)) {
            Some((_, before)) => self.bytes -= before,
            None => self.order.push_back((author, last)),
        }
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.stretches.remove(&oldest).map_or(0, |(_, bytes)| bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_found_by_what_they_cover_and_the_oldest_go_first() {
        let (one, two) = (DeviceId([1; 32]), DeviceId([2; 32]));
        let mut recent = Recent::new(100);
        recent.keep(one, 5, Arc::new("to 5"), 40);
        recent.keep(one, 9, Arc::new("to 9"), 40);
        let found =
            |recent: &Recent<&'static str>, author, sequence| recent.ending_from(author, sequence).map(|it| **it);
        assert_eq!([found(&recent, &one, 1), found(&recent, &one, 5)], [Some("to 5"); 2]);
        assert_eq!([found(&recent, &one, 6), found(&recent, &one, 9)], [Some("to 9"); 2]);
        assert_eq!([found(&recent, &one, 10), found(&recent, &two, 1)], [None; 2]);
        recent.keep(one, 9, Arc::new("again"), 50);
        assert_eq!((found(&recent, &one, 5), found(&recent, &one, 9)), (Some("to 5"), Some("again")));
        recent.keep(two, 1, Arc::new("other"), 30);
        assert_eq!(found(&recent, &one, 5), Some("again"), "the oldest had to go");
        assert_eq!(found(&recent, &two, 1), Some("other"));
    }
}
