//! Devices that write, each by what it has heard so far, and replicas to which all of it is delivered in any order.

use std::collections::{BTreeMap, BTreeSet};

use syncline_model::membership::{Admit, Certificate, Cut, Facts, Genesis, Record, Statement, Takeover};
use syncline_model::run::RunBuilder;
use syncline_model::{
    Admission, Admitted, Dependency, DeviceId, DeviceKey, ForkProof, Header, Kind, OperationId, OperationSummary, Role,
    RunSummary, SpaceId, Strings, VerifiedRun,
};

use crate::plain::Counted;

/// How often a replica may fold again before it must have settled.
const FOLDS_MAX: usize = 8;

/// How an operation differs from what a correct device would write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    NoDependencies,
    OtherBranch,
    Future,
    Records(u64),
    Epoch(u32),
}

/// A replica that holds whatever comes, and folds it again when it must.
#[derive(Clone)]
pub(crate) struct Replica {
    space: SpaceId,
    pub(crate) admission: Admission,
    pub(crate) admitted: Vec<Admitted>,
    facts: Facts,
    runs: Vec<RunSummary>,
    held: BTreeSet<OperationId>,
    /// How many folds it took at most to settle.
    pub(crate) folds: usize,
}

impl Replica {
    pub(crate) fn new(space: SpaceId) -> Self {
        let admission = Admission::new(space, &Facts::default());
        let (admitted, runs, held) = Default::default();
        Self { space, admission, admitted, facts: Facts::default(), runs, held, folds: 0 }
    }

    /// Takes a run whose first operation follows a held one.
    pub(crate) fn receive(&mut self, run: &RunSummary) {
        if run.operations.iter().all(|operation| self.held.contains(&operation.id)) {
            return;
        }
        self.held.extend(run.operations.iter().map(|operation| operation.id));
        self.runs.push(run.clone());
        place(&mut self.admission, run, &mut self.admitted);
        self.settle();
    }

    fn is_settled(&self) -> bool {
        let admission = &self.admission;
        !admission.is_outdated() && (self.facts == Facts::default() || admission.facts() == self.facts)
    }

    fn settle(&mut self) {
        let mut folds = 0;
        while !self.is_settled() {
            folds += 1;
            assert!(folds <= FOLDS_MAX, "it folds again and again: {:?} {:?}", self.facts, self.admission.facts());
            self.facts = self.admission.facts();
            (self.admission, self.admitted) = fold(self.space, &self.facts, &self.runs);
        }
        self.folds = self.folds.max(folds);
    }

    /// The same runs in the same order, folded from nothing.
    pub(crate) fn folded_again(&self) -> Self {
        let mut fresh = Self::new(self.space);
        (fresh.runs, fresh.held) = (self.runs.clone(), self.held.clone());
        (fresh.admission, fresh.admitted) = fold(self.space, &Facts::default(), &self.runs);
        fresh.settle();
        fresh
    }

    /// What must not depend on the order of arrival, in the words of the plain recomputation.
    pub(crate) fn counted(&self) -> Counted {
        let membership = self.admission.membership();
        let wrong = |operation: &Admitted| operation.kind == Kind::DATA && operation.fault.is_some();
        let admitted: BTreeMap<_, _> = self.admitted.iter().map(|operation| (operation.id, wrong(operation))).collect();
        assert_eq!(admitted.len(), self.admitted.len(), "nothing is admitted twice");
        Counted {
            admitted,
            uncounted: self.admission.uncounted_operations(),
            last_record: membership.last_record(),
            members: membership.members().iter().map(|(device, member)| (*device, member.role)).collect(),
            epoch: membership.epoch(),
            steward: membership.steward(),
            forks: membership.forks().clone(),
        }
    }
}

fn fold(space: SpaceId, facts: &Facts, runs: &[RunSummary]) -> (Admission, Vec<Admitted>) {
    let (mut admission, mut admitted) = (Admission::new(space, facts), Vec::new());
    for run in runs {
        place(&mut admission, run, &mut admitted);
    }
    (admission, admitted)
}

/// Holds a run in its author's log, or in a branch of it.
fn place(admission: &mut Admission, run: &RunSummary, admitted: &mut Vec<Admitted>) {
    if admission.hold(run, admitted) {
        return;
    }
    let Some((log, first)) = admission.branch_for(run) else {
        assert!(admission.log_of(&run.author, run.last(), &run.last_id()).is_some(), "a run finds no place");
        return;
    };
    let skipped = (first - run.first) as usize;
    let previous = skipped.checked_sub(1).map_or(run.previous, |before| run.operations[before].id);
    let rest = RunSummary { author: run.author, first, previous, operations: run.operations[skipped..].to_vec() };
    assert!(admission.hold_in(log, &rest, admitted), "a run fits the branch that it was told");
}

/// Devices that write. Device 0 founds the space; a forked device stands here once for each branch.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) space: SpaceId,
    pub(crate) devices: Vec<DeviceKey>,
    pub(crate) recovery: DeviceKey,
    pub(crate) invitations: Vec<DeviceKey>,
    pub(crate) replicas: Vec<Replica>,
    /// Every device's log, each operation a run of its own.
    pub(crate) logs: Vec<Vec<RunSummary>>,
    headers: BTreeMap<OperationId, Header>,
}

impl World {
    /// A space with one epoch; the steward alone is a member and knows of it.
    pub(crate) fn new(devices: u8) -> Self {
        let mut world = Self::before_genesis(devices);
        let genesis = world.genesis();
        world.record(0, Statement::Genesis(genesis));
        world.record(0, epoch(1));
        world
    }

    pub(crate) fn before_genesis(devices: u8) -> Self {
        let devices: Vec<DeviceKey> = (1..=devices).map(|seed| DeviceKey::from_seed(&[seed; 32])).collect();
        let mut world = Self {
            space: SpaceId([0; 32]),
            logs: vec![Vec::new(); devices.len()],
            replicas: Vec::new(),
            recovery: DeviceKey::from_seed(&[200; 32]),
            invitations: Vec::new(),
            headers: BTreeMap::new(),
            devices,
        };
        world.space = world.genesis().space();
        world.replicas = vec![Replica::new(world.space); world.devices.len()];
        world
    }

    pub(crate) fn genesis(&self) -> Genesis {
        let steward = &self.devices[0];
        Genesis {
            steward: steward.id(),
            steward_exchange: steward.exchange_public(),
            recovery: self.recovery.id(),
            strings: Strings::Scalar,
            nonce: [7; 16],
        }
    }

    pub(crate) fn id(&self, device: usize) -> DeviceId {
        self.devices[device].id()
    }

    pub(crate) fn view(&self, device: usize) -> &Admission {
        &self.replicas[device].admission
    }

    /// A device states something.
    pub(crate) fn record(&mut self, author: usize, statement: Statement) {
        let record = self.view(author).membership().next_record(statement, 0);
        self.write(author, Kind::MEMBERSHIP, 0, record.encode(), Twist::None);
    }

    /// The founder opens an invitation and tells its index.
    pub(crate) fn invite(&mut self, role: Role) -> usize {
        let seed = 100 + self.invitations.len() as u8;
        let invitation = DeviceKey::from_seed(&[seed; 32]);
        self.invitations.push(invitation);
        let index = self.invitations.len() - 1;
        self.open(0, role, index);
        index
    }

    /// A device states that an invitation is open.
    pub(crate) fn open(&mut self, author: usize, role: Role, invitation: usize) {
        let invitation = self.invitations[invitation].id();
        self.record(author, Statement::Invitation { invitation, role, uses: 1, expires_ms: 0 });
    }

    pub(crate) fn add(&mut self, author: usize, device: usize, role: Role) {
        let (device, exchange) = (self.id(device), self.devices[device].exchange_public());
        self.record(author, Statement::Addition { device, exchange, role });
    }

    /// A device removes another one as of what it has heard of it.
    pub(crate) fn remove(&mut self, author: usize, device: usize) {
        let cuts = vec![self.cut(author, self.id(device))];
        self.record(author, Statement::Removal { cuts });
    }

    pub(crate) fn cut(&self, observer: usize, author: DeviceId) -> Cut {
        let admitted = self.view(observer).admitted();
        Cut { author, sequence: admitted.sequence(&author), id: admitted.head(&author) }
    }

    pub(crate) fn change_role(&mut self, author: usize, device: usize, role: Role) {
        let cut = (!role.writes()).then(|| self.cut(author, self.id(device)));
        self.record(author, Statement::RoleChange { device: self.id(device), role, cut });
    }

    pub(crate) fn hand_over(&mut self, author: usize, device: usize) {
        let (steward, exchange) = (self.id(device), self.devices[device].exchange_public());
        self.record(author, Statement::Handover { steward, exchange });
    }

    /// The records that a device has heard of, on the chain or not, with who is steward after each.
    pub(crate) fn heard_records(&self, device: usize) -> Vec<(Record, DeviceId)> {
        let runs = self.replicas[device].runs.iter();
        let operations = runs.flat_map(|run| run.operations.iter().map(|operation| (run.author, operation)));
        let records =
            operations.filter(|(_, operation)| operation.kind == Kind::MEMBERSHIP).filter_map(|(author, at)| {
                let record = Record::decode(&at.control).ok()?;
                let steward = match &record.statement {
                    Statement::Handover { steward, .. } => *steward,
                    _ => author,
                };
                Some((record, steward))
            });
        records.collect()
    }

    /// A device takes the space over with that key, after one of the records that it has heard of: the chain's last
    /// one when none is chosen.
    pub(crate) fn take_over(
        &mut self,
        author: usize,
        after: Option<(Record, DeviceId)>,
        counter: u64,
        key: &DeviceKey,
    ) {
        let membership = self.view(author).membership();
        let (sequence, previous, former) = match after {
            Some((record, steward)) => (record.sequence + 1, record.hash(), steward),
            None => (membership.records() + 1, membership.last_record(), membership.steward().unwrap_or(self.id(0))),
        };
        let (cut, exchange) = (self.cut(author, former), self.devices[author].exchange_public());
        let (place, steward) = ((sequence, previous), (self.id(author), exchange));
        let takeover = Takeover::new(&self.space, place, steward, cut, counter, key);
        let record = Record { sequence, previous, wall_time_ms: 0, statement: Statement::Takeover(takeover) };
        self.write(author, Kind::MEMBERSHIP, 0, record.encode(), Twist::None);
    }

    pub(crate) fn certificate(&self, joiner: usize, invitation: usize) -> Certificate {
        Certificate::new(&self.space, &self.devices[joiner], &self.invitations[invitation])
    }

    pub(crate) fn admit(&mut self, sponsor: usize, joiner: usize, invitation: usize, twist: Twist) {
        let certificate = self.certificate(joiner, invitation);
        self.write(sponsor, Kind::ADMIT, 0, Admit { certificate, wall_time_ms: 0 }.encode(), twist);
    }

    pub(crate) fn data(&mut self, author: usize, twist: Twist) {
        let epoch = self.view(author).membership().epoch();
        self.write(author, Kind::DATA, epoch, Vec::new(), twist);
    }

    /// A copy of a device goes its own way from now on; tells its index.
    pub(crate) fn clone_device(&mut self, device: usize) -> usize {
        self.devices.push(DeviceKey::from_seed(&[self.seed_of(device); 32]));
        self.replicas.push(self.replicas[device].clone());
        self.logs.push(self.logs[device].clone());
        self.devices.len() - 1
    }

    fn seed_of(&self, device: usize) -> u8 {
        let same = |seed: &u8| DeviceKey::from_seed(&[*seed; 32]).id() == self.id(device);
        (1..=u8::MAX).find(same).expect("devices are made from seeds")
    }

    /// `author` proves that copies of a device went apart, if they did.
    pub(crate) fn prove_fork(&mut self, author: usize, device: usize) {
        let copies = (0..self.devices.len()).filter(|copy| self.id(*copy) == self.id(device));
        let differ = copies.filter_map(|copy| self.logs[device].iter().zip(&self.logs[copy]).find(|(a, b)| a != b));
        let Some((one, other)) = differ.max_by_key(|(_, other)| other.last_id()) else { return };
        let (one, other) = (self.signed(one, device), self.signed(other, device));
        let proof = ForkProof::of(&one, &other).expect("two operations at one position");
        self.write(author, Kind::EQUIVOCATION, 0, proof.encode(), Twist::None);
    }

    /// The run as it would travel.
    pub(crate) fn signed(&self, run: &RunSummary, device: usize) -> VerifiedRun {
        let header = &self.headers[&run.last_id()];
        let mut builder = RunBuilder::new(self.space, run.author, run.first, run.previous);
        builder.push(header, |_| run.operations[0].control.clone()).unwrap();
        builder.finish(&self.devices[device]).unwrap()
    }

    /// Appends an operation to a device's log by what the device has heard.
    pub(crate) fn write(&mut self, author: usize, kind: Kind, epoch: u32, control: Vec<u8>, twist: Twist) {
        let id = self.id(author);
        let mut header = Header {
            kind,
            space: self.space,
            author: id,
            sequence: self.logs[author].len() as u64 + 1,
            previous: self.logs[author].last().map_or(OperationId::ZERO, RunSummary::last_id),
            membership: self.view(author).known_records(&id),
            epoch,
            dependencies: self.view(author).dependencies(id).0,
            payload_length: control.len() as u32,
        };
        match twist {
            Twist::None => {}
            Twist::NoDependencies => header.dependencies.clear(),
            Twist::OtherBranch => header.dependencies.iter_mut().for_each(|dependency| dependency.id.0[0] ^= 1),
            Twist::Future => header.dependencies.iter_mut().for_each(|dependency| dependency.sequence += 1),
            Twist::Records(records) => header.membership = records,
            Twist::Epoch(epoch) => header.epoch = epoch,
        }
        self.append(author, header, control);
    }

    /// Appends an operation with these dependencies and that many known records.
    pub(crate) fn write_on(
        &mut self,
        author: usize,
        dependencies: Vec<Dependency>,
        membership: u64,
        kind: Kind,
        control: Vec<u8>,
    ) {
        let header = Header {
            kind,
            space: self.space,
            author: self.id(author),
            sequence: self.logs[author].len() as u64 + 1,
            previous: self.logs[author].last().map_or(OperationId::ZERO, RunSummary::last_id),
            membership,
            epoch: u32::from(kind == Kind::DATA),
            dependencies,
            payload_length: control.len() as u32,
        };
        self.append(author, header, control);
    }

    fn append(&mut self, author: usize, header: Header, control: Vec<u8>) {
        let id = header.id(&blake3::hash(&control));
        let Header { kind, membership, epoch, ref dependencies, .. } = header;
        let dependencies = dependencies.clone();
        let operation = OperationSummary { id, kind, membership, epoch, dependencies, control };
        let (first, previous) = (header.sequence, header.previous);
        let summary = RunSummary { author: header.author, first, previous, operations: vec![operation] };
        self.headers.insert(id, header);
        self.replicas[author].receive(&summary);
        self.logs[author].push(summary);
    }

    /// The last operation of a device, as another one depends on it.
    pub(crate) fn head(&self, device: usize) -> Dependency {
        let run = self.logs[device].last().expect("it wrote something");
        Dependency { author: run.author, sequence: run.first, id: run.last_id() }
    }

    /// The last operation of a device, as a record names it.
    pub(crate) fn head_of(&self, device: usize) -> Option<Cut> {
        let run = self.logs[device].last()?;
        Some(Cut { author: run.author, sequence: run.first, id: run.last_id() })
    }

    /// `device` hears all of `other`'s log.
    pub(crate) fn hear(&mut self, device: usize, other: usize) {
        for run in &self.logs[other] {
            self.replicas[device].receive(run);
        }
    }

    /// `device` hears everything.
    pub(crate) fn hear_all(&mut self, device: usize) {
        (0..self.devices.len()).for_each(|other| self.hear(device, other));
    }

    /// Everybody hears the steward's log, and nobody checks its signatures again.
    pub(crate) fn all_hear_the_steward(&mut self) {
        let steward = self.replicas[0].clone();
        self.replicas.fill(steward);
    }

    /// All operations once, each a run of its own, in the order of the devices.
    pub(crate) fn operations(&self) -> Vec<RunSummary> {
        let mut seen = BTreeSet::new();
        self.logs.iter().flatten().filter(|run| seen.insert(run.last_id())).cloned().collect()
    }

    /// Delivers everything to a fresh replica in an order drawn from `seed`, joined and repeated at random.
    pub(crate) fn deliver(&self, seed: u64, mut each: impl FnMut(&Replica)) -> Replica {
        let mut draw = drawing(seed);
        let (mut replica, mut at) = (Replica::new(self.space), vec![0; self.logs.len()]);
        loop {
            let open: Vec<usize> = (0..at.len()).filter(|author| at[*author] < self.logs[*author].len()).collect();
            if open.is_empty() {
                return replica;
            }
            let author = open[draw(open.len())];
            let log = &self.logs[author];
            let from = at[author] - draw(2).min(at[author]);
            let to = (at[author] + 1 + draw(3)).min(log.len());
            at[author] = to;
            let mut joined = log[from].clone();
            joined.operations.extend(log[from + 1..to].iter().flat_map(|run| run.operations.clone()));
            replica.receive(&joined);
            each(&replica);
        }
    }
}

/// Numbers below a bound, from a seed.
pub(crate) fn drawing(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    }
}

pub(crate) fn epoch(epoch: u32) -> Statement {
    Statement::Epoch { epoch, content_commitment: [1; 32], replication_commitment: [2; 32], previous_key: None }
}
