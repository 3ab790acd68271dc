//! The end of a run: everything is made good, everybody gets in step, and what is held is compared with the records.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::faults;
use crate::history::{SetFaults, check_chain, check_counter, check_set};
use crate::keys::{self, MARKER, Named};
use crate::node::{Node, Process};
use crate::world::{COUNTERS, SPACE, World, locked, say};

/// How long nodes may take to get in step, at least, and for each so many acknowledged writes a second more.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
const WRITES_PER_SECOND: u64 = 2000;
/// The pause between two looks at how far they are.
const STEP_LOOK: Duration = Duration::from_millis(200);
/// Keys named in one violation.
const KEYS_NAMED: usize = 5;
/// Lines of a log that are quoted.
const LINES_QUOTED: usize = 3;
/// How much of a file is compared or searched at once.
const BLOCK: usize = 1 << 20;
/// What stands at the end of a member's key file for each key: a count, an epoch, and the key's bytes.
const KEY_BYTES: usize = 32;

/// What a run came to, beside its counts.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) lost: usize,
    pub(crate) diverged: usize,
    pub(crate) operations: u64,
    pub(crate) documents: usize,
    pub(crate) in_step_after: Duration,
}

/// The state of the space, as far as it is looked at.
#[derive(Debug, Clone, Default, Deserialize)]
struct SpaceStatus {
    operations: u64,
    documents: u64,
    waiting: u64,
    unreadable: u64,
    peers: Vec<SpacePeer>,
    problems: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct SpacePeer {
    in_sync: bool,
}

/// Makes everything good, waits, and checks.
pub(crate) async fn finish(world: &Arc<World>, mut processes: Vec<Process>) -> Result<Found, Failure> {
    world.proxy.heal();
    for process in &mut processes {
        faults::end(world, process).await;
        faults::start(world, process).await?;
    }
    let began = Instant::now();
    let statuses = get_in_step(world).await;
    let mut found = Found { in_step_after: began.elapsed(), ..Found::default() };
    found.operations = statuses.iter().map(|status| status.operations).max().unwrap_or_default();
    say(&format!("in step after {:.1} s; exporting", found.in_step_after.as_secs_f64()));
    check_exports(world, &mut found).await?;
    check_relays(world, &statuses).await?;
    for process in &mut processes {
        faults::end(world, process).await;
    }
    check_stores(world).await?;
    check_logs(world)?;
    Ok(found)
}

/// Waits until everybody holds the same; gives the last look.
async fn get_in_step(world: &World) -> Vec<SpaceStatus> {
    let timeout = STEP_TIMEOUT + Duration::from_secs(world.counts.acknowledged() / WRITES_PER_SECOND);
    let began = Instant::now();
    loop {
        let mut statuses = Vec::new();
        for node in &world.nodes {
            statuses.push(status(node).await);
        }
        if are_in_step(world, &statuses) {
            return statuses.into_iter().flatten().collect();
        }
        if began.elapsed() > timeout {
            let text: Vec<String> =
                world.nodes.iter().zip(&statuses).map(|(node, status)| describe(node, status)).collect();
            world.violated(format!("not in step after {} s: {}", timeout.as_secs(), text.join("; ")));
            return statuses.into_iter().map(Option::unwrap_or_default).collect();
        }
        tokio::time::sleep(STEP_LOOK).await;
    }
}

async fn status(node: &Node) -> Option<SpaceStatus> {
    let answer = Client::new(&node.door).get(&format!("/v1/spaces/{SPACE}")).await.ok()?;
    answer.parse().ok()
}

fn describe(node: &Node, status: &Option<SpaceStatus>) -> String {
    match status {
        None => format!("{} does not answer", node.name()),
        Some(status) => format!(
            "{} holds {} operations, {} waiting, {} documents, {} of {} peers in sync {}",
            node.name(),
            status.operations,
            status.waiting,
            status.documents,
            status.peers.iter().filter(|peer| peer.in_sync).count(),
            status.peers.len(),
            status.problems.join(", "),
        ),
    }
}

fn are_in_step(world: &World, statuses: &[Option<SpaceStatus>]) -> bool {
    let Some(all) = statuses.iter().cloned().collect::<Option<Vec<SpaceStatus>>>() else { return false };
    let alike = |status: &SpaceStatus| status.operations == all[0].operations && status.waiting == 0;
    let known = |status: &SpaceStatus| !status.peers.is_empty() && status.peers.iter().all(|peer| peer.in_sync);
    let mut readers = world.nodes.iter().zip(&all).filter(|(node, _)| node.role.reads());
    all.iter().all(|status| alike(status) && known(status))
        && readers.all(|(_, status)| status.documents == all[0].documents && status.unreadable == 0)
}

/// Exports from every node that reads, compares the bytes, and judges what they hold.
async fn check_exports(world: &Arc<World>, found: &mut Found) -> Result<(), Failure> {
    let reading = || world.nodes.iter().filter(|node| node.role.reads());
    let exports: Vec<_> = reading().map(|node| tokio::spawn(export(world.clone(), node.clone()))).collect();
    let mut judged: Vec<(PathBuf, String)> = Vec::new();
    for (node, export) in reading().zip(exports) {
        let path = export.await.map_err(|error| Failure::setup("export", error))??;
        let cannot = |error: io::Error| Failure::setup("compare exports", error);
        // An export of the same bytes needs no second judgement.
        let mut same = false;
        for (other, _) in &judged {
            same = same || same_bytes(&path, other).map_err(cannot)?;
        }
        if same {
            continue;
        }
        if let Some((_, first)) = judged.first() {
            found.diverged += 1;
            world.violated(format!("the exports of {} and {first} differ", node.name()));
        }
        let held = Held::read(world, &node.name(), &path).map_err(|error| Failure::setup("read an export", error))?;
        found.documents = found.documents.max(held.documents);
        found.lost += held.judge(world, &node.name());
        judged.push((path, node.name()));
    }
    Ok(())
}

/// Exports from a node to a file beside its directory.
async fn export(world: Arc<World>, node: Arc<Node>) -> Result<PathBuf, Failure> {
    let cannot = |error: io::Error| Failure::setup("export", error);
    let path = node.data.with_extension("export");
    let mut command = node.command(&["export", SPACE]);
    command.stdout(File::create(&path).map_err(cannot)?).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.map_err(|error| Failure::setup("export", error))?.map_err(cannot)?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        world.violated(format!("{} could not be exported: {}", node.name(), reason.trim()));
    }
    Ok(path)
}

fn same_bytes(a: &Path, b: &Path) -> io::Result<bool> {
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let length = a.read(&mut left)?;
        if length == 0 {
            return Ok(true);
        }
        b.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
}

/// A line of an export.
#[derive(Debug, Deserialize)]
struct Line {
    key: String,
    value: Value,
}

/// What an export holds.
#[derive(Debug, Default)]
struct Held {
    documents: usize,
    /// By stream.
    elements: Vec<Vec<bool>>,
    counters: BTreeMap<usize, i64>,
    texts: BTreeMap<usize, String>,
    chains: Vec<[bool; 2]>,
}

impl Held {
    fn read(world: &World, name: &str, path: &Path) -> io::Result<Self> {
        let mut held = Self { elements: vec![Vec::new(); world.records.streams.len()], ..Self::default() };
        for line in BufReader::with_capacity(BLOCK, File::open(path)?).lines() {
            let line = line?;
            let placed = serde_json::from_str::<Line>(&line).ok().and_then(|line| held.place(world, &line));
            if placed.is_none() {
                let line: String = line.chars().take(200).collect();
                world.violated(format!("{name} holds what nobody wrote: {line}"));
            }
            held.documents += 1;
        }
        Ok(held)
    }

    /// Notes one document; none if no client wrote such a one.
    fn place(&mut self, world: &World, line: &Line) -> Option<()> {
        match keys::parse(&line.key)? {
            Named::Element { stream, number } if line.value == keys::element_value(stream, number) => {
                let elements = self.elements.get_mut(stream)?;
                if number >= locked(&world.records.streams[stream].stream).len() {
                    return None;
                }
                set(elements, number);
            }
            Named::Link { chain, link } if line.value == keys::link_value(chain, link) => {
                let chains = locked(&world.records.chains).len();
                self.chains.resize(chains, [false; 2]);
                *self.chains.get_mut(chain)?.get_mut(link)? = true;
            }
            Named::Counter(counter) => {
                self.counters.insert(counter, line.value["count"].as_i64()?);
            }
            Named::Text(node) => {
                self.texts.insert(node, line.value["text"].as_str()?.to_owned());
            }
            Named::Element { .. } | Named::Link { .. } => return None,
        }
        Some(())
    }

    /// Compares it with the records; gives how many acknowledged writes are lost.
    fn judge(mut self, world: &World, name: &str) -> usize {
        let lost = self.judge_set(world, name) + self.judge_chains(world, name);
        for counter in 0..COUNTERS {
            let (promised, attempted) = world.records.sums(counter);
            let value = self.counters.get(&counter).copied().unwrap_or_default();
            if let Err(how) = check_counter(value, promised, attempted) {
                world.violated(format!("{} on {name} in the end: {how}", keys::counter(counter)));
            }
        }
        for (node, model) in world.records.texts.iter().enumerate() {
            let Some(model) = model else { continue };
            let text = self.texts.get(&node).map_or("", String::as_str);
            if let Err(how) = locked(model).settle(text) {
                world.violated(format!("{} on {name} in the end: {how}", keys::text(node)));
            }
        }
        lost
    }

    fn judge_set(&self, world: &World, name: &str) -> usize {
        let mut total = 0;
        for (stream, held) in self.elements.iter().enumerate() {
            let seen: Vec<_> = world.records.seen.iter().map(|seen| locked(seen)[stream].clone()).collect();
            let faults = check_set(&locked(&world.records.streams[stream].stream), &seen, held);
            let SetFaults { lost, invented } = &faults;
            let named = |numbers: &[usize]| -> Vec<String> {
                numbers.iter().take(KEYS_NAMED).map(|number| keys::element(stream, *number)).collect()
            };
            if !lost.is_empty() {
                world.violated(format!("{name} lost {} elements: {}, …", lost.len(), named(lost).join(", ")));
            }
            if !invented.is_empty() {
                let keys = named(invented).join(", ");
                world.violated(format!("{name} holds {} refused elements: {keys}, …", invented.len()));
            }
            total += lost.len();
        }
        total
    }

    fn judge_chains(&mut self, world: &World, name: &str) -> usize {
        let acknowledged = locked(&world.records.chains).clone();
        self.chains.resize(acknowledged.len(), [false; 2]);
        let mut total = 0;
        for (chain, (held, acknowledged)) in self.chains.iter().zip(&acknowledged).enumerate() {
            if let Err(cause) = check_chain(held) {
                world.violated(format!("{name} holds the effect of {} without it", keys::link(chain, cause)));
            }
            for link in 0..held.len() {
                if acknowledged[link] && !held[link] {
                    world.violated(format!("{name} lost {}", keys::link(chain, link)));
                    total += 1;
                }
            }
        }
        total
    }
}

fn set(elements: &mut Vec<bool>, number: usize) {
    if elements.len() <= number {
        elements.resize(number + 1, false);
    }
    elements[number] = true;
}

/// Relays hold every operation and neither documents nor the content key.
async fn check_relays(world: &World, statuses: &[SpaceStatus]) -> Result<(), Failure> {
    let key = content_key(world)?;
    for (node, status) in world.nodes.iter().zip(statuses).filter(|(node, _)| !node.role.reads()) {
        if status.documents > 0 {
            world.violated(format!("{} shows {} documents", node.name(), status.documents));
        }
        let (data, key) = (node.data.clone(), key.clone());
        let search = tokio::task::spawn_blocking(move || search(&data, &[&key, MARKER.as_bytes()]));
        let hits = search.await.map_err(|error| Failure::setup("search a relay's files", error))?;
        let hits = hits.map_err(|error| Failure::setup("search a relay's files", error))?;
        for (path, what) in hits {
            let what = if what == 0 { "the content key" } else { "what members wrote, readable" };
            world.violated(format!("{} holds {what} in {}", node.name(), path.display()));
        }
    }
    Ok(())
}

/// The content key, from the members' key files: the 32 bytes that stand before the replication secret, which the
/// relay's file ends with too.
fn content_key(world: &World) -> Result<Vec<u8>, Failure> {
    let mut files = Vec::new();
    for node in &world.nodes {
        files.push((node.role.reads(), key_file(&node.data)?));
    }
    let layout =
        || Failure::Setup("the nodes' key files are not as this check knows them: correct the check".to_owned());
    let entry = KEY_BYTES + 2;
    let (_, member) = files.iter().find(|(reads, _)| *reads).ok_or_else(layout)?;
    let from_end = |bytes: &[u8], entries: usize| -> Option<Vec<u8>> {
        Some(bytes.get(bytes.len().checked_sub(entries * entry)?..)?.get(2..entry)?.to_vec())
    };
    let (secret, key) = (from_end(member, 1).ok_or_else(layout)?, from_end(member, 2).ok_or_else(layout)?);
    // Every member has both, and the relay has the secret: so these are what they are taken for.
    let known = files.iter().all(|(reads, bytes)| contains(bytes, &secret) && (!reads || contains(bytes, &key)));
    if known { Ok(key) } else { Err(layout()) }
}

fn key_file(data: &Path) -> Result<Vec<u8>, Failure> {
    let cannot = |error: io::Error| Failure::setup("read a node's key file", error);
    let mut spaces = std::fs::read_dir(data.join("spaces")).map_err(cannot)?;
    let space = spaces.next().ok_or_else(|| Failure::Setup("a node has no space".to_owned()))?.map_err(cannot)?;
    std::fs::read(space.path().join("keys")).map_err(cannot)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The files below a directory that contain one of several texts, with which.
fn search(directory: &Path, texts: &[&[u8]]) -> io::Result<Vec<(PathBuf, usize)>> {
    let overlap = texts.iter().map(|text| text.len()).max().unwrap_or_default();
    let (mut open, mut hits) = (vec![directory.to_owned()], Vec::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
            continue;
        }
        let (mut file, mut block) = (File::open(&path)?, Vec::new());
        loop {
            block.drain(..block.len().saturating_sub(overlap));
            if (&mut file).take(BLOCK as u64).read_to_end(&mut block)? == 0 {
                break;
            }
            hits.extend(
                (0..texts.len()).filter(|text| contains(&block, texts[*text])).map(|text| (path.clone(), text)),
            );
        }
    }
    Ok(hits)
}

/// Every store is sound: each record, signature and index entry.
async fn check_stores(world: &World) -> Result<(), Failure> {
    for node in &world.nodes {
        let output = node.output(&["--json", "verify", SPACE]).await?;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if !output.status.success() || report["sound"] != true {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            world.violated(format!("the store of {} is not sound: {} {}", node.name(), out.trim(), err.trim()));
        }
    }
    Ok(())
}

/// No log tells of a panic.
fn check_logs(world: &World) -> Result<(), Failure> {
    for node in &world.nodes {
        let log = std::fs::read(&node.log).map_err(|error| Failure::setup("read a node's log", error))?;
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        if let Some(at) = lines.iter().position(|line| line.contains("panicked")) {
            let quoted = lines[at..lines.len().min(at + LINES_QUOTED)].join(" / ");
            world.violated(format!("{} panicked: {quoted}", node.name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_stands_in_a_file() {
        let directory = std::env::temp_dir().join(format!("syncline-chaos-test-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("below")).unwrap();
        let mut bytes = vec![b'x'; 2 * BLOCK];
        // Across the edge of two blocks.
        bytes[BLOCK - 3..BLOCK + 4].copy_from_slice(b"treasur");
        std::fs::write(directory.join("below/file"), &bytes).unwrap();
        assert_eq!(search(&directory, &[b"gold", b"treasur"]).unwrap(), [(directory.join("below/file"), 1)]);
        assert!(search(&directory, &[b"treasure"]).unwrap().is_empty());
        std::fs::write(directory.join("other"), &bytes).unwrap();
        assert!(same_bytes(&directory.join("other"), &directory.join("below/file")).unwrap());
        bytes[BLOCK] ^= 1;
        std::fs::write(directory.join("other"), &bytes).unwrap();
        assert!(!same_bytes(&directory.join("other"), &directory.join("below/file")).unwrap());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
