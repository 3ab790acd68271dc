//! A desk over an index in memory, with a core that seals, keeps and delivers operations; and writers elsewhere.

use super::*;

pub(super) const SPACE: SpaceId = SpaceId([9; 32]);

/// All durable operations of a space, by author and sequence.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) written: Mutex<BTreeMap<(DeviceId, u64), (Transaction, Past)>>,
}

impl Ledger {
    pub(super) fn operation(&self, author: DeviceId, sequence: u64) -> Option<(Transaction, Past)> {
        self.written.lock().unwrap().get(&(author, sequence)).cloned()
    }

    pub(super) fn write(&self, author: DeviceId, sequence: u64, transaction: Transaction, past: Past) {
        assert!(self.written.lock().unwrap().insert((author, sequence), (transaction, past)).is_none());
    }

    pub(super) fn heads(&self) -> Past {
        let mut heads = Past::new();
        for (author, sequence) in self.written.lock().unwrap().keys() {
            heads.insert(*author, *sequence);
        }
        heads
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
            visit(&Content {
                author: *author,
                sequence,
                wall_time_ms: transaction.wall_time_ms,
                actor: transaction.lineage.actor(&SPACE, author),
                entries: transaction.entries,
            });
        }
        Ok(())
    }

    fn precedes(&self, first: (DeviceId, u64), second: (DeviceId, u64)) -> Result<bool, ReadError> {
        let (_, past) = self.operation(second.0, second.1).unwrap();
        Ok(first != second && past.get(&first.0).is_some_and(|reached| *reached >= first.1))
    }
}

/// A desk with a core that does as it is told.
pub(super) struct Replica {
    pub(super) desk: Desk,
    pub(super) device: DeviceId,
    pub(super) ledger: Arc<Ledger>,
    pub(super) index: MemoryIndex,
    pub(super) store: Store,
    pub(super) config: DeskConfig,
    pub(super) random: StdRng,
    /// The core's vector: what it has admitted.
    pub(super) admitted: Past,
    /// Sealed, not durable.
    pub(super) sealed: VecDeque<(Token, u64, Transaction, Past)>,
    pub(super) sealed_up_to: u64,
    pub(super) answers: BTreeMap<Token, Result<Answer, DocumentError>>,
    pub(super) changes: BTreeMap<Token, Vec<ChangeEvent>>,
    pub(super) jobs: VecDeque<Job>,
    /// Whether jobs wait until they are told to run.
    pub(super) holds_jobs: bool,
    pub(super) tokens: Token,
    pub(super) now_ms: u64,
}

pub(super) fn device(name: u8) -> DeviceId {
    DeviceId([name; 32])
}

pub(super) fn key(text: &str) -> DocumentKey {
    text.parse().unwrap()
}

pub(super) fn put(text: &str, value: serde_json::Value) -> Step {
    Step::Edit { key: key(text), edit: Edit::Put(value) }
}

pub(super) fn merge(text: &str, value: serde_json::Value) -> Step {
    Step::Edit { key: key(text), edit: Edit::Merge(value) }
}

pub(super) fn delete(text: &str) -> Step {
    Step::Delete { key: key(text) }
}

impl Replica {
    pub(super) fn new(name: u8, ledger: &Arc<Ledger>) -> Self {
        Self::with(name, ledger, CACHE_BYTES, LARGE_DOCUMENT_BYTES)
    }

    pub(super) fn with(
        name: u8,
        ledger: &Arc<Ledger>,
        cache: impl Into<CacheBudget>,
        large_document_bytes: usize,
    ) -> Self {
        let index = MemoryIndex::new();
        let disk = Arc::new(MemoryDisk::new());
        let store = Store::assemble(disk, Arc::new(index.clone()), OpenOptions::default()).unwrap();
        let config = DeskConfig {
            space: SPACE,
            device: device(name),
            strings: StringMode::Scalar,
            seal_key: ContentKey([name; 32]),
            cache: cache.into(),
            large_document_bytes,
        };
        let mut random = StdRng::seed_from_u64(u64::from(name));
        let operations: Arc<dyn Operations> = ledger.clone();
        let desk = Desk::open(config.clone(), store.node_index(), operations, &mut random).unwrap();
        Self {
            desk,
            device: device(name),
            ledger: ledger.clone(),
            index,
            store,
            config,
            random,
            admitted: Past::new(),
            sealed: VecDeque::new(),
            sealed_up_to: 0,
            answers: BTreeMap::new(),
            changes: BTreeMap::new(),
            jobs: VecDeque::new(),
            holds_jobs: false,
            tokens: 1000,
            now_ms: 0,
        }
    }

    /// A new desk on the same index, or on an empty one; the core sends what the desk lacks.
    pub(super) fn restart(&mut self, wipe: bool) {
        if wipe {
            self.index.erase();
            let disk = Arc::new(MemoryDisk::new());
            self.store = Store::assemble(disk, Arc::new(self.index.clone()), OpenOptions::default()).unwrap();
        }
        let operations: Arc<dyn Operations> = self.ledger.clone();
        let index = self.store.node_index();
        self.desk = Desk::open(self.config.clone(), index, operations, &mut self.random).unwrap();
        self.sealed.clear();
        self.sealed_up_to = self.admitted.get(&self.device).copied().unwrap_or(0);
        let admitted = std::mem::take(&mut self.admitted);
        while self.admitted != admitted {
            for (author, reached) in &admitted {
                let next = self.admitted.get(author).map_or(1, |sequence| sequence + 1);
                if next <= *reached {
                    self.deliver(*author, next);
                }
            }
        }
    }

    pub(super) fn handle(&mut self, input: Input) {
        let mut out = Vec::new();
        self.now_ms += 1;
        self.desk.handle(input, self.now_ms, &mut self.random, &mut out);
        for output in out {
            match output {
                Output::Commit { token, transaction } => {
                    self.sealed_up_to += 1;
                    let mut past = self.admitted.clone();
                    past.insert(self.device, self.sealed_up_to);
                    transaction.check().unwrap();
                    self.sealed.push_back((token, self.sealed_up_to, transaction, past));
                }
                Output::Answer { token, result } => {
                    let before = self.answers.insert(token, result);
                    assert!(before.is_none(), "{token} was answered twice");
                }
                Output::Change { token, events } => self.changes.entry(token).or_default().extend(events),
                Output::Unwatched { .. } | Output::Applied { .. } => {}
                Output::Work(job) => self.jobs.push_back(job),
            }
        }
        while !self.holds_jobs && self.run_job() {}
    }

    pub(super) fn run_job(&mut self) -> bool {
        let Some(job) = self.jobs.pop_front() else { return false };
        self.handle(Input::Worked(job.run()));
        true
    }

    pub(super) fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    /// Hands a transaction in; it becomes durable later.
    pub(super) fn transact(&mut self, steps: Vec<Step>) -> Token {
        let token = self.token();
        self.handle(Input::Transact { token, steps });
        token
    }

    /// Makes the next sealed transaction durable.
    pub(super) fn commit(&mut self) -> bool {
        let Some((token, sequence, transaction, past)) = self.sealed.pop_front() else { return false };
        let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
        self.ledger.write(self.device, sequence, transaction, past.clone());
        self.admitted.insert(self.device, sequence);
        let past = deletes.then_some(past);
        self.handle(Input::Committed { token, author: self.device, sequence, past });
        true
    }

    /// Hands a transaction in and makes it durable.
    pub(super) fn write(&mut self, steps: Vec<Step>) -> Result<Answer, DocumentError> {
        let token = self.transact(steps);
        while self.commit() {}
        self.answers.remove(&token).expect("it is answered")
    }

    pub(super) fn query(&mut self, query: Query) -> Token {
        let token = self.token();
        self.handle(Input::Query { token, query });
        token
    }

    pub(super) fn ask(&mut self, query: Query) -> Result<Answer, DocumentError> {
        let token = self.query(query);
        self.answers.remove(&token).expect("it is answered")
    }

    pub(super) fn value(&mut self, text: &str) -> Option<serde_json::Value> {
        match self.ask(Query::Get { key: key(text), wait_for: None }) {
            Ok(Answer::Document(view)) => Some(view.value),
            Err(DocumentError::NotFound { .. }) => None,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn keys(&mut self) -> Vec<String> {
        let query = Query::List { prefix: String::new(), after: None, limit: usize::MAX, values: false };
        match self.ask(query) {
            Ok(Answer::List(list)) => list.items.into_iter().map(|item| item.key.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn version(&mut self) -> Version {
        self.desk.stats().version
    }

    pub(super) fn opened(&self, author: DeviceId, sequence: u64) -> Opened {
        let (transaction, past) = self.ledger.operation(author, sequence).unwrap();
        let deletes = transaction.entries.iter().any(|entry| entry.action == Action::Delete);
        Opened {
            author,
            writer: author,
            sequence,
            wall_time_ms: transaction.wall_time_ms,
            lineage: transaction.lineage,
            actor: transaction.lineage.actor(&SPACE, &author),
            entries: transaction.entries,
            past: deletes.then_some(past),
            own: author == self.device,
        }
    }

    /// Delivers an operation if its causal past is here.
    pub(super) fn deliver(&mut self, author: DeviceId, sequence: u64) -> bool {
        let Some((_, past)) = self.ledger.operation(author, sequence) else { return false };
        let held = |author: &DeviceId| self.admitted.get(author).copied().unwrap_or(0);
        let ready = past.iter().all(|(other, reached)| held(other) + u64::from(*other == author) >= *reached);
        if !ready || held(&author) + 1 != sequence {
            return false;
        }
        self.admitted.insert(author, sequence);
        let opened = self.opened(author, sequence);
        self.handle(Input::Apply(vec![opened]));
        true
    }

    /// Delivers all that there is.
    pub(super) fn catch_up(&mut self) {
        let authors: Vec<DeviceId> = {
            let mut all: Vec<DeviceId> =
                self.ledger.written.lock().unwrap().keys().map(|(author, _)| *author).collect();
            all.dedup();
            all
        };
        let mut progress = true;
        while progress {
            progress = false;
            for author in &authors {
                let next = self.admitted.get(author).map_or(1, |sequence| sequence + 1);
                progress |= self.deliver(*author, next);
            }
        }
    }

    /// All that can be seen of the documents, for comparison.
    pub(super) fn everything(&mut self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for text in self.keys() {
            let view = match self.ask(Query::Get { key: key(&text), wait_for: None }) {
                Ok(Answer::Document(view)) => format!("{} {:?}", view.value, view.heads),
                other => format!("{other:?}"),
            };
            let conflicts = match self.ask(Query::Conflicts { within: ConflictScope::Document(key(&text)) }) {
                Ok(Answer::Conflicts(page)) => {
                    let mut blocked = page.documents[0].blocked.clone();
                    blocked.sort_by_key(|change| (change.author, change.sequence));
                    let blocked: Vec<_> = blocked.iter().map(|change| (change.author, change.sequence)).collect();
                    format!("{:?} {blocked:?}", page.documents[0].places)
                }
                other => format!("{other:?}"),
            };
            all.insert(text, format!("{view} {conflicts}"));
        }
        all
    }
}

pub(super) fn pair() -> (Replica, Replica) {
    let ledger = Arc::new(Ledger::default());
    (Replica::new(1, &ledger), Replica::new(2, &ledger))
}

/// An author without a desk, who writes what it likes.
pub(super) struct Stranger {
    pub(super) device: DeviceId,
    pub(super) ledger: Arc<Ledger>,
    pub(super) written: u64,
}

impl Stranger {
    pub(super) fn new(name: u8, ledger: &Arc<Ledger>) -> Self {
        Self { device: device(name), ledger: ledger.clone(), written: 0 }
    }

    pub(super) fn actor(&self) -> [u8; 20] {
        Lineage([0; 16]).actor(&SPACE, &self.device)
    }

    /// A change that puts a value into an empty document, as the first of its actor.
    pub(super) fn first(&self, value: serde_json::Value) -> Action {
        let change = Document::new().edit(&self.actor(), &[Edit::Put(value)], StringMode::Scalar).unwrap();
        Action::Change(change.unwrap().bytes)
    }

    /// The second change of its actor, on top of a first one.
    pub(super) fn second(&self, first: &Action, value: serde_json::Value) -> Action {
        let Action::Change(bytes) = first else { panic!("not a change") };
        let mut document = Document::new();
        let change = IncomingChange { bytes: bytes.clone(), expected_actor: Some(self.actor()) };
        assert!(document.apply(vec![change]).outcomes[0].is_ok());
        let change = document.edit(&self.actor(), &[Edit::Merge(value)], StringMode::Scalar).unwrap();
        Action::Change(change.unwrap().bytes)
    }

    pub(super) fn write(&mut self, entries: Vec<(&str, Action)>, past: &Past) {
        self.written += 1;
        let mut past = past.clone();
        past.insert(self.device, self.written);
        let entries = entries.into_iter().map(|(text, action)| Entry { key: key(text), action }).collect();
        let transaction = Transaction { wall_time_ms: 1, lineage: Lineage([0; 16]), entries };
        self.ledger.write(self.device, self.written, transaction, past);
    }
}

/// A change by another Automerge program with a short actor.
pub(super) fn foreign(actor: &[u8], value: i64) -> Action {
    use automerge::ReadDoc;
    use automerge::transaction::Transactable;
    let mut document = automerge::Automerge::new();
    document.set_actor(automerge::ActorId::from(actor));
    let mut transaction = document.transaction();
    transaction.put(automerge::ROOT, "foreign", value).unwrap();
    let (hash, _) = transaction.commit();
    Action::ForeignChange(document.get_change_by_hash(&hash.unwrap()).unwrap().raw_bytes().to_vec())
}

/// Keys that random histories write to.
pub(super) const KEYS: [&str; 4] = ["a", "b", "c/d", "e"];

pub(super) fn written_steps(kind: u8, first: &str, second: &str, number: u32) -> Vec<Step> {
    let increment = |text| Step::Edit { key: key(text), edit: Edit::Increment { path: "/n".parse().unwrap(), by: 1 } };
    match kind {
        0 => vec![put(first, json!({"v": number}))],
        1 => vec![merge(first, json!({"v": number, "w": {"x": number}}))],
        2 => vec![increment(first)],
        3 => vec![delete(first)],
        4 => vec![delete(first), merge(first, json!({"again": number}))],
        5 => vec![merge(first, json!({"m": number})), merge(second, json!({"m": number}))],
        6 => vec![merge(first, json!({"m": number})), delete(second)],
        _ => vec![put(first, json!({"p": number})), increment(second), merge(first, json!({"q": number}))],
    }
}
