//! The state that records and admissions add up to.
//!
//! Two strata, so that nothing runs in a circle. The *chain* of records follows from records alone: each is written by
//! the steward whom the ones before it name, or signed by the recovery key. *Grounding* follows from the chain and the
//! admit operations: a device is a member when a record names it, or when an admission of it counts whose sponsor is
//! a member, within what counts of the sponsor's log by itself. What others build on never makes a member: a removed
//! device cannot bring in a stranger whose operations then vouch for it.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Cut, Genesis, Record, Statement};
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
    /// How many records its author knew.
    pub known: u64,
}

/// Whether a position of a log is in an operation's causal past.
pub type InPast<'a> = &'a dyn Fn(&DeviceId, u64) -> bool;

/// What is known of a device, member or not.
#[derive(Debug, Clone, Default)]
struct Device {
    admissions: Vec<Admission>,
    /// What the latest record says that names it.
    recorded: Option<(Role, ExchangeKey)>,
    changed_role: Option<Role>,
    removed: bool,
    /// Records that let its log begin.
    grants: Vec<Grant>,
}

#[derive(Debug, Clone, Copy)]
struct Admission {
    by: AdmittedBy,
    exchange: ExchangeKey,
    /// Whether the invitation stands in the chain and the admission in its sponsor's own log.
    counts: bool,
}

/// A record that gives something, off the chain perhaps.
#[derive(Debug, Clone, Copy)]
struct Grant {
    record: u64,
    /// Off the chain it is known only to those who build on it.
    chained: bool,
    log: DeviceId,
    sequence: u64,
}

impl Grant {
    fn reaches(&self, known: u64, in_past: InPast<'_>) -> bool {
        (self.chained && self.record <= known) || in_past(&self.log, self.sequence)
    }
}

/// The state that admitted control operations add up to.
#[derive(Debug, Clone)]
pub struct Membership {
    space: SpaceId,
    genesis: Option<Genesis>,
    steward: DeviceId,
    chain: Vec<ChainRecord>,
    last_record: [u8; 32],
    /// The highest position of any record that a steward wrote, on the chain or off it.
    seen_records: u64,
    devices: BTreeMap<DeviceId, Device>,
    sponsored: BTreeMap<DeviceId, Vec<(u64, DeviceId)>>,
    grounded: BTreeSet<DeviceId>,
    members: BTreeMap<DeviceId, Member>,
    invitations: BTreeMap<DeviceId, Invitation>,
    /// Invitations in records off the chain.
    strays: Vec<(DeviceId, Role, Grant)>,
    epochs: BTreeMap<u32, Epoch>,
    /// Epoch → the lowest position of a record that begins it, on the chain or off it.
    declared: BTreeMap<u32, u64>,
    history_shared: bool,
    resolved: Vec<Cut>,
    forks: BTreeMap<DeviceId, u64>,
    /// Cuts that records of the chain name.
    cuts: BTreeMap<DeviceId, Cut>,
    /// Up to where logs count by themselves, by all that is known or was known beforehand.
    limits: BTreeMap<DeviceId, u64>,
    /// Authors whose limit fell since somebody asked.
    lowered: BTreeSet<DeviceId>,
    path: Vec<[u8; 32]>,
    /// All that were steward by some record.
    stewards: BTreeSet<DeviceId>,
    /// Every record that a steward or the recovery key wrote, by hash: a takeover may choose among them.
    kept: BTreeMap<[u8; 32], ChainRecord>,
    takeovers: Vec<(u64, [u8; 32])>,
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
            last_record: [0; 32],
            seen_records: 0,
            devices: BTreeMap::new(),
            sponsored: BTreeMap::new(),
            grounded: BTreeSet::new(),
            members: BTreeMap::new(),
            invitations: BTreeMap::new(),
            strays: Vec::new(),
            epochs: BTreeMap::new(),
            declared: BTreeMap::new(),
            history_shared: true,
            resolved: Vec::new(),
            forks: facts.forks.clone(),
            cuts: BTreeMap::new(),
            limits,
            lowered: BTreeSet::new(),
            path: facts.takeover.clone(),
            stewards: BTreeSet::new(),
            kept: BTreeMap::new(),
            takeovers: Vec::new(),
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

    /// Up to where the log of `author` counts by itself: without end, or as it was cut, or nothing for no member.
    pub fn limit(&self, author: &DeviceId) -> u64 {
        if !self.grounded.contains(author) {
            return 0;
        }
        self.limits.get(author).copied().unwrap_or(u64::MAX)
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

    /// Whether an operation whose author knew `known` records is rightly sealed under `epoch`.
    ///
    /// The epoch must have begun by then, and be the latest, so that nothing is sealed for devices that were removed
    /// by then. Before a takeover others may have known records that count no more; there only the first is asked.
    pub fn epoch_fits(&self, epoch: u32, known: u64) -> bool {
        let begun = self.declared.get(&epoch).is_some_and(|record| *record <= known);
        let superseded = self.epochs.range(epoch.saturating_add(1)..).any(|(_, later)| later.record <= known);
        begun && (!superseded || !self.path.is_empty())
    }

    /// The record that would say `statement` next.
    pub fn next_record(&self, statement: Statement, wall_time_ms: u64) -> Record {
        Record { sequence: self.records() + 1, previous: self.last_record, wall_time_ms, statement }
    }

    /// The hash of the chain's last record.
    pub fn last_record(&self) -> [u8; 32] {
        self.last_record
    }

    /// What is known by now that decides what counts: see [`Facts`].
    pub fn facts(&self) -> Facts {
        let cuts = self.cuts.iter().map(|(author, cut)| (*author, cut.sequence)).collect();
        Facts { forks: self.forks.clone(), cuts, takeover: self.takeover_path() }
    }

    /// Whether a takeover is known that the chain does not follow.
    pub(crate) fn follows_another_takeover(&self) -> bool {
        !self.takeovers.is_empty() && self.takeover_path() != self.path
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
    pub fn apply_record(&mut self, at: Place, payload: &[u8]) -> Result<(), MembershipError> {
        let record = Record::decode(payload).map_err(|_| MembershipError::Malformed)?;
        let hash = record.hash();
        self.keep(at, &record, hash)?;
        if record.sequence != self.records() + 1 || record.previous != self.last_record {
            return Err(MembershipError::BrokenChain);
        }
        let chosen = self.path.get(self.chain.len());
        if chosen.is_some_and(|chosen| *chosen != hash) {
            return Err(MembershipError::Superseded);
        }
        self.check_author(at, &record, chosen.is_some())?;
        self.check_statement(&record.statement)?;
        self.take_effect(at, &record);
        self.changes += 1;
        self.last_record = hash;
        self.chain.push(ChainRecord { author: at.author, record });
        Ok(())
    }

    /// Keeps what a steward or the recovery key wrote, whether it is of the chain or not.
    fn keep(&mut self, at: Place, record: &Record, hash: [u8; 32]) -> Result<(), MembershipError> {
        let Some(genesis) = &self.genesis else { return Ok(()) };
        let takeover = match &record.statement {
            Statement::Takeover(takeover) if takeover.steward == at.author => {
                takeover.holds(&self.space, record.sequence, record.previous, &genesis.recovery).then_some(takeover)
            }
            _ => None,
        };
        if takeover.is_none() && !self.stewards.contains(&at.author) {
            return Err(MembershipError::NotSteward);
        }
        // Whoever writes the next record knows the ones before it.
        if at.known.saturating_add(1) < record.sequence || self.kept.len() >= RECORDS_KEPT_MAX {
            return Err(MembershipError::BrokenChain);
        }
        self.seen_records = self.seen_records.max(record.sequence);
        match &record.statement {
            Statement::Epoch { epoch, .. } => {
                let first = self.declared.entry(*epoch).or_insert(record.sequence);
                *first = record.sequence.min(*first);
            }
            Statement::Takeover(takeover) => {
                self.stewards.insert(takeover.steward);
                if !self.kept.contains_key(&hash) {
                    self.takeovers.push((takeover.counter, hash));
                    self.changes += 1;
                }
            }
            Statement::Handover { steward, .. } => {
                self.stewards.insert(*steward);
            }
            _ => {}
        }
        let grant = Grant { record: record.sequence, chained: false, log: at.log, sequence: at.sequence };
        match &record.statement {
            Statement::Invitation { invitation, role, .. } => self.strays.push((*invitation, *role, grant)),
            Statement::Addition { device, role, .. } | Statement::RoleChange { device, role, .. } if role.writes() => {
                self.devices.entry(*device).or_default().grants.push(grant);
            }
            Statement::Handover { steward, .. } | Statement::Takeover(super::Takeover { steward, .. }) => {
                self.devices.entry(*steward).or_default().grants.push(grant);
            }
            _ => {}
        }
        self.kept.insert(hash, ChainRecord { author: at.author, record: record.clone() });
        Ok(())
    }

    fn check_author(&self, at: Place, record: &Record, chosen: bool) -> Result<(), MembershipError> {
        match (&record.statement, &self.genesis) {
            (Statement::Genesis(genesis), None) if genesis.space() == self.space => {
                if genesis.steward == at.author {
                    Ok(())
                } else {
                    Err(MembershipError::NotSteward)
                }
            }
            (Statement::Genesis(_), _) | (_, None) => Err(MembershipError::WrongGenesis),
            // Its signature was checked, and which takeover counts is decided by all that are known.
            (Statement::Takeover(takeover), Some(_)) => match (chosen, takeover.cut.author == self.steward) {
                (true, true) => Ok(()),
                (true, false) => Err(MembershipError::BadStatement),
                (false, _) => Err(MembershipError::Superseded),
            },
            (_, Some(_)) if at.author != self.steward && !planted(Bug::AnybodyWritesRecords) => {
                Err(MembershipError::NotSteward)
            }
            (_, Some(_)) => {
                let beyond = self.forks.get(&at.author).is_some_and(|fork| at.sequence >= *fork);
                if (beyond || at.log != at.author) && !chosen { Err(MembershipError::Disputed) } else { Ok(()) }
            }
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
                () if self.devices.len() >= MEMBERS_MAX => Err(MembershipError::TooMany),
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

    fn take_effect(&mut self, at: Place, record: &Record) {
        if let Statement::Genesis(genesis) = &record.statement {
            self.genesis = Some(genesis.clone());
            let _kept = self.keep(at, record, record.hash());
            self.kept.insert(record.hash(), ChainRecord { author: at.author, record: record.clone() });
            self.seen_records = self.seen_records.max(1);
            return self.make_steward(genesis.steward, genesis.steward_exchange);
        }
        // It is on the chain now: whoever knows so many records knows it.
        let place = (at.log, at.sequence);
        let devices = self.devices.values_mut().flat_map(|device| &mut device.grants);
        let grants = devices.chain(self.strays.iter_mut().map(|(_, _, grant)| grant));
        if matches!(
            record.statement,
            Statement::Addition { .. }
                | Statement::RoleChange { .. }
                | Statement::Handover { .. }
                | Statement::Takeover(_)
        ) {
            grants.filter(|grant| (grant.log, grant.sequence) == place).for_each(|grant| grant.chained = true);
        }
        match record.statement.clone() {
            Statement::Genesis(_) => {}
            Statement::Epoch { epoch, content_commitment, replication_commitment, previous_key } => {
                let record = record.sequence;
                self.epochs.insert(epoch, Epoch { content_commitment, replication_commitment, previous_key, record });
            }
            Statement::Invitation { invitation, role, uses, expires_ms } => {
                self.strays.retain(|(_, _, grant)| (grant.log, grant.sequence) != place);
                let invited = Invitation { role, uses, expires_ms, record: record.sequence, closed: None };
                self.invitations.insert(invitation, invited);
            }
            Statement::Revocation { invitation } => {
                if let Some(invitation) = self.invitations.get_mut(&invitation) {
                    invitation.closed.get_or_insert(record.sequence);
                }
            }
            Statement::Addition { device, exchange, role } => {
                self.devices.entry(device).or_default().recorded = Some((role, exchange));
                self.ground(device);
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
                self.devices.entry(device).or_default().changed_role = Some(role);
                self.renew_member(device);
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
            self.renew_member(former);
        }
        self.stewards.insert(steward);
        let device = self.devices.entry(steward).or_default();
        device.recorded = Some((Role::Steward, exchange));
        device.changed_role = None;
        self.ground(steward);
        self.renew_member(steward);
    }

    fn remove(&mut self, cut: Cut) {
        self.devices.entry(cut.author).or_default().removed = true;
        self.cut(cut);
        self.renew_member(cut.author);
    }

    fn cut(&mut self, cut: Cut) {
        if lower(&mut self.limits, cut.author, cut.sequence) {
            self.lowered.insert(cut.author);
        }
        let known = self.cuts.entry(cut.author).or_insert(cut);
        *known = if cut.sequence < known.sequence { cut } else { *known };
    }

    /// Checks an application as an admit operation would be checked whose author knows `known` records, and tells the
    /// role it gives.
    pub fn check_certificate(&self, known: u64, certificate: &Certificate) -> Result<Role, MembershipError> {
        self.check_admission(known, certificate, &|_, _| false).map(|(role, _)| role)
    }

    /// The role that an application gets, and whether that makes a member.
    ///
    /// Only what the admission itself builds on counts, never what else has arrived, so every replica says the same.
    fn check_admission(
        &self,
        known: u64,
        certificate: &Certificate,
        in_past: InPast<'_>,
    ) -> Result<(Role, bool), MembershipError> {
        let stray = || {
            let named = self.strays.iter().filter(|(invitation, ..)| *invitation == certificate.invitation);
            named.filter(|(_, _, grant)| grant.reaches(known, in_past)).map(|(_, role, _)| (*role, false)).min()
        };
        let chained = self.invitations.get(&certificate.invitation).filter(|invitation| invitation.record <= known);
        let (role, counts) = match chained {
            Some(invitation) if invitation.closed.is_some_and(|closed| closed <= known) => {
                return Err(MembershipError::ClosedInvitation);
            }
            Some(invitation) => (invitation.role, true),
            None => stray().ok_or(MembershipError::UnknownInvitation)?,
        };
        // A steward is made by genesis, handover or takeover alone.
        if role == Role::Steward || !certificate.holds(&self.space) {
            return Err(MembershipError::BadCertificate);
        }
        Ok((role, counts))
    }

    /// Applies an admit operation's payload.
    ///
    /// A device may be admitted more than once, at the same time by two sponsors or later to a further role: the
    /// furthest role counts, whichever arrives first. A sponsor's admissions come in the order of its log.
    pub fn apply_admit(&mut self, at: Place, payload: &[u8], in_past: InPast<'_>) -> Result<(), MembershipError> {
        let Admit { certificate, wall_time_ms } = Admit::decode(payload).map_err(|_| MembershipError::Malformed)?;
        let (role, chained) = self.check_admission(at.known, &certificate, in_past)?;
        let invitation = certificate.invitation;
        let by = AdmittedBy { sponsor: at.author, sequence: at.sequence, invitation, role, wall_time_ms };
        let counts = chained && at.log == at.author;
        let device = self.devices.entry(certificate.device).or_default();
        let place = |admission: &Admission| (admission.by.sponsor, admission.by.invitation, !admission.counts);
        let admission = Admission { by, exchange: certificate.exchange, counts };
        if let Err(index) = device.admissions.binary_search_by_key(&place(&admission), place) {
            device.admissions.insert(index, admission);
        }
        self.changes += 1;
        if counts {
            self.sponsored.entry(at.author).or_default().push((at.sequence, certificate.device));
            if self.grounds(&admission) {
                self.ground(certificate.device);
                self.renew_member(certificate.device);
            }
        }
        Ok(())
    }

    /// Whether an admission makes a member: its sponsor is or was one, and had not lost the right to admit.
    fn grounds(&self, admission: &Admission) -> bool {
        admission.counts
            && (admission.by.sequence <= self.limit(&admission.by.sponsor) || planted(Bug::CutSponsorAdmits))
    }

    /// Makes a device count as one that was let in, and all whom it let in itself.
    fn ground(&mut self, device: DeviceId) {
        let mut open = vec![device];
        while let Some(device) = open.pop() {
            if self.grounded.insert(device) {
                let limit = self.limit(&device);
                let sponsored = self.sponsored.get(&device).into_iter().flatten();
                open.extend(sponsored.filter(|(sequence, _)| *sequence <= limit).map(|(_, admitted)| *admitted));
            }
            self.renew_member(device);
        }
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
        let role = match (device.changed_role, device.recorded) {
            (Some(role), _) | (None, Some((role, _))) => Some(role),
            (None, None) => admitted,
        };
        // Devices sign one exchange key; of one that signed two, every replica takes the same.
        let signed = admissions.iter().map(|admission| admission.exchange).min();
        let exchange = device.recorded.map(|(_, exchange)| exchange).or(signed);
        let member = role.zip(exchange).filter(|_| device.recorded.is_some() || admitted.is_some());
        match member {
            Some((role, exchange)) => {
                let admissions = admissions.into_iter().map(|admission| admission.by).collect();
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

    /// Whether `device`'s log may begin with an operation whose author knew `known` records and whose causal past is
    /// `in_past`: as an admission as a writer, or a record, lets it.
    pub fn may_begin(&self, device: &DeviceId, known: u64, in_past: InPast<'_>) -> bool {
        let founder = self.genesis.as_ref().is_some_and(|genesis| genesis.steward == *device);
        founder
            || self.devices.get(device).is_some_and(|device| {
                let admitted = device.admissions.iter().any(|admission| {
                    let by = &admission.by;
                    (by.role.writes() || planted(Bug::RoleUncheckedAtAdmission)) && in_past(&by.sponsor, by.sequence)
                });
                admitted || device.grants.iter().any(|grant| grant.reaches(known, in_past))
            })
    }

    /// Whether a payload is a takeover by `author` that the recovery key signed: a log may begin with one.
    pub fn is_takeover(&self, author: &DeviceId, payload: &[u8]) -> bool {
        let (Some(genesis), Ok(record)) = (&self.genesis, Record::decode(payload)) else { return false };
        match &record.statement {
            Statement::Takeover(takeover) if takeover.steward == *author => {
                takeover.holds(&self.space, record.sequence, record.previous, &genesis.recovery)
            }
            _ => false,
        }
    }

    /// The highest counter of a takeover that is known, 0 without one.
    pub fn takeover_counter(&self) -> u64 {
        self.takeovers.iter().map(|(counter, _)| *counter).max().unwrap_or(0)
    }

    /// The records up to the takeover that counts: the highest counter, then the smaller hash, of those whose records
    /// are all held and follow the rules.
    fn takeover_path(&self) -> Vec<[u8; 32]> {
        let mut candidates = self.takeovers.clone();
        candidates.sort_by_key(|(counter, hash)| (std::cmp::Reverse(*counter), *hash));
        candidates.iter().find_map(|(_, hash)| self.path_to(*hash)).unwrap_or_default()
    }

    fn path_to(&self, last: [u8; 32]) -> Option<Vec<[u8; 32]>> {
        let (mut path, mut at) = (Vec::new(), last);
        while at != [0; 32] {
            let kept = self.kept.get(&at).filter(|_| path.len() <= self.kept.len())?;
            path.push(at);
            at = kept.record.previous;
        }
        path.reverse();
        let mut replayed = Self::new(self.space);
        replayed.path.clone_from(&path);
        for hash in &path {
            let ChainRecord { author, record } = &self.kept[hash];
            let at = Place { author: *author, log: *author, sequence: record.sequence, known: u64::MAX };
            replayed.apply_record(at, &record.encode()).ok()?;
        }
        Some(path)
    }
}

/// Lowers a limit; tells whether it was higher before.
fn lower(limits: &mut BTreeMap<DeviceId, u64>, author: DeviceId, to: u64) -> bool {
    let limit = limits.entry(author).or_insert(u64::MAX);
    let lowered = to < *limit;
    *limit = to.min(*limit);
    lowered
}
