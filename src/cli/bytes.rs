//! Commands on bytes of a person's own: from a file or the standard input, to a file or the standard output.
//!
//! Sealing and verifying need no device and no data directory; opening and signing use this device's key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use axum::body::to_bytes;
use rand::rngs::StdRng;
use syncline::api::body::{SignedBytes, VerifiedBytes};
use syncline::node::bytes::{BytesSignature, OWN_BYTES_MAX, SEALED_BYTES_OVERHEAD, parse_device, seal_bytes};
use syncline::{DeviceText, Error};

use super::access::{Access, Target};
use super::arguments::BytesCommand;
use super::failure::{Exit, Failure};
use super::output::Output;

/// Stands for the standard input.
const STANDARD_INPUT: &str = "-";
/// Longest input: the most that is sealed, and its seal.
const INPUT_BYTES_MAX: usize = OWN_BYTES_MAX + SEALED_BYTES_OVERHEAD;

/// Runs what needs no data directory; gives the rest back.
pub(super) fn without_data(command: BytesCommand, output: &mut Output) -> Result<Option<BytesCommand>, Failure> {
    match command {
        BytesCommand::Seal { recipient, file, output: to } => {
            let recipient: DeviceText = recipient.parse().map_err(Error::from)?;
            let bytes = read(file.as_deref())?;
            let sealed = seal_bytes(&recipient, &bytes, &mut rand::make_rng::<StdRng>()).map_err(Error::from)?;
            write(&sealed, to.as_deref()).map(|()| None)
        }
        BytesCommand::Verify { by, signature, file } => {
            let device = parse_device(&by)?;
            let signature: BytesSignature = signature.parse().map_err(Error::from)?;
            signature.verify(&device, &read(file.as_deref())?).map_err(Error::from)?;
            let verified = VerifiedBytes { device: device.to_string() };
            if output.json {
                output.json(&verified)?;
            } else {
                output.line(format_args!("signed by {device}"))?;
            }
            Ok(None)
        }
        other => Ok(Some(other)),
    }
}

/// Runs what uses this device's key.
pub(super) async fn bytes(access: &Access, command: BytesCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        BytesCommand::Open { file, output: to } => {
            let body = read(file.as_deref())?;
            let opened = access.exchange_bytes(&Target::new(["bytes", "open"]), body).await?;
            let opened = to_bytes(opened, INPUT_BYTES_MAX)
                .await
                .map_err(|error| Failure::new(Exit::Unavailable, format!("the node's answer broke off: {error}")))?;
            write(&opened, to.as_deref())
        }
        BytesCommand::Sign { file } => {
            let body = read(file.as_deref())?;
            let signed: SignedBytes = access.send_bytes(&Target::new(["bytes", "sign"]), body).await?;
            if output.json { output.json(&signed) } else { output.line(signed.signature) }
        }
        BytesCommand::Seal { .. } | BytesCommand::Verify { .. } => without_data(command, output).map(drop),
    }
}

fn read(file: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let file = file.filter(|file| *file != Path::new(STANDARD_INPUT));
    let name = file.map_or_else(|| "the standard input".to_owned(), |file| format!("`{}`", file.display()));
    let failed = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Failure::new(exit, format!("cannot read {name}: {error}"))
    };
    let source: Box<dyn Read> = match file {
        Some(file) => Box::new(File::open(file).map_err(failed)?),
        None => Box::new(io::stdin().lock()),
    };
    let mut bytes = Vec::new();
    source.take(INPUT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > INPUT_BYTES_MAX {
        let limit = OWN_BYTES_MAX >> 20;
        return Err(Failure::new(Exit::Invalid, format!("{name} is longer than {limit} MiB: split the data")));
    }
    Ok(bytes)
}

/// Writes bytes as they are; a file is new, and only its owner may read it.
fn write(bytes: &[u8], file: Option<&Path>) -> Result<(), Failure> {
    let Some(file) = file else {
        let mut out = io::stdout().lock();
        return Ok(out.write_all(bytes).and_then(|()| out.flush())?);
    };
    let written = create(file.to_owned()).and_then(|mut out| out.write_all(bytes).and_then(|()| out.sync_all()));
    written.map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::AlreadyExists { Exit::Invalid } else { Exit::Failed };
        Failure::new(exit, format!("cannot write `{}`: {error}", file.display()))
    })
}

fn create(file: PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)
}
