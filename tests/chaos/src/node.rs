//! The process of one node: starting, stopping, killing it, and noticing when it ends by itself.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::Door;
use crate::failure::Failure;
use crate::stage::Place;

/// How long a start may take; a recovery reads what reached the disk.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a clean end may take before it counts as a hang.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);
/// What nodes log.
const LOG: &str = "info,libp2p=warn";
/// Variables of this program that nodes get too.
const PASSED_VARIABLES: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "RUST_BACKTRACE"];

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Steward,
    Writer,
    Reader,
    Relay,
}

impl Role {
    /// Its name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steward => "steward",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Relay => "relay",
        }
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Steward | Self::Writer)
    }

    pub(crate) fn reads(self) -> bool {
        self != Self::Relay
    }
}

/// What everybody may know of a node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) role: Role,
    pub(crate) door: Door,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    /// How often it has become ready.
    generation: AtomicU64,
    /// Whether its process is up and not stopped; for the progress line.
    pub(crate) up: AtomicBool,
    /// Whether its disk lacks even the reserve, or did a moment ago: only then may it end by itself.
    pub(crate) squeezed: AtomicBool,
    place: Place,
    program: PathBuf,
}

/// How a start went.
#[derive(Debug)]
pub(crate) enum Started {
    Ready,
    /// It ended before it was ready.
    Ended(ExitStatus),
}

/// Where a node's data are, in the directory of the run.
pub(crate) fn data_directory(directory: &Path, number: usize) -> PathBuf {
    directory.join(format!("node-{number}"))
}

impl Node {
    pub(crate) fn new(number: usize, role: Role, directory: &Path, place: &Place, program: &Path) -> Self {
        Self {
            number,
            role,
            door: Door { address: place.api, token: Arc::default() },
            data: data_directory(directory, number),
            log: directory.join(format!("node-{number}.log")),
            generation: AtomicU64::new(0),
            up: AtomicBool::new(false),
            squeezed: AtomicBool::new(false),
            place: place.clone(),
            program: program.to_owned(),
        }
    }

    /// How often it has become ready.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// How it is named in messages.
    pub(crate) fn name(&self) -> String {
        format!("node {} ({})", self.number, self.role.name())
    }

    /// Runs one command of the program on this node's directory, beside the node.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        pass_variables(&mut command);
        command.arg("--data").arg(&self.data).args(["--log", "error"]).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs such a command to its end, without blocking others.
    pub(crate) async fn output(&self, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = self.command(arguments);
        let run = tokio::task::spawn_blocking(move || command.output()).await;
        run.map_err(|error| Failure::setup("run `syncline`", error))?
            .map_err(|error| Failure::setup("run `syncline`", error))
    }

    fn ready_file(&self) -> PathBuf {
        self.data.with_extension("ready")
    }

    fn serve(&self) -> Result<Command, Failure> {
        let open = |options: &mut OpenOptions, path: &Path| {
            options.open(path).map_err(|error| Failure::setup(&format!("write {}", path.display()), error))
        };
        let out = open(OpenOptions::new().write(true).create(true).truncate(true), &self.ready_file())?;
        let log: File = open(OpenOptions::new().append(true).create(true), &self.log)?;
        let mut command = self.place.command(&self.program);
        pass_variables(&mut command);
        command.arg("--data").arg(&self.data).args(["--log", LOG, "--json", "serve", "--no-mdns", "--no-quic"]);
        command.args(["--listen", &multiaddress(self.place.peers), "--api", &self.place.api.to_string()]);
        for (to, proxy) in self.place.proxies.iter().enumerate() {
            if to != self.number {
                command.args(["--bootstrap", &multiaddress(*proxy)]);
            }
        }
        command.stdin(Stdio::null()).stdout(out).stderr(log);
        Ok(command)
    }
}

fn pass_variables(command: &mut Command) {
    command.env_clear();
    for name in PASSED_VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

fn multiaddress(address: std::net::SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

/// A node with the process that serves it; the process ends with it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) node: Arc<Node>,
    child: Option<Child>,
}

impl Process {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, child: None }
    }

    /// Starts the process without waiting for it.
    pub(crate) fn spawn(&mut self) -> Result<(), Failure> {
        let child = self.node.serve()?.spawn().map_err(|error| Failure::setup("start `syncline serve`", error))?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts the process and waits until it is ready or has ended.
    pub(crate) async fn start(&mut self) -> Result<Started, Failure> {
        self.spawn()?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(Started::Ended(status));
            }
            let told = std::fs::read_to_string(self.node.ready_file()).unwrap_or_default();
            if told.ends_with('\n') {
                break;
            }
            if began.elapsed() > START_TIMEOUT {
                let name = self.node.name();
                return Err(Failure::Setup(format!("{name} was not ready after {} s", START_TIMEOUT.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        if self.node.door.token.get().is_none() {
            let token = std::fs::read_to_string(self.node.data.join("api.token"));
            let token = token.map_err(|error| Failure::setup("read the API's token", error))?;
            // Set by nobody else.
            let _first = self.node.door.token.set(token.trim().to_owned());
        }
        self.node.generation.fetch_add(1, Ordering::SeqCst);
        self.node.up.store(true, Ordering::SeqCst);
        Ok(Started::Ready)
    }

    /// How the process ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        self.node.up.store(false, Ordering::SeqCst);
        Some(status)
    }

    /// SIGKILL; tells whether there was a living process to kill.
    pub(crate) async fn kill(&mut self) -> bool {
        self.node.up.store(false, Ordering::SeqCst);
        if self.ended().is_some() {
            return false;
        }
        let Some(mut child) = self.child.take() else { return false };
        let killed = child.kill().is_ok();
        // It may take a moment to die, with much memory to give back.
        let _reaped = tokio::task::spawn_blocking(move || child.wait()).await;
        killed
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) async fn pause(&self, stopped: bool) {
        self.signal(if stopped { "STOP" } else { "CONT" }).await;
        self.node.up.store(!stopped, Ordering::SeqCst);
    }

    /// SIGTERM; gives the exit status, or nothing if it hangs, in which case it is killed.
    pub(crate) async fn end(&mut self) -> Option<ExitStatus> {
        self.signal("TERM").await;
        let began = Instant::now();
        while began.elapsed() < END_TIMEOUT {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            tokio::time::sleep(LOOK).await;
        }
        self.kill().await;
        None
    }

    async fn signal(&self, name: &str) {
        let Some(child) = &self.child else { return };
        // The shell's own `kill`: a bare machine has no program of that name.
        let order = format!("kill -{name} {}", child.id());
        let run = move || Command::new("sh").args(["-c", &order]).stderr(Stdio::null()).status();
        // The process may have ended meanwhile.
        let _sent = tokio::task::spawn_blocking(run).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already. A stopped process dies of SIGKILL too.
            let _ended = (child.kill(), child.wait());
        }
    }
}
