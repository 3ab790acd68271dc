//! Laws that hold whatever was written: merging in any causal order, keeping and loading, pages of keys and changes.

use super::replica::*;
use super::*;

/// What a writer does: its steps, and how far it hears from the others before.
#[derive(Debug, Clone)]
struct Written {
    author: usize,
    kind: u8,
    keys: (usize, usize),
    number: u32,
    hears: Vec<usize>,
}

fn writes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Written>> {
    let one = (0..3_usize, 0..8_u8, (0..4_usize, 0..4_usize), 0..1000_u32, prop::collection::vec(0..3_usize, 0..3));
    let one = one.prop_map(|(author, kind, keys, number, hears)| Written { author, kind, keys, number, hears });
    prop::collection::vec(one, count)
}

/// A set of operations with its causal order, as some devices that partly hear of each other write it.
fn history(writes: &[Written]) -> Arc<Ledger> {
    let ledger = Arc::new(Ledger::default());
    let mut writers: Vec<Replica> = (1..=3).map(|name| Replica::new(name, &ledger)).collect();
    for Written { author, kind, keys, number, hears } in writes {
        for from in hears.iter().filter(|from| *from != author) {
            let from = device(*from as u8 + 1);
            // All of it as far as its past is here.
            let writer = &mut writers[*author];
            while writer.deliver(from, writer.admitted.get(&from).map_or(1, |last| last + 1)) {}
        }
        // A step that does not fit is refused, and is no operation.
        let _ = writers[*author].write(written_steps(*kind, KEYS[keys.0], KEYS[keys.1], *number));
    }
    ledger
}

/// How a device comes to know a set of operations.
#[derive(Debug, Clone)]
struct Delivery {
    /// Which of the operations that may come next comes.
    choices: Vec<usize>,
    /// How many arrive together.
    batches: Vec<usize>,
    /// After which batches the device starts again, or reads everything.
    restarts: Vec<usize>,
    reads: Vec<usize>,
    cache_bytes: usize,
    large_document_bytes: usize,
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let places = || prop::collection::vec(0..20_usize, 0..3);
    let sizes = (prop::sample::select(vec![0, 30_000, CACHE_BYTES]), prop::sample::select(vec![0, 20 << 10]));
    let order = (prop::collection::vec(0..100_usize, 64), prop::collection::vec(1..7_usize, 64));
    (order, places(), places(), sizes).prop_map(|((choices, batches), restarts, reads, sizes)| {
        let (cache_bytes, large_document_bytes) = sizes;
        Delivery { choices, batches, restarts, reads, cache_bytes, large_document_bytes }
    })
}

/// A new device that is told all operations, in an order that the causal one allows; each batch comes twice.
fn deliver_all(name: u8, ledger: &Arc<Ledger>, delivery: &Delivery) -> Replica {
    let Delivery { choices, batches, restarts, reads, cache_bytes, large_document_bytes } = delivery;
    let mut replica = Replica::with(name, ledger, *cache_bytes, *large_document_bytes);
    let heads = ledger.heads();
    let mut choices = choices.iter().cycle();
    for (number, size) in batches.iter().cycle().enumerate() {
        let mut batch = Vec::new();
        while batch.len() < *size {
            let mut next: Vec<(DeviceId, u64)> = Vec::new();
            for (author, last) in &heads {
                let sequence = replica.admitted.get(author).map_or(1, |held| held + 1);
                if sequence <= *last && replica.may_come(*author, sequence) {
                    next.push((*author, sequence));
                }
            }
            if next.is_empty() {
                break;
            }
            let (author, sequence) = next[choices.next().copied().unwrap_or(0) % next.len()];
            replica.admitted.insert(author, sequence);
            batch.push((author, sequence));
        }
        if batch.is_empty() {
            return replica;
        }
        for _ in 0..2 {
            let opened = batch.iter().map(|(author, sequence)| replica.opened(*author, *sequence)).collect();
            replica.handle(Input::Apply(opened));
        }
        if reads.contains(&number) {
            replica.everything();
        }
        if restarts.contains(&number) {
            replica.restart(number % 2 == 0);
        }
    }
    replica
}

impl Replica {
    /// Whether the causal past of an operation is here.
    fn may_come(&self, author: DeviceId, sequence: u64) -> bool {
        let Some((_, past)) = self.ledger.operation(author, sequence) else { return false };
        let held = |author: &DeviceId| self.admitted.get(author).copied().unwrap_or(0);
        past.iter().all(|(other, reached)| held(other) + u64::from(*other == author) >= *reached)
    }

    fn page_of_keys(&mut self, prefix: &str, after: Option<DocumentKey>, limit: usize) -> List {
        match self.ask(Query::List { prefix: prefix.to_owned(), after, limit, values: true }) {
            Ok(Answer::List(list)) => list,
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 1000, ..ProptestConfig::default() })]

    #[test]
    fn operations_merge_to_the_same_in_any_causal_order(
        writes in writes(1..25),
        deliveries in prop::collection::vec(delivery(), 2..4),
    ) {
        let ledger = history(&writes);
        let mut reference = Replica::new(9, &ledger);
        reference.catch_up();
        let expected = reference.everything();
        for (name, delivery) in (10..).zip(&deliveries) {
            let mut replica = deliver_all(name, &ledger, delivery);
            prop_assert_eq!(&replica.admitted, &ledger.heads(), "everything is delivered");
            prop_assert_eq!(&replica.everything(), &expected);
            let applied = replica.desk.stats().version.position;
            let operations: u64 = ledger.heads().values().sum();
            prop_assert_eq!(applied, operations, "each counts once, however often it comes");
        }
    }

    #[test]
    fn documents_that_were_kept_are_loaded_as_they_were(
        writes in writes(40..60),
        more in writes(1..12),
        closes in any::<bool>(),
        deletes in any::<bool>(),
    ) {
        // Few documents with many changes since the last delete of them, for only those are kept.
        let few = |written: &Written| {
            let kind = if written.number.is_multiple_of(32) { written.kind } else { written.kind % 3 };
            Written { kind, keys: (written.keys.0 % 2, written.keys.1 % 2), ..written.clone() }
        };
        let ledger = history(&writes.iter().map(few).collect::<Vec<_>>());
        let mut kept = Replica::with(9, &ledger, 0, LARGE_DOCUMENT_BYTES);
        let mut fresh = Replica::new(10, &ledger);
        kept.catch_up();
        fresh.catch_up();
        let before = kept.everything();
        prop_assert_eq!(&fresh.everything(), &before);
        if closes {
            kept.handle(Input::Close);
        }
        kept.restart(false);
        for text in KEYS.iter().take(2) {
            let entry = kept.desk.catalog.entry(&key(text)).unwrap().unwrap_or_default();
            let snapshot = kept.desk.snapshot(&key(text), &entry).unwrap();
            prop_assert!(snapshot.is_some() || entry.total() - entry.floor <= 2 * SNAPSHOT_CHANGES_MIN + 1);
        }
        prop_assert_eq!(&kept.everything(), &before, "what is loaded is what was kept");
        if deletes && fresh.write(vec![delete(KEYS[0])]).is_ok() {
            // So many, and unread as they come, that what was kept before the delete would be looked at again.
            for number in 0..=SNAPSHOT_CHANGES_MIN {
                fresh.write(vec![merge(KEYS[0], json!({"anew": number}))]).unwrap();
            }
            kept.catch_up();
        }
        for Written { kind, keys, number, .. } in &more {
            let _ = kept.write(written_steps(*kind, KEYS[keys.0 % 2], KEYS[keys.1 % 2], *number));
        }
        fresh.catch_up();
        prop_assert_eq!(fresh.everything(), kept.everything(), "and goes on like any other");
    }

    #[test]
    fn pages_of_keys_make_up_the_list_of_all(
        names in prop::collection::btree_set("[ab]{1,3}(/[ab]{1,2})?", 0..30),
        deleted in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        prefix in "[ab]{0,2}/?",
        limit in 1..8_usize,
    ) {
        let mut replica = Replica::new(1, &Arc::new(Ledger::default()));
        let mut naive: BTreeMap<String, serde_json::Value> = BTreeMap::new();
        for (number, name) in names.iter().enumerate() {
            replica.write(vec![put(name, json!({"n": number}))]).unwrap();
            naive.insert(name.clone(), json!({"n": number}));
        }
        for index in deleted {
            if naive.is_empty() {
                break;
            }
            let name = index.get(&naive.keys().collect::<Vec<_>>()).to_string();
            replica.write(vec![delete(&name)]).unwrap();
            naive.remove(&name);
        }
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = replica.page_of_keys(&prefix, after, limit);
            prop_assert!(page.items.len() <= limit);
            found.extend(page.items.into_iter().map(|item| (item.key.to_string(), item.value.unwrap())));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = naive.into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn pages_of_changes_and_a_stream_tell_each_visible_operation_once(
        writes in writes(1..25),
        delivery in delivery(),
        limit in 1..6_usize,
        opened_late in any::<bool>(),
    ) {
        let ledger = history(&writes);
        let mut replica = Replica::with(9, &ledger, delivery.cache_bytes, LARGE_DOCUMENT_BYTES);
        let start = replica.version();
        let token = replica.token();
        if opened_late {
            replica.catch_up();
        }
        replica.handle(Input::Watch { token, prefix: String::new(), since: Some(start), values: false });
        replica.catch_up();
        let position = |event: &ChangeEvent| (event.version.position, event.author, event.sequence, event.key.clone());
        let (mut paged, mut since) = (Vec::new(), Some(start));
        loop {
            let page = match replica.ask(Query::Changes { since, limit }) {
                Ok(Answer::Changes(page)) => page,
                other => panic!("{other:?}"),
            };
            paged.extend(page.events.iter().map(position));
            since = Some(page.version);
            if !page.more {
                break;
            }
        }
        let told = replica.changes.remove(&token).unwrap_or_default();
        prop_assert_eq!(&told.iter().map(position).collect::<Vec<_>>(), &paged);
        let mut naive: Vec<(DeviceId, u64, DocumentKey)> = Vec::new();
        for ((author, sequence), (transaction, _)) in ledger.written.lock().unwrap().iter() {
            naive.extend(transaction.entries.iter().map(|entry| (*author, *sequence, entry.key.clone())));
        }
        naive.sort();
        naive.dedup();
        let mut found: Vec<_> = paged.into_iter().map(|(_, author, sequence, key)| (author, sequence, key)).collect();
        found.sort();
        prop_assert_eq!(found, naive);
    }
}
