//! What a Syncline operation is: identifiers, signing, sealing, runs, version vectors, membership and admission rules.
//!
//! Everything here is pure: no clock, no ambient randomness, no input or output. Time and random generators are
//! arguments, so that a simulator can replay whatever a node does.

pub mod admission;
pub mod bytes;
pub mod canonical;
pub mod causality;
pub mod device_text;
pub mod equivocation;
pub mod ids;
pub mod keys;
pub mod limits;
pub mod membership;
pub mod operation;
pub mod payload;
#[doc(hidden)]
pub mod planted;
pub mod run;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod ticket;
pub mod vector;

pub use admission::{Admission, Admitted};
pub use bytes::BytesSignature;
pub use canonical::DecodeError;
pub use causality::{Causality, Past};
pub use device_text::DeviceText;
pub use equivocation::{ForkProof, branch_log};
pub use ids::{DeviceId, IdPrefix, OperationId, SpaceId};
pub use keys::{ContentKey, DeviceKey, ExchangeKey, ReplicationSecret, SpaceTag};
pub use membership::{Membership, Role, Strings};
pub use operation::{Dependency, Header, Kind};
pub use payload::{Action, DocumentKey, Entry, Lineage, Transaction};
pub use run::{Run, RunOperation, VerifiedRun};
pub use summary::{OperationSummary, RunSummary};
pub use ticket::Ticket;
pub use vector::{VectorEntry, VersionVector};
