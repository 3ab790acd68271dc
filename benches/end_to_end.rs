//! The whole path, measured: two nodes of this process over loopback TCP, real files, real `fdatasync`.
//!
//! `cargo bench --bench end_to_end` prints a table; `-- --quick` takes a tenth of the records. Every figure that
//! depends on the machine stands beside what the same machine can do at best, measured in the same run. With
//! `--features without-cryptography` the same path signs and seals nothing, to measure what that costs.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use futures::StreamExt;
use serde_json::{Value, json};
use syncline::documents::{Edit, Step};
use syncline::node::info::InvitationTerms;
use syncline::{Node, Role, Space, Strings};
use syncline_model::DeviceKey;
use syncline_model::keys::CRYPTOGRAPHY;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let records = cities(if quick { 5_700 } else { usize::MAX })?;
    let mut rows = Table::default();
    let signed = if CRYPTOGRAPHY { "yes" } else { "NO: built to measure what it costs" };
    rows.row("operations are signed and sealed", signed, "");
    let syncs = sync_rate(tempfile::tempdir()?.path())?;
    rows.row("fdatasync after a 256-byte append", format!("{syncs:.0}/s"), "");
    rows.row("signatures, one core", format!("{:.0}/s", signature_rate()), "");
    if wanted("writes") {
        writes_alone(if quick { 300 } else { 2_000 }, &mut rows).await?;
        writes_together(if quick { 1_000 } else { 10_000 }, &mut rows).await?;
    }
    if wanted("join") {
        cold_join(&records, 1, &mut rows).await?;
        cold_join(&records, 100, &mut rows).await?;
    }
    if wanted("latency") {
        latency(if quick { 300 } else { 2_000 }, &mut rows).await?;
    }
    if wanted("reconnect") {
        let large = records.len();
        for present in if quick { vec![large] } else { vec![10_000, large] } {
            reconnect(&records[..present], &mut rows).await?;
        }
    }
    Ok(())
}

/// The table, printed line by line as the figures come.
#[derive(Default)]
struct Table {
    lines: usize,
}

impl Table {
    #[expect(clippy::print_stdout, reason = "a table is what this program is for")]
    fn row(&mut self, what: impl Display, measured: impl Display, aim: impl Display) {
        if self.lines == 0 {
            println!("| what | measured | aim |\n| --- | --- | --- |");
        }
        self.lines += 1;
        println!("| {what} | {measured} | {aim} |");
    }
}

/// Appends and syncs for a third of a second.
fn sync_rate(directory: &Path) -> Outcome<f64> {
    let mut file = OpenOptions::new().create(true).append(true).open(directory.join("syncs"))?;
    let (started, mut count) = (Instant::now(), 0u32);
    while started.elapsed() < Duration::from_millis(333) {
        file.write_all(&[7; 256])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

fn signature_rate() -> f64 {
    let key = DeviceKey::from_seed(&[7; 32]);
    let (started, mut count) = (Instant::now(), 0u32);
    while started.elapsed() < Duration::from_millis(500) {
        std::hint::black_box(key.sign(&count.to_le_bytes()));
        count += 1;
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

fn cities(most: usize) -> Outcome<Vec<(String, Value)>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/cities.ndjson.gz");
    let lines = BufReader::new(GzDecoder::new(File::open(path)?)).lines();
    lines
        .take(most)
        .map(|line| {
            let record: Value = serde_json::from_str(&line?)?;
            let key = record["key"].as_str().ok_or("a record without a key")?.to_owned();
            Ok((key, record["value"].clone()))
        })
        .collect()
}

/// A node of its own in a temporary directory.
struct Device {
    node: Node,
    directory: tempfile::TempDir,
}

impl Device {
    async fn start() -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let node = Node::builder().data(directory.path()).create(true).listen("/ip4/127.0.0.1/tcp/0").mdns(false);
        let node = node.reserve_bytes(Some(0));
        Ok(Self { node: node.start().await?, directory })
    }

    /// Bytes of all files, those of the index apart.
    fn disk_bytes(&self) -> Outcome<(u64, u64)> {
        let index = bytes_below(&self.directory.path().join("index"))?;
        Ok((bytes_below(self.directory.path())? - index, index))
    }
}

fn bytes_below(path: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_directory = entry.file_type()?.is_dir();
        bytes += if is_directory { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

/// Resident memory of this process in MB.
fn resident_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

async fn ticket(space: &Space) -> Outcome<String> {
    let terms = InvitationTerms { role: Role::Writer, uses: 100, lasts_ms: 3_600_000 };
    Ok(space.invite(terms).await?.to_string())
}

async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F, what: &str) -> Outcome<()> {
    let started = Instant::now();
    while !holds().await {
        if started.elapsed() > Duration::from_secs(300) {
            return Err(format!("waited in vain for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Rounds of what is compared with the machine: in each both are measured, since neither rate is steady.
const ROUNDS: usize = 7;

fn measured_value(n: usize) -> Value {
    json!({"name": format!("record {n}"), "n": n, "tags": "some words to reach a hundred bytes"})
}

async fn writes_alone(per_round: usize, rows: &mut Table) -> Outcome<()> {
    let device = Device::start().await?;
    let space = device.node.create_space("bench", Strings::Scalar).await?.space;
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let before = sync_rate(device.directory.path())?;
        let started = Instant::now();
        for n in 0..per_round {
            space.put(&format!("alone/{round}/{n:06}"), measured_value(n)).await?;
        }
        let rate = per_round as f64 / started.elapsed().as_secs_f64();
        let syncs = f64::midpoint(before, sync_rate(device.directory.path())?);
        rates.push(rate);
        shares.push(100.0 * rate / syncs);
    }
    rows.row("durable puts, one by one", shares_of(&mut rates, &mut shares, "fdatasync"), "≥ 60 %");
    device.node.shutdown().await;
    Ok(())
}

async fn writes_together(per_round: usize, rows: &mut Table) -> Outcome<()> {
    let device = Device::start().await?;
    let space = device.node.create_space("bench", Strings::Scalar).await?.space;
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let signatures = signature_rate();
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let writers: Vec<_> = (0..64)
            .map(|_| {
                let (space, next) = (space.clone(), next.clone());
                tokio::spawn(async move {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= per_round {
                            return Ok::<(), syncline::Error>(());
                        }
                        space.put(&format!("together/{round}/{n:06}"), measured_value(n)).await?;
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await??;
        }
        let rate = per_round as f64 / started.elapsed().as_secs_f64();
        rates.push(rate);
        shares.push(100.0 * rate / signatures);
    }
    rows.row("durable puts, 64 writers", shares_of(&mut rates, &mut shares, "a core's signing"), "≥ 50 %");
    device.node.shutdown().await;
    Ok(())
}

/// The median rate and share, and between which shares the rounds lie.
fn shares_of(rates: &mut [f64], shares: &mut [f64], whole: &str) -> String {
    rates.sort_by(f64::total_cmp);
    shares.sort_by(f64::total_cmp);
    let (rate, share) = (rates[rates.len() / 2], shares[shares.len() / 2]);
    format!("{rate:.0}/s, {share:.0} % of {whole} ({:.0} to {:.0} %)", shares[0], shares[shares.len() - 1])
}

/// Writes all records, `per_transaction` at a time, with some transactions in flight.
async fn import(space: &Space, records: &[(String, Value)], per_transaction: usize) -> Outcome<()> {
    let step = |(key, value): &(String, Value)| -> Outcome<Step> {
        Ok(Step::Edit { key: key.parse()?, edit: Edit::Put(value.clone()) })
    };
    let transactions = records.chunks(per_transaction).map(|chunk| chunk.iter().map(step).collect::<Outcome<Vec<_>>>());
    let transactions = transactions.collect::<Outcome<Vec<_>>>()?;
    let mut written = futures::stream::iter(transactions).map(|steps| space.transact(steps)).buffer_unordered(64);
    while let Some(outcome) = written.next().await {
        outcome?;
    }
    Ok(())
}

async fn cold_join(records: &[(String, Value)], per_transaction: usize, rows: &mut Table) -> Outcome<()> {
    let count = records.len() as f64;
    let (a, b) = (Device::start().await?, Device::start().await?);
    let before = resident_mb();
    let space = a.node.create_space("cities", Strings::Scalar).await?.space;
    let started = Instant::now();
    import(&space, records, per_transaction).await?;
    let rate = count / started.elapsed().as_secs_f64();
    let label = format!("{} cities, {per_transaction} per operation", records.len());
    rows.row(format!("import of {label}"), format!("{rate:.0} records/s"), "");
    let after = resident_mb();
    rows.row("resident memory after it", format!("{after} MB ({before} MB before)"), "");

    let ticket = ticket(&space).await?;
    let traffic = b.node.traffic();
    let started = Instant::now();
    let copy = b.node.join(&ticket, None).await?;
    until(|| async { copy.stats().await.is_ok_and(|stats| stats.documents == records.len() as u64) }, "the join")
        .await?;
    let took = started.elapsed().as_secs_f64();
    let received = b.node.traffic().received - traffic.received;
    rows.row(
        format!("cold join, {label}"),
        format!("{:.0} records/s", count / took),
        aim(per_transaction, "≥ 50,000", ""),
    );
    let wire = received as f64 / count;
    rows.row("on the wire", format!("{wire:.0} B/record"), aim(per_transaction, "≤ 250", "≤ 100"));
    let (log, index) = b.disk_bytes()?;
    let (log, index) = (log as f64 / count, index as f64 / count);
    rows.row("on disk at the joiner", format!("{log:.0} B/record in the log, {index:.0} in the index"), "");
    let started = Instant::now();
    let equal = export(&space).await? == export(&copy).await?;
    let took = started.elapsed().as_secs_f64() / 2.0;
    rows.row("export", format!("{:.0} records/s, equal: {equal}", count / took), "equal");
    rows.row("resident memory, both nodes", format!("{} MB", resident_mb()), "");
    a.node.shutdown().await;
    b.node.shutdown().await;
    Ok(())
}

fn aim(per_transaction: usize, single: &str, hundred: &str) -> String {
    if per_transaction == 1 { single } else { hundred }.to_owned()
}

async fn export(space: &Space) -> Outcome<Vec<u8>> {
    let (mut out, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = space.list("", after.as_deref(), 1000, true).await?;
        for item in page.items {
            serde_json::to_writer(&mut out, &json!({"key": item.key, "value": item.value}))?;
            out.push(b'\n');
        }
        match page.next {
            Some(next) => after = Some(next.to_string()),
            None => return Ok(out),
        }
    }
}

/// Two devices that share a space with some records.
async fn pair(records: &[(String, Value)]) -> Outcome<(Device, Space, Device, Space)> {
    let (a, b) = (Device::start().await?, Device::start().await?);
    let space = a.node.create_space("shared", Strings::Scalar).await?.space;
    import(&space, records, 1).await?;
    let copy = b.node.join(&ticket(&space).await?, None).await?;
    let count = records.len() as u64;
    until(|| async { copy.stats().await.is_ok_and(|stats| stats.documents == count) }, "the first join").await?;
    let member = || async { copy.status().await.is_ok_and(|status| status.role.is_some()) };
    until(member, "the admission").await?;
    // B's first operation shows that it may write.
    copy.put("hello", json!({"from": "b"})).await?;
    until(|| async { space.get("hello").await.is_ok_and(|hello| hello.is_some()) }, "b's greeting").await?;
    Ok((a, space, b, copy))
}

async fn latency(writes: usize, rows: &mut Table) -> Outcome<()> {
    let (a, space, b, copy) = pair(&[]).await?;
    let mut seen = copy.watch("w/", None, false).await?;
    let started = Instant::now();
    let arrivals = tokio::spawn(async move {
        let mut arrivals = Vec::with_capacity(writes);
        while arrivals.len() < writes {
            match seen.next().await {
                Some(Ok(event)) => arrivals.push((event.key.to_string(), started.elapsed())),
                _ => break,
            }
        }
        arrivals
    });
    let mut sent = std::collections::BTreeMap::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    for n in 0..writes {
        ticks.tick().await;
        let key = format!("w/{n:06}");
        sent.insert(key.clone(), started.elapsed());
        space.put(&key, json!({"n": n, "text": "some words to reach a hundred bytes in all, more or less"})).await?;
    }
    let arrivals = tokio::time::timeout(Duration::from_secs(30), arrivals).await??;
    let mut delays: Vec<Duration> = arrivals.iter().map(|(key, at)| *at - sent[key]).collect();
    delays.sort();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let measured = format!("p50 {:.2} ms, p99 {:.2} ms ({} of {writes})", at(0.5), at(0.99), delays.len());
    rows.row("write on A to visible on B, 200/s", measured, "p50 ≤ 1.5 ms, p99 ≤ 6 ms");
    a.node.shutdown().await;
    b.node.shutdown().await;
    Ok(())
}

async fn reconnect(records: &[(String, Value)], rows: &mut Table) -> Outcome<()> {
    let (a, space, b, copy) = pair(records).await?;
    let (mut times, mut bytes) = (Vec::new(), Vec::new());
    for round in 0..5 {
        a.node.disconnect(b.node.device()).await?;
        until(|| async { a.node.status().await.connected_peers == 0 }, "the link to be cut").await?;
        let value = |n: usize| json!({"round": round, "n": n, "text": "some words to reach a hundred bytes in all"});
        for n in 0..100 {
            space.put(&format!("a/{round}/{n:03}"), value(n)).await?;
            copy.put(&format!("b/{round}/{n:03}"), value(n)).await?;
        }
        let operations = space.status().await?.operations + 100;
        let before = (a.node.traffic(), b.node.traffic());
        let address = b.node.listen_addresses()[0].clone();
        let started = Instant::now();
        a.node.connect(&address).await?;
        let connected = started.elapsed();
        let both = || async {
            let (a, b) = (space.status().await, copy.status().await);
            a.is_ok_and(|a| a.operations == operations) && b.is_ok_and(|b| b.operations == operations)
        };
        until(both, "both to converge").await?;
        times.push((started.elapsed() - connected).as_secs_f64() * 1000.0);
        bytes.push(
            (a.node.traffic().received - before.0.received + b.node.traffic().received - before.1.received) / 200,
        );
    }
    times.sort_by(f64::total_cmp);
    bytes.sort_unstable();
    let measured = format!("{:.0} ms, {} B per new record (medians of 5)", times[2], bytes[2]);
    rows.row(format!("100 + 100 offline writes, {} records present", records.len()), measured, "≤ 30 ms, ≤ 300 B");
    a.node.shutdown().await;
    b.node.shutdown().await;
    Ok(())
}
