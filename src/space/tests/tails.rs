//! What counts for nobody is kept for a while, then its room is given back.

use serde_json::json;
use syncline_model::Role;
use syncline_storage::Tail;
use syncline_sync::Replica;

use super::super::Act;
use super::super::tails::KEEP_UNCOUNTED_MS;
use super::Net;

/// Documents that a device writes while nobody knows that it is removed, and bytes of each.
const DOCUMENTS: usize = 40;
const DOCUMENT_BYTES: usize = 4000;

impl Net {
    /// Lets time pass, in two steps: what is seen in one look has waited in the next.
    fn let_pass(&mut self, ms: u64) {
        for _ in 0..2 {
            self.now_ms += ms;
            self.settle();
        }
    }

    /// A member that two others hold much of which does not count, since it was removed when nobody knew of it.
    fn with_uncounted(seed: u64) -> (Self, usize, usize) {
        let mut net = Self::new(seed);
        let (bob, eve) = (net.member(Role::Writer), net.member(Role::Writer));
        net.put(eve, "kept", json!(1)).unwrap();
        net.settle();
        net.online(0, false);
        for number in 0..DOCUMENTS {
            let content = net.noise(DOCUMENT_BYTES);
            net.put(eve, &format!("late/{number}"), content).unwrap();
        }
        net.settle();
        assert!(net.get(bob, "late/0").is_some());
        net.online(bob, false);
        net.online(eve, false);
        net.online(0, true);
        net.govern(0, Act::Remove { devices: vec![net.id(eve)] }).unwrap();
        net.online(bob, true);
        net.settle();
        net.all_show(&[0, bob], "late/0", None);
        (net, bob, eve)
    }

    /// Up to where a device has another one's log, whether it counts or not.
    fn stored_through(&self, number: usize, of: usize) -> u64 {
        self.nodes[number].replica.core().state().taken(&self.id(of)).0
    }

    fn uncounted_bytes(&self, number: usize, of: usize) -> u64 {
        let replica = &self.nodes[number].replica;
        let tails = replica.core().state().uncounted_tails();
        let tail = tails.into_iter().find(|tail: &Tail| tail.log == self.id(of));
        tail.map_or(0, |tail| replica.log().reader().tail_bytes(tail).unwrap())
    }
}

#[test]
fn what_a_cut_left_behind_is_kept_for_a_while_and_then_its_room_is_given_back() {
    let (mut net, bob, eve) = Net::with_uncounted(1);
    let before = net.stored_through(bob, eve);
    assert!(net.uncounted_bytes(bob, eve) > (DOCUMENTS * DOCUMENT_BYTES / 2) as u64);
    net.let_pass(KEEP_UNCOUNTED_MS / 3);
    assert_eq!(net.stored_through(bob, eve), before, "the steward may still let it count");
    net.let_pass(KEEP_UNCOUNTED_MS);

    assert!(net.stored_through(bob, eve) < before);
    assert_eq!(net.uncounted_bytes(bob, eve), 0);
    let report = net.nodes[bob].replica.log().reader().verify(&mut |_| {}).unwrap();
    assert!(report.is_sound() && report.missing_operations == 0, "{report:?}");
    assert!(report.reclaimed_bytes > (DOCUMENTS * DOCUMENT_BYTES / 2) as u64, "{report:?}");
    assert_eq!(report.operations, net.nodes[bob].replica.log().stats().unwrap().operations);
    net.all_show(&[0, bob], "kept", Some(json!(1)));
    net.agree(&[0, bob]);

    // Whoever still has it is not asked for it, and work goes on.
    let held = net.stored_through(bob, eve);
    net.online(eve, true);
    net.put(bob, "after", json!(2)).unwrap();
    net.settle();
    net.settle();
    assert_eq!(net.stored_through(bob, eve), held);
    net.all_show(&[0, bob], "after", Some(json!(2)));
    net.agree(&[0, bob]);
    assert!(net.nodes.iter().all(|node| node.blamed.is_empty()));
}

#[test]
fn own_work_that_does_not_count_is_never_dropped() {
    let (mut net, _bob, eve) = Net::with_uncounted(2);
    let before = net.stored_through(eve, eve);
    net.online(eve, true);
    net.settle();
    net.let_pass(2 * KEEP_UNCOUNTED_MS);
    assert_eq!(net.stored_through(eve, eve), before, "it is offered to be written again");
    assert!(net.nodes[eve].replica.core().state().uncounted_tails().iter().all(|tail| tail.log != net.id(eve)));
}

#[test]
fn both_branches_of_a_forked_log_stay_as_its_proof() {
    let mut net = Net::new(3);
    let (bob, eve) = (net.member(Role::Writer), net.member(Role::Writer));
    net.settle();
    let copy = net.clone_device(eve);
    net.online(copy, false);
    for number in 0..DOCUMENTS {
        let content = net.noise(DOCUMENT_BYTES);
        net.put(eve, &format!("one/{number}"), content).unwrap();
    }
    net.settle();
    net.online(eve, false);
    net.put(copy, "other", json!(2)).unwrap();
    net.online(copy, true);
    net.settle();
    net.settle();
    let state = net.nodes[bob].replica.core().state();
    assert!(state.membership().forks().contains_key(&net.id(eve)), "the fork is known");
    let before = net.stored_through(bob, eve);
    net.let_pass(2 * KEEP_UNCOUNTED_MS);
    assert_eq!(net.stored_through(bob, eve), before);
    assert_eq!(net.uncounted_bytes(bob, eve), 0, "none of it is counted as to be dropped");
}
