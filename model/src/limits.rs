//! Every maximum of the format and of the protocol, by name.
//!
//! A limit that two replicas must agree on (because bytes beyond it are refused) is part of the format: raising it
//! takes a new format version. The others are choices of one node.

/// Longest canonical operation, header and payload, in bytes.
pub const OPERATION_BYTES_MAX: usize = 4 << 20;
/// Longest payload of one operation, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = OPERATION_BYTES_MAX - (64 << 10);
/// Longest plaintext after inflation, in bytes.
pub const PLAINTEXT_BYTES_MAX: usize = 16 << 20;
/// Most dependencies one operation names; an author that needs more writes empty merging operations first.
pub const DEPENDENCIES_MAX: usize = 64;
/// Most entries (changes and deletes) one transaction carries.
pub const ENTRIES_PER_OPERATION_MAX: usize = 10_000;
/// Longest document key, in bytes of UTF-8.
pub const DOCUMENT_KEY_BYTES_MAX: usize = 1024;
/// Longest single Automerge change, in bytes.
pub const CHANGE_BYTES_MAX: usize = 3 << 20;

/// Most operations one run carries.
pub const RUN_OPERATIONS_MAX: usize = 4096;
/// Most bytes one run takes, unless it is a single operation.
pub const RUN_BYTES_MAX: usize = 2 << 20;
/// Longest encoded run that is parsed: one operation of the greatest size with its frame.
pub const RUN_ENCODED_BYTES_MAX: usize = RUN_BYTES_MAX + OPERATION_BYTES_MAX + 4096;

/// Most members a space has.
pub const MEMBERS_MAX: usize = 10_000;
/// Most open invitations a space has.
pub const INVITATIONS_MAX: usize = 10_000;
/// Most membership records that are kept, those left out by a takeover included.
pub const RECORDS_KEPT_MAX: usize = 100_000;
/// How far the number of an epoch is beyond the one before it at most: nobody uses up the numbers.
pub const EPOCH_STEP_MAX: u32 = 1 << 15;
const _: () = assert!((RECORDS_KEPT_MAX as u64) * (EPOCH_STEP_MAX as u64) < u32::MAX as u64);
/// Most branch heads that a space's records let count.
pub const RESOLVED_HEADS_MAX: usize = 4096;
/// Most branches that are held of one forked log.
pub const BRANCHES_PER_AUTHOR_MAX: usize = 64;
/// Longest membership record, admission or key delivery, in bytes.
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Most operations that are authentic and stored but wait for a dependency before they count, per space.
pub const WAITING_OPERATIONS_MAX: usize = 1 << 20;

/// Longest name of a space or a device, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;
/// Most addresses a ticket carries.
pub const TICKET_ADDRESSES_MAX: usize = 16;
/// Longest ticket text, in bytes.
pub const TICKET_TEXT_BYTES_MAX: usize = 8192;
/// Longest device text, white space included, in bytes.
pub const DEVICE_TEXT_BYTES_MAX: usize = 1024;
/// Most bytes of a person's own that are sealed or signed at once.
pub const OWN_BYTES_MAX: usize = 64 << 20;
/// Longest text of a signature over such bytes, white space included, in bytes.
pub const SIGNATURE_TEXT_BYTES_MAX: usize = 1024;
