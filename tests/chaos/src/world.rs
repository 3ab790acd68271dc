//! What all parts of a run share: the nodes, the records of the clients, the counts, and what was found to be wrong.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::history::{Additions, Seen, Stream, TextModel};
use crate::node::Node;
use crate::proxy::Proxy;

/// Violations of which the text is kept; further ones are counted.
const VIOLATIONS_KEPT: usize = 40;
/// Counters that all writers share.
pub(crate) const COUNTERS: usize = 4;
/// The name of the space on every node.
pub(crate) const SPACE: &str = "chaos";

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Clients work and faults happen.
    Chaos,
    /// Clients end; faults still happen.
    Quiet,
    /// Faults end and everything is made good.
    Healing,
}

/// Everything that is shared.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) started: Instant,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) proxy: Proxy,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) counts: Counts,
    pub(crate) records: Records,
    violations: Mutex<(Vec<String>, u64)>,
}

/// What the clients recorded.
#[derive(Debug)]
pub(crate) struct Records {
    /// One for each client that adds to the set.
    pub(crate) streams: Vec<SetClient>,
    /// By counter, then by node.
    pub(crate) additions: Vec<Vec<Mutex<Additions>>>,
    /// By node; none for those who do not write.
    pub(crate) texts: Vec<Option<Mutex<TextModel>>>,
    /// By node, then by stream: what observers saw there.
    pub(crate) seen: Vec<Mutex<Vec<Seen>>>,
    /// By chain: which links were acknowledged.
    pub(crate) chains: Mutex<Vec<[bool; 2]>>,
}

/// One client that adds to the set.
#[derive(Debug)]
pub(crate) struct SetClient {
    pub(crate) node: usize,
    pub(crate) stream: Mutex<Stream>,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// How often what happened.
        #[derive(Debug, Default)]
        pub(crate) struct Counts { $($(#[$doc])* pub(crate) $name: Count,)* }
    };
}

counts! {
    /// SIGKILLs that hit a living process.
    kills,
    /// … of which before it was ready.
    kills_starting,
    /// SIGSTOPs with their SIGCONT.
    pauses,
    /// SIGTERMs in the middle.
    restarts,
    /// Partitions in both directions.
    partitions,
    /// Partitions in one direction.
    half_partitions,
    /// Times that the links of a node were slow.
    slow_links,
    /// Connections between two nodes closed in their middle.
    cuts,
    /// Times that the disk was full.
    full_disks,
    /// Processes that ended by themselves while their disk was full.
    ended_full,
    /// Acknowledged additions to the set.
    set,
    /// Acknowledged additions to counters.
    counter,
    /// Acknowledged links of causal chains.
    causal,
    /// Acknowledged pieces of texts.
    text,
    /// Writes of which the outcome is not known.
    unknown,
    /// Writes refused since the disk was full.
    refused,
    /// Elements looked at by observers.
    looked_at,
    /// Counters read.
    counters_read,
    /// Causal chains of which the effect was seen, and the cause looked for.
    chains,
}

/// One count.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// All acknowledged writes.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.set.now() + self.counter.now() + self.causal.now() + self.text.now()
    }
}

impl Records {
    /// Empty records: so many set clients for each node that writes.
    pub(crate) fn new(nodes: &[Arc<Node>], clients_per_node: usize) -> Self {
        let writing = nodes.iter().filter(|node| node.role.writes());
        let clients = writing.flat_map(|node| std::iter::repeat_n(node.number, clients_per_node));
        let streams: Vec<SetClient> = clients.map(|node| SetClient { node, stream: Mutex::default() }).collect();
        let additions = || nodes.iter().map(|_| Mutex::default()).collect();
        Self {
            additions: (0..COUNTERS).map(|_| additions()).collect(),
            texts: nodes.iter().map(|node| node.role.writes().then(Mutex::default)).collect(),
            seen: nodes.iter().map(|_| Mutex::new(vec![Seen::default(); streams.len()])).collect(),
            streams,
            chains: Mutex::default(),
        }
    }

    /// What was acknowledged and attempted on one counter, over all nodes.
    pub(crate) fn sums(&self, counter: usize) -> (i64, i64) {
        let all = self.additions[counter].iter().map(|additions| *locked(additions));
        all.fold((0, 0), |sums, next| (sums.0 + next.acknowledged(), sums.1 + next.attempted()))
    }
}

impl World {
    pub(crate) fn new(seed: u64, nodes: Vec<Arc<Node>>, proxy: Proxy, clients_per_node: usize) -> Self {
        Self {
            seed,
            started: Instant::now(),
            records: Records::new(&nodes, clients_per_node),
            nodes,
            proxy,
            phase: watch::Sender::new(Phase::Chaos),
            counts: Counts::default(),
            violations: Mutex::default(),
        }
    }

    /// Whether the run has come to this phase.
    pub(crate) fn reached(&self, phase: Phase) -> bool {
        *self.phase.borrow() >= phase
    }

    /// Sleeps, but not beyond the beginning of a phase; tells whether that has come.
    pub(crate) async fn sleep_unless(&self, phase: Phase, pause: Duration) -> bool {
        let mut watched = self.phase.subscribe();
        let reached = async { watched.wait_for(|now| *now >= phase).await.is_ok() };
        tokio::time::timeout(pause, reached).await.is_ok()
    }

    /// Notes something that may not be, and says it at once.
    pub(crate) fn violated(&self, what: String) {
        let mut violations = locked(&self.violations);
        violations.1 += 1;
        if violations.0.len() < VIOLATIONS_KEPT {
            say(&format!("VIOLATION after {} s: {what}", self.started.elapsed().as_secs()));
            violations.0.push(what);
        }
    }

    /// What was found to be wrong, as far as kept, and how much it is.
    pub(crate) fn violations(&self) -> (Vec<String>, u64) {
        locked(&self.violations).clone()
    }
}

/// Locks what no holder leaves half changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a line; that nobody reads any more is no reason to end before the nodes are ended.
pub(crate) fn say(line: &str) {
    let _unread = writeln!(io::stdout().lock(), "{line}");
}
