//! What counts, worked out from a set of operations by definition alone: no order of arrival, nothing kept up to date.
//!
//! It shares the formats with the crate and none of its rules, so that where the two differ one of them is wrong.

use std::collections::{BTreeMap, BTreeSet};

use syncline_model::limits::EPOCH_STEP_MAX;
use syncline_model::membership::{Admit, Genesis, Record, Statement, Takeover};
use syncline_model::{DeviceId, ForkProof, Kind, OperationId, Role, RunSummary, SpaceId};

type Hash = [u8; 32];
type Ids = BTreeSet<OperationId>;

/// What a set of operations adds up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// What is admitted, each with whether it has no effect for being sealed under a wrong epoch.
    pub(crate) admitted: BTreeMap<OperationId, bool>,
    /// How many operations are sound and not admitted.
    pub(crate) uncounted: u64,
    /// The hash of the chain's last record.
    pub(crate) last_record: Hash,
    /// Members by role.
    pub(crate) members: BTreeMap<DeviceId, Role>,
    /// The latest epoch.
    pub(crate) epoch: u32,
    /// The steward, once there is a chain.
    pub(crate) steward: Option<DeviceId>,
    /// Authors that forked, and where.
    pub(crate) forks: BTreeMap<DeviceId, u64>,
}

struct Operation {
    run: RunSummary,
    id: OperationId,
}

impl Operation {
    fn kind(&self) -> Kind {
        self.run.operations[0].kind
    }

    fn control(&self) -> &[u8] {
        &self.run.operations[0].control
    }

    fn known(&self) -> u64 {
        self.run.operations[0].membership
    }

    fn builds_on(&self) -> impl Iterator<Item = OperationId> {
        let before = Some(self.run.previous).filter(|_| self.run.first > 1);
        before.into_iter().chain(self.run.operations[0].dependencies.iter().map(|dependency| dependency.id))
    }
}

/// A record that the steward whom its own past names wrote, or the recovery key.
struct Kept {
    record: Record,
    hash: Hash,
    operation: OperationId,
    author: DeviceId,
    sequence: u64,
    /// Who is steward after it.
    steward: DeviceId,
}

/// The operations of a world and what follows from them, stratum by stratum.
struct Plain {
    space: SpaceId,
    operations: BTreeMap<OperationId, Operation>,
    genesis: Option<Genesis>,
    /// Sound operation → its causal past, itself included.
    pasts: BTreeMap<OperationId, Ids>,
    kept: Vec<Kept>,
}

/// What the chain of records says.
#[derive(Default)]
struct Chain {
    hashes: Vec<Hash>,
    steward: Option<DeviceId>,
    named: BTreeMap<DeviceId, Role>,
    changed: BTreeMap<DeviceId, Role>,
    wrote: BTreeSet<DeviceId>,
    removed: BTreeSet<DeviceId>,
    cuts: BTreeMap<DeviceId, u64>,
    /// Invitation → its role, the record that opened it, the one that closed it.
    invitations: BTreeMap<DeviceId, (Role, Hash, Option<Hash>)>,
    epochs: BTreeMap<u32, (usize, Hash)>,
    resolved: Vec<(DeviceId, u64, OperationId)>,
}

/// Works out what counts of these operations, each a run of its own.
pub(crate) fn recompute(space: SpaceId, runs: &[RunSummary]) -> Counted {
    assert!(runs.iter().all(|run| run.operations.len() == 1));
    let operation = |run: &RunSummary| (run.last_id(), Operation { run: run.clone(), id: run.last_id() });
    let operations = runs.iter().map(operation).collect();
    let mut plain = Plain { space, operations, genesis: None, pasts: BTreeMap::new(), kept: Vec::new() };
    while plain.make_one_more_sound() {}
    let forks = plain.forks();
    let chain = plain.chain(&forks);
    let (grounded, members, limits) = plain.ground(&chain, &forks);
    let counts = |operation: &&Operation| {
        plain.pasts.contains_key(&operation.id)
            && (operation.run.first <= limits.get(&operation.run.author).copied().unwrap_or(0)
                || chain.resolved.contains(&(operation.run.author, operation.run.first, operation.id)))
    };
    debug_assert!(limits.keys().all(|author| grounded.contains(author)));
    let by_themselves = plain.operations.values().filter(counts);
    let ids: Ids = by_themselves.flat_map(|operation| plain.pasts[&operation.id].iter().copied()).collect();
    Counted {
        uncounted: (plain.pasts.len() - ids.len()) as u64,
        admitted: ids.into_iter().map(|id| (id, plain.wrongly_sealed(&id, &chain))).collect(),
        last_record: chain.hashes.last().copied().unwrap_or_default(),
        members,
        epoch: chain.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch),
        steward: chain.steward,
        forks,
    }
}

impl Plain {
    /// Looks for an operation that is sound by what is sound already.
    fn make_one_more_sound(&mut self) -> bool {
        let seen = self.kept.iter().map(|kept| kept.record.sequence).max().unwrap_or(0);
        let fits = |operation: &&Operation| {
            if self.pasts.contains_key(&operation.id) {
                return false;
            }
            let sound = operation.builds_on().all(|id| self.pasts.contains_key(&id)) && self.names_positions(operation);
            let before = self.operations.get(&operation.run.previous).map_or(0, Operation::known);
            let begins = operation.run.first > 1 || (sound && self.begins(operation));
            sound && begins && (before..=seen).contains(&operation.known())
        };
        let Some(next) = self.operations.values().find(fits) else { return false };
        let (id, past) = (next.id, self.past(next));
        let kept = self.keep(next, &past);
        let genesis = self.genesis_of(next);
        self.genesis = self.genesis.take().or(genesis);
        self.kept.extend(kept);
        self.pasts.insert(id, past);
        true
    }

    /// Whether the operations that it depends on stand where it says.
    fn names_positions(&self, operation: &Operation) -> bool {
        operation.run.operations[0].dependencies.iter().all(|dependency| {
            let named = self.operations.get(&dependency.id);
            named.is_some_and(|named| (named.run.author, named.run.first) == (dependency.author, dependency.sequence))
        })
    }

    fn past(&self, operation: &Operation) -> Ids {
        operation.builds_on().flat_map(|id| self.pasts[&id].iter().copied()).chain([operation.id]).collect()
    }

    fn genesis_of(&self, operation: &Operation) -> Option<Genesis> {
        let Record { sequence: 1, previous: [0, ..], statement: Statement::Genesis(genesis), .. } = record(operation)?
        else {
            return None;
        };
        let first = operation.run.first == 1 && operation.builds_on().next().is_none();
        (first && genesis.space() == self.space && genesis.steward == operation.run.author).then_some(genesis)
    }

    /// Whether a log may begin with this operation.
    fn begins(&self, operation: &Operation) -> bool {
        let (author, past) = (operation.run.author, self.past(operation));
        let names = |kept: &Kept| match &kept.record.statement {
            Statement::Addition { device, role, .. } | Statement::RoleChange { device, role, .. } => {
                *device == author && role.writes()
            }
            Statement::Handover { steward, .. } | Statement::Takeover(Takeover { steward, .. }) => *steward == author,
            _ => false,
        };
        let admits = |id: &OperationId| {
            let (admit, known) = (self.admit(id)?, self.pasts.get(id)?);
            let invites = |kept: &&Kept| match &kept.record.statement {
                Statement::Invitation { invitation, role, .. } => {
                    *invitation == admit.certificate.invitation && *role == Role::Writer
                }
                _ => false,
            };
            let invited = self.kept.iter().filter(|kept| known.contains(&kept.operation)).any(|kept| invites(&kept));
            (admit.certificate.device == author && invited).then_some(())
        };
        self.genesis_of(operation).is_some()
            || self.kept.iter().any(|kept| past.contains(&kept.operation) && names(kept))
            || past.iter().any(|id| admits(id).is_some())
            || self.keep(operation, &past).is_some_and(|kept| matches!(kept.record.statement, Statement::Takeover(_)))
    }

    fn admit(&self, id: &OperationId) -> Option<Admit> {
        let operation = &self.operations[id];
        let admit = Admit::decode(operation.control()).ok().filter(|_| operation.kind() == Kind::ADMIT)?;
        admit.certificate.holds(&self.space).then_some(admit)
    }

    /// The record in an operation with that past, when its author may have written it.
    fn keep(&self, operation: &Operation, past: &Ids) -> Option<Kept> {
        let (record, author) = (record(operation)?, operation.run.author);
        let kept = |record: Record, steward| {
            let (hash, sequence) = (record.hash(), operation.run.first);
            Some(Kept { record, hash, operation: operation.id, author, sequence, steward })
        };
        if let Some(genesis) = self.genesis_of(operation) {
            return kept(record, genesis.steward);
        }
        let mut before = self.kept.iter().filter(|kept| past.contains(&kept.operation));
        let before = before.find(|kept| kept.hash == record.previous && kept.record.sequence + 1 == record.sequence)?;
        let recovery = self.genesis.as_ref()?.recovery;
        match &record.statement {
            Statement::Genesis(_) => None,
            Statement::Takeover(takeover) => {
                let holds = takeover.holds(&self.space, record.sequence, record.previous, &recovery);
                let fits = takeover.steward == author && takeover.cut.author == before.steward;
                if holds && fits { kept(record, author) } else { None }
            }
            _ if before.steward != author => None,
            Statement::Handover { steward, .. } => {
                let steward = *steward;
                kept(record, steward)
            }
            _ => kept(record, author),
        }
    }

    /// Authors with two operations at one position, held or proven.
    fn forks(&self) -> BTreeMap<DeviceId, u64> {
        let mut forks: BTreeMap<DeviceId, u64> = BTreeMap::new();
        let mut note = |author, sequence: u64| {
            let first = forks.entry(author).or_insert(sequence);
            *first = sequence.min(*first);
        };
        let mut positions = BTreeSet::new();
        for operation in self.operations.values() {
            let position = (operation.run.author, operation.run.first);
            if !positions.insert(position) {
                note(position.0, position.1);
            }
            let proof = ForkProof::decode(operation.control()).ok();
            let proof =
                proof.filter(|_| operation.kind() == Kind::EQUIVOCATION && self.pasts.contains_key(&operation.id));
            if let Some(proof) = proof.filter(|proof| proof.holds(&self.space)) {
                note(proof.author, proof.sequence);
            }
        }
        forks
    }

    fn chain(&self, forks: &BTreeMap<DeviceId, u64>) -> Chain {
        let path = self.takeover_path();
        let mut chain = Chain::default();
        for hash in path {
            let record = &self.kept.iter().find(|kept| kept.hash == hash).unwrap().record;
            chain.follow(record);
        }
        loop {
            let last = chain.hashes.last().copied().unwrap_or_default();
            let undisputed = |kept: &&Kept| {
                chain.hashes.is_empty() || forks.get(&kept.author).is_none_or(|fork| kept.sequence < *fork)
            };
            let next = self.kept.iter().filter(|kept| kept.record.previous == last);
            let next = next.filter(|kept| !matches!(kept.record.statement, Statement::Takeover(_)));
            let next = next.filter(undisputed).filter(|kept| chain.takes(&kept.record));
            let Some(next) = next.min_by_key(|kept| kept.sequence) else { return chain };
            chain.follow(&next.record);
        }
    }

    fn takeover_path(&self) -> Vec<Hash> {
        let takeovers = self.kept.iter().filter_map(|kept| match &kept.record.statement {
            Statement::Takeover(takeover) => Some((std::cmp::Reverse(takeover.counter), kept.hash)),
            _ => None,
        });
        let takeovers: BTreeSet<_> = takeovers.collect();
        takeovers.into_iter().find_map(|(_, hash)| self.valid_path(hash)).unwrap_or_default()
    }

    fn valid_path(&self, last: Hash) -> Option<Vec<Hash>> {
        let mut records = Vec::new();
        let mut hash = last;
        while hash != [0; 32] {
            let kept = self.kept.iter().find(|kept| kept.hash == hash)?;
            hash = kept.record.previous;
            records.push(&kept.record);
        }
        let mut chain = Chain::default();
        for record in records.into_iter().rev() {
            if !chain.takes(record) {
                return None;
            }
            chain.follow(record);
        }
        Some(chain.hashes)
    }

    fn knows(&self, id: &OperationId, record: Hash) -> bool {
        let past = &self.pasts[id];
        self.kept.iter().any(|kept| kept.hash == record && past.contains(&kept.operation))
    }

    /// Who was let in ever, who is a member with which role, and up to where each one's log counts by itself.
    fn ground(
        &self,
        chain: &Chain,
        forks: &BTreeMap<DeviceId, u64>,
    ) -> (BTreeSet<DeviceId>, BTreeMap<DeviceId, Role>, BTreeMap<DeviceId, u64>) {
        let limit = |author: &DeviceId| {
            let fork = forks.get(author).map_or(u64::MAX, |fork| fork - 1);
            chain.cuts.get(author).copied().unwrap_or(u64::MAX).min(fork)
        };
        let mut admissions: BTreeMap<DeviceId, Role> = BTreeMap::new();
        loop {
            let grounded: BTreeSet<DeviceId> = chain.named.keys().chain(admissions.keys()).copied().collect();
            let writes = |device: &DeviceId| {
                let named = chain.named.get(device).is_some_and(|role| role.writes());
                let admitted = admissions.get(device).is_some_and(|role| role.writes());
                grounded.contains(device) && (named || admitted || chain.wrote.contains(device))
            };
            let mut further = admissions.clone();
            for id in self.pasts.keys() {
                let operation = &self.operations[id];
                let sponsor = operation.run.author;
                let Some(admit) = self.admit(id) else { continue };
                let Some((role, opened, closed)) = chain.invitations.get(&admit.certificate.invitation) else {
                    continue;
                };
                let open = self.knows(id, *opened) && !closed.is_some_and(|closed| self.knows(id, closed));
                if open && *role != Role::Steward && writes(&sponsor) && operation.run.first <= limit(&sponsor) {
                    let known = further.entry(admit.certificate.device).or_insert(*role);
                    *known = (*role).min(*known);
                }
            }
            if further == admissions {
                let limits = grounded.iter().filter(|device| writes(device)).map(|device| (*device, limit(device)));
                let role = |device: &DeviceId| {
                    let given = [&chain.named, &admissions].into_iter().filter_map(|roles| roles.get(device)).min();
                    *chain.changed.get(device).or(given).unwrap()
                };
                let members = grounded.iter().filter(|device| !chain.removed.contains(*device));
                let members = members.map(|device| (*device, role(device))).collect();
                let limits = limits.collect();
                return (grounded, members, limits);
            }
            admissions = further;
        }
    }

    /// Whether a data operation is sealed under an epoch that its author cannot know, or knows to have ended.
    fn wrongly_sealed(&self, id: &OperationId, chain: &Chain) -> bool {
        let operation = &self.operations[id];
        let (epoch, past) = (operation.run.operations[0].epoch, &self.pasts[id]);
        let begins = |kept: &&Kept| match &kept.record.statement {
            Statement::Epoch { epoch: begun, .. } => *begun == epoch && past.contains(&kept.operation),
            _ => false,
        };
        // What a takeover chose among may have been in dispute when the operation was written.
        let chosen = self.takeover_path().len();
        let ended = chain
            .epochs
            .range(epoch.saturating_add(1)..)
            .any(|(_, (index, hash))| *index >= chosen && operation.known() > *index as u64 && self.knows(id, *hash));
        operation.kind() == Kind::DATA && (!self.kept.iter().any(|kept| begins(&kept)) || ended)
    }
}

fn record(operation: &Operation) -> Option<Record> {
    Record::decode(operation.control()).ok().filter(|_| operation.kind() == Kind::MEMBERSHIP)
}

impl Chain {
    /// Whether a record does not contradict those before it.
    fn takes(&self, record: &Record) -> bool {
        let (removed, cut) = (|device| self.removed.contains(device), |device| self.cuts.contains_key(device));
        let steward = self.steward.unwrap_or(DeviceId([0; 32]));
        match &record.statement {
            Statement::Genesis(_) => self.hashes.is_empty(),
            _ if self.hashes.is_empty() => false,
            Statement::Epoch { epoch, .. } => {
                let before = self.epochs.keys().max().copied().unwrap_or(0);
                *epoch > before && *epoch - before <= EPOCH_STEP_MAX
            }
            Statement::Invitation { invitation, .. } => !self.invitations.contains_key(invitation),
            Statement::Revocation { invitation } => self.invitations.contains_key(invitation),
            Statement::Addition { device, role, .. } => {
                *role != Role::Steward && !removed(device) && !self.named.contains_key(device)
            }
            Statement::Removal { cuts } => {
                let authors: BTreeSet<_> = cuts.iter().map(|cut| cut.author).collect();
                !cuts.is_empty() && authors.len() == cuts.len() && !authors.contains(&steward)
            }
            Statement::RoleChange { device, role, cut: None } => {
                role.writes() && *role != Role::Steward && *device != steward && !removed(device) && !cut(device)
            }
            Statement::RoleChange { device, role, cut: Some(named) } => {
                !role.writes() && *device != steward && !removed(device) && named.author == *device
            }
            Statement::Handover { steward: next, .. } => *next != steward && !removed(next) && !cut(next),
            Statement::Takeover(takeover) => takeover.cut.author == steward,
            Statement::Resolve { heads } => !heads.is_empty(),
            _ => true,
        }
    }

    fn follow(&mut self, record: &Record) {
        let (index, hash) = (self.hashes.len(), record.hash());
        self.hashes.push(hash);
        match &record.statement {
            Statement::Genesis(genesis) => self.crown(genesis.steward),
            Statement::Epoch { epoch, .. } => {
                self.epochs.insert(*epoch, (index, hash));
            }
            Statement::Invitation { invitation, role, .. } => {
                self.invitations.insert(*invitation, (*role, hash, None));
            }
            Statement::Revocation { invitation } => {
                self.invitations.get_mut(invitation).unwrap().2.get_or_insert(hash);
            }
            Statement::Addition { device, role, .. } => {
                self.named.insert(*device, *role);
            }
            Statement::Removal { cuts } => {
                for cut in cuts {
                    self.removed.insert(cut.author);
                    self.cut(cut.author, cut.sequence);
                }
                self.invitations.values_mut().for_each(|(.., closed)| {
                    closed.get_or_insert(hash);
                });
            }
            Statement::RoleChange { device, role, cut } => {
                self.changed.insert(*device, *role);
                match cut {
                    Some(cut) => self.cut(cut.author, cut.sequence),
                    None => drop(self.wrote.insert(*device)),
                }
            }
            Statement::Handover { steward, .. } => self.crown(*steward),
            Statement::Takeover(takeover) => {
                let former = self.steward.unwrap();
                self.crown(takeover.steward);
                if former != takeover.steward {
                    self.removed.insert(former);
                    self.cut(former, takeover.cut.sequence);
                }
            }
            Statement::Resolve { heads } => {
                self.resolved.extend(heads.iter().map(|head| (head.author, head.sequence, head.id)));
            }
            _ => {}
        }
    }

    fn cut(&mut self, author: DeviceId, sequence: u64) {
        let known = self.cuts.entry(author).or_insert(sequence);
        *known = sequence.min(*known);
    }

    fn crown(&mut self, steward: DeviceId) {
        if let Some(former) = self.steward.replace(steward) {
            self.changed.insert(former, Role::Writer);
        }
        self.named.insert(steward, Role::Steward);
        self.changed.remove(&steward);
    }
}
