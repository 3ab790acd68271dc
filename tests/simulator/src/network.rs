//! The simulated network: connections that open and close, messages that are slow, lost or doubled.
//!
//! Requests and answers travel over connections. Each request ends in exactly one way: an answer, a lost connection, or
//! a timeout. Gossip floods the connected devices; it may be lost and come twice.

use crate::device::{Frame, Message, Protocol, Purpose};
use crate::happening::Happening;
use crate::plan::{MILLISECOND_US, SECOND_US};
use crate::world::{Event, World};

/// How long the network waits for an answer.
const ANSWER_US_MAX: u64 = 20 * SECOND_US;

/// Two devices that connect when they can.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: (usize, usize),
    pub(crate) is_open: bool,
    /// Counts how often it was opened; what was sent before does not arrive after.
    pub(crate) generation: u64,
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
        Self { ends, is_open: false, generation: 0 }
    }

    fn other(&self, device: usize) -> Option<usize> {
        let (a, b) = self.ends;
        (device == a).then_some(b).or((device == b).then_some(a))
    }
}

impl World {
    /// The open connection between two devices.
    fn edge_between(&self, from: usize, to: usize) -> Option<usize> {
        self.connections.iter().position(|connection| connection.is_open && connection.other(from) == Some(to))
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
            let again_us = self.network.between(300 * MILLISECOND_US, 2 * SECOND_US);
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
        let again_us = self.network.between(50 * MILLISECOND_US, 3 * SECOND_US);
        self.later(again_us, Event::Connect { edge });
    }

    /// A connection that still loses what is sent on it is given up.
    pub(crate) fn notice_dead(&mut self, edge: usize, generation: u64) {
        let Connection { ends: (a, b), is_open, generation: present } = self.connections[edge];
        if is_open && present == generation && (self.is_parted(a, b) || self.is_parted(b, a)) {
            self.note(a, Happening::CutSilent, [b as u64, 0], String::new);
            self.disconnect(edge);
        }
    }

    /// How long a message takes; none when it is lost.
    fn way(&mut self, from: usize, to: usize, loss: u64) -> Option<u64> {
        let lost = !self.healed && self.network.chance(loss);
        if self.is_parted(from, to) {
            self.note(from, Happening::Blocked, [to as u64, 0], || format!("to #{to}"));
            return None;
        }
        let (shortest, longest) = self.surroundings.plan.latency_us;
        let straggles = !self.healed && self.network.chance(self.surroundings.plan.faults.stragglers);
        let way_us = self.network.between(shortest, longest);
        if straggles {
            self.note(from, Happening::Straggled, [to as u64, 0], String::new);
        }
        (!lost).then_some(if straggles { way_us * 10 } else { way_us })
    }

    /// Sends a request.
    pub(crate) fn request(&mut self, from: usize, to: usize, protocol: Protocol, bytes: Vec<u8>, purpose: Purpose) {
        let Some(edge) = self.edge_between(from, to) else {
            self.note(from, Happening::RequestFailed, [to as u64, 0], || format!("no connection to #{to}"));
            return self.tell(from, Message::Answered { peer: to, purpose, bytes: None });
        };
        let exchange = self.number();
        self.note(from, Happening::RequestSent, [to as u64, exchange], || format!("to #{to}: {exchange} {purpose:?}"));
        self.exchanges.insert(exchange, Exchange { from, to, edge, purpose });
        self.check_exchanges(from, to);
        self.later(ANSWER_US_MAX, Event::Timeout { exchange });
        let generation = self.connections[edge].generation;
        let message = Message::Request { peer: from, protocol, bytes, exchange };
        match self.way(from, to, self.surroundings.plan.faults.request_loss) {
            Some(way_us) => self.later(way_us, Event::Deliver { edge, generation, to, message }),
            None => self.note(from, Happening::RequestLost, [exchange, 0], || format!("{exchange} to #{to}")),
        }
    }

    /// Sends an answer.
    pub(crate) fn reply(&mut self, from: usize, exchange: u64, bytes: Vec<u8>) {
        let Some(&Exchange { from: asker, to, .. }) = self.exchanges.get(&exchange) else { return };
        if to != from {
            return self.violate(format!("#{from} answers a request that was sent to #{to}"));
        }
        match self.way(from, asker, self.surroundings.plan.faults.request_loss) {
            Some(way_us) => self.later(way_us, Event::Answer { exchange, bytes }),
            None => self.note(from, Happening::RequestLost, [exchange, 1], || format!("the answer to {exchange}")),
        }
    }

    /// An answer arrives, if the request has not ended.
    pub(crate) fn answer(&mut self, exchange: u64, bytes: Vec<u8>) {
        self.end_exchange(exchange, Some(bytes));
    }

    /// Ends a request in one way or the other.
    pub(crate) fn end_exchange(&mut self, exchange: u64, bytes: Option<Vec<u8>>) {
        let Some(Exchange { from, to, purpose, .. }) = self.exchanges.remove(&exchange) else { return };
        let happening = if bytes.is_some() { Happening::RequestAnswered } else { Happening::RequestFailed };
        let length = bytes.as_ref().map_or(0, Vec::len);
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
            let faults = &self.surroundings.plan.faults;
            let (loss, duplication) = (faults.gossip_loss, faults.gossip_duplication);
            for again in [false, true] {
                if again && (self.healed || !self.network.chance(duplication)) {
                    continue;
                }
                let message = Message::Gossip { peer: from, frame: frame.clone(), again };
                match self.way(from, to, loss) {
                    Some(way_us) => self.later(way_us, Event::Deliver { edge, generation, to, message }),
                    None => self.note(from, Happening::GossipLost, [to as u64, 0], || format!("to #{to}")),
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
                let subscribed = self.devices[to].running.as_ref().is_some_and(|running| running.is_subscribed());
                if !subscribed {
                    return;
                }
                let happening = if *again { Happening::GossipDuplicated } else { Happening::GossipArrived };
                let (peer, length) = (*peer, frame.bytes.len());
                self.note(to, happening, [peer as u64, length as u64], || format!("of #{peer}, {length} bytes"));
            }
            Message::Request { peer, exchange, .. } => {
                let (peer, exchange) = (*peer, *exchange);
                self.note(to, Happening::RequestServed, [peer as u64, exchange], || format!("{exchange} of #{peer}"));
            }
            _ => {}
        }
        self.tell(to, message);
    }
}
