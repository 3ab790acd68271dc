//! How cost grows with the number of documents: the real binary, each phase in a process of its own.
//!
//! ```text
//! cargo bench --bench scale -- --documents 10000 --documents 100000 --documents 1000000 [--index sled] [--index redb]
//!     [--per-transaction 500] [--document-cache-mib 64] [--index-cache-mib 32] [--directory DIR]
//! ```
//!
//! The documents are the cities in `data/`, repeated under other keys. Memory is read from `/proc` of the node's
//! process, so this runs on Linux. It prints a table; it is no test, and takes minutes for a million documents.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PROGRAM: &str = env!("CARGO_BIN_EXE_syncline");
const SPACE: &str = "scale";
/// How long a node is left alone before its memory counts as idle.
const IDLE: Duration = Duration::from_secs(5);
/// Writes between a clean start and the kill.
const LATE_WRITES: usize = 2_000;

fn main() -> Outcome<()> {
    let wanted = Wanted::parse()?;
    let mut columns = Vec::new();
    for documents in &wanted.documents {
        for index in &wanted.indexes {
            note(&format!("{documents} documents, {index}"));
            columns.push(Column::measure(&wanted, *documents, index)?);
        }
    }
    print_table(&columns);
    Ok(())
}

/// What the command line asks for.
struct Wanted {
    documents: Vec<usize>,
    indexes: Vec<String>,
    per_transaction: String,
    directory: Option<PathBuf>,
    serve: Vec<String>,
}

impl Wanted {
    fn parse() -> Outcome<Self> {
        let mut wanted = Self {
            documents: Vec::new(),
            indexes: Vec::new(),
            per_transaction: "500".to_owned(),
            directory: None,
            serve: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--documents" => wanted.documents.push(value()?.parse()?),
                "--index" => wanted.indexes.push(value()?),
                "--per-transaction" => wanted.per_transaction = value()?,
                "--directory" => wanted.directory = Some(value()?.into()),
                "--document-cache-mib" | "--index-cache-mib" => {
                    let value = value()?;
                    wanted.serve.extend([argument, value]);
                }
                // What cargo itself adds.
                "--bench" => {}
                other => return Err(format!("`{other}` is not known here").into()),
            }
        }
        if wanted.documents.is_empty() {
            wanted.documents = vec![10_000, 100_000];
        }
        if wanted.indexes.is_empty() {
            wanted.indexes = vec!["sled".to_owned(), "redb".to_owned()];
        }
        Ok(wanted)
    }
}

/// The figures of one size with one index.
struct Column {
    title: String,
    figures: Vec<(&'static str, String, &'static str)>,
}

impl Column {
    fn measure(wanted: &Wanted, documents: usize, index: &str) -> Outcome<Self> {
        let directory = match &wanted.directory {
            Some(directory) => tempfile::tempdir_in(directory)?,
            None => tempfile::tempdir()?,
        };
        let data = directory.path().join("data");
        run(&data, &["init", "--index", index])?;
        run(&data, &["space", "create", SPACE])?;
        let mut column = Self { title: format!("{documents} {index}"), figures: Vec::new() };
        column.import(wanted, &data, documents)?;
        column.serve(wanted, &data)?;
        column.open(wanted, &data, documents)?;
        Ok(column)
    }

    fn import(&mut self, wanted: &Wanted, data: &Path, documents: usize) -> Outcome<()> {
        let node = Serving::start(wanted, data)?;
        let began = Instant::now();
        import(data, 0, documents, &wanted.per_transaction)?;
        let elapsed = began.elapsed();
        let peak = node.peak_mib()?;
        node.end()?;
        let rate = documents as f64 / elapsed.as_secs_f64();
        self.add("import, documents/s", format!("{rate:.0}"), "one core: Automerge, sealing, the index");
        self.add("memory at most meanwhile, MiB", peak.to_string(), "caches, pages in flight, the index's writes");
        let (index, other) = disk_bytes(data)?;
        let each = |bytes: u64| format!("{:.0}", bytes as f64 / documents as f64);
        self.add("log, bytes a document", each(other), "header and signature, shared by a transaction; the change");
        self.add("index, bytes a document", each(index), "catalog entry, snapshot, free pages of the store");
        Ok(())
    }

    fn serve(&mut self, wanted: &Wanted, data: &Path) -> Outcome<()> {
        let node = Serving::start(wanted, data)?;
        self.add("open after a clean end, ms", millis(node.opened), "the index's own opening; admission of all runs");
        std::thread::sleep(IDLE);
        self.add(
            "memory idle, MiB",
            node.resident_mib()?.to_string(),
            "vectors, keys of documents in the index's cache",
        );
        node.forget_peak()?;
        let began = Instant::now();
        run(data, &["export", SPACE])?;
        let elapsed = began.elapsed();
        self.add(
            "export of all, s",
            format!("{:.1}", elapsed.as_secs_f64()),
            "one snapshot read and opened a document",
        );
        self.add("memory at most meanwhile, MiB", node.peak_mib()?.to_string(), "document cache and index cache");
        node.forget_peak()?;
        let began = Instant::now();
        run(data, &["list", SPACE])?;
        self.add("list of all keys, s", format!("{:.1}", began.elapsed().as_secs_f64()), "the catalog");
        self.add("memory at most meanwhile, MiB", node.peak_mib()?.to_string(), "index cache");
        node.end()
    }

    fn open(&mut self, wanted: &Wanted, data: &Path, documents: usize) -> Outcome<()> {
        let node = Serving::start(wanted, data)?;
        import(data, documents, LATE_WRITES, "1")?;
        node.kill()?;
        let node = Serving::start(wanted, data)?;
        self.add("open after kill -9, ms", millis(node.opened), "as above, and what the index lacks of the log");
        node.end()?;
        for name in ["index", "index-redb"] {
            if data.join(name).exists() {
                fs::remove_dir_all(data.join(name))?;
            }
        }
        let node = Serving::start(wanted, data)?;
        self.add("open without an index, ms", millis(node.opened), "every record read and its documents made again");
        self.add("memory at most meanwhile, MiB", node.peak_mib()?.to_string(), "document cache and index cache");
        node.end()
    }

    fn add(&mut self, what: &'static str, measured: String, bound: &'static str) {
        note(&format!("  {what}: {measured}"));
        self.figures.push((what, measured, bound));
    }
}

#[expect(clippy::print_stdout, reason = "a table is what this program is for")]
fn print_table(columns: &[Column]) {
    let Some(first) = columns.first() else { return };
    let titles: Vec<&str> = columns.iter().map(|column| column.title.as_str()).collect();
    println!("| what | {} | bounded by |", titles.join(" | "));
    println!("| --- |{} --- |", " ---: |".repeat(columns.len()));
    for (row, (what, _, bound)) in first.figures.iter().enumerate() {
        let measured: Vec<&str> = columns.iter().map(|column| column.figures[row].1.as_str()).collect();
        println!("| {what} | {} | {bound} |", measured.join(" | "));
    }
}

#[expect(clippy::print_stderr, reason = "it takes long, so somebody wants to see that it goes on")]
fn note(text: &str) {
    eprintln!("{text}");
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// A node in a process of its own.
struct Serving {
    child: Child,
    opened: Duration,
}

impl Serving {
    /// Starts a node and waits until its API answers.
    fn start(wanted: &Wanted, data: &Path) -> Outcome<Self> {
        let began = Instant::now();
        let mut child = Command::new(PROGRAM)
            .args(["--json", "serve", "--no-mdns", "--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(["--scrub-bytes-per-second", "0", "--reserve-mib", "0", "--log", "error", "--data"])
            .arg(data)
            .args(&wanted.serve)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut ready)?;
        let serving = Self { child, opened: began.elapsed() };
        if ready.is_empty() {
            return Err("the node did not start".into());
        }
        // The first question waits for whatever opening left to do.
        run(data, &["status"])?;
        Ok(Self { opened: began.elapsed(), ..serving })
    }

    fn figure(&self, name: &str) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such figure")?;
        let kib: u64 = line.split_whitespace().next().ok_or("no figure")?.parse()?;
        Ok(kib / 1024)
    }

    fn resident_mib(&self) -> Outcome<u64> {
        self.figure("VmRSS:")
    }

    fn peak_mib(&self) -> Outcome<u64> {
        self.figure("VmHWM:")
    }

    /// The peak begins anew with what is resident now.
    fn forget_peak(&self) -> Outcome<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    fn end(mut self) -> Outcome<()> {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        if !sent.success() || !self.child.wait()?.success() {
            return Err("the node did not end cleanly".into());
        }
        Ok(())
    }

    fn kill(mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Runs a command on the data directory.
fn run(data: &Path, arguments: &[&str]) -> Outcome<()> {
    let status = Command::new(PROGRAM).args(arguments).arg("--data").arg(data).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("`syncline {}` failed", arguments.join(" ")).into()) }
}

/// Imports so many documents, beginning with the one of a number.
fn import(data: &Path, first: usize, count: usize, per_transaction: &str) -> Outcome<()> {
    let mut child = Command::new(PROGRAM)
        .args(["import", SPACE, "-", "--per-transaction", per_transaction, "--data"])
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut lines = BufWriter::new(child.stdin.take().ok_or("no input")?);
    let cities = cities()?;
    for number in first..first + count {
        // The same city again stands under another key.
        let line = &cities[number % cities.len()];
        let (round, rest) = (number / cities.len(), line.strip_prefix("{\"key\":\"cities/").ok_or("no city")?);
        writeln!(lines, "{{\"key\":\"cities/{round}/{rest}")?;
    }
    lines.flush()?;
    drop(lines);
    if child.wait()?.success() { Ok(()) } else { Err("the import failed".into()) }
}

fn cities() -> Outcome<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/cities.ndjson.gz");
    Ok(BufReader::new(GzDecoder::new(File::open(path)?)).lines().collect::<Result<_, _>>()?)
}

/// What the index takes of the disk, and what everything else does.
fn disk_bytes(data: &Path) -> Outcome<(u64, u64)> {
    let (mut index, mut all) = (0, 0);
    for name in ["index", "index-redb", "spaces"] {
        if data.join(name).exists() {
            let bytes = bytes_below(&data.join(name))?;
            all += bytes;
            index += if name == "spaces" { 0 } else { bytes };
        }
    }
    Ok((index, all - index))
}

fn bytes_below(path: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { taken(&metadata) };
    }
    Ok(bytes)
}

#[cfg(unix)]
fn taken(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(metadata) * 512
}

#[cfg(not(unix))]
fn taken(metadata: &fs::Metadata) -> u64 {
    metadata.len()
}
