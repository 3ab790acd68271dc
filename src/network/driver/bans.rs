//! Bans: who is refused, and until when.

use std::time::{Duration, Instant};

use syncline_model::DeviceId;

use super::super::conduct::{Ban, Fault, TooManyBans};
use super::super::error::ConnectError;
use super::super::identity::peer_of;
use super::super::peers::PeerInfo;
use super::{Driver, milliseconds_since_1970};

impl Driver {
    /// The time for bans and allowances: that of the start and what has passed since, so that it never steps back.
    pub(super) fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.began.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        milliseconds_since_1970(self.began.1).saturating_add(passed)
    }

    /// When the next ban ends.
    pub(super) fn next_ban_end(&self) -> Option<Instant> {
        let end_ms = self.conduct.next_end_ms()?;
        self.began.0.checked_add(Duration::from_millis(end_ms.saturating_sub(milliseconds_since_1970(self.began.1))))
    }

    /// Holds a fault against a peer.
    pub(super) fn blame(&mut self, device: DeviceId, fault: Fault) {
        let now_ms = self.now_ms();
        let banned = self.conduct.blame(device, fault, now_ms);
        tracing::debug!(%device, fault = fault.name(), "a fault is held against a peer");
        if banned {
            self.banned(device);
        }
    }

    /// Refuses a peer that was banned for its faults.
    pub(super) fn banned(&mut self, device: DeviceId) {
        let conduct = self.conduct.of(device, self.now_ms());
        let reasons: Vec<String> =
            conduct.faults.iter().map(|fault| format!("{} × {}", fault.count, fault.fault.name())).collect();
        let until_ms = conduct.banned_until_ms.unwrap_or_default();
        let minutes = until_ms.saturating_sub(self.now_ms()).div_ceil(60_000);
        tracing::warn!(%device, minutes, faults = reasons.join(", "), "a peer is banned for its faults");
        self.refuse(device);
    }

    /// Closes a peer's connections and denies new ones. Whom to dial again stays as it is: the ban ends.
    pub(super) fn refuse(&mut self, device: DeviceId) {
        if let Ok(peer) = peer_of(device) {
            self.swarm.behaviour_mut().blocked.block_peer(peer);
        }
    }

    /// Bans a peer because a person wants it.
    pub(super) fn ban(&mut self, device: DeviceId, lasts: Duration) -> Result<Vec<Ban>, TooManyBans> {
        let now_ms = self.now_ms();
        let lasts_ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        self.conduct.ban(device, now_ms.saturating_add(lasts_ms), now_ms)?;
        self.refuse(device);
        Ok(self.conduct.bans_of_persons())
    }

    /// Ends a ban because a person wants it.
    pub(super) fn unban(&mut self, device: DeviceId) -> (bool, Vec<Ban>) {
        let banned = self.conduct.unban(device);
        self.accept_again(device);
        (banned, self.conduct.bans_of_persons())
    }

    /// Ends the bans whose time is over.
    pub(super) fn end_bans(&mut self) {
        for device in self.conduct.end_bans(self.now_ms()) {
            tracing::info!(%device, "the ban of a peer is over");
            self.accept_again(device);
        }
    }

    fn accept_again(&mut self, device: DeviceId) {
        if let Ok(peer) = peer_of(device)
            && !self.parted.contains(&device)
        {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
    }

    /// Why a banned peer is not connected to; takes back that another was disconnected on purpose.
    pub(super) fn name_again(&mut self, device: DeviceId) -> Result<bool, ConnectError> {
        let now_ms = self.now_ms();
        if let Some(until_ms) = self.conduct.banned_until_ms(device).filter(|until_ms| *until_ms > now_ms) {
            return Err(ConnectError::Banned { device, for_ms: until_ms - now_ms });
        }
        self.parted.remove(&device);
        Ok(peer_of(device).is_ok_and(|peer| self.swarm.behaviour_mut().blocked.unblock_peer(peer)))
    }

    /// What is shown of all peers.
    pub(super) fn infos(&self) -> Vec<PeerInfo> {
        let now_ms = self.now_ms();
        let mut infos = self.peers.infos(&self.redial, Instant::now(), |device| self.conduct.of(device, now_ms));
        let absent = self.conduct.banned().filter(|device| infos.iter().all(|info| info.device != *device));
        let absent: Vec<PeerInfo> =
            absent.map(|device| PeerInfo::absent(device, self.conduct.of(device, now_ms))).collect();
        infos.extend(absent);
        infos
    }
}
