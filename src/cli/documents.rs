//! Commands on documents.

use std::io::Read;

use axum::http::Method;
use serde_json::Value;
use syncline::api::body::{
    ConflictPage, DocumentConflicts, DocumentList, HistoryItem, HistoryPage, Operation, TransactionRequest, Written,
};
use syncline::api::limits::{BODY_BYTES_MAX, PAGE_MAX};

use super::access::{Access, Target};
use super::arguments::{Conflicts, Document, Get, History, List, Resolve, Space, Wait, Write};
use super::failure::{Exit, Failure};
use super::output::{Output, plain, short};

/// The resource of a space.
pub(super) fn space_target(space: &Space, resource: &str) -> Target {
    Target::new(["spaces", &space.space, resource])
}

fn document_target(document: &Document, resource: &str) -> Target {
    space_target(&document.space, resource).key(&document.key)
}

fn waiting(target: Target, wait: &Wait) -> Target {
    let target = target.with_some("wait_for", wait.wait_for.as_deref());
    if wait.wait_for.is_some() { target.with("timeout_ms", &wait.timeout.to_string()) } else { target }
}

pub(super) async fn put(access: &Access, arguments: Write, output: &mut Output) -> Result<(), Failure> {
    write(access, Method::PUT, arguments, output).await
}

pub(super) async fn patch(access: &Access, arguments: Write, output: &mut Output) -> Result<(), Failure> {
    write(access, Method::PATCH, arguments, output).await
}

async fn write(access: &Access, method: Method, arguments: Write, output: &mut Output) -> Result<(), Failure> {
    let value = json_argument(&arguments.value)?;
    let target = document_target(&arguments.document, "documents");
    show_written(&access.send_json(method, &target, &value).await?, output)
}

pub(super) async fn delete(access: &Access, document: &Document, output: &mut Output) -> Result<(), Failure> {
    let written: Written = access.call(Method::DELETE, &document_target(document, "documents")).await?;
    show_written(&written, output)
}

pub(super) async fn resolve(access: &Access, arguments: Resolve, output: &mut Output) -> Result<(), Failure> {
    let value = parse_json(&arguments.value)?;
    let Document { space, key } = arguments.document;
    let operations = vec![Operation::Resolve { key, path: arguments.pointer, value }];
    let target = space_target(&space, "transactions");
    show_written(&access.send_json(Method::POST, &target, &TransactionRequest { operations }).await?, output)
}

/// The version alone: what a later read can wait for.
fn show_written(written: &Written, output: &mut Output) -> Result<(), Failure> {
    if output.json { output.json(written) } else { output.line(&written.version) }
}

pub(super) async fn get(access: &Access, arguments: &Get, output: &mut Output) -> Result<(), Failure> {
    let at = (!arguments.at.is_empty()).then(|| arguments.at.join(","));
    let target = document_target(&arguments.document, "documents").with_some("at", at.as_deref());
    let value: Value = access.get(&waiting(target, &arguments.wait)).await?;
    if output.json { output.json(&value) } else { output.pretty(&value) }
}

pub(super) async fn list(access: &Access, arguments: &List, output: &mut Output) -> Result<(), Failure> {
    let mut target = space_target(&arguments.space, "documents").with("prefix", &arguments.prefix);
    if arguments.values {
        target = target.with("values", "true");
    }
    let mut after: Option<String> = None;
    loop {
        let page = target.clone().with("limit", &PAGE_MAX.to_string()).with_some("after", after.as_deref());
        let page = if after.is_none() { waiting(page, &arguments.wait) } else { page };
        let page: DocumentList = access.get(&page).await?;
        for document in &page.documents {
            match (&document.value, &document.error) {
                _ if output.json => output.json(document)?,
                (Some(value), _) => output.line(format_args!("{}  {value}", plain(&document.key)))?,
                (None, Some(error)) => output.line(format_args!("{}  (unreadable: {error})", plain(&document.key)))?,
                (None, None) => output.line(plain(&document.key))?,
            }
        }
        output.flush()?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

pub(super) async fn history(access: &Access, arguments: &History, output: &mut Output) -> Result<(), Failure> {
    let target = document_target(&arguments.document, "history");
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut after: Option<String> = None;
    while left > 0 {
        let limit = left.min(PAGE_MAX as u64);
        let page = target.clone().with("limit", &limit.to_string()).with_some("after", after.as_deref());
        let page: HistoryPage = access.get(&page).await?;
        for item in &page.changes {
            if output.json { output.json(item)? } else { output.line(history_line(item))? }
        }
        left -= limit;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

fn history_line(item: &HistoryItem) -> String {
    let author = item.carried_by.as_ref().map_or_else(
        || format!("actor {}", short(&item.actor)),
        |carrier| format!("device {} at {}", short(&carrier.author), time_text(carrier.wall_time_ms)),
    );
    let message = item.message.as_deref().map(|message| format!("  {}", plain(message))).unwrap_or_default();
    format!("{}  {} operations by {author}{message}", item.hash, item.operations)
}

/// A time in UTC, to the second (RFC 3339).
pub(super) fn time_text(ms_since_1970: u64) -> String {
    let seconds = ms_since_1970 / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970 in the proleptic Gregorian calendar; years begin in March, eras have 400 of them.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

pub(super) async fn conflicts(access: &Access, arguments: &Conflicts, output: &mut Output) -> Result<(), Failure> {
    let target = space_target(&arguments.space, "conflicts");
    if let Some(key) = &arguments.key {
        let page: ConflictPage = access.get(&target.key(key)).await?;
        return page.documents.iter().try_for_each(|document| show_conflicts(document, output));
    }
    let mut after: Option<String> = None;
    loop {
        let page: ConflictPage = access.get(&target.clone().with_some("after", after.as_deref())).await?;
        page.documents.iter().try_for_each(|document| show_conflicts(document, output))?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

fn show_conflicts(document: &DocumentConflicts, output: &mut Output) -> Result<(), Failure> {
    if output.json {
        return output.json(document);
    }
    for place in &document.places {
        output.line(format_args!("{} {}", plain(&document.key), plain(&place.path)))?;
        for choice in &place.values {
            let mark = if choice.winner { "shown" } else { "other" };
            output.line(format_args!("  {mark}  {}  (actor {})", choice.value, short(&choice.actor)))?;
        }
    }
    for change in &document.blocked {
        let (key, author, reason) = (plain(&document.key), short(&change.author), plain(&change.reason));
        output.line(format_args!("{key}  blocked: operation {} of device {author}: {reason}", change.sequence))?;
    }
    Ok(())
}

/// JSON that stands on the command line, or on the standard input.
fn json_argument(argument: &str) -> Result<Value, Failure> {
    if argument != "-" {
        return parse_json(argument);
    }
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(BODY_BYTES_MAX as u64 + 1);
    input
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(Exit::Invalid, format!("cannot read the standard input: {error}")))?;
    if text.len() > BODY_BYTES_MAX {
        let message = format!("the value on the standard input is longer than {} MiB", BODY_BYTES_MAX >> 20);
        return Err(Failure::new(Exit::Invalid, message));
    }
    parse_json(&text)
}

fn parse_json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        let failure = Failure::new(Exit::Invalid, format!("the value is not JSON: {error}"));
        failure.hint("put it in single quotes, so that the shell leaves it as it is: '{\"title\":\"Hello\"}'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(time_text(ms), expected);
        }
        // A peer's clock may say anything.
        assert!(time_text(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn what_is_not_json_is_invalid_and_explained() {
        let failure = parse_json("{title: 1}").unwrap_err();
        assert_eq!(failure.exit, Exit::Invalid);
        assert!(failure.message.contains("line 1") && failure.hint.is_some());
    }
}
