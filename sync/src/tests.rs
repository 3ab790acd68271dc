//! What reconciliation promises, shown on simulated replicas.

use std::collections::BTreeSet;

use syncline_model::keys::seal;
use syncline_model::limits::WAITING_OPERATIONS_MAX;
use syncline_model::{ContentKey, Dependency, DeviceId, IdPrefix, Kind, OperationId, VerifiedRun, canonical};

use crate::limits::*;
use crate::pending::Pending;
use crate::simulation::{CALM, Conditions, Node, ROUGH, Simulation, Tamper};
use crate::testing::{SeededRandom, device, log, write};
use crate::{
    Effect, Event, Misbehaviour, Page, Range, Replica, Request, RequestId, Response, RunBytes, Scope, SummaryAnswer,
    SummaryEntry, Verdict,
};

fn misbehaviour(simulation: &Simulation) -> Vec<(usize, Misbehaviour)> {
    let reasons = simulation.reported.iter().filter_map(|(node, effect)| match effect {
        Effect::Misbehaved { reason, .. } => Some((*node, *reason)),
        _ => None,
    });
    reasons.collect()
}

fn equivocations(simulation: &Simulation) -> Vec<(usize, DeviceId, u64)> {
    let found = simulation.reported.iter().filter_map(|(node, effect)| match effect {
        Effect::Equivocation { author, sequence, .. } => Some((*node, *author, *sequence)),
        _ => None,
    });
    found.collect()
}

/// Devices write, meet and part at random on a rough network; returns what happened in full.
fn eventful_life(seed: u64) -> (Simulation, blake3::Hash) {
    let mut simulation = Simulation::new(seed, 3 + (seed % 3) as u8, ROUGH);
    let count = simulation.nodes.len() as u64;
    for _ in 0..12 {
        let (a, b) = (simulation.below(count) as usize, simulation.below(count) as usize);
        match simulation.below(6) {
            0 | 1 if a != b => simulation.connect(a, b),
            2 if a != b => simulation.part(a, b),
            _ => {
                let size = simulation.below(300) as usize;
                simulation.write(a, Kind::DATA, vec![a as u8; size]);
            }
        }
        let pause = simulation.below(3000);
        simulation.run_until(simulation.now_ms + pause);
    }
    simulation.connect_all();
    assert!(simulation.converges_within(900_000), "seed {seed} does not converge");
    assert_eq!(misbehaviour(&simulation), [], "seed {seed}: correct peers are not blamed");
    assert_eq!(equivocations(&simulation), [], "seed {seed}");
    let trace = simulation.trace.finalize();
    (simulation, trace)
}

#[test]
fn all_replicas_converge_on_a_network_that_loses_delays_repeats_and_parts() {
    let (mut lost, mut repeated) = (0, 0);
    for seed in 0..200 {
        let (simulation, _) = eventful_life(seed);
        lost += simulation.traffic.lost;
        repeated += simulation.traffic.repeated;
    }
    assert!(lost > 1000 && repeated > 100, "the faults fired: {lost} lost, {repeated} repeated");
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in 300..305 {
        assert_eq!(eventful_life(seed).1, eventful_life(seed).1);
    }
    assert_ne!(eventful_life(300).1, eventful_life(301).1);
}

#[test]
fn after_both_sides_wrote_offline_each_record_crosses_once_in_few_round_trips() {
    let mut simulation = Simulation::new(1, 2, CALM);
    for _ in 0..100 {
        simulation.write_offline(0, 1, 210);
        simulation.write_offline(1, 1, 210);
    }
    simulation.connect(0, 1);
    assert!(simulation.converges_within(1_000));
    let bytes = simulation.traffic.request_bytes + simulation.traffic.response_bytes;
    assert!(bytes <= 200 * 235, "{} bytes per record", bytes / 200);
    assert!(simulation.traffic.requests <= 3, "{} round trips", simulation.traffic.requests);
    for node in &simulation.nodes {
        let counters = node.engine.counters();
        assert_eq!((counters.operations_duplicate, counters.operations_ingested), (0, 100));
        assert_eq!(counters.signatures_checked, 1);
    }
}

#[test]
fn a_cold_join_from_several_peers_pulls_nothing_twice_and_checks_few_signatures() {
    let mut simulation = Simulation::new(2, 4, CALM);
    let runs: Vec<VerifiedRun> = log(&device(1), 6000, 1000);
    for node in 0..3 {
        for chunk in runs.chunks(if node == 0 { 1 } else { 500 }) {
            simulation.nodes[node].replica.ingest(&VerifiedRun::join(chunk).unwrap());
        }
        simulation.nodes[node].replica.sync();
    }
    simulation.connect_all();
    assert!(simulation.converges_within(5_000));
    let counters = *simulation.nodes[3].engine.counters();
    assert_eq!(counters.operations_ingested, 6000);
    assert!(counters.operations_duplicate < 500, "at most one run where a stretch ends within one");
    assert!(counters.signatures_checked <= 16, "{}", counters.signatures_checked);
    let helped = (0..3).filter(|node| simulation.nodes[*node].engine.counters().served_bytes > 0).count();
    assert!(helped > 1, "the work is shared");
    let bytes = simulation.traffic.response_bytes;
    assert!(bytes < 6500 * 1020, "{bytes}");
}

#[test]
fn equal_replicas_exchange_nothing_but_digests() {
    let mut simulation = Simulation::new(3, 2, CALM);
    simulation.write_offline(0, 5, 50);
    simulation.connect(0, 1);
    simulation.run_until(5_000);
    assert!(simulation.converged());
    let before = simulation.traffic;
    simulation.run_until(605_000);
    let rounds = simulation.traffic.requests - before.requests;
    let bytes = simulation.traffic.request_bytes + simulation.traffic.response_bytes
        - (before.request_bytes + before.response_bytes);
    assert!((45..90).contains(&rounds), "{rounds} rounds in ten minutes");
    assert!(bytes / rounds < 100, "{} bytes a round", bytes / rounds);
    assert_eq!(simulation.nodes.iter().map(|node| node.engine.counters().pulls_sent).sum::<u64>(), 1);
}

#[test]
fn a_replica_without_peers_sleeps() {
    let mut simulation = Simulation::new(4, 2, ROUGH);
    simulation.connect(0, 1);
    simulation.run_until(100_000);
    simulation.part(0, 1);
    simulation.run_until(300_000);
    assert_eq!(simulation.nodes[0].engine.next_deadline(), None);
}

#[test]
fn a_peer_that_is_in_step_is_reported_each_time_that_becomes_true() {
    let mut simulation = Simulation::new(5, 2, CALM);
    simulation.write_offline(0, 3, 10);
    simulation.connect(0, 1);
    simulation.run_until(1_000);
    let synced = |simulation: &Simulation, node| {
        simulation.reported.iter().filter(|(at, effect)| *at == node && matches!(effect, Effect::Synced { .. })).count()
    };
    assert_eq!((synced(&simulation, 0), synced(&simulation, 1)), (1, 1));
    simulation.write_offline(0, 1, 10);
    simulation.run_until(30_000);
    assert_eq!((synced(&simulation, 0), synced(&simulation, 1)), (1, 2));
    let status = simulation.nodes[1].engine.status(&simulation.nodes[1].replica);
    assert!(status.peers[0].synced && status.peers[0].missing == 0 && status.pulls_in_flight == 0);
}

#[test]
fn fresh_operations_reach_devices_that_are_not_neighbours_by_gossip_alone() {
    let mut simulation = Simulation::new(6, 4, Conditions { gossip: true, ..CALM });
    for node in 0..3 {
        simulation.connect(node, node + 1);
    }
    simulation.run_until(3_000);
    let pulls = |simulation: &Simulation| simulation.nodes.iter().map(|n| n.engine.counters().pulls_sent).sum::<u64>();
    simulation.write(0, Kind::DATA, vec![1; 1000]);
    simulation.run_until(3_100);
    assert!(simulation.converged());
    assert_eq!(pulls(&simulation), 0);
    simulation.write(0, Kind::DATA, vec![2; GOSSIP_INLINE_BYTES_MAX]);
    simulation.run_until(3_300);
    assert!(simulation.converged(), "a large one is announced from neighbour to neighbour");
    assert_eq!(pulls(&simulation), 3);
}

#[test]
fn a_gap_that_gossip_leaves_is_pulled_from_the_sender() {
    let mut simulation = Simulation::new(7, 2, Conditions { gossip: true, ..CALM });
    simulation.connect(0, 1);
    simulation.run_until(3_000);
    simulation.write_offline(0, 4, 20);
    simulation.write(0, Kind::DATA, vec![9; 20]);
    simulation.run_until(3_000 + GAP_PATIENCE_MS - 10);
    assert_eq!(simulation.nodes[1].engine.status(&simulation.nodes[1].replica).pending_runs, 1);
    simulation.run_until(3_020 + GAP_PATIENCE_MS);
    assert!(simulation.converged());
    assert_eq!(simulation.nodes[1].engine.counters().operations_ingested, 5);
    assert_eq!(simulation.nodes[1].engine.counters().operations_duplicate, 0);
}

#[test]
fn what_overtook_an_earlier_operation_is_announced_since_its_frame_was_not_forwarded() {
    let mut simulation = Simulation::new(9, 3, Conditions { gossip: true, ..CALM });
    simulation.connect(0, 1);
    simulation.connect(1, 2);
    simulation.run_until(3_000);
    let (author, mut random) = (device(1), SeededRandom::new(3));
    for run in log(&author, 2, 20).iter().rev() {
        simulation.frame(0, 1, run_frame(run, &mut random));
        simulation.run_until(simulation.now_ms + 20);
    }
    simulation.run_until(3_500);
    let held = |node: usize| simulation.nodes[node].replica.vector.sequence(&author.id());
    assert_eq!((held(1), held(2)), (2, 2));
}

#[test]
fn operations_that_build_on_each_other_across_many_authors_converge() {
    let mut simulation = Simulation::new(8, 5, CALM);
    simulation.connect_all();
    for round in 0..30 {
        let node = simulation.below(5) as usize;
        simulation.write(node, Kind::DATA, vec![round; 30]);
        simulation.run_until(simulation.now_ms + 700);
    }
    assert!(simulation.converges_within(30_000));
}

#[test]
fn while_too_much_waits_only_what_it_waits_for_is_pulled() {
    let mut simulation = Simulation::new(9, 4, CALM);
    simulation.write_offline(0, 1, 50);
    simulation.write_offline(2, 20, 50);
    simulation.write_offline(3, 2, 50);
    // Devices 1 and 4 build on what 3 wrote; device 2 takes 1's and 4's logs in first and gets stuck.
    let head = simulation.nodes[2].replica.vector.head(&simulation.id(2));
    let on = vec![Dependency { author: simulation.id(2), sequence: 20, id: head }];
    simulation.nodes[0].replica.write_on(Kind::DATA, vec![1; 9], on);
    simulation.nodes[0].replica.sync();
    simulation.connect(0, 1);
    simulation.run_until(3_000);
    assert_eq!(simulation.nodes[1].replica.waiting_operations(), 1);
    simulation.nodes[1].replica.pretended_waiting = WAITING_OPERATIONS_MAX;
    simulation.connect(1, 3);
    simulation.connect(1, 2);
    simulation.run_until(20_000);
    let held = |simulation: &Simulation, of: usize| simulation.nodes[1].replica.vector.sequence(&simulation.id(of));
    assert_eq!((held(&simulation, 2), held(&simulation, 3)), (20, 0));
    simulation.nodes[1].replica.pretended_waiting = WAITING_OPERATIONS_PAUSE;
    simulation.event(1, Event::Taken);
    simulation.run_until(20_100);
    assert_eq!(held(&simulation, 3), 2, "below the last limit the rest comes, slowly");
}

#[test]
fn what_is_wanted_of_an_unknown_author_leads_to_its_admission() {
    let mut simulation = Simulation::new(10, 4, CALM);
    let (known, admitted) = (device(1).id(), simulation.id(3));
    // Device 2 knows 1 and 3. Device 1 admits 4, which writes; 3 builds on that.
    for node in [1, 2] {
        simulation.nodes[node].replica.writers.remove(&admitted);
    }
    simulation.write_offline(0, 3, 20);
    simulation.nodes[0].replica.write(Kind::ADMIT, admitted.0.to_vec());
    simulation.nodes[0].replica.sync();
    simulation.connect(0, 3);
    simulation.run_until(1_000);
    simulation.write(3, Kind::DATA, vec![4; 20]);
    simulation.run_until(1_100);
    simulation.connect(2, 0);
    simulation.connect(2, 3);
    simulation.run_until(20_000);
    let head = simulation.nodes[3].replica.vector.head(&admitted);
    let on = vec![Dependency { author: admitted, sequence: 1, id: head }];
    simulation.nodes[2].replica.write_on(Kind::DATA, vec![3; 20], on);
    simulation.nodes[2].replica.sync();
    let own = simulation.nodes[2].replica.log.iter().find(|run| run.author() != known && run.author() != admitted);
    let own = own.unwrap().clone();
    let newcomer = &mut simulation.nodes[1].replica;
    newcomer.ingest(&own);
    newcomer.sync();
    newcomer.pretended_waiting = WAITING_OPERATIONS_MAX;
    simulation.connect(1, 2);
    simulation.run_until(40_000);
    simulation.nodes[1].replica.pretended_waiting = 0;
    assert!(simulation.nodes[1].replica.may_write(&admitted));
    assert_eq!(simulation.nodes[1].replica.waiting_operations(), 0);
}

#[test]
fn an_unknown_authors_run_waits_and_is_delivered_when_the_membership_changes() {
    let mut simulation = Simulation::new(11, 3, Conditions { gossip: true, ..CALM });
    let author = simulation.id(2);
    for node in 0..2 {
        simulation.nodes[node].replica.writers.remove(&author);
    }
    simulation.connect_all();
    simulation.run_until(3_000);
    simulation.write(2, Kind::DATA, vec![1; 20]);
    simulation.run_until(3_500);
    assert_eq!(simulation.nodes[0].replica.vector.sequence(&author), 0);
    assert_eq!(simulation.nodes[0].engine.status(&simulation.nodes[0].replica).pending_runs, 1);
    simulation.nodes[0].replica.writers.insert(author);
    simulation.event(0, Event::MembershipChanged);
    simulation.run_until(3_600);
    assert_eq!(simulation.nodes[0].replica.vector.sequence(&author), 1);
    simulation.run_until(60_000);
    assert_eq!(simulation.nodes[1].replica.vector.sequence(&author), 0, "another device decides for itself");
    assert_eq!(simulation.nodes[1].engine.counters().operations_duplicate, 0, "and does not pull it meanwhile");
}

#[test]
fn a_newcomer_learns_of_its_admission_from_a_peer_that_it_does_not_know_as_a_member() {
    let mut simulation = Simulation::new(12, 2, CALM);
    simulation.write_offline(0, 3, 20);
    let steward = simulation.id(0);
    simulation.nodes[1].replica.members = BTreeSet::new();
    simulation.nodes[1].replica.writers = BTreeSet::from([steward]);
    simulation.connect(0, 1);
    simulation.run_until(20_000);
    assert_eq!(simulation.nodes[1].replica.vector.sequence(&steward), 3);
    assert!(
        simulation.nodes[1].engine.counters().not_served > 0
            || simulation.nodes[0].engine.counters().summaries_sent == 0
    );
    // And a device that is no member gets nothing.
    let mut simulation = Simulation::new(13, 2, CALM);
    simulation.write_offline(0, 3, 20);
    let stranger = simulation.id(1);
    simulation.nodes[0].replica.members.remove(&stranger);
    simulation.connect(0, 1);
    simulation.run_until(30_000);
    assert!(simulation.nodes[1].replica.vector.is_empty());
    let status = simulation.nodes[1].engine.status(&simulation.nodes[1].replica);
    assert!(status.peers[0].refuses);
    simulation.nodes[0].replica.members.insert(stranger);
    simulation.event(0, Event::MembershipChanged);
    simulation.run_until(31_000);
    assert!(simulation.converged(), "once it is one, it need not wait for its timer");
}

#[test]
fn floods_of_gaps_and_of_unknown_authors_stay_bounded() {
    let mut simulation = Simulation::new(14, 2, CALM);
    simulation.connect(0, 1);
    simulation.run_until(3_000);
    let (most, most_of_one) = (200_000, 100_000);
    simulation.nodes[1].engine.gaps = Pending::new(most, most_of_one);
    simulation.nodes[1].engine.strangers = Pending::new(most, most_of_one);
    let runs = log(&device(1), 200, 2_000);
    let strange: Vec<VerifiedRun> = (10..20).flat_map(|number| log(&device(number), 20, 2_000)).collect();
    let mut random = SeededRandom::new(1);
    let mut greatest = 0;
    for run in runs.iter().skip(1).chain(&strange) {
        let bytes = run_frame(run, &mut random);
        simulation.frame(0, 1, bytes);
        greatest = greatest.max(simulation.nodes[1].engine.status(&simulation.nodes[1].replica).pending_bytes);
    }
    assert!(greatest > 250_000 && greatest <= 2 * most, "{greatest}");
    let status = simulation.nodes[1].engine.status(&simulation.nodes[1].replica);
    assert!(status.counters.pending_dropped > 200, "{}", status.counters.pending_dropped);
    for run in &runs {
        simulation.nodes[0].replica.ingest(run);
    }
    simulation.nodes[0].replica.sync();
    assert!(simulation.converges_within(60_000), "what was dropped is pulled");
}

fn run_frame(run: &VerifiedRun, random: &mut SeededRandom) -> Vec<u8> {
    let mut plain = vec![1, 0];
    plain.extend(canonical::encode(&RunBytes(run.bytes().clone()))[1..].iter());
    sealed(&plain, random)
}

fn sealed(plain: &[u8], random: &mut SeededRandom) -> Vec<u8> {
    let associated = [b"syncline/gossip-frame/1\0".as_slice(), &crate::testing::SPACE.0].concat();
    seal(&ContentKey([7; 32]), &associated, plain, random)
}

#[test]
fn frames_that_are_invalid_by_themselves_are_rejected_and_others_are_not() {
    let mut simulation = Simulation::new(15, 2, CALM);
    simulation.connect(0, 1);
    let mut random = SeededRandom::new(2);
    let run = log(&device(1), 1, 20).remove(0);
    let good = run_frame(&run, &mut random);
    let mut changed = good.clone();
    changed[40] ^= 1;
    let mut unsigned = canonical::encode(&RunBytes(run.bytes().clone()));
    unsigned.insert(1, 0);
    let last = unsigned.len() - 1;
    unsigned[last] ^= 1;
    let invalid = [
        changed,
        vec![0; GOSSIP_FRAME_BYTES_MAX + 1],
        Vec::new(),
        sealed(&[1, 9, 9], &mut random),
        sealed(&unsigned, &mut random),
    ];
    for (count, bytes) in (1..).zip(invalid) {
        simulation.frame(0, 1, bytes);
        assert_eq!(simulation.nodes[1].engine.counters().gossip_rejected, count);
    }
    assert!(simulation.nodes[1].replica.vector.is_empty());
    let newer = sealed(&[2, 0], &mut random);
    simulation.frame(0, 1, newer);
    simulation.frame(0, 1, good);
    let again = run_frame(&run, &mut random);
    simulation.frame(0, 1, again);
    let counters = simulation.nodes[1].engine.counters();
    assert_eq!((counters.gossip_accepted, counters.gossip_ignored), (1, 2));
    assert!(
        simulation
            .reported
            .iter()
            .all(|(_, effect)| !matches!(effect, Effect::Verdict { verdict: Verdict::Accept, .. }))
    );
}

#[test]
fn a_frame_under_the_key_of_an_epoch_before_is_taken_in_and_not_forwarded() {
    let mut simulation = Simulation::new(16, 2, CALM);
    simulation.connect(0, 1);
    simulation.nodes[1].replica.gossip_keys.insert(0, ContentKey([8; 32]));
    let run = log(&device(1), 1, 20).remove(0);
    let frame = run_frame(&run, &mut SeededRandom::new(3));
    simulation.frame(0, 1, frame);
    let counters = simulation.nodes[1].engine.counters();
    assert_eq!((counters.operations_ingested, counters.gossip_accepted, counters.gossip_ignored), (1, 0, 1));
}

fn change_page(bytes: &[u8], change: impl Fn(&mut Page)) -> Vec<u8> {
    match Response::decode(bytes).unwrap() {
        Response::Page(mut page) => {
            change(&mut page);
            Response::Page(page).encode()
        }
        other => other.encode(),
    }
}

fn spoil(run: &RunBytes) -> RunBytes {
    let mut bytes = run.0.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    RunBytes(bytes.into())
}

#[test]
fn bad_pages_change_nothing_and_their_sender_is_left_alone_for_a_while() {
    let cases: [(Tamper, Misbehaviour); 7] = [
        (|bytes| if bytes.len() > 300 { vec![1, 77] } else { bytes.to_vec() }, Misbehaviour::MalformedResponse),
        (|bytes| change_page(bytes, |page| page.runs[0].0 = vec![1; 50].into()), Misbehaviour::MalformedRun),
        (|bytes| change_page(bytes, |page| page.runs.push(spoil(&page.runs[0]))), Misbehaviour::BadSignature),
        (
            |bytes| {
                change_page(bytes, |page| {
                    page.runs.push(RunBytes(log(&device(50), 1, 9).remove(0).bytes().clone()));
                })
            },
            Misbehaviour::NotAskedFor,
        ),
        (
            |bytes| {
                change_page(bytes, |page| {
                    page.runs = vec![page.runs[0].clone(); 1 + PAGE_BYTES_FIRST / page.runs[0].0.len()];
                })
            },
            Misbehaviour::OversizedPage,
        ),
        (
            |bytes| {
                change_page(bytes, |page| {
                    page.forked.push(crate::Forked { author: device(1).id(), sequence: 0 });
                })
            },
            Misbehaviour::NotAskedFor,
        ),
        (
            |bytes| if bytes.len() > 300 { Response::Summary(SummaryAnswer::Equal).encode() } else { bytes.to_vec() },
            Misbehaviour::UnexpectedResponse,
        ),
    ];
    for (tamper, expected) in cases {
        let mut simulation = Simulation::new(16, 2, CALM);
        simulation.write_offline(0, 4, 2000);
        simulation.tamper.insert(0, tamper);
        simulation.connect(0, 1);
        simulation.run_until(30_000);
        assert_eq!(misbehaviour(&simulation), [(1, expected)]);
        assert!(simulation.nodes[1].replica.vector.is_empty(), "{expected:?}: nothing of the page was taken");
        simulation.tamper.clear();
        simulation.run_until(30_000 + MISBEHAVIOUR_BACKOFF_MS);
        assert!(simulation.converged(), "{expected:?}: it may do better later");
    }
}

#[test]
fn a_fork_is_reported_once_by_each_side_and_stops_only_that_author() {
    let mut simulation = Simulation::new(17, 3, Conditions { gossip: true, ..CALM });
    let forker = device(3);
    let mut head = (0, OperationId::ZERO);
    for sequence in 1..=3 {
        let run = write(&forker, Kind::DATA, head, Vec::new(), vec![sequence; 9]);
        head = (run.last(), run.last_id());
        simulation.nodes[0].replica.ingest(&run);
        simulation.nodes[1].replica.ingest(&run);
    }
    for (node, count) in [(0, 2), (1, 5)] {
        let mut head = head;
        for _ in 0..count {
            let run = write(&forker, Kind::DATA, head, Vec::new(), vec![node as u8; 30]);
            head = (run.last(), run.last_id());
            simulation.nodes[node].replica.ingest(&run);
        }
        simulation.nodes[node].replica.sync();
    }
    simulation.write_offline(0, 2, 20);
    simulation.connect(0, 1);
    simulation.run_until(300_000);
    let mut reports = equivocations(&simulation);
    reports.sort();
    assert_eq!(reports, [(0, forker.id(), 5), (1, forker.id(), 5)]);
    // Each hands its owner the other's first operation that differs, with what leads to it.
    let shows = |node: usize| {
        simulation.reported.iter().any(|(at, effect)| match effect {
            Effect::Branch { run, .. } => *at == node && (run.first()..=run.last()).contains(&4),
            _ => false,
        })
    };
    assert!(shows(0) && shows(1));
    assert_eq!(simulation.nodes[1].replica.vector.sequence(&simulation.id(0)), 2, "other logs go on");
    assert_eq!(simulation.nodes[0].replica.vector.sequence(&forker.id()), 5);
    assert_eq!(misbehaviour(&simulation), []);
    assert!(simulation.nodes[0].engine.counters().pulls_sent <= 1, "it is not asked for again and again");
}

#[test]
fn a_run_that_continues_another_log_is_a_fork() {
    let mut simulation = Simulation::new(18, 2, Conditions { gossip: true, ..CALM });
    simulation.connect(0, 1);
    let ours = write(&device(1), Kind::DATA, (0, OperationId::ZERO), Vec::new(), vec![1; 9]);
    simulation.nodes[1].replica.ingest(&ours);
    let theirs = write(&device(1), Kind::DATA, (0, OperationId::ZERO), Vec::new(), vec![2; 9]);
    let next = write(&device(1), Kind::DATA, (1, theirs.last_id()), Vec::new(), vec![3; 9]);
    let mut random = SeededRandom::new(3);
    for run in [&next, &theirs] {
        let bytes = run_frame(run, &mut random);
        simulation.frame(0, 1, bytes);
    }
    assert_eq!(equivocations(&simulation), [(1, device(1).id(), 1)]);
    assert_eq!(simulation.nodes[1].replica.log.len(), 0);
}

#[test]
fn a_peer_that_lies_about_its_vector_or_never_answers_does_not_stall_others() {
    let boast: Tamper = |bytes| match Response::decode(bytes).unwrap() {
        Response::Summary(_) => {
            let entry = |device_number| SummaryEntry {
                author: device(device_number).id(),
                sequence: u64::MAX - 1,
                id: IdPrefix([1; 16]),
            };
            let mut entries = vec![entry(1), entry(2), entry(3)];
            entries.sort_by_key(|entry| entry.author);
            Response::Summary(SummaryAnswer::Entries { scope: Scope::All, entries, next: None }).encode()
        }
        Response::Page(_) => Response::Page(Page::default()).encode(),
        other => other.encode(),
    };
    for silent in [false, true] {
        let mut simulation = Simulation::new(19, 4, CALM);
        if silent {
            simulation.mute.insert(0);
            simulation.write_offline(0, 3, 20);
        }
        simulation.tamper.insert(0, boast);
        simulation.write_offline(1, 50, 100);
        simulation.write_offline(2, 50, 100);
        for node in 0..3 {
            simulation.connect(node, 3);
        }
        simulation.run_until(REQUEST_TIMEOUT_MS + 15_000);
        for author in [1, 2] {
            assert_eq!(simulation.nodes[3].replica.vector.sequence(&simulation.id(author)), 50, "silent: {silent}");
        }
        let asked = simulation.nodes[3].engine.counters().pulls_sent;
        assert!(asked < 60, "{asked}");
    }
}

#[test]
fn what_a_silent_peer_was_asked_for_is_asked_of_another_one_after_the_deadline() {
    let mut simulation = Simulation::new(20, 3, CALM);
    let runs = log(&device(9), 10, 50);
    for node in 0..3 {
        simulation.nodes[node].replica.writers.insert(device(9).id());
    }
    for node in 0..2 {
        for run in &runs {
            simulation.nodes[node].replica.ingest(run);
        }
        simulation.nodes[node].replica.sync();
    }
    // Both say what they hold, then the one that is asked falls silent.
    simulation.connect(0, 2);
    simulation.connect(1, 2);
    simulation.mute.extend([0]);
    simulation.run_until(REQUEST_TIMEOUT_MS + 5_000);
    assert_eq!(simulation.nodes[2].replica.vector.sequence(&device(9).id()), 10);
}

#[test]
fn runs_that_the_space_refuses_are_not_pulled_again_and_again() {
    let mut simulation = Simulation::new(22, 2, CALM);
    simulation.write_offline(0, 5, 20);
    let author = simulation.id(0);
    simulation.nodes[1].replica.refuses = Some(author);
    simulation.connect(0, 1);
    simulation.run_until(100_000);
    assert_eq!(simulation.nodes[1].engine.counters().pulls_sent, 1);
    simulation.nodes[1].replica.refuses = None;
    simulation.event(1, Event::MembershipChanged);
    simulation.run_until(120_000);
    assert!(simulation.converged());
}

#[test]
fn spaces_of_many_authors_are_compared_by_buckets() {
    let mut simulation = Simulation::new(23, 2, CALM);
    for number in 10..90 {
        let author = device(number);
        let run = log(&author, 1, 20).remove(0);
        for node in 0..2 {
            simulation.nodes[node].replica.writers.insert(author.id());
            if usize::from(number) % 3 == node || number % 3 == 2 {
                simulation.nodes[node].replica.ingest(&run);
            }
            simulation.nodes[node].replica.sync();
        }
    }
    simulation.connect(0, 1);
    assert!(simulation.converges_within(1_000), "both directions at once");
    let bytes = simulation.traffic.request_bytes;
    assert!(bytes < 15_000, "{bytes}");
    for node in &simulation.nodes {
        assert_eq!(node.engine.counters().operations_duplicate, 0);
    }
}

/// What a device with five durable operations and one that is being written answers to a pull of its log.
fn answer_to_a_pull(range: impl Fn(DeviceId, &[VerifiedRun]) -> Range, member: bool) -> Vec<Effect> {
    let mut simulation = Simulation::new(24, 2, CALM);
    simulation.connect(0, 1);
    simulation.write_offline(0, 5, 20);
    simulation.nodes[0].replica.write(Kind::DATA, vec![6; 20]);
    let (author, peer) = (simulation.id(0), simulation.id(1));
    let Node { replica, engine, .. } = &mut simulation.nodes[0];
    if !member {
        replica.members.clear();
    }
    let request = Request::Pull { ranges: vec![range(author, &replica.log)], bytes_max: 1 << 20 };
    let event = Event::Requested { peer, id: RequestId(1), request };
    let mut effects = Vec::new();
    engine.handle(event, 10, replica, &mut SeededRandom::new(1), &mut effects);
    effects.retain(|effect| !matches!(effect, Effect::Send { .. }));
    effects
}

#[test]
fn a_pull_is_served_to_members_up_to_what_is_durable() {
    let whole = |author, _: &[VerifiedRun]| Range { author, after: 0, after_id: None, through: 9 };
    let effects = answer_to_a_pull(whole, true);
    let [Effect::Serve { serving, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((serving.ranges[0].after, serving.ranges[0].through), (0, 5));
    let effects = answer_to_a_pull(whole, false);
    assert!(matches!(effects.as_slice(), [Effect::Reply { response: Response::NotServed, .. }]), "{effects:?}");
    let beyond = |author, _: &[VerifiedRun]| Range { author, after: 5, after_id: None, through: 9 };
    let effects = answer_to_a_pull(beyond, true);
    let [Effect::Reply { response: Response::Page(page), .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(*page, Page::default());
}

#[test]
fn a_pull_that_continues_another_log_is_answered_with_the_fork() {
    let same =
        |author, log: &[VerifiedRun]| Range { author, after: 2, after_id: Some(log[1].last_id().prefix()), through: 9 };
    assert!(matches!(answer_to_a_pull(same, true).as_slice(), [Effect::Serve { .. }]));
    let other = |author, _: &[VerifiedRun]| Range { author, after: 2, after_id: Some(IdPrefix([7; 16])), through: 9 };
    let effects = answer_to_a_pull(other, true);
    let [Effect::Equivocation { sequence: 2, .. }, Effect::Reply { response: Response::Page(page), .. }] =
        effects.as_slice()
    else {
        panic!("{effects:?}");
    };
    assert_eq!((page.forked[0].sequence, page.runs.len()), (2, 0));
}
