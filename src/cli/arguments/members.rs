//! The grammar of what concerns members and keys, all under `syncline space`.

use std::path::PathBuf;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{Subcommand, ValueEnum};

use super::{RoleArgument, Space};

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List the members of a space
    Members(Space),
    /// Make a device a member without an invitation; only the steward can
    ///
    /// The device must hold the space already to find its peers, as one that was restored from a backup with keys does.
    /// Any other device is invited: `syncline space invite`.
    Add {
        #[command(flatten)]
        space: Space,
        /// What `syncline device` shows there, beginning with `syncline-device:`
        #[arg(value_name = "DEVICE-TEXT", value_parser = NonEmptyStringValueParser::new())]
        device_text: String,
        /// Its role
        #[arg(long, value_enum, env = "SYNCLINE_ROLE")]
        role: RoleArgument,
    },
    /// Remove members for good; only the steward can
    ///
    /// A new epoch begins: what is written from then on is under keys that the removed devices do not get. Their logs
    /// are cut where they stand on this device: what it holds of them counts, what they write later does not. They keep
    /// what they could read before. Open invitations are closed. Until a writer hears of the removal, the removed
    /// devices can read what it writes.
    Remove {
        #[command(flatten)]
        space: Space,
        /// The devices: their ids as `members` shows them, or the first eight characters or more
        #[arg(value_name = "DEVICE", required = true, value_parser = NonEmptyStringValueParser::new())]
        devices: Vec<String>,
    },
    /// Give a member another role; only the steward can
    ///
    /// A member that loses the right to write never gets it back: its log is cut where it stands on this device. One
    /// that becomes a relay gets no further keys, and a new epoch begins.
    Role {
        #[command(flatten)]
        space: Space,
        /// The device: its id as `members` shows it, or the first eight characters or more
        #[arg(value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
        device: String,
        /// The new role
        #[arg(value_enum)]
        role: RoleArgument,
    },
    /// Begin a new epoch: new keys for what is written from now on; only the steward can
    Rotate(Space),
    /// Make another writer the steward, and this device a writer; only the steward can
    Handover {
        #[command(flatten)]
        space: Space,
        /// The device: its id as `members` shows it, or the first eight characters or more
        #[arg(value_name = "DEVICE", value_parser = NonEmptyStringValueParser::new())]
        device: String,
    },
    /// Make this device the steward with the recovery key, and remove the former one
    ///
    /// For when the steward's device is lost, stolen or cloned. This device must be a member. The recovery key was
    /// shown once, when the space was created; it comes from --recovery-key-file, from SYNCLINE_RECOVERY_KEY, or typed.
    Recover {
        #[command(flatten)]
        space: Space,
        /// A file whose first line is the recovery key [env: SYNCLINE_RECOVERY_KEY may hold it itself]
        #[arg(long, value_name = "FILE", env = "SYNCLINE_RECOVERY_KEY_FILE")]
        recovery_key_file: Option<PathBuf>,
    },
    /// Let forked or cut logs count up to some operations; only the steward can
    ///
    /// `syncline space show` prints, for what is held and does not count, the text that this command takes.
    Resolve {
        #[command(flatten)]
        space: Space,
        /// The last operation of each stretch that is to count
        #[arg(value_name = "DEVICE:SEQUENCE:OPERATION-ID", required = true,
              value_parser = NonEmptyStringValueParser::new())]
        heads: Vec<String>,
    },
    /// List the invitations of a space, closed ones included
    Invitations(Space),
    /// End an invitation before it expires; only the steward can
    Revoke {
        #[command(flatten)]
        space: Space,
        /// The invitation's id as `invitations` shows it, or the first eight characters or more
        #[arg(value_name = "INVITATION", value_parser = NonEmptyStringValueParser::new())]
        invitation: String,
    },
    /// Say whether those who join from now on read what was written before; only the steward can
    Newcomers {
        #[command(flatten)]
        space: Space,
        /// What they get of the space's history; withheld takes effect with a new epoch at each invitation
        #[arg(long, value_enum, env = "SYNCLINE_HISTORY")]
        history: HistoryArgument,
    },
    /// Tell what was decided about the members: who admitted whom and when, what was cut, when keys changed
    Log(Space),
    /// Print what this device wrote and does not count, as lines of JSON, to be written again by another device
    ///
    /// They are what it wrote after it was removed, after it lost the right to write, or beside a copy of its data
    /// directory. Each line tells what one operation did to one document: key, at_ms, sequence, deleted, and the value
    /// that the document would have now if this device's operations counted up to that one. A value is null, with the
    /// reason, when the change cannot be applied to the document as it is now.
    Uncounted {
        #[command(flatten)]
        space: Space,
        /// Print one line for each document, {"key":…,"value":…}, the form that `import` reads
        #[arg(long, env = "SYNCLINE_DOCUMENTS", value_parser = BoolishValueParser::new())]
        documents: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HistoryArgument {
    /// They read all of it
    Shared,
    /// They read what is written after they are invited
    Withheld,
}
