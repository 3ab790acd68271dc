//! What one replica holds of a space: heads, admission, keys. The read side that reconciliation looks at.

use std::collections::BTreeSet;

use syncline_model::membership::{Facts, KeyDelivery, Record, Statement};
use syncline_model::planted::{Bug, planted};
use syncline_model::vector::VectorEntry;
use syncline_model::{
    Admission, Admitted, ContentKey, DeviceId, DeviceKey, IdPrefix, Kind, Membership, OperationId, Role, RunSummary,
    SpaceId, VerifiedRun, VersionVector,
};
use syncline_storage::Tail;
use syncline_sync::Replica;
use syncline_sync::limits::WANTED_AUTHORS_MAX;

use super::keys::SpaceKeys;
use super::quota::{RelayQuota, Stored};

/// Epochs whose gossip is still understood: members learn of a new one at different times.
const GOSSIP_EPOCHS_MAX: usize = 4;

/// Heads, admission and keys of one space on this device.
#[derive(Debug)]
pub struct LogState {
    pub(super) device: DeviceKey,
    pub(super) keys: SpaceKeys,
    pub(super) admission: Admission,
    /// What is durable here, log by log.
    durable: VersionVector,
    /// The same with what is being written.
    taken: VersionVector,
    /// What peers are told of: logs up to where they are worth having.
    offered: VersionVector,
    /// Logs that are offered up to a cut only.
    limited: BTreeSet<DeviceId>,
    /// The membership's count of changes at which `limited` was worked out.
    limited_at: u64,
    /// The epoch whose secret gossip is published under.
    gossip_epoch: u32,
    gossip_keys: Vec<ContentKey>,
    /// Of how many epochs and keys it was last seen that the keys are the epochs'.
    committed: (usize, usize),
    /// Epochs and devices whose keys were delivered.
    delivered: BTreeSet<(u32, DeviceId)>,
    /// Authors of whom a proof of their fork is held.
    proven: BTreeSet<DeviceId>,
    /// How much is stored, for a relay.
    stored: Stored,
    /// What the steward's log was last seen to wait for, of an author who is full.
    needed: Option<(DeviceId, u64)>,
}

impl LogState {
    /// Nothing held yet.
    pub fn new(device: DeviceKey, keys: SpaceKeys) -> Self {
        let admission = Admission::new(keys.space, &Facts::default());
        let (durable, taken, offered, limited, gossip_keys) = Default::default();
        let mut state = Self {
            device,
            keys,
            admission,
            durable,
            taken,
            offered,
            limited,
            limited_at: 0,
            gossip_epoch: 0,
            gossip_keys,
            committed: (0, 0),
            delivered: BTreeSet::new(),
            proven: BTreeSet::new(),
            stored: Stored::default(),
            needed: None,
        };
        state.refresh_keys();
        state
    }

    /// Forgets what is held, to take it in again with what is known by now.
    pub(super) fn begin_again(&mut self, facts: &Facts) {
        self.admission = Admission::new(self.keys.space, facts);
        (self.durable, self.taken, self.offered) = Default::default();
        (self.limited, self.limited_at, self.committed) = Default::default();
        (self.delivered, self.proven) = Default::default();
    }

    /// Bounds what is stored while this device is a relay.
    pub(super) fn limit_relay(&mut self, quota: RelayQuota) {
        self.stored.limit(Some(quota));
    }

    /// Whether what is stored is to be measured: a relay has a quota, and a device that nobody admitted may become one.
    pub(super) fn measures(&self) -> bool {
        self.stored.is_limited() && self.role().is_none_or(|role| role == Role::Relay)
    }

    /// The logs of which anything is stored.
    pub(super) fn stored_logs(&self) -> Vec<DeviceId> {
        self.durable.iter().map(|(log, _)| *log).collect()
    }

    /// Takes note of stored bytes of an author.
    pub(super) fn note_stored(&mut self, author: DeviceId, bytes: u64) {
        if self.stored.is_limited() {
            self.stored.add(author, bytes);
        }
    }

    /// Whether a run may be stored, as far as a relay's quota goes.
    pub(super) fn has_room(&mut self, run: &VerifiedRun) -> bool {
        let author = run.author();
        if self.role() != Some(Role::Relay) || author == self.device.id() {
            return true;
        }
        let is_steward = self.membership().steward() == Some(author);
        let for_membership = is_steward || run.first() <= self.needed_for_membership(&author);
        self.stored.has_room(author, for_membership, run.bytes().len() as u64)
    }

    /// Up to where the steward's log waits for an author's, by itself or by what it waits for.
    fn needed_for_membership(&self, author: &DeviceId) -> u64 {
        let Some(mut waiting) = self.membership().steward() else { return 0 };
        for _ in 0..WANTED_AUTHORS_MAX {
            match self.admission.lacked_by(&waiting) {
                Some((of, sequence)) if of == *author => return sequence,
                Some((of, _)) => waiting = of,
                None => return 0,
            }
        }
        0
    }

    /// Tells once whenever the steward's log waits for something else of an author who is full.
    pub(super) fn needs_anew(&mut self) -> bool {
        let full = self.stored.full();
        let needed =
            full.map(|author| (*author, self.needed_for_membership(author))).find(|(_, sequence)| *sequence > 0);
        needed != std::mem::replace(&mut self.needed, needed) && needed.is_some()
    }

    /// What a relay does not keep for want of room, in words.
    pub(super) fn quota_problems(&self) -> Vec<String> {
        self.stored.problems()
    }

    /// This device.
    pub fn device_id(&self) -> DeviceId {
        self.device.id()
    }

    /// What this device keeps beside the log.
    pub fn keys(&self) -> &SpaceKeys {
        &self.keys
    }

    /// What counts of what is held.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The membership as far as it is admitted here.
    pub fn membership(&self) -> &Membership {
        self.admission.membership()
    }

    /// This device's role, once it is admitted.
    pub fn role(&self) -> Option<Role> {
        self.membership().role(&self.device.id())
    }

    /// The head of this device's own log, with what is being written.
    pub fn own_head(&self) -> (u64, OperationId) {
        let local = self.device.id();
        (self.taken.sequence(&local), self.taken.head(&local))
    }

    /// The epoch whose secret gossip is published under.
    pub fn gossip_epoch(&self) -> u32 {
        self.gossip_epoch
    }

    /// Whether the keys of an epoch were delivered to a device.
    pub(super) fn is_delivered(&self, epoch: u32, device: DeviceId) -> bool {
        self.delivered.contains(&(epoch, device))
    }

    /// Whether a proof is held that an author forked.
    pub(super) fn is_proven(&self, author: &DeviceId) -> bool {
        self.proven.contains(author)
    }

    /// Holds a run; appends what is admitted by it. False when it does not follow what is held.
    pub(super) fn hold(&mut self, log: DeviceId, summary: &RunSummary, admitted: &mut Vec<Admitted>) -> bool {
        if !self.admission.hold_in(log, summary, admitted) {
            return false;
        }
        self.taken.advance(log, summary.last(), summary.last_id());
        true
    }

    /// What was taken is durable now.
    pub(super) fn made_durable(&mut self, log: DeviceId, sequence: u64, id: OperationId) {
        self.durable.advance(log, sequence, id);
        // It may be held for the first time after it was cut.
        if self.is_limited(&log) {
            self.limited.insert(log);
        } else {
            self.offer(log);
        }
    }

    /// Whether a log is offered up to a cut only, or not at all.
    fn is_limited(&self, log: &DeviceId) -> bool {
        let membership = self.membership();
        self.admission.branching(log).is_some() || (membership.knows(log) && membership.limit(log) != u64::MAX)
    }

    /// Works out anew what is offered of logs that were cut.
    pub(super) fn offer_limited(&mut self) {
        let changes = self.membership().changes();
        if self.limited_at != changes {
            self.limited_at = changes;
            let logs = self.durable.iter().map(|(log, _)| log);
            let limited = logs.filter(|log| self.is_limited(log)).copied().collect();
            let before = std::mem::replace(&mut self.limited, limited);
            before.iter().for_each(|log| self.offer(*log));
        }
        self.limited.clone().into_iter().for_each(|log| self.offer(log));
    }

    /// Peers are told of logs up to where everybody holds them who holds the same: of those that were cut, what counts.
    fn offer(&mut self, log: DeviceId) {
        let durable = self.durable.entry(&log).copied();
        let entry = if self.admission.branching(&log).is_some() {
            None
        } else if let Some(fork) = self.membership().forks().get(&log) {
            self.before_fork(&log, *fork)
        } else if !self.membership().knows(&log) || self.membership().limit(&log) == u64::MAX {
            durable
        } else {
            let counting = self.admission.admitted().entry(&log).copied();
            counting.zip(durable).map(
                |(counting, durable)| {
                    if counting.sequence <= durable.sequence { counting } else { durable }
                },
            )
        };
        self.offered.replace(log, entry);
    }

    /// A forked log is offered up to the fork: what follows differs from replica to replica, and is fetched by its id.
    fn before_fork(&self, log: &DeviceId, fork: u64) -> Option<VectorEntry> {
        let counting = self.admission.admitted().entry(log).filter(|entry| entry.sequence < fork).copied();
        let before = || Some(VectorEntry { base: 1, sequence: fork - 1, id: self.admission.before_fork(log)? });
        let entry = counting.or_else(before).filter(|entry| entry.sequence > 0)?;
        (entry.sequence <= self.durable.sequence(log)).then_some(entry)
    }

    /// The ends of logs that were cut, as far as they are held and nobody is to have them: they neither count nor are
    /// pulled or offered. Not those of this device, nor of logs that forked, which prove it.
    pub(super) fn uncounted_tails(&self) -> Vec<Tail> {
        let is_proof = |log: &DeviceId| {
            let admission = &self.admission;
            let forked = self.membership().forks().contains_key(log) || !admission.branches(log).is_empty();
            forked || admission.branching(log).is_some()
        };
        let tail = |log: &DeviceId| Tail { log: *log, after: self.admission.worth(log) };
        let logs = self.limited.iter().filter(|log| **log != self.device.id() && !is_proof(log));
        logs.map(tail).filter(|tail| self.taken.sequence(&tail.log) > tail.after).collect()
    }

    /// Takes keys that an admitted delivery brings, and notes what else it tells; tells whether any key was new.
    pub(super) fn take_notes(&mut self, admitted: &Admitted) -> bool {
        if admitted.fault.is_some() {
            return false;
        }
        match admitted.kind {
            Kind::EQUIVOCATION => {
                if let Ok(proof) = syncline_model::ForkProof::decode(&admitted.control) {
                    self.proven.insert(proof.author);
                }
                false
            }
            Kind::KEY_DELIVERY => {
                let Ok(delivery) = KeyDelivery::decode(&admitted.control) else { return false };
                // Who has an epoch's keys has its record in its past. Keys of one that nobody began cannot be checked,
                // and the latest are those that gossip and greetings go under.
                if self.membership().epoch_facts(delivery.epoch).is_none() {
                    return false;
                }
                if self.is_to_deliver(&admitted.author, &delivery.recipient) {
                    self.delivered.insert((delivery.epoch, delivery.recipient));
                }
                self.accept_delivery(&delivery)
            }
            // The key of an epoch before may stand in its record, and what a sponsor gave as its own can be checked.
            Kind::MEMBERSHIP => {
                self.drop_uncommitted_keys();
                self.unlock_earlier_keys()
            }
            _ => false,
        }
    }

    /// Whether a device is one that owes another its keys: what anybody else sends pays no debt, as it may be anything.
    fn is_to_deliver(&self, device: &DeviceId, recipient: &DeviceId) -> bool {
        let membership = self.membership();
        let sponsors = membership.members().get(recipient).map_or(&[][..], |member| &member.admissions);
        *device == self.device.id()
            || membership.steward() == Some(*device)
            || sponsors.iter().any(|by| by.sponsor == *device)
    }

    /// Takes the keys of a delivery to this device; tells whether any was new.
    pub(super) fn accept_delivery(&mut self, delivery: &KeyDelivery) -> bool {
        let new = self.keys.accept(&self.device, delivery);
        if new {
            self.drop_uncommitted_keys();
            self.unlock_earlier_keys();
            self.refresh_keys();
        }
        new
    }

    /// Opens the keys of earlier epochs, each of which stands in the record of the next one under that one's key.
    fn unlock_earlier_keys(&mut self) -> bool {
        let before = self.keys.content.len();
        let (space, membership) = (self.keys.space, self.admission.membership());
        for (epoch, facts) in membership.epochs().iter().rev() {
            let earlier = membership.epochs().range(..epoch).next_back();
            let Some((earlier, earlier_facts)) = earlier else { break };
            let key = self.keys.content.get(epoch).zip(facts.previous_key.as_ref());
            let Some((key, sealed)) = key.filter(|_| !self.keys.content.contains_key(earlier)) else { continue };
            let opened = super::keys::open_previous(&space, *epoch, key, sealed);
            let opened = opened.filter(|key| key.commitment(&space, *earlier) == earlier_facts.content_commitment);
            if let Some(key) = opened {
                self.keys.content.insert(*earlier, key);
            }
        }
        before != self.keys.content.len()
    }

    /// Drops keys that are not the ones their epoch's record commits to, whenever there are others of either.
    fn drop_uncommitted_keys(&mut self) {
        let (space, membership) = (self.keys.space, self.admission.membership());
        let counts = (membership.epochs().len(), self.keys.content.len() + self.keys.replication.len());
        if std::mem::replace(&mut self.committed, counts) == counts {
            return;
        }
        self.keys.content.retain(|epoch, key| {
            membership
                .epoch_facts(*epoch)
                .is_none_or(|facts| facts.content_commitment == key.commitment(&space, *epoch))
        });
        self.keys.replication.retain(|epoch, secret| {
            membership
                .epoch_facts(*epoch)
                .is_none_or(|facts| facts.replication_commitment == secret.commitment(&space, *epoch))
        });
    }

    /// Takes note that the keys were changed: gossip goes under the latest from now on.
    pub(super) fn refresh_keys(&mut self) {
        let epochs: Vec<u32> = self.keys.replication.keys().rev().copied().collect();
        let begun = |epoch: &u32| self.membership().epoch_facts(*epoch).is_some();
        // Before anything is held there are only those that a sponsor gave, or a backup, which may be anything.
        let first = epochs.iter().position(begun).unwrap_or(0);
        let latest = epochs[first..].iter().take(GOSSIP_EPOCHS_MAX);
        self.gossip_epoch = epochs.get(first).copied().unwrap_or(0);
        self.gossip_keys = latest.map(|epoch| self.keys.replication[epoch].gossip_key()).collect();
    }

    /// The steward's next record of the membership log.
    pub(super) fn next_record(&self, statement: Statement, wall_ms: u64) -> Record {
        self.membership().next_record(statement, wall_ms)
    }
}

impl Replica for LogState {
    fn space(&self) -> SpaceId {
        self.keys.space
    }

    fn local(&self) -> DeviceId {
        self.device.id()
    }

    fn vector(&self) -> &VersionVector {
        &self.offered
    }

    fn taken(&self, author: &DeviceId) -> (u64, OperationId) {
        (self.taken.sequence(author), self.taken.head(author))
    }

    fn prefix_at(&self, author: &DeviceId, sequence: u64) -> Option<IdPrefix> {
        self.admission.prefix_at(author, sequence)
    }

    fn may_write(&self, author: &DeviceId) -> bool {
        match self.membership().genesis() {
            None => *author == self.keys.founder,
            Some(_) => {
                let writes = |role: Role| role.writes() || planted(Bug::RoleUncheckedAtAdmission);
                let member = self.membership().role(author).is_some_and(writes);
                // Of those who may write no more it is known up to where they did.
                member || (self.membership().knows(author) && (1..u64::MAX).contains(&self.admission.worth(author)))
            }
        }
    }

    fn begins_by_itself(&self, run: &VerifiedRun) -> bool {
        let first = run.operation(1).filter(|operation| operation.kind == Kind::MEMBERSHIP);
        first.is_some_and(|operation| {
            let (author, payload) = (run.author(), run.payload(operation));
            self.admission.begins_with_takeover(&author, payload, &operation.dependencies)
        })
    }

    fn worth(&self, author: &DeviceId) -> u64 {
        let worth = self.admission.worth(author);
        // Beyond its quota nothing is pulled, and what is sent all the same is left alone.
        match self.stored.is_full(author) {
            true => worth.min(self.taken.sequence(author).max(self.needed_for_membership(author))),
            false => worth,
        }
    }

    fn log_of(&self, author: &DeviceId, sequence: u64, id: &OperationId) -> Option<DeviceId> {
        self.admission.log_of(author, sequence, id)
    }

    fn durable(&self, log: &DeviceId) -> u64 {
        self.durable.sequence(log)
    }

    fn branches_after(&self, log: &DeviceId) -> u64 {
        self.admission.branching(log).map_or(0, |(_, base)| base)
    }

    fn wanted_by_id(&self) -> BTreeSet<(DeviceId, u64, OperationId)> {
        self.admission.wanted_by_id()
    }

    fn serves(&self, peer: &DeviceId) -> bool {
        self.membership().role(peer).is_some()
    }

    fn wanted(&self) -> Option<(DeviceId, u64)> {
        self.admission.wanted()
    }

    fn waiting_operations(&self) -> usize {
        self.admission.waiting_operations()
    }

    fn gossip_keys(&self) -> &[ContentKey] {
        &self.gossip_keys
    }
}
