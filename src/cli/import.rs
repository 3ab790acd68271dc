//! `import`: many documents in several transactions at once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::Method;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use syncline::api::body::{Operation, TransactionRequest, Written};
use syncline::lines::{BadLine, Batch, Lines};
use tokio::sync::mpsc;

use super::access::{Access, Target};
use super::arguments::Import;
use super::documents::space_target;
use super::failure::{Exit, Failure};
use super::output::Output;

/// Transactions in flight: enough that their writes share the node's syncs of the disk.
const TRANSACTIONS_IN_FLIGHT: usize = 8;
/// Batches that are read ahead.
const READ_AHEAD: usize = 4;

/// What an import did.
#[derive(Debug, Serialize)]
struct ImportReport {
    /// Documents that were written.
    documents: u64,
    /// Transactions that they were written in.
    transactions: u64,
    /// How long it took.
    elapsed_ms: u64,
}

impl From<BadLine> for Failure {
    fn from(bad: BadLine) -> Self {
        Self::new(Exit::Invalid, format!("line {}: {}", bad.number, bad.reason))
    }
}

/// How a batch ended.
struct Outcome {
    keys: BTreeSet<String>,
    documents: u64,
    transactions: u64,
    failure: Option<Failure>,
}

pub(super) async fn import(access: &Access, arguments: &Import, output: &mut Output) -> Result<(), Failure> {
    let start = Instant::now();
    let target = space_target(&arguments.space, "transactions");
    // An unknown space is told before anything is read.
    let _known: serde_json::Value = access.get(&Target::new(["spaces", &arguments.space.space])).await?;
    let read = Arc::new(AtomicU64::new(0));
    let lines = open(&arguments.file, arguments.per_transaction as usize, &read).map_err(|error| {
        Failure::new(Exit::NotFound, format!("cannot read `{}`: {error}", arguments.file.display()))
    })?;
    let progress = Progress::new(&arguments.file, read);
    let mut report = ImportReport { documents: 0, transactions: 0, elapsed_ms: 0 };
    let result = write_all(access, &target, read_ahead(lines), &progress, &mut report).await;
    progress.bar.finish_and_clear();
    report.elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    result.map_err(|failure| {
        let written = report.documents;
        failure.hint(format!(
            "{written} documents were written; import the file again when it is corrected: what is there already stays"
        ))
    })?;
    if output.json {
        return output.json(&report);
    }
    let seconds = report.elapsed_ms.max(1) as f64 / 1000.0;
    let rate = report.documents as f64 / seconds;
    output.line(format_args!(
        "imported {} documents in {} transactions, {seconds:.1} s ({rate:.0} documents/s)",
        report.documents, report.transactions
    ))
}

/// The lines of a file, or of the standard input if it is `-`; `read` counts the bytes of the source.
fn open(path: &Path, per_batch: usize, read: &Arc<AtomicU64>) -> io::Result<Lines> {
    if path == Path::new("-") {
        return Lines::new(io::stdin(), per_batch, read);
    }
    Lines::new(File::open(path)?, per_batch, read)
}

/// Reads and parses on a thread of its own; the channel bounds how far it runs ahead.
fn read_ahead(mut lines: Lines) -> mpsc::Receiver<Result<Batch, BadLine>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        while let Some(batch) = lines.next_batch().transpose() {
            let ended = batch.is_err();
            if sender.blocking_send(batch).is_err() || ended {
                break;
            }
        }
    });
    receiver
}

/// Writes the batches, several at once; after a failure those in flight end, and none begins.
async fn write_all(
    access: &Access,
    target: &Target,
    mut batches: mpsc::Receiver<Result<Batch, BadLine>>,
    progress: &Progress,
    report: &mut ImportReport,
) -> Result<(), Failure> {
    let mut in_flight = FuturesUnordered::new();
    let mut keys_in_flight = BTreeSet::new();
    let (mut failure, mut ended) = (None, false);
    let mut next: Option<Batch> = None;
    loop {
        let may_begin = !ended && failure.is_none() && in_flight.len() < TRANSACTIONS_IN_FLIGHT;
        tokio::select! {
            batch = batches.recv(), if may_begin && next.is_none() => match batch {
                Some(Ok(batch)) => next = Some(batch),
                Some(Err(bad)) => failure = Some(bad.into()),
                None => ended = true,
            },
            Some(outcome) = in_flight.next() => {
                let outcome: Outcome = outcome;
                keys_in_flight.retain(|key| !outcome.keys.contains(key));
                report.documents += outcome.documents;
                report.transactions += outcome.transactions;
                progress.show(report.documents);
                failure = failure.or(outcome.failure);
            }
            else => return failure.map_or(Ok(()), Err),
        }
        // Two writes of one document stay in the order of their lines: the second waits for the first.
        let ready = |batch: &mut Batch| keys_in_flight.is_disjoint(&batch.keys);
        if let Some(batch) = next.take_if(ready).filter(|_| failure.is_none()) {
            keys_in_flight.extend(batch.keys.iter().cloned());
            in_flight.push(write_batch(access, target, batch));
        }
    }
}

/// Writes a batch as one transaction. If that is refused for what stands in it, writes line by line: so the refused
/// line is found, those before it are written, and a batch that is only too large for one transaction goes through.
async fn write_batch(access: &Access, target: &Target, batch: Batch) -> Outcome {
    let mut outcome = Outcome { keys: batch.keys, documents: 0, transactions: 0, failure: None };
    let (numbers, operations): (Vec<u64>, Vec<Operation>) = batch.lines.into_iter().unzip();
    let request = TransactionRequest { operations };
    match write(access, target, &request).await {
        Ok(()) => {
            outcome.documents = numbers.len() as u64;
            outcome.transactions = 1;
            return outcome;
        }
        Err(failure) if failure.exit != Exit::Invalid => {
            outcome.failure = Some(at_lines(failure, &numbers));
            return outcome;
        }
        Err(_) => {}
    }
    for (number, operation) in numbers.into_iter().zip(request.operations) {
        match write(access, target, &TransactionRequest { operations: vec![operation] }).await {
            Ok(()) => {
                outcome.documents += 1;
                outcome.transactions += 1;
            }
            Err(failure) => {
                outcome.failure = Some(at_lines(failure, &[number]));
                break;
            }
        }
    }
    outcome
}

async fn write(access: &Access, target: &Target, request: &TransactionRequest) -> Result<(), Failure> {
    let _written: Written = access.send_json(Method::POST, target, request).await?;
    Ok(())
}

fn at_lines(failure: Failure, numbers: &[u64]) -> Failure {
    let place = match numbers {
        [first, .., last] => format!("lines {first} to {last}"),
        [only] => format!("line {only}"),
        [] => return failure,
    };
    Failure { message: format!("{place}: {}", failure.message), ..failure }
}

/// The bar that tells how far an import is, if somebody looks at it.
struct Progress {
    bar: ProgressBar,
    read: Arc<AtomicU64>,
    start: Instant,
}

impl Progress {
    fn new(file: &Path, read: Arc<AtomicU64>) -> Self {
        let length = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::new_spinner(),
        };
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        bar.set_draw_target(target);
        let template = match length {
            Some(_) => "{bar:40} {bytes} of {total_bytes}, {msg}, {eta} left",
            None => "{spinner} {bytes}, {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, read, start: Instant::now() }
    }

    fn show(&self, documents: u64) {
        let rate = documents as f64 / self.start.elapsed().as_secs_f64().max(0.001);
        self.bar.set_position(self.read.load(Ordering::Relaxed));
        self.bar.set_message(format!("{documents} documents, {rate:.0}/s"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_lines() {
        let failure = || Failure::new(Exit::Invalid, "no");
        assert_eq!(at_lines(failure(), &[3]).message, "line 3: no");
        assert_eq!(at_lines(failure(), &[3, 4, 7]).message, "lines 3 to 7: no");
    }
}
