//! Every maximum of the HTTP API, by name.

use std::time::Duration;

use crate::node::bytes::{OWN_BYTES_MAX, SEALED_BYTES_OVERHEAD};

/// Longest request body, in bytes: the plaintext of the largest transaction.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Longest body of a request on bytes of a person's own, in bytes: the most that is sealed, and the seal.
pub const OWN_BYTES_BODY_MAX: usize = OWN_BYTES_MAX + SEALED_BYTES_OVERHEAD;
/// Requests on such bytes that are worked on at once, since each is held in memory twice; more wait for their turn.
pub const OWN_BYTES_AT_ONCE: usize = 2;
/// Longest request line and headers together, in bytes; a percent-encoded key of the greatest length fits.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most connections open at once; more wait until one closes.
pub const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take to send the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to send the body of a request.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Most that is read of a body that is refused for its length, in bytes, so that its sender gets to see the refusal.
pub const REFUSED_BODY_BYTES_MAX: usize = 64 << 20;
/// How long a body that is refused for its length is read.
pub const REFUSED_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long open requests may go on after the server was told to stop.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after the operating system refuses to accept a connection, for example for want of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Most operations in one `POST …/transactions`.
pub const OPERATIONS_PER_TRANSACTION_MAX: usize = 10_000;
/// Entries on a page when the caller names no limit.
pub const PAGE_DEFAULT: usize = 100;
/// Most entries on a page; a larger limit is cut to it.
pub const PAGE_MAX: usize = 1000;
/// Longest wait for a version, in milliseconds; a longer one is cut to it.
pub const WAIT_MS_MAX: u64 = 300_000;
/// Wait for a version when the caller names none, in milliseconds.
pub const WAIT_MS_DEFAULT: u64 = 30_000;
/// Silence on an event stream after which a comment is sent, so that proxies and clients keep it open.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Most devices that one invitation admits.
pub const INVITATION_USES_MAX: u32 = 10_000;
/// Longest life of an invitation, in milliseconds: a year.
pub const INVITATION_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// Life of an invitation when the caller names none, in milliseconds: a week.
pub const INVITATION_MS_DEFAULT: u64 = 7 * 24 * 3600 * 1000;

/// Most devices that one request removes.
pub const REMOVED_AT_ONCE_MAX: usize = 100;

/// Longest line that is read from one of the API's own files, in bytes.
pub const OWN_FILE_BYTES_MAX: u64 = 4096;
