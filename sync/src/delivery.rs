//! Handing verified runs over in the order of their logs.
//!
//! A run is handed over when it continues what is taken of its author's log and the author is known to have one. What
//! overlaps is cut at its front. A run that continues another operation than the one held is proof of a fork: the
//! author signed both.

use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, Run, VerifiedRun};

use crate::engine::{Context, Engine, Unwritten};
use crate::event::{Effect, Path};
use crate::limits::{ANNOUNCE_DELAY_MS, RENAMED_DELAY_MS};
use crate::pending::{Held, memory};

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Handed over.
    Ingested,
    /// Kept until what it waits for arrives, if there is room.
    Waiting,
    /// Already held.
    Duplicate,
    /// Of no use: it forks, or the space does not take its author's runs.
    Dropped,
}

impl Engine {
    /// Takes note of what the owner did with the runs of the last call, and of what is durable by now.
    pub(crate) fn settle(&mut self, cx: &Context<'_>) {
        for (author, (sequence, _)) in std::mem::take(&mut self.heads) {
            if cx.replica.taken(&author).0 < sequence {
                self.refused.insert(author);
            }
        }
        let vector = cx.replica.vector();
        let mut settled = 0;
        self.unwritten.retain(|run| {
            let waits = vector.sequence(&run.author) < run.last && cx.replica.taken(&run.author).0 >= run.last;
            settled += if waits { 0 } else { run.bytes };
            waits
        });
        self.unwritten_bytes -= settled;
    }

    /// Hands a run over, or keeps it until that is possible.
    pub(crate) fn receive(&mut self, cx: &mut Context<'_>, run: VerifiedRun, peer: DeviceId, path: Path) -> Fate {
        let author = run.author();
        if self.refused.contains(&author) {
            return Fate::Dropped;
        }
        let worth = cx.replica.worth(&author);
        if run.first() > worth {
            return Fate::Dropped;
        }
        if !cx.replica.may_write(&author) && !cx.replica.begins_by_itself(&run) {
            self.counters.pending_dropped += self.strangers.insert(Held { run, peer, path });
            return Fate::Waiting;
        }
        if run.first() > self.head(cx.replica, &author).0 + 1 {
            self.counters.pending_dropped += self.gaps.insert(Held { run, peer, path });
            return Fate::Waiting;
        }
        let fate = self.hand_over(cx, run, peer, path);
        if fate == Fate::Ingested {
            self.drain(cx, &author);
        }
        fate
    }

    /// Tries all waiting runs again, of authors that may write now and of those that waited for operations.
    pub(crate) fn membership_changed(&mut self, cx: &mut Context<'_>) {
        self.refused.clear();
        // A proven fork is no difference any more: the log ends before it for everybody.
        self.forks.retain(|(_, author)| cx.replica.worth(author) == u64::MAX);
        for author in self.strangers.authors() {
            if cx.replica.may_write(&author) {
                for Held { run, peer, path } in self.strangers.take_author(&author) {
                    let last = run.last();
                    if self.receive(cx, run, peer, path) == Fate::Ingested {
                        self.announce_later(cx, author, last);
                    }
                }
            } else if cx.replica.worth(&author) == 0 {
                // It is known by now, and what it writes is of no use.
                self.strangers.take_author(&author);
            }
        }
        self.drain_gaps(cx);
        let key = cx.replica.gossip_keys().first();
        let renamed = self.gossip_key.is_some() && self.gossip_key.as_ref() != key;
        self.gossip_key = key.cloned();
        for (id, peer) in &mut self.peers {
            if renamed {
                // Gossip has another name from now on, which those do not know who have not heard why.
                peer.compare_from(cx.now_ms + RENAMED_DELAY_MS);
            }
            let served = cx.replica.serves(id);
            if served && !peer.served {
                // It could not be told what is held here.
                peer.compare_from(cx.now_ms);
            }
            peer.served = served;
        }
    }

    /// Tries the runs again that wait for operations before them.
    pub(crate) fn drain_gaps(&mut self, cx: &mut Context<'_>) {
        for author in self.gaps.authors() {
            self.drain(cx, &author);
        }
    }

    fn drain(&mut self, cx: &mut Context<'_>, author: &DeviceId) {
        while let Some(Held { run, peer, path }) = self.gaps.take_next(author, self.head(cx.replica, author).0) {
            let last = run.last();
            if self.hand_over(cx, run, peer, path) == Fate::Ingested {
                self.announce_later(cx, *author, last);
            }
        }
    }

    /// Others than the sender may lack what was pulled, and what waited here: gossip forwards only what fits at once.
    fn announce_later(&mut self, cx: &Context<'_>, author: DeviceId, last: u64) {
        if self.peers.len() < 2 {
            return;
        }
        if self.announcing.is_empty() {
            self.announce_at_ms = cx.now_ms + ANNOUNCE_DELAY_MS;
        }
        self.announcing.insert(author, last);
    }

    /// Hands a run over that begins at or before what follows the author's head.
    fn hand_over(&mut self, cx: &mut Context<'_>, run: VerifiedRun, peer: DeviceId, path: Path) -> Fate {
        let author = run.author();
        let (sequence, id) = self.head(cx.replica, &author);
        if !continues(cx, &run, sequence, id) && !planted(Bug::PreviousUnchecked) {
            self.parted(cx, run, sequence, peer);
            return Fate::Dropped;
        }
        let overlap = (sequence + 1 - run.first()).min(run.operations().len() as u64);
        self.counters.operations_duplicate += overlap;
        if run.last() <= sequence {
            return Fate::Duplicate;
        }
        let run = if overlap == 0 {
            run
        } else {
            self.counters.signatures_checked += 1;
            let rest = run.encode_after(sequence).and_then(|bytes| Run::decode(run.space(), bytes).ok());
            match rest.and_then(|rest| rest.verify().ok()) {
                Some(rest) => rest,
                None => return Fate::Dropped,
            }
        };
        self.emit(cx, run, peer, path);
        Fate::Ingested
    }

    fn emit(&mut self, cx: &mut Context<'_>, run: VerifiedRun, peer: DeviceId, path: Path) {
        let (author, last, bytes) = (run.author(), run.last(), memory(&run));
        self.heads.insert(author, (last, run.last_id()));
        self.unwritten.push_back(Unwritten { author, last, bytes });
        self.unwritten_bytes += bytes;
        self.counters.runs_ingested += 1;
        self.counters.operations_ingested += run.operations().len() as u64;
        if path == Path::Page {
            self.announce_later(cx, author, last);
        }
        cx.effects.push(Effect::Ingest { run, peer, path });
    }
}

/// Whether the run and the held log have the same operation where they meet.
fn continues(cx: &Context<'_>, run: &Run, head: u64, head_id: syncline_model::OperationId) -> bool {
    if run.first() == head + 1 {
        return run.previous() == head_id;
    }
    if let Some(operation) = run.operation(head) {
        return operation.id == head_id;
    }
    cx.replica.prefix_at(&run.author(), run.last()).is_none_or(|held| held == run.last_id().prefix())
}
