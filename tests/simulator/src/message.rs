//! What devices are told and what they want of the world.

use std::sync::Arc;

use syncline::documents::{Answer, ChangeEvent, DocumentError, Job, JobDone, Query, Step, Version};
use syncline::space::{Act, WriteError};
use syncline_model::{DeviceKey, Role};
use syncline_sync::{Hello, Misbehaviour, Token};

use crate::happening::Happening;

/// Two protocols are spoken between devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Sync,
    Join,
}

/// Why a request was sent.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    Hello(Hello),
    Engine {
        space: usize,
        token: Token,
    },
    Join {
        space: usize,
    },
    /// Nobody waits for the answer.
    Lie,
    /// There must be no answer.
    NotCanonical,
}

/// A gossip frame with the id that gossip knows it by.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) space: usize,
    /// The epoch whose name it is published under; who is in another one does not hear it.
    pub(crate) epoch: u32,
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) id: [u8; 16],
}

impl Frame {
    /// A frame of these bytes.
    pub(crate) fn new((space, epoch): (usize, u32), bytes: Vec<u8>) -> Self {
        let id = *blake3::hash(&bytes).as_bytes().first_chunk().expect("16 of 32 bytes");
        Self { space, epoch, bytes: bytes.into(), id }
    }
}

/// What a device is told.
#[derive(Debug)]
pub(crate) enum Message {
    Connected(usize),
    Disconnected(usize),
    Request {
        peer: usize,
        protocol: Protocol,
        bytes: Vec<u8>,
        exchange: u64,
    },
    Answered {
        peer: usize,
        purpose: Purpose,
        bytes: Option<Vec<u8>>,
    },
    Gossip {
        peer: usize,
        frame: Frame,
        again: bool,
    },
    /// Something for one space.
    Space {
        space: usize,
        input: SpaceInput,
    },
    Tick,
    /// Whatever a node does every few seconds.
    Round,
}

/// What one replica is told by the people at its device.
#[derive(Debug)]
pub(crate) enum SpaceInput {
    Transact { token: u64, steps: Vec<Step> },
    Query { token: u64, query: Query },
    Watch { token: u64, since: Option<Version> },
    Taken { token: u64, events: usize },
    Invite { token: u64, role: Role, uses: u32, expires_ms: u64 },
    Govern { token: u64, act: Act },
    Worked(JobDone),
}

/// What a device wants of the world.
#[derive(Debug)]
pub(crate) enum Wish {
    Request {
        peer: usize,
        protocol: Protocol,
        bytes: Vec<u8>,
        purpose: Purpose,
    },
    Reply {
        exchange: u64,
        bytes: Vec<u8>,
        space: Option<usize>,
    },
    Spread {
        frame: Frame,
        not_to: Option<usize>,
    },
    Work {
        space: usize,
        job: Job,
    },
    Answered {
        space: usize,
        token: u64,
        result: Result<Answer, DocumentError>,
    },
    Changed {
        space: usize,
        token: u64,
        events: Vec<ChangeEvent>,
    },
    Unwatched {
        space: usize,
        token: u64,
        reason: DocumentError,
    },
    Invited {
        space: usize,
        token: u64,
        outcome: Result<DeviceKey, WriteError>,
    },
    Governed {
        space: usize,
        token: u64,
        outcome: Result<(), WriteError>,
    },
    /// A peer is blamed, which is right only for a liar.
    Blamed {
        peer: usize,
        why: Blame,
    },
    /// Documents lack operations that can be read by now: a node opens the space again.
    BeginAnew,
    Note(Happening, [u64; 2]),
    /// Something happened that must not happen.
    Violation(String),
}

/// What a peer is blamed for.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "where it happened is told in the trace")]
pub(crate) enum Blame {
    Misbehaviour(Misbehaviour),
    /// It forwarded a frame that is invalid by itself.
    Rejected,
    /// It claims to hold another log.
    Equivocation {
        author: usize,
        sequence: u64,
    },
    /// It sent a request that does not decode.
    MalformedRequest,
    /// It sent an answer about joining that does not decode.
    MalformedJoinAnswer,
}
