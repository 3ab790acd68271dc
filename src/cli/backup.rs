//! `backup` and `restore`: all spaces in one file, and a new device made of it.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use axum::http::Method;
use futures::StreamExt;
use serde::Serialize;
use syncline::api::body::BackupRequest;
use syncline::node::backup::{self as backups, CheckedBackup, Restored};

use super::access::{Access, Target, alone};
use super::arguments::{Backup, Restore};
use super::failure::{Exit, Failure};
use super::output::{Output, humane_bytes, note, plain};
use super::passphrase::{self, Purpose};
use super::progress::Bar;

/// Behind the name of a backup while it is written.
const PARTIAL_SUFFIX: &str = ".partial";

/// What a backup holds.
#[derive(Debug, Serialize)]
struct BackupReport {
    /// The file.
    file: String,
    /// Its spaces.
    spaces: u64,
    /// Runs of all of them.
    runs: u64,
    /// Operations in these.
    operations: u64,
    /// The file's length.
    bytes: u64,
    /// Whether the spaces' keys are inside, under a passphrase.
    keys: bool,
    /// The hash over all of it.
    hash: String,
}

impl BackupReport {
    fn new(file: &Path, checked: &CheckedBackup) -> Self {
        let CheckedBackup { summary, has_keys } = checked;
        Self {
            file: file.display().to_string(),
            spaces: summary.spaces,
            runs: summary.runs,
            operations: summary.operations,
            bytes: summary.bytes,
            keys: *has_keys,
            hash: data_encoding::HEXLOWER.encode(&summary.hash),
        }
    }

    fn show(&self, output: &mut Output) -> Result<(), Failure> {
        if output.json {
            return output.json(self);
        }
        output.facts(&[
            ("file", self.file.clone()),
            ("spaces", self.spaces.to_string()),
            ("operations", self.operations.to_string()),
            ("size", humane_bytes(self.bytes)),
            ("keys", if self.keys { "inside, under a passphrase".to_owned() } else { "not inside".to_owned() }),
            ("hash", self.hash.clone()),
        ])
    }
}

pub(super) async fn backup(access: &Access, arguments: &Backup, output: &mut Output) -> Result<(), Failure> {
    let file = &arguments.file;
    if file.exists() {
        let failure = Failure::new(Exit::Invalid, format!("`{}` exists: nothing was written", file.display()));
        return Err(failure.hint("name a new file; --check checks an existing backup"));
    }
    let text = passphrase_text(arguments)?;
    let partial = PathBuf::from(format!("{}{PARTIAL_SUFFIX}", file.display()));
    let written = write(access, &partial, text.as_ref()).await;
    let finished = written.and_then(|()| finish(&partial, file));
    let checked = finished.inspect_err(|_| {
        // What is left is no backup; if it cannot be removed, its name says so.
        let _removed = fs::remove_file(&partial);
    })?;
    BackupReport::new(file, &checked).show(output)?;
    output.flush()?;
    if !output.json {
        note(if checked.has_keys {
            "Keep the passphrase apart from the file: without it the file cannot be read, and nobody can recover it."
        } else {
            "It holds sealed operations and no keys: whoever restores it reads them once a member has admitted the new \
             device. --with-keys puts the keys in, under a passphrase."
        });
    }
    Ok(())
}

/// The passphrase for the keys, if they are to go in.
fn passphrase_text(arguments: &Backup) -> Result<Option<BackupRequest>, Failure> {
    let given = match arguments.passphrase.given()? {
        Some(given) => Some(given),
        None if arguments.with_keys => Some(passphrase::ask(Purpose::NewOfBackup)?),
        None => None,
    };
    Ok(given.map(|passphrase| BackupRequest { passphrase: passphrase.reveal().to_owned() }))
}

/// Writes the stream of a backup to a file that only its owner may read.
async fn write(access: &Access, path: &Path, keys: Option<&BackupRequest>) -> Result<(), Failure> {
    let target = Target::new(["backup"]);
    let body = match keys {
        Some(request) => {
            let body = serde_json::to_vec(request).map_err(|error| Failure::new(Exit::Invalid, error.to_string()))?;
            access.open(Method::POST, &target, Some(body)).await?
        }
        None => access.open(Method::GET, &target, None).await?,
    };
    let failed =
        |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot write `{}`: {error}", path.display()));
    let mut out = create(path).map_err(failed)?;
    let (mut bar, mut bytes) = (Bar::new(), 0);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Failure::new(Exit::Unavailable, format!("the backup broke off: {reason}"))
        })?;
        out.write_all(&piece).map_err(failed)?;
        bytes += piece.len() as u64;
        bar.bytes("backing up", bytes, 0);
    }
    out.sync_all().map_err(failed)
}

fn create(path: &Path) -> std::io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Checks what was written, and gives it its name, durably.
fn finish(partial: &Path, file: &Path) -> Result<CheckedBackup, Failure> {
    let checked = read_through(partial)?;
    let name = || {
        // A file that appeared meanwhile is not overwritten.
        fs::hard_link(partial, file).or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Err(error),
            _ => fs::rename(partial, file),
        })?;
        match fs::remove_file(partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if cfg!(unix) {
            let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    };
    name().map_err(|error: std::io::Error| {
        Failure::new(Exit::Failed, format!("cannot write `{}`: {error}", file.display()))
    })?;
    Ok(checked)
}

fn read_through(file: &Path) -> Result<CheckedBackup, Failure> {
    let length = fs::metadata(file).map_or(0, |metadata| metadata.len());
    let mut bar = Bar::new();
    Ok(backups::check_backup(file, &mut |done| bar.bytes("checking", done, length))?)
}

pub(super) fn check(file: &Path, output: &mut Output) -> Result<(), Failure> {
    let checked = tokio::task::block_in_place(|| read_through(file))?;
    BackupReport::new(file, &checked).show(output)?;
    if !output.json {
        output.line("all of it is as it was written")?;
    }
    Ok(())
}

/// A new device.
#[derive(Debug, Serialize)]
struct RestoreReport {
    /// Its id.
    device: String,
    /// Its data directory.
    data: String,
    /// Its spaces.
    spaces: Vec<RestoredSpace>,
    /// Operations in all of them.
    operations: u64,
}

/// A space of the new device.
#[derive(Debug, Serialize)]
struct RestoredSpace {
    /// The space id.
    id: String,
    /// Its name on the new device.
    name: String,
    /// Whether its keys came with it.
    readable: bool,
}

pub(super) async fn restore(data: &Path, arguments: &Restore, output: &mut Output) -> Result<(), Failure> {
    let mut options = backups::RestoreOptions {
        passphrase: None,
        without_keys: arguments.without_keys,
        index: arguments.index.map(Into::into).unwrap_or_default(),
    };
    if backups::has_keys(&arguments.file)? && !options.without_keys {
        options.passphrase = match arguments.passphrase.given()? {
            Some(given) => Some(given),
            None => Some(passphrase::ask(Purpose::Backup).map_err(|failure| {
                failure.hint(
                    "name a file with --backup-passphrase-file, set SYNCLINE_BACKUP_PASSPHRASE, or give --without-keys",
                )
            })?),
        };
    }
    let restored = alone(data, || {
        let mut bar = Bar::new();
        backups::restore(&arguments.file, data, &options, &mut |progress| bar.storage(progress))
    })
    .await?;
    show_restored(data, &restored, output)
}

fn show_restored(data: &Path, restored: &Restored, output: &mut Output) -> Result<(), Failure> {
    let space = |space: &backups::RestoredSpace| RestoredSpace {
        id: space.space.to_string(),
        name: space.name.clone(),
        readable: space.readable,
    };
    let report = RestoreReport {
        device: restored.device.to_string(),
        data: data.display().to_string(),
        spaces: restored.spaces.iter().map(space).collect(),
        operations: restored.summary.operations,
    };
    if output.json {
        return output.json(&report);
    }
    output.facts(&[("device", report.device), ("data", report.data), ("operations", report.operations.to_string())])?;
    for space in &report.spaces {
        let readable = if space.readable { "with its keys" } else { "sealed: its keys come with the admission" };
        output.line(format_args!("space {} ({}): {readable}", plain(&space.name), space.id))?;
    }
    output.flush()?;
    note(
        "This is a new device. It writes once a member has admitted it: ask the steward of each space for a ticket \
         (`syncline space invite SPACE --role writer`) and take it here with `syncline space join TICKET`.",
    );
    Ok(())
}
