//! The command line's grammar.

mod members;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use syncline::SpaceId;

use super::duration::parse_duration_ms;
use super::failure::EXIT_CODES;

pub(crate) use self::members::{HistoryArgument, MemberCommand};

/// A replicated datastore that keeps working offline: signed, sealed, conflict-free documents between peers.
///
/// Commands talk to the node that runs on the data directory; when none runs they open the directory themselves.
#[derive(Debug, Parser)]
#[command(name = "syncline", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The data directory [default: the platform's directory for application data]
    #[arg(long, global = true, value_name = "DIR", env = "SYNCLINE_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Write JSON, one value a line
    #[arg(long, global = true, env = "SYNCLINE_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) json: bool,
    /// What to log to the standard error, such as `info` or `syncline=debug` [env: RUST_LOG too]
    #[arg(long, global = true, value_name = "FILTER", env = "SYNCLINE_LOG")]
    pub(crate) log: Option<String>,
    #[command(flatten)]
    pub(crate) passphrase: PassphraseSource,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// What keeps the index of a new directory [default: sled]
    #[arg(long, value_enum, env = "SYNCLINE_INDEX")]
    pub(crate) index: Option<IndexArgument>,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) space: OptionalSpace,
    /// Which signatures to check; checksums are checked in any case
    #[arg(long, value_enum, default_value = "all", env = "SYNCLINE_SIGNATURES")]
    pub(crate) signatures: SignaturesArgument,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SignaturesArgument {
    /// Every run's
    All,
    /// Those of one in sixteen runs
    Sample,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file; it must not exist, unless it is to be checked
    pub(crate) file: PathBuf,
    /// Write nothing: read an existing backup to its end and check all of it
    #[arg(long, env = "SYNCLINE_CHECK", value_parser = BoolishValueParser::new(),
          conflicts_with_all = ["with_keys", "backup_passphrase_file"])]
    pub(crate) check: bool,
    /// Put the spaces' keys in, under a passphrase; asks for it unless it is given
    #[arg(long, env = "SYNCLINE_WITH_KEYS", value_parser = BoolishValueParser::new())]
    pub(crate) with_keys: bool,
    #[command(flatten)]
    pub(crate) passphrase: BackupPassphraseSource,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup
    pub(crate) file: PathBuf,
    /// Leave out the keys that are in the backup; no passphrase is needed then
    #[arg(long, env = "SYNCLINE_WITHOUT_KEYS", value_parser = BoolishValueParser::new(),
          conflicts_with = "backup_passphrase_file")]
    pub(crate) without_keys: bool,
    /// What keeps the index of the new directory [default: sled]
    #[arg(long, value_enum, env = "SYNCLINE_INDEX")]
    pub(crate) index: Option<IndexArgument>,
    #[command(flatten)]
    pub(crate) passphrase: BackupPassphraseSource,
}

/// Where the passphrase over the keys of the data directory comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PassphraseSource {
    /// A file whose first line is the passphrase over the data directory's keys, if they are under one
    /// [env: SYNCLINE_PASSPHRASE may hold the passphrase itself]
    #[arg(long, global = true, value_name = "FILE", env = "SYNCLINE_PASSPHRASE_FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Where the passphrase over the keys in a backup comes from.
#[derive(Debug, Args)]
pub(crate) struct BackupPassphraseSource {
    /// A file whose first line is the backup's passphrase [env: SYNCLINE_BACKUP_PASSPHRASE may hold it itself]
    #[arg(long, value_name = "FILE", env = "SYNCLINE_BACKUP_PASSPHRASE_FILE")]
    pub(crate) backup_passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Set or replace the passphrase over the device's key and the spaces' keys; for a directory that no node uses
    ///
    /// From then on `serve`, and every command that opens the directory itself, needs the passphrase: from
    /// --passphrase-file, from SYNCLINE_PASSPHRASE, or typed. Commands to a running node do not.
    Passphrase {
        /// Remove the passphrase
        #[arg(long, env = "SYNCLINE_REMOVE", value_parser = BoolishValueParser::new(),
              conflicts_with = "new_passphrase_file")]
        remove: bool,
        /// A file whose first line is the new passphrase [env: SYNCLINE_NEW_PASSPHRASE may hold it itself]
        #[arg(long, value_name = "FILE", env = "SYNCLINE_NEW_PASSPHRASE_FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for another program and print it, this once
    Create {
        /// What it allows; each scope includes the ones before it
        #[arg(long, value_enum, default_value = "read", env = "SYNCLINE_SCOPE")]
        scope: ScopeArgument,
        /// The space that it is for, by name or id [default: all, and the node itself]
        #[arg(long, value_name = "SPACE", env = "SYNCLINE_SPACE", value_parser = NonEmptyStringValueParser::new())]
        space: Option<String>,
        /// What to call it
        #[arg(long, value_name = "NAME", env = "SYNCLINE_NAME", value_parser = NonEmptyStringValueParser::new())]
        name: Option<String>,
        /// For how long it is good [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms, env = "SYNCLINE_EXPIRES")]
        expires: Option<u64>,
    },
    /// List the tokens
    List,
    /// End a token: requests with it are refused from now on, and streams that it opened end
    Revoke {
        /// The token's id, as the list shows it
        id: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ScopeArgument {
    /// Reading
    Read,
    /// Writing documents
    Write,
    /// Everything else: members, invitations, spaces, peers, tokens, the device's own signature
    Admin,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BytesCommand {
    /// Seal bytes so that one device alone can open them; needs no data directory
    Seal {
        /// Whom they are for: the text that `syncline device` shows there
        #[arg(long = "for", value_name = "DEVICE-TEXT", env = "SYNCLINE_FOR")]
        recipient: String,
        /// The file [default: the standard input]
        file: Option<PathBuf>,
        /// A new file to write [default: the standard output]
        #[arg(long, value_name = "FILE", env = "SYNCLINE_OUTPUT")]
        output: Option<PathBuf>,
    },
    /// Open bytes that were sealed for this device
    Open {
        /// The file [default: the standard input]
        file: Option<PathBuf>,
        /// A new file to write [default: the standard output]
        #[arg(long, value_name = "FILE", env = "SYNCLINE_OUTPUT")]
        output: Option<PathBuf>,
    },
    /// Sign bytes with this device's key and print the signature
    Sign {
        /// The file [default: the standard input]
        file: Option<PathBuf>,
    },
    /// Check that a device signed bytes; needs no data directory
    Verify {
        /// The device that should have signed: its id or its text, as `syncline device` shows them there
        #[arg(long, value_name = "DEVICE", env = "SYNCLINE_BY")]
        by: String,
        /// The signature, beginning with `syncline-signature:`
        #[arg(long, value_name = "SIGNATURE", env = "SYNCLINE_SIGNATURE")]
        signature: String,
        /// The file [default: the standard input]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// What is to keep the index
    #[arg(long, value_enum, env = "SYNCLINE_INDEX")]
    pub(crate) index: IndexArgument,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IndexArgument {
    Sled,
    Redb,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Stop after this many of the recording's 26,078 edits
    #[arg(long, value_name = "N", env = "SYNCLINE_EDITS")]
    pub(crate) edits: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the data directory a new device
    Init(Init),
    /// Run a node until it is ended by Ctrl-C or SIGTERM
    Serve(ServeArguments),
    /// Create, list, share and join spaces
    #[command(subcommand)]
    Space(SpaceCommand),
    /// Make a document equal to a JSON object
    Put(Write),
    /// Apply a JSON merge patch (RFC 7396) to a document
    Patch(Write),
    /// Print a document
    Get(Get),
    /// Delete a document; concurrent edits elsewhere restore it
    Delete(Document),
    /// List the documents of a space
    List(List),
    /// Print changes as they become visible, until Ctrl-C
    Watch(Watch),
    /// List the changes of a document, newest first
    History(History),
    /// List places where concurrent writes left several values
    Conflicts(Conflicts),
    /// End a conflict by writing the value that remains
    Resolve(Resolve),
    /// Show this device: its id, its exchange key, and the text by which others address it
    Device,
    /// Set, replace or remove the passphrase over this device's keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make, list and revoke tokens with which other programs use the API
    #[command(subcommand)]
    Token(TokenCommand),
    /// Seal bytes for a device, open, sign and verify them; 64 MiB at most
    #[command(subcommand)]
    Bytes(BytesCommand),
    /// Write many documents from lines of JSON, {"key":…,"value":…} each, plain or gzip
    Import(Import),
    /// Print all documents as lines of JSON, the form that `import` reads
    Export(Export),
    /// Tell how the node, or one space, is doing
    Status(OptionalSpace),
    /// List the peers of the running node, or ban one
    Peers(Peers),
    /// Connect the running node to a peer and keep the connection
    Connect(Connect),
    /// Check everything that is stored: records, signatures, the index, documents against their operations
    ///
    /// Works with and without a running node, reads everything and changes nothing. The exit code is 1 when anything
    /// is wrong. Damaged stretches that are in quarantine, and whose operations are held again, are not wrong: they
    /// stay in the log and are left out.
    Verify(Verify),
    /// Keep the index in another store; for a directory that no node uses
    Convert(Convert),
    /// Put aside what is damaged, and say what is missing; for a directory that no node uses
    ///
    /// Makes the index anew from the log. All that can be read stays; stretches that cannot are put in quarantine,
    /// which means that they are left out from then on, and long ones give their room back to the disk. The operations
    /// in them are fetched again at the next contact with a peer that holds them.
    Repair(OptionalSpace),
    /// Write all spaces to one file, also while a node runs
    ///
    /// The file holds every operation, sealed as it is. Spaces' keys go in only under a passphrase (--with-keys); this
    /// device's own key never does: restoring makes a new device. A file without keys helps a member to come back
    /// quickly, since the operations need not be fetched again, and nobody else.
    Backup(Backup),
    /// Make a new device from a backup, in the directory that --data names
    ///
    /// The new device holds what the backup holds, and reads it if the keys are inside. It writes once a member has
    /// admitted it: ask the steward for a ticket (`syncline space invite`) and take it with `syncline space join`.
    Restore(Restore),
    /// Show three nodes that type, part, meet again and agree, in a temporary directory
    Demo(Demo),
}

/// Options of `serve`; each can also stand in the configuration file, without `no-` and with _ for -.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// The configuration file [default: config.toml in the data directory, if it exists]
    #[arg(long, value_name = "FILE", env = "SYNCLINE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// An address to listen on for peers, such as /ip4/0.0.0.0/tcp/34569; repeat for several
    #[arg(long, value_name = "MULTIADDR", env = "SYNCLINE_LISTEN", value_delimiter = ',')]
    pub(crate) listen: Vec<String>,
    /// Where to serve the HTTP API [default: 127.0.0.1:34570, or any free port if that one is taken]
    #[arg(long, value_name = "ADDR", env = "SYNCLINE_API", value_parser = parse_api_address)]
    pub(crate) api: Option<SocketAddr>,
    /// A peer to connect to and keep; repeat for several
    #[arg(long, value_name = "MULTIADDR", env = "SYNCLINE_BOOTSTRAP", value_delimiter = ',')]
    pub(crate) bootstrap: Vec<String>,
    /// Do not look for peers on the local network
    #[arg(long, env = "SYNCLINE_NO_MDNS", value_parser = BoolishValueParser::new())]
    pub(crate) no_mdns: bool,
    /// Do not use TCP
    #[arg(long, env = "SYNCLINE_NO_TCP", value_parser = BoolishValueParser::new())]
    pub(crate) no_tcp: bool,
    /// Do not use QUIC
    #[arg(long, env = "SYNCLINE_NO_QUIC", value_parser = BoolishValueParser::new())]
    pub(crate) no_quic: bool,
    /// Memory for the loaded documents of all spaces together, in MiB [default: 64]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_DOCUMENT_CACHE_MIB",
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) document_cache_mib: Option<u32>,
    /// How many stored bytes to go over in a second, to find damage before it is met; 0: none [default: 1048576]
    #[arg(long, value_name = "BYTES", env = "SYNCLINE_SCRUB_BYTES_PER_SECOND")]
    pub(crate) scrub_bytes_per_second: Option<u64>,
    /// Memory for the cache of the index, in MiB [default: 32]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_INDEX_CACHE_MIB",
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) index_cache_mib: Option<u32>,
    /// Disk space to hold in reserve for when something else fills the disk, in MiB; 0: none [default: 64]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_RESERVE_MIB",
          value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) reserve_mib: Option<u32>,
    /// Gossip frames that one peer may send in a second; further ones are dropped unopened [default: 16384]
    #[arg(long, value_name = "N", env = "SYNCLINE_PEER_FRAMES_PER_SECOND",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) peer_frames_per_second: Option<u32>,
    /// Gossip that one peer may send in a second, in MiB; further frames are dropped unopened [default: 64]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_PEER_GOSSIP_MIB_PER_SECOND",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) peer_gossip_mib_per_second: Option<u32>,
    /// Requests of one peer that are read in a second; further ones are refused [default: 1024]
    #[arg(long, value_name = "N", env = "SYNCLINE_PEER_REQUESTS_PER_SECOND",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) peer_requests_per_second: Option<u32>,
    /// What one peer is served in a second, in MiB; beyond it its requests are refused [default: 128]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_PEER_SERVED_MIB_PER_SECOND",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) peer_served_mib_per_second: Option<u32>,
    /// What to store of each space in which this device is a relay, in MiB [default: 10240]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_RELAY_QUOTA_MIB",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) relay_quota_mib: Option<u64>,
    /// What to store there of each author, in MiB [default: 2048]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_RELAY_AUTHOR_QUOTA_MIB",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) relay_author_quota_mib: Option<u64>,
    /// A space to keep as a relay; repeat for several. No other space is joined then [default: any]
    #[arg(long, value_name = "SPACE-ID", env = "SYNCLINE_RELAY_SPACES", value_delimiter = ',')]
    pub(crate) relay_spaces: Vec<SpaceId>,
    /// Disk space that the data directory may take, in MiB; nothing new is taken in beyond [default: no bound]
    #[arg(long, value_name = "MIB", env = "SYNCLINE_DISK_USE_MAX_MIB",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) disk_use_max_mib: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpaceCommand {
    /// Found a space; prints its id and, this once, its recovery key
    Create {
        /// Its name on this device
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// How strings are stored: as single values, or as text that merges character by character
        #[arg(long, value_enum, default_value = "scalar", env = "SYNCLINE_STRINGS")]
        strings: StringsArgument,
    },
    /// List the spaces on this device
    List,
    /// Tell how a space is doing
    Show(Space),
    /// Open an invitation and print its ticket
    Invite {
        #[command(flatten)]
        space: Space,
        /// The role that it gives
        #[arg(long, value_enum, env = "SYNCLINE_ROLE")]
        role: RoleArgument,
        /// How many devices it admits
        #[arg(long, value_name = "N", default_value_t = 1, env = "SYNCLINE_USES")]
        uses: u32,
        /// For how long it is good
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = parse_duration_ms,
              env = "SYNCLINE_EXPIRES")]
        expires: u64,
    },
    /// Take a ticket; a running node completes it as soon as it reaches a member
    Join {
        /// The ticket, beginning with `syncline:`
        ticket: String,
        /// The space's name on this device [default: the one in the ticket]
        #[arg(long, value_name = "NAME", env = "SYNCLINE_NAME")]
        name: Option<String>,
    },
    #[command(flatten)]
    Members(MemberCommand),
    /// Delete a space from this device; other members keep it
    Leave(Space),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StringsArgument {
    Scalar,
    Text,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleArgument {
    Writer,
    Reader,
    Relay,
}

#[derive(Debug, Args)]
pub(crate) struct Space {
    /// A space, by its name on this device or its id
    #[arg(value_name = "SPACE", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) space: String,
}

#[derive(Debug, Args)]
pub(crate) struct OptionalSpace {
    /// A space, by its name on this device or its id
    #[arg(value_name = "SPACE", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) space: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Document {
    #[command(flatten)]
    pub(crate) space: Space,
    /// The document's key, such as cities/FR/00001
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) key: String,
}

#[derive(Debug, Args)]
pub(crate) struct Write {
    #[command(flatten)]
    pub(crate) document: Document,
    /// A JSON object, or - to read it from the standard input
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
}

/// Waiting until a version is visible.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Answer only when this version, as a write gave it, is visible here
    #[arg(long, value_name = "VERSION", env = "SYNCLINE_WAIT_FOR")]
    pub(crate) wait_for: Option<String>,
    /// How long to wait for it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration_ms,
          env = "SYNCLINE_TIMEOUT")]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) document: Document,
    /// The document as it was after this change (a hash from `history`); repeat for several
    #[arg(long, value_name = "HASH", env = "SYNCLINE_AT", value_delimiter = ',')]
    pub(crate) at: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) space: Space,
    /// Only keys that begin with this text
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Print the documents' values too
    #[arg(long, env = "SYNCLINE_VALUES", value_parser = BoolishValueParser::new())]
    pub(crate) values: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) space: Space,
    /// Only keys that begin with this text
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Begin after this version instead of now
    #[arg(long, value_name = "VERSION", env = "SYNCLINE_SINCE")]
    pub(crate) since: Option<String>,
    /// Print the documents' values too
    #[arg(long, env = "SYNCLINE_VALUES", value_parser = BoolishValueParser::new())]
    pub(crate) values: bool,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) document: Document,
    /// How many changes to print at most [default: all]
    #[arg(long, value_name = "N", env = "SYNCLINE_LIMIT")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    #[command(flatten)]
    pub(crate) space: Space,
    /// One document's key [default: all documents]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    #[command(flatten)]
    pub(crate) document: Document,
    /// The place, as `conflicts` names it, such as /title
    pub(crate) pointer: String,
    /// The value that remains, as JSON
    #[arg(long, value_name = "JSON", allow_hyphen_values = true, env = "SYNCLINE_VALUE")]
    pub(crate) value: String,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) space: Space,
    /// The file, or - for the standard input
    pub(crate) file: PathBuf,
    /// How many documents go into one transaction
    #[arg(long, value_name = "N", default_value_t = 500, env = "SYNCLINE_PER_TRANSACTION",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) per_transaction: u32,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) space: Space,
    /// Only keys that begin with this text
    #[arg(long, default_value = "", hide_default_value = true, env = "SYNCLINE_PREFIX")]
    pub(crate) prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct Peers {
    #[command(subcommand)]
    pub(crate) command: Option<PeersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// List the peers: connected, kept and banned ones, with their faults; what `peers` alone does
    List,
    /// End all connections to a peer and refuse new ones, also over restarts
    ///
    /// Peers that do what no correct peer does are banned without this, for ten minutes at first.
    Ban {
        /// The peer's device id, as `syncline peers` lists it
        device: String,
        /// For how long
        #[arg(long = "for", value_name = "DURATION", default_value = "1d", value_parser = parse_duration_ms,
              env = "SYNCLINE_FOR")]
        lasts: u64,
    },
    /// End the ban of a peer, whoever set it, and forgive the peer its faults
    Unban {
        /// The peer's device id, as `syncline peers` lists it
        device: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The peer's address, such as /ip4/192.0.2.1/tcp/34569
    #[arg(value_name = "MULTIADDR")]
    pub(crate) address: String,
}

fn parse_api_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an address and port, such as 127.0.0.1:34570"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_option_has_its_variable() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let long = argument.get_long().unwrap();
                if long == "help" || long == "version" {
                    continue;
                }
                let expected = format!("SYNCLINE_{}", long.replace('-', "_").to_uppercase());
                assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(expected.as_str()), "--{long}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Arguments::command());
    }

    #[test]
    fn a_value_may_begin_with_a_hyphen() {
        let parsed = Arguments::try_parse_from(["syncline", "put", "notes", "a/b", "-"]).unwrap();
        assert!(matches!(parsed.command, Command::Put(Write { value, .. }) if value == "-"));
        let parsed = Arguments::try_parse_from(["syncline", "resolve", "n", "a", "/x", "--value", "-1"]).unwrap();
        assert!(matches!(parsed.command, Command::Resolve(Resolve { value, .. }) if value == "-1"));
    }

    #[test]
    fn empty_names_and_wrong_numbers_are_usage_errors() {
        for wrong in [
            vec!["get", "", "a"],
            vec!["get", "notes", ""],
            vec!["import", "notes", "f", "--per-transaction", "0"],
            vec!["space", "invite", "notes", "--role", "steward"],
            vec!["space", "invite", "notes", "--role", "writer", "--expires", "soon"],
            vec!["serve", "--api", "nonsense"],
            vec!["token", "create", "--scope", "all"],
            vec!["bytes", "seal"],
            vec!["key", "passphrase", "--remove", "--new-passphrase-file", "f"],
        ] {
            assert!(Arguments::try_parse_from(["syncline"].iter().chain(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
