//! The engine: one space's state of reconciliation, driven by events.
//!
//! [`Engine::handle`] takes an event, then does whatever has become due: requests that took too long are given up,
//! vectors are compared, ranges are pulled. What each part does is told in its own file; this one keeps the state,
//! sends events to the parts and finds the next deadline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_core::CryptoRng;
use syncline_model::canonical::DecodeError;
use syncline_model::planted::{Bug, planted};
use syncline_model::{ContentKey, DeviceId, OperationId};

use crate::branches::{Fetch, Search};
use crate::event::{Effect, Event, Misbehaviour, Replica, RequestId, Token};
use crate::exchange::Compared;
use crate::limits::{
    ANTI_ENTROPY_MS, FIRST_SUMMARY_PATIENCE_MS, FORKS_MAX, FORKS_PER_PEER_MAX, GAPS_BYTES_MAX,
    GAPS_BYTES_PER_AUTHOR_MAX, GOSSIP_INLINE_BYTES_MAX, MISBEHAVIOUR_BACKOFF_MS, PAGE_BYTES_MAX, PEERS_MAX,
    REQUEST_TIMEOUT_MS, STRANGERS_BYTES_MAX, STRANGERS_BYTES_PER_AUTHOR_MAX, SUMMARY_AUTHORS_FEW,
};
use crate::messages::{Range, Request, Response};
use crate::peer::Peer;
use crate::pending::Pending;
use crate::status::{Counters, Load, PeerStatus, Status};

/// What an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long after the last comparison two peers compare again, before jitter, in milliseconds.
    pub anti_entropy_ms: u64,
    /// How long a request may take, in milliseconds.
    pub request_timeout_ms: u64,
    /// Most bytes of runs that a page is asked to have, within [`PAGE_BYTES_MIN`](crate::limits::PAGE_BYTES_MIN) and
    /// [`PAGE_BYTES_MAX`].
    ///
    /// This and what follows are for tests, which by less bring about at small sizes what takes large ones otherwise.
    pub page_bytes_max: usize,
    /// Longest gossip frame that carries operations, in bytes; beyond it only heads are announced.
    pub gossip_inline_bytes: usize,
    /// Up to how many authors a summary says the whole vector.
    pub summary_authors_few: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            anti_entropy_ms: ANTI_ENTROPY_MS,
            request_timeout_ms: REQUEST_TIMEOUT_MS,
            page_bytes_max: PAGE_BYTES_MAX,
            gossip_inline_bytes: GOSSIP_INLINE_BYTES_MAX,
            summary_authors_few: SUMMARY_AUTHORS_FEW,
        }
    }
}

/// Gossip and reconciliation of one space.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) peers: BTreeMap<DeviceId, Peer>,
    pub(crate) flights: BTreeMap<Token, Flight>,
    pub(crate) next_token: u64,
    /// Runs before which operations are missing.
    pub(crate) gaps: Pending,
    /// Runs of authors that the membership does not know.
    pub(crate) strangers: Pending,
    /// Peers with the authors of whom they hold another log.
    pub(crate) forks: BTreeSet<(DeviceId, DeviceId)>,
    /// Authors whose runs the space did not take; until the membership changes.
    pub(crate) refused: BTreeSet<DeviceId>,
    /// Where the logs end with what was handed over in this call.
    pub(crate) heads: BTreeMap<DeviceId, (u64, OperationId)>,
    /// By peer and author.
    pub(crate) searches: BTreeMap<(DeviceId, DeviceId), Search>,
    pub(crate) fetch: Option<Fetch>,
    /// Authors whose forks some peer has not heard of, and when that was said.
    pub(crate) contested: BTreeMap<DeviceId, u64>,
    /// What was last fetched, or looked for in vain.
    pub(crate) fetched: Option<(DeviceId, u64, OperationId)>,
    /// When to look for branches again.
    pub(crate) fetch_at_ms: Option<u64>,
    /// The key of gossip when the membership last changed.
    pub(crate) gossip_key: Option<ContentKey>,
    pub(crate) unwritten: VecDeque<Unwritten>,
    pub(crate) unwritten_bytes: usize,
    /// Pulled heads that other peers may lack.
    pub(crate) announcing: BTreeMap<DeviceId, u64>,
    pub(crate) announce_at_ms: u64,
    /// The author after whom pulling goes on when it is slowed down.
    pub(crate) rotation: DeviceId,
    pub(crate) now_ms: u64,
    pub(crate) counters: Counters,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) peer: DeviceId,
    pub(crate) deadline_ms: u64,
    pub(crate) asked: Asked,
}

/// What was asked.
#[derive(Debug)]
pub(crate) enum Asked {
    Summary(Compared),
    Pull { ranges: Vec<Range>, bytes_max: usize },
    Search { range: Range },
    Branch { author: DeviceId, sequence: u64, id: OperationId },
}

/// A run that was handed over and is not known to be durable.
#[derive(Debug)]
pub(crate) struct Unwritten {
    pub(crate) author: DeviceId,
    pub(crate) last: u64,
    pub(crate) bytes: usize,
}

/// What one call works with.
pub(crate) struct Context<'a> {
    pub(crate) now_ms: u64,
    pub(crate) replica: &'a dyn Replica,
    pub(crate) random: &'a mut dyn CryptoRng,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Engine {
    /// An engine that knows no peers.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            peers: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_token: 0,
            gaps: Pending::new(GAPS_BYTES_MAX, GAPS_BYTES_PER_AUTHOR_MAX),
            strangers: Pending::new(STRANGERS_BYTES_MAX, STRANGERS_BYTES_PER_AUTHOR_MAX),
            forks: BTreeSet::new(),
            refused: BTreeSet::new(),
            heads: BTreeMap::new(),
            searches: BTreeMap::new(),
            fetch: None,
            contested: BTreeMap::new(),
            fetched: None,
            fetch_at_ms: None,
            gossip_key: None,
            unwritten: VecDeque::new(),
            unwritten_bytes: 0,
            announcing: BTreeMap::new(),
            announce_at_ms: 0,
            rotation: DeviceId([0; 32]),
            now_ms: 0,
            counters: Counters::default(),
        }
    }

    /// Takes an event in and appends what is to be done, in order.
    ///
    /// The effects must be carried out as far as the replica is concerned before the next call: what was to be
    /// ingested is [`taken`](Replica::taken) then, or was refused for good.
    pub fn handle(
        &mut self,
        event: Event,
        now_ms: u64,
        replica: &dyn Replica,
        random: &mut dyn CryptoRng,
        effects: &mut Vec<Effect>,
    ) {
        // A clock that steps back must not make deadlines pass twice.
        self.now_ms = self.now_ms.max(now_ms);
        let mut cx = Context { now_ms: self.now_ms, replica, random, effects };
        self.settle(&cx);
        self.dispatch(&mut cx, event);
        self.expire(&cx);
        self.compare_due(&mut cx);
        self.pull_branches(&mut cx);
        self.pull(&mut cx);
        self.report_synced(&mut cx);
        self.announce(&mut cx);
    }

    /// When [`Event::Tick`] is to be handled if nothing else happens before; None if nothing is due ever.
    pub fn next_deadline(&self) -> Option<u64> {
        let flights = self.flights.values().map(|flight| flight.deadline_ms);
        let comparisons = self.peers.values().filter(|peer| peer.comparing.is_none());
        let comparisons = comparisons.map(|peer| peer.summary_at_ms.max(peer.quiet_until_ms));
        let later = |time: u64| (time > self.now_ms).then_some(time);
        let quiet = self.peers.values().filter(|peer| !peer.ahead.is_empty());
        let quiet = quiet.filter_map(|peer| later(peer.quiet_until_ms));
        let gaps = self.peers.values().flat_map(|peer| peer.ahead.values());
        let gaps = gaps.filter_map(|ahead| later(ahead.pull_from_ms));
        let announcement = if self.announcing.is_empty() { None } else { later(self.announce_at_ms) };
        let fetch = self.fetch_at_ms.and_then(later);
        let searching = self.searches.keys().filter_map(|(peer, _)| self.peers.get(peer));
        let searching = searching.filter_map(|peer| later(peer.quiet_until_ms));
        flights.chain(comparisons).chain(quiet).chain(gaps).chain(announcement).chain(fetch).chain(searching).min()
    }

    /// How reconciliation stands.
    pub fn status(&self, replica: &dyn Replica) -> Status {
        let in_flight = |peer: &DeviceId| self.flights.values().filter(|flight| flight.peer == *peer).count();
        let peers = self.peers.iter().map(|(id, peer)| PeerStatus {
            peer: *id,
            synced: peer.synced,
            missing: peer.missing(|author| replica.taken(author).0),
            refuses: peer.refuses,
            last_summary_ms: peer.last_summary_ms,
            in_flight: in_flight(id),
            received_bytes: peer.received_bytes,
            served_bytes: peer.served_bytes,
        });
        Status {
            peers: peers.collect(),
            pending_runs: self.gaps.runs() + self.strangers.runs(),
            pending_bytes: self.gaps.bytes() + self.strangers.bytes(),
            pulls_in_flight: self.pulls_in_flight(),
            counters: self.counters,
        }
    }

    /// The peers with which the space is reconciled.
    pub fn peers(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.peers.keys().copied()
    }

    /// How much of an author's log peers were heard to hold, of those who hold more than is held here.
    pub fn claims(&self, author: &DeviceId) -> Vec<(DeviceId, u64)> {
        let claim = |(id, peer): (&DeviceId, &Peer)| Some((*id, peer.ahead.get(author)?.sequence));
        self.peers.iter().filter_map(claim).collect()
    }

    /// What is kept in memory.
    pub fn load(&self) -> Load {
        Load {
            pending_bytes: self.gaps.bytes() + self.strangers.bytes(),
            pulls_in_flight: self.pulls_in_flight(),
            unwritten_bytes: self.unwritten_bytes,
            unwritten_runs: self.unwritten.len(),
            forks: self.forks.len(),
        }
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn dispatch(&mut self, cx: &mut Context<'_>, event: Event) {
        match event {
            Event::PeerShares { peer } => self.peer_shares(cx, peer),
            Event::PeerGone { peer } => {
                self.peers.remove(&peer);
                self.flights.retain(|_, flight| flight.peer != peer);
                // When it comes back it is compared anew, and so is how its logs differ.
                self.forks.retain(|(of, _)| *of != peer);
                self.searches.retain(|(of, _), _| *of != peer);
            }
            Event::Requested { peer, id, request } => self.requested(cx, peer, id, request),
            Event::Served { peer, bytes } => self.served(peer, bytes),
            Event::Answered { token, bytes } => self.answered(cx, token, &bytes),
            Event::Failed { token } => self.failed(cx, token),
            Event::Written { run } => self.publish(cx, &run),
            Event::Gossip { bytes, from, id } => self.frame_arrived(cx, &bytes, from, id),
            Event::Evidence { runs } => self.show(cx, &runs),
            Event::Taken => self.drain_gaps(cx),
            Event::MembershipChanged => self.membership_changed(cx),
            Event::Tick => {}
        }
    }

    /// The device with the smaller id asks first: one question tells both sides everything.
    fn peer_shares(&mut self, cx: &Context<'_>, peer: DeviceId) {
        if peer == cx.replica.local() || self.peers.contains_key(&peer) || self.peers.len() >= PEERS_MAX {
            return;
        }
        let served = cx.replica.serves(&peer);
        let asks_first = cx.replica.local() < peer;
        let summary_at_ms = if asks_first { cx.now_ms } else { cx.now_ms + FIRST_SUMMARY_PATIENCE_MS };
        self.peers.insert(peer, Peer::new(summary_at_ms, served, self.config.page_bytes_max));
    }

    fn requested(&mut self, cx: &mut Context<'_>, peer: DeviceId, id: RequestId, request: Request) {
        match request {
            Request::Summary { digest, part } => self.summary_requested(cx, peer, id, digest, &part),
            Request::Pull { ranges, bytes_max } => self.pull_requested(cx, peer, id, ranges, bytes_max),
            Request::Branch { author, sequence, id: operation } => {
                self.branch_requested(cx, peer, id, (author, sequence, operation));
            }
        }
    }

    fn answered(&mut self, cx: &mut Context<'_>, token: Token, bytes: &[u8]) {
        self.counters.received_bytes += bytes.len() as u64;
        let Some(flight) = self.close(token) else { return };
        let Some(peer) = self.peers.get_mut(&flight.peer) else { return };
        peer.received_bytes += bytes.len() as u64;
        let response = match Response::decode(bytes) {
            Ok(response) => response,
            Err(DecodeError::NewerVersion { .. }) => return self.gave_up(cx, flight.peer),
            Err(_) => return self.misbehaved(cx, flight.peer, Misbehaviour::MalformedResponse),
        };
        match (flight.asked, response) {
            (Asked::Summary(compared), Response::Summary(answer)) => {
                peer.failures = 0;
                self.compared(cx, flight.peer, &compared, answer);
            }
            (Asked::Pull { ranges, bytes_max }, Response::Page(page)) => {
                peer.succeeded();
                self.page_arrived(cx, flight.peer, &ranges, bytes_max, &page);
            }
            (Asked::Search { range }, Response::Page(page)) => {
                peer.failures = 0;
                self.search_answered(cx, flight.peer, range, &page);
            }
            (Asked::Branch { author, sequence, id }, Response::Page(page)) => {
                peer.failures = 0;
                self.branch_answered(cx, flight.peer, (author, sequence, id), &page);
            }
            (_, Response::NotServed) => {
                peer.refuses = true;
                peer.ahead.clear();
                self.compare_later(cx, flight.peer);
            }
            (_, Response::Busy) => {
                self.counters.busy += 1;
                peer.failed(cx.now_ms);
            }
            _ => self.misbehaved(cx, flight.peer, Misbehaviour::UnexpectedResponse),
        }
    }

    fn failed(&mut self, cx: &Context<'_>, token: Token) {
        if planted(Bug::FailedPullNeverFreed) {
            return;
        }
        if let Some(flight) = self.close(token) {
            self.gave_up(cx, flight.peer);
        }
    }

    fn gave_up(&mut self, cx: &Context<'_>, peer: DeviceId) {
        self.counters.failures += 1;
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.failed(cx.now_ms);
        }
    }

    fn expire(&mut self, cx: &Context<'_>) {
        let late = self.flights.iter().filter(|(_, flight)| flight.deadline_ms <= cx.now_ms);
        let late: Vec<Token> = late.map(|(token, _)| *token).collect();
        for token in late {
            self.failed(cx, token);
        }
    }

    fn report_synced(&mut self, cx: &mut Context<'_>) {
        let forked: BTreeSet<DeviceId> = self.forks.iter().map(|(peer, _)| *peer).collect();
        for (id, peer) in &mut self.peers {
            let synced = peer.compared && peer.ahead.is_empty() && !forked.contains(id);
            if synced && !peer.synced {
                cx.effects.push(Effect::Synced { peer: *id });
            }
            peer.synced = synced;
        }
    }

    /// Sends a request and remembers what it asked.
    pub(crate) fn send(&mut self, cx: &mut Context<'_>, peer: DeviceId, request: Request, asked: Asked) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        if let (Asked::Pull { .. }, Some(peer)) = (&asked, self.peers.get_mut(&peer)) {
            peer.pulls += 1;
        }
        let deadline_ms = cx.now_ms + self.config.request_timeout_ms;
        self.flights.insert(token, Flight { peer, deadline_ms, asked });
        cx.effects.push(Effect::Send { peer, token, request });
        token
    }

    /// Forgets a request that is over.
    fn close(&mut self, token: Token) -> Option<Flight> {
        let flight = self.flights.remove(&token)?;
        if let Some(peer) = self.peers.get_mut(&flight.peer) {
            match flight.asked {
                Asked::Pull { .. } => peer.pulls -= 1,
                Asked::Summary(_) if peer.comparing == Some(token) => peer.comparing = None,
                Asked::Summary(_) | Asked::Search { .. } | Asked::Branch { .. } => {}
            }
        }
        Some(flight)
    }

    pub(crate) fn misbehaved(&mut self, cx: &mut Context<'_>, peer: DeviceId, reason: Misbehaviour) {
        self.counters.misbehaviour += 1;
        cx.effects.push(Effect::Misbehaved { peer, reason });
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.quiet_until_ms = peer.quiet_until_ms.max(cx.now_ms + MISBEHAVIOUR_BACKOFF_MS);
        }
    }

    /// Reports, once for each author and peer, that logs differ, and stops pulling the author from the peer.
    pub(crate) fn forked(&mut self, cx: &mut Context<'_>, author: DeviceId, sequence: u64, peer: DeviceId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.ahead.remove(&author);
        }
        let of_peer = self.forks.range((peer, DeviceId([0; 32]))..=(peer, DeviceId([255; 32]))).count();
        // A peer that claims forks everywhere must not use up the room for those of others.
        let room = of_peer < FORKS_PER_PEER_MAX && self.forks.len() < FORKS_MAX;
        if room && self.forks.insert((peer, author)) {
            self.counters.equivocations += 1;
            cx.effects.push(Effect::Equivocation { author, sequence, peer });
        }
    }

    /// The author's head, with what was handed over in this call.
    pub(crate) fn head(&self, replica: &dyn Replica, author: &DeviceId) -> (u64, OperationId) {
        self.heads.get(author).copied().unwrap_or_else(|| replica.taken(author))
    }
}
