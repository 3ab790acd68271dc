//! Worlds in which devices fork, are removed, write on, lie about what they know and take the space over: whatever
//! order the operations arrive in, every replica ends with what the plain recomputation says.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use syncline_model::membership::{Admit, Statement};
use syncline_model::{DeviceKey, Kind, Role};

use crate::plain::recompute;
use crate::world::{Replica, Twist, World, epoch};

/// Devices of a world, copies of forked ones included.
const DEVICES_MAX: usize = 9;
/// Operations that carry signatures to check: these take the time.
const SIGNED_MAX: usize = 10;

/// One step of a world: who acts, on whom, how.
type Step = (usize, usize, u8, u8);

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..DEVICES_MAX, 0..DEVICES_MAX, 0u8..40, any::<u8>()), 8..most)
}

/// A founder, two writers, a reader and two strangers, and an open invitation for writers.
fn begun() -> World {
    let mut world = World::new(6);
    world.add(0, 1, Role::Writer);
    world.add(0, 2, Role::Writer);
    world.add(0, 3, Role::Reader);
    world.invite(Role::Writer);
    world.all_hear_the_steward();
    world
}

fn play(steps: &[Step]) -> World {
    let mut world = begun();
    let mut signed = 0;
    for &(actor, other, action, choice) in steps {
        let devices = world.devices.len();
        let (actor, other) = (actor % devices, other % devices);
        let steward = (0..devices).find(|device| {
            let view = world.view(*device).membership();
            view.steward() == Some(world.id(*device)) && view.records() > 0
        });
        // Mostly it is the steward who writes records.
        let speaker = if choice % 8 == 0 { actor } else { steward.unwrap_or(0) };
        signed += usize::from(matches!(action, 20..=25 | 35..));
        if signed > SIGNED_MAX && matches!(action, 20..=25 | 35..) {
            continue;
        }
        act(&mut world, action, choice, (actor, other, speaker));
    }
    world
}

fn act(world: &mut World, action: u8, choice: u8, (actor, other, speaker): (usize, usize, usize)) {
    let (devices, roles) = (world.devices.len(), [Role::Writer, Role::Reader, Role::Relay]);
    let role = roles[usize::from(choice / 8) % roles.len()];
    let twist = match choice {
        0..6 => Twist::NoDependencies,
        6..12 => Twist::Records(u64::from(choice)),
        12..18 => Twist::Records(2),
        18..22 => Twist::Epoch(1),
        22 => Twist::Future,
        23 => Twist::OtherBranch,
        _ => Twist::None,
    };
    match action {
        0..=7 => world.hear(actor, other),
        8..=10 => world.hear_all(actor),
        11..=18 => world.data(actor, twist),
        19 if devices < DEVICES_MAX => drop(world.clone_device(actor)),
        19 => world.write(actor, Kind(9), 0, vec![choice], twist),
        20..=24 => world.admit(actor, other, usize::from(choice) % world.invitations.len(), twist),
        25 => world.prove_fork(actor, other),
        26 if world.invitations.len() < 4 => {
            world.invitations.push(DeviceKey::from_seed(&[choice | 64; 32]));
            world.open(speaker, role, world.invitations.len() - 1);
        }
        26 | 27 => world.open(speaker, role, usize::from(choice) % world.invitations.len()),
        28 => world.add(speaker, other, role),
        29 => world.remove(speaker, other),
        30 => world.change_role(speaker, other, role),
        31 => world.hand_over(speaker, other),
        32 => {
            let cut = world.head_of(other);
            world.record(speaker, Statement::Resolve { heads: cut.into_iter().collect() });
        }
        33 => {
            let next = world.view(speaker).membership().next_epoch().min(9);
            world.record(speaker, epoch(next));
        }
        34 => {
            let invitation = world.invitations[usize::from(choice) % world.invitations.len()].id();
            world.record(speaker, Statement::Revocation { invitation });
        }
        _ => {
            let records = world.heard_records(actor);
            let chosen = usize::from(choice) % (records.len() + 2);
            let key = if choice == 0 { world.devices[actor].clone() } else { world.recovery.clone() };
            world.take_over(actor, records.into_iter().nth(chosen), u64::from(choice % 3), &key);
        }
    }
}

fn check(world: &World, seeds: &[u64]) -> Result<(), TestCaseError> {
    let plain = recompute(world.space, &world.operations());
    for seed in seeds {
        let replica = world.deliver(*seed, |_| {});
        prop_assert_eq!(&replica.counted(), &plain, "order {}", seed);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_order_of_arrival_ends_as_the_plain_recomputation(
        steps in steps(60),
        seeds in proptest::array::uniform4(any::<u64>()),
    ) {
        check(&play(&steps), &seeds)?;
    }

    #[test]
    fn a_fold_goes_on_as_if_it_had_begun_again(steps in steps(40), seed in any::<u64>()) {
        let world = play(&steps);
        let mut at = 0;
        world.deliver(seed, |replica: &Replica| {
            at += 1;
            if at % 4 == 0 {
                assert_eq!(replica.counted(), replica.folded_again().counted());
            }
        });
    }
}

#[test]
#[ignore = "takes minutes: many more and longer worlds"]
fn every_order_of_arrival_of_many_worlds_ends_as_the_plain_recomputation() {
    let config =
        ProptestConfig { cases: 2000, max_shrink_iters: 20_000, failure_persistence: None, ..Default::default() };
    let worlds = (steps(120), proptest::array::uniform8(any::<u64>()));
    TestRunner::new(config).run(&worlds, |(steps, seeds)| check(&play(&steps), &seeds)).unwrap();
}

#[test]
fn random_worlds_reach_what_they_are_about() {
    let mut runner = TestRunner::deterministic();
    let mut reached: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..96 {
        let world = play(&steps(60).new_tree(&mut runner).unwrap().current());
        let replica = world.deliver(1, |_| {});
        let (counted, membership) = (replica.counted(), replica.admission.membership());
        let founder = world.id(0);
        let statements =
            |matches: fn(&Statement) -> bool| membership.chain().iter().any(|record| matches(&record.record.statement));
        for (what, holds) in [
            ("a fork", !counted.forks.is_empty()),
            ("a fork of the founder", counted.forks.contains_key(&founder)),
            ("an operation that does not count", counted.uncounted > 0),
            ("an operation on a branch that counts", replica.admitted.iter().any(|at| at.log != at.author)),
            (
                "an operation behind a cut that counts",
                membership
                    .cuts()
                    .values()
                    .any(|cut| replica.admitted.iter().any(|at| at.author == cut.author && at.sequence > cut.sequence)),
            ),
            ("a takeover", statements(|statement| matches!(statement, Statement::Takeover(_)))),
            ("a handover", statements(|statement| matches!(statement, Statement::Handover { .. }))),
            ("a removal", statements(|statement| matches!(statement, Statement::Removal { .. }))),
            ("a resolved head", statements(|statement| matches!(statement, Statement::Resolve { .. }))),
            ("a wrong epoch", counted.admitted.values().any(|wrong| *wrong)),
            ("a member by invitation", membership.members().values().any(|member| !member.admissions.is_empty())),
            ("a second fold", replica.folds > 1),
            ("a refused log", !replica.admission.refused().is_empty()),
            ("a waiting operation", replica.admission.waiting_operations() > 0),
        ] {
            *reached.entry(what).or_default() += u32::from(holds);
        }
    }
    assert!(reached.values().all(|times| *times > 0), "{reached:#?}");
}

#[test]
fn a_reader_of_control_payloads_takes_what_the_worlds_write() {
    let mut world = begun();
    world.admit(1, 4, 0, Twist::None);
    let run = world.signed(&world.logs[1][0], 1);
    assert_eq!(Admit::decode(run.payload(&run.operations()[0])).unwrap().certificate, world.certificate(4, 0));
}
