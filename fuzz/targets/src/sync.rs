//! The protocol: what its decoders accept encodes to the bytes it came from, and nothing that arrives makes an engine
//! panic, hand over what it must not, or keep more than it may.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use syncline::space::join::{JoinAnswer, JoinRequest};
use syncline_model::keys::seal;
use syncline_model::{ContentKey, DeviceId, DeviceKey, IdPrefix, OperationId, SpaceId, VerifiedRun, VersionVector};
use syncline_sync::limits::{GAPS_BYTES_MAX, PULLS_MAX, STRANGERS_BYTES_MAX};
use syncline_sync::{
    Config, Effect, Engine, Event, FrameId, HelloAnswer, Message, Replica, RequestId, Response, Token, Verdict,
};

use crate::model::SPACE;
use crate::script::Script;

static GOSSIP_KEY: ContentKey = ContentKey([7; 32]);
/// What a frame's seal covers besides the frame.
const FRAME_DOMAIN: &[u8] = b"syncline/gossip-frame/1\0";
/// Events in one run.
const EVENTS_MAX: usize = 64;

/// What a peer asks.
pub fn message(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(bytes) else { return false };
    assert_eq!(message.encode(), bytes);
    true
}

/// What a peer answers about a space.
pub fn response(bytes: &[u8]) -> bool {
    let Ok(response) = Response::decode(bytes) else { return false };
    assert_eq!(response.encode(), bytes);
    true
}

/// What a peer answers to a hello.
pub fn hello_answer(bytes: &[u8]) -> bool {
    let Ok(answer) = HelloAnswer::decode(bytes) else { return false };
    assert_eq!(answer.encode(), bytes);
    true
}

/// What a device with a ticket asks a member, and what that answers.
///
/// Script: one byte (bit 0: which of the two), then the message.
pub fn join(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let encoded = if which & 1 == 0 {
        JoinRequest::decode(bytes).map(|request| {
            request.certificate.holds(&SPACE);
            request.encode()
        })
    } else {
        JoinAnswer::decode(bytes).map(|answer| answer.encode())
    };
    let Ok(encoded) = encoded else { return false };
    assert_eq!(encoded, bytes);
    true
}

/// A gossip frame, under its seal, at an engine that knows all authors.
pub fn frame(bytes: &[u8]) -> bool {
    let mut held = Held::new();
    held.event(Event::PeerShares { peer: peer(1) });
    held.gossip(bytes, peer(1));
    // Whatever it was, the same once more is nothing new.
    let first = held.verdicts.pop();
    held.gossip(bytes, peer(1));
    assert_ne!(held.verdicts.pop(), Some(Verdict::Accept));
    first == Some(Verdict::Accept) || held.pulls > 0
}

/// Events in any order from hostile peers.
///
/// Script: for each event one byte for what happens, one for who does it, then what that takes.
pub fn engine(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let mut held = Held::new();
    for _ in 0..EVENTS_MAX {
        if script.is_over() {
            break;
        }
        let control = script.byte();
        let from = peer(1 + (control >> 6));
        match control & 15 {
            0 => held.event(Event::PeerShares { peer: from }),
            1 => held.event(Event::PeerGone { peer: from }),
            2 | 3 => {
                if let Ok(Message::Space { request, .. }) = Message::decode(script.bytes()) {
                    held.requests += 1;
                    held.event(Event::Requested { peer: from, id: RequestId(held.requests), request });
                }
            }
            4..=7 => {
                let (number, bytes) = (usize::from(control >> 4 & 3), script.bytes().to_vec());
                if let Some(token) = held.open.iter().nth(number).copied() {
                    held.open.remove(&token);
                    held.event(Event::Answered { token, bytes });
                }
            }
            8 => held.event(Event::Failed { token: Token(u64::from(script.byte())) }),
            9 | 10 => held.gossip(script.bytes(), from),
            11 => {
                let bytes = script.bytes().to_vec();
                held.event(Event::Gossip { bytes, from, id: FrameId(0) });
            }
            12 => {
                held.now_ms += u64::from(script.short());
                held.event(Event::Tick);
            }
            13 => {
                held.state.closed = !held.state.closed;
                held.event(Event::MembershipChanged);
            }
            14 => held.event(Event::Taken),
            _ => {
                held.durable();
                held.event(Event::Taken);
            }
        }
    }
    !held.state.taken.is_empty()
}

fn peer(number: u8) -> DeviceId {
    DeviceId([number; 32])
}

/// An engine, and a replica that takes in whatever it is given.
struct Held {
    engine: Engine,
    random: ChaCha8Rng,
    now_ms: u64,
    state: State,
    open: BTreeSet<Token>,
    requests: u64,
    frames: u64,
    verdicts: Vec<Verdict>,
    /// Requests for operations that were sent.
    pulls: usize,
}

/// What a replica holds.
struct State {
    local: DeviceId,
    vector: VersionVector,
    taken: BTreeMap<DeviceId, (u64, OperationId)>,
    ids: BTreeMap<(DeviceId, u64), OperationId>,
    /// Whether nobody may write.
    closed: bool,
}

impl Held {
    fn new() -> Self {
        let local = DeviceKey::from_seed(&[0x77; 32]).id();
        let (vector, taken, ids) = (VersionVector::default(), BTreeMap::new(), BTreeMap::new());
        Self {
            engine: Engine::new(Config::default()),
            random: ChaCha8Rng::seed_from_u64(1),
            now_ms: 1,
            state: State { local, vector, taken, ids, closed: false },
            open: BTreeSet::new(),
            requests: 0,
            frames: 0,
            verdicts: Vec::new(),
            pulls: 0,
        }
    }

    /// A frame with these bytes under a seal that holds.
    fn gossip(&mut self, bytes: &[u8], from: DeviceId) {
        let associated = [FRAME_DOMAIN, &SPACE.0].concat();
        let bytes = seal(&GOSSIP_KEY, &associated, bytes, &mut self.random);
        self.frames += 1;
        self.event(Event::Gossip { bytes, from, id: FrameId(self.frames) });
    }

    fn event(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.engine.handle(event, self.now_ms, &self.state, &mut self.random, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { token, request, .. } => {
                    assert!(self.open.insert(token), "a token names one request");
                    self.pulls += usize::from(matches!(request, syncline_sync::Request::Pull { .. }));
                    // What goes out is what the other side takes.
                    let message = Message::Space { tag: syncline_model::SpaceTag([0; 16]), request };
                    assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
                }
                Effect::Reply { response, .. } => {
                    assert_eq!(Response::decode(&response.encode()).as_ref(), Ok(&response));
                }
                Effect::Serve { serving, peer, .. } => {
                    let response = serving.page([]);
                    let bytes = response.encode().len();
                    self.event(Event::Served { peer, bytes });
                }
                Effect::Ingest { run, .. } => self.state.take(&run),
                Effect::Verdict { verdict, .. } => self.verdicts.push(verdict),
                Effect::Publish { .. }
                | Effect::Equivocation { .. }
                | Effect::Branch { .. }
                | Effect::Contested { .. }
                | Effect::Misbehaved { .. }
                | Effect::Synced { .. } => {}
            }
        }
        let status = self.engine.status(&self.state);
        assert!(status.pending_bytes <= GAPS_BYTES_MAX + STRANGERS_BYTES_MAX);
        assert!(status.pulls_in_flight <= PULLS_MAX);
        self.engine.next_deadline();
    }

    /// Makes everything durable.
    fn durable(&mut self) {
        for (author, (sequence, id)) in &self.state.taken {
            self.state.vector.advance(*author, *sequence, *id);
        }
    }
}

impl State {
    fn take(&mut self, run: &VerifiedRun) {
        let author = run.author();
        assert!(!self.closed, "nobody may write");
        assert_eq!((run.first(), run.previous()), {
            let (sequence, id) = self.taken(&author);
            (sequence + 1, id)
        });
        for (sequence, operation) in (run.first()..).zip(run.operations()) {
            self.ids.insert((author, sequence), operation.id);
        }
        self.taken.insert(author, (run.last(), run.last_id()));
    }
}

impl Replica for State {
    fn space(&self) -> SpaceId {
        SPACE
    }

    fn local(&self) -> DeviceId {
        self.local
    }

    fn vector(&self) -> &VersionVector {
        &self.vector
    }

    fn taken(&self, author: &DeviceId) -> (u64, OperationId) {
        self.taken.get(author).copied().unwrap_or((0, OperationId::ZERO))
    }

    fn prefix_at(&self, author: &DeviceId, sequence: u64) -> Option<IdPrefix> {
        self.ids.get(&(*author, sequence)).map(OperationId::prefix)
    }

    fn may_write(&self, _author: &DeviceId) -> bool {
        !self.closed
    }

    fn serves(&self, peer: &DeviceId) -> bool {
        // All but the last one.
        *peer != self::peer(4)
    }

    fn wanted(&self) -> Option<(DeviceId, u64)> {
        None
    }

    fn waiting_operations(&self) -> usize {
        0
    }

    fn begins_by_itself(&self, _run: &VerifiedRun) -> bool {
        false
    }

    fn worth(&self, _author: &DeviceId) -> u64 {
        u64::MAX
    }

    fn log_of(&self, author: &DeviceId, sequence: u64, id: &OperationId) -> Option<DeviceId> {
        (self.prefix_at(author, sequence) == Some(id.prefix())).then_some(*author)
    }

    fn durable(&self, log: &DeviceId) -> u64 {
        self.vector.sequence(log)
    }

    fn branches_after(&self, _log: &DeviceId) -> u64 {
        0
    }

    fn wanted_by_id(&self) -> BTreeSet<(DeviceId, u64, OperationId)> {
        (!self.closed).then_some((peer(1), 3, OperationId([3; 32]))).into_iter().collect()
    }

    fn gossip_keys(&self) -> &[ContentKey] {
        std::slice::from_ref(&GOSSIP_KEY)
    }
}
