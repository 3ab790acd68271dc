//! Which address the API is bound to, and the file by which local programs find it.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::limits::OWN_FILE_BYTES_MAX;

/// The port that the API has unless it is taken.
pub const DEFAULT_API_PORT: u16 = 34570;
/// The file in the data directory that tells where the node's API is.
pub const ADDRESS_FILE: &str = "api.address";

/// Where the API of a node is, or was at its last start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiAddress {
    /// Its address and port.
    pub address: SocketAddr,
    /// The process that serves it; 0 once it has ended.
    pub pid: u32,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another program has the address.
    #[error("{address} is in use by another program: choose another address with --api, or end that program")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be used.
    #[error("cannot serve the API on {address}: {source}")]
    Refused {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Binds the address, or without one the default port, the port of the last start, or any free one, on loopback.
pub(super) async fn bind(explicit: Option<SocketAddr>, last: Option<SocketAddr>) -> Result<TcpListener, BindError> {
    let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let candidates = match explicit {
        Some(address) => vec![address],
        None => {
            let last = last.filter(|address| address.ip().is_loopback());
            last.into_iter().chain([loopback(DEFAULT_API_PORT), loopback(0)]).collect()
        }
    };
    let mut failure = None;
    for address in candidates {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => failure = Some((address, source)),
        }
    }
    // There is a candidate, and each one that was not bound left its error.
    let (address, source) = failure.unwrap_or((loopback(0), io::ErrorKind::AddrNotAvailable.into()));
    if source.kind() == io::ErrorKind::AddrInUse {
        Err(BindError::InUse { address })
    } else {
        Err(BindError::Refused { address, source })
    }
}

/// Tells where the API of the data directory's node is; none if no node was ever started or the file is damaged.
pub fn read_address(directory: &Path) -> Option<ApiAddress> {
    let mut text = String::new();
    File::open(address_path(directory)).ok()?.take(OWN_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Writes the file so that a reader sees the old or the new address, nothing between.
pub(super) fn write_address(directory: &Path, address: ApiAddress) -> io::Result<()> {
    let path = address_path(directory);
    let fresh = path.with_extension("address.new");
    let mut json = serde_json::to_vec(&address)?;
    json.push(b'\n');
    std::fs::write(&fresh, json)?;
    std::fs::rename(fresh, path)
}

fn address_path(directory: &Path) -> PathBuf {
    directory.join(ADDRESS_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_explicit_address_that_is_taken_is_an_error_and_a_remembered_one_is_not() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(Some(address), None).await.unwrap_err();
        assert!(matches!(error, BindError::InUse { address: named } if named == address), "{error}");
        assert!(error.to_string().contains("--api"));
        let listener = bind(None, Some(address)).await.unwrap();
        assert_ne!(listener.local_addr().unwrap(), address);
        assert!(listener.local_addr().unwrap().ip().is_loopback());
    }

    #[tokio::test]
    async fn the_port_of_the_last_start_is_taken_again() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(bind(None, Some(free)).await.unwrap().local_addr().unwrap(), free);
        // An address that was once given explicitly is not taken by itself.
        let open = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), free.port());
        assert!(bind(None, Some(open)).await.unwrap().local_addr().unwrap().ip().is_loopback());
    }

    #[test]
    fn the_address_is_found_again_and_damage_is_no_address() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_address(directory.path()), None);
        let address = ApiAddress { address: "127.0.0.1:1234".parse().unwrap(), pid: 7 };
        write_address(directory.path(), address).unwrap();
        assert_eq!(read_address(directory.path()), Some(address));
        std::fs::write(address_path(directory.path()), "half of").unwrap();
        assert_eq!(read_address(directory.path()), None);
    }
}
