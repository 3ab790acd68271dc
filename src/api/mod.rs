//! The HTTP API of a node, and the only code that knows HTTP.
//!
//! ```text
//! connection ──▶ server (bounds) ──▶ guard (host, origin, token) ──▶ router ──▶ routes ──▶ Node, Space
//!                                                                        │
//!            body (the JSON), problem (what went wrong) ◀────────────────┘
//! ```
//!
//! It is bound to the loopback interface unless it is told otherwise, and every request but `/healthz` and
//! `/openapi.json` has to carry the token of the data directory or one that was made for it; `scopes` says what which
//! route needs, and a route that it does not name is the owner's alone. There are no CORS headers: pages of other
//! origins cannot read answers, and what they send to change something is refused.
//!
//! *Invariants:* a route holds no state of its own; nothing here knows libp2p, files of spaces, or Automerge.

pub mod body;
mod extract;
mod guard;
pub mod limits;
mod listen;
pub mod openapi;
mod problem;
mod router;
mod routes;
mod scopes;
mod server;
mod state;
mod token;

pub use listen::{ADDRESS_FILE, ApiAddress, BindError, DEFAULT_API_PORT, read_address};
pub use problem::{PROBLEM_MEDIA_TYPE, Problem, ProblemKind};
pub use routes::VERSION_HEADER;
pub use server::{ApiError, ApiServer, in_process};
pub use token::{ApiToken, TOKEN_FILE, token_path};
