//! How much a relay stores for others, asked before anything is stored.
//!
//! A relay keeps what it cannot read, so only size can bound it. Each author has a quota, and so has the space; what is
//! beyond is not taken, is nobody's fault, and other authors go on. What is stored already is served all the same.
//!
//! The steward's log says who is a member, which a relay enforces for others. An operation counts when all that it
//! builds on is held, so the quota of an author bends for what the steward's log waits for, or one author could end
//! what the relay learns of members. The quota of the space never bends; the last [`STEWARD_SHARE`]th of it is for
//! these alone.
//!
//! Logs are chained, so nothing of a log can follow what was refused: its author is full from then on, until the space
//! is opened again.

use std::collections::BTreeMap;

use syncline_model::DeviceId;

/// Bytes that a relay stores of a space unless it is told otherwise.
pub const RELAY_SPACE_BYTES: u64 = 10 << 30;
/// Bytes that a relay stores of one author in a space unless it is told otherwise.
pub const RELAY_AUTHOR_BYTES: u64 = 2 << 30;
/// This fraction of a space's quota is for the steward's log alone.
pub const STEWARD_SHARE: u64 = 8;

/// How many bytes of operations a relay stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayQuota {
    /// Of a space.
    pub space_bytes: u64,
    /// Of one author in a space.
    pub author_bytes: u64,
}

impl RelayQuota {
    /// Nothing at all, for a space that a relay is not to keep.
    pub const NOTHING: Self = Self { space_bytes: 0, author_bytes: 0 };
}

impl Default for RelayQuota {
    fn default() -> Self {
        Self { space_bytes: RELAY_SPACE_BYTES, author_bytes: RELAY_AUTHOR_BYTES }
    }
}

/// Which quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum UsedUp {
    Author,
    Space,
}

/// What is stored, measured against a quota.
#[derive(Debug, Default)]
pub(super) struct Stored {
    quota: Option<RelayQuota>,
    authors: BTreeMap<DeviceId, u64>,
    total: u64,
    /// Authors of whom something was refused.
    full: BTreeMap<DeviceId, UsedUp>,
}

impl Stored {
    /// Nothing stored yet, and a quota if there is one.
    pub(super) fn limit(&mut self, quota: Option<RelayQuota>) {
        self.quota = quota;
    }

    /// Whether anything is measured.
    pub(super) fn is_limited(&self) -> bool {
        self.quota.is_some()
    }

    /// Takes note of what is stored.
    pub(super) fn add(&mut self, author: DeviceId, bytes: u64) {
        let of_author = self.authors.entry(author).or_default();
        *of_author = of_author.saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
    }

    /// Whether a relay has room for more of an author, be it for membership or not; if not, it has none from then on.
    pub(super) fn has_room(&mut self, author: DeviceId, for_membership: bool, bytes: u64) -> bool {
        let Some(quota) = self.quota else { return true };
        if !for_membership && self.full.contains_key(&author) {
            return false;
        }
        let of_author = self.authors.get(&author).copied().unwrap_or_default();
        let kept_free = if for_membership { 0 } else { quota.space_bytes / STEWARD_SHARE };
        let used_up = if self.total.saturating_add(bytes) > quota.space_bytes - kept_free {
            UsedUp::Space
        } else if !for_membership && of_author.saturating_add(bytes) > quota.author_bytes {
            UsedUp::Author
        } else {
            return true;
        };
        self.full.insert(author, used_up);
        false
    }

    /// Whether something of an author was refused.
    pub(super) fn is_full(&self, author: &DeviceId) -> bool {
        self.full.contains_key(author)
    }

    /// The authors of whom something was refused.
    pub(super) fn full(&self) -> impl Iterator<Item = &DeviceId> {
        self.full.keys()
    }

    /// What is not kept, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let Some(quota) = self.quota else { return Vec::new() };
        let mebibytes = |bytes: u64| bytes >> 20;
        let of_author = |(author, used_up): (&DeviceId, &UsedUp)| {
            let author = author.short();
            match used_up {
                UsedUp::Author => format!(
                    "this relay keeps no more of device {author}: its quota of {} MiB is used up \
                     (`relay_author_quota_mib`)",
                    mebibytes(quota.author_bytes)
                ),
                UsedUp::Space => format!(
                    "this relay keeps no more of device {author}: the space's quota of {} MiB is used up, also for \
                     what membership builds on (`relay_quota_mib`)",
                    mebibytes(quota.space_bytes)
                ),
            }
        };
        self.full.iter().map(of_author).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEWARD: DeviceId = DeviceId([1; 32]);
    const LOUD: DeviceId = DeviceId([2; 32]);
    const QUIET: DeviceId = DeviceId([3; 32]);

    fn stored(space_bytes: u64, author_bytes: u64) -> Stored {
        let mut stored = Stored::default();
        stored.limit(Some(RelayQuota { space_bytes, author_bytes }));
        stored
    }

    fn store(stored: &mut Stored, author: DeviceId, bytes: u64) -> bool {
        let room = stored.has_room(author, author == STEWARD, bytes);
        if room {
            stored.add(author, bytes);
        }
        room
    }

    #[test]
    fn an_author_fills_its_own_quota_and_nobody_elses() {
        let mut stored = stored(1000, 100);
        assert!(store(&mut stored, LOUD, 60) && store(&mut stored, LOUD, 40));
        assert!(!store(&mut stored, LOUD, 1) && stored.is_full(&LOUD));
        assert!(store(&mut stored, QUIET, 100));
        assert!(store(&mut stored, STEWARD, 300), "the steward's log says who is a member");
        assert!(!store(&mut stored, LOUD, 0), "nothing follows what was refused");
        assert!(stored.has_room(LOUD, true, 1), "unless the steward's log waits for it");
        assert_eq!(stored.full.keys().collect::<Vec<_>>(), [&LOUD]);
    }

    #[test]
    fn the_last_of_a_space_is_for_the_steward() {
        let mut stored = stored(800, 800);
        assert!(store(&mut stored, LOUD, 700));
        assert!(!store(&mut stored, QUIET, 1));
        assert!(store(&mut stored, STEWARD, 100));
        assert!(!store(&mut stored, STEWARD, 1), "nor is the steward without a bound");
        assert_eq!(stored.problems().len(), 2);
        assert!(stored.problems()[0].contains("`relay_quota_mib`"));
    }

    #[test]
    fn nothing_is_stored_of_a_space_that_is_not_to_be_kept() {
        let mut stored = Stored::default();
        assert!(stored.has_room(LOUD, false, u64::MAX));
        stored.limit(Some(RelayQuota::NOTHING));
        assert!(!stored.has_room(STEWARD, true, 1) && !stored.has_room(LOUD, false, 1));
    }
}
