//! The state that records and admissions add up to.
//!
//! Three strata, so that nothing runs in a circle. Which records are *kept* follows from causal pasts alone: one that
//! is written by the steward whom the records in its own past name, or signed by the recovery key. They form a tree;
//! the *chain* is the branch of it that forks and takeovers leave. *Grounding* follows from the chain and the admit
//! operations: a device is a member when a record names it, or when an admission of it counts whose sponsor may write,
//! within what counts of the sponsor's log by itself. What others build on never makes a member: a removed device
//! cannot bring in a stranger whose operations then vouch for it.
//!
//! To *know* a record is to have it in one's causal past. What an author claims to know decides nothing that it could
//! not also decide by leaving out dependencies, and never stands in for them: records of two branches share positions.

mod chain;
mod grounding;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Role;
use super::record::{Cut, Genesis, Record, Statement};
use crate::ids::{DeviceId, SpaceId};
use crate::keys::ExchangeKey;
use crate::limits::EPOCH_STEP_MAX;
use crate::planted::{Bug, planted};

/// A device in a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it may do.
    pub role: Role,
    /// The key to wrap secrets to.
    pub exchange: ExchangeKey,
    /// What let it in, by sponsor and invitation, each with its first admission; empty for those whom a record names.
    pub admissions: Vec<AdmittedBy>,
}

/// One admit operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmittedBy {
    /// Who wrote it.
    pub sponsor: DeviceId,
    /// Where in the sponsor's log.
    pub sequence: u64,
    /// Under which invitation.
    pub invitation: DeviceId,
    /// The role it gave.
    pub role: Role,
    /// When, by the sponsor's clock, in ms since 1970.
    pub wall_time_ms: u64,
}

/// An invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invitation {
    /// The role it gives.
    pub role: Role,
    /// How many devices it admits.
    pub uses: u32,
    /// When it ends, in ms since 1970.
    pub expires_ms: u64,
    /// The sequence of the record that opened it.
    pub record: u64,
    /// The sequence of the record that closed it: those who know that one admit nobody by it.
    pub closed: Option<u64>,
}

/// An epoch's public facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// What its content key must hash to.
    pub content_commitment: [u8; 32],
    /// What its replication secret must hash to.
    pub replication_commitment: [u8; 32],
    /// The previous epoch's key sealed under this one's.
    pub previous_key: Option<Vec<u8>>,
    /// The sequence of the record that began it.
    pub record: u64,
}

/// A record of the chain, with who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRecord {
    /// Whose operation it stands in.
    pub author: DeviceId,
    /// The record.
    pub record: Record,
}

/// What is known of a space's logs from all that is held, and decides what counts from the first operation on.
///
/// Admission is folded with the facts known beforehand; when more turn up, it is folded again with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Author → the first position at which its log is proven to have two operations.
    pub forks: BTreeMap<DeviceId, u64>,
    /// Author → the last position that counts by itself, by removals, lost roles and takeovers.
    pub cuts: BTreeMap<DeviceId, u64>,
    /// The hashes of the records up to the takeover that counts, in their order; empty without one.
    pub takeover: Vec<[u8; 32]>,
}

/// Where a control operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whose.
    pub author: DeviceId,
    /// The log that it is in: the author's, or a branch of it.
    pub log: DeviceId,
    /// Its sequence.
    pub sequence: u64,
}

/// Whether a position of a log is in an operation's causal past.
pub type InPast<'a> = &'a dyn Fn(&DeviceId, u64) -> bool;

/// The hash of a record.
type RecordHash = [u8; 32];

/// What is known of a device, member or not.
#[derive(Debug, Clone, Default)]
struct Device {
    admissions: Vec<Admission>,
    /// What the latest record of the chain says that names it.
    recorded: Option<(Role, ExchangeKey)>,
    changed_role: Option<Role>,
    /// Whether a change of its role let it write.
    promoted: bool,
    removed: bool,
    /// The positions of kept records, on the chain or not, that let its log begin.
    grants: Vec<(DeviceId, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Admission {
    by: AdmittedBy,
    exchange: ExchangeKey,
    /// The log that it is in.
    log: DeviceId,
    /// Whether it lets the device's log begin: some record that its sponsor knew invites a writer.
    begins: bool,
    /// Whether it can make a member: the invitation stands in the chain and was open as far as the sponsor knew.
    counts: bool,
}

/// A record that the steward named by those before it wrote, or the recovery key.
#[derive(Debug, Clone)]
struct Kept {
    author: DeviceId,
    record: Record,
    /// Who is steward after it.
    steward: DeviceId,
    /// Where it stands: once in each log that has it.
    places: Vec<(DeviceId, u64)>,
}

impl Kept {
    fn is_in(&self, past: InPast<'_>) -> bool {
        self.places.iter().any(|(log, sequence)| past(log, *sequence))
    }
}

/// The state that admitted control operations add up to.
#[derive(Debug, Clone)]
pub struct Membership {
    space: SpaceId,
    genesis: Option<Genesis>,
    steward: DeviceId,
    chain: Vec<ChainRecord>,
    hashes: Vec<RecordHash>,
    /// The highest position of any kept record, on the chain or off it.
    seen_records: u64,
    devices: BTreeMap<DeviceId, Device>,
    sponsored: BTreeMap<DeviceId, Vec<(u64, DeviceId)>>,
    /// Devices that were given the right to write by what counts, whether or not it ended.
    writers: BTreeSet<DeviceId>,
    /// How many devices the chain's records name.
    named: usize,
    members: BTreeMap<DeviceId, Member>,
    invitations: BTreeMap<DeviceId, Invitation>,
    /// Invitation → the kept records, on the chain or not, that open it.
    offers: BTreeMap<DeviceId, Vec<(Role, RecordHash)>>,
    epochs: BTreeMap<u32, Epoch>,
    /// Epoch → the kept records, on the chain or not, that begin it.
    declared: BTreeMap<u32, Vec<RecordHash>>,
    history_shared: bool,
    resolved: Vec<Cut>,
    forks: BTreeMap<DeviceId, u64>,
    /// Cuts that records of the chain name.
    cuts: BTreeMap<DeviceId, Cut>,
    /// Up to where logs count by themselves, by all that is known or was known beforehand.
    limits: BTreeMap<DeviceId, u64>,
    /// Authors whose limit fell since somebody asked.
    lowered: BTreeSet<DeviceId>,
    path: Vec<RecordHash>,
    /// Every record that its steward or the recovery key wrote: a takeover may choose among them.
    kept: BTreeMap<RecordHash, Kept>,
    /// The takeovers whose records follow the rules, the one that counts first.
    takeovers: BTreeSet<(Reverse<u64>, RecordHash)>,
    takeover_counter: u64,
    changes: u64,
}

impl Membership {
    /// The membership of a space of which nothing is known but its id.
    pub fn new(space: SpaceId) -> Self {
        Self::with_facts(space, &Facts::default())
    }

    /// The same, to be folded with what is known beforehand.
    pub fn with_facts(space: SpaceId, facts: &Facts) -> Self {
        let mut limits = facts.cuts.clone();
        for (author, fork) in &facts.forks {
            lower(&mut limits, *author, fork - 1);
        }
        Self {
            space,
            genesis: None,
            steward: DeviceId([0; 32]),
            chain: Vec::new(),
            hashes: Vec::new(),
            seen_records: 0,
            devices: BTreeMap::new(),
            sponsored: BTreeMap::new(),
            writers: BTreeSet::new(),
            named: 0,
            members: BTreeMap::new(),
            invitations: BTreeMap::new(),
            offers: BTreeMap::new(),
            epochs: BTreeMap::new(),
            declared: BTreeMap::new(),
            history_shared: true,
            resolved: Vec::new(),
            forks: facts.forks.clone(),
            cuts: BTreeMap::new(),
            limits,
            lowered: BTreeSet::new(),
            path: facts.takeover.clone(),
            kept: BTreeMap::new(),
            takeovers: BTreeSet::new(),
            takeover_counter: 0,
            changes: 0,
        }
    }

    /// How often it has changed: tells whether something is new without comparing.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The first record, once it is known.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// Who writes the records now, once the genesis is known.
    pub fn steward(&self) -> Option<DeviceId> {
        self.genesis.as_ref().map(|_| self.steward)
    }

    /// How many records the chain has.
    pub fn records(&self) -> u64 {
        self.chain.len() as u64
    }

    /// The records of the chain, from the genesis.
    pub fn chain(&self) -> &[ChainRecord] {
        &self.chain
    }

    /// The highest position of a record that is held, on the chain or off it.
    pub fn seen_records(&self) -> u64 {
        self.seen_records
    }

    /// All members by device.
    pub fn members(&self) -> &BTreeMap<DeviceId, Member> {
        &self.members
    }

    /// All invitations by their key.
    pub fn invitations(&self) -> &BTreeMap<DeviceId, Invitation> {
        &self.invitations
    }

    /// Cuts that records name, by author.
    pub fn cuts(&self) -> &BTreeMap<DeviceId, Cut> {
        &self.cuts
    }

    /// Authors that are proven to have forked, with the first position of which two operations are known.
    pub fn forks(&self) -> &BTreeMap<DeviceId, u64> {
        &self.forks
    }

    /// Branch heads up to which records let cut logs count.
    pub fn resolved(&self) -> &[Cut] {
        &self.resolved
    }

    /// Whether newcomers are given the keys of what was written before.
    pub fn history_shared(&self) -> bool {
        self.history_shared
    }

    /// Whether a device was removed.
    pub fn is_removed(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|known| known.removed)
    }

    /// Whether anything was heard of a device: an admission or a record.
    pub fn knows(&self, device: &DeviceId) -> bool {
        self.devices.contains_key(device)
    }

    /// Up to where the log of `author` counts by itself: without end, or as it was cut, or nothing for those who were
    /// never given the right to write.
    pub fn limit(&self, author: &DeviceId) -> u64 {
        let unchecked = planted(Bug::RoleUncheckedAtAdmission) && self.members.contains_key(author);
        if !self.writers.contains(author) && !unchecked {
            return 0;
        }
        self.limits.get(author).copied().unwrap_or(u64::MAX)
    }

    /// Whether the log of `author` was cut, or forked.
    pub fn is_limited(&self, author: &DeviceId) -> bool {
        self.limits.contains_key(author)
    }

    /// Every admission that made a member, by device, those of members that were removed since included.
    pub fn admissions(&self) -> impl Iterator<Item = (DeviceId, AdmittedBy)> {
        let of = |(device, known): (&DeviceId, &Device)| {
            let device = *device;
            self.grounded(known).into_iter().map(move |by| (device, by))
        };
        self.devices.iter().flat_map(of)
    }

    /// How many devices came by an invitation.
    pub fn invitation_uses(&self, invitation: &DeviceId) -> u32 {
        let came_by = |member: &&Member| member.admissions.iter().any(|by| by.invitation == *invitation);
        self.members.values().filter(came_by).count() as u32
    }

    /// The role of a device, if it is a member.
    pub fn role(&self, device: &DeviceId) -> Option<Role> {
        self.members.get(device).map(|member| member.role)
    }

    /// The latest epoch's number, 0 before the first.
    pub fn epoch(&self) -> u32 {
        self.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// The number of the epoch that would begin next: beyond all that any record began, on the chain or off it, or,
    /// where one named a number that is out of reach, the first that none names.
    pub fn next_epoch(&self) -> u32 {
        let (before, last) = (self.epoch(), self.declared.last_key_value().map_or(0, |(epoch, _)| *epoch));
        let in_reach = before.saturating_add(1)..=before.saturating_add(EPOCH_STEP_MAX);
        let mut open = last.checked_add(1).into_iter().chain(in_reach.clone());
        let open = open.find(|epoch| in_reach.contains(epoch) && !self.declared.contains_key(epoch));
        open.unwrap_or(*in_reach.start())
    }

    /// An epoch's public facts.
    pub fn epoch_facts(&self, epoch: u32) -> Option<&Epoch> {
        self.epochs.get(&epoch)
    }

    /// All epochs of the chain.
    pub fn epochs(&self) -> &BTreeMap<u32, Epoch> {
        &self.epochs
    }

    /// Whether an operation may be sealed under `epoch` that has this causal past: the epoch has begun there.
    pub fn epoch_has_begun(&self, epoch: u32, in_past: InPast<'_>) -> bool {
        self.declared.get(&epoch).into_iter().flatten().any(|hash| self.kept[hash].is_in(in_past))
    }

    /// Whether an operation may not be sealed under `epoch` any more, so that nothing is sealed for devices that were
    /// removed: its author says that it knows `known` records, and knows one that began a later epoch.
    ///
    /// Records that a takeover chose among may have been in dispute when the operation was written: none of them ends
    /// an epoch.
    pub fn epoch_has_ended(&self, epoch: u32, known: u64, in_past: InPast<'_>) -> bool {
        let chosen = self.path.len() as u64;
        let later = self.epochs.range(epoch.saturating_add(1)..).map(|(_, later)| later.record);
        later.filter(|record| (chosen + 1..=known).contains(record)).any(|record| self.knows_record(record, in_past))
    }

    /// Whether the chain's record at this position is in a causal past.
    fn knows_record(&self, position: u64, in_past: InPast<'_>) -> bool {
        let hash = usize::try_from(position - 1).ok().and_then(|index| self.hashes.get(index));
        hash.and_then(|hash| self.kept.get(hash)).is_some_and(|kept| kept.is_in(in_past))
    }

    /// Whether all records of the chain are in a causal past.
    pub fn knows_all_records(&self, in_past: InPast<'_>) -> bool {
        self.hashes.last().is_none_or(|last| self.kept[last].is_in(in_past))
    }

    /// The record that would say `statement` next.
    pub fn next_record(&self, statement: Statement, wall_time_ms: u64) -> Record {
        Record { sequence: self.records() + 1, previous: self.last_record(), wall_time_ms, statement }
    }

    /// The hash of the chain's last record.
    pub fn last_record(&self) -> [u8; 32] {
        self.hashes.last().copied().unwrap_or_default()
    }

    /// What is known by now that decides what counts: see [`Facts`].
    pub fn facts(&self) -> Facts {
        let cuts = self.cuts.iter().map(|(author, cut)| (*author, cut.sequence)).collect();
        Facts { forks: self.forks.clone(), cuts, takeover: self.takeover_path() }
    }

    /// Whether a takeover is known that outranks the one that the chain follows, or was to follow.
    pub(crate) fn follows_another_takeover(&self) -> bool {
        let Some(best) = self.takeovers.first() else { return false };
        let Some(followed) = self.path.last() else { return true };
        // One that is not kept yet was found by an earlier fold of the same operations: it comes.
        self.takeovers.iter().find(|(_, hash)| hash == followed).is_some_and(|followed| best < followed)
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        self.space
    }

    /// The authors whose limits fell since the last call, with what they fell to.
    pub(crate) fn take_lowered(&mut self) -> Vec<(DeviceId, u64)> {
        let limits = &self.limits;
        let limit = |author: DeviceId| limits.get(&author).map(|limit| (author, *limit));
        std::mem::take(&mut self.lowered).into_iter().filter_map(limit).collect()
    }

    /// Takes note that `author` is proven to have written two operations at `sequence`.
    pub(crate) fn add_fork(&mut self, author: DeviceId, sequence: u64) -> bool {
        let lowered = self.forks.get(&author).is_none_or(|known| sequence < *known);
        if lowered {
            self.forks.insert(author, sequence);
            lower(&mut self.limits, author, sequence - 1);
            self.changes += 1;
        }
        lowered
    }
}

/// Lowers a limit; tells whether it was higher before.
fn lower(limits: &mut BTreeMap<DeviceId, u64>, author: DeviceId, to: u64) -> bool {
    let limit = limits.entry(author).or_insert(u64::MAX);
    let lowered = to < *limit;
    *limit = to.min(*limit);
    lowered
}
