//! What one replica holds of a space: heads, admission, keys. The read side that reconciliation looks at.

use syncline_model::membership::{KeyDelivery, Record, Statement};
use syncline_model::planted::{Bug, planted};
use syncline_model::{
    Admission, Admitted, ContentKey, DeviceId, DeviceKey, IdPrefix, Kind, Membership, OperationId, Role, RunSummary,
    SpaceId, VersionVector,
};
use syncline_sync::Replica;

use super::keys::SpaceKeys;

/// Heads, admission and keys of one space on this device.
#[derive(Debug)]
pub struct LogState {
    pub(super) device: DeviceKey,
    pub(super) keys: SpaceKeys,
    pub(super) admission: Admission,
    /// What is durable here: announced and served.
    durable: VersionVector,
    /// The same with what is being written.
    taken: VersionVector,
    gossip_key: Option<ContentKey>,
}

impl LogState {
    /// Nothing held yet.
    pub fn new(device: DeviceKey, keys: SpaceKeys) -> Self {
        let admission = Admission::new(Membership::new(keys.space));
        let gossip_key = keys.replication_secret().map(|secret| secret.gossip_key());
        let (durable, taken) = Default::default();
        Self { device, keys, admission, durable, taken, gossip_key }
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

    /// Holds a run; appends what is admitted by it. False when it does not follow what is held.
    pub(super) fn hold(&mut self, summary: &RunSummary, admitted: &mut Vec<Admitted>) -> bool {
        if !self.admission.hold(summary, admitted) {
            return false;
        }
        self.taken.advance(summary.author, summary.last(), summary.last_id());
        true
    }

    /// What was taken is durable now.
    pub(super) fn made_durable(&mut self, author: DeviceId, sequence: u64, id: OperationId) {
        self.durable.advance(author, sequence, id);
    }

    /// Takes keys that an admitted delivery brings; tells whether any was new.
    pub(super) fn take_keys(&mut self, admitted: &Admitted) -> bool {
        if admitted.kind != Kind::KEY_DELIVERY {
            return false;
        }
        let Ok(delivery) = KeyDelivery::decode(&admitted.control) else { return false };
        let new = self.accept_delivery(&delivery);
        if new && self.membership().epoch_facts(delivery.epoch).is_some() {
            self.drop_uncommitted_keys();
        }
        new
    }

    /// Takes the keys of a delivery to this device; tells whether any was new.
    pub(super) fn accept_delivery(&mut self, delivery: &KeyDelivery) -> bool {
        let new = self.keys.accept(&self.device, delivery);
        self.refresh_keys();
        new
    }

    /// Drops keys that are not the ones their epoch's record commits to.
    fn drop_uncommitted_keys(&mut self) {
        let (space, membership) = (self.keys.space, self.admission.membership());
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
        self.refresh_keys();
    }

    /// Takes note that the keys were changed from outside.
    pub(super) fn refresh_keys(&mut self) {
        self.gossip_key = self.keys.replication_secret().map(|secret| secret.gossip_key());
    }

    /// The steward's next record of the membership log.
    pub(super) fn next_record(&self, statement: Statement) -> Record {
        self.membership().next_record(statement)
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
        &self.durable
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
                self.membership().role(author).is_some_and(writes)
            }
        }
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

    fn gossip_key(&self) -> Option<&ContentKey> {
        self.gossip_key.as_ref()
    }
}
