//! Beginning anew in the middle of the work: after damage that was met, when keys came late, and on a full disk.
//!
//! Core and documents count on what the log holds. When a record turns out to be damaged they have to forget its
//! operations, so that these are fetched again: the replica is dropped and opened again, as a restart of the node
//! would do, and callers only see that what was open has to be repeated.

use std::sync::Arc;

use syncline_model::DeviceId;
use syncline_storage::{DamagedRun, StorageError};

use super::{Notice, Pump, Replica, SpaceReplica, Watched};
use crate::documents::DocumentError;

/// Damaged stretches that are remembered until what stood in them is held again.
const LOST_MAX: usize = 100;
/// A space that finds no room twice within this time ends.
const FULL_PAUSE_MS: u64 = 10_000;

/// Operations that stood in a damaged record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    author: DeviceId,
    first: u64,
    last: u64,
}

impl Pump {
    /// Puts damage aside and begins anew without it.
    pub(super) fn heal(self, damage: &StorageError) -> Option<Self> {
        let StorageError::Damaged { space, position, author, first, last, .. } = *damage else { return None };
        tracing::error!(space = %space.short(), %damage, "damage was met; the space is opened again without it");
        let mut lost = vec![Lost { author, first, last }];
        // Where one record is damaged others may be: all at once, or the space would be opened again for each.
        match self.replica.put_aside_damage(position) {
            Ok(more) => {
                let of_run = |run: &DamagedRun| Lost { author: run.author, first: run.first, last: run.last };
                lost.extend(more.iter().map(of_run));
            }
            Err(error) => return self.stop(&error),
        }
        let mut healed = self.begin_anew()?;
        healed.lost.extend(lost);
        healed.lost.truncate(LOST_MAX);
        Some(healed)
    }

    /// Begins anew without what there was no room for, even in the reserve: none of it was acknowledged or sent. When
    /// that happens again at once the space ends, so that somebody makes room.
    pub(super) fn begin_on_full_disk(self, full: &StorageError) -> Option<Self> {
        let now_ms = self.clock().now_ms;
        if self.full_at_ms.is_some_and(|at_ms| now_ms < at_ms + FULL_PAUSE_MS) {
            return self.stop(full);
        }
        tracing::error!(space = %self.space().short(), %full, "what was taken in cannot be written and is given up");
        let mut begun = self.begin_anew()?;
        begun.full_at_ms = Some(now_ms);
        Some(begun)
    }

    /// Drops the replica and opens it again; None when that fails, which then is published.
    pub(super) fn begin_anew(self) -> Option<Self> {
        let space = self.space();
        let Self { replica, mut surroundings, sender, queued, facts, answers, watchers, .. } = self;
        let (numbers, beginning, lost) = (self.numbers, self.beginning, self.lost);
        // The log has one writer, so the old one goes first.
        drop(replica);
        // Whoever went away does not need to know.
        for reply in answers.into_values() {
            let _gone = reply.send(Err(DocumentError::BegunAnew));
        }
        for events in watchers.into_values() {
            let _gone = events.send(Watched::Broken(DocumentError::BegunAnew));
        }
        let reopened = (surroundings.reopen)(&mut surroundings.random);
        match reopened {
            Ok(replica) => {
                let begun = Self {
                    beginning: beginning + 1,
                    numbers,
                    lost,
                    ..Self::new(replica, surroundings, sender, queued, facts)
                };
                // The conductor never waits for a space, so a full queue empties.
                let _ended = begun.surroundings.notices.blocking_send(Notice::BegunAnew(space));
                Some(begun)
            }
            Err(error) => {
                tracing::error!(space = %space.short(), %error, "the space cannot be opened again");
                facts.send_modify(|facts| Arc::make_mut(facts).failure = Some(error.to_string()));
                let _ended = surroundings.notices.blocking_send(Notice::FactsChanged(space));
                None
            }
        }
    }

    /// Ends for good, and says why.
    pub(super) fn stop(self, error: &StorageError) -> Option<Self> {
        tracing::error!(space = %self.space().short(), %error, "the space stopped");
        self.publish_facts(Some(error.to_string()));
        None
    }

    /// What was lost to damage and is not held again, in words.
    pub(super) fn lost_problems(&self) -> impl Iterator<Item = String> {
        let vector = self.replica.core().state().vector();
        self.lost.iter().filter(|lost| vector.sequence(&lost.author) < lost.last).map(|lost| {
            format!(
                "operations {} to {} of {} were damaged on this disk and are fetched again from the next peer that \
                 holds them",
                lost.first,
                lost.last,
                lost.author.short()
            )
        })
    }
}

impl SpaceReplica {
    /// Looks through the segment in which a damaged record was met, and puts aside all that is damaged there.
    fn put_aside_damage(&self, near: syncline_storage::Position) -> Result<Vec<DamagedRun>, StorageError> {
        let damaged = self.log().reader().scrub_segment(near.segment())?;
        self.log().write_index()?;
        Ok(damaged)
    }
}
