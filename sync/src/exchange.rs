//! The comparison of vectors with peers: who asks when, and what is learned from it.
//!
//! Both sides pull by themselves, so each must hear where the other one is ahead. The side that asks says its vector
//! or, where it said only digests, lists afterwards where it turned out to be ahead. A peer that the membership does
//! not know is told digests only; what it says itself is believed, since that is how a device learns of its own
//! admission.

use syncline_model::DeviceId;

use crate::engine::{Asked, Context, Engine};
use crate::event::{Effect, Misbehaviour, RequestId};
use crate::messages::{Part, Request, Response, Scope, SummaryAnswer, SummaryEntry};
use crate::summary;

/// What was said in a comparison that waits for its answer.
#[derive(Debug)]
pub(crate) struct Compared {
    sent_ms: u64,
    said: Said,
}

#[derive(Debug)]
enum Said {
    Digest,
    Entries,
    Buckets { from: u8 },
    Listed(Vec<SummaryEntry>),
}

impl Engine {
    /// Asks the peers whose time has come.
    pub(crate) fn compare_due(&mut self, cx: &mut Context<'_>) {
        let due = self.peers.iter().filter(|(_, peer)| {
            peer.comparing.is_none() && peer.summary_at_ms <= cx.now_ms && peer.quiet_until_ms <= cx.now_ms
        });
        let due: Vec<(DeviceId, bool)> = due.map(|(id, peer)| (*id, peer.served && !peer.synced)).collect();
        for (peer, tell_all) in due {
            if let Some(peer) = self.peers.get_mut(&peer) {
                peer.begins_comparing(cx.now_ms);
            }
            let part = if tell_all {
                summary::whole(cx.replica.vector(), self.config.summary_authors_few)
            } else {
                Part::Digest
            };
            self.compare(cx, peer, part);
        }
    }

    /// Answers a peer's summary and learns from what it says.
    pub(crate) fn summary_requested(
        &mut self,
        cx: &mut Context<'_>,
        peer_id: DeviceId,
        id: RequestId,
        digest: [u8; 16],
        part: &Part,
    ) {
        self.counters.summaries_received += 1;
        let answer = cx
            .replica
            .serves(&peer_id)
            .then(|| summary::answer(cx.replica.vector(), digest, part, self.config.summary_authors_few));
        let equal = answer == Some(SummaryAnswer::Equal);
        self.counters.not_served += u64::from(answer.is_none());
        let response = answer.map_or(Response::NotServed, Response::Summary);
        cx.effects.push(Effect::Reply { peer: peer_id, id, response });
        if let Part::Entries(entries) | Part::Listed(entries) = part {
            self.learn(cx, peer_id, entries);
        }
        if equal || matches!(part, Part::Entries(_)) {
            self.comparison_completed(cx, peer_id);
        }
        self.counters.summaries_equal += u64::from(equal);
    }

    /// Learns from the answer to a comparison and goes on with it where it is not complete.
    pub(crate) fn compared(&mut self, cx: &mut Context<'_>, id: DeviceId, compared: &Compared, answer: SummaryAnswer) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.refuses = false;
        let (scope, entries, next) = match (answer, &compared.said) {
            (SummaryAnswer::Equal, _) => {
                self.counters.summaries_equal += 1;
                peer.ahead.retain(|_, ahead| ahead.noted_ms >= compared.sent_ms);
                return self.comparison_completed(cx, id);
            }
            (SummaryAnswer::Differs, Said::Digest | Said::Entries) => {
                let part = match (&compared.said, peer.served) {
                    (Said::Digest, true) => summary::whole(cx.replica.vector(), self.config.summary_authors_few),
                    _ => summary::buckets(cx.replica.vector(), 0),
                };
                return self.compare(cx, id, part);
            }
            (SummaryAnswer::Entries { scope, entries, next }, said) if fits(&scope, next, said) => {
                (scope, entries, next)
            }
            _ => return self.misbehaved(cx, id, Misbehaviour::UnexpectedResponse),
        };
        let listed: &[SummaryEntry] = if let Said::Listed(listed) = &compared.said { listed } else { &[] };
        // What gossip told since the question was sent is fresher than the answer.
        peer.ahead
            .retain(|author, ahead| ahead.noted_ms >= compared.sent_ms || !summary::covers(&scope, listed, author));
        let tell = peer.served && matches!(compared.said, Said::Digest | Said::Buckets { .. });
        let ours = if tell { summary::ahead_of(cx.replica.vector(), &scope, &entries) } else { Vec::new() };
        self.learn(cx, id, &entries);
        if !ours.is_empty() {
            self.compare(cx, id, Part::Listed(ours));
        }
        match next {
            Some(from) => self.compare(cx, id, summary::buckets(cx.replica.vector(), from)),
            None if matches!(compared.said, Said::Listed(_)) => {}
            None => self.comparison_completed(cx, id),
        }
    }

    /// Remembers where a peer says that it is ahead, and looks for forks where it is not.
    pub(crate) fn learn(&mut self, cx: &mut Context<'_>, peer: DeviceId, entries: &[SummaryEntry]) {
        for entry in entries {
            self.note(cx, peer, entry, cx.now_ms);
        }
    }

    /// Remembers that a peer holds an author's log up to an operation, to be pulled from `pull_from_ms` on.
    pub(crate) fn note(&mut self, cx: &mut Context<'_>, peer_id: DeviceId, entry: &SummaryEntry, pull_from_ms: u64) {
        if !self.peers.contains_key(&peer_id) || self.forks.contains(&(peer_id, entry.author)) {
            return;
        }
        let head = self.head(cx.replica, &entry.author).0;
        if entry.sequence > cx.replica.worth(&entry.author) {
            self.contested(cx, entry.author);
            if let Some(peer) = self.peers.get_mut(&peer_id).filter(|_| head < cx.replica.worth(&entry.author)) {
                peer.note(entry.author, cx.replica.worth(&entry.author), cx.now_ms, pull_from_ms);
            }
        } else if entry.sequence <= head {
            let held = cx.replica.prefix_at(&entry.author, entry.sequence);
            if held.is_some_and(|held| held != entry.id) {
                self.forked(cx, entry.author, entry.sequence, peer_id);
                self.search_fork(entry.author, entry.sequence, peer_id);
            }
        } else if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.note(entry.author, entry.sequence, cx.now_ms, pull_from_ms);
        }
    }

    /// Compares with a peer again after the usual time.
    pub(crate) fn compare_later(&mut self, cx: &mut Context<'_>, peer: DeviceId) {
        let base = self.config.anti_entropy_ms;
        let jittered = base - base / 4 + u64::from(cx.random.next_u32()) % (base / 2 + 1);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.compare_at(cx.now_ms + jittered);
        }
    }

    fn comparison_completed(&mut self, cx: &mut Context<'_>, id: DeviceId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.compared = true;
            peer.last_summary_ms = Some(cx.now_ms);
            self.compare_later(cx, id);
        }
    }

    fn compare(&mut self, cx: &mut Context<'_>, peer: DeviceId, part: Part) {
        let said = match &part {
            Part::Digest => Said::Digest,
            Part::Entries(_) => Said::Entries,
            Part::Buckets { from, .. } => Said::Buckets { from: *from },
            Part::Listed(listed) => Said::Listed(listed.clone()),
        };
        let listed = matches!(said, Said::Listed(_));
        let request = Request::Summary { digest: summary::digest(cx.replica.vector()), part };
        let token = self.send(cx, peer, request, Asked::Summary(Compared { sent_ms: cx.now_ms, said }));
        self.counters.summaries_sent += 1;
        if let (false, Some(peer)) = (listed, self.peers.get_mut(&peer)) {
            peer.comparing = Some(token);
        }
    }
}

/// Whether an answer is one to what was said.
fn fits(scope: &Scope, next: Option<u8>, said: &Said) -> bool {
    match (scope, said) {
        (Scope::All, Said::Digest | Said::Entries) | (Scope::Listed, Said::Listed(_)) => next.is_none(),
        (Scope::Buckets(_), Said::Buckets { from }) => next.is_none_or(|next| next > *from),
        _ => false,
    }
}
