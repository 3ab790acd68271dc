//! Syncline: a replicated datastore that keeps working offline.
//!
//! Every device holds its own replica of a *space*; JSON-like documents merge without conflicts; every operation is
//! signed by its author and sealed before it leaves the device; peers find each other and reconcile over libp2p. Start
//! with [`Node::builder`].

pub mod api;
pub mod documents;
mod error;
pub mod lines;
pub mod network;
pub mod node;
pub mod space;

pub use error::{Error, ErrorKind};
pub use node::{Node, NodeBuilder};
pub use space::{Space, Watch};
pub use syncline_model::{DeviceId, DeviceText, Role, SpaceId, Strings, Ticket};
pub use syncline_storage::{Activity, IndexKind, Progress};
