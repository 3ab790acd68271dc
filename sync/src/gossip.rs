//! Gossip: fresh operations to everybody at once, in sealed frames.
//!
//! Own operations travel inside a frame as long as that stays small, otherwise their head is announced and those who
//! lack it pull. A frame with operations is forwarded as soon as it is known to be valid and new. An announcement is
//! never forwarded: whoever pulled what it names announces that itself, once it is durable there, so that everybody is
//! told by somebody who can serve. Gossip may lose anything; comparisons find what it lost.

use serde::{Deserialize, Serialize};
use syncline_model::canonical::{self, DecodeError};
use syncline_model::keys::{open, seal};
use syncline_model::planted::{Bug, planted};
use syncline_model::{ContentKey, DeviceId, Run, SpaceId, VerifiedRun};

use crate::delivery::Fate;
use crate::engine::{Context, Engine};
use crate::event::{Effect, FrameId, Path, Verdict};
use crate::limits::{
    EVIDENCE_BYTES_MAX, GAP_PATIENCE_MS, GOSSIP_FRAME_BYTES_MAX, HEADS_PER_FRAME_MAX, WAITING_OPERATIONS_PAUSE,
};
use crate::messages::{RunBytes, SummaryEntry, check_entries};

const FRAME: &str = "gossip frame";
const DOMAIN: &[u8] = b"syncline/gossip-frame/1\0";

/// What a frame carries under its seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Frame {
    /// Operations.
    Run(RunBytes),
    /// Where logs end at whoever publishes this, by author.
    Heads(Vec<SummaryEntry>),
}

impl Engine {
    /// Tells everybody of own operations.
    pub(crate) fn publish(&mut self, cx: &mut Context<'_>, run: &VerifiedRun) {
        const FRAME_OVERHEAD_BYTES: usize = 64;
        // Whoever comes later learns of it by the comparison.
        if self.peers.is_empty() {
            return;
        }
        if run.bytes().len() + FRAME_OVERHEAD_BYTES <= self.config.gossip_inline_bytes {
            self.publish_frame(cx, &Frame::Run(RunBytes(run.bytes().clone())));
        } else {
            let (author, sequence, id) = (run.author(), run.last(), run.last_id().prefix());
            self.publish_frame(cx, &Frame::Heads(vec![SummaryEntry { author, sequence, id }]));
        }
    }

    /// Shows runs that part to everybody.
    pub(crate) fn show(&mut self, cx: &mut Context<'_>, runs: &[Run]) {
        for run in runs.iter().filter(|run| run.bytes().len() <= EVIDENCE_BYTES_MAX) {
            self.publish_frame(cx, &Frame::Run(RunBytes(run.bytes().clone())));
        }
    }

    /// Announces what was pulled and is durable, when pulling paused or went on for a while.
    pub(crate) fn announce(&mut self, cx: &mut Context<'_>) {
        let due = self.pulls_in_flight() == 0 || self.announce_at_ms <= cx.now_ms;
        if self.announcing.is_empty() || !due {
            return;
        }
        let vector = cx.replica.vector();
        let mut heads = Vec::new();
        self.announcing.retain(|author, last| {
            let held = vector.entry(author).filter(|entry| entry.sequence >= *last);
            let head = held.map(|held| SummaryEntry { author: *author, sequence: held.sequence, id: held.id.prefix() });
            heads.extend(head);
            held.is_none()
        });
        for heads in heads.chunks(HEADS_PER_FRAME_MAX) {
            self.publish_frame(cx, &Frame::Heads(heads.to_vec()));
        }
    }

    /// Judges a frame and takes in what it carries.
    pub(crate) fn frame_arrived(&mut self, cx: &mut Context<'_>, bytes: &[u8], from: DeviceId, id: FrameId) {
        let verdict = match opened(cx, bytes) {
            Ok((Frame::Run(run), renamed)) => match self.run_arrived(cx, run, from) {
                // Whoever knows only the latest key could not open it, and would blame this device for forwarding it.
                Verdict::Accept if renamed => Verdict::Ignore,
                verdict => verdict,
            },
            Ok((Frame::Heads(heads), _)) => {
                if !planted(Bug::AnnouncementIgnored) {
                    self.learn(cx, from, &heads);
                }
                Verdict::Ignore
            }
            Err(verdict) => verdict,
        };
        match verdict {
            Verdict::Accept => self.counters.gossip_accepted += 1,
            Verdict::Ignore => self.counters.gossip_ignored += 1,
            Verdict::Reject => self.counters.gossip_rejected += 1,
        }
        cx.effects.push(Effect::Verdict { id, from, verdict });
    }

    fn run_arrived(&mut self, cx: &mut Context<'_>, bytes: RunBytes, from: DeviceId) -> Verdict {
        let run = match Run::decode(cx.replica.space(), bytes.0) {
            Ok(run) => run,
            Err(error) => return verdict_on(&error),
        };
        let author = run.author();
        if cx.replica.prefix_at(&author, run.last()) == Some(run.last_id().prefix()) {
            self.counters.operations_duplicate += run.operations().len() as u64;
            return Verdict::Ignore;
        }
        self.counters.signatures_checked += 1;
        let Ok(run) = run.verify() else { return Verdict::Reject };
        let entry = SummaryEntry { author, sequence: run.last(), id: run.last_id().prefix() };
        if self.is_full(cx, &author) {
            self.note(cx, from, &entry, cx.now_ms);
            return Verdict::Ignore;
        }
        let last = (run.last(), run.last_id());
        match self.receive(cx, run, from, Path::Gossip) {
            Fate::Ingested => Verdict::Accept,
            Fate::Waiting if planted(Bug::PendingGossipRejected) => Verdict::Reject,
            Fate::Waiting => {
                if planted(Bug::GossipMarkedDelivered) {
                    self.heads.insert(author, last);
                }
                self.note(cx, from, &entry, cx.now_ms + GAP_PATIENCE_MS);
                Verdict::Ignore
            }
            Fate::Duplicate | Fate::Dropped => Verdict::Ignore,
        }
    }

    /// Whether a run of this author should rather be pulled later.
    fn is_full(&self, cx: &Context<'_>, author: &DeviceId) -> bool {
        let paused = cx.replica.waiting_operations() >= WAITING_OPERATIONS_PAUSE;
        self.writes_are_behind() || (paused && cx.replica.wanted().is_none_or(|(wanted, _)| wanted != *author))
    }

    fn publish_frame(&mut self, cx: &mut Context<'_>, frame: &Frame) {
        let Some(key) = cx.replica.gossip_keys().first() else { return };
        let bytes = seal(key, &associated_data(&cx.replica.space()), &canonical::encode(frame), &mut cx.random);
        self.counters.gossip_published += 1;
        cx.effects.push(Effect::Publish { bytes });
    }
}

/// What a frame carries, and whether it is sealed under a key that gossip has no more.
fn opened(cx: &Context<'_>, bytes: &[u8]) -> Result<(Frame, bool), Verdict> {
    if bytes.len() > GOSSIP_FRAME_BYTES_MAX {
        return Err(Verdict::Reject);
    }
    let (keys, data) = (cx.replica.gossip_keys(), associated_data(&cx.replica.space()));
    if keys.is_empty() {
        return Err(Verdict::Ignore);
    }
    let under = |(age, key): (usize, &ContentKey)| Some((open(key, &data, bytes).ok()?, age > 0));
    let (plain, renamed) = keys.iter().enumerate().find_map(under).ok_or(Verdict::Reject)?;
    let frame = canonical::decode(&plain, FRAME).map_err(|error| verdict_on(&error))?;
    if let Frame::Heads(heads) = &frame {
        check_entries(heads).map_err(|error| verdict_on(&error))?;
    }
    Ok((frame, renamed))
}

/// What a newer release wrote is not to be judged here.
fn verdict_on(error: &DecodeError) -> Verdict {
    match error {
        DecodeError::NewerVersion { .. } => Verdict::Ignore,
        _ => Verdict::Reject,
    }
}

fn associated_data(space: &SpaceId) -> Vec<u8> {
    [DOMAIN, &space.0].concat()
}
