//! Why a space writes nothing, said so that a person knows what to do.

use syncline_model::DeviceId;
use syncline_model::limits::PAYLOAD_BYTES_MAX;

/// Why an operation cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Nobody has admitted this device yet.
    #[error(
        "this device is not a member of the space yet: joining completes when a writer of the space is online; \
         without a ticket, as after restoring a backup, ask for one and take it with `syncline space join`"
    )]
    NotAdmitted,
    /// The space is opened again, since something became known that takes back what counted.
    #[error("the space is just being opened again: repeat the request")]
    BegunAnew,
    /// The device was removed.
    #[error("this device was removed from the space; what it wrote before stays readable here")]
    Removed,
    /// Its log was cut when it lost the right to write.
    #[error("this device lost the right to write in the space; to write again it must be invited as a new device")]
    Cut,
    /// Its log forked.
    #[error(
        "two copies of this device have written: its data directory was copied and both were used. Stop one of them; \
         to go on, make a new device (`syncline init` in a new directory) and have it invited"
    )]
    Cloned,
    /// The device is not a member.
    #[error("{device} is not a member of the space: `syncline space members` lists them")]
    NotAMember {
        /// Which.
        device: DeviceId,
    },
    /// What is asked contradicts what is.
    #[error("{reason}")]
    NotPossible {
        /// Why.
        reason: &'static str,
    },
    /// The recovery key is another space's.
    #[error("this is not the recovery key of the space: it was shown once, when the space was created")]
    WrongRecoveryKey,
    /// The role does not write.
    #[error("this device is a {role} in the space and cannot write: ask the steward for an invitation as a writer")]
    ReadOnly {
        /// This device's role.
        role: &'static str,
    },
    /// Only the steward does this.
    #[error("only the steward of the space can do this")]
    NotSteward,
    /// The epoch's key has not arrived.
    #[error("the space's current key has not arrived yet: try again once a member is online")]
    NoKey,
    /// Too large for one operation.
    #[error("the transaction is larger than {PAYLOAD_BYTES_MAX} bytes: write it in several")]
    TooLarge,
    /// Something that this device's operations build on was damaged on the disk and is fetched again.
    #[error("operations that were damaged on this disk are fetched again from peers: try again once one is online")]
    Recovering,
    /// The log takes no more.
    #[error("the disk is full or failed; nothing was written")]
    Storage,
}
