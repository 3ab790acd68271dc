//! Pulling: sending requests for what is missing, answering those of peers, and taking pages in.
//!
//! # Why pausing cannot come to a standstill
//!
//! When too many operations are held that wait for others, only what they wait for is pulled, by
//! [`Replica::wanted`](crate::Replica::wanted). Each such pull either brings the wanted operation, which lets something
//! be admitted, or an operation that waits for yet another one; causality has no cycles and the operation exists at the
//! peer that admitted it, so the chain ends at something that can be admitted. Wanted operations of authors that the
//! membership does not know are followed through the runs that wait here, to the operation that admits the author.
//! If no peer offers what is wanted (a device may lie about what it builds on), one request at a time goes on through
//! all authors, so that the logs of others still arrive, slowly.
//!
//! Bytes that were handed over and are not durable, and runs with gaps before them, stop pulls in the same way; the
//! first drains by itself, and the next operations of a log are pulled whatever waits behind them.

use std::collections::BTreeSet;

use syncline_model::canonical::DecodeError;
use syncline_model::limits::WAITING_OPERATIONS_MAX;
use syncline_model::planted::{Bug, planted};
use syncline_model::{DeviceId, Run, VerifiedRun};

use crate::engine::{Asked, Context, Engine};
use crate::event::{Effect, Misbehaviour, Path, RequestId};
use crate::limits::{
    FAILURE_BACKOFF_MS, GAPS_BYTES_MAX, PULLS_MAX, PULLS_PER_PEER_MAX, SERVING_PER_PEER_MAX, UNWRITTEN_BYTES_MAX,
    UNWRITTEN_RUNS_MAX, WAITING_OPERATIONS_PAUSE,
};
use crate::messages::{Forked, Page, Range, Request, Response};
use crate::page::Serving;
use crate::peer::Peer;
use crate::schedule::{Choice, Planner, Spans};

impl Engine {
    /// Sends as many pulls as there is room and need for.
    pub(crate) fn pull(&mut self, cx: &mut Context<'_>) {
        self.forget_what_is_held(cx);
        if self.peers.values().all(|peer| peer.ahead.is_empty()) || self.writes_are_behind() {
            return;
        }
        let mut claimed = self.in_flight();
        let wanted = self.planner(cx, &mut Spans::new()).wanted();
        let waiting = cx.replica.waiting_operations();
        if waiting < WAITING_OPERATIONS_PAUSE {
            return self.send_pulls(cx, &Choice::WantedFirst(&wanted), &mut claimed, PULLS_MAX);
        }
        self.send_pulls(cx, &Choice::WantedOnly(&wanted), &mut claimed, PULLS_MAX);
        if self.pulls_in_flight() == 0 && waiting < WAITING_OPERATIONS_MAX {
            self.send_pulls(cx, &Choice::After(self.rotation), &mut claimed, 1);
        }
    }

    /// Answers a peer's pull, or asks the owner to read what it takes.
    pub(crate) fn pull_requested(
        &mut self,
        cx: &mut Context<'_>,
        peer_id: DeviceId,
        id: RequestId,
        ranges: Vec<Range>,
        bytes_max: u32,
    ) {
        if !cx.replica.serves(&peer_id) {
            self.counters.not_served += 1;
            cx.effects.push(Effect::Reply { peer: peer_id, id, response: Response::NotServed });
            return;
        }
        let (held, forked) = self.held_ranges(cx, peer_id, ranges);
        if held.is_empty() {
            let response = Response::Page(Page { runs: Vec::new(), forked, more: false });
            cx.effects.push(Effect::Reply { peer: peer_id, id, response });
            return;
        }
        match self.peers.get_mut(&peer_id) {
            Some(peer) if peer.serving < SERVING_PER_PEER_MAX => {
                peer.serving += 1;
                let serving = Serving::new(held, bytes_max, forked);
                cx.effects.push(Effect::Serve { peer: peer_id, id, serving });
            }
            _ => {
                self.counters.busy += 1;
                cx.effects.push(Effect::Reply { peer: peer_id, id, response: Response::Busy });
            }
        }
    }

    /// A page left, or will not.
    pub(crate) fn served(&mut self, peer: DeviceId, bytes: usize) {
        self.counters.served_bytes += bytes as u64;
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.serving = peer.serving.saturating_sub(usize::from(!planted(Bug::ServingNeverEnds)));
            peer.served_bytes += bytes as u64;
        }
    }

    /// Takes a page in, all of it or, if anything is wrong with it, nothing.
    pub(crate) fn page_arrived(
        &mut self,
        cx: &mut Context<'_>,
        peer: DeviceId,
        ranges: &[Range],
        bytes_max: usize,
        page: &Page,
    ) {
        self.counters.pages_received += 1;
        let runs = match self.verified(cx, ranges, bytes_max, page) {
            Ok(runs) => runs,
            Err(Some(reason)) => return self.misbehaved(cx, peer, reason),
            Err(None) => Vec::new(),
        };
        self.note_fruitless(cx, peer, ranges, &runs, page);
        for Forked { author, sequence } in &page.forked {
            self.forked(cx, *author, *sequence, peer);
            self.search_fork(*author, *sequence, peer);
        }
        for run in runs {
            self.receive(cx, run, peer, Path::Page);
        }
    }

    /// How many pulls wait for their page.
    pub(crate) fn pulls_in_flight(&self) -> usize {
        self.peers.values().map(|peer| peer.pulls).sum()
    }

    /// Whether so much was handed over and is not durable that nothing more should come.
    pub(crate) fn writes_are_behind(&self) -> bool {
        self.unwritten_bytes >= UNWRITTEN_BYTES_MAX || self.unwritten.len() >= UNWRITTEN_RUNS_MAX
    }

    fn forget_what_is_held(&mut self, cx: &Context<'_>) {
        let heads = &self.heads;
        for peer in self.peers.values_mut() {
            peer.ahead.retain(|author, ahead| {
                let head = heads.get(author).map_or_else(|| cx.replica.taken(author).0, |head| head.0);
                ahead.sequence.min(cx.replica.worth(author)) > head
            });
        }
    }

    fn send_pulls(&mut self, cx: &mut Context<'_>, choice: &Choice<'_>, claimed: &mut Spans, most: usize) {
        loop {
            let mut sent = false;
            for id in self.peers_to_pull_from(cx) {
                if self.pulls_in_flight() >= most {
                    return;
                }
                let out_of_order = self.gaps.bytes() + self.bytes_in_flight() < GAPS_BYTES_MAX;
                let Some(peer) = self.peers.get(&id) else { continue };
                let bytes_max = peer.page_bytes;
                let mut planner = self.planner(cx, claimed);
                let ranges = planner.next_request((&id, peer), choice, out_of_order);
                *claimed = planner.claimed;
                if let Some(last) = ranges.last() {
                    self.rotation = last.author;
                    let request = Request::Pull { ranges: ranges.clone(), bytes_max: bytes_max as u32 };
                    self.send(cx, id, request, Asked::Pull { ranges, bytes_max });
                    self.counters.pulls_sent += 1;
                    sent = true;
                }
            }
            if !sent {
                return;
            }
        }
    }

    /// The peers with room for another pull, the most promising first.
    fn peers_to_pull_from(&self, cx: &Context<'_>) -> Vec<DeviceId> {
        let rests = |peer: &Peer| peer.quiet_until_ms > cx.now_ms && !planted(Bug::FailedPeerNeverRests);
        let open = |peer: &Peer| !peer.ahead.is_empty() && peer.pulls < PULLS_PER_PEER_MAX && !rests(peer);
        let mut found: Vec<(&DeviceId, &Peer)> = self.peers.iter().filter(|(_, peer)| open(peer)).collect();
        found.sort_by_key(|(id, peer)| (peer.failures, peer.fruitless, peer.pulls, **id));
        if planted(Bug::FailedPeerNeverRests) {
            return found.into_iter().next_back().map(|(id, _)| *id).into_iter().collect();
        }
        found.into_iter().map(|(id, _)| *id).collect()
    }

    fn planner<'a>(&'a self, cx: &'a Context<'_>, claimed: &mut Spans) -> Planner<'a> {
        Planner {
            now_ms: cx.now_ms,
            replica: cx.replica,
            heads: &self.heads,
            gaps: &self.gaps,
            strangers: &self.strangers,
            claimed: std::mem::take(claimed),
            forks: &self.forks,
            refused: &self.refused,
        }
    }

    fn in_flight(&self) -> Spans {
        let mut spans = Spans::new();
        for flight in self.flights.values() {
            let Asked::Pull { ranges, .. } = &flight.asked else { continue };
            for range in ranges {
                spans.entry(range.author).or_default().push((range.after + 1, range.through));
            }
        }
        spans
    }

    fn bytes_in_flight(&self) -> usize {
        let asked = self.flights.values().map(|flight| match &flight.asked {
            Asked::Pull { bytes_max, .. } => *bytes_max,
            Asked::Summary(_) | Asked::Search { .. } | Asked::Branch { .. } => 0,
        });
        asked.sum()
    }

    /// Cuts ranges to what is durable here, and takes out those whose beginning differs.
    fn held_ranges(&mut self, cx: &mut Context<'_>, peer: DeviceId, ranges: Vec<Range>) -> (Vec<Range>, Vec<Forked>) {
        let (mut held, mut forked) = (Vec::new(), Vec::new());
        for range in ranges {
            // More than the vector tells of a log that was cut: whoever asks for that does not know why yet, and what
            // it is given proves it.
            let durable = cx.replica.durable(&range.author);
            if durable <= range.after {
                continue;
            }
            let ours = cx.replica.prefix_at(&range.author, range.after);
            if range.after_id.zip(ours).is_some_and(|(theirs, ours)| theirs != ours) {
                forked.push(Forked { author: range.author, sequence: range.after });
                self.forked(cx, range.author, range.after, peer);
                self.search_fork(range.author, range.after, peer);
                continue;
            }
            held.push(Range { through: range.through.min(durable), ..range });
        }
        (held, forked)
    }

    /// Checks a whole page; an error without a reason is nobody's fault.
    pub(crate) fn verified(
        &mut self,
        cx: &Context<'_>,
        ranges: &[Range],
        bytes_max: usize,
        page: &Page,
    ) -> Result<Vec<VerifiedRun>, Option<Misbehaviour>> {
        let bytes: usize = page.runs.iter().map(|run| run.0.len()).sum();
        if page.runs.len() > 1 && bytes > bytes_max {
            return Err(Some(Misbehaviour::OversizedPage));
        }
        let asked = |fork: &Forked| {
            let is = |range: &Range| range.author == fork.author && range.after == fork.sequence;
            ranges.iter().any(|range| is(range) && range.after_id.is_some())
        };
        if !page.forked.iter().all(asked) {
            return Err(Some(Misbehaviour::NotAskedFor));
        }
        let mut runs = Vec::with_capacity(page.runs.len());
        for bytes in &page.runs {
            let run = match Run::decode(cx.replica.space(), bytes.0.clone()) {
                Ok(run) => run,
                Err(DecodeError::NewerVersion { .. }) => return Err(None),
                Err(_) => return Err(Some(Misbehaviour::MalformedRun)),
            };
            if !ranges.iter().any(|range| lies_in(&run, range)) {
                return Err(Some(Misbehaviour::NotAskedFor));
            }
            self.counters.signatures_checked += 1;
            runs.push(run.verify().map_err(|_| Some(Misbehaviour::BadSignature))?);
        }
        Ok(runs)
    }

    /// A range of which nothing came is not asked of the peer again before it said anew what it holds. It is asked
    /// that soon, since it may have announced what it is itself about to receive.
    fn note_fruitless(&mut self, cx: &Context<'_>, id: DeviceId, ranges: &[Range], runs: &[VerifiedRun], page: &Page) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let cut_short = page.more && !runs.is_empty();
        let barren = ranges.iter().filter(|range| !cut_short && !runs.iter().any(|run| lies_in(run, range)));
        let barren: BTreeSet<DeviceId> = barren.map(|range| range.author).collect();
        if barren.is_empty() {
            peer.fruitless = 0;
            return;
        }
        for author in &barren {
            peer.ahead.remove(author);
        }
        self.counters.fruitless_ranges += barren.len() as u64;
        let patience = (FAILURE_BACKOFF_MS << peer.fruitless.min(10)).min(self.config.anti_entropy_ms);
        peer.fruitless = peer.fruitless.saturating_add(1);
        peer.summary_at_ms = peer.summary_at_ms.min(cx.now_ms + patience);
        // It will be told everything, so that it can say what goes beyond.
        peer.synced = false;
        peer.compared = false;
    }
}

fn lies_in(run: &Run, range: &Range) -> bool {
    run.author() == range.author && run.first() <= range.through && run.last() > range.after
}
