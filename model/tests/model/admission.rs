//! Admission is a function of what is held: small worlds, delivered in many orders, always admit the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use syncline_model::admission::Refusal;
use syncline_model::limits::DEPENDENCIES_MAX;
use syncline_model::membership::{Member, MembershipError, Statement};
use syncline_model::{
    Admission, Admitted, Dependency, DeviceId, Kind, Membership, OperationId, OperationSummary, Role,
};

use crate::world::{Replica, Twist, World, epoch};

/// Everything that must not depend on the order of arrival.
#[derive(Debug, PartialEq)]
struct Outcome {
    admitted: BTreeMap<(DeviceId, u64), (OperationId, Option<String>)>,
    records: u64,
    members: BTreeMap<DeviceId, Member>,
    epoch: u32,
    refused: BTreeMap<DeviceId, (u64, Refusal)>,
    waiting: usize,
    wanted: Option<(DeviceId, u64)>,
}

impl Outcome {
    fn of(replica: &Replica) -> Self {
        let Replica { admission: replica, admitted, .. } = replica;
        let effect = |operation: &Admitted| {
            let fault = operation.fault.map(|fault| fault.to_string());
            ((operation.author, operation.sequence), (operation.id, fault))
        };
        Self {
            admitted: admitted.iter().map(effect).collect(),
            records: replica.membership().records(),
            members: replica.membership().members().clone(),
            epoch: replica.membership().epoch(),
            refused: replica.refused().clone(),
            waiting: replica.waiting_operations(),
            wanted: replica.wanted(),
        }
    }
}

/// One step of a random world: who acts, on whom, how.
type Step = (usize, usize, u8, u8);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0usize..6, 0usize..6, 0u8..12, 0u8..24), 10..60)
}

/// A world of six where two devices beside the steward write already, as everybody has heard.
fn begun() -> World {
    let mut world = World::new(6);
    let invitation = world.invite(Role::Writer);
    (1..3).for_each(|joiner| world.admit(0, joiner, invitation, Twist::None));
    world.all_hear_the_steward();
    world
}

fn play(world: &mut World, steps: &[Step]) {
    let mut admits = 0;
    for &(actor, other, action, choice) in steps {
        let twist = match choice {
            0 => Twist::NoDependencies,
            1 => Twist::OtherBranch,
            2 => Twist::Future,
            3 => Twist::Records(0),
            4 => Twist::Records(3),
            5 => Twist::Records(u64::MAX),
            6 => Twist::Epoch(2),
            _ => Twist::None,
        };
        match action {
            0..=4 => world.hear(actor, other),
            5 => (0..world.devices.len()).for_each(|other| world.hear(actor, other)),
            6 | 7 => world.data(actor, twist),
            8 => world.write(actor, Kind(choice), 0, vec![choice], twist),
            9 if world.invitations.len() < 6 => {
                let roles = [Role::Writer, Role::Writer, Role::Reader, Role::Relay, Role::Steward];
                world.invite(roles[usize::from(choice) % roles.len()]);
            }
            9 => world.record(0, epoch(u32::from(choice % 4))),
            // Signatures are what takes the time.
            _ if admits == 4 => {}
            _ => {
                admits += 1;
                world.admit(actor, other, usize::from(choice) % world.invitations.len(), twist);
            }
        }
    }
}

fn operation_of<'a>(world: &'a World, operation: &Admitted) -> &'a OperationSummary {
    let author = world.devices.iter().position(|device| device.id() == operation.author).unwrap();
    &world.logs[author][operation.sequence as usize - 1].operations[0]
}

/// Every admitted operation comes after all that it builds on.
fn check_causal_order(world: &World, admitted: &[Admitted]) -> Result<(), TestCaseError> {
    let mut seen: BTreeSet<OperationId> = BTreeSet::new();
    let mut next: BTreeMap<DeviceId, u64> = BTreeMap::new();
    let mut records = 0;
    for operation in admitted {
        let sequence = next.entry(operation.author).or_insert(1);
        prop_assert_eq!(operation.sequence, *sequence, "a log is admitted in its order");
        *sequence += 1;
        let written = operation_of(world, operation);
        prop_assert!(written.dependencies.iter().all(|dependency| seen.contains(&dependency.id)));
        prop_assert!(written.membership <= records);
        seen.insert(operation.id);
        records += u64::from(operation.kind == Kind::MEMBERSHIP && operation.fault.is_none());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn every_order_of_arrival_admits_the_same(steps in steps(), seeds in proptest::array::uniform4(any::<u64>())) {
        let mut world = begun();
        play(&mut world, &steps);
        let first = world.deliver(seeds[0], |_| {});
        for seed in seeds {
            let replica = world.deliver(seed, |_| {});
            check_causal_order(&world, &replica.admitted)?;
            prop_assert_eq!(Outcome::of(&replica), Outcome::of(&first));
        }
    }

    #[test]
    fn what_correct_devices_write_is_all_admitted(steps in steps(), seed in any::<u64>()) {
        let mut world = World::new(6);
        let invitation = world.invite(Role::Writer);
        for joiner in 1..6 {
            world.admit(0, joiner, invitation, Twist::None);
        }
        world.all_hear_the_steward();
        for (actor, other, action, _) in steps {
            if action < 8 { world.hear(actor, other) } else { world.data(actor, Twist::None) }
        }
        let Replica { admission: replica, admitted, .. } = world.deliver(seed, |_| {});
        prop_assert_eq!(admitted.len(), world.logs.iter().map(Vec::len).sum::<usize>());
        prop_assert!(admitted.iter().all(|operation| operation.fault.is_none()));
        prop_assert_eq!((replica.waiting_operations(), replica.wanted()), (0, None));
    }
}

#[test]
fn random_worlds_reach_every_rule() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut refusals, mut faults, mut members, mut waited) = (BTreeSet::new(), BTreeSet::new(), 0, false);
    for _ in 0..128 {
        let mut world = begun();
        play(&mut world, &steps().new_tree(&mut runner).unwrap().current());
        let outcome = Outcome::of(&world.deliver(1, |_| {}));
        refusals.extend(outcome.refused.values().map(|(_, refusal)| refusal.to_string()));
        faults.extend(outcome.admitted.into_values().filter_map(|(_, fault)| fault));
        members = members.max(outcome.members.len());
        waited |= outcome.waiting > 0;
    }
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    for fault in [
        MembershipError::Malformed,
        MembershipError::BadCertificate,
        MembershipError::UnknownInvitation,
        MembershipError::WrongEpoch,
    ] {
        assert!(faults.contains(&fault.to_string()), "no world led to: {fault}");
    }
    assert!(members >= 4 && waited, "{members} {waited}");
}

/// A world with one device admitted under `role`, which has heard of it.
fn joined(role: Role) -> World {
    let mut world = World::new(4);
    let invitation = world.invite(role);
    world.admit(0, 1, invitation, Twist::None);
    world.hear(1, 0);
    world
}

/// The outcome, after asserting that two opposite orders agree on it.
fn settled(world: &World) -> (Admission, Vec<Admitted>) {
    let (mut early, mut late) = (Replica::new(world.space), Replica::new(world.space));
    world.logs.iter().flatten().for_each(|run| early.receive(run));
    world.logs.iter().rev().flatten().for_each(|run| late.receive(run));
    assert_eq!(Outcome::of(&early), Outcome::of(&late));
    (early.admission, early.admitted)
}

fn fault_of((_, admitted): &(Admission, Vec<Admitted>), author: DeviceId, sequence: u64) -> Option<MembershipError> {
    let at = |operation: &&Admitted| (operation.author, operation.sequence) == (author, sequence);
    admitted.iter().find(at).expect("it is admitted").fault
}

#[test]
fn only_writers_logs_count() {
    for (role, counts) in [(Role::Writer, true), (Role::Reader, false), (Role::Relay, false)] {
        let mut world = joined(role);
        world.data(1, Twist::None);
        let (replica, _) = settled(&world);
        assert_eq!(replica.membership().role(&world.id(1)), Some(role));
        assert_eq!(replica.admitted().sequence(&world.id(1)), u64::from(counts), "{role:?}");
        assert_eq!(replica.refused().contains_key(&world.id(1)), !counts);
        assert_eq!(replica.waiting_operations(), 0);
    }
}

#[test]
fn a_stranger_is_refused_even_before_the_genesis_arrives() {
    let mut world = World::new(3);
    let record = Membership::new(world.space).next_record(epoch(1), 0);
    for _ in 0..3 {
        // A control operation without dependencies, as the genesis is one.
        world.write(1, Kind::MEMBERSHIP, 0, record.encode(), Twist::NoDependencies);
        world.data(2, Twist::None);
    }
    let genesis = Membership::new(world.space).next_record(Statement::Genesis(world.genesis()), 0);
    let mut thief = World::before_genesis(3);
    thief.write(1, Kind::MEMBERSHIP, 0, genesis.encode(), Twist::None);
    for world in [world, thief] {
        let (replica, _) = settled(&world);
        assert_eq!(replica.refused()[&world.id(1)], (1, Refusal::NotAdmitted));
        assert_eq!(replica.admitted().sequence(&world.id(1)), 0);
    }
}

#[test]
fn a_log_begins_with_its_authors_admission_in_its_past() {
    for twist in [Twist::NoDependencies, Twist::Records(0), Twist::None] {
        let mut world = joined(Role::Writer);
        world.data(1, twist);
        let (replica, _) = settled(&world);
        let counts = twist != Twist::NoDependencies;
        assert_eq!(replica.admitted().sequence(&world.id(1)), u64::from(counts), "{twist:?}");
    }
}

#[test]
fn an_admission_by_a_sponsor_who_did_not_know_the_invitation_has_no_effect() {
    let mut world = joined(Role::Writer);
    world.data(1, Twist::None);
    let invitation = world.invite(Role::Writer);
    world.admit(1, 2, invitation, Twist::None);
    let outcome = settled(&world);
    assert_eq!(fault_of(&outcome, world.id(1), 2), Some(MembershipError::UnknownInvitation));
    assert_eq!(outcome.0.membership().role(&world.id(2)), None);
    world.hear(1, 0);
    world.admit(1, 2, invitation, Twist::None);
    assert_eq!(settled(&world).0.membership().role(&world.id(2)), Some(Role::Writer));
}

#[test]
fn an_invitation_keeps_its_first_meaning() {
    let mut world = joined(Role::Reader);
    let again =
        Statement::Invitation { invitation: world.invitations[0].id(), role: Role::Writer, uses: 9, expires_ms: 0 };
    world.record(0, again);
    world.admit(0, 2, 0, Twist::None);
    let outcome = settled(&world);
    assert_eq!(fault_of(&outcome, world.id(0), 5), Some(MembershipError::RepeatedInvitation));
    assert_eq!(outcome.0.membership().role(&world.id(2)), Some(Role::Reader));
}

#[test]
fn data_under_an_epoch_that_its_author_did_not_know_has_no_effect() {
    let mut world = joined(Role::Writer);
    world.data(1, Twist::None);
    world.record(0, epoch(2));
    world.data(1, Twist::Epoch(2));
    world.data(1, Twist::Epoch(0));
    let outcome = settled(&world);
    assert_eq!(fault_of(&outcome, world.id(1), 1), None);
    assert_eq!(fault_of(&outcome, world.id(1), 2), Some(MembershipError::WrongEpoch));
    assert_eq!(fault_of(&outcome, world.id(1), 3), Some(MembershipError::WrongEpoch));
}

#[test]
fn a_dependency_on_another_branch_waits_for_that_branch() {
    let mut world = joined(Role::Writer);
    world.data(1, Twist::None);
    world.data(0, Twist::None);
    world.hear(1, 0);
    world.data(1, Twist::OtherBranch);
    world.data(1, Twist::None);
    let (replica, _) = settled(&world);
    assert_eq!(replica.admitted().sequence(&world.id(1)), 1);
    assert_eq!((replica.held(&world.id(1)), replica.waiting_operations()), (3, 2));
    let (author, sequence, id) = replica.wanted_by_id().pop_first().expect("the other branch is wanted");
    assert_eq!((author, sequence), (world.id(0), replica.held(&world.id(0))));
    assert_ne!(Some(id.prefix()), replica.prefix_at(&author, sequence));
}

#[test]
fn records_that_the_steward_has_not_written_are_waited_for() {
    for claimed in [4, u64::MAX] {
        let mut world = joined(Role::Writer);
        world.data(1, Twist::Records(claimed));
        let (replica, _) = settled(&world);
        assert_eq!((replica.admitted().sequence(&world.id(1)), replica.waiting_operations()), (0, 1));
        let (author, sequence) = replica.wanted().expect("the steward's next operations are wanted");
        assert!(author == world.id(0) && sequence > replica.held(&author));
        world.record(0, epoch(2));
        let counts = u64::from(claimed == 4);
        assert_eq!(settled(&world).0.admitted().sequence(&world.id(1)), counts);
    }
    let mut world = World::new(1);
    world.data(0, Twist::Records(u64::MAX));
    let (replica, _) = settled(&world);
    assert_eq!((replica.admitted().sequence(&world.id(0)), replica.waiting_operations()), (2, 1));
}

#[test]
fn a_further_role_is_admitted_in_its_turn() {
    let mut world = joined(Role::Reader);
    let invitation = world.invite(Role::Writer);
    world.admit(0, 1, invitation, Twist::None);
    world.hear(1, 0);
    world.data(1, Twist::None);
    let (replica, _) = settled(&world);
    assert_eq!(replica.admitted().sequence(&world.id(1)), 1);
    let member = &replica.membership().members()[&world.id(1)];
    assert_eq!((member.role, member.admissions.len()), (Role::Writer, 2));
}

#[test]
fn repeated_admissions_do_not_pile_up() {
    let mut world = joined(Role::Writer);
    for _ in 0..20 {
        world.admit(0, 1, 0, Twist::None);
    }
    let (replica, _) = settled(&world);
    let admissions = &replica.membership().members()[&world.id(1)].admissions;
    assert_eq!(admissions.iter().map(|by| by.sequence).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_run_that_leaves_a_gap_or_continues_another_branch_is_not_taken() {
    let mut world = joined(Role::Writer);
    (0..3).for_each(|_| world.data(1, Twist::None));
    let mut other = joined(Role::Writer);
    other.data(1, Twist::NoDependencies);
    (0..3).for_each(|_| other.data(1, Twist::None));
    let (mut replica, mut admitted) = (Replica::new(world.space).admission, Vec::new());
    assert!(!replica.hold(&world.logs[1][1], &mut admitted), "a gap");
    assert!(replica.hold(&world.logs[1][0], &mut admitted));
    assert!(!replica.hold(&other.logs[1][0], &mut admitted), "the other branch");
    let mut joined = other.logs[1][0].clone();
    joined.operations.extend(other.logs[1][1..].iter().flat_map(|run| run.operations.clone()));
    assert!(!replica.hold(&joined, &mut admitted), "the other branch, from its beginning");
    assert!(!replica.hold(&other.logs[1][1], &mut admitted), "the other branch, after what is held");
    assert_eq!(replica.held(&world.id(1)), 1);
    assert!(replica.hold(&world.logs[1][1], &mut admitted));
    assert!(replica.hold(&world.logs[1][0], &mut admitted), "what is held is taken again");
    assert_eq!(replica.held(&world.id(1)), 2);
}

#[test]
fn a_first_operation_builds_on_its_admission_among_more_heads_than_fit() {
    let devices = DEPENDENCIES_MAX as u8 + 20;
    let mut world = World::new(devices);
    let invitation = world.invite(Role::Writer);
    let joiner = usize::from(devices) - 1;
    (1..joiner).for_each(|device| world.admit(0, device, invitation, Twist::None));
    world.all_hear_the_steward();
    (1..joiner).for_each(|device| world.data(device, Twist::None));
    for sponsor in 1..joiner {
        world.hear(joiner, sponsor);
    }
    // Sponsors in the order of their ids: the first ones stand within the limit anyway, the last ones do not.
    let mut sponsors: Vec<usize> = (1..joiner).collect();
    sponsors.sort_by_key(|sponsor| world.id(*sponsor));
    for sponsor in [sponsors[0], sponsors[DEPENDENCIES_MAX], *sponsors.last().unwrap()] {
        let (view, log) = (world.replicas[joiner].clone(), world.logs[sponsor].clone());
        world.admit(sponsor, joiner, 0, Twist::None);
        world.hear(joiner, sponsor);
        let (dependencies, overflow) = world.view(joiner).dependencies(world.id(joiner));
        assert!(overflow && dependencies.len() == DEPENDENCIES_MAX);
        assert!(dependencies.windows(2).all(|pair: &[Dependency]| pair[0].author < pair[1].author));
        world.data(joiner, Twist::None);
        assert_eq!(world.view(joiner).admitted().sequence(&world.id(joiner)), 1, "sponsor {sponsor}");
        (world.replicas[joiner], world.logs[sponsor]) = (view, log);
        world.logs[joiner].clear();
    }
}
