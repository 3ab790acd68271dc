//! Whom to dial again, and when: a schedule without sockets, clocks or randomness of its own.
//!
//! A target is dialled at once, then after pauses that double from [`BACKOFF_START`] to [`BACKOFF_LIMIT`], each
//! shortened by a random part of up to one half, so that nodes that lost each other at the same moment do not dial in
//! step. A connection that lasts [`STABLE_AFTER`] starts the pauses anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use syncline_model::DeviceId;

use super::config::{BACKOFF_LIMIT, BACKOFF_START, MAX_KEPT, STABLE_AFTER};

/// Somebody to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// Whoever answers at this address.
    Address(Multiaddr),
    /// This device, wherever it was last seen.
    Device(DeviceId),
}

/// The most a pause is shortened by.
const JITTER_SHARE: f64 = 0.5;

/// As many targets are kept as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooManyTargets;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting { due: Instant },
    Dialling,
    Connected,
}

#[derive(Debug)]
struct Entry {
    /// Who it is: known from the start, or since somebody answered.
    device: Option<DeviceId>,
    /// Whether to try only once, as for a peer found by mDNS.
    once: bool,
    /// Failures and losses since the last stable connection.
    attempts: u32,
    phase: Phase,
    error: Option<String>,
}

/// The schedule.
#[derive(Debug, Default)]
pub(super) struct Redial {
    entries: BTreeMap<Target, Entry>,
}

/// How a target that is not connected stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Being dialled.
    Dialling,
    /// To be dialled then.
    Waiting(Instant),
}

impl Redial {
    /// Keeps a target; it is dialled at `due` unless it is connected already.
    pub(super) fn keep(&mut self, target: Target, connected: bool, due: Instant) -> Result<(), TooManyTargets> {
        let phase = if connected { Phase::Connected } else { Phase::Waiting { due } };
        if let Some(entry) = self.entries.get_mut(&target) {
            entry.once = false;
            if connected || !matches!(entry.phase, Phase::Dialling) {
                entry.phase = phase;
            }
            return Ok(());
        }
        self.insert(target, false, phase)
    }

    /// Dials a device once, at `due`, unless it is kept already.
    pub(super) fn once(&mut self, device: DeviceId, due: Instant) -> Result<(), TooManyTargets> {
        match self.entries.contains_key(&Target::Device(device)) {
            true => Ok(()),
            false => self.insert(Target::Device(device), true, Phase::Waiting { due }),
        }
    }

    fn insert(&mut self, target: Target, once: bool, phase: Phase) -> Result<(), TooManyTargets> {
        if self.entries.len() >= MAX_KEPT {
            return Err(TooManyTargets);
        }
        let device = match &target {
            Target::Device(device) => Some(*device),
            Target::Address(_) => None,
        };
        self.entries.insert(target, Entry { device, once, attempts: 0, phase, error: None });
        Ok(())
    }

    /// Forgets every target that leads to this device.
    pub(super) fn forget(&mut self, device: DeviceId) {
        self.entries.retain(|_, entry| entry.device != Some(device));
    }

    /// Forgets one target.
    pub(super) fn forget_target(&mut self, target: &Target) {
        self.entries.remove(target);
    }

    /// Whether the device is dialled again when it is lost.
    pub(super) fn is_kept(&self, device: DeviceId) -> bool {
        self.entries.values().any(|entry| entry.device == Some(device) && !entry.once)
    }

    /// Whether the device is a target at all, if only once.
    pub(super) fn knows(&self, device: DeviceId) -> bool {
        self.entries.values().any(|entry| entry.device == Some(device))
    }

    /// When the next target is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter_map(Entry::due).min()
    }

    /// Takes a target that is due, which then counts as being dialled until it is reported.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Target> {
        let (target, entry) = self.entries.iter_mut().find(|(_, entry)| entry.due().is_some_and(|due| due <= now))?;
        entry.phase = Phase::Dialling;
        Some(target.clone())
    }

    /// Notes that a device is connected, and which target led to it.
    pub(super) fn connected(&mut self, device: DeviceId, via: Option<&Target>) {
        if let Some(entry) = via.and_then(|target| self.entries.get_mut(target)) {
            entry.device = Some(device);
        }
        self.entries.retain(|_, entry| entry.device != Some(device) || !entry.once);
        for entry in self.entries.values_mut().filter(|entry| entry.device == Some(device)) {
            entry.phase = Phase::Connected;
            entry.error = None;
        }
    }

    /// Notes that dialling failed; `jitter` is a random number from 0 to 1.
    pub(super) fn failed(&mut self, target: &Target, error: String, now: Instant, jitter: f64) {
        let Some(entry) = self.entries.get_mut(target) else { return };
        // Meanwhile it may have connected from its side, or been kept anew.
        if entry.phase != Phase::Dialling {
            return;
        }
        if entry.once {
            self.entries.remove(target);
            return;
        }
        entry.error = Some(error);
        entry.pause(now, jitter);
    }

    /// Notes that a device's last connection closed after it had lasted this long.
    pub(super) fn lost(&mut self, device: DeviceId, lasted: Duration, now: Instant, jitter: f64) {
        for entry in self.entries.values_mut().filter(|entry| entry.device == Some(device)) {
            if lasted >= STABLE_AFTER {
                entry.attempts = 0;
            }
            entry.pause(now, jitter);
        }
    }

    /// How the device stands while it is not connected; none if it is not a target.
    pub(super) fn standing(&self, device: DeviceId) -> Option<Standing> {
        self.entries.values().filter(|entry| entry.device == Some(device)).find_map(|entry| match entry.phase {
            Phase::Waiting { due } => Some(Standing::Waiting(due)),
            Phase::Dialling => Some(Standing::Dialling),
            Phase::Connected => None,
        })
    }

    /// Addresses where nobody has answered yet: how often each was tried, and what went wrong last.
    pub(super) fn unreached(&self) -> impl Iterator<Item = (&Multiaddr, u32, Option<&str>)> {
        self.entries.iter().filter_map(|(target, entry)| match target {
            Target::Address(address) if entry.device.is_none() => {
                Some((address, entry.attempts, entry.error.as_deref()))
            }
            _ => None,
        })
    }
}

impl Entry {
    fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { due } => Some(due),
            Phase::Dialling | Phase::Connected => None,
        }
    }

    fn pause(&mut self, now: Instant, jitter: f64) {
        let longest = BACKOFF_START.saturating_mul(1 << self.attempts.min(16)).min(BACKOFF_LIMIT);
        self.attempts = self.attempts.saturating_add(1);
        self.phase = Phase::Waiting { due: now + longest.mul_f64(1.0 - JITTER_SHARE * jitter.clamp(0.0, 1.0)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId([1; 32]);

    fn kept(target: &Target, now: Instant) -> Redial {
        let mut redial = Redial::default();
        redial.keep(target.clone(), false, now).unwrap();
        assert_eq!(redial.take_due(now).as_ref(), Some(target));
        redial
    }

    fn pause(redial: &Redial, now: Instant) -> Duration {
        redial.next_due().unwrap() - now
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_are_shortened_by_half_at_most() {
        let now = Instant::now();
        let target = Target::Device(DEVICE);
        let mut redial = kept(&target, now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            redial.failed(&target, "refused".into(), now, 0.0);
            assert_eq!(pause(&redial, now), Duration::from_secs(seconds));
            assert_eq!(redial.take_due(now), None);
            assert_eq!(redial.take_due(now + Duration::from_secs(seconds)), Some(target.clone()));
        }
        redial.failed(&target, "refused".into(), now, 1.0);
        assert_eq!(pause(&redial, now), Duration::from_secs(30));
    }

    #[test]
    fn only_a_stable_connection_starts_the_pauses_anew() {
        let now = Instant::now();
        let target = Target::Device(DEVICE);
        let mut redial = kept(&target, now);
        for (lasted, seconds) in [(Duration::ZERO, 1), (Duration::ZERO, 2), (STABLE_AFTER, 1)] {
            redial.connected(DEVICE, Some(&target));
            assert_eq!(redial.next_due(), None);
            redial.lost(DEVICE, lasted, now, 0.0);
            assert_eq!(pause(&redial, now), Duration::from_secs(seconds));
        }
    }

    #[test]
    fn a_device_that_connects_from_its_side_is_not_dialled_and_a_late_failure_changes_nothing() {
        let now = Instant::now();
        let target = Target::Device(DEVICE);
        let mut redial = kept(&target, now);
        redial.connected(DEVICE, None);
        redial.failed(&target, "already connected".into(), now, 0.0);
        assert_eq!(redial.next_due(), None);
    }

    #[test]
    fn an_address_follows_the_device_that_answered_there() {
        let now = Instant::now();
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let target = Target::Address(address.clone());
        let mut redial = kept(&target, now);
        assert_eq!(redial.unreached().map(|(address, ..)| address).collect::<Vec<_>>(), [&address]);
        redial.connected(DEVICE, Some(&target));
        assert_eq!(redial.unreached().count(), 0);
        redial.lost(DEVICE, Duration::ZERO, now, 0.0);
        assert!(redial.is_kept(DEVICE) && redial.next_due().is_some());
        redial.forget(DEVICE);
        assert!(!redial.knows(DEVICE) && redial.next_due().is_none());
    }

    #[test]
    fn a_discovered_device_is_tried_once_unless_it_is_kept() {
        let now = Instant::now();
        let target = Target::Device(DEVICE);
        let mut redial = Redial::default();
        redial.once(DEVICE, now).unwrap();
        assert_eq!(redial.take_due(now), Some(target.clone()));
        redial.failed(&target, "refused".into(), now, 0.0);
        assert!(!redial.knows(DEVICE));
        redial.once(DEVICE, now).unwrap();
        redial.keep(target.clone(), false, now).unwrap();
        assert_eq!(redial.take_due(now), Some(target.clone()));
        redial.failed(&target, "refused".into(), now, 0.0);
        assert!(redial.is_kept(DEVICE));
    }

    #[test]
    fn the_number_of_targets_is_bounded() {
        let now = Instant::now();
        let mut redial = Redial::default();
        let device = |at: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&at.to_le_bytes());
            Target::Device(DeviceId(bytes))
        };
        for at in 0..MAX_KEPT {
            redial.keep(device(at), false, now).unwrap();
        }
        assert_eq!(redial.keep(device(MAX_KEPT), false, now), Err(TooManyTargets));
        assert_eq!(redial.keep(device(0), false, now), Ok(()));
    }
}
