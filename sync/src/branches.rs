//! Forked logs: finding where two replicas part, and fetching branches that others built on.
//!
//! When a peer turns out to hold another operation at some position of a log, older positions are asked for, further
//! and further back, until a page begins where both logs are still the same: it contains the first operation that
//! differs, signed. That is handed over as [`Effect::Branch`], and proves the fork to whoever is told of it. From then
//! on the log is replicated up to the fork only.
//!
//! What honest authors built on behind the fork is found by its id: the owner names what it
//! [wants](crate::Replica::wanted_by_id), one peer after the other is asked for the stretch that ends there, and, as
//! long as that does not join what is held, for the stretch before it.

use std::collections::BTreeSet;

use syncline_model::limits::RUN_OPERATIONS_MAX;
use syncline_model::{DeviceId, OperationId, VerifiedRun};

use crate::engine::{Asked, Context, Engine};
use crate::event::{Effect, RequestId};
use crate::limits::{
    ANTI_ENTROPY_MS, BRANCH_BYTES_MAX, CONTESTED_MS, FORKS_MAX, GAP_PATIENCE_MS, PAGE_BYTES_MAX, SEARCHES_MAX,
    SERVING_PER_PEER_MAX, WANTED_AUTHORS_MAX,
};
use crate::messages::{Page, Range, Request, Response};
use crate::page::Serving;
use crate::pending::memory;

/// The search for the place where a peer's log parts from the one held here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// The lowest position at which they are known to differ.
    differs_at: u64,
    /// Where to ask from next.
    after: u64,
    /// How much further back to ask if that is still too late.
    step: u64,
}

/// An operation of a branch that is being fetched.
#[derive(Debug)]
pub(crate) struct Fetch {
    wanted: (DeviceId, u64, OperationId),
    /// The operation at which the next stretch has to end.
    target: (u64, OperationId),
    /// What came so far, from the end, the last first.
    runs: Vec<VerifiedRun>,
    bytes: usize,
    /// Peers that do not have it.
    asked: BTreeSet<DeviceId>,
}

impl Engine {
    /// Begins to look for the place where an author's log parts from a peer's, which differs at `differs_at`.
    pub(crate) fn search_fork(&mut self, author: DeviceId, differs_at: u64, peer: DeviceId) {
        if self.searches.len() < SEARCHES_MAX && differs_at > 0 {
            let search = Search { differs_at, after: differs_at - 1, step: 1 };
            self.searches.entry((peer, author)).or_insert(search);
        }
    }

    /// Asks on where searches stand, and for a branch that is wanted.
    pub(crate) fn pull_branches(&mut self, cx: &mut Context<'_>) {
        self.continue_searches(cx);
        self.continue_fetch(cx);
    }

    fn continue_searches(&mut self, cx: &mut Context<'_>) {
        // Once a fork is proven the log is worth nothing behind it, and the search is over.
        let open = |(peer, author): &(DeviceId, DeviceId)| {
            self.peers.contains_key(peer) && cx.replica.worth(author) == u64::MAX
        };
        self.searches.retain(|place, _| open(place));
        let due: Vec<((DeviceId, DeviceId), Search)> =
            self.searches.iter().map(|(place, search)| (*place, *search)).collect();
        for ((peer, author), Search { differs_at, after, .. }) in due {
            let busy = self.flights.values().any(|flight| {
                let searched = matches!(&flight.asked, Asked::Search { range } if range.author == author);
                flight.peer == peer && searched
            });
            if busy || self.is_quiet(cx, &peer) {
                continue;
            }
            let after_id = cx.replica.prefix_at(&author, after);
            let range = Range { author, after, after_id, through: differs_at };
            let request = Request::Pull { ranges: vec![range], bytes_max: PAGE_BYTES_MAX as u32 };
            self.send(cx, peer, request, Asked::Search { range });
        }
    }

    /// A search found nothing: should the peer still say that its log differs, another one begins.
    fn search_in_vain(&mut self, place: (DeviceId, DeviceId)) {
        self.searches.remove(&place);
        self.forks.remove(&place);
    }

    /// Looks at the page that a search brought.
    pub(crate) fn search_answered(&mut self, cx: &mut Context<'_>, peer: DeviceId, range: Range, page: &Page) {
        let place = (peer, range.author);
        let runs = match self.verified(cx, &[range], PAGE_BYTES_MAX, page) {
            Ok(runs) => runs,
            Err(Some(reason)) => {
                self.search_in_vain(place);
                return self.misbehaved(cx, peer, reason);
            }
            Err(None) => Vec::new(),
        };
        let Some(search) = self.searches.get_mut(&place) else { return };
        if !page.forked.is_empty() && search.after > 0 {
            search.differs_at = search.after;
            search.after = search.after.saturating_sub(search.step);
            search.step = search.step.saturating_mul(2);
            return;
        }
        let mut same = range.after;
        for run in runs {
            let held = |sequence: u64| cx.replica.prefix_at(&range.author, sequence);
            let differs = |sequence: &u64| {
                let theirs = run.operation(*sequence).map(|operation| operation.id.prefix());
                held(*sequence).is_some_and(|ours| Some(ours) != theirs)
            };
            if (run.first()..=run.last()).any(|sequence| differs(&sequence)) {
                self.searches.remove(&place);
                cx.effects.push(Effect::Branch { run, peer, wanted: false });
                return;
            }
            same = same.max(run.last());
        }
        // Nothing new: the peer has dropped what it said to hold, or says what is not so.
        if same == search.after || same >= search.differs_at {
            self.search_in_vain(place);
        } else {
            search.after = same;
        }
    }

    /// Looks at a run that parts from the held log somewhere: hands it over when it shows where, or looks further.
    pub(crate) fn parted(&mut self, cx: &mut Context<'_>, run: VerifiedRun, head: u64, peer: DeviceId) {
        let author = run.author();
        let held = |sequence: u64| cx.replica.prefix_at(&author, sequence);
        let theirs = |sequence: u64| run.operation(sequence).map(|operation| operation.id.prefix());
        let differs = |sequence: &u64| held(*sequence).is_some_and(|ours| Some(ours) != theirs(*sequence));
        let first = (run.first()..=run.last().min(head)).find(differs);
        let joins = run.first() == 1 || held(run.first() - 1) == Some(run.previous().prefix());
        match first {
            Some(sequence) => self.forked(cx, author, sequence, peer),
            None => self.forked(cx, author, head, peer),
        }
        if cx.replica.worth(&author) != u64::MAX {
            return;
        }
        match first {
            Some(first) if joins || first > run.first() => {
                cx.effects.push(Effect::Branch { run, peer, wanted: false });
            }
            _ => self.search_fork(author, run.first() - 1, peer),
        }
    }

    /// Says that a peer offers what lies behind a fork or a cut, not too often.
    pub(crate) fn contested(&mut self, cx: &mut Context<'_>, author: DeviceId) {
        let room = self.contested.len() < FORKS_MAX || self.contested.contains_key(&author);
        let due = self.contested.get(&author).is_none_or(|said| *said + CONTESTED_MS <= cx.now_ms);
        if room && due {
            self.contested.insert(author, cx.now_ms);
            cx.effects.push(Effect::Contested { author });
        }
    }

    /// What is wanted by its id and no peer offers, the first one after what was fetched last, or the first of all.
    fn next_wanted(&self, cx: &Context<'_>) -> Option<(DeviceId, u64, OperationId)> {
        let mut wanted = cx.replica.wanted_by_id();
        // The first operations of authors that the membership does not know say what would make them known.
        let strangers: BTreeSet<DeviceId> =
            wanted.iter().map(|(author, ..)| *author).take(WANTED_AUTHORS_MAX).collect();
        for run in strangers.iter().filter_map(|author| self.strangers.beginning(author)) {
            let named = run.operations()[0].dependencies.iter();
            let missing = named.filter(|on| cx.replica.log_of(&on.author, on.sequence, &on.id).is_none());
            wanted.extend(missing.map(|on| (on.author, on.sequence, on.id)));
        }
        let offered = |(author, sequence, _): &&(DeviceId, u64, OperationId)| {
            self.peers.values().any(|peer| peer.ahead.get(author).is_some_and(|ahead| ahead.sequence >= *sequence))
        };
        let later = |one: &&(DeviceId, u64, OperationId)| self.fetched.is_none_or(|before| **one > before);
        let mut open = wanted.iter().filter(|one| !offered(one));
        let next = open.clone().find(later);
        next.or_else(|| open.next()).copied()
    }

    /// Begins to fetch what is wanted next, if it is time for that.
    fn begin_fetch(&mut self, cx: &Context<'_>) -> bool {
        // Unless the owner did not take what came, there is no reason to wait.
        self.fetched.take_if(|(author, sequence, id)| cx.replica.log_of(author, *sequence, id).is_some());
        let Some(wanted @ (_, sequence, id)) = self.next_wanted(cx) else {
            (self.fetched, self.fetch_at_ms) = (None, None);
            return false;
        };
        // What comes to be wanted is given some time to come by itself.
        if *self.fetch_at_ms.get_or_insert(cx.now_ms + GAP_PATIENCE_MS) > cx.now_ms {
            return false;
        }
        if self.fetched.is_some_and(|before| wanted <= before) {
            // Everything was asked for once: not again before vectors are compared.
            self.fetch_at_ms = Some(cx.now_ms + self.config.anti_entropy_ms.min(ANTI_ENTROPY_MS));
            self.fetched = None;
            return false;
        }
        let (runs, asked) = Default::default();
        self.fetch = Some(Fetch { wanted, target: (sequence, id), runs, bytes: 0, asked });
        true
    }

    fn continue_fetch(&mut self, cx: &mut Context<'_>) {
        let found =
            |(author, sequence, id): (DeviceId, u64, OperationId)| cx.replica.log_of(&author, sequence, &id).is_some();
        self.fetch.take_if(|fetch| found(fetch.wanted));
        if self.fetch.is_none() && !self.begin_fetch(cx) {
            return;
        }
        let in_flight = self.flights.values().any(|flight| matches!(flight.asked, Asked::Branch { .. }));
        let Some(fetch) = self.fetch.as_ref().filter(|_| !in_flight) else { return };
        let (author, (sequence, id)) = (fetch.wanted.0, fetch.target);
        let able =
            |peer: &&DeviceId| !fetch.asked.contains(peer) && !self.is_quiet(cx, peer) && !self.peers[*peer].refuses;
        match self.peers.keys().find(able).copied() {
            Some(peer) => {
                let request = Request::Branch { author, sequence, id };
                self.send(cx, peer, request, Asked::Branch { author, sequence, id });
            }
            None => self.fetched = self.fetch.take().map(|fetch| fetch.wanted),
        }
    }

    /// Looks at the stretch of a branch that a peer sent.
    pub(crate) fn branch_answered(
        &mut self,
        cx: &mut Context<'_>,
        peer: DeviceId,
        (author, sequence, id): (DeviceId, u64, OperationId),
        page: &Page,
    ) {
        let range = Range { author, after: 0, after_id: None, through: sequence };
        let runs = match self.verified(cx, &[range], PAGE_BYTES_MAX, page) {
            Ok(runs) => runs,
            Err(reason) => {
                self.note_lacking(peer);
                return reason.map_or((), |reason| self.misbehaved(cx, peer, reason));
            }
        };
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.target == (sequence, id)) else { return };
        let mut expected = (sequence, id);
        // From the end, each is what the one behind it continues; a page may bring more than that.
        let leads = |run: &VerifiedRun, (at, id): (u64, OperationId)| {
            run.operation(at).is_some_and(|operation| operation.id == id)
        };
        while let Some(run) = runs.iter().find(|run| leads(run, expected)) {
            expected = (run.first() - 1, run.previous());
            fetch.bytes += memory(run);
            fetch.runs.push(run.clone());
        }
        if expected == (sequence, id) || fetch.bytes > BRANCH_BYTES_MAX {
            return self.note_lacking(peer);
        }
        fetch.target = expected;
        if expected.0 == 0 || cx.replica.log_of(&author, expected.0, &expected.1).is_some() {
            let Some(Fetch { wanted, runs, .. }) = self.fetch.take() else { return };
            self.fetched = Some(wanted);
            cx.effects.extend(runs.into_iter().rev().map(|run| Effect::Branch { run, peer, wanted: true }));
        }
    }

    /// A peer cannot give what is fetched: begin again with another one.
    pub(crate) fn note_lacking(&mut self, peer: DeviceId) {
        if let Some(fetch) = &mut self.fetch {
            fetch.asked.insert(peer);
            fetch.runs.clear();
            fetch.bytes = 0;
            fetch.target = (fetch.wanted.1, fetch.wanted.2);
        }
    }

    /// Answers a peer that asks for a stretch of a branch by the id at its end.
    pub(crate) fn branch_requested(
        &mut self,
        cx: &mut Context<'_>,
        peer_id: DeviceId,
        id: RequestId,
        (author, sequence, wanted): (DeviceId, u64, OperationId),
    ) {
        if !cx.replica.serves(&peer_id) {
            self.counters.not_served += 1;
            cx.effects.push(Effect::Reply { peer: peer_id, id, response: Response::NotServed });
            return;
        }
        let log = cx.replica.log_of(&author, sequence, &wanted);
        let log = log.filter(|log| cx.replica.durable(log) >= sequence);
        let reply = match (log, self.peers.get_mut(&peer_id)) {
            (None, _) => Response::Page(Page::default()),
            (Some(log), Some(peer)) if peer.serving < SERVING_PER_PEER_MAX => {
                peer.serving += 1;
                let after = cx.replica.branches_after(&log).max(sequence.saturating_sub(RUN_OPERATIONS_MAX as u64));
                let range = Range { author, after, after_id: None, through: sequence };
                let serving = Serving::new(vec![range], PAGE_BYTES_MAX as u32, Vec::new()).of_log(log);
                cx.effects.push(Effect::Serve { peer: peer_id, id, serving });
                return;
            }
            _ => {
                self.counters.busy += 1;
                Response::Busy
            }
        };
        cx.effects.push(Effect::Reply { peer: peer_id, id, response: reply });
    }

    fn is_quiet(&self, cx: &Context<'_>, peer: &DeviceId) -> bool {
        self.peers.get(peer).is_none_or(|peer| peer.quiet_until_ms > cx.now_ms)
    }
}
