//! What a device may try that it should not, one attempt each, with the outcome in every order of arrival.

use syncline_model::admission::Refusal;
use syncline_model::membership::{MembershipError, Statement};
use syncline_model::{Admitted, Dependency, DeviceId, DeviceKey, ForkProof, Kind, OperationId, Role, Run, RunSummary};

use crate::plain::recompute;
use crate::world::{Replica, Twist, World, epoch};

/// A founder, two writers whom it added, two strangers, and an open invitation for writers; all have heard of it.
fn begun() -> World {
    let mut world = World::new(6);
    world.add(0, 1, Role::Writer);
    world.add(0, 2, Role::Writer);
    world.invite(Role::Writer);
    world.all_hear_the_steward();
    world
}

/// A replica to which all of it was delivered, after asserting that many orders agree with the plain recomputation.
fn settled(world: &World) -> Replica {
    let plain = recompute(world.space, &world.operations());
    for seed in 0..16 {
        assert_eq!(world.deliver(seed, |_| {}).counted(), plain, "order {seed}");
    }
    world.deliver(0, |_| {})
}

fn admitted_of(replica: &Replica, author: DeviceId) -> Vec<OperationId> {
    replica.admitted.iter().filter(|operation| operation.author == author).map(|operation| operation.id).collect()
}

/// How many operations of a device count.
fn counted(world: &World, device: usize) -> usize {
    admitted_of(&settled(world), world.id(device)).len()
}

fn fault(world: &World, device: usize, sequence: u64) -> Option<MembershipError> {
    let author = world.id(device);
    let at = |operation: &&Admitted| (operation.author, operation.sequence) == (author, sequence);
    settled(world).admitted.iter().find(at).expect("it is admitted").fault
}

fn counts(world: &World, id: OperationId) -> bool {
    settled(world).admitted.iter().any(|operation| operation.id == id)
}

#[test]
fn an_operation_of_a_stranger_does_not_count() {
    let mut world = begun();
    world.data(3, Twist::None);
    let replica = settled(&world);
    assert_eq!(replica.admission.refused()[&world.id(3)], (1, Refusal::NotAdmitted));
    assert!(admitted_of(&replica, world.id(3)).is_empty());
}

#[test]
fn an_operation_of_a_reader_or_a_relay_does_not_count() {
    for role in [Role::Reader, Role::Relay] {
        let mut world = begun();
        world.add(0, 3, role);
        let invitation = world.invite(role);
        world.hear(1, 0);
        world.admit(1, 4, invitation, Twist::None);
        (0..6).for_each(|device| world.hear_all(device));
        world.data(3, Twist::None);
        world.data(4, Twist::None);
        let replica = settled(&world);
        for device in [3, 4] {
            assert_eq!(replica.admission.membership().role(&world.id(device)), Some(role));
            assert!(admitted_of(&replica, world.id(device)).is_empty(), "{role:?}");
        }
    }
}

#[test]
fn a_reader_does_not_write_by_what_a_removed_steward_offers_it() {
    let mut world = begun();
    world.add(0, 3, Role::Reader);
    world.hear_all(1);
    world.hear_all(3);
    let key = world.recovery.clone();
    world.take_over(1, None, 1, &key);
    // The founder, who is removed, goes on as if it were the steward.
    let invitation = world.invite(Role::Writer);
    world.admit(0, 3, invitation, Twist::None);
    world.hear(3, 0);
    world.data(3, Twist::None);
    let replica = settled(&world);
    assert_eq!(replica.admission.sound(&world.id(3)), 1, "its log begins");
    assert_eq!(replica.admission.membership().role(&world.id(3)), Some(Role::Reader));
    assert!(admitted_of(&replica, world.id(3)).is_empty());
}

#[test]
fn what_is_written_behind_a_cut_does_not_count_but_what_others_built_on_does() {
    let mut world = begun();
    world.data(1, Twist::None);
    world.hear_all(0);
    world.remove(0, 1);
    world.data(1, Twist::None);
    world.data(1, Twist::None);
    assert_eq!(counted(&world, 1), 1);
    assert_eq!(settled(&world).admission.uncounted_operations(), 2);
    let behind = world.head(1);
    world.data(1, Twist::None);
    // A writer who has not heard of the removal built on one of them.
    let records = world.view(2).membership().records();
    world.write_on(2, vec![behind], records, Kind::DATA, Vec::new());
    assert_eq!((counted(&world, 1), counted(&world, 2)), (3, 1));
}

#[test]
fn a_back_dated_write_stays_behind_the_cut() {
    let mut world = begun();
    world.data(1, Twist::None);
    world.hear_all(0);
    world.remove(0, 1);
    world.hear_all(1);
    // As if it had been written before the removal was heard of, and before its first operation.
    let records = world.view(2).membership().records();
    world.write_on(1, Vec::new(), records, Kind::DATA, Vec::new());
    assert_eq!(counted(&world, 1), 1);
    // A copy of it that begins again takes the log down to where the two part.
    let mut world = begun();
    let copy = world.clone_device(1);
    world.data(1, Twist::None);
    world.hear_all(0);
    world.remove(0, 1);
    world.data(copy, Twist::Epoch(1));
    world.write(copy, Kind(9), 0, vec![1], Twist::None);
    assert_eq!(world.logs[copy][0], world.logs[1][0], "the same operation so far");
    assert_eq!(counted(&world, 1), 1);
}

#[test]
fn a_removed_sponsor_does_not_bring_in_one_that_vouches_for_it() {
    let mut world = begun();
    world.data(1, Twist::None);
    world.hear_all(0);
    world.remove(0, 1);
    world.data(1, Twist::None);
    world.admit(1, 3, 0, Twist::None);
    world.hear(3, 0);
    world.hear(3, 1);
    let behind = world.head(1);
    let records = world.view(2).membership().records();
    world.write_on(3, vec![behind], records, Kind::DATA, Vec::new());
    let replica = settled(&world);
    assert_eq!(replica.admission.membership().role(&world.id(3)), None);
    assert_eq!((counted(&world, 1), counted(&world, 3)), (1, 0));
    assert_eq!(replica.admission.sound(&world.id(3)), 1, "it is sound, and would count if a writer built on it");
    world.write_on(2, vec![world.head(3)], records, Kind::DATA, Vec::new());
    assert_eq!((counted(&world, 1), counted(&world, 3)), (3, 1));
    assert_eq!(settled(&world).admission.membership().role(&world.id(3)), None, "nor does that make a member");
}

#[test]
fn duelling_records_halt_the_membership_until_a_takeover_chooses_either_branch() {
    let mut world = begun();
    let copy = world.clone_device(0);
    world.remove(0, 1);
    world.remove(copy, 2);
    world.data(1, Twist::None);
    world.data(2, Twist::None);
    let halted = settled(&world);
    let membership = halted.admission.membership();
    assert_eq!(membership.records(), 5, "neither counts");
    assert_eq!(membership.forks()[&world.id(0)], 6);
    assert!((1..3).all(|device| membership.role(&world.id(device)) == Some(Role::Writer)));
    assert_eq!((counted(&world, 1), counted(&world, 2)), (1, 1), "data goes on");
    world.record(0, epoch(2));
    assert_eq!(settled(&world).admission.membership().records(), 5, "nor does what follows");
    for (branch, removed, kept) in [(0, 1, 2), (copy, 2, 1)] {
        let mut world = world.clone();
        let (fork, key) = (world.logs[branch][5].clone(), world.recovery.clone());
        world.hear(3, branch);
        let chosen =
            world.heard_records(3).into_iter().find(|(record, _)| fork.operations[0].control == record.encode());
        world.take_over(3, chosen, 1, &key);
        world.record(3, epoch(3));
        let replica = settled(&world);
        let membership = replica.admission.membership();
        assert_eq!((membership.records(), membership.epoch()), (8, 3));
        assert_eq!(membership.role(&world.id(3)), Some(Role::Steward));
        assert!(membership.is_removed(&world.id(removed)) && membership.is_removed(&world.id(0)));
        assert_eq!(membership.role(&world.id(kept)), Some(Role::Writer));
    }
}

#[test]
fn a_record_of_another_than_the_steward_has_no_effect() {
    let mut world = begun();
    world.remove(1, 2);
    world.hear_all(2);
    world.data(2, Twist::None);
    let replica = settled(&world);
    assert_eq!(fault(&world, 1, 1), Some(MembershipError::NotSteward));
    assert_eq!(replica.admission.membership().role(&world.id(2)), Some(Role::Writer));
    assert_eq!(counted(&world, 2), 1);
}

#[test]
fn a_closed_invitation_admits_nobody_by_those_who_know() {
    let mut world = begun();
    let invitation = world.invitations[0].id();
    world.record(0, Statement::Revocation { invitation });
    world.admit(2, 4, 0, Twist::None);
    world.hear(1, 0);
    world.admit(1, 3, 0, Twist::None);
    let replica = settled(&world);
    assert_eq!(fault(&world, 1, 1), Some(MembershipError::ClosedInvitation));
    assert_eq!(replica.admission.membership().role(&world.id(3)), None);
    assert_eq!(replica.admission.membership().role(&world.id(4)), Some(Role::Writer), "its sponsor did not know");
}

#[test]
fn nobody_forgets_records_on_any_branch() {
    let mut world = begun();
    let copy = world.clone_device(1);
    let records = world.view(1).membership().records();
    for device in [1, copy] {
        world.data(device, Twist::None);
    }
    world.write_on(1, Vec::new(), records - 1, Kind::DATA, Vec::new());
    assert_eq!(counted(&world, 1), 1);
    assert_eq!(settled(&world).admission.refused()[&world.id(1)], (2, Refusal::ForgottenRecords));
    world.data(copy, Twist::None);
    world.data(2, Twist::None);
    // Whichever branch comes first: the other one does not become sound by being a branch.
    let sound = |order: [usize; 2]| {
        let mut replica = Replica::new(world.space);
        [0, order[0], order[1]].iter().flat_map(|device| &world.logs[*device]).for_each(|run| replica.receive(run));
        replica.admission.uncounted_operations()
    };
    assert_eq!((sound([1, copy]), sound([copy, 1])), (1, 1));
    settled(&world);
}

#[test]
fn an_old_epoch_after_a_removal_has_no_effect() {
    let mut world = begun();
    world.remove(0, 1);
    world.record(0, epoch(2));
    world.data(2, Twist::None);
    world.hear(2, 0);
    world.data(2, Twist::Epoch(1));
    world.data(2, Twist::None);
    let faults: Vec<_> = (1..4).map(|sequence| fault(&world, 2, sequence)).collect();
    assert_eq!(faults, [None, Some(MembershipError::WrongEpoch), None], "only who knows of the new one must use it");
}

#[test]
fn an_epoch_that_stands_in_no_record_of_the_past_has_no_effect() {
    let mut world = begun();
    let records = world.view(2).membership().records();
    world.record(0, epoch(2));
    world.data(2, Twist::None);
    // It says that it knows the record, and builds on nothing that does.
    let (epoch, membership) = (2, records + 1);
    world.data(2, Twist::Records(membership));
    world.data(2, Twist::Epoch(epoch));
    assert_eq!(fault(&world, 2, 2), None);
    let mut lying = begun();
    lying.record(0, self::epoch(2));
    lying.data(2, Twist::Epoch(epoch));
    assert_eq!(fault(&lying, 2, 1), Some(MembershipError::WrongEpoch));
}

#[test]
fn a_takeover_without_the_recovery_key_has_no_effect() {
    let mut world = begun();
    let thief = DeviceKey::from_seed(&[77; 32]);
    world.take_over(1, None, 9, &thief);
    world.hear_all(3);
    world.take_over(3, None, 9, &thief);
    let replica = settled(&world);
    assert_eq!(replica.admission.membership().steward(), Some(world.id(0)));
    assert_eq!(fault(&world, 1, 1), Some(MembershipError::NotSteward));
    assert_eq!(counted(&world, 3), 0);
    assert_eq!(replica.admission.membership().takeover_counter(), 0);
}

#[test]
fn of_two_takeovers_the_higher_counter_counts() {
    for counters in [(1, 2), (2, 1)] {
        let mut world = begun();
        let key = world.recovery.clone();
        world.take_over(1, None, counters.0, &key);
        world.take_over(2, None, counters.1, &key);
        world.record(1, epoch(2));
        world.record(2, epoch(2));
        let winner = if counters.0 > counters.1 { 1 } else { 2 };
        let replica = settled(&world);
        let membership = replica.admission.membership();
        assert_eq!(membership.steward(), Some(world.id(winner)));
        assert_eq!((membership.records(), membership.epoch()), (7, 2));
    }
}

#[test]
fn of_two_takeovers_with_one_counter_every_replica_follows_the_same() {
    let mut world = begun();
    let key = world.recovery.clone();
    world.take_over(1, None, 1, &key);
    world.take_over(2, None, 1, &key);
    world.take_over(1, None, 1, &key);
    settled(&world);
}

#[test]
fn a_forged_proof_of_a_fork_has_no_effect() {
    let mut world = begun();
    // A writer's log as another device would fork it.
    let mut forger = begun();
    let copy = forger.clone_device(1);
    forger.data(1, Twist::None);
    forger.write(copy, Kind(9), 0, vec![1], Twist::None);
    let forge = |device: usize| {
        let run = forger.signed(&forger.logs[device][0], device);
        let mut bytes = run.bytes().to_vec();
        let signature = DeviceKey::from_seed(&[55; 32]).sign(&run.last_id().0);
        let begins = bytes.len() - signature.len();
        bytes[begins..].copy_from_slice(&signature);
        Run::decode(world.space, bytes).unwrap()
    };
    let (one, other) = (forge(1), forge(copy));
    let proof = ForkProof::of(&one, &other).unwrap();
    assert!(!proof.holds(&world.space));
    world.write(2, Kind::EQUIVOCATION, 0, proof.encode(), Twist::None);
    world.write(2, Kind::EQUIVOCATION, 0, b"nonsense".to_vec(), Twist::None);
    world.data(1, Twist::None);
    assert_eq!(fault(&world, 2, 1), Some(MembershipError::BadProof));
    assert_eq!(fault(&world, 2, 2), Some(MembershipError::Malformed));
    assert_eq!(counted(&world, 1), 1);
    assert!(settled(&world).admission.membership().forks().is_empty());
}

#[test]
fn a_proof_of_a_fork_cuts_where_the_branches_part() {
    let mut world = begun();
    world.data(1, Twist::None);
    let copy = world.clone_device(1);
    world.data(1, Twist::None);
    world.write(copy, Kind(9), 0, vec![1], Twist::None);
    world.data(1, Twist::None);
    world.hear(2, 1);
    world.data(2, Twist::None);
    world.prove_fork(2, 1);
    assert_eq!(counted(&world, 1), 3, "the branch that others built on counts, and the other one does not");
    let other = world.head(copy).id;
    assert!(!counts(&world, other));
    let head = world.head_of(copy).unwrap();
    world.record(0, Statement::Resolve { heads: vec![head] });
    assert!(counts(&world, other), "until the steward resolves it");
}

#[test]
fn a_log_begins_by_an_admission_on_either_branch_of_its_sponsor() {
    let mut world = begun();
    let copy = world.clone_device(1);
    world.data(1, Twist::None);
    world.admit(copy, 3, 0, Twist::None);
    world.hear(3, copy);
    world.data(3, Twist::None);
    world.hear(2, copy);
    world.hear(2, 3);
    let heads: Vec<Dependency> = vec![world.head(3)];
    let records = world.view(2).membership().records();
    world.write_on(2, heads, records, Kind::DATA, Vec::new());
    let replica = settled(&world);
    assert_eq!(replica.admission.membership().role(&world.id(3)), None, "the admission lies behind the fork");
    assert_eq!(counted(&world, 3), 1, "and yet a writer built on it");
}

#[test]
fn a_takeover_that_builds_on_nothing_begins_no_log() {
    let mut world = begun();
    let key = world.recovery.clone();
    let record = {
        world.take_over(3, None, 1, &key);
        world.logs[3].pop().unwrap().operations[0].control.clone()
    };
    world.write_on(3, Vec::new(), 5, Kind::MEMBERSHIP, record);
    assert_eq!(counted(&world, 3), 0);
}

#[test]
fn what_a_device_only_claims_to_know_lets_no_log_begin() {
    let mut world = begun();
    world.add(0, 3, Role::Writer);
    // The record of its addition is the sixth; it builds on nothing that has it.
    world.write_on(3, Vec::new(), 6, Kind::DATA, Vec::new());
    assert_eq!(counted(&world, 3), 0);
}

#[test]
fn records_of_a_former_steward_are_none() {
    let mut world = begun();
    world.hand_over(0, 1);
    world.hear_all(1);
    world.record(1, epoch(2));
    // The founder knows of its handover, and writes the record after it and another one in its place.
    world.record(0, epoch(5));
    world.add(0, 4, Role::Writer);
    let replica = settled(&world);
    let membership = replica.admission.membership();
    assert_eq!((membership.records(), membership.epoch(), membership.next_epoch()), (7, 2, 3));
    assert_eq!(membership.role(&world.id(4)), None);
    assert_eq!(membership.role(&world.id(0)), Some(Role::Writer), "and it may write documents");
}

#[test]
fn what_a_device_files_in_another_ones_log_is_not_held() {
    let mut world = begun();
    let head = world.head(0);
    world.data(1, Twist::None);
    let own = world.operations().into_iter().rfind(|run| run.author == world.id(1)).expect("it wrote");
    let mut admission = settled(&world).admission;
    // As the next operation of the steward, by its position and what it follows.
    let filed = RunSummary { first: admission.held(&world.id(0)) + 1, previous: head.id, ..own };
    let mut admitted = Vec::new();
    assert!(!admission.hold_in(world.id(0), &filed, &mut admitted));
    assert!(admitted.is_empty() && admission.held(&world.id(0)) == head.sequence);
}

#[test]
fn a_steward_does_not_use_up_the_numbers_of_epochs() {
    let mut world = begun();
    world.record(0, epoch(u32::MAX));
    let last = world.view(0).held(&world.id(0));
    assert_eq!(fault(&world, 0, last), Some(MembershipError::WrongEpoch));
    // Whoever is the steward then goes on with numbers that are in reach, after a takeover as well.
    world.hear_all(1);
    let recovery = world.recovery.clone();
    world.take_over(1, None, 1, &recovery);
    for _ in 0..3 {
        let next = settled(&world).admission.membership().next_epoch();
        world.record(1, epoch(next));
    }
    let membership = settled(&world);
    let membership = membership.admission.membership();
    assert_eq!((membership.steward(), membership.epoch()), (Some(world.id(1)), 4), "{:?}", membership.epochs());
    assert_eq!(membership.next_epoch(), 5);
}
