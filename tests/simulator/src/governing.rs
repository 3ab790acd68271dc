//! What stewards decide: who is removed, who may write no more, who becomes the steward; and how soon all know.

use std::collections::{BTreeMap, BTreeSet};

use syncline::space::{Act, WriteError};
use syncline_model::{DeviceKey, Role};
use syncline_sync::Replica;

use crate::faults::Later;
use crate::happening::Happening;
use crate::message::SpaceInput;
use crate::plan::{MILLISECOND_US, SECOND_US};
use crate::random::{Choices, generator};
use crate::world::{Event, Violation, World};

/// How long those who are connected may lack the keys of an epoch that began with a removal, once everything healed.
const REVOCATION_US_MAX: u64 = 120 * SECOND_US;

/// How much a device knows of the records: the highest counter of a takeover, and how many records follow the rules.
pub(crate) type RecordsKnown = (u64, u64);

/// What the records of a space say, as the device says that knows most of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decided {
    pub(crate) known: RecordsKnown,
    pub(crate) steward: usize,
    pub(crate) epoch: u32,
    pub(crate) removed: BTreeSet<usize>,
    /// Up to where logs count by themselves.
    pub(crate) cuts: BTreeMap<usize, u64>,
    pub(crate) roles: BTreeMap<usize, Role>,
    /// Whose log was ever cut, whatever became of it.
    pub(crate) ever_cut: BTreeSet<usize>,
}

/// A removal that is durable and that not all know of yet.
#[derive(Debug)]
pub(crate) struct Revocation {
    pub(crate) space: usize,
    pub(crate) began_us: u64,
    epoch: u32,
    /// Who was connected when it became durable, has been since, and has not the keys of the new epoch.
    behind: BTreeSet<usize>,
    /// Who came to have them.
    ahead: BTreeSet<usize>,
    /// What all had sent by then.
    sent_bytes: u64,
}

/// How a removal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// How long it took, in virtual microseconds, until all who were connected with the steward had the new keys.
    pub after_us: u64,
    /// What all devices sent meanwhile, whatever for.
    pub sent_bytes: u64,
    /// How many devices had to hear of it.
    pub devices: usize,
}

impl World {
    /// What a device holds of a space, unless it does not run.
    fn known_at(&self, number: usize, space: usize) -> Option<RecordsKnown> {
        let core = self.hosted(number, space)?.replica.core();
        let membership = core.state().membership();
        (!core.is_outdated()).then(|| (membership.takeover_counter(), membership.records()))
    }

    /// Takes note of what a device knows of the records, all of which is durable there.
    pub(crate) fn learn_decisions(&mut self, number: usize, space: usize) {
        let former = &self.ledgers[space].decided;
        let Some(known) = self.known_at(number, space).filter(|known| *known > former.known) else { return };
        if self.plan().lies(number) {
            return;
        }
        let Some(hosted) = self.hosted(number, space) else { return };
        let (membership, surroundings) = (hosted.replica.core().state().membership(), &self.surroundings);
        let all = 0..surroundings.ids.len();
        let cuts = membership.cuts().values().filter_map(|cut| Some((surroundings.number(&cut.author)?, cut.sequence)));
        let cuts: BTreeMap<usize, u64> = cuts.collect();
        let roles = all.clone().filter_map(|one| Some((one, membership.role(&surroundings.ids[one])?)));
        let decided = Decided {
            known,
            steward: membership.steward().and_then(|id| surroundings.number(&id)).unwrap_or(former.steward),
            epoch: membership.epoch(),
            removed: all.filter(|one| membership.is_removed(&surroundings.ids[*one])).collect(),
            ever_cut: former.ever_cut.iter().copied().chain(cuts.keys().copied()).collect(),
            cuts,
            roles: roles.collect(),
        };
        let former = std::mem::replace(&mut self.ledgers[space].decided, decided);
        self.decided(number, space, &former);
    }

    /// Tells what is new of what was decided.
    fn decided(&mut self, number: usize, space: usize, former: &Decided) {
        let decided = self.ledgers[space].decided.clone();
        let numbers = |device: usize| [device as u64, space as u64];
        let steward = decided.steward;
        if steward != former.steward {
            let is_takeover = decided.known.0 > former.known.0;
            let happening = if is_takeover { Happening::TakenOver } else { Happening::HandedOver };
            self.note(number, happening, numbers(steward), || format!("to #{steward} in space {space}"));
        }
        let removed: Vec<usize> = decided.removed.difference(&former.removed).copied().collect();
        for device in &removed {
            let writes = self.plan().spaces[space].role(*device).is_some_and(Role::writes);
            let happening = if writes { Happening::WriterRemoved } else { Happening::OtherRemoved };
            let cut = decided.cuts.get(device).copied();
            self.note(number, happening, numbers(*device), || format!("#{device} of space {space} after {cut:?}"));
        }
        for device in decided.cuts.keys().filter(|one| !former.cuts.contains_key(one) && !removed.contains(one)) {
            let cut = decided.cuts[device];
            self.note(number, Happening::RoleLost, numbers(*device), || {
                format!("#{device} of space {space} after {cut}")
            });
        }
        if removed.is_empty() {
            return;
        }
        let mut behind = self.connected(space);
        behind.remove(&number);
        let epoch = decided.epoch.max(former.epoch + 1);
        let (ahead, sent_bytes) = (BTreeSet::new(), self.sent_bytes);
        let revocation = Revocation { space, began_us: self.now_us, epoch, behind, ahead, sent_bytes };
        self.revocations.push(revocation);
    }

    /// The members of a space that run and have a way to its steward over connections of members.
    fn connected(&self, space: usize) -> BTreeSet<usize> {
        let decided = &self.ledgers[space].decided;
        let is_in = |device: usize| {
            let member = self.plan().spaces[space].members.contains_key(&device);
            let stays = member && !decided.removed.contains(&device) && !self.plan().lies(device);
            let admitted = |hosted: &crate::hosted::Hosted| hosted.replica.core().state().role().is_some();
            stays && self.hosted(device, space).is_some_and(admitted)
        };
        let (mut found, mut open) = (BTreeSet::new(), vec![decided.steward]);
        while let Some(device) = open.pop().filter(|device| is_in(*device)) {
            if !found.insert(device) {
                continue;
            }
            for connection in self.connections.iter().filter(|connection| connection.is_open) {
                let other = connection.other(device).filter(|other| is_in(*other) && !found.contains(other));
                open.extend(other.filter(|other| !self.is_parted(device, *other) && !self.is_parted(*other, device)));
            }
        }
        found
    }

    /// Looks who has the keys of the epochs that began with removals.
    pub(crate) fn watch_revocations(&mut self) {
        for mut revocation in std::mem::take(&mut self.revocations) {
            let Revocation { space, epoch, began_us, .. } = revocation;
            let connected = self.connected(space);
            revocation.behind.retain(|device| connected.contains(device));
            let has_keys = |device: &usize| self.latest_epoch(*device, space) >= epoch;
            let came: Vec<usize> = revocation.behind.iter().copied().filter(has_keys).collect();
            revocation.behind.retain(|device| !came.contains(device));
            revocation.ahead.extend(came);
            if !revocation.behind.is_empty() {
                self.revocations.push(revocation);
            } else if !revocation.ahead.is_empty() {
                let took_us = self.now_us - began_us;
                let count = revocation.ahead.len() as u64;
                let (sent_bytes, devices) = (self.sent_bytes - revocation.sent_bytes, revocation.ahead.len());
                self.revoked.push(Revoked { after_us: took_us, sent_bytes, devices });
                self.note(0, Happening::Revoked, [took_us, count], || format!("in space {space} for {count} devices"));
            }
        }
    }

    /// The latest epoch of which a device has the secret.
    fn latest_epoch(&self, number: usize, space: usize) -> u32 {
        let hosted = self.hosted(number, space);
        hosted.and_then(|hosted| hosted.latest_secret()).map_or(0, |(epoch, _)| epoch)
    }

    /// A removal that those who are connected take too long to hear of, where nothing goes wrong.
    pub(crate) fn late_revocation(&self) -> Option<String> {
        let since_us = |revocation: &Revocation| self.now_us - revocation.began_us.max(self.healed_us);
        let late = self.revocations.iter().find(|revocation| since_us(revocation) > REVOCATION_US_MAX)?;
        let (behind, space) = (&late.behind, late.space);
        Some(format!("{behind:?} lack the keys of an epoch of space {space} that began long ago with a removal"))
    }

    /// What keeps a device from having the keys of the present epoch.
    pub(crate) fn lacks_keys(&self, number: usize, space: usize) -> Option<String> {
        let (epoch, hosted) = (self.ledgers[space].decided.epoch, self.hosted(number, space)?);
        let keys = hosted.replica.core().state().keys();
        let reads = hosted.replica.core().state().role().is_some_and(Role::reads);
        let has_all = keys.replication.contains_key(&epoch) && (!reads || keys.content.contains_key(&epoch));
        (!has_all).then(|| format!("#{number} lacks the keys of epoch {epoch}"))
    }

    /// Whether a device has heard that an epoch began since the first, that a log was cut, or of a takeover, with which
    /// all is taken in again.
    pub(crate) fn is_governed(&self, number: usize, space: usize) -> bool {
        let Some(hosted) = self.hosted(number, space) else { return false };
        let membership = hosted.replica.core().state().membership();
        let has_changed = membership.epoch() > 1 || !membership.cuts().is_empty();
        has_changed || membership.takeover_counter() > 0 || hosted.replica.core().is_outdated()
    }

    /// Whether a device knows that it lost the right to write.
    pub(crate) fn knows_itself_cut(&self, number: usize, space: usize) -> bool {
        let id = &self.surroundings.ids[number];
        let membership = self.hosted(number, space).map(|hosted| hosted.replica.core().state().membership());
        membership.is_some_and(|membership| membership.is_removed(id) || membership.cuts().contains_key(id))
    }

    /// Whether a device has been removed.
    pub(crate) fn is_removed(&self, number: usize, space: usize) -> bool {
        self.ledgers[space].decided.removed.contains(&number)
    }

    /// Whether a document that one device wrote may be gone, since that device's log was cut.
    pub(crate) fn may_be_cut(&self, space: usize, name: &str) -> bool {
        let ledger = &self.ledgers[space];
        ledger.expected(name).is_some_and(|(tried, _)| ledger.decided.ever_cut.contains(&tried.device))
    }

    /// The steward, if it runs, knows that it is, and has nothing else of this kind to do.
    fn acting_steward(&self, space: usize) -> Option<usize> {
        let ledger = &self.ledgers[space];
        let steward = ledger.decided.steward;
        let hosted = self.hosted(steward, space)?;
        let is_steward = hosted.replica.core().state().role() == Some(Role::Steward);
        let is_free = ledger.acts.is_empty() && (ledger.decided.known.0 > 0 || !ledger.is_being_taken_over);
        (is_steward && is_free && !self.healed).then_some(steward)
    }

    /// Whether a device knows all members of the plan: a removal closes invitations, and an admission behind a cut
    /// makes nobody a member.
    fn knows_all(&self, number: usize, space: usize) -> bool {
        let membership = self.hosted(number, space).map(|hosted| hosted.replica.core().state().membership());
        let mut members = self.plan().spaces[space].members.keys();
        membership.is_some_and(|membership| members.all(|one| membership.knows(&self.surroundings.ids[*one])))
    }

    fn role_at(&self, number: usize, space: usize, of: usize) -> Option<Role> {
        self.hosted(number, space)?.replica.core().state().membership().role(&self.surroundings.ids[of])
    }

    fn govern(&mut self, device: usize, space: usize, act: Act) {
        let (token, known) = (self.number(), self.ledgers[space].decided.known);
        self.ledgers[space].acts.insert(token, (device, known));
        self.tell_space(device, space, SpaceInput::Govern { token, act });
    }

    /// The steward begins an epoch.
    pub(crate) fn rotate(&mut self, space: usize) {
        if let Some(steward) = self.acting_steward(space) {
            self.govern(steward, space, Act::Rotate);
        }
    }

    /// The steward removes a device: one that has nothing to say, that is just writing, or that writes where nobody
    /// hears it.
    pub(crate) fn remove(&mut self, space: usize, device: usize, choices: &mut Choices) {
        if device == self.plan().last_steward(space) {
            return;
        }
        self.trouble(space, device, choices);
        let delay_us = choices.pick(&[0, 0, 300 * MILLISECOND_US, 2 * SECOND_US]);
        self.later(delay_us, Event::Later(Later::Cut { space, device, removes: true }));
    }

    /// The steward takes the right to write from a device, in the same situations.
    pub(crate) fn demote(&mut self, space: usize, device: usize, choices: &mut Choices) {
        if device == self.plan().last_steward(space) {
            return;
        }
        self.trouble(space, device, choices);
        let delay_us = choices.pick(&[0, 0, 300 * MILLISECOND_US, 2 * SECOND_US]);
        self.later(delay_us, Event::Later(Later::Cut { space, device, removes: false }));
    }

    /// What somebody does who is about to lose the right to write.
    fn trouble(&mut self, space: usize, device: usize, choices: &mut Choices) {
        match choices.below(4) {
            0 => {}
            1 if !self.plan().is_calm() => {
                let lasts_us = choices.between(SECOND_US, 8 * SECOND_US);
                self.part_off(device, lasts_us);
                self.write_some(device, space, choices);
            }
            _ => self.write_some(device, space, choices),
        }
    }

    /// The steward removes a device, or takes its right to write.
    pub(crate) fn cut_off(&mut self, space: usize, device: usize, removes: bool) {
        let Some(steward) = self.acting_steward(space).filter(|steward| self.knows_all(*steward, space)) else {
            return;
        };
        let id = self.surroundings.ids[device];
        match self.role_at(steward, space, device) {
            None | Some(Role::Steward) => {}
            Some(_) if removes => self.govern(steward, space, Act::Remove { devices: vec![id] }),
            Some(Role::Writer) => self.govern(steward, space, Act::ChangeRole { device: id, role: Role::Reader }),
            Some(_) => {}
        }
    }

    /// The steward makes another device the steward.
    pub(crate) fn hand_over(&mut self, space: usize, device: usize) {
        let Some(steward) = self.acting_steward(space) else { return };
        let id = self.surroundings.ids[device];
        if self.role_at(steward, space, device) == Some(Role::Writer) && !self.plan().lies(device) {
            self.govern(steward, space, Act::HandOver { device: id });
        }
    }

    /// A device takes the space over with the recovery key, in some of the same situations of the former steward.
    ///
    /// It knows all records: those that it did not know would be as if they had never been, with what they promised.
    pub(crate) fn take_over(&mut self, space: usize, device: usize, choices: &mut Choices) {
        let ledger = &self.ledgers[space];
        let (steward, known) = (ledger.decided.steward, ledger.decided.known);
        let knows_all = self.known_at(device, space) == Some(known) && self.knows_all(device, space);
        let may = self.role_at(device, space, device) == Some(Role::Writer) && !self.plan().lies(device);
        let is_over = ledger.is_being_taken_over || device != self.plan().last_steward(space) || steward == device;
        if !knows_all || !may || ledger.has_lost_acts || !ledger.acts.is_empty() || is_over {
            return;
        }
        self.ledgers[space].is_being_taken_over = true;
        self.trouble(space, steward, choices);
        let recovery = DeviceKey::generate(&mut generator(self.plan().seed, "recovery key", space as u64));
        self.govern(device, space, Act::TakeOver { recovery });
    }

    /// Who governs hears what became of an act.
    pub(crate) fn governed(&mut self, number: usize, space: usize, token: u64, outcome: Result<(), WriteError>) {
        let Some((_, known)) = self.ledgers[space].acts.remove(&token) else { return };
        // Something was decided since it was asked.
        let is_late = self.ledgers[space].decided.known != known;
        match outcome {
            Ok(()) => self.note(number, Happening::Governed, [token, space as u64], String::new),
            // Room on the disk, and operations that damage took, come back.
            Err(WriteError::Storage | WriteError::Recovering | WriteError::BegunAnew) => {}
            Err(_) if is_late => {}
            Err(error) => self.violate(format!("#{number} cannot govern: {error}")),
        }
    }

    /// How far logs count at the end that were cut, as the steward says: what it says all others have to say too.
    pub(crate) fn take_counts(&mut self, space: usize) {
        let decided = &self.ledgers[space].decided;
        let (steward, cut) = (decided.steward, decided.cuts.keys().copied().collect::<Vec<_>>());
        let Some(hosted) = self.hosted(steward, space) else { return };
        let admitted = hosted.replica.core().state().admission().admitted();
        let counts = cut.iter().map(|device| (*device, admitted.sequence(&self.surroundings.ids[*device]))).collect();
        self.ledgers[space].counts = counts;
    }

    /// Of a log that was cut there counts what the cut names and what others built on that counts, and nothing else.
    pub(crate) fn check_cuts(&mut self, space: usize) -> Result<(), Violation> {
        let decided = self.ledgers[space].decided.clone();
        let (surroundings, mut vouched) = (self.surroundings.clone(), 0);
        let members = surroundings.plan.spaces[space].members.keys();
        let stays = |number: &&usize| !surroundings.plan.lies(**number) && !decided.removed.contains(number);
        for number in members.filter(stays) {
            let Some(hosted) = self.hosted(*number, space) else { continue };
            let state = hosted.replica.core().state();
            let (admission, membership) = (state.admission(), state.membership());
            for (device, cut) in decided.cuts.iter().filter(|(device, _)| !self.plan().lies(**device)) {
                let id = self.surroundings.ids[*device];
                let built_on = admission.admitted().iter().filter(|(log, _)| **log != id).map(|(log, entry)| {
                    let fork = membership.forks().get(log).map_or(u64::MAX, |fork| fork - 1);
                    let limit = membership.cuts().get(log).map_or(u64::MAX, |cut| cut.sequence).min(fork);
                    let counts = if state.branches_after(log) > 0 { 0 } else { entry.sequence.min(limit) };
                    let past = (counts > 0).then(|| admission.causality().past(*log, counts));
                    past.and_then(|past| past.get(&id).copied()).unwrap_or(0)
                });
                let expected = built_on.max().unwrap_or(0).max(*cut);
                let counts = admission.admitted().sequence(&id);
                if counts != expected {
                    return Err(Violation(format!(
                        "at #{number} {counts} operations of #{device} count, cut after {cut}, and not {expected}"
                    )));
                }
                vouched += u64::from(expected > *cut);
            }
        }
        self.trace.count(Happening::BehindCutVouched, vouched);
        let ledger = &self.ledgers[space];
        let cut = ledger.tried.values().filter(|tried| ledger.fate(tried) == crate::ledger::Fate::Cut).count();
        self.trace.count(Happening::WriteCut, cut as u64);
        Ok(())
    }
}
