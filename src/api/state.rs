//! What all routes share.

use tokio::sync::watch;

use crate::Node;

/// The node behind the API, and what the API itself has to know.
#[derive(Debug)]
pub(super) struct ApiState {
    pub(super) node: Node,
    /// Turns true, or loses its sender, when the server stops: event streams end then.
    pub(super) stopping: watch::Receiver<bool>,
}
