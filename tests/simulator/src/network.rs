//! The simulated network: connections that open and close, messages that are slow, lost or doubled.
//!
//! Requests and answers travel over connections. Each request ends in exactly one way: an answer, a lost connection, or
//! a timeout. Gossip floods the connected devices; it may be lost and come twice. What happens to a message is drawn
//! from a stream of its sender and receiver, so that what others send does not change it.

use crate::happening::Happening;
use crate::message::{Frame, Message, Protocol, Purpose};
use crate::plan::{MILLISECOND_US, SECOND_US};
use crate::random::Choices;
use crate::world::{Event, World};

/// Most requests of one device to another that may be under way at once: engines give up sooner than the network does.
pub(crate) const EXCHANGES_PER_PAIR_MAX: usize = 48;

/// How long the network waits for an answer.
const ANSWER_US_MAX: u64 = 20 * SECOND_US;
/// Only pages of more bytes can have been cut short by their size.
const GREAT_PAGE_BYTES: usize = syncline_sync::limits::PAGE_BYTES_MIN / 2;

/// Two devices that connect when they can.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: (usize, usize),
    pub(crate) is_open: bool,
    /// Counts how often it was opened; what was sent before does not arrive after.
    pub(crate) generation: u64,
    /// Messages take so many times as long up to this moment.
    pub(crate) slow: (u64, u64),
    /// Nothing arrives before.
    pub(crate) clogged_until_us: u64,
}

/// What goes from one device to another.
#[derive(Debug)]
pub(crate) struct Flow {
    choices: Choices,
    /// When what was sent before has left, where bandwidth is limited.
    free_us: u64,
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) from: usize,
    pub(crate) to: usize,
    edge: usize,
    purpose: Purpose,
}

impl Connection {
    pub(crate) fn new(ends: (usize, usize)) -> Self {
        Self { ends, is_open: false, generation: 0, slow: (1, 0), clogged_until_us: 0 }
    }

    /// The device at the other end.
    pub(crate) fn other(&self, device: usize) -> Option<usize> {
        let (a, b) = self.ends;
        (device == a).then_some(b).or((device == b).then_some(a))
    }
}

impl World {
    /// The open connection between two devices.
    fn edge_between(&self, from: usize, to: usize) -> Option<usize> {
        let edge = *self.edges.get(&(from.min(to), from.max(to)))?;
        self.connections[edge].is_open.then_some(edge)
    }

    fn flow(&mut self, from: usize, to: usize) -> &mut Flow {
        let seed = self.surroundings.plan.seed;
        let choices = || Choices::new(seed, "way", (from * 64 + to) as u64);
        self.flows.entry((from, to)).or_insert_with(|| Flow { choices: choices(), free_us: 0 })
    }

    /// Whether messages in this direction are lost.
    pub(crate) fn is_parted(&self, from: usize, to: usize) -> bool {
        self.parted.values().any(|directions| directions.contains(&(from, to)))
    }

    /// Opens a connection if both devices run and hear each other; tries again later if not.
    pub(crate) fn connect(&mut self, edge: usize) {
        let (a, b) = self.connections[edge].ends;
        if self.connections[edge].is_open {
            return;
        }
        let both_run = self.devices[a].running.is_some() && self.devices[b].running.is_some();
        if !both_run || self.is_parted(a, b) || self.is_parted(b, a) {
            let again_us = self.flow(a, b).choices.between(300 * MILLISECOND_US, 2 * SECOND_US);
            return self.later(again_us, Event::Connect { edge });
        }
        self.connections[edge].is_open = true;
        self.connections[edge].generation += 1;
        self.note(a, Happening::Connected, [b as u64, 0], || format!("to #{b}"));
        self.tell(a, Message::Connected(b));
        self.tell(b, Message::Connected(a));
    }

    /// Closes a connection; what was under way on it fails.
    pub(crate) fn disconnect(&mut self, edge: usize) {
        let (a, b) = self.connections[edge].ends;
        if !std::mem::replace(&mut self.connections[edge].is_open, false) {
            return;
        }
        self.note(a, Happening::Disconnected, [b as u64, 0], || format!("from #{b}"));
        let cut: Vec<u64> =
            self.exchanges.iter().filter(|(_, exchange)| exchange.edge == edge).map(|(id, _)| *id).collect();
        for exchange in cut {
            self.note(a, Happening::RequestCut, [exchange, 0], String::new);
            self.end_exchange(exchange, None);
        }
        self.tell(a, Message::Disconnected(b));
        self.tell(b, Message::Disconnected(a));
        let again_us = self.flow(a, b).choices.between(50 * MILLISECOND_US, 3 * SECOND_US);
        self.later(again_us, Event::Connect { edge });
    }

    /// A connection that still loses what is sent on it is given up.
    pub(crate) fn notice_dead(&mut self, edge: usize, generation: u64) {
        let Connection { ends: (a, b), is_open, generation: present, .. } = self.connections[edge];
        if is_open && present == generation && (self.is_parted(a, b) || self.is_parted(b, a)) {
            self.note(a, Happening::CutSilent, [b as u64, 0], String::new);
            self.disconnect(edge);
        }
    }

    /// How long a message takes; none when it is lost.
    fn way(
        &mut self,
        edge: usize,
        (from, to): (usize, usize),
        bytes: usize,
        (loss, lost): (u64, Happening),
    ) -> Option<u64> {
        if self.is_parted(from, to) {
            self.note(from, Happening::Blocked, [to as u64, 0], || format!("to #{to}"));
            return None;
        }
        self.sent_bytes += bytes as u64;
        let (now_us, healed) = (self.now_us, self.healed);
        let plan = &self.surroundings.plan;
        let ((shortest, longest), bandwidth, stragglers) = (plan.latency_us, plan.bandwidth, plan.ambient.stragglers);
        let flow = self.flow(from, to);
        let (loses, straggles) = (flow.choices.chance(loss), flow.choices.chance(stragglers));
        let mut way_us = flow.choices.between(shortest, longest);
        if loses && !healed {
            self.note(from, lost, [to as u64, 0], || format!("to #{to}"));
            return None;
        }
        if let Some(bandwidth) = bandwidth {
            let waits_us = flow.free_us.saturating_sub(now_us);
            flow.free_us = flow.free_us.max(now_us) + bytes as u64 * SECOND_US / bandwidth;
            way_us += flow.free_us - now_us;
            if waits_us > 0 {
                self.trace.count(Happening::Throttled, 1);
            }
        }
        if straggles && !healed {
            self.note(from, Happening::Straggled, [to as u64, 0], String::new);
            way_us *= 10;
        }
        let Connection { slow: (factor, slow_until_us), clogged_until_us, .. } = self.connections[edge];
        if now_us < slow_until_us {
            self.note(from, Happening::Slowed, [to as u64, factor], String::new);
            way_us *= factor;
        }
        if now_us < clogged_until_us {
            self.note(from, Happening::Clogged, [to as u64, 0], String::new);
            way_us = way_us.max(clogged_until_us - now_us);
        }
        Some(way_us)
    }

    /// Sends a request.
    pub(crate) fn request(&mut self, from: usize, to: usize, protocol: Protocol, bytes: Vec<u8>, purpose: Purpose) {
        let Some(edge) = self.edge_between(from, to) else {
            self.note(from, Happening::RequestFailed, [to as u64, 0], || format!("no connection to #{to}"));
            return self.tell(from, Message::Answered { peer: to, purpose, bytes: None });
        };
        let under_way = self.under_way.entry((from, to)).or_default();
        if *under_way >= EXCHANGES_PER_PAIR_MAX {
            if self.devices[from].liar.is_some() {
                // The transport refuses what goes beyond its streams.
                self.note(to, Happening::FloodRefused, [from as u64, 0], String::new);
                return self.tell(from, Message::Answered { peer: to, purpose, bytes: None });
            }
            return self.violate(format!("#{from} has more than {EXCHANGES_PER_PAIR_MAX} requests to #{to} under way"));
        }
        *under_way += 1;
        let exchange = self.number();
        let is_engine = matches!(purpose, Purpose::Engine { .. });
        self.note(from, Happening::RequestSent, [to as u64, exchange], || format!("to #{to}: {exchange} {purpose:?}"));
        self.exchanges.insert(exchange, Exchange { from, to, edge, purpose });
        // What the engine gives up the transport has given up before.
        let engine_us = self.plan().engine.request_timeout_ms * MILLISECOND_US;
        let patience_us = if is_engine { engine_us.min(ANSWER_US_MAX) } else { ANSWER_US_MAX };
        self.later(patience_us, Event::Timeout { exchange });
        let generation = self.connections[edge].generation;
        let length = bytes.len();
        let message = Message::Request { peer: from, protocol, bytes, exchange };
        let loss = (self.surroundings.plan.ambient.request_loss, Happening::RequestLost);
        if let Some(way_us) = self.way(edge, (from, to), length, loss) {
            self.later(way_us, Event::Deliver { edge, generation, to, message });
        }
    }

    /// Sends an answer.
    pub(crate) fn reply(&mut self, from: usize, exchange: u64, bytes: Vec<u8>) {
        let Some(&Exchange { from: asker, to, edge, .. }) = self.exchanges.get(&exchange) else { return };
        if to != from {
            return self.violate(format!("#{from} answers a request that was sent to #{to}"));
        }
        let loss = (self.surroundings.plan.ambient.request_loss, Happening::RequestLost);
        let Some(way_us) = self.way(edge, (from, asker), bytes.len(), loss) else { return };
        if self.page_cuts > 0 && !self.healed && page_of(&bytes).is_some_and(|page| !page.runs.is_empty()) {
            self.page_cuts -= 1;
            let generation = self.connections[edge].generation;
            self.later(way_us / 2, Event::Later(crate::faults::Later::CutInPage { edge, generation }));
        }
        self.later(way_us, Event::Answer { exchange, bytes });
    }

    /// Ends a request in one way or the other.
    pub(crate) fn end_exchange(&mut self, exchange: u64, bytes: Option<Vec<u8>>) {
        let Some(Exchange { from, to, purpose, .. }) = self.exchanges.remove(&exchange) else { return };
        if let Some(under_way) = self.under_way.get_mut(&(from, to)) {
            *under_way -= 1;
        }
        let happening = if bytes.is_some() { Happening::RequestAnswered } else { Happening::RequestFailed };
        let length = bytes.as_ref().map_or(0, Vec::len);
        if let Some(page) =
            bytes.as_ref().filter(|bytes| bytes.len() > GREAT_PAGE_BYTES).and_then(|bytes| page_of(bytes))
        {
            self.trace.count(Happening::PageResumed, u64::from(self.cut_short.remove(&(from, to))));
            if page.more {
                self.cut_short.insert((from, to));
                self.note(from, Happening::PageCutShort, [to as u64, 0], || format!("by #{to}"));
            }
        }
        self.note(from, happening, [exchange, length as u64], || format!("{exchange} by #{to}, {length} bytes"));
        self.tell(from, Message::Answered { peer: to, purpose, bytes });
    }

    /// Gives a frame to everybody who is connected.
    pub(crate) fn spread(&mut self, from: usize, frame: &Frame, not_to: Option<usize>) {
        for edge in 0..self.connections.len() {
            let Connection { is_open, generation, .. } = self.connections[edge];
            let Some(to) = self.connections[edge].other(from).filter(|to| is_open && Some(*to) != not_to) else {
                continue;
            };
            let plan = &self.surroundings.plan;
            if !plan.spaces[frame.space].members.contains_key(&to) {
                continue;
            }
            let (loss, duplication) = (plan.ambient.gossip_loss, plan.ambient.gossip_duplication);
            for again in [false, true] {
                if again && (!self.flow(from, to).choices.chance(duplication) || self.healed) {
                    continue;
                }
                let message = Message::Gossip { peer: from, frame: frame.clone(), again };
                let loss = (loss, Happening::GossipLost);
                if let Some(way_us) = self.way(edge, (from, to), frame.bytes.len(), loss) {
                    self.later(way_us, Event::Deliver { edge, generation, to, message });
                }
            }
        }
    }

    /// A message arrives, if its connection is still the same.
    pub(crate) fn deliver(&mut self, edge: usize, generation: u64, to: usize, message: Message) {
        let connection = &self.connections[edge];
        if !connection.is_open || connection.generation != generation {
            return;
        }
        match &message {
            Message::Gossip { peer, frame, again } => {
                let running = self.devices[to].running.as_ref();
                if !running.is_some_and(|running| running.is_subscribed(frame.space)) {
                    return;
                }
                let happening = if *again { Happening::GossipDuplicated } else { Happening::GossipArrived };
                let (peer, length) = (*peer, frame.bytes.len());
                self.note(to, happening, [peer as u64, length as u64], || format!("of #{peer}, {length} bytes"));
            }
            // A liar sponsors nobody.
            Message::Request { protocol: Protocol::Join, .. } if self.devices[to].liar.is_some() => return,
            Message::Request { peer, exchange, bytes, .. } => {
                let (peer, exchange) = (*peer, *exchange);
                self.note(to, Happening::RequestServed, [peer as u64, exchange], || format!("{exchange} of #{peer}"));
                if let Some(liar) = &mut self.devices[to].liar {
                    liar.asked(exchange, bytes);
                }
            }
            _ => {}
        }
        self.tell(to, message);
    }
}

/// The page that an answer holds, if it holds one.
pub(crate) fn page_of(bytes: &[u8]) -> Option<syncline_sync::Page> {
    match syncline_sync::Response::decode(bytes) {
        Ok(syncline_sync::Response::Page(page)) => Some(page),
        _ => None,
    }
}
