//! The command line: arguments in, library and API calls, text or JSON out.
//!
//! Everything that touches the terminal is here. Results go to the standard output, all else to the standard error.

mod access;
mod arguments;
mod backup;
mod bytes;
mod config;
mod demo;
mod documents;
mod duration;
mod events;
mod export;
mod failure;
mod import;
mod key;
mod members;
mod output;
mod passphrase;
mod peers;
mod progress;
mod serve;
mod signals;
mod spaces;
mod status;
mod tokens;
mod upkeep;
mod verify;
mod watch;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use syncline_model::keys::CRYPTOGRAPHY;
use tracing_subscriber::EnvFilter;

use self::access::Access;
use self::arguments::{Arguments, Command, Global, PassphraseSource, SpaceCommand};
use self::config::ConfigFile;
use self::failure::{Exit, Failure};
use self::output::{Output, note};

/// What `serve` logs unless it is told otherwise.
const SERVE_LOG: &str = "warn,syncline=info";
/// What other commands log: they tell of failures themselves.
const COMMAND_LOG: &str = "off";

/// Runs the command that the process was started with.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match refuse_without_cryptography().and_then(|()| start(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.quiet => ExitCode::SUCCESS,
        Err(failure) => {
            note(&failure);
            failure.exit.into()
        }
    }
}

/// A build that signs and seals nothing must not touch anybody's data.
fn refuse_without_cryptography() -> Result<(), Failure> {
    if CRYPTOGRAPHY {
        return Ok(());
    }
    let failure = Failure::new(Exit::Failed, "this build signs and seals nothing: it is for `cargo bench` alone");
    Err(failure.hint("build it again without the feature `without-cryptography`"))
}

fn start(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    let data = match &global.data {
        Some(data) => data.clone(),
        None => default_directory()?,
    };
    let config = match &command {
        Command::Serve(serve) => ConfigFile::read(serve.config.as_deref(), &data)?,
        _ => ConfigFile::default(),
    };
    let default_log = if matches!(command, Command::Serve(_)) { SERVE_LOG } else { COMMAND_LOG };
    start_log(&global, config.log.as_deref(), default_log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    let mut output = Output::new(global.json);
    let result = runtime.block_on(async {
        match command {
            Command::Serve(serve) => serve::serve(&data, &serve, &config, &global.passphrase, &mut output).await,
            Command::Demo(demo) => demo::run(demo.edits).await,
            Command::Convert(convert) => upkeep::convert(&data, convert.index, &mut output).await,
            Command::Backup(arguments) if arguments.check => backup::check(&arguments.file, &mut output),
            Command::Restore(arguments) => backup::restore(&data, &arguments, &mut output).await,
            Command::Repair(space) => upkeep::repair(&data, &global.passphrase, &space, &mut output).await,
            Command::Key(command) => key::key(&data, &global.passphrase, &command, &mut output).await,
            Command::Bytes(command) => match bytes::without_data(command, &mut output)? {
                Some(command) => with_access(Command::Bytes(command), &data, &global.passphrase, &mut output).await,
                None => Ok(()),
            },
            command => with_access(command, &data, &global.passphrase, &mut output).await,
        }
    });
    // A thread that still reads the standard input is not waited for.
    runtime.shutdown_background();
    result.and_then(|()| output.flush())
}

/// The platform's directory for this program's data.
fn default_directory() -> Result<PathBuf, Failure> {
    let directories = directories::ProjectDirs::from("", "", "syncline");
    directories.map(|directories| directories.data_dir().to_owned()).ok_or_else(|| {
        let failure = Failure::new(Exit::Usage, "this account has no home directory to keep data in");
        failure.hint("name a data directory with --data")
    })
}

/// Logs to the standard error: by flag or variable, else as configured, else `RUST_LOG`, else the default.
fn start_log(global: &Global, configured: Option<&str>, default: &str) -> Result<(), Failure> {
    let environment = std::env::var("RUST_LOG").ok();
    let filter = global.log.as_deref().or(configured).or(environment.as_deref()).unwrap_or(default);
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(Exit::Usage, format!("`{filter}` is not a log filter: {error}")))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    Ok(())
}

/// Runs a command that works with and without a running node.
async fn with_access(
    command: Command,
    data: &Path,
    passphrase: &PassphraseSource,
    output: &mut Output,
) -> Result<(), Failure> {
    let create =
        matches!(command, Command::Init(_) | Command::Space(SpaceCommand::Create { .. } | SpaceCommand::Join { .. }));
    let index = match &command {
        Command::Init(init) => init.index.map(Into::into),
        _ => None,
    };
    let access = Access::to(data, create, index.unwrap_or_default(), passphrase).await?;
    let result = dispatch(&access, command, data, output).await;
    access.close().await;
    result
}

async fn dispatch(access: &Access, command: Command, data: &Path, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Init(init) => status::init(access, data, init.index, output).await,
        Command::Space(command) => spaces::space(access, command, output).await,
        Command::Put(arguments) => documents::put(access, arguments, output).await,
        Command::Patch(arguments) => documents::patch(access, arguments, output).await,
        Command::Get(arguments) => documents::get(access, &arguments, output).await,
        Command::Delete(arguments) => documents::delete(access, &arguments, output).await,
        Command::List(arguments) => documents::list(access, &arguments, output).await,
        Command::Watch(arguments) => watch::watch(access, &arguments, output).await,
        Command::History(arguments) => documents::history(access, &arguments, output).await,
        Command::Conflicts(arguments) => documents::conflicts(access, &arguments, output).await,
        Command::Resolve(arguments) => documents::resolve(access, arguments, output).await,
        Command::Token(command) => tokens::token(access, command, output).await,
        Command::Bytes(command) => bytes::bytes(access, command, output).await,
        Command::Device => status::device(access, output).await,
        Command::Import(arguments) => import::import(access, &arguments, output).await,
        Command::Export(arguments) => export::export(access, &arguments, output).await,
        Command::Status(arguments) => status::status(access, arguments.space.as_deref(), output).await,
        Command::Peers(arguments) => peers::peers(access, arguments, output).await,
        Command::Connect(arguments) => status::connect(access, arguments.address, output).await,
        Command::Backup(arguments) => backup::backup(access, &arguments, output).await,
        Command::Serve(_)
        | Command::Demo(_)
        | Command::Convert(_)
        | Command::Repair(_)
        | Command::Restore(_)
        | Command::Key(_) => Err(Failure::new(Exit::Usage, "this command does not run through another node")),
        Command::Verify(arguments) => verify::verify(access, &arguments, output).await,
    }
}
