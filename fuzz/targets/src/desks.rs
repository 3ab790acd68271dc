//! Desks over indexes in memory, with a core that does as it is told: it keeps operations and delivers them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use serde_json::Value;
use syncline::documents::{
    Answer, CACHE_BYTES, ConflictScope, Content, Desk, DeskConfig, DocumentError, Input, Job, LARGE_DOCUMENT_BYTES,
    Opened, Operations, Output, Query, ReadError, Step, StringMode, Token,
};
use syncline_model::{Action, ContentKey, DeviceId, DocumentKey, Past, SpaceId, Transaction};
use syncline_storage::{MemoryDisk, MemoryIndex, OpenOptions, Store};

/// The space of all desks.
pub(crate) const SPACE: SpaceId = SpaceId([9; 32]);

/// The device with this number.
pub(crate) fn device(number: u8) -> DeviceId {
    DeviceId([number; 32])
}

/// The key in this text.
pub(crate) fn key(text: &str) -> DocumentKey {
    text.parse().expect("a valid key")
}

/// All durable operations of a space, by author and sequence, with their causal pasts.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    written: Mutex<BTreeMap<(DeviceId, u64), (Transaction, Past)>>,
}

impl Ledger {
    fn written(&self) -> MutexGuard<'_, BTreeMap<(DeviceId, u64), (Transaction, Past)>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn operation(&self, author: DeviceId, sequence: u64) -> Option<(Transaction, Past)> {
        self.written().get(&(author, sequence)).cloned()
    }

    /// Where the author's log ends.
    pub(crate) fn head(&self, author: DeviceId) -> u64 {
        self.written().range((author, 0)..=(author, u64::MAX)).next_back().map_or(0, |((_, sequence), _)| *sequence)
    }

    /// The causal past of an operation, itself included.
    pub(crate) fn past(&self, author: DeviceId, sequence: u64) -> Option<Past> {
        self.operation(author, sequence).map(|(_, past)| past)
    }

    /// Appends to the author's log; `past` is without the operation itself.
    pub(crate) fn write(&self, author: DeviceId, transaction: Transaction, mut past: Past) {
        let sequence = self.head(author) + 1;
        past.insert(author, sequence);
        self.written().insert((author, sequence), (transaction, past));
    }

    /// Everything that there is.
    pub(crate) fn everything(&self) -> Past {
        self.written().keys().copied().collect()
    }
}

impl Operations for Ledger {
    fn read(
        &self,
        author: &DeviceId,
        after: u64,
        through: u64,
        visit: &mut dyn FnMut(&Content),
    ) -> Result<(), ReadError> {
        for sequence in after + 1..=through {
            let missing = ReadError::Missing { author: *author, sequence };
            let (transaction, _) = self.operation(*author, sequence).ok_or(missing)?;
            let actor = transaction.lineage.actor(&SPACE, author);
            let Transaction { wall_time_ms, entries, .. } = transaction;
            visit(&Content { author: *author, sequence, wall_time_ms, actor, entries });
        }
        Ok(())
    }

    fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> Result<bool, ReadError> {
        let missing = ReadError::Missing { author: second.0, sequence: second.1 };
        let (_, past) = self.operation(second.0, second.1).ok_or(missing)?;
        Ok(first != second && past.get(&first.0).is_some_and(|reached| *reached >= first.1))
    }
}

/// A transaction that is handed to the core and not durable yet.
type Sealed = (Token, Transaction, Past);

/// A desk and its core.
pub(crate) struct Replica {
    pub(crate) device: DeviceId,
    desk: Desk,
    ledger: Arc<Ledger>,
    index: MemoryIndex,
    store: Store,
    config: DeskConfig,
    random: ChaCha8Rng,
    /// What the core has admitted.
    pub(crate) admitted: Past,
    sealed: VecDeque<Sealed>,
    answers: BTreeMap<Token, Result<Answer, DocumentError>>,
    jobs: VecDeque<Job>,
    tokens: Token,
    now_ms: u64,
}

fn store(index: &MemoryIndex) -> Store {
    let disk = Arc::new(MemoryDisk::new());
    Store::assemble(disk, Arc::new(index.clone()), OpenOptions::default()).expect("an empty disk")
}

impl Replica {
    pub(crate) fn new(number: u8, ledger: &Arc<Ledger>, strings: StringMode, small: bool) -> Self {
        let index = MemoryIndex::new();
        let store = store(&index);
        // Now and then documents leave the memory, and jobs the thread.
        let (cache_bytes, large_document_bytes) = if small { (1, 1) } else { (CACHE_BYTES, LARGE_DOCUMENT_BYTES) };
        let config = DeskConfig {
            space: SPACE,
            device: device(number),
            strings,
            seal_key: ContentKey([number; 32]),
            cache: cache_bytes.into(),
            large_document_bytes,
        };
        let mut random = ChaCha8Rng::seed_from_u64(u64::from(number));
        let operations: Arc<dyn Operations> = ledger.clone();
        let desk = Desk::open(config.clone(), store.node_index(), operations, &mut random).expect("an empty index");
        Self {
            device: device(number),
            desk,
            ledger: ledger.clone(),
            index,
            store,
            config,
            random,
            admitted: Past::new(),
            sealed: VecDeque::new(),
            answers: BTreeMap::new(),
            jobs: VecDeque::new(),
            tokens: 0,
            now_ms: 0,
        }
    }

    /// A new desk on the same index, or on an empty one; the core sends what the desk lacks.
    pub(crate) fn restart(&mut self, wipe: bool) {
        while self.commit() {}
        if wipe {
            self.index.erase();
            self.store = store(&self.index);
        }
        let operations: Arc<dyn Operations> = self.ledger.clone();
        let index = self.store.node_index();
        self.desk = Desk::open(self.config.clone(), index, operations, &mut self.random).expect("its own index opens");
        let before = std::mem::take(&mut self.admitted);
        self.deliver(&before, false);
        assert_eq!(self.admitted, before, "what was admitted is delivered again");
    }

    fn handle(&mut self, input: Input) {
        let mut out = Vec::new();
        self.now_ms += 1;
        self.desk.handle(input, self.now_ms, &mut self.random, &mut out);
        for output in out {
            match output {
                Output::Commit { token, transaction } => {
                    transaction.check().expect("the desk makes valid transactions");
                    let past = self.admitted.clone();
                    self.sealed.push_back((token, transaction, past));
                }
                Output::Answer { token, result } => {
                    assert!(self.answers.insert(token, result).is_none(), "{token} was answered twice");
                }
                Output::Change { .. } | Output::Unwatched { .. } | Output::Applied { .. } => {}
                Output::Work(job) => self.jobs.push_back(job),
            }
        }
        while let Some(job) = self.jobs.pop_front() {
            self.handle(Input::Worked(job.run()));
        }
        assert_eq!(self.desk.failure(), None);
    }

    /// Hands a transaction in, which becomes durable later.
    pub(crate) fn transact(&mut self, steps: Vec<Step>) -> Token {
        self.tokens += 1;
        self.handle(Input::Transact { token: self.tokens, steps });
        self.tokens
    }

    /// Makes the next transaction durable; false if there is none.
    pub(crate) fn commit(&mut self) -> bool {
        let Some((token, transaction, past)) = self.sealed.pop_front() else { return false };
        let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
        self.ledger.write(self.device, transaction, past);
        let sequence = self.ledger.head(self.device);
        self.admitted.insert(self.device, sequence);
        let past = self.ledger.past(self.device, sequence).filter(|_| deletes);
        self.handle(Input::Committed { token, author: self.device, sequence, past });
        true
    }

    /// Makes everything durable; the answer to a transaction is there then.
    pub(crate) fn settled(&mut self, token: Token) -> Result<Answer, DocumentError> {
        while self.commit() {}
        self.answers.remove(&token).expect("every request is answered")
    }

    /// Hands a transaction in and makes it durable.
    pub(crate) fn write(&mut self, steps: Vec<Step>) -> Result<Answer, DocumentError> {
        let token = self.transact(steps);
        self.settled(token)
    }

    fn ask(&mut self, query: Query) -> Result<Answer, DocumentError> {
        while self.commit() {}
        self.tokens += 1;
        let token = self.tokens;
        self.handle(Input::Query { token, query });
        self.answers.remove(&token).expect("every query is answered")
    }

    fn opened(&self, author: DeviceId, sequence: u64) -> Option<Opened> {
        let (transaction, past) = self.ledger.operation(author, sequence)?;
        let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
        Some(Opened {
            author,
            writer: author,
            sequence,
            wall_time_ms: transaction.wall_time_ms,
            lineage: transaction.lineage,
            actor: transaction.lineage.actor(&SPACE, &author),
            entries: transaction.entries,
            past: deletes.then_some(past),
            own: author == self.device,
        })
    }

    /// Delivers what of `wanted` is not here and has its causal past here, a batch for each author in turn, from the
    /// first author on or from the last one.
    pub(crate) fn deliver(&mut self, wanted: &Past, backwards: bool) {
        let mut authors: Vec<(DeviceId, u64)> = wanted.iter().map(|(author, reached)| (*author, *reached)).collect();
        if backwards {
            authors.reverse();
        }
        loop {
            let mut progress = false;
            for (author, reached) in &authors {
                let mut batch = Vec::new();
                while self.admitted.get(author).copied().unwrap_or(0) < *reached
                    && let Some(opened) = self.next_of(*author)
                {
                    self.admitted.insert(*author, opened.sequence);
                    batch.push(opened);
                }
                if !batch.is_empty() {
                    progress = true;
                    self.handle(Input::Apply(batch));
                }
            }
            if !progress {
                return;
            }
        }
    }

    /// The author's next operation, if its causal past is here.
    fn next_of(&self, author: DeviceId) -> Option<Opened> {
        let sequence = self.admitted.get(&author).map_or(1, |sequence| sequence + 1);
        let (_, past) = self.ledger.operation(author, sequence)?;
        let held = |other: &DeviceId| self.admitted.get(other).copied().unwrap_or(0);
        let ready = past.iter().all(|(other, reached)| held(other) + u64::from(*other == author) >= *reached);
        if ready { self.opened(author, sequence) } else { None }
    }

    /// Delivers an operation again that is here already.
    pub(crate) fn repeat(&mut self, author: DeviceId, sequence: u64) {
        if self.admitted.get(&author).is_some_and(|reached| (1..=*reached).contains(&sequence))
            && let Some(opened) = self.opened(author, sequence)
        {
            self.handle(Input::Apply(vec![opened]));
        }
    }

    /// The value of a document, if it exists. Whatever was delivered, it can be read.
    pub(crate) fn value(&mut self, text: &str) -> Option<Value> {
        match self.ask(Query::Get { key: key(text), wait_for: None }) {
            Ok(Answer::Document(view)) => Some(view.value),
            Err(DocumentError::NotFound { .. }) => None,
            other => panic!("{text} cannot be read: {other:?}"),
        }
    }

    /// The keys that exist.
    pub(crate) fn keys(&mut self) -> Vec<String> {
        let query = Query::List { prefix: String::new(), after: None, limit: usize::MAX, values: false };
        match self.ask(query) {
            Ok(Answer::List(list)) => list.items.into_iter().map(|item| item.key.to_string()).collect(),
            other => panic!("no list of keys: {other:?}"),
        }
    }

    /// All that can be seen of the documents, for comparison with other replicas.
    pub(crate) fn shown(&mut self) -> BTreeMap<String, String> {
        let mut shown = BTreeMap::new();
        for text in self.keys() {
            let view = match self.ask(Query::Get { key: key(&text), wait_for: None }) {
                Ok(Answer::Document(view)) => view,
                other => panic!("{text} cannot be read: {other:?}"),
            };
            let scope = ConflictScope::Document(key(&text));
            let Ok(Answer::Conflicts(page)) = self.ask(Query::Conflicts { within: scope }) else {
                panic!("the conflicts of {text} cannot be read");
            };
            let conflicts = page.documents.into_iter().map(|document| {
                let mut blocked: Vec<_> =
                    document.blocked.iter().map(|change| (change.author, change.sequence)).collect();
                blocked.sort_unstable();
                format!("{:?} {blocked:?}", document.places)
            });
            let conflicts: Vec<String> = conflicts.collect();
            let history = Query::History { key: key(&text), after: None, limit: 1000 };
            assert!(matches!(self.ask(history), Ok(Answer::History(_))), "the history of {text} cannot be read");
            shown.insert(text, format!("{} {:?} {conflicts:?}", view.value, view.heads));
        }
        shown
    }
}
