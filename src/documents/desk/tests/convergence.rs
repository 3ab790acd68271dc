//! Random histories of several replicas and of strangers: all end with the same documents.

use super::replica::*;
use super::*;

/// One move of a random history.
#[derive(Debug, Clone)]
enum Move {
    Write { replica: usize, kind: u8, key: usize, other: usize, number: u32 },
    Commit { replica: usize },
    Deliver { replica: usize, author: usize },
    Misbehave { stranger: usize, kind: u8, key: usize, other: usize, number: u32 },
    Read { replica: usize, key: usize },
    Restart { replica: usize, wipe: bool },
    RunJob { replica: usize },
}

fn moves(with_strangers: bool) -> impl Strategy<Value = Vec<Move>> {
    let write = (0..3_usize, 0..8_u8, 0..4_usize, 0..4_usize, 0..1000_u32);
    let write = write.prop_map(|(replica, kind, key, other, number)| Move::Write { replica, kind, key, other, number });
    let misbehave = (0..2_usize, 0..6_u8, 0..4_usize, 0..4_usize, 0..3_u32);
    let misbehave = misbehave.prop_map(|(stranger, kind, key, other, number)| Move::Misbehave {
        stranger,
        kind,
        key,
        other,
        number,
    });
    let one = prop_oneof![
        5 => write,
        4 => (0..3_usize).prop_map(|replica| Move::Commit { replica }),
        6 => (0..3_usize, 0..5_usize).prop_map(|(replica, author)| Move::Deliver { replica, author }),
        if with_strangers { 4 } else { 1 } => misbehave,
        2 => (0..3_usize, 0..4_usize).prop_map(|(replica, key)| Move::Read { replica, key }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(replica, wipe)| Move::Restart { replica, wipe }),
        2 => (0..3_usize).prop_map(|replica| Move::RunJob { replica }),
    ];
    prop::collection::vec(one, 1..60)
}

fn misbehave(stranger: &mut Stranger, kind: u8, first: &str, second: &str, number: u32, seen: &Past) {
    let n = i64::from(number);
    let one = stranger.first(json!({"s": n}));
    let two = stranger.second(&one, json!({"t": n}));
    let entries = match kind {
        0 => vec![(first, one)],
        1 => vec![(first, one.clone()), (second, one)],
        2 => vec![(first, two), (second, one)],
        3 => vec![(first, foreign(&[8; 16], n)), (second, one)],
        4 => vec![(first, foreign(&[8; 16], n))],
        _ => vec![(first, Action::Change(vec![1, 2, 3])), (second, one)],
    };
    stranger.write(entries, seen);
}

fn run(moves: Vec<Move>, strangers_write: bool) -> Result<(), TestCaseError> {
    let ledger = Arc::new(Ledger::default());
    let mut replicas: Vec<Replica> =
        (1..=3).map(|name| Replica::with(name, &ledger, 60_000 * usize::from(name - 1), 20 << 10)).collect();
    let mut strangers: Vec<Stranger> = (4..=5).map(|name| Stranger::new(name, &ledger)).collect();
    for replica in &mut replicas {
        replica.holds_jobs = true;
    }
    let authors: Vec<DeviceId> = (1..=5).map(device).collect();
    for step in moves {
        match step {
            Move::Write { replica, kind, key, other, number } => {
                replicas[replica].transact(written_steps(kind, KEYS[key], KEYS[other], number));
            }
            Move::Commit { replica } => {
                replicas[replica].commit();
            }
            Move::Deliver { replica, author } => {
                let next = replicas[replica].admitted.get(&authors[author]).map_or(1, |sequence| sequence + 1);
                if authors[author] != replicas[replica].device {
                    replicas[replica].deliver(authors[author], next);
                }
            }
            Move::Misbehave { stranger, kind, key, other, number } => {
                if strangers_write {
                    let seen = replicas[key % 3].admitted.clone();
                    misbehave(&mut strangers[stranger], kind, KEYS[key], KEYS[other], number, &seen);
                }
            }
            Move::Read { replica, key: position } => {
                replicas[replica].query(Query::Get { key: key(KEYS[position]), wait_for: None });
            }
            Move::Restart { replica, wipe } => {
                replicas[replica].jobs.clear();
                replicas[replica].restart(wipe);
            }
            Move::RunJob { replica } => {
                replicas[replica].run_job();
            }
        }
    }
    for replica in &mut replicas {
        replica.holds_jobs = false;
        while replica.run_job() || replica.commit() {}
    }
    for replica in &mut replicas {
        replica.catch_up();
        prop_assert_eq!(replica.admitted.clone(), replica.ledger.heads(), "everything is delivered");
        let open = (&replica.desk.tasks, &replica.desk.held);
        prop_assert!(open.0.is_empty() && open.1.is_empty(), "nothing is left open: {open:?} {:?}", replica.desk.ready);
    }
    let everything = replicas[0].everything();
    for replica in &mut replicas {
        prop_assert_eq!(&replica.everything(), &everything);
        for text in KEYS {
            let own = replica.ask(Query::Conflicts { within: ConflictScope::Document(key(text)) });
            if !strangers_write && let Ok(Answer::Conflicts(page)) = own {
                prop_assert!(page.documents[0].blocked.is_empty(), "honest replicas block nothing: {:?}", page);
            }
        }
    }
    let last = &mut replicas[2];
    last.restart(true);
    prop_assert_eq!(&last.everything(), &everything, "a replay of everything gives the same");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_exchange_operations_in_any_order_converge(moves in moves(false)) {
        run(moves, false)?;
    }

    #[test]
    fn replicas_converge_whatever_strangers_write(moves in moves(true)) {
        run(moves, true)?;
    }
}
