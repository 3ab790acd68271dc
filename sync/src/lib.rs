//! Gossip and reconciliation of one space, as a state machine without input, output, clock or randomness.
//!
//! An [`Engine`] is given [`Event`]s and says what is to be done as [`Effect`]s; time and randomness are arguments. It
//! asks its owner about the space through [`Replica`]. The same events at the same times give the same effects.
//!
//! # The protocol
//!
//! 1. **Hello** ([`Hello`], [`HelloAnswer`]): two connected devices find out which spaces they share. That is the
//!    node's part; the engine hears [`Event::PeerShares`].
//! 2. **Comparison** ([`Request::Summary`]): both sides learn which authors' logs go further at the other one. It takes
//!    place on connect, on a jittered timer, and costs some 40 bytes when nothing differs.
//! 3. **Pull** ([`Request::Pull`]): each side asks for what it lacks, as ranges of authors' logs. The answer is a
//!    [`Page`] of runs, each with one signature at its end. Nothing is ever pushed in this way, so a device takes what
//!    it has room for.
//! 4. **Gossip** ([`Event::Gossip`], [`Effect::Publish`]): fresh operations reach everybody in sealed frames, before
//!    any comparison. It may lose, repeat and reorder.
//!
//! Missing things never are anybody's fault: runs before which something is missing, or whose author the membership
//! does not know yet, wait in bounded memory and are pulled again if they had to be dropped. A peer is blamed only for
//! bytes that are invalid by themselves, and left alone for a while.
//!
//! # Where to find what
//!
//! `messages` and `hello` are the bytes on the wire; `summary`, `page` and `schedule` are pure functions: comparing
//! vectors, building a page, choosing ranges. `exchange`, `pull`, `delivery`, `branches` and `gossip` are the parts
//! of the engine,
//! `peer` and `pending` what it remembers.

mod branches;
mod delivery;
mod engine;
mod event;
mod exchange;
mod gossip;
mod hello;
pub mod limits;
mod messages;
mod page;
mod peer;
mod pending;
mod pull;
mod schedule;
#[cfg(test)]
mod simulation;
mod status;
mod summary;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use engine::{Config, Engine};
pub use event::{Effect, Event, FrameId, Misbehaviour, Path, Replica, RequestId, Token, Verdict};
pub use hello::{Hello, HelloAnswer, PeerTags, Shared, SharedSpace};
pub use messages::{
    Forked, Message, PROTOCOL, Page, Part, Range, Request, Response, RunBytes, Scope, SummaryAnswer, SummaryEntry,
};
pub use page::Serving;
pub use status::{Counters, Load, PeerStatus, Status};
