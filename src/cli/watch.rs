//! `watch`: prints changes until it is told to stop.

use futures::StreamExt;
use syncline::api::body::Change;
use syncline::api::{Problem, ProblemKind};

use super::access::{Access, Target};
use super::arguments::Watch;
use super::documents::space_target;
use super::events::{EventReader, StreamEvent};
use super::failure::{Exit, Failure};
use super::output::{Output, note, plain};
use super::signals::ended_by_signal;

pub(super) async fn watch(access: &Access, arguments: &Watch, output: &mut Output) -> Result<(), Failure> {
    let mut target = space_target(&arguments.space, "changes").with("prefix", &arguments.prefix);
    if arguments.values {
        target = target.with("values", "true");
    }
    tokio::select! {
        result = follow(access, &target, arguments.since.clone(), output) => result,
        // Being ended is how a watch is meant to end.
        ended = ended_by_signal() => ended.map_err(|error| Failure::new(Exit::Failed, error.to_string())),
    }
}

/// Prints the changes from `since` on, or from now on.
async fn follow(
    access: &Access,
    target: &Target,
    mut since: Option<String>,
    output: &mut Output,
) -> Result<(), Failure> {
    loop {
        print_stream(access, &target.clone().with_some("since", since.as_deref()), output).await?;
        note("the order of changes was made anew here: what came just before may be shown twice or not at all");
        since = None;
    }
}

/// Prints a stream until the node makes its order of changes anew, after which versions of before mean nothing.
async fn print_stream(access: &Access, target: &Target, output: &mut Output) -> Result<(), Failure> {
    let mut chunks = access.stream(target).await?.into_data_stream();
    let mut reader = EventReader::default();
    while let Some(chunk) = chunks.next().await {
        let broken = |error| Failure::new(Exit::Unavailable, format!("the stream of changes broke off: {error}"));
        for event in reader.take(&chunk.map_err(broken)?)? {
            match event.name.as_str() {
                "change" => print_change(&event, output)?,
                "problem" => {
                    let problem: Problem = parse(&event)?;
                    return if problem.kind == ProblemKind::Invalid { Ok(()) } else { Err(problem.into()) };
                }
                _ => {}
            }
        }
        output.flush()?;
    }
    let failure = Failure::new(Exit::Unavailable, "the node has ended the stream of changes");
    Err(failure.hint("start it again and go on with --since and the last version"))
}

fn print_change(event: &StreamEvent, output: &mut Output) -> Result<(), Failure> {
    let change: Change = parse(event)?;
    if output.json {
        return output.json(&change);
    }
    let key = plain(&change.key);
    match &change.value {
        _ if change.deleted => output.line(format_args!("deleted  {key}")),
        Some(value) => output.line(format_args!("changed  {key}  {value}")),
        None => output.line(format_args!("changed  {key}")),
    }
}

fn parse<T: serde::de::DeserializeOwned>(event: &StreamEvent) -> Result<T, Failure> {
    serde_json::from_str(&event.data)
        .map_err(|error| Failure::new(Exit::Failed, format!("an event of the node is not understood: {error}")))
}
