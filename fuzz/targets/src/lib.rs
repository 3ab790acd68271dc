//! What the fuzz targets do with their bytes, apart from libFuzzer, so that plain tests replay the corpora with the
//! same functions.
//!
//! A target takes any bytes, panics when something is wrong, and otherwise tells whether the bytes were well-formed, so
//! that its assertions were reached.

pub mod api;
pub mod backup;
mod desks;
pub mod documents;
pub mod edits;
pub mod model;
pub mod script;
pub mod storage;
pub mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, Once, PoisonError};

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Of the program that fuzzes it, and of its corpus.
    pub name: &'static str,
    /// What it does with bytes.
    pub run: fn(&[u8]) -> bool,
    /// How many near misses of a corpus file a test tries: fewer where an execution takes longer.
    pub near_misses: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "admit", run: model::admit, near_misses: 1000 },
    Target { name: "backup", run: backup::backup, near_misses: 50 },
    Target { name: "body", run: api::body, near_misses: 200 },
    Target { name: "change", run: documents::change, near_misses: 20 },
    Target { name: "device_text", run: model::device_text, near_misses: 1000 },
    Target { name: "edits", run: edits::edits, near_misses: 5 },
    Target { name: "engine", run: sync::engine, near_misses: 20 },
    Target { name: "fork_proof", run: model::fork_proof, near_misses: 1000 },
    Target { name: "frame", run: sync::frame, near_misses: 100 },
    Target { name: "header", run: model::header, near_misses: 1000 },
    Target { name: "hello_answer", run: sync::hello_answer, near_misses: 1000 },
    Target { name: "hostile_changes", run: documents::hostile_changes, near_misses: 5 },
    Target { name: "import_lines", run: api::import_lines, near_misses: 200 },
    Target { name: "join", run: sync::join, near_misses: 1000 },
    Target { name: "key_delivery", run: model::key_delivery, near_misses: 1000 },
    Target { name: "message", run: sync::message, near_misses: 1000 },
    Target { name: "own_bytes", run: model::own_bytes, near_misses: 1000 },
    Target { name: "record", run: model::record, near_misses: 1000 },
    Target { name: "request", run: api::request, near_misses: 2 },
    Target { name: "response", run: sync::response, near_misses: 1000 },
    Target { name: "run", run: model::run, near_misses: 1000 },
    Target { name: "run_summary", run: model::run_summary, near_misses: 1000 },
    Target { name: "segment", run: storage::segment, near_misses: 20 },
    Target { name: "text", run: api::text, near_misses: 200 },
    Target { name: "ticket", run: model::ticket, near_misses: 1000 },
    Target { name: "transaction", run: model::transaction, near_misses: 1000 },
];

/// Runs a target for libFuzzer, which must only hear of panics that nobody caught.
///
/// Automerge's panics are caught where it is called; libFuzzer's own hook would end the process at each of them.
#[allow(clippy::print_stderr, reason = "libFuzzer reports there, and nobody else would tell what the panic said")]
pub fn fuzz(target: fn(&[u8]) -> bool, bytes: &[u8]) {
    static HOOK: Once = Once::new();
    static LAST: Mutex<String> = Mutex::new(String::new());
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) =
                format!("{panic}\n{}", std::backtrace::Backtrace::capture());
        }));
    });
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        eprintln!("{}", LAST.lock().unwrap_or_else(PoisonError::into_inner));
        resume_unwind(panic);
    }
}
