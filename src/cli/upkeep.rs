//! Commands that keep the data directory in order: another index, repair.

use std::path::Path;

use serde::Serialize;
use syncline::IndexKind;
use syncline::api::body::OperationRange;
use syncline::node::upkeep::{self, RepairedSpace};

use super::access::alone;
use super::arguments::{IndexArgument, OptionalSpace, PassphraseSource};
use super::failure::Failure;
use super::output::{Output, humane_bytes, note, plain};
use super::progress::Bar;

impl From<IndexArgument> for IndexKind {
    fn from(argument: IndexArgument) -> Self {
        match argument {
            IndexArgument::Sled => Self::Sled,
            IndexArgument::Redb => Self::Redb,
        }
    }
}

/// What a conversion did.
#[derive(Debug, Serialize)]
struct Conversion {
    /// The kind of index before.
    from: &'static str,
    /// The kind now.
    to: &'static str,
    /// Whether anything had to be done.
    converted: bool,
}

pub(super) async fn convert(data: &Path, index: IndexArgument, output: &mut Output) -> Result<(), Failure> {
    let to = IndexKind::from(index);
    let from = alone(data, || {
        let mut bar = Bar::new();
        upkeep::convert_index(data, to, &mut |progress| bar.storage(progress))
    })
    .await?;
    let report = Conversion { from: from.name(), to: to.name(), converted: from != to };
    if output.json {
        return output.json(&report);
    }
    if !report.converted {
        return output.line(format_args!("the index is kept in {} already: nothing was changed", report.to));
    }
    output.line(format_args!(
        "the index is kept in {} now, no longer in {}; it was made anew from the logs",
        report.to, report.from
    ))?;
    output.flush()?;
    note("The documents are brought up to date by the next command or `serve`, which takes longer this once.");
    Ok(())
}

/// What a repair did to one space.
#[derive(Debug, Serialize)]
struct Repair {
    /// The space id.
    space: String,
    /// Its name on this device.
    name: String,
    /// Runs that can be read.
    runs: u64,
    /// Operations in them.
    operations: u64,
    /// Stretches of the log that cannot be read and are left out.
    quarantined: u64,
    /// Bytes of them whose room was given back.
    reclaimed_bytes: u64,
    /// Operations that are missing.
    missing_operations: u64,
    /// Where they are missing, the first ranges.
    missing: Vec<OperationRange>,
}

impl From<&RepairedSpace> for Repair {
    fn from(repaired: &RepairedSpace) -> Self {
        let report = &repaired.report;
        Self {
            space: repaired.space.to_string(),
            name: repaired.name.clone(),
            runs: report.runs,
            operations: report.operations,
            quarantined: report.quarantined,
            reclaimed_bytes: report.reclaimed_bytes,
            missing_operations: report.missing_operations,
            missing: report.missing.iter().map(OperationRange::from).collect(),
        }
    }
}

pub(super) async fn repair(
    data: &Path,
    source: &PassphraseSource,
    space: &OptionalSpace,
    output: &mut Output,
) -> Result<(), Failure> {
    let passphrase = if upkeep::has_passphrase(data) { Some(source.obtain()?) } else { None };
    let repaired = alone(data, || {
        let mut bar = Bar::new();
        upkeep::repair(data, space.space.as_deref(), passphrase.as_ref(), &mut |progress| bar.storage(progress))
    })
    .await?;
    for space in &repaired {
        let report = Repair::from(space);
        if output.json {
            output.json(&report)?;
        } else {
            show_repair(&report, output)?;
        }
    }
    output.flush()?;
    if repaired.is_empty() && !output.json {
        return output.line("no spaces here, so there is nothing to repair");
    }
    Ok(())
}

fn show_repair(report: &Repair, output: &mut Output) -> Result<(), Failure> {
    output.line(format_args!(
        "{}: the index was made anew; {} operations in {} runs can be read",
        plain(&report.name),
        report.operations,
        report.runs
    ))?;
    if report.quarantined > 0 {
        let stretches = if report.quarantined == 1 { "stretch" } else { "stretches" };
        output.line(format_args!(
            "  {} damaged {stretches} of the log cannot be read: in quarantine, left out from now on",
            report.quarantined
        ))?;
    }
    if report.reclaimed_bytes > 0 {
        output.line(format_args!("  {} of it were given back to the disk", humane_bytes(report.reclaimed_bytes)))?;
    }
    for range in &report.missing {
        output.line(format_args!("  missing: {range}"))?;
    }
    if report.missing_operations == 0 {
        return output.line("  nothing is known to be missing");
    }
    output.line(format_args!(
        "  {} operations are missing: the next contact of `syncline serve` with a peer that holds them fetches them",
        report.missing_operations
    ))
}
