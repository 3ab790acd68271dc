//! What relays store, and what is told of peers that keep something back.

use rand::Rng;
use serde_json::{Value, json};
use syncline_model::Role;
use syncline_sync::Replica;

use super::{JoinRefusal, Net};
use crate::space::Act;
use crate::space::quota::RelayQuota;
use crate::space::withheld::WITHHELD_MS;

/// What relays store in these tests.
pub(super) const QUOTA: RelayQuota = RelayQuota { space_bytes: 256 << 10, author_bytes: 64 << 10 };

impl Net {
    /// A text that cannot be made shorter.
    pub(super) fn noise(&mut self, bytes: usize) -> Value {
        let mut noise = vec![0; bytes / 2];
        self.random.fill_bytes(&mut noise);
        json!(data_encoding::HEXLOWER.encode(&noise))
    }

    /// Up to where a device holds another one's log.
    fn held(&self, number: usize, of: usize) -> u64 {
        self.nodes[number].replica.core().state().vector().sequence(&self.id(of))
    }

    fn problems(&self, number: usize) -> Vec<String> {
        self.nodes[number].replica.problems(self.clock())
    }

    fn stored_bytes(&self, number: usize, of: usize) -> u64 {
        let log = self.nodes[number].replica.log();
        log.reader().stored_bytes(&self.id(of)).unwrap()
    }

    /// Writes so many documents of some kilobytes each, and lets each spread.
    fn write_much(&mut self, number: usize, documents: usize) {
        for document in 0..documents {
            let noise = self.noise(10_000);
            self.put(number, &format!("much/{number}/{document}"), noise).unwrap();
            self.drain();
        }
        self.settle();
    }

    fn nobody_is_blamed(&self) {
        assert!(self.nodes.iter().all(|node| node.blamed.is_empty()));
    }
}

#[test]
fn a_relay_takes_no_more_of_an_author_than_its_quota_and_others_go_on() {
    let mut net = Net::new(1);
    let (relay, loud, quiet) = (net.member(Role::Relay), net.member(Role::Writer), net.member(Role::Writer));
    net.write_much(loud, 20);
    assert!(net.stored_bytes(relay, loud) <= QUOTA.author_bytes);
    let held = net.held(relay, loud);
    assert!(held > 3 && held < net.held(quiet, loud), "the relay holds {held} operations");
    net.put(quiet, "news", json!("small")).unwrap();
    net.put(loud, "more", json!("small too")).unwrap();
    net.settle();
    assert_eq!(net.held(relay, quiet), net.held(0, quiet), "others go on");
    assert_eq!(net.held(relay, loud), held, "nothing follows what was refused");
    assert!(net.problems(relay)[0].contains(&net.id(loud).short()), "{:?}", net.problems(relay));
    assert!(net.problems(quiet).is_empty(), "who is no relay has no quota: {:?}", net.problems(quiet));
    net.nobody_is_blamed();

    // What it has it serves, and as it stands after a restart, too.
    let keys = net.nodes[relay].replica.core().state().keys().clone();
    net.reopen(relay, keys);
    net.settle();
    assert_eq!(net.held(relay, loud), held, "a restart gives no new quota");
    assert!(net.stored_bytes(relay, loud) <= QUOTA.author_bytes);
    net.nobody_is_blamed();
}

#[test]
fn a_full_relay_serves_what_it_has() {
    let mut net = Net::new(2);
    let (relay, loud, reader) = (net.member(Role::Relay), net.member(Role::Writer), net.member(Role::Reader));
    net.online(reader, false);
    net.settle();
    net.put(loud, "first", json!(1)).unwrap();
    net.write_much(loud, 12);
    for number in [0, loud] {
        net.online(number, false);
    }
    net.online(reader, true);
    net.settle();
    assert_eq!(net.get(reader, "first"), Some(json!(1)));
    assert!(net.held(reader, loud) == net.held(relay, loud) && net.held(relay, loud) > 3);
    assert_eq!(net.get(reader, "much/2/11"), None, "that is beyond the quota");
    net.online(loud, true);
    net.settle();
    assert!(net.get(reader, "much/2/11").is_some(), "it comes from its author");
    net.nobody_is_blamed();
}

#[test]
fn the_quota_of_an_author_bends_for_what_membership_builds_on() {
    let mut net = Net::new(3);
    let (relay, loud) = (net.member(Role::Relay), net.member(Role::Writer));
    net.write_much(loud, 15);
    let held = net.held(relay, loud);
    assert!(held < net.held(0, loud));
    // The steward has seen all that was written, so its next operation builds on it.
    let late = net.member(Role::Writer);
    let known = net.nodes[relay].replica.core().state().membership().role(&net.id(late));
    assert_eq!(known, Some(Role::Writer), "one author cannot end what a relay learns of members");
    net.put(late, "news", json!(1)).unwrap();
    net.write_much(loud, 1);
    assert_eq!(net.held(relay, late), net.held(0, late));
    assert!(net.held(relay, loud) > held && net.held(relay, loud) < net.held(0, loud), "it bends for nothing else");
    net.nobody_is_blamed();
}

#[test]
fn the_quota_of_a_space_bends_for_nothing() {
    let mut net = Net::new(5);
    let relay = net.member(Role::Relay);
    let writers: Vec<usize> = (0..6).map(|_| net.member(Role::Writer)).collect();
    for writer in &writers {
        net.write_much(*writer, 9);
    }
    net.member(Role::Reader);
    let total: u64 = (0..net.nodes.len()).map(|of| net.stored_bytes(relay, of)).sum();
    assert!(total <= QUOTA.space_bytes && total > QUOTA.space_bytes / 2, "{total}");
    assert!(net.problems(relay).iter().any(|problem| problem.contains("`relay_quota_mib`")));
    net.nobody_is_blamed();
}

#[test]
fn membership_news_that_is_announced_and_not_given_is_told() {
    let mut net = Net::new(4);
    let (keeper, victim) = (net.member(Role::Writer), net.member(Role::Writer));
    net.online(victim, false);
    net.settle();
    net.member(Role::Reader);
    // From now on the one that holds the news is the only one there, and answers pulls with empty pages.
    for number in [0, 3] {
        net.online(number, false);
    }
    net.pages.insert(net.id(keeper), Vec::new());
    net.online(victim, true);
    net.settle();
    let told = net.problems(victim);
    let expected = format!("withheld by {}", net.id(keeper).short());
    assert!(told[0].starts_with("members may have changed") && told[0].ends_with(&expected), "{told:?}");
    net.nobody_is_blamed();
    net.pages.clear();
    net.settle();
    assert!(net.problems(victim).is_empty(), "{:?}", net.problems(victim));
    net.agree(&[keeper, victim]);
    const { assert!(super::REST_MS * 4 > WITHHELD_MS, "the net rests long enough for it to be told") }
}

#[test]
fn a_relay_hands_members_what_it_takes_to_fetch_and_strangers_nothing() {
    let mut net = Net::new(31);
    let (steward, relay, added, stranger) = (0, net.member(Role::Relay), net.device(), net.device());
    let invitation = net.invite(Role::Writer, 2).unwrap();
    let (device, exchange) = (net.id(added), net.nodes[added].key.exchange_public());
    net.govern(steward, Act::Add { device, exchange, role: Role::Writer }).unwrap();
    net.put(steward, "before", json!(1)).unwrap();
    net.settle();
    net.online(steward, false);

    assert_eq!(net.join(stranger, relay, &invitation), Err(JoinRefusal::NotASponsor));
    net.join(added, relay, &invitation).unwrap();
    net.settle();
    net.all_show(&[added], "before", Some(json!(1)));
    net.put(added, "after", json!(2)).unwrap();
    net.settle();
    net.online(added, false);
    net.online(steward, true);
    net.settle();
    net.all_show(&[steward], "after", Some(json!(2)));
    assert!(net.nodes[relay].replica.core().state().keys().content.is_empty());
}
