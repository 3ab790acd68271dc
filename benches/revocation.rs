//! What it takes until everybody writes under new keys, once a member is removed: real nodes over loopback TCP.
//!
//! ```text
//! cargo bench --bench revocation -- [--members 100] [--documents 10000] [--rounds 3] [--links 3] [--index sled|redb]
//! ```
//!
//! All nodes run in this process, each with a directory, a swarm and threads of its own. They come by ticket, so each
//! is connected to the steward, and each to `--links` others beside. In a round the steward removes a member that is
//! online and then writes one document, which is sealed with the new key. Whoever sees that document has taken in the
//! removal and has the new key; it writes a document of its own at once, and the round ends when the steward shows all
//! of them. A round without a removal comes before each, so that the table tells what the removal itself costs.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use futures::StreamExt;
use serde_json::{Value, json};
use syncline::documents::{Edit, Step};
use syncline::node::info::InvitationTerms;
use syncline::space::Act;
use syncline::{IndexKind, Node, Role, Space, Strings, Watch};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How many nodes join at once.
const JOINING_AT_ONCE: usize = 8;
/// Devices that one ticket is for; there are as many tickets as that takes.
const USES: u32 = 32;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a removed member is watched for reading what it must not.
const LISTENING: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Outcome<()> {
    let wanted = Wanted::parse()?;
    let mut group = Group::start(&wanted).await?;
    let mut rounds = Vec::new();
    for round in 0..wanted.rounds {
        let quiet = group.round(round, false).await?;
        rounds.push((quiet, group.round(round, true).await?));
    }
    print_table(&wanted, &rounds);
    group.end().await;
    Ok(())
}

/// What the command line asks for.
struct Wanted {
    members: usize,
    documents: usize,
    rounds: usize,
    links: usize,
    index: IndexKind,
}

impl Wanted {
    fn parse() -> Outcome<Self> {
        let mut wanted = Self { members: 100, documents: 10_000, rounds: 3, links: 3, index: IndexKind::default() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--members" => wanted.members = value()?.parse()?,
                "--documents" => wanted.documents = value()?.parse()?,
                "--rounds" => wanted.rounds = value()?.parse()?,
                "--links" => wanted.links = value()?.parse()?,
                "--index" => {
                    let name = value()?;
                    let kinds = [IndexKind::Sled, IndexKind::Redb];
                    let kind = kinds.into_iter().find(|kind| kind.name() == name);
                    wanted.index = kind.ok_or_else(|| format!("there is no index `{name}`"))?;
                }
                // What cargo itself adds.
                "--bench" => {}
                other => return Err(format!("`{other}` is not known here").into()),
            }
        }
        if wanted.members < wanted.rounds + 2 {
            return Err("each round removes a member, and two have to remain".into());
        }
        Ok(wanted)
    }
}

/// A member of the group.
struct Member {
    node: Node,
    space: Space,
    _directory: tempfile::TempDir,
}

/// The steward and everybody who is in.
struct Group {
    steward: Member,
    others: Vec<Member>,
    removed: Vec<Member>,
}

/// What one round took.
struct Round {
    /// Until the steward's call returned: the removal, or nothing, is durable.
    decided: Duration,
    /// When each member read what the steward wrote after it.
    read: Vec<Duration>,
    /// When each member's own document was durable.
    wrote: Vec<Duration>,
    /// Until the steward showed all of them.
    shown: Duration,
    /// What all nodes together took of the processors until then.
    worked: Duration,
    /// Bytes sent by all nodes.
    sent: u64,
    /// Bytes sent by the steward alone.
    sent_by_steward: u64,
}

impl Group {
    async fn start(wanted: &Wanted) -> Outcome<Self> {
        let began = Instant::now();
        let (node, directory) = start_node(wanted.index).await?;
        let space = node.create_space("bench", Strings::Scalar).await?.space;
        import(&space, wanted.documents).await?;
        let steward = Member { node, space, _directory: directory };
        note(&format!("{} documents written after {:.1} s", wanted.documents, began.elapsed().as_secs_f64()));
        let mut tickets = Vec::new();
        for _ in 0..wanted.members.div_ceil(USES as usize) {
            let terms = InvitationTerms { role: Role::Writer, uses: USES, lasts_ms: 3_600_000 };
            tickets.push(steward.space.invite(terms).await?.to_string());
        }
        let join = |number: usize| {
            let ticket = &tickets[number / USES as usize];
            async move {
                let (node, directory) = start_node(wanted.index).await?;
                let space = node.join(ticket, None).await?;
                let member = Member { node, space, _directory: directory };
                until(|| member.holds(wanted.documents), "a member to have joined").await?;
                Outcome::Ok(member)
            }
        };
        let mut joining = futures::stream::iter((1..wanted.members).map(join)).buffered(JOINING_AT_ONCE);
        let mut others = Vec::new();
        while let Some(member) = joining.next().await {
            others.push(member?);
            if others.len().is_multiple_of(10) {
                let seconds = began.elapsed().as_secs_f64();
                note(&format!("{} joined after {seconds:.1} s, {} MB resident", others.len(), resident_mb()));
            }
        }
        drop(joining);
        let group = Self { steward, others, removed: Vec::new() };
        group.link(wanted.links).await?;
        note(&format!("all are linked after {:.1} s, {} MB resident", began.elapsed().as_secs_f64(), resident_mb()));
        Ok(group)
    }

    /// Connects each to some others, the same ones in every run.
    async fn link(&self, links: usize) -> Outcome<()> {
        let count = self.others.len();
        for (number, member) in self.others.iter().enumerate() {
            for link in 1..=links {
                let other = &self.others[(number + link * link * 7 + link) % count];
                if other.node.device() != member.node.device() {
                    member.node.connect(&other.node.listen_addresses()[0]).await?;
                }
            }
        }
        Ok(())
    }

    fn everybody(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.steward).chain(&self.others)
    }

    async fn round(&mut self, round: usize, removal: bool) -> Outcome<Round> {
        let prefix = format!("{}/{round}", if removal { "removal" } else { "quiet" });
        let (word, answers) = (format!("{prefix}/word"), format!("{prefix}/answers/"));
        let gone = if removal { self.others.pop() } else { None };
        let mut members = Vec::new();
        for member in &self.others {
            let seen = member.space.watch(&word, None, false).await?;
            members.push((member.space.clone(), seen, format!("{answers}{}", member.node.device())));
        }
        let shown = self.steward.space.watch(&answers, None, false).await?;
        let before: Vec<u64> = self.everybody().map(|member| member.node.traffic().sent).collect();

        let (began, worked) = (Instant::now(), processor_time());
        let answering: Vec<_> =
            members.into_iter().map(|(space, seen, key)| tokio::spawn(answer(space, seen, key, began))).collect();
        let all = tokio::spawn(last_of(shown, answering.len(), began));
        if let Some(gone) = &gone {
            self.steward.space.govern(Act::Remove { devices: vec![gone.node.device()] }).await?;
        }
        let decided = began.elapsed();
        self.steward.space.put(&word, json!({"round": round})).await?;
        let shown = tokio::time::timeout(PATIENCE, all).await???;
        let worked = processor_time().saturating_sub(worked);
        let sent: Vec<u64> = self
            .everybody()
            .map(|member| member.node.traffic().sent)
            .zip(before)
            .map(|(after, before)| after - before)
            .collect();
        let (mut read, mut wrote) = (Vec::new(), Vec::new());
        for outcome in answering {
            let (saw, answered) = outcome.await??;
            read.push(saw);
            wrote.push(answered);
        }
        read.sort();
        wrote.sort();
        if let Some(gone) = gone {
            tokio::time::sleep(LISTENING).await;
            check_removal(&gone, &prefix).await?;
            self.removed.push(gone);
        }
        self.all_in_step(&answers).await?;
        let (sent, sent_by_steward) = (sent.iter().sum(), sent[0]);
        Ok(Round { decided, read, wrote, shown, worked, sent, sent_by_steward })
    }

    /// Waits until everybody has what everybody wrote in the round.
    async fn all_in_step(&self, answers: &str) -> Outcome<()> {
        for member in self.everybody() {
            let complete = || async {
                let page = member.space.list(answers, None, 1000, false).await;
                page.is_ok_and(|page| page.items.len() == self.others.len())
            };
            until(complete, "all to be in step").await?;
        }
        Ok(())
    }

    async fn end(self) {
        for member in std::iter::once(self.steward).chain(self.others).chain(self.removed) {
            member.node.shutdown().await;
        }
    }
}

impl Member {
    /// Whether it may write and shows so many documents.
    async fn holds(&self, documents: usize) -> bool {
        let status = self.space.status().await;
        status.is_ok_and(|status| status.role.is_some() && status.documents >= documents as u64)
    }
}

/// Answers the steward's word with a document; tells when it came and when the answer was durable.
async fn answer(space: Space, mut seen: Watch, key: String, began: Instant) -> Outcome<(Duration, Duration)> {
    seen.next().await.ok_or("the stream ended")??;
    let read = began.elapsed();
    space.put(&key, json!({"text": "some words to reach a hundred bytes in all, more or less"})).await?;
    Ok((read, began.elapsed()))
}

/// When the last of so many documents came.
async fn last_of(mut shown: Watch, count: usize, began: Instant) -> Outcome<Duration> {
    for _ in 0..count {
        shown.next().await.ok_or("the stream ended")??;
    }
    Ok(began.elapsed())
}

/// The measurement says nothing if whoever was removed still reads what is written.
async fn check_removal(gone: &Member, prefix: &str) -> Outcome<()> {
    let read = gone.space.list(prefix, None, 1000, false).await?.items.len();
    if read > 0 {
        return Err(format!("the removed member reads {read} documents that were written after its removal").into());
    }
    match gone.space.put("late", json!({})).await {
        Err(_) => Ok(()),
        Ok(_) => Err("the removed member does not know that it was removed, and writes".into()),
    }
}

async fn start_node(index: IndexKind) -> Outcome<(Node, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let node = Node::builder()
        .data(directory.path())
        .create(true)
        .index(index)
        .listen("/ip4/127.0.0.1/tcp/0")
        .mdns(false)
        .quic(false)
        .reserve_bytes(Some(0))
        .scrub_bytes_per_second(0)
        .document_cache_bytes(1 << 20)
        .index_cache_bytes(4 << 20);
    Ok((node.start().await?, directory))
}

/// Writes the cities, each as an operation of its own.
async fn import(space: &Space, documents: usize) -> Outcome<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/cities.ndjson.gz");
    let lines = BufReader::new(GzDecoder::new(File::open(path)?)).lines();
    let steps = lines.take(documents).map(|line| {
        let record: Value = serde_json::from_str(&line?)?;
        let key = record["key"].as_str().ok_or("a record without a key")?.parse()?;
        Outcome::Ok(vec![Step::Edit { key, edit: Edit::Put(record["value"].clone()) }])
    });
    let steps = steps.collect::<Outcome<Vec<_>>>()?;
    if steps.len() < documents {
        return Err(format!("there are {} cities", steps.len()).into());
    }
    let mut written = futures::stream::iter(steps).map(|steps| space.transact(steps)).buffer_unordered(64);
    while let Some(outcome) = written.next().await {
        outcome?;
    }
    Ok(())
}

async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F, what: &str) -> Outcome<()> {
    let started = Instant::now();
    while !holds().await {
        if started.elapsed() > PATIENCE {
            return Err(format!("waited in vain for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Resident memory of this process in MB.
fn resident_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// What this process took of the processors, in the kernel's ticks of 10 ms.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The process's name may hold spaces; user and system time are the 14th and 15th field.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

#[expect(clippy::print_stderr, reason = "it takes long, so somebody wants to see that it goes on")]
fn note(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "a table is what this program is for")]
fn print_table(wanted: &Wanted, rounds: &[(Round, Round)]) {
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let time = |of: &dyn Fn(&Round) -> Duration| figures(rounds, &|round| millis(of(round)), "ms");
    let middle = |times: &[Duration]| times[times.len() / 2];
    let last = |times: &[Duration]| times[times.len() - 1];
    println!("One of {} members removed, {} documents, {} rounds", wanted.members, wanted.documents, wanted.rounds);
    println!("| what | without a removal | with one |\n| --- | ---: | ---: |");
    println!("| durable at the steward | {} |", time(&|round| round.decided));
    println!("| half of the members read what comes after | {} |", time(&|round| middle(&round.read)));
    println!("| all do | {} |", time(&|round| last(&round.read)));
    println!("| half of the members have written since | {} |", time(&|round| middle(&round.wrote)));
    println!("| all have | {} |", time(&|round| last(&round.wrote)));
    println!("| the steward shows all of that | {} |", time(&|round| round.shown));
    println!("| processor time of all until then | {} |", time(&|round| round.worked));
    println!("| sent by all | {} |", figures(rounds, &|round| round.sent as f64 / 1e3, "kB"));
    println!("| of that by the steward | {} |", figures(rounds, &|round| round.sent_by_steward as f64 / 1e3, "kB"));
}

/// Medians without and with a removal, each with the least and the most.
fn figures(rounds: &[(Round, Round)], of: &dyn Fn(&Round) -> f64, unit: &str) -> String {
    let column = |pick: fn(&(Round, Round)) -> &Round| {
        let mut values: Vec<f64> = rounds.iter().map(|pair| of(pick(pair))).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        format!("{:.0} {unit} ({least:.0} to {most:.0})", values[values.len() / 2])
    };
    format!("{} | {}", column(|pair| &pair.0), column(|pair| &pair.1))
}
