//! Members come, write, lose what they may do, and go; keys change; devices are lost and copied.

use serde_json::json;
use syncline_model::Role;
use syncline_model::membership::Cut;
use syncline_sync::Replica;

use super::super::{Act, WriteError};
use super::Net;
use crate::documents::DocumentError;

#[test]
fn a_removed_device_neither_reads_nor_writes_what_comes_after() {
    let mut net = Net::new(1);
    let (bob, eve) = (net.member(Role::Writer), net.member(Role::Writer));
    net.put(eve, "eve", json!(1)).unwrap();
    net.settle();
    net.govern(0, Act::Remove { devices: vec![net.id(eve)] }).unwrap();
    net.put(0, "after", json!("secret")).unwrap();
    net.settle();
    net.agree(&[0, bob]);
    net.all_show(&[0, bob], "eve", Some(json!(1)));
    net.all_show(&[0, bob], "after", Some(json!("secret")));
    assert_eq!(net.content_epochs(bob), [1, 2]);
    assert_eq!(net.content_epochs(eve), [1], "it is given no later key");
    assert_eq!(net.get(eve, "after"), None);
    // It hears of its removal while it can, and says so.
    assert!(matches!(net.put(eve, "more", json!(2)), Err(DocumentError::LostRight { .. })));
    assert_eq!(net.role(eve), None);
    assert!(net.nodes.iter().all(|node| node.blamed.is_empty()), "nobody is blamed for being late");
}

#[test]
fn what_a_removed_device_writes_unaware_does_not_count_unless_others_built_on_it() {
    let mut net = Net::new(2);
    let (bob, eve) = (net.member(Role::Writer), net.member(Role::Writer));
    net.put(0, "shared", json!(0)).unwrap();
    net.settle();
    // Eve and Bob are cut off from the steward; Bob builds on what Eve writes.
    net.online(0, false);
    net.put(eve, "seen", json!("by bob")).unwrap();
    net.settle();
    net.put(bob, "built", json!("on eve")).unwrap();
    net.online(bob, false);
    net.put(eve, "unseen", json!("by nobody")).unwrap();
    net.online(eve, false);
    net.online(0, true);
    net.govern(0, Act::Remove { devices: vec![net.id(eve)] }).unwrap();
    net.online(bob, true);
    net.settle();
    net.agree(&[0, bob]);
    net.all_show(&[0, bob], "built", Some(json!("on eve")));
    net.all_show(&[0, bob], "seen", Some(json!("by bob")));
    net.all_show(&[0, bob], "unseen", None);
    net.online(eve, true);
    net.settle();
    net.all_show(&[0, bob], "unseen", None);
    net.agree(&[0, bob]);
    // Nobody serves it any more, and it can tell its user so.
    let state = net.nodes[eve].replica.core();
    assert!(state.engine().status(state.state()).peers.iter().all(|peer| peer.refuses));
}

#[test]
fn documents_that_must_drop_operations_are_made_anew() {
    let mut net = Net::new(3);
    let (bob, eve) = (net.member(Role::Writer), net.member(Role::Writer));
    net.online(0, false);
    net.put(eve, "late", json!(1)).unwrap();
    net.settle();
    net.all_show(&[bob], "late", Some(json!(1)));
    // Nothing of Bob's builds on it.
    net.online(bob, false);
    net.online(eve, false);
    net.online(0, true);
    net.govern(0, Act::Remove { devices: vec![net.id(eve)] }).unwrap();
    net.online(bob, true);
    net.settle();
    net.agree(&[0, bob]);
    net.all_show(&[0, bob], "late", None);
    assert!(net.nodes[bob].reopened > 0);
    // The steward may let it count after all.
    let state = net.nodes[bob].replica.core().state();
    let head = state.admission().sound(&net.id(eve));
    let id = state.taken(&net.id(eve)).1;
    let cut = Cut { author: net.id(eve), sequence: head, id };
    net.govern(0, Act::Resolve { heads: vec![cut] }).unwrap();
    net.settle();
    net.agree(&[0, bob]);
    net.all_show(&[0, bob], "late", Some(json!(1)));
}

#[test]
fn removing_the_one_who_let_others_in_keeps_those() {
    let mut net = Net::new(4);
    let bob = net.member(Role::Writer);
    let invitation = net.invite(Role::Writer, 2).unwrap();
    let carol = net.device();
    net.join(carol, bob, &invitation).unwrap();
    net.put(carol, "carol", json!(1)).unwrap();
    net.settle();
    net.govern(0, Act::Remove { devices: vec![net.id(bob)] }).unwrap();
    net.agree(&[0, carol]);
    assert_eq!(net.role(carol), Some(Role::Writer));
    net.put(carol, "carol", json!(2)).unwrap();
    net.settle();
    net.all_show(&[0, carol], "carol", Some(json!(2)));
    // Its invitation is closed with the removal.
    let dave = net.device();
    assert!(net.join(dave, carol, &invitation).is_err());
}

#[test]
fn several_are_removed_at_once_and_a_person_comes_back_on_a_new_device() {
    let mut net = Net::new(5);
    let (bob, eve, mallory) = (net.member(Role::Writer), net.member(Role::Writer), net.member(Role::Reader));
    net.govern(0, Act::Remove { devices: vec![net.id(eve), net.id(mallory)] }).unwrap();
    net.agree(&[0, bob]);
    let again = net.govern(0, Act::Remove { devices: vec![net.id(eve)] });
    assert!(matches!(again, Err(WriteError::NotAMember { .. })));
    let invitation = net.invite(Role::Writer, 2).unwrap();
    let refused = net.join(eve, 0, &invitation);
    assert!(matches!(refused, Err(super::JoinRefusal::Removed)), "{refused:?}");
    let new_eve = net.device();
    net.join(new_eve, 0, &invitation).unwrap();
    net.put(new_eve, "back", json!(1)).unwrap();
    net.settle();
    net.agree(&[0, bob, new_eve]);
    net.all_show(&[0, bob, new_eve], "back", Some(json!(1)));
}

#[test]
fn roles_change_and_what_they_allow_with_them() {
    let mut net = Net::new(6);
    let (bob, carol) = (net.member(Role::Writer), net.member(Role::Reader));
    net.put(bob, "bob", json!(1)).unwrap();
    net.settle();
    assert!(net.put(carol, "carol", json!(0)).is_err());
    net.govern(0, Act::ChangeRole { device: net.id(carol), role: Role::Writer }).unwrap();
    net.put(carol, "carol", json!(1)).unwrap();
    net.govern(0, Act::ChangeRole { device: net.id(bob), role: Role::Reader }).unwrap();
    assert!(matches!(net.put(bob, "bob", json!(2)), Err(DocumentError::LostRight { .. })));
    net.settle();
    net.agree(&[0, bob, carol]);
    net.all_show(&[0, bob, carol], "bob", Some(json!(1)));
    net.all_show(&[0, bob, carol], "carol", Some(json!(1)));
    let back = net.govern(0, Act::ChangeRole { device: net.id(bob), role: Role::Writer });
    assert!(matches!(back, Err(WriteError::NotPossible { .. })), "{back:?}");
    // A relay is given no key of what comes after.
    net.govern(0, Act::ChangeRole { device: net.id(carol), role: Role::Relay }).unwrap();
    net.put(0, "hidden", json!(1)).unwrap();
    net.settle();
    assert_eq!(net.content_epochs(carol), [1]);
    assert_eq!(net.get(carol, "hidden"), None);
    net.all_show(&[0, bob], "hidden", Some(json!(1)));
}

#[test]
fn a_steward_hands_the_space_over() {
    let mut net = Net::new(7);
    let (bob, carol) = (net.member(Role::Writer), net.member(Role::Reader));
    assert!(matches!(net.govern(bob, Act::Rotate), Err(WriteError::NotSteward)));
    assert!(net.govern(0, Act::HandOver { device: net.id(carol) }).is_err(), "a reader does not become the steward");
    net.govern(0, Act::HandOver { device: net.id(bob) }).unwrap();
    assert_eq!((net.role(0), net.role(bob)), (Some(Role::Writer), Some(Role::Steward)));
    assert!(matches!(net.govern(0, Act::Rotate), Err(WriteError::NotSteward)));
    net.govern(bob, Act::Rotate).unwrap();
    net.put(0, "old steward", json!(1)).unwrap();
    net.settle();
    net.agree(&[0, bob, carol]);
    net.all_show(&[0, bob, carol], "old steward", Some(json!(1)));
    let dave = net.member(Role::Writer);
    net.agree(&[0, bob, carol, dave]);
}

#[test]
fn the_recovery_key_takes_over_when_the_steward_is_lost() {
    let mut net = Net::new(8);
    let (bob, carol) = (net.member(Role::Writer), net.member(Role::Writer));
    net.put(0, "before", json!(1)).unwrap();
    net.settle();
    net.online(0, false);
    let wrong = syncline_model::DeviceKey::from_seed(&[9; 32]);
    assert!(matches!(net.govern(bob, Act::TakeOver { recovery: wrong }), Err(WriteError::WrongRecoveryKey)));
    net.govern(bob, Act::TakeOver { recovery: net.recovery() }).unwrap();
    assert_eq!(net.role(bob), Some(Role::Steward));
    net.agree(&[bob, carol]);
    assert_eq!(net.content_epochs(carol), [1, 2], "a takeover begins an epoch");
    net.put(carol, "after", json!(1)).unwrap();
    let dave = net.member(Role::Writer);
    net.settle();
    net.agree(&[bob, carol, dave]);
    net.all_show(&[bob, carol, dave], "before", Some(json!(1)));
    // The lost device turns up again: it is removed, and what it wrote since does not count.
    net.put(0, "too late", json!(1)).unwrap();
    net.online(0, true);
    net.settle();
    net.all_show(&[bob, carol, dave], "too late", None);
    let state = net.nodes[0].replica.core();
    assert!(state.engine().status(state.state()).peers.iter().all(|peer| peer.refuses), "nobody serves it");
    net.agree(&[bob, carol, dave]);
}

#[test]
fn newcomers_read_history_unless_the_space_forbids_it() {
    let mut net = Net::new(9);
    net.put(0, "first", json!(1)).unwrap();
    net.govern(0, Act::Rotate).unwrap();
    net.put(0, "second", json!(2)).unwrap();
    let bob = net.member(Role::Writer);
    net.all_show(&[bob], "first", Some(json!(1)));
    net.all_show(&[bob], "second", Some(json!(2)));
    net.govern(0, Act::ShareHistory(false)).unwrap();
    let carol = net.member(Role::Writer);
    net.put(0, "third", json!(3)).unwrap();
    net.settle();
    assert_eq!(net.get(carol, "first"), None);
    assert_eq!(net.get(carol, "second"), None);
    net.all_show(&[0, bob, carol], "third", Some(json!(3)));
    assert_eq!(net.content_epochs(carol), [3]);
    net.agree(&[0, bob, carol]);
}

#[test]
fn a_member_that_was_away_through_a_rotation_catches_up() {
    let mut net = Net::new(10);
    let (bob, carol) = (net.member(Role::Writer), net.member(Role::Writer));
    net.online(bob, false);
    net.put(bob, "offline", json!(1)).unwrap();
    for _ in 0..3 {
        net.govern(0, Act::Rotate).unwrap();
    }
    net.put(carol, "new epoch", json!(1)).unwrap();
    net.settle();
    net.online(bob, true);
    net.settle();
    net.agree(&[0, bob, carol]);
    net.all_show(&[0, bob, carol], "offline", Some(json!(1)));
    net.all_show(&[0, bob, carol], "new epoch", Some(json!(1)));
    assert!(net.nodes.iter().all(|node| node.blamed.is_empty()));
}

#[test]
fn who_was_admitted_while_the_steward_rotated_gets_the_new_key_too() {
    let mut net = Net::new(11);
    let (bob, eve) = (net.member(Role::Writer), net.member(Role::Writer));
    let invitation = net.invite(Role::Writer, 1).unwrap();
    net.online(0, false);
    let carol = net.device();
    net.join(carol, bob, &invitation).unwrap();
    net.online(bob, false);
    net.online(carol, false);
    net.online(eve, false);
    net.online(0, true);
    net.govern(0, Act::Rotate).unwrap();
    net.put(0, "secret", json!(1)).unwrap();
    net.online(bob, true);
    net.online(carol, true);
    net.settle();
    net.agree(&[0, bob, carol]);
    net.all_show(&[0, bob, carol], "secret", Some(json!(1)));
}

#[test]
fn a_relay_serves_two_devices_that_never_meet() {
    let mut net = Net::new(12);
    let (bob, relay) = (net.member(Role::Writer), net.member(Role::Relay));
    net.online(bob, false);
    net.put(0, "left", json!("for bob")).unwrap();
    net.settle();
    net.online(0, false);
    net.online(bob, true);
    net.settle();
    net.all_show(&[bob], "left", Some(json!("for bob")));
    assert_eq!(net.content_epochs(relay), [0u32; 0], "a relay has no content key");
    assert_eq!(net.get(relay, "left"), None);
    assert!(net.put(relay, "by the relay", json!(0)).is_err());
    net.put(bob, "answer", json!(2)).unwrap();
    net.settle();
    net.online(bob, false);
    net.online(0, true);
    net.settle();
    net.all_show(&[0], "answer", Some(json!(2)));
}

#[test]
fn a_copied_device_is_noticed_by_both_copies_and_cut_where_it_forked() {
    let mut net = Net::new(13);
    let (bob, carol, eve) = (net.member(Role::Writer), net.member(Role::Writer), net.member(Role::Writer));
    net.put(eve, "before", json!(1)).unwrap();
    net.settle();
    let copy = net.clone_device(eve);
    // Each copy writes to one other device; those build on it, and have not met.
    for number in [0, carol, copy] {
        net.online(number, false);
    }
    net.put(eve, "one", json!("x")).unwrap();
    net.settle();
    net.put(bob, "bob built", json!("on x")).unwrap();
    net.settle();
    net.online(bob, false);
    net.online(eve, false);
    net.online(carol, true);
    net.online(copy, true);
    net.put(copy, "other", json!("y")).unwrap();
    net.settle();
    net.put(carol, "carol built", json!("on y")).unwrap();
    net.settle();
    net.put(copy, "nobody", json!("z")).unwrap();
    net.online(copy, false);
    net.online(bob, true);
    net.online(0, true);
    net.settle();
    net.agree(&[0, bob, carol]);
    for (key, value) in [("before", json!(1)), ("one", json!("x")), ("other", json!("y"))] {
        net.all_show(&[0, bob, carol], key, Some(value));
    }
    net.all_show(&[0, bob, carol], "bob built", Some(json!("on x")));
    net.all_show(&[0, bob, carol], "carol built", Some(json!("on y")));
    net.all_show(&[0, bob, carol], "nobody", None);
    for (number, key) in [0, bob, carol].into_iter().flat_map(|number| ["one", "other"].map(|key| (number, key))) {
        assert_eq!(net.latest_author(number, key), net.id(eve), "a branch is the work of its device");
    }
    // Both copies notice when they next meet anybody who saw the other.
    for one in [eve, copy] {
        net.online(one, true);
        net.settle();
        let error = net.put(one, "more", json!(0)).unwrap_err().to_string();
        assert!(error.contains("two copies of this device"), "{error}");
        net.online(one, false);
    }
    net.agree(&[0, bob, carol]);
    assert!(net.nodes.iter().all(|node| node.blamed.is_empty()), "who forwards a fork is not to blame");
}

#[test]
fn a_forked_steward_halts_membership_until_the_recovery_key_speaks() {
    let mut net = Net::new(14);
    let (bob, carol) = (net.member(Role::Writer), net.member(Role::Writer));
    let copy = net.clone_device(0);
    net.online(copy, false);
    net.online(carol, false);
    net.govern(0, Act::Remove { devices: vec![net.id(carol)] }).unwrap();
    net.online(0, false);
    net.online(bob, false);
    net.online(carol, true);
    net.online(copy, true);
    net.govern(copy, Act::Rotate).unwrap();
    net.online(copy, false);
    net.online(bob, true);
    net.settle();
    net.agree(&[bob, carol]);
    assert_eq!(net.role(carol), Some(Role::Writer), "neither of two records at one position counts");
    net.put(carol, "data", json!("goes on")).unwrap();
    net.settle();
    net.all_show(&[bob, carol], "data", Some(json!("goes on")));
    net.govern(bob, Act::TakeOver { recovery: net.recovery() }).unwrap();
    net.settle();
    net.agree(&[bob, carol]);
    assert_eq!(net.role(bob), Some(Role::Steward));
    net.govern(bob, Act::Remove { devices: vec![net.id(carol)] }).unwrap();
    assert_eq!(net.role(carol), None);
}

#[test]
fn what_was_witnessed_stays_when_its_author_is_cut_before_it_and_witnesses_do_not_answer_each_other() {
    let mut net = Net::new(15);
    let (bob, carol, eve) = (net.member(Role::Writer), net.member(Role::Writer), net.member(Role::Writer));
    for number in [0, bob, carol] {
        net.nodes[number].replica.witness_after(60_000);
    }
    net.online(0, false);
    net.put(eve, "seen", json!(1)).unwrap();
    net.settle();
    net.online(eve, false);
    let written = |net: &Net, number: usize| net.nodes[number].replica.core().state().own_head().0;
    let before = (written(&net, bob), written(&net, carol));
    for _ in 0..5 {
        net.settle();
    }
    assert_eq!((written(&net, bob), written(&net, carol)), before, "one witness each was enough");
    assert!(before.0 > 0 && before.1 > 0);
    net.online(bob, false);
    net.online(carol, false);
    net.online(0, true);
    net.govern(0, Act::Remove { devices: vec![net.id(eve)] }).unwrap();
    net.online(bob, true);
    net.online(carol, true);
    net.settle();
    net.agree(&[0, bob, carol]);
    net.all_show(&[0, bob, carol], "seen", Some(json!(1)));
}
