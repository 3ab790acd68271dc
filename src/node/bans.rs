//! The bans that persons set, in a file of the data directory, so that they outlast a restart.

use std::time::Duration;

use syncline_model::DeviceId;
use syncline_storage::{FileScope, SmallFiles};
use tokio::sync::Mutex;

use super::files::wall_ms;
use super::{Node, builder};
use crate::error::Error;
use crate::network::{BANS_MAX, Ban, TooManyBans};

const FILE: &str = "bans.json";

/// The file, and its one writer at a time.
#[derive(Debug)]
pub(super) struct BanFile {
    files: SmallFiles,
    writing: Mutex<()>,
}

impl BanFile {
    pub(super) fn new(files: SmallFiles) -> Self {
        Self { files, writing: Mutex::default() }
    }

    /// What is kept; a damaged file is as good as none.
    pub(super) fn read(&self) -> Vec<Ban> {
        let bytes = self.files.read(FileScope::Node, FILE).ok().flatten().unwrap_or_default();
        let mut bans: Vec<Ban> = serde_json::from_slice(&bytes).unwrap_or_default();
        bans.truncate(BANS_MAX);
        bans
    }

    fn write(&self, bans: &[Ban]) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(bans).unwrap_or_default();
        Ok(self.files.write(FileScope::Node, FILE, &bytes)?)
    }
}

impl Node {
    /// Ends all connections to a peer and refuses new ones for some time, also over restarts.
    pub async fn ban(&self, peer: DeviceId, lasts: Duration) -> Result<Ban, Error> {
        if peer == self.device() {
            return Err(Error::OwnBan);
        }
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let ban = Ban { device: peer, until_ms: wall_ms().saturating_add(lasts_ms) };
        let _one_at_a_time = self.inner.bans.writing.lock().await;
        let bans = match &self.inner.network {
            Some(network) => network.ban(peer, lasts).await?,
            None => {
                let mut bans = self.kept_bans(peer);
                if bans.len() >= BANS_MAX {
                    return Err(TooManyBans.into());
                }
                bans.push(ban);
                bans
            }
        };
        self.keep_bans(bans).await?;
        Ok(ban)
    }

    /// Ends a ban, and forgives the peer its faults; tells whether it was banned.
    pub async fn unban(&self, peer: DeviceId) -> Result<bool, Error> {
        let _one_at_a_time = self.inner.bans.writing.lock().await;
        let (banned, bans) = match &self.inner.network {
            Some(network) => network.unban(peer).await,
            None => (self.inner.bans.read().iter().any(|ban| ban.device == peer), self.kept_bans(peer)),
        };
        self.keep_bans(bans).await?;
        Ok(banned)
    }

    /// The bans in the file that have not ended, but for one peer's.
    fn kept_bans(&self, except: DeviceId) -> Vec<Ban> {
        let mut bans = self.inner.bans.read();
        bans.retain(|ban| ban.device != except && ban.until_ms > wall_ms());
        bans
    }

    async fn keep_bans(&self, bans: Vec<Ban>) -> Result<(), Error> {
        let inner = self.inner.clone();
        builder::blocking(move || inner.bans.write(&bans)).await
    }
}
