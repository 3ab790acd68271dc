//! `verify`: what is stored against what it should be.

use axum::body::Body;
use axum::http::Method;
use futures::StreamExt;
use syncline::api::body::{SpaceList, VerifyEvent, VerifyReport};
use syncline::node::verification::{VerifyProgress, VerifyStage};

use super::access::{Access, Target};
use super::arguments::{SignaturesArgument, Verify};
use super::failure::{Exit, Failure};
use super::output::{Output, humane_bytes, plain};
use super::progress::Bar;

/// Longest line of an answer, in bytes: a report lists a limited number of findings.
const LINE_BYTES_MAX: usize = 4 << 20;

pub(super) async fn verify(access: &Access, arguments: &Verify, output: &mut Output) -> Result<(), Failure> {
    let spaces = match &arguments.space.space {
        Some(space) => vec![space.clone()],
        None => {
            let list: SpaceList = access.get(&Target::new(["spaces"])).await?;
            list.spaces.into_iter().map(|space| space.id).collect()
        }
    };
    let signatures = match arguments.signatures {
        SignaturesArgument::All => "all",
        SignaturesArgument::Sample => "sample",
    };
    let mut unsound = Vec::new();
    for space in &spaces {
        let target = Target::new(["spaces", space, "verify"]).with("signatures", signatures).with("progress", "true");
        let report = follow(access.open(Method::POST, &target, None).await?).await?;
        if output.json {
            output.json(&report)?;
        } else {
            show(&report, output)?;
        }
        output.flush()?;
        if !report.sound {
            unsound.push(report.name);
        }
    }
    if spaces.is_empty() && !output.json {
        output.line("no spaces here, so there is nothing to check")?;
    }
    let Some(first) = unsound.first() else { return Ok(()) };
    let names: Vec<String> = unsound.iter().map(|name| format!("`{}`", plain(name))).collect();
    let failure = Failure::new(Exit::Failed, format!("what is stored of {} is not as it should be", names.join(", ")));
    let stop = if access.is_running() { "stop the node and run " } else { "run " };
    Err(failure.hint(format!(
        "{stop}`syncline repair {}`, then `syncline serve`: what is missing comes from the next peer that holds it",
        plain(first)
    )))
}

/// Follows a check to its end.
async fn follow(body: Body) -> Result<VerifyReport, Failure> {
    let mut bar = Bar::new();
    let broken = |reason: String| Failure::new(Exit::Unavailable, format!("the check broke off: {reason}"));
    let (mut pieces, mut rest) = (body.into_data_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        rest.extend_from_slice(&piece.map_err(|error| broken(error.to_string()))?);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(&line).map_err(|error| broken(error.to_string()))? {
                VerifyEvent::Progress(progress) => show_progress(&mut bar, progress),
                VerifyEvent::Report(report) => return Ok(*report),
                VerifyEvent::Problem(problem) => return Err(problem.into()),
            }
        }
        if rest.len() > LINE_BYTES_MAX {
            return Err(broken("a line of the answer is too long".to_owned()));
        }
    }
    Err(broken("the node ended".to_owned()))
}

fn show_progress(bar: &mut Bar, progress: VerifyProgress) {
    let VerifyProgress { stage, done, total } = progress;
    match stage {
        VerifyStage::Log => bar.bytes("checking the log", done, total),
        VerifyStage::Catalog => bar.count("comparing operations", done, total),
        _ => bar.count("comparing documents", done, total),
    }
}

fn show(report: &VerifyReport, output: &mut Output) -> Result<(), Failure> {
    let verdict = if report.sound { "sound" } else { "not sound" };
    let documents = match &report.documents.skipped {
        Some(reason) => format!("documents not compared, since {reason}"),
        None => format!(
            "documents compared: {}, of them made anew: {}",
            report.documents.compared, report.documents.made_anew
        ),
    };
    output.line(format_args!(
        "{}: {verdict}; {} operations in {} runs, {}, {} signatures, {documents}",
        plain(&report.name),
        report.operations,
        report.runs,
        humane_bytes(report.bytes),
        report.signatures
    ))?;
    for problem in &report.problems {
        output.line(format_args!("  wrong: {}", plain(problem)))?;
    }
    for (count, what) in [
        (report.quarantined.count, "damaged stretches in quarantine, left out"),
        (report.unchained.count, "runs that do not continue their log as it arrived, which is no damage"),
        (report.documents.busy, "documents written all the time, so not compared"),
    ] {
        if count > 0 {
            output.line(format_args!("  {count} {what}"))?;
        }
    }
    Ok(())
}
