//! What a replica must know of every stored run without reading the log again.
//!
//! A summary stands in the index beside the run's position. It can always be made anew from the run.

use serde::{Deserialize, Serialize};

use crate::canonical::{self, DecodeError};
use crate::ids::{DeviceId, OperationId};
use crate::limits::CONTROL_PAYLOAD_BYTES_MAX;
use crate::operation::{Dependency, Kind};
use crate::run::Run;

/// One operation as far as chains, causality and membership need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// Its id.
    pub id: OperationId,
    /// What it is for.
    pub kind: Kind,
    /// How many membership records its author knew.
    pub membership: u64,
    /// The epoch that seals it.
    pub epoch: u32,
    /// Other authors' operations that it builds on.
    pub dependencies: Vec<Dependency>,
    /// The public payload of a control kind that this release acts on; empty for all others, and for one beyond the
    /// limit, which no reader of it takes.
    pub control: Vec<u8>,
}

/// One stored run as far as chains, causality and membership need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Whose log it is a stretch of.
    pub author: DeviceId,
    /// The first operation's sequence.
    pub first: u64,
    /// The id before the first operation.
    pub previous: OperationId,
    /// The operations, from the first; never empty.
    pub operations: Vec<OperationSummary>,
}

fn control(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let acted_on = matches!(kind, Kind::ADMIT | Kind::KEY_DELIVERY | Kind::MEMBERSHIP | Kind::EQUIVOCATION);
    if acted_on && payload.len() <= CONTROL_PAYLOAD_BYTES_MAX { payload.to_vec() } else { Vec::new() }
}

impl RunSummary {
    /// Summarises a run.
    pub fn of(run: &Run) -> Self {
        let summarise = |operation: &crate::run::RunOperation| OperationSummary {
            id: operation.id,
            kind: operation.kind,
            membership: operation.membership,
            epoch: operation.epoch,
            dependencies: operation.dependencies.clone(),
            control: control(operation.kind, run.payload(operation)),
        };
        Self {
            author: run.author(),
            first: run.first(),
            previous: run.previous(),
            operations: run.operations().iter().map(summarise).collect(),
        }
    }

    /// The last operation's sequence.
    pub fn last(&self) -> u64 {
        self.first + self.operations.len() as u64 - 1
    }

    /// The last operation's id.
    pub fn last_id(&self) -> OperationId {
        self.operations.last().expect("a summary is never empty").id
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        canonical::encode(self)
    }

    /// Parses what [`RunSummary::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let summary: Self = canonical::decode(bytes, "run summary")?;
        let room = u64::MAX - summary.operations.len() as u64;
        let begins = summary.first == 1;
        if summary.operations.is_empty()
            || summary.first == 0
            || summary.first >= room
            || begins != (summary.previous == OperationId::ZERO)
        {
            return Err(DecodeError::Malformed { what: "run summary" });
        }
        Ok(summary)
    }
}
