//! `export`: all documents as lines of JSON.

use syncline::api::body::DocumentList;
use syncline::lines::Line;

use super::access::Access;
use super::arguments::Export;
use super::documents::space_target;
use super::failure::{Exit, Failure};
use super::output::{Output, note, plain};

/// Documents on a page: few enough that large ones do not fill the memory.
const PAGE: usize = 256;

pub(super) async fn export(access: &Access, arguments: &Export, output: &mut Output) -> Result<(), Failure> {
    let target = space_target(&arguments.space, "documents")
        .with("prefix", &arguments.prefix)
        .with("limit", &PAGE.to_string())
        .with("values", "true");
    let (mut after, mut unreadable) = (None::<String>, 0_u64);
    loop {
        let page: DocumentList = access.get(&target.clone().with_some("after", after.as_deref())).await?;
        for document in page.documents {
            match document.value {
                Some(value) => output.json(&Line { key: document.key, value })?,
                None => {
                    unreadable += 1;
                    let reason = document.error.unwrap_or_else(|| "it has no value".to_owned());
                    note(format_args!("left out: `{}`: {}", plain(&document.key), plain(&reason)));
                }
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    output.flush()?;
    if unreadable > 0 {
        return Err(Failure::new(Exit::Failed, format!("{unreadable} documents cannot be read and were left out")));
    }
    Ok(())
}
