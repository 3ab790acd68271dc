//! Which records are kept, and which of them are the chain.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{ChainRecord, Epoch, InPast, Invitation, Kept, Membership, Place, RecordHash, lower};
use crate::ids::DeviceId;
use crate::keys::ExchangeKey;
use crate::limits::{EPOCH_STEP_MAX, INVITATIONS_MAX, MEMBERS_MAX, RECORDS_KEPT_MAX, RESOLVED_HEADS_MAX};
use crate::membership::record::{Cut, Record, Statement, Takeover};
use crate::membership::{MembershipError, Role};
use crate::planted::{Bug, planted};

impl Membership {
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
            Statement::Epoch { epoch, .. } => match epoch.checked_sub(self.epoch()) {
                Some(1..=EPOCH_STEP_MAX) => Ok(()),
                _ => Err(MembershipError::WrongEpoch),
            },
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
    pub(super) fn takeover_path(&self) -> Vec<RecordHash> {
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
