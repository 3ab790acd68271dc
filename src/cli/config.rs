//! The configuration file of `serve`, and how it meets flags and variables.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use syncline::SpaceId;
use syncline::network::PeerRates;
use syncline::space::RelayQuota;

use super::arguments::ServeArguments;
use super::failure::{Exit, Failure};

/// The file that is read from the data directory if no other is named.
const CONFIG_FILE: &str = "config.toml";
/// Longest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The configuration file: each option of `serve` that it names.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    pub(crate) listen: Option<Vec<String>>,
    pub(crate) api: Option<SocketAddr>,
    pub(crate) bootstrap: Option<Vec<String>>,
    pub(crate) mdns: Option<bool>,
    pub(crate) tcp: Option<bool>,
    pub(crate) quic: Option<bool>,
    pub(crate) document_cache_mib: Option<u32>,
    pub(crate) scrub_bytes_per_second: Option<u64>,
    pub(crate) passphrase_file: Option<PathBuf>,
    pub(crate) index_cache_mib: Option<u32>,
    pub(crate) reserve_mib: Option<u32>,
    pub(crate) disk_use_max_mib: Option<u64>,
    pub(crate) peer_frames_per_second: Option<NonZeroU32>,
    pub(crate) peer_gossip_mib_per_second: Option<NonZeroU32>,
    pub(crate) peer_requests_per_second: Option<NonZeroU32>,
    pub(crate) peer_served_mib_per_second: Option<NonZeroU32>,
    pub(crate) relay_quota_mib: Option<NonZeroU64>,
    pub(crate) relay_author_quota_mib: Option<NonZeroU64>,
    pub(crate) relay_spaces: Option<Vec<String>>,
    pub(crate) log: Option<String>,
}

/// What `serve` does in the end: flags before variables before the file before defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServeSettings {
    pub(crate) listen: Vec<String>,
    pub(crate) api: Option<SocketAddr>,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) mdns: bool,
    pub(crate) tcp: bool,
    pub(crate) quic: bool,
    pub(crate) document_cache_mib: Option<u32>,
    pub(crate) scrub_bytes_per_second: Option<u64>,
    pub(crate) index_cache_mib: Option<u32>,
    pub(crate) reserve_mib: Option<u32>,
    pub(crate) disk_use_max_mib: Option<u64>,
    pub(crate) peer_rates: PeerRates,
    pub(crate) relay_quota: RelayQuota,
    pub(crate) relay_spaces: Vec<SpaceId>,
}

impl ConfigFile {
    /// Reads the file that is named, or the one in the data directory if it exists.
    pub(crate) fn read(named: Option<&Path>, data: &Path) -> Result<Self, Failure> {
        let path = named.map_or_else(|| data.join(CONFIG_FILE), PathBuf::from);
        let wrong = |reason: String| Failure::new(Exit::Usage, format!("`{}`: {reason}", path.display()));
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(Self::default()),
            Err(error) => return Err(wrong(format!("cannot read the configuration: {error}"))),
        };
        if length > CONFIG_BYTES_MAX {
            return Err(wrong(format!("a configuration file has at most {CONFIG_BYTES_MAX} bytes")));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{line}{}", error.message())
        })
    }
}

/// As many bytes as so many MiB have.
pub(crate) fn mebibytes_in_bytes(mebibytes: u64) -> u64 {
    mebibytes.saturating_mul(1 << 20)
}

impl ServeSettings {
    pub(crate) fn new(arguments: &ServeArguments, file: &ConfigFile) -> Result<Self, Failure> {
        let list = |given: &[String], file: &Option<Vec<String>>| match given {
            [] => file.clone().unwrap_or_default(),
            given => given.to_vec(),
        };
        let settings = Self {
            listen: list(&arguments.listen, &file.listen),
            api: arguments.api.or(file.api),
            bootstrap: list(&arguments.bootstrap, &file.bootstrap),
            mdns: !arguments.no_mdns && file.mdns.unwrap_or(true),
            tcp: !arguments.no_tcp && file.tcp.unwrap_or(true),
            quic: !arguments.no_quic && file.quic.unwrap_or(true),
            document_cache_mib: arguments.document_cache_mib.or(file.document_cache_mib),
            scrub_bytes_per_second: arguments.scrub_bytes_per_second.or(file.scrub_bytes_per_second),
            index_cache_mib: arguments.index_cache_mib.or(file.index_cache_mib),
            reserve_mib: arguments.reserve_mib.or(file.reserve_mib),
            disk_use_max_mib: arguments.disk_use_max_mib.or(file.disk_use_max_mib),
            peer_rates: peer_rates(arguments, file),
            relay_quota: relay_quota(arguments, file),
            relay_spaces: relay_spaces(arguments, file)?,
        };
        if !settings.tcp && !settings.quic {
            let failure = Failure::new(Exit::Usage, "TCP and QUIC are both switched off, so no peer could be reached");
            return Err(failure.hint("leave out --no-tcp or --no-quic; every command works without a node, too"));
        }
        Ok(settings)
    }
}

/// How much one peer may send and ask for.
fn peer_rates(arguments: &ServeArguments, file: &ConfigFile) -> PeerRates {
    let given = |argument: Option<u32>, file: Option<NonZeroU32>| argument.or(file.map(NonZeroU32::get));
    let bytes = |mebibytes: Option<u32>, default| {
        mebibytes.map_or(default, |mebibytes| mebibytes_in_bytes(u64::from(mebibytes)))
    };
    let default = PeerRates::default();
    let frames = given(arguments.peer_frames_per_second, file.peer_frames_per_second);
    let requests = given(arguments.peer_requests_per_second, file.peer_requests_per_second);
    let gossip = given(arguments.peer_gossip_mib_per_second, file.peer_gossip_mib_per_second);
    let served = given(arguments.peer_served_mib_per_second, file.peer_served_mib_per_second);
    PeerRates {
        frames: frames.unwrap_or(default.frames),
        frame_bytes: bytes(gossip, default.frame_bytes),
        requests: requests.unwrap_or(default.requests),
        served_bytes: bytes(served, default.served_bytes),
    }
}

/// How much to store as a relay.
fn relay_quota(arguments: &ServeArguments, file: &ConfigFile) -> RelayQuota {
    let given = |argument: Option<u64>, file: Option<NonZeroU64>, default| {
        argument.or(file.map(NonZeroU64::get)).map_or(default, mebibytes_in_bytes)
    };
    let default = RelayQuota::default();
    RelayQuota {
        space_bytes: given(arguments.relay_quota_mib, file.relay_quota_mib, default.space_bytes),
        author_bytes: given(arguments.relay_author_quota_mib, file.relay_author_quota_mib, default.author_bytes),
    }
}

/// The spaces to keep as a relay.
fn relay_spaces(arguments: &ServeArguments, file: &ConfigFile) -> Result<Vec<SpaceId>, Failure> {
    if !arguments.relay_spaces.is_empty() {
        return Ok(arguments.relay_spaces.clone());
    }
    let wrong = |text: &String| Failure::new(Exit::Usage, format!("relay_spaces: `{text}` is not the id of a space"));
    let texts = file.relay_spaces.as_deref().unwrap_or_default();
    texts.iter().map(|text| text.parse().map_err(|_| wrong(text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use super::super::arguments::{Arguments, Command};

    fn serve(flags: &[&str]) -> ServeArguments {
        let all = ["syncline", "serve"].iter().chain(flags);
        match Arguments::try_parse_from(all).unwrap().command {
            Command::Serve(arguments) => arguments,
            _ => unreachable!("the command is serve"),
        }
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let file = ConfigFile::parse(
            "listen = [\"/ip4/0.0.0.0/tcp/1\"]\napi = \"127.0.0.1:9\"\nmdns = false\n\
             document_cache_mib = 5\nscrub_bytes_per_second = 9\nindex_cache_mib = 7\n\
             reserve_mib = 3\ndisk_use_max_mib = 900\n\
             peer_requests_per_second = 6\npeer_served_mib_per_second = 2\n\
             relay_quota_mib = 4\nrelay_author_quota_mib = 3\n",
        )
        .unwrap();
        let settings = ServeSettings::new(
            &serve(&["--api", "127.0.0.1:8", "--no-quic", "--peer-requests-per-second", "7", "--relay-quota-mib", "5"]),
            &file,
        )
        .unwrap();
        assert_eq!(settings.listen, ["/ip4/0.0.0.0/tcp/1"]);
        assert_eq!(settings.api.unwrap().port(), 8);
        assert_eq!((settings.mdns, settings.tcp, settings.quic), (false, true, false));
        assert_eq!((settings.document_cache_mib, settings.scrub_bytes_per_second), (Some(5), Some(9)));
        assert_eq!(
            (settings.index_cache_mib, settings.reserve_mib, settings.disk_use_max_mib),
            (Some(7), Some(3), Some(900))
        );
        let rates = PeerRates { requests: 7, served_bytes: 2 << 20, ..PeerRates::default() };
        assert_eq!(settings.peer_rates, rates);
        assert_eq!(settings.relay_quota, RelayQuota { space_bytes: 5 << 20, author_bytes: 3 << 20 });
        assert_eq!(settings.relay_spaces, []);
        let settings = ServeSettings::new(&serve(&["--listen", "/a", "--listen", "/b"]), &file).unwrap();
        assert_eq!(settings.listen, ["/a", "/b"]);
    }

    #[test]
    fn a_mistake_in_the_file_is_named_with_its_line() {
        for (text, expected) in [
            ("mdns = true\nlisen = []\n", "lisen"),
            ("mdns = 1", "line 1"),
            ("mdns = true\napi = \"here\"", "line 2"),
            ("=", "line 1"),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_named_file_has_to_exist_and_the_default_one_need_not() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(ConfigFile::read(None, directory.path()).unwrap(), ConfigFile::default());
        let failure = ConfigFile::read(Some(&directory.path().join("absent.toml")), directory.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("absent.toml"));
    }

    #[test]
    fn a_node_without_any_transport_is_refused() {
        let failure = ServeSettings::new(&serve(&["--no-tcp", "--no-quic"]), &ConfigFile::default()).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }
}
