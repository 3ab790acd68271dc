//! The error that the library's calls return, sorted by what a caller does next.

use std::path::PathBuf;
use std::time::Duration;

use syncline_model::SpaceId;
use syncline_model::bytes::BytesError;
use syncline_model::device_text::DeviceTextError;
use syncline_model::payload::KeyError;
use syncline_model::ticket::TicketError;
use syncline_storage::{BackupError, StorageError};

use crate::documents::{DocumentError, VersionError};
use crate::network::{ConnectError, NetworkError, TooManyBans};
use crate::node::recovery::RecoveryKeyError;
use crate::space::{ParseBranchHeadError, WriteError};

/// What a caller does next about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Name something that exists.
    NotFound,
    /// Correct the input.
    Invalid,
    /// Look at the present state and decide anew.
    Conflict,
    /// Get the right to do it.
    Forbidden,
    /// Split it.
    TooLarge,
    /// Use the process that holds the data directory, or end it.
    Locked,
    /// Repeat later.
    Unavailable,
    /// Wait longer, or give up.
    Timeout,
    /// Read the log: this is not the caller's fault.
    Internal,
}

/// Why a call failed; the text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data directory has no device yet.
    #[error(
        "`{}` holds no device yet: run `syncline init`, or name another directory with --data",
        .directory.display()
    )]
    NotInitialised {
        /// The directory.
        directory: PathBuf,
    },
    /// The data directory holds a device already.
    #[error("`{}` holds a device already: nothing was changed", .directory.display())]
    AlreadyInitialised {
        /// The directory.
        directory: PathBuf,
    },
    /// The local storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The network did not start.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A peer was not reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// As many peers are banned as allowed.
    #[error(transparent)]
    TooManyBans(#[from] TooManyBans),
    /// A device cannot ban itself.
    #[error("this is this device itself: name a peer, as `syncline peers` lists them")]
    OwnBan,
    /// Not an address.
    #[error("`{address}` is not a multiaddress: expected something like /ip4/192.0.2.1/tcp/34569")]
    BadAddress {
        /// The text.
        address: String,
    },
    /// The node was started without a network.
    #[error("this needs the network: start the node with `syncline serve`")]
    Offline,
    /// No such space here.
    #[error("there is no space `{asked}` on this device; {}", known_spaces(.known))]
    UnknownSpace {
        /// The name or id asked for.
        asked: String,
        /// The names of those that exist.
        known: Vec<String>,
    },
    /// The name is taken.
    #[error("a space named `{name}` exists on this device: choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The name is no name.
    #[error(
        "`{name}` cannot name a space: use 1 to 128 bytes of visible characters, no slash, \
         not the word `join` and nothing that is a space's id"
    )]
    BadName {
        /// The text.
        name: String,
    },
    /// The space is on this device already.
    #[error("this device has that space already, as `{name}`")]
    AlreadyJoined {
        /// Its name here.
        name: String,
    },
    /// Not a usable ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// The ticket's time is over.
    #[error("the ticket has expired: ask for a new one (`syncline space invite`)")]
    TicketExpired,
    /// The node was told which spaces to keep.
    #[error("this device keeps named spaces only, and {space} is none of them: add it to `relay_spaces` of `serve`")]
    NotRelayed {
        /// The space.
        space: SpaceId,
    },
    /// Not a document key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not a version.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A path is not a JSON pointer.
    #[error("{reason}")]
    BadPointer {
        /// What is wrong.
        reason: String,
    },
    /// A hash is not one.
    #[error("`{text}` is not a change hash: expected 64 hexadecimal characters as `history` shows them")]
    BadHash {
        /// The text.
        text: String,
    },
    /// A call about documents.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A call that writes.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// No such member.
    #[error("no member's id begins with `{asked}`: `syncline space members` lists them")]
    UnknownMember {
        /// What was asked for.
        asked: String,
    },
    /// No such invitation.
    #[error("no invitation's id begins with `{asked}`: `syncline space invitations` lists them")]
    UnknownInvitation {
        /// What was asked for.
        asked: String,
    },
    /// Several ids begin alike.
    #[error("{count} ids begin with `{asked}`: type more of it")]
    AmbiguousId {
        /// What was asked for.
        asked: String,
        /// How many.
        count: usize,
    },
    /// Too little of an id.
    #[error("type at least {least} characters of the id, or all of it")]
    ShortId {
        /// The fewest characters.
        least: usize,
    },
    /// Not a recovery key.
    #[error(transparent)]
    RecoveryKey(#[from] RecoveryKeyError),
    /// Not the name of an operation up to which a log is to count.
    #[error(transparent)]
    BranchHead(#[from] ParseBranchHeadError),
    /// The role cannot be given.
    #[error("a space has one steward; invite as writer, reader or relay")]
    BadRole,
    /// It took too long.
    #[error("nothing came within {} ms", .waited.as_millis())]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
    /// A file that belongs to the data directory is damaged.
    #[error("{what} in the data directory is damaged: restore it from a backup, or begin anew in another directory")]
    DamagedFile {
        /// Which.
        what: &'static str,
    },
    /// A backup could not be written, read or restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A backup's file cannot be opened.
    #[error("cannot open `{}`: {source}", .path.display())]
    BackupFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text cannot be a passphrase.
    #[error("a passphrase has 1 to {limit} bytes")]
    BadPassphrase {
        /// The most bytes.
        limit: usize,
    },
    /// The keys in a backup are under a passphrase.
    #[error("the backup's keys are under a passphrase, and none was given")]
    PassphraseNeeded,
    /// Another passphrase was used.
    #[error("that is not the passphrase that the backup was made with")]
    WrongPassphrase,
    /// Bytes of a person's own, or their signature.
    #[error(transparent)]
    Bytes(#[from] BytesError),
    /// Not the text of a device.
    #[error(transparent)]
    DeviceText(#[from] DeviceTextError),
    /// No such token here.
    #[error("there is no API token `{asked}`: `syncline token list` shows those that there are")]
    UnknownToken {
        /// The id asked for.
        asked: String,
    },
    /// The name of a token is no name.
    #[error("a token's name has 1 to {limit} bytes of visible characters")]
    BadTokenName {
        /// The most bytes.
        limit: usize,
    },
    /// The life of a token is out of its range.
    #[error("a token that expires lasts more than nothing and ten years at most")]
    BadTokenLife,
    /// No further token can be made.
    #[error("there are {limit} API tokens, which is the limit: revoke some with `syncline token revoke`")]
    TooManyTokens {
        /// The limit.
        limit: usize,
    },
    /// The keys in the data directory are under a passphrase that was not given.
    #[error(
        "the keys in the data directory are under a passphrase: name a file that holds it with --passphrase-file, or \
         set SYNCLINE_PASSPHRASE"
    )]
    KeysLocked,
    /// Another passphrase is over the keys in the data directory.
    #[error("that is not the passphrase of this data directory")]
    WrongKeyPassphrase,
    /// The node is ending.
    #[error("the node is stopping")]
    Stopping,
}

fn known_spaces(known: &[String]) -> String {
    if known.is_empty() {
        "it has none yet: `syncline space create` or `syncline space join` adds one".to_owned()
    } else {
        format!("it has {}", known.join(", "))
    }
}

impl Error {
    /// No space of this name or id, among these.
    pub(crate) fn unknown_space<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> Self {
        Self::UnknownSpace {
            asked: asked.chars().take(80).collect(),
            known: names.map(|name| format!("`{name}`")).collect(),
        }
    }

    pub(crate) fn unknown_member(asked: &str) -> Self {
        Self::UnknownMember { asked: asked.chars().take(80).collect() }
    }

    pub(crate) fn unknown_invitation(asked: &str) -> Self {
        Self::UnknownInvitation { asked: asked.chars().take(80).collect() }
    }

    /// What a caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotInitialised { .. }
            | Self::UnknownSpace { .. }
            | Self::UnknownToken { .. }
            | Self::UnknownMember { .. }
            | Self::UnknownInvitation { .. }
            | Self::Write(WriteError::NotAMember { .. }) => ErrorKind::NotFound,
            Self::AlreadyInitialised { .. }
            | Self::NameTaken { .. }
            | Self::AlreadyJoined { .. }
            | Self::TooManyTokens { .. }
            | Self::TooManyBans(_)
            | Self::Write(WriteError::NotPossible { .. }) => ErrorKind::Conflict,
            Self::Storage(error) | Self::Backup(BackupError::Storage(error)) => storage_kind(error),
            Self::Backup(BackupError::Io { .. }) => ErrorKind::Internal,
            Self::BackupFile { .. } => ErrorKind::NotFound,
            Self::NotRelayed { .. } => ErrorKind::Forbidden,
            Self::WrongPassphrase | Self::KeysLocked | Self::WrongKeyPassphrase => ErrorKind::Forbidden,
            Self::Network(NetworkError::AddressInUse { .. }) | Self::Offline | Self::Stopping => ErrorKind::Unavailable,
            Self::Network(_) | Self::DamagedFile { .. } => ErrorKind::Internal,
            Self::Connect(ConnectError::Banned { .. }) => ErrorKind::Conflict,
            Self::Connect(_) => ErrorKind::Unavailable,
            Self::Bytes(BytesError::TooLarge { .. }) => ErrorKind::TooLarge,
            Self::BadAddress { .. }
            | Self::OwnBan
            | Self::BadName { .. }
            | Self::Ticket(_)
            | Self::TicketExpired
            | Self::Key(_)
            | Self::Version(_)
            | Self::BadPointer { .. }
            | Self::BadHash { .. }
            | Self::Backup(_)
            | Self::BadPassphrase { .. }
            | Self::PassphraseNeeded
            | Self::BadTokenName { .. }
            | Self::BadTokenLife
            | Self::Bytes(_)
            | Self::DeviceText(_)
            | Self::AmbiguousId { .. }
            | Self::ShortId { .. }
            | Self::RecoveryKey(_)
            | Self::BranchHead(_)
            | Self::BadRole => ErrorKind::Invalid,
            Self::Document(error) => document_kind(error),
            Self::Write(WriteError::TooLarge) => ErrorKind::TooLarge,
            Self::Write(
                WriteError::NotAdmitted
                | WriteError::NoKey
                | WriteError::Recovering
                | WriteError::BegunAnew
                | WriteError::Storage,
            ) => ErrorKind::Unavailable,
            Self::Write(_) => ErrorKind::Forbidden,
            Self::Timeout { .. } => ErrorKind::Timeout,
        }
    }
}

fn storage_kind(error: &StorageError) -> ErrorKind {
    match error {
        StorageError::InUse { .. } => ErrorKind::Locked,
        StorageError::Missing { .. } => ErrorKind::NotFound,
        StorageError::Full { .. } | StorageError::NoRoomToOpen { .. } => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn document_kind(error: &DocumentError) -> ErrorKind {
    match error {
        DocumentError::NotFound { .. } | DocumentError::UnknownChange { .. } => ErrorKind::NotFound,
        DocumentError::BadEdit { source, .. } if source.is_too_large() => ErrorKind::TooLarge,
        DocumentError::BadEdit { .. } | DocumentError::BadChange { .. } | DocumentError::ForeignVersion { .. } => {
            ErrorKind::Invalid
        }
        DocumentError::TooLarge { .. } => ErrorKind::TooLarge,
        DocumentError::NotWritable { .. } | DocumentError::LostRight { .. } => ErrorKind::Forbidden,
        DocumentError::Undone { .. } => ErrorKind::Conflict,
        DocumentError::Overloaded { .. }
        | DocumentError::NoRoom(_)
        | DocumentError::BegunAnew
        | DocumentError::NotYet { .. }
        | DocumentError::Stopping => ErrorKind::Unavailable,
        DocumentError::Cancelled => ErrorKind::Timeout,
        _ => ErrorKind::Internal,
    }
}
