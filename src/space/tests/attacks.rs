//! Attacks on what membership and sealing promise, each through the paths by which operations really come: gossip,
//! pages that were asked for, and backups that are restored.
//!
//! An attacker here holds keys of a device, and what it makes of them is handed to a replica as the network would.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use syncline_model::canonical;
use syncline_model::keys::{SEAL_OVERHEAD_BYTES, WrappedSecret, seal};
use syncline_model::limits::{DEPENDENCIES_MAX, PLAINTEXT_BYTES_MAX};
use syncline_model::membership::{Admit, Certificate, Cut, KeyDelivery, Record, Statement};
use syncline_model::run::RunBuilder;
use syncline_model::{
    Action, ContentKey, Dependency, DeviceId, DeviceKey, Entry, Header, Kind, Lineage, OperationId, Role, Run, SpaceId,
    Transaction,
};
use syncline_storage::{BackupWriter, Filed, Incarnation, restore};
use syncline_sync::limits::STRANGERS_BYTES_MAX;
use syncline_sync::{Event as SyncEvent, FrameId, Part, Request, RequestId, RunBytes, SummaryEntry};

use super::super::core::Event;
use super::super::replica::Input;
use super::super::{Act, WriteError};
use super::{JoinRefusal, Net, empty_store, gossip_data};
use crate::documents::DocumentError;
use crate::documents::limits::MAX_OPERATION_COUNTER;
use crate::documents::tests::change_numbered_from;

/// What gossip carries under its seal.
#[derive(Serialize)]
enum Sealed {
    Run(RunBytes),
}

/// By which way an operation comes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Gossip,
    Page,
    /// In a backup of the victim's log that somebody changed: whoever makes one can put the right hashes into it.
    Restore,
}

/// Runs of orphans that come in pages and backups, where nothing of them is kept in memory from one to the next.
const RUNS_BY_OTHER_WAYS: usize = 25;
/// Of the attackers' changes.
const LINEAGE: Lineage = Lineage([1; 16]);
const WAYS: [Way; 3] = [Way::Gossip, Way::Page, Way::Restore];

impl Net {
    /// Hands a run to a replica as coming from a peer.
    fn inject(&mut self, victim: usize, from: usize, way: Way, run: &[u8]) {
        let (peer, space) = (self.id(from), self.genesis.space());
        match way {
            Way::Gossip => {
                let secret = self.nodes[victim].replica.core().state().keys().replication_secret().unwrap().clone();
                let frame = canonical::encode(&Sealed::Run(RunBytes(run.to_vec().into())));
                let bytes = seal(&secret.gossip_key(), &gossip_data(space), &frame, &mut self.random);
                let id = FrameId(self.token());
                self.give(victim, Input::Core(Event::Sync(SyncEvent::Gossip { bytes, from: peer, id })));
            }
            Way::Page => {
                // The peer says that it has it, is asked for it, and answers.
                let (author, sequence, id) = match Run::decode(space, run.to_vec()) {
                    Ok(run) => (run.author(), run.last(), run.last_id().prefix()),
                    Err(_) => (peer, 1, OperationId([7; 32]).prefix()),
                };
                self.pages.insert(peer, vec![RunBytes(run.to_vec().into())]);
                self.give(victim, Input::Core(Event::Sync(SyncEvent::PeerShares { peer })));
                let part = Part::Entries(vec![SummaryEntry { author, sequence, id }]);
                let request = Request::Summary { digest: [9; 16], part };
                let id = RequestId(self.token());
                self.give(victim, Input::Core(Event::Sync(SyncEvent::Requested { peer, id, request })));
                self.drain();
                self.pages.remove(&peer);
                self.give(victim, Input::Core(Event::Sync(SyncEvent::PeerGone { peer })));
            }
            Way::Restore => self.restore_with(victim, &[run.to_vec()]),
        }
        self.drain();
    }

    /// Backs up a device's log, puts records' bodies at its end, and restores that in the place of the log. A backup
    /// that is refused leaves everything as it is, and is blamed.
    fn restore_with(&mut self, victim: usize, bodies: &[Vec<u8>]) {
        let mut writer = BackupWriter::new(Vec::new()).unwrap();
        writer.space(&self.nodes[victim].replica.log().reader(), &[], &mut |_| {}).unwrap();
        let backup = with_bodies(self.genesis.space(), &writer.finish().unwrap().1, bodies);
        let store = Arc::new(empty_store());
        let incarnation = &mut || Incarnation([99; 16]);
        match restore(&backup[..], &store, incarnation, &mut |_| Ok(None), &mut |_| {}) {
            Ok(_) => {
                let keys = self.nodes[victim].replica.core().state().keys().clone();
                // Nobody may remember the log that was there before.
                let former = std::mem::replace(&mut self.nodes[victim].store, store);
                self.reopen(victim, keys);
                drop(former);
                self.settle_one(victim);
            }
            Err(error) => self.nodes[victim].blamed.push(format!("a backup: {error}")),
        }
    }

    /// How many operations of a device a replica holds, and how many of them count.
    fn held_and_counting(&self, victim: usize, author: &DeviceId) -> (u64, u64) {
        let admission = self.nodes[victim].replica.core().state().admission();
        (admission.held(author), admission.admitted().sequence(author))
    }

    /// What a device would write next, were it free to.
    fn next_header(&self, author: usize, kind: Kind, length: usize) -> Header {
        let state = self.nodes[author].replica.core().state();
        let (sequence, previous) = state.own_head();
        Header {
            kind,
            space: self.genesis.space(),
            author: self.id(author),
            sequence: sequence + 1,
            previous,
            membership: state.admission().known_records(&self.id(author)),
            epoch: if kind == Kind::DATA { state.membership().epoch() } else { 0 },
            dependencies: state.admission().dependencies(self.id(author)).0,
            payload_length: length as u32,
        }
    }

    /// A transaction that deletes a document, sealed under a key.
    fn sealed_put(&mut self, author: usize, header: impl FnOnce(&mut Header), key: Option<ContentKey>) -> Vec<u8> {
        self.sealed(author, Action::Delete, header, key)
    }

    /// A transaction that does something to a document, sealed under a key.
    fn sealed(
        &mut self,
        author: usize,
        action: Action,
        header: impl FnOnce(&mut Header),
        key: Option<ContentKey>,
    ) -> Vec<u8> {
        let entries = vec![Entry { key: "attack".parse().unwrap(), action }];
        let transaction = Transaction { wall_time_ms: u64::MAX, lineage: LINEAGE, entries };
        let plaintext = transaction.to_plaintext(1);
        let mut written = self.next_header(author, Kind::DATA, plaintext.len() + SEAL_OVERHEAD_BYTES);
        header(&mut written);
        let keys = self.nodes[author].replica.core().state().keys();
        let key = key.or_else(|| keys.content.get(&written.epoch).cloned()).unwrap_or(ContentKey([3; 32]));
        let random = &mut self.random;
        signed(&self.nodes[author].key, &written, |header| seal(&key, header, &plaintext, random))
    }

    /// An operation with this under its seal.
    fn sealed_bytes(&mut self, author: usize, plaintext: &[u8]) -> Vec<u8> {
        let header = self.next_header(author, Kind::DATA, plaintext.len() + SEAL_OVERHEAD_BYTES);
        let key = self.nodes[author].replica.core().state().keys().content[&header.epoch].clone();
        let random = &mut self.random;
        signed(&self.nodes[author].key, &header, |header| seal(&key, header, plaintext, random))
    }

    fn control(&mut self, author: usize, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let header = self.next_header(author, kind, payload.len());
        signed(&self.nodes[author].key, &header, |_| payload.to_vec())
    }
}

/// A backup of one space with more runs at its end, their bodies as they are, and with counts and hashes that fit.
fn with_bodies(space: SpaceId, backup: &[u8], bodies: &[Vec<u8>]) -> Vec<u8> {
    const FRONT: usize = 20;
    let (mut changed, mut rest) = (backup[..FRONT].to_vec(), &backup[FRONT..]);
    let operations = |body: &Vec<u8>| Run::decode(space, body.clone()).map_or(1, |run| run.operations().len() as u64);
    let added = [bodies.len() as u64, bodies.iter().map(operations).sum()];
    let mut frame = |kind: u8, body: &[u8]| {
        changed.push(kind);
        changed.extend_from_slice(&(body.len() as u32).to_le_bytes());
        changed.extend_from_slice(body);
    };
    while let Some((head, tail)) = rest.split_first_chunk::<5>() {
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (body, tail) = tail.split_at(length);
        // The last two numbers of a space's end, and of the backup's, are its runs and operations.
        let counted = |before: &[u8]| {
            let (front, counts) = before.split_at(before.len() - 16);
            let counts = counts.chunks(8).zip(added);
            let sums = counts.map(|(count, more)| u64::from_le_bytes(count.try_into().unwrap()) + more);
            [front, &sums.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()].concat()
        };
        match head[0] {
            4 => {
                for body in bodies {
                    frame(3, &[&(body.len() as u32).to_le_bytes(), &body[..]].concat());
                }
                frame(4, &counted(body));
            }
            6 => frame(6, &counted(body)),
            5 => {}
            kind => frame(kind, body),
        }
        rest = tail;
    }
    let hash = blake3::hash(&changed);
    changed.extend_from_slice(&[5, 32, 0, 0, 0]);
    changed.extend_from_slice(hash.as_bytes());
    changed
}

fn signed(key: &DeviceKey, header: &Header, payload: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut builder = RunBuilder::new(header.space, header.author, header.sequence, header.previous);
    builder.push(header, payload).unwrap();
    builder.finish(key).unwrap().bytes().to_vec()
}

/// A net of a steward, a writer that is attacked, and a member that attacks.
fn besieged(seed: u64, role: Role) -> (Net, usize, usize) {
    let mut net = Net::new(seed);
    let (victim, attacker) = (net.member(Role::Writer), net.member(role));
    net.put(0, "before", json!(1)).unwrap();
    if role == Role::Writer {
        net.put(attacker, "attacker", json!(1)).unwrap();
    }
    net.settle();
    net.online(attacker, false);
    net.settle();
    (net, victim, attacker)
}

#[test]
fn a_forged_signature_is_refused_and_its_sender_blamed() {
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(1, Role::Writer);
        let before = net.held_and_counting(victim, &net.id(attacker));
        let mut run = net.sealed_put(attacker, |_| {}, None);
        *run.last_mut().unwrap() ^= 1;
        net.inject(victim, attacker, way, &run);
        assert_eq!(net.held_and_counting(victim, &net.id(attacker)), before);
        assert!(!net.nodes[victim].blamed.is_empty(), "{way:?}");
    }
}

#[test]
fn signatures_in_other_encodings_are_refused() {
    // The order of the group, which a strict check wants s to be smaller than (RFC 8032, 5.1.7).
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(2, Role::Writer);
        let before = net.held_and_counting(victim, &net.id(attacker));
        let run = net.sealed_put(attacker, |_| {}, None);
        let at = run.len() - 32;
        let mut malleable = run.clone();
        let mut carry = 0;
        for (byte, order) in malleable[at..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        net.inject(victim, attacker, way, &malleable);
        assert_eq!(net.held_and_counting(victim, &net.id(attacker)), before, "s + order, {way:?}");
        // The identity as key and as R makes every text signed under lenient rules.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut weak = run;
        weak[1..33].copy_from_slice(&identity);
        let signature = weak.len() - 64;
        weak[signature..signature + 32].copy_from_slice(&identity);
        weak[signature + 32..].fill(0);
        net.inject(victim, attacker, way, &weak);
        assert_eq!(net.held_and_counting(victim, &DeviceId(identity)), (0, 0));
        net.inject(victim, attacker, way, &net.sealed_put_of(attacker));
        assert!(net.held_and_counting(victim, &net.id(attacker)).0 > before.0, "the true one is taken, {way:?}");
    }
}

impl Net {
    fn sealed_put_of(&self, author: usize) -> Vec<u8> {
        let header = self.next_header(author, Kind::KEY_DELIVERY, 0);
        signed(&self.nodes[author].key, &header, |_| Vec::new())
    }
}

#[test]
fn an_operation_of_another_space_is_refused() {
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(3, Role::Writer);
        let before = net.held_and_counting(victim, &net.id(attacker));
        // Signed rightly, for another space: its id is another one here.
        let run = net.sealed_put(attacker, |header| header.space = SpaceId([8; 32]), None);
        net.inject(victim, attacker, way, &run);
        assert_eq!(net.held_and_counting(victim, &net.id(attacker)), before, "{way:?}");
    }
}

#[test]
fn each_flipped_field_of_a_header_is_refused() {
    let (mut net, victim, attacker) = besieged(4, Role::Writer);
    let before = net.held_and_counting(victim, &net.id(attacker));
    let run = net.sealed_put(attacker, |header| header.dependencies.clear(), None);
    // Version, author, sequence, previous, count, kind, membership, epoch, dependencies, length, payload, signature.
    for at in 0..run.len() {
        for way in WAYS {
            let mut changed = run.clone();
            changed[at] ^= 1;
            net.inject(victim, attacker, way, &changed);
            assert_eq!(net.held_and_counting(victim, &net.id(attacker)), before, "byte {at}, {way:?}");
        }
    }
}

#[test]
fn operations_of_strangers_readers_and_relays_do_not_count() {
    for (role, way) in [Role::Reader, Role::Relay].into_iter().flat_map(|role| WAYS.map(|way| (role, way))) {
        let (mut net, victim, attacker) = besieged(5, role);
        let run = net.sealed_put(attacker, |_| {}, None);
        net.inject(victim, attacker, way, &run);
        assert_eq!(net.held_and_counting(victim, &net.id(attacker)).1, 0, "{role:?}, {way:?}");
        net.all_show(&[0, victim], "before", Some(json!(1)));
    }
    for way in WAYS {
        let (mut net, victim, _) = besieged(6, Role::Writer);
        let stranger = net.device();
        let run = net.sealed_put(stranger, |header| header.epoch = 1, None);
        net.inject(victim, stranger, way, &run);
        let (held, counting) = net.held_and_counting(victim, &net.id(stranger));
        // What is in a backup was taken in by somebody; from peers nothing of a stranger is.
        assert_eq!((held > 0, counting), (matches!(way, Way::Restore), 0), "{way:?}");
    }
}

#[test]
fn what_a_removed_device_writes_later_or_dates_back_does_not_count() {
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(7, Role::Writer);
        let id = net.id(attacker);
        let (_, counting) = net.held_and_counting(victim, &id);
        net.govern(0, Act::Remove { devices: vec![id] }).unwrap();
        // It knows of nothing, or pretends to: what it claims to know is from before.
        let late = net.sealed_put(attacker, |_| {}, None);
        net.inject(victim, attacker, way, &late);
        let dated_back = net.sealed_put(attacker, |header| header.membership = 2, None);
        net.inject(victim, attacker, way, &dated_back);
        assert_eq!(net.held_and_counting(victim, &id).1, counting, "{way:?}");
        // A second operation in the place of one that counted is a fork, and cuts the log there for good.
        let again = net.sealed_put(
            attacker,
            |header| (header.sequence, header.previous, header.dependencies) = (1, OperationId::ZERO, Vec::new()),
            None,
        );
        net.inject(victim, attacker, way, &again);
        net.settle();
        net.all_show(&[0, victim], "before", Some(json!(1)));
    }
}

#[test]
fn a_removed_device_lets_nobody_in() {
    let (mut net, victim, attacker) = besieged(8, Role::Writer);
    net.online(attacker, true);
    let invitation = net.invite(Role::Writer, 9).unwrap();
    net.online(attacker, false);
    let id = net.id(attacker);
    net.govern(0, Act::Remove { devices: vec![id] }).unwrap();
    let puppet = net.device();
    let certificate = Certificate::new(&net.genesis.space(), &net.nodes[puppet].key.clone(), &invitation);
    let admit = net.control(attacker, Kind::ADMIT, &Admit { certificate, wall_time_ms: 0 }.encode());
    let admission = Run::decode(net.genesis.space(), admit.clone()).unwrap();
    for way in WAYS {
        net.inject(victim, attacker, way, &admit);
        let run = net.sealed_put(
            puppet,
            |header| {
                header.epoch = 1;
                header.membership = 3;
                header.dependencies =
                    vec![Dependency { author: id, sequence: admission.last(), id: admission.last_id() }];
            },
            None,
        );
        net.inject(victim, puppet, way, &run);
        let state = net.nodes[victim].replica.core().state();
        assert_eq!(state.membership().role(&net.id(puppet)), None, "{way:?}");
        assert_eq!(net.held_and_counting(victim, &net.id(puppet)).1, 0, "{way:?}");
    }
}

#[test]
fn what_is_sealed_under_an_old_key_after_a_rotation_has_no_effect() {
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(9, Role::Writer);
        net.online(attacker, true);
        net.govern(0, Act::Rotate).unwrap();
        net.online(attacker, false);
        net.put(0, "attack", json!("still here")).unwrap();
        net.settle();
        let run = net.sealed_put(attacker, |header| header.epoch = 1, None);
        net.inject(victim, attacker, way, &run);
        net.all_show(&[victim], "attack", Some(json!("still here")));
        // The rest of its log is not lost by that.
        net.online(attacker, true);
        net.settle();
        net.agree(&[0, victim]);
    }
}

impl Net {
    /// Keys of an epoch that an attacker made up, for a device.
    fn bogus_delivery(&mut self, recipient: usize, epoch: u32) -> KeyDelivery {
        let (space, to) = (self.genesis.space(), self.id(recipient));
        let exchange = self.nodes[recipient].key.exchange_public();
        let random = &mut self.random;
        let mut wrap = |purpose: &str| {
            let info = KeyDelivery::info(&space, epoch, &to, purpose);
            WrappedSecret::wrap(&exchange, &info, &[66; 32], &mut *random).unwrap()
        };
        let (content, replication) = (Some(wrap("content")), wrap("replication"));
        KeyDelivery { recipient: to, epoch, content, replication }
    }
}

#[test]
fn keys_that_nobody_asked_for_are_not_used() {
    // Of the present epoch, of the next one, and of one that is later than any.
    for (way, epoch) in WAYS.into_iter().flat_map(|way| [1, 2, 77, u32::MAX].map(|epoch| (way, epoch))) {
        let (mut net, victim, attacker) = besieged(10, Role::Writer);
        let before = net.nodes[victim].replica.core().state().keys().clone();
        let held = net.held_and_counting(victim, &net.id(attacker));
        let delivery = net.bogus_delivery(victim, epoch);
        let run = net.control(attacker, Kind::KEY_DELIVERY, &delivery.encode());
        net.inject(victim, attacker, way, &run);
        assert_eq!(net.held_and_counting(victim, &net.id(attacker)), (held.0 + 1, held.1 + 1), "it is an operation");
        let keys = net.nodes[victim].replica.core().state().keys();
        assert_eq!(keys.content, before.content, "epoch {epoch}, {way:?}");
        assert_eq!(keys.replication, before.replication, "epoch {epoch}, {way:?}");
        assert_eq!(net.nodes[victim].replica.core().state().gossip_epoch(), 1, "epoch {epoch}, {way:?}");
        net.put(victim, "goes on", json!(1)).unwrap();
        net.settle();
        net.all_show(&[0, victim], "goes on", Some(json!(1)));
        // The true keys of the next epoch are taken all the same.
        net.govern(0, Act::Rotate).unwrap();
        net.put(0, "later", json!(1)).unwrap();
        net.settle();
        net.all_show(&[0, victim], "later", Some(json!(1)));
    }
}

#[test]
fn keys_that_somebody_else_sent_do_not_pay_what_the_steward_owes() {
    for way in WAYS {
        let mut net = Net::new(21);
        let (steward, attacker, newcomer) = (0, net.member(Role::Writer), net.device());
        net.online(attacker, false);
        net.settle();
        let delivery = net.bogus_delivery(newcomer, 1);
        let run = net.control(attacker, Kind::KEY_DELIVERY, &delivery.encode());
        net.inject(steward, attacker, way, &run);
        let written = net.held_and_counting(steward, &net.id(steward)).1;
        let (device, exchange) = (net.id(newcomer), net.nodes[newcomer].key.exchange_public());
        net.govern(steward, Act::Add { device, exchange, role: Role::Writer }).unwrap();
        let after = net.held_and_counting(steward, &net.id(steward)).1;
        assert_eq!(after, written + 2, "a record and the newcomer's keys, {way:?}");
    }
}

#[test]
fn records_of_others_than_the_steward_change_nothing() {
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(11, Role::Writer);
        let membership = net.nodes[victim].replica.core().state().membership();
        let removal = Statement::Removal { cuts: vec![Cut { author: net.id(0), sequence: 1, id: OperationId::ZERO }] };
        let device = net.id(attacker);
        let promotion = Statement::Handover { steward: device, exchange: net.nodes[attacker].key.exchange_public() };
        let records: Vec<Record> = [removal, promotion].map(|statement| membership.next_record(statement, 0)).into();
        let members = membership.members().clone();
        for record in records {
            let run = net.control(attacker, Kind::MEMBERSHIP, &record.encode());
            net.inject(victim, attacker, way, &run);
            assert_eq!(*net.nodes[victim].replica.core().state().membership().members(), members, "{way:?}");
        }
    }
}

#[test]
fn a_million_orphans_take_bounded_memory_and_harm_nobody() {
    let (mut net, victim, _) = besieged(12, Role::Writer);
    let stranger = net.device();
    let runs: Vec<Vec<u8>> = (0..245).map(|number| net.orphans(stranger, number)).collect();
    for run in &runs {
        net.inject(victim, stranger, Way::Gossip, run);
    }
    net.bears_orphans_of(victim, stranger);
    for run in &runs[..RUNS_BY_OTHER_WAYS] {
        net.inject(victim, stranger, Way::Page, run);
    }
    net.bears_orphans_of(victim, stranger);
    net.restore_with(victim, &runs[..RUNS_BY_OTHER_WAYS]);
    net.bears_orphans_of(victim, stranger);
}

impl Net {
    /// A run of 4,096 operations that has not what it follows.
    fn orphans(&self, author: usize, number: u8) -> Vec<u8> {
        let (key, first) = (&self.nodes[author].key, 2 + u64::from(number) * 5000);
        let mut builder = RunBuilder::new(self.genesis.space(), key.id(), first, OperationId([number + 1; 32]));
        for _ in 0..4096 {
            let (head, previous) = builder.head();
            let mut header = self.next_header(author, Kind::DATA, 0);
            (header.sequence, header.previous, header.epoch) = (head + 1, previous, 1);
            builder.push(&header, |_| Vec::new()).unwrap();
        }
        builder.finish(key).unwrap().bytes().to_vec()
    }

    fn bears_orphans_of(&mut self, victim: usize, stranger: usize) {
        let core = self.nodes[victim].replica.core();
        assert!(core.engine().load().pending_bytes <= STRANGERS_BYTES_MAX, "{:?}", core.engine().load());
        assert_eq!(core.state().admission().waiting_operations(), 0);
        assert_eq!(self.held_and_counting(victim, &self.id(stranger)), (0, 0));
        self.put(victim, "goes on", json!(1)).unwrap();
        self.settle();
        self.all_show(&[0, victim], "goes on", Some(json!(1)));
    }
}

#[test]
fn a_payload_that_would_inflate_beyond_the_limit_is_left_out() {
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(13, Role::Writer);
        // 64 MiB of zeros in a few kilobytes, rightly signed and sealed.
        let zeros = Action::Change(vec![0; 4 * PLAINTEXT_BYTES_MAX]);
        let entries = vec![Entry { key: "attack".parse().unwrap(), action: zeros }];
        let plaintext = Transaction { wall_time_ms: 0, lineage: LINEAGE, entries }.to_plaintext(1);
        assert!(plaintext.len() < 16 << 10);
        let run = net.sealed_bytes(attacker, &plaintext);
        let unreadable = net.nodes[victim].replica.core().unreadable();
        net.inject(victim, attacker, way, &run);
        assert_eq!(net.nodes[victim].replica.core().unreadable(), unreadable + 1, "{way:?}");
        net.all_show(&[victim], "before", Some(json!(1)));
    }
}

#[test]
fn more_dependencies_than_an_operation_may_have_are_refused_unread() {
    let (mut net, victim, attacker) = besieged(14, Role::Writer);
    let before = net.held_and_counting(victim, &net.id(attacker));
    let header = net.next_header(attacker, Kind::DATA, 0);
    // By hand, since no honest device writes them: a count of a million, and as many as fit behind it.
    for count in [DEPENDENCIES_MAX as u64 + 1, 1_000_000] {
        let mut run = vec![1];
        run.extend_from_slice(&header.author.0);
        run.extend(postcard::to_allocvec(&header.sequence).unwrap());
        run.extend_from_slice(&header.previous.0);
        run.extend(postcard::to_allocvec(&1u64).unwrap());
        run.push(Kind::DATA.0);
        run.extend(postcard::to_allocvec(&(header.membership, 1u32, count)).unwrap());
        run.resize(run.len() + 65 * (DEPENDENCIES_MAX + 1), 5);
        for way in WAYS {
            net.inject(victim, attacker, way, &run);
            assert_eq!(net.held_and_counting(victim, &net.id(attacker)), before, "{count}, {way:?}");
        }
    }
}

#[test]
fn a_time_in_the_far_future_decides_nothing() {
    for way in WAYS {
        let (mut net, victim, attacker) = besieged(15, Role::Writer);
        net.put(victim, "attack", json!("to be deleted")).unwrap();
        net.settle();
        // Its transaction says u64::MAX milliseconds; what counts is what it builds on, which is not this document.
        let run = net.sealed_put(attacker, |_| {}, None);
        net.inject(victim, attacker, way, &run);
        net.all_show(&[victim], "attack", Some(json!("to be deleted")));
        net.put(victim, "attack", json!("later")).unwrap();
        net.settle();
        net.all_show(&[0, victim], "attack", Some(json!("later")));
    }
}

#[test]
fn tricks_in_the_keys_of_an_operation_leave_it_out() {
    for (way, key) in
        WAYS.into_iter().flat_map(|way| ["../../canary", "/canary", "a//b", "a\0b", ""].map(|key| (way, key)))
    {
        let (mut net, victim, attacker) = besieged(22, Role::Writer);
        // A deletion of a document by a name that is none, as no honest device can write it.
        let entries = vec![(key.to_owned(), 2u8)];
        let body = postcard::to_allocvec(&(0u64, LINEAGE, entries)).unwrap();
        let mut plaintext = postcard::to_allocvec(&(body.len() as u64 + 1)).unwrap();
        plaintext.push(0);
        plaintext.extend(body);
        let run = net.sealed_bytes(attacker, &plaintext);
        net.inject(victim, attacker, way, &run);
        assert_eq!(net.nodes[victim].replica.core().unreadable(), 1, "{key:?}, {way:?}");
        net.all_show(&[victim], "before", Some(json!(1)));
    }
}

#[test]
fn numbers_of_operations_near_the_end_of_their_range_take_no_document_down() {
    let starts = [MAX_OPERATION_COUNTER, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 32, i64::MAX as u64];
    for (way, start) in WAYS.into_iter().flat_map(|way| starts.map(|start| (way, start))) {
        let (mut net, victim, attacker) = besieged(20, Role::Writer);
        net.put(victim, "attack", json!("held")).unwrap();
        net.settle();
        let change = change_numbered_from(LINEAGE.actor(&net.genesis.space(), &net.id(attacker)), start);
        let before = net.held_and_counting(victim, &net.id(attacker));
        let run = net.sealed(attacker, Action::Change(change), |_| {}, None);
        net.inject(victim, attacker, way, &run);
        // It is an operation like any other, and what it says of the document is left out.
        assert_eq!(net.held_and_counting(victim, &net.id(attacker)), (before.0 + 1, before.1 + 1), "{start}, {way:?}");
        net.all_show(&[victim], "attack", Some(json!("held")));
        net.put(victim, "attack", json!("goes on")).unwrap();
        let keys = net.nodes[victim].replica.core().state().keys().clone();
        net.reopen(victim, keys);
        net.settle();
        net.all_show(&[0, victim], "attack", Some(json!("goes on")));
    }
}

#[test]
fn tickets_are_not_used_twice_nor_too_late_nor_by_others() {
    let mut net = Net::new(16);
    let bob = net.member(Role::Writer);
    let once = net.invite(Role::Writer, 1).unwrap();
    let (first, second) = (net.device(), net.device());
    net.join(first, bob, &once).unwrap();
    assert!(matches!(net.join(second, bob, &once), Err(JoinRefusal::UsedUp)));
    net.join(first, 0, &once).unwrap();
    let late = net.invite(Role::Writer, 1).unwrap();
    net.now_ms += 2_000_000_000;
    assert!(matches!(net.join(second, 0, &late), Err(JoinRefusal::Expired)));
    let unknown = DeviceKey::from_seed(&[42; 32]);
    assert!(matches!(net.join(second, 0, &unknown), Err(JoinRefusal::Unknown)));
    let good = net.invite(Role::Reader, 5).unwrap();
    // A certificate for one device does not let another in.
    let mut stolen = Certificate::new(&net.genesis.space(), &net.nodes[first].key.clone(), &good);
    stolen.device = net.id(second);
    assert!(matches!(net.join_with(second, 0, stolen), Err(JoinRefusal::BadCertificate)));
    let forged = Certificate::new(&SpaceId([1; 32]), &net.nodes[second].key.clone(), &good);
    assert!(matches!(net.join_with(second, 0, forged), Err(JoinRefusal::BadCertificate)));
    net.govern(0, Act::Revoke { invitation: good.id() }).unwrap();
    assert!(matches!(net.join(second, 0, &good), Err(JoinRefusal::Closed)));
    assert_eq!(net.role(second), None);
}

#[test]
fn the_recovery_key_of_another_space_takes_nothing_over() {
    let (mut net, victim, attacker) = besieged(17, Role::Writer);
    let other = DeviceKey::from_seed(&[5; 32]);
    assert!(matches!(
        net.govern(attacker, Act::TakeOver { recovery: other.clone() }),
        Err(WriteError::WrongRecoveryKey)
    ));
    // Written by hand it is stored like any operation, and has no effect.
    let membership = net.nodes[attacker].replica.core().state().membership();
    let place = (membership.records() + 1, membership.last_record());
    let device = (net.id(attacker), net.nodes[attacker].key.exchange_public());
    let cut = Cut { author: net.id(0), sequence: 0, id: OperationId::ZERO };
    let takeover = syncline_model::membership::Takeover::new(&net.genesis.space(), place, device, cut, 9, &other);
    let record = membership.next_record(Statement::Takeover(takeover), 0);
    let run = net.control(attacker, Kind::MEMBERSHIP, &record.encode());
    for way in WAYS {
        net.inject(victim, attacker, way, &run);
        assert_eq!(net.nodes[victim].replica.core().state().membership().steward(), Some(net.id(0)), "{way:?}");
    }
}

#[test]
fn a_device_that_lost_the_right_to_write_is_told_why() {
    let (mut net, _, attacker) = besieged(18, Role::Writer);
    net.online(attacker, true);
    net.govern(0, Act::ChangeRole { device: net.id(attacker), role: Role::Reader }).unwrap();
    let refused = net.put(attacker, "more", json!(1));
    assert!(matches!(refused, Err(DocumentError::LostRight { .. })), "{refused:?}");
}

#[test]
fn what_a_device_files_in_another_ones_log_does_not_speak_for_that_one() {
    let (mut net, victim, attacker) = besieged(19, Role::Writer);
    let members = net.nodes[victim].replica.core().state().membership().members().clone();
    let promotion =
        Statement::Handover { steward: net.id(attacker), exchange: net.nodes[attacker].key.exchange_public() };
    let record = net.nodes[victim].replica.core().state().membership().next_record(promotion, 0).encode();
    // Signed rightly by the attacker, in the place of the steward's next operation.
    let (sequence, previous) = {
        let vector = net.nodes[victim].replica.core().state();
        (net.held_and_counting(victim, &net.id(0)).0, syncline_sync::Replica::taken(vector, &net.id(0)).1)
    };
    let mut header = net.next_header(attacker, Kind::MEMBERSHIP, record.len());
    (header.sequence, header.previous) = (sequence + 1, previous);
    let run = signed(&net.nodes[attacker].key, &header, |_| record);
    for log in [net.id(0), DeviceId([7; 32])] {
        net.nodes[victim].blamed.clear();
        net.restore_with(victim, &[[&[0xb7][..], &log.0, &run].concat()]);
        assert_eq!(net.nodes[victim].blamed.len(), 1, "the backup is refused");
    }
    // Nor would it speak for it if it were stored.
    let run = Run::decode(net.genesis.space(), run).unwrap().verify().unwrap();
    let mut runs = net.stored(victim);
    runs.push(Filed { log: net.id(0), run });
    let keys = net.nodes[victim].replica.core().state().keys().clone();
    let copy = net.host(net.nodes[victim].key.clone(), &runs, false);
    net.reopen(copy, keys);
    let membership = net.nodes[copy].replica.core().state().membership();
    assert_eq!((membership.steward(), membership.members()), (Some(net.id(0)), &members));
}

#[test]
fn keys_that_a_sponsor_made_up_end_with_the_joining() {
    let mut net = Net::new(23);
    let invitation = net.invite(Role::Writer, 2).unwrap();
    let joiner = net.device();
    // What a sponsor answers beside the true keys, or somebody put into a backup.
    let bogus = net.bogus_delivery(joiner, u32::MAX);
    net.give(joiner, Input::Core(Event::Admitted(bogus)));
    net.join(joiner, 0, &invitation).unwrap();
    let state = net.nodes[joiner].replica.core().state();
    assert_eq!((state.membership().epoch(), state.gossip_epoch()), (1, 1));
    net.put(joiner, "heard", json!(1)).unwrap();
    net.drain();
    net.all_show(&[0, joiner], "heard", Some(json!(1)));
    // Nor does it pass them on.
    let next = net.device();
    net.join(next, joiner, &invitation).unwrap();
    assert_eq!(net.content_epochs(next), [1]);
    let keys = net.nodes[joiner].replica.core().state().keys().clone();
    net.reopen(joiner, keys);
    assert_eq!(net.nodes[joiner].replica.core().state().gossip_epoch(), 1);
}
