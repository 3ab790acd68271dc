//! What all routes share.

use tokio::sync::{Semaphore, watch};

use super::limits::OWN_BYTES_AT_ONCE;
use crate::Node;

/// The node behind the API, and what the API itself has to know.
#[derive(Debug)]
pub(super) struct ApiState {
    pub(super) node: Node,
    /// Turns true, or loses its sender, when the server stops: event streams end then.
    pub(super) stopping: watch::Receiver<bool>,
    /// Turns of requests whose large bodies are held in memory.
    pub(super) own_bytes: Semaphore,
}

impl ApiState {
    pub(super) fn new(node: Node, stopping: watch::Receiver<bool>) -> Self {
        Self { node, stopping, own_bytes: Semaphore::new(OWN_BYTES_AT_ONCE) }
    }
}
