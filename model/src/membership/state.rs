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

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::record::{Cut, Genesis, Record, Statement, Takeover};
use super::{Admit, Certificate, MembershipError, Role};
use crate::ids::{DeviceId, SpaceId};
use crate::keys::ExchangeKey;
use crate::limits::{INVITATIONS_MAX, MEMBERS_MAX, RECORDS_KEPT_MAX, RESOLVED_HEADS_MAX};
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

    /// The number of the epoch that would begin next: beyond all that any record began.
    pub fn next_epoch(&self) -> u32 {
        self.declared.last_key_value().map_or(0, |(epoch, _)| *epoch).saturating_add(1)
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

    /// Applies a membership operation's payload.
    pub fn apply_record(&mut self, at: Place, payload: &[u8], in_past: InPast<'_>) -> Result<(), MembershipError> {
        let record = Record::decode(payload).map_err(|_| MembershipError::Malformed)?;
        let hash = record.hash();
        self.keep(at, &record, hash, in_past)?;
        self.extend(at, record, hash)
    }

    /// Adds a kept record to the chain, if that is where it belongs.
    fn extend(&mut self, at: Place, record: Record, hash: RecordHash) -> Result<(), MembershipError> {
        if record.previous != self.last_record() {
            return Err(MembershipError::BrokenChain);
        }
        let chosen = self.path.get(self.chain.len());
        if chosen.is_some_and(|chosen| *chosen != hash) {
            return Err(MembershipError::Superseded);
        }
        self.check_place(at, &record, chosen.is_some())?;
        self.check_statement(&record.statement)?;
        self.take_effect(&record);
        self.changes += 1;
        self.hashes.push(hash);
        self.chain.push(ChainRecord { author: at.author, record });
        Ok(())
    }

    /// Who is steward after a record, when `author` may write it by what is in its own past.
    fn steward_after(
        &self,
        author: &DeviceId,
        record: &Record,
        in_past: InPast<'_>,
    ) -> Result<DeviceId, MembershipError> {
        if let Statement::Genesis(genesis) = &record.statement {
            let begins = record.sequence == 1 && record.previous == [0; 32] && genesis.space() == self.space;
            return match (begins, genesis.steward == *author) {
                (false, _) => Err(MembershipError::WrongGenesis),
                (true, false) => Err(MembershipError::NotSteward),
                (true, true) => Ok(*author),
            };
        }
        let Some(genesis) = &self.genesis else { return Err(MembershipError::WrongGenesis) };
        let before = self.kept.get(&record.previous).filter(|before| before.record.sequence + 1 == record.sequence);
        let Some(before) = before.filter(|before| before.is_in(in_past)) else {
            return Err(MembershipError::BrokenChain);
        };
        match &record.statement {
            Statement::Takeover(takeover) => {
                let theirs = takeover.steward == *author
                    && takeover.holds(&self.space, record.sequence, record.previous, &genesis.recovery);
                match (theirs, takeover.cut.author == before.steward) {
                    (false, _) => Err(MembershipError::NotSteward),
                    (true, false) => Err(MembershipError::BadStatement),
                    (true, true) => Ok(*author),
                }
            }
            _ if before.steward != *author && !planted(Bug::AnybodyWritesRecords) => Err(MembershipError::NotSteward),
            Statement::Handover { steward, .. } => Ok(*steward),
            _ => Ok(before.steward),
        }
    }

    /// Keeps what its steward or the recovery key wrote, whether it is of the chain or not.
    fn keep(
        &mut self,
        at: Place,
        record: &Record,
        hash: RecordHash,
        in_past: InPast<'_>,
    ) -> Result<(), MembershipError> {
        let steward = self.steward_after(&at.author, record, in_past)?;
        if matches!(record.statement, Statement::Genesis(_)) && at.sequence != 1 {
            return Err(MembershipError::WrongGenesis);
        }
        if self.kept.len() >= RECORDS_KEPT_MAX && !self.kept.contains_key(&hash) {
            return Err(MembershipError::TooMany);
        }
        let place = (at.log, at.sequence);
        let grant = |device: &DeviceId| (*device, place);
        let granted = match &record.statement {
            Statement::Addition { device, role, .. } | Statement::RoleChange { device, role, .. } => {
                Some(grant(device)).filter(|_| role.writes())
            }
            Statement::Handover { steward, .. } | Statement::Takeover(Takeover { steward, .. }) => Some(grant(steward)),
            _ => None,
        };
        let kept = || Kept { author: at.author, record: record.clone(), steward, places: Vec::new() };
        let is_new = !self.kept.contains_key(&hash);
        let kept = self.kept.entry(hash).or_insert_with(kept);
        // Whoever knows a later place in the same log knows the first one.
        if kept.places.iter().any(|(log, _)| *log == at.log) {
            return Ok(());
        }
        kept.places.push(place);
        if let Some((device, place)) = granted {
            self.devices.entry(device).or_default().grants.push(place);
        }
        if is_new {
            self.note_kept(record, hash);
        }
        Ok(())
    }

    fn note_kept(&mut self, record: &Record, hash: RecordHash) {
        self.seen_records = self.seen_records.max(record.sequence);
        match &record.statement {
            Statement::Epoch { epoch, .. } => self.declared.entry(*epoch).or_default().push(hash),
            Statement::Invitation { invitation, role, .. } => {
                self.offers.entry(*invitation).or_default().push((*role, hash));
            }
            Statement::Takeover(takeover) => {
                self.takeover_counter = self.takeover_counter.max(takeover.counter);
                if self.follows_the_rules(hash) {
                    self.takeovers.insert((Reverse(takeover.counter), hash));
                }
                self.changes += 1;
            }
            _ => {}
        }
    }

    /// Whether a kept record may stand where it stands, as far as forks and takeovers go.
    fn check_place(&self, at: Place, record: &Record, chosen: bool) -> Result<(), MembershipError> {
        match &record.statement {
            Statement::Genesis(_) => Ok(()),
            _ if chosen => Ok(()),
            Statement::Takeover(_) => Err(MembershipError::Superseded),
            _ if at.log != at.author || self.forks.get(&at.author).is_some_and(|fork| at.sequence >= *fork) => {
                Err(MembershipError::Disputed)
            }
            _ => Ok(()),
        }
    }

    fn check_statement(&self, statement: &Statement) -> Result<(), MembershipError> {
        let bad = Err(MembershipError::BadStatement);
        let known = |device: &DeviceId| self.devices.get(device);
        let removed = |device: &DeviceId| known(device).is_some_and(|known| known.removed);
        match statement {
            Statement::Epoch { epoch, .. } if *epoch <= self.epoch() => Err(MembershipError::WrongEpoch),
            // A second word on an invitation would change what admissions mean that knew the first.
            Statement::Invitation { invitation, .. } if self.invitations.contains_key(invitation) => {
                Err(MembershipError::RepeatedInvitation)
            }
            Statement::Invitation { .. } if self.invitations.len() >= INVITATIONS_MAX => Err(MembershipError::TooMany),
            Statement::Revocation { invitation } if !self.invitations.contains_key(invitation) => {
                Err(MembershipError::UnknownInvitation)
            }
            Statement::Addition { device, role, .. } => match () {
                () if *role == Role::Steward
                    || removed(device)
                    || known(device).is_some_and(|k| k.recorded.is_some()) =>
                {
                    bad
                }
                () if self.named >= MEMBERS_MAX => Err(MembershipError::TooMany),
                () => Ok(()),
            },
            Statement::Removal { cuts } => {
                let distinct: BTreeSet<_> = cuts.iter().map(|cut| cut.author).collect();
                let whole = !cuts.is_empty() && distinct.len() == cuts.len() && !distinct.contains(&self.steward);
                if whole { Ok(()) } else { bad }
            }
            Statement::RoleChange { device, role, cut } => {
                let others = *role != Role::Steward && *device != self.steward && !removed(device);
                let cut_fits = match cut {
                    Some(cut) => !role.writes() && cut.author == *device,
                    // A log that was cut once never goes on: what lies behind the cut would come back with it.
                    None => role.writes() && !self.cuts.contains_key(device),
                };
                if others && cut_fits { Ok(()) } else { bad }
            }
            Statement::Handover { steward, .. } => {
                let able = *steward != self.steward && !removed(steward) && !self.cuts.contains_key(steward);
                if able { Ok(()) } else { bad }
            }
            Statement::Resolve { heads } => {
                let room = self.resolved.len() + heads.len() <= RESOLVED_HEADS_MAX;
                if room && !heads.is_empty() { Ok(()) } else { bad }
            }
            _ => Ok(()),
        }
    }

    fn take_effect(&mut self, record: &Record) {
        match record.statement.clone() {
            Statement::Genesis(genesis) => {
                self.make_steward(genesis.steward, genesis.steward_exchange);
                self.genesis = Some(genesis);
            }
            Statement::Epoch { epoch, content_commitment, replication_commitment, previous_key } => {
                let record = record.sequence;
                self.epochs.insert(epoch, Epoch { content_commitment, replication_commitment, previous_key, record });
            }
            Statement::Invitation { invitation, role, uses, expires_ms } => {
                let invited = Invitation { role, uses, expires_ms, record: record.sequence, closed: None };
                self.invitations.insert(invitation, invited);
            }
            Statement::Revocation { invitation } => {
                if let Some(invitation) = self.invitations.get_mut(&invitation) {
                    invitation.closed.get_or_insert(record.sequence);
                }
            }
            Statement::Addition { device, exchange, role } => {
                self.name(device, role, exchange);
            }
            Statement::Removal { cuts } => {
                cuts.into_iter().for_each(|cut| self.remove(cut));
                for invitation in self.invitations.values_mut() {
                    invitation.closed.get_or_insert(record.sequence);
                }
            }
            Statement::RoleChange { device, role, cut } => {
                if let Some(cut) = cut {
                    self.cut(cut);
                }
                let changed = self.devices.entry(device).or_default();
                changed.changed_role = Some(role);
                changed.promoted |= role.writes();
                self.renew(device);
            }
            Statement::Handover { steward, exchange } => self.make_steward(steward, exchange),
            Statement::Takeover(takeover) => {
                self.make_steward(takeover.steward, takeover.exchange);
                if takeover.cut.author != takeover.steward {
                    self.remove(takeover.cut);
                }
            }
            Statement::Resolve { heads } => self.resolved.extend(heads),
            Statement::History { shared } => self.history_shared = shared,
        }
    }

    fn make_steward(&mut self, steward: DeviceId, exchange: ExchangeKey) {
        let former = std::mem::replace(&mut self.steward, steward);
        if let Some(device) = self.devices.get_mut(&former) {
            device.changed_role = Some(Role::Writer);
            self.renew(former);
        }
        self.devices.entry(steward).or_default().changed_role = None;
        self.name(steward, Role::Steward, exchange);
    }

    /// A record gives a device its role.
    fn name(&mut self, device: DeviceId, role: Role, exchange: ExchangeKey) {
        let before = self.devices.entry(device).or_default().recorded.replace((role, exchange));
        self.named += usize::from(before.is_none());
        self.renew(device);
    }

    fn remove(&mut self, cut: Cut) {
        self.devices.entry(cut.author).or_default().removed = true;
        self.cut(cut);
        self.renew(cut.author);
    }

    fn cut(&mut self, cut: Cut) {
        if lower(&mut self.limits, cut.author, cut.sequence) {
            self.lowered.insert(cut.author);
        }
        let known = self.cuts.entry(cut.author).or_insert(cut);
        *known = if cut.sequence < known.sequence { cut } else { *known };
    }

    /// Checks an application as an admit operation would be checked whose author knows the chain's first `known`
    /// records, and tells the role it gives.
    pub fn check_certificate(&self, known: u64, certificate: &Certificate) -> Result<Role, MembershipError> {
        let role =
            self.invited_role(certificate, &|record| record <= known)?.ok_or(MembershipError::UnknownInvitation)?;
        if certificate.holds(&self.space) { Ok(role) } else { Err(MembershipError::BadCertificate) }
    }

    /// The role that the chain's invitation gives to those who know it open; None when they do not know it.
    fn invited_role(
        &self,
        certificate: &Certificate,
        knows: &dyn Fn(u64) -> bool,
    ) -> Result<Option<Role>, MembershipError> {
        let invitation = self.invitations.get(&certificate.invitation);
        let Some(invitation) = invitation.filter(|invitation| knows(invitation.record)) else { return Ok(None) };
        match invitation.role {
            _ if invitation.closed.is_some_and(knows) => Err(MembershipError::ClosedInvitation),
            // A steward is made by genesis, handover or takeover alone.
            Role::Steward => Err(MembershipError::BadCertificate),
            role => Ok(Some(role)),
        }
    }

    /// Applies an admit operation's payload.
    ///
    /// A device may be admitted more than once, at the same time by two sponsors or later to a further role: the
    /// furthest role counts, whichever arrives first. A sponsor's admissions come in the order of its log.
    ///
    /// Only what the admission itself builds on counts, never what else has arrived, so every replica says the same.
    /// An admission that the chain does not let count may still let a log begin, whose operations then are sound and
    /// count once others build on them: soundness must not hang on what forks and takeovers leave of the chain.
    pub fn apply_admit(&mut self, at: Place, payload: &[u8], in_past: InPast<'_>) -> Result<(), MembershipError> {
        let Admit { certificate, wall_time_ms } = Admit::decode(payload).map_err(|_| MembershipError::Malformed)?;
        let offers = self.offers.get(&certificate.invitation).into_iter().flatten();
        let known = offers.filter(|(_, hash)| self.kept[hash].is_in(in_past)).map(|(role, _)| *role);
        let known: Vec<Role> = known.filter(|role| *role != Role::Steward).collect();
        let offered = known.iter().min().copied();
        let chained = self.invited_role(&certificate, &|record| self.knows_record(record, in_past));
        let role = match (chained, offered) {
            (Ok(Some(role)), _) | (_, Some(role)) => role,
            (Err(error), None) => return Err(error),
            (Ok(None), None) => return Err(MembershipError::UnknownInvitation),
        };
        if !certificate.holds(&self.space) {
            return Err(MembershipError::BadCertificate);
        }
        let begins = known.iter().any(|role| role.writes()) || planted(Bug::RoleUncheckedAtAdmission);
        let counts = matches!(chained, Ok(Some(_))) && at.log == at.author;
        let invitation = certificate.invitation;
        let by = AdmittedBy { sponsor: at.author, sequence: at.sequence, invitation, role, wall_time_ms };
        let admission = Admission { by, exchange: certificate.exchange, log: at.log, begins, counts };
        self.add_admission(certificate.device, admission);
        chained.map(drop)
    }

    fn add_admission(&mut self, device: DeviceId, admission: Admission) {
        let place = |admission: &Admission| {
            (admission.by.sponsor, admission.by.invitation, admission.log, admission.begins, admission.counts)
        };
        let known = self.devices.entry(device).or_default();
        if let Err(index) = known.admissions.binary_search_by_key(&place(&admission), place) {
            known.admissions.insert(index, admission);
        }
        self.changes += 1;
        if admission.counts {
            let by = admission.by;
            self.sponsored.entry(by.sponsor).or_default().push((by.sequence, device));
            if self.grounds(&admission) {
                self.renew(device);
            }
        }
    }

    /// Whether an admission makes a member: its sponsor may write, and had not lost the right to.
    fn grounds(&self, admission: &Admission) -> bool {
        admission.counts
            && (admission.by.sequence <= self.limit(&admission.by.sponsor) || planted(Bug::CutSponsorAdmits))
    }

    /// Works out what a device may do, and all whom it let in.
    fn renew(&mut self, device: DeviceId) {
        let mut open = vec![device];
        while let Some(device) = open.pop() {
            if self.is_given_to_write(&device) && self.writers.insert(device) {
                let limit = self.limit(&device);
                let sponsored = self.sponsored.get(&device).into_iter().flatten();
                open.extend(sponsored.filter(|(sequence, _)| *sequence <= limit).map(|(_, admitted)| *admitted));
            }
            self.renew_member(device);
        }
    }

    fn is_given_to_write(&self, device: &DeviceId) -> bool {
        let Some(device) = self.devices.get(device) else { return false };
        let recorded = device.recorded.map(|(role, _)| role);
        let admitted = device.admissions.iter().filter(|admission| self.grounds(admission));
        let mut given = recorded.into_iter().chain(admitted.map(|admission| admission.by.role));
        given.any(|role| role.writes() || device.promoted)
    }

    /// Works out a device's entry among the members.
    fn renew_member(&mut self, id: DeviceId) {
        let Some(device) = self.devices.get(&id).filter(|device| !device.removed) else {
            self.members.remove(&id);
            return;
        };
        let admissions = device.admissions.iter().filter(|admission| self.grounds(admission));
        let admissions: Vec<&Admission> = admissions.collect();
        let admitted = admissions.iter().map(|admission| admission.by.role).min();
        let recorded = device.recorded.map(|(role, _)| role);
        let role = device.changed_role.or(recorded.into_iter().chain(admitted).min());
        // Devices sign one exchange key; of one that signed two, every replica takes the same.
        let signed = admissions.iter().map(|admission| admission.exchange).min();
        let exchange = device.recorded.map(|(_, exchange)| exchange).or(signed);
        let member = role.zip(exchange).filter(|_| device.recorded.is_some() || admitted.is_some());
        match member {
            Some((role, exchange)) => {
                let mut admissions: Vec<AdmittedBy> = admissions.into_iter().map(|admission| admission.by).collect();
                admissions.sort_by_key(|by| (by.sponsor, by.invitation, by.sequence));
                admissions.dedup_by_key(|by| (by.sponsor, by.invitation));
                self.members.insert(id, Member { role, exchange, admissions });
            }
            None => {
                self.members.remove(&id);
            }
        }
    }

    /// Whether a sponsor should turn new members away because the space is full.
    pub fn is_full(&self) -> bool {
        self.members.len() >= MEMBERS_MAX
    }

    /// Whether `device`'s log may begin with an operation that has this causal past: an admission as a writer is in it,
    /// or a record that gives a role which writes.
    pub fn may_begin(&self, device: &DeviceId, in_past: InPast<'_>) -> bool {
        self.devices.get(device).is_some_and(|device| {
            let admits = |admission: &Admission| admission.begins && in_past(&admission.log, admission.by.sequence);
            device.admissions.iter().any(admits) || device.grants.iter().any(|(log, sequence)| in_past(log, *sequence))
        })
    }

    /// Whether a log may begin with a record of this kind, having no past: the genesis.
    pub fn is_genesis(&self, author: &DeviceId, payload: &[u8]) -> bool {
        let genesis = |record: &Record| matches!(record.statement, Statement::Genesis(_));
        let record = Record::decode(payload).ok().filter(genesis);
        record.is_some_and(|record| self.steward_after(author, &record, &|_, _| false).is_ok())
    }

    /// Whether a payload is a takeover by `author` that the recovery key signed and that follows a record in this
    /// causal past: a log may begin with one.
    pub fn is_takeover(&self, author: &DeviceId, payload: &[u8], in_past: InPast<'_>) -> bool {
        let takeover = |record: &Record| matches!(record.statement, Statement::Takeover(_));
        let record = Record::decode(payload).ok().filter(takeover);
        record.is_some_and(|record| self.steward_after(author, &record, in_past).is_ok())
    }

    /// The highest counter of a takeover that is known, 0 without one.
    pub fn takeover_counter(&self) -> u64 {
        self.takeover_counter
    }

    /// The records up to the takeover that counts: the highest counter, then the smaller hash, of those whose records
    /// follow the rules.
    fn takeover_path(&self) -> Vec<RecordHash> {
        self.takeovers.first().map(|(_, hash)| self.path_to(*hash)).unwrap_or_default()
    }

    fn path_to(&self, last: RecordHash) -> Vec<RecordHash> {
        let step = |hash: &RecordHash| self.kept.get(hash).map(|kept| kept.record.previous);
        let path = std::iter::successors(Some(last), step).take_while(|hash| *hash != [0; 32]);
        let mut path: Vec<RecordHash> = path.collect();
        path.reverse();
        path
    }

    /// Whether the records up to this one make a chain, forks aside.
    fn follows_the_rules(&self, last: RecordHash) -> bool {
        let path = self.path_to(last);
        let mut replayed = Self::new(self.space);
        replayed.path.clone_from(&path);
        path.iter().all(|hash| {
            let Kept { author, record, .. } = &self.kept[hash];
            let at = Place { author: *author, log: *author, sequence: record.sequence };
            replayed.extend(at, record.clone(), *hash).is_ok()
        })
    }
}

/// Lowers a limit; tells whether it was higher before.
fn lower(limits: &mut BTreeMap<DeviceId, u64>, author: DeviceId, to: u64) -> bool {
    let limit = limits.entry(author).or_insert(u64::MAX);
    let lowered = to < *limit;
    *limit = to.min(*limit);
    lowered
}
