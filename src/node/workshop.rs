//! The workshop: opens the spaces of a node, at its start and when one begins anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use syncline_model::{ContentKey, DeviceKey, SpaceId};
use syncline_storage::Store;
use tokio::sync::mpsc;

use super::builder::report;
use super::conductor::Notice;
use super::files::{self, SpaceFiles};
use super::key_files::KeyFiles;
use crate::documents::CacheBudget;
use crate::error::Error;
use crate::network::Network;
use crate::space::pump::{self, Link, Surroundings};
use crate::space::{RelayQuota, SpaceCore, SpaceKeys, SpaceReplica};

/// What is needed to open spaces.
#[derive(Clone)]
pub(super) struct Workshop {
    pub(super) store: Arc<Store>,
    pub(super) keys: KeyFiles,
    pub(super) device: DeviceKey,
    pub(super) local_key: ContentKey,
    pub(super) network: Option<Network>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) started: Instant,
    pub(super) relay_quota: RelayQuota,
    /// The spaces to keep as a relay; none: all that were joined.
    pub(super) relay_spaces: BTreeSet<SpaceId>,
    pub(super) cache: CacheBudget,
}

impl Workshop {
    pub(super) fn core(&self, keys: SpaceKeys) -> SpaceCore {
        let engine = syncline_sync::Engine::new(syncline_sync::Config::default());
        let kept = self.relay_spaces.is_empty() || self.relay_spaces.contains(&keys.space);
        let quota = if kept { self.relay_quota } else { RelayQuota::NOTHING };
        SpaceCore::new(self.device.clone(), keys, engine).with_relay_quota(quota)
    }

    fn open_replica(&self, core: SpaceCore, random: &mut StdRng) -> Result<SpaceReplica, Error> {
        let log = self.store.open_space(core.state().keys().space, &mut report)?;
        Ok(SpaceReplica::open(core, log, &self.local_key, self.cache.clone(), random)?)
    }

    /// Opens the space again from what is stored.
    fn reopen(self, space: SpaceId) -> pump::Reopen {
        Box::new(move |random| {
            let keys = self.space_keys(space)?.ok_or(Error::DamagedFile { what: "the key file of a space" })?;
            self.open_replica(self.core(keys), random)
        })
    }

    /// What is kept of a space beside its log; None when that is missing.
    pub(super) fn space_keys(&self, space: SpaceId) -> Result<Option<SpaceKeys>, Error> {
        files::read_space(&self.keys, space)
    }

    pub(super) fn start_pump(
        &self,
        core: SpaceCore,
        mut random: StdRng,
        notices: mpsc::Sender<Notice>,
    ) -> Result<Option<Link>, Error> {
        let space = core.state().keys().space;
        let replica = self.open_replica(core, &mut random)?;
        let state = replica.core().state();
        let own = state.keys().founder == state.device_id();
        let is_empty = state.own_head().0 == 0;
        if own && is_empty && state.keys().ticket.is_none() && state.membership().genesis().is_none() {
            return Ok(None);
        }
        let surroundings = Surroundings {
            network: self.network.clone(),
            runtime: self.runtime.clone(),
            keys: Box::new(SpaceFiles { keys: self.keys.clone() }),
            notices,
            started: self.started,
            random,
            reopen: self.clone().reopen(space),
        };
        Ok(Some(pump::start(replica, surroundings)))
    }
}
