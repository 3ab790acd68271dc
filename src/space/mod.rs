//! Spaces: one sans-IO core per space, the replica that ties it to its log and documents, and the pump that drives it.
//!
//! ```text
//! callers, network ──▶ pump ──▶ replica ┬─▶ desk (documents) ──▶ commits ─┐
//!                                       │                                ▼
//!                                       ├─◀─ applied, committed ◀─── core ◀──▶ engine (reconciliation)
//!                                       └─▶ log: append, one sync ──▶ durable ──▶ answers, gossip
//! ```
//!
//! [`core`] decides, [`replica`] adds the log and the documents and is still free of threads and clocks (the simulator
//! drives it), `pump` is the one thread that owns a space in a running node, [`handle`] is what callers hold.
//!
//! *Invariants:* the core never reads a clock, draws randomness, spawns, awaits or does IO; nothing is answered,
//! announced or shown before it is durable; no space can block another one.

pub mod branch_head;
pub mod core;
pub mod handle;
pub mod join;
pub mod keys;
pub mod log_state;
mod opening;
pub(crate) mod pump;
pub mod quota;
mod refusal;
pub mod replica;
mod sponsor;
mod steward;
pub mod tails;
mod testimony;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unknown_kinds;
pub mod withheld;

pub use self::branch_head::{BranchHead, ParseBranchHeadError};
pub use self::core::{Clock, SpaceCore, WriteError};
pub use handle::{Space, Watch};
pub use keys::SpaceKeys;
pub use quota::RelayQuota;
pub use replica::SpaceReplica;
pub use steward::Act;
