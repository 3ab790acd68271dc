//! Where the nodes run: each in a network namespace of its own, or all on the loopback interface.
//!
//! In the namespaced form this program first runs itself again under `unshare`, in namespaces for network, mounts and
//! processes. Whatever it sets up in there (links, mounts, nodes) ends with it, however it ends. Each node gets a
//! namespace with one link, to this program and to nobody else, so that peers can meet only through the proxy, whatever
//! addresses they tell each other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

use crate::failure::Failure;

/// Set for the run inside of the namespaces.
const INSIDE: &str = "SYNCLINE_CHAOS_INSIDE";
/// Namespaces for network, mounts and processes; the last ends everything with this program.
const NAMESPACES: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--"];
/// For those who are not root: be root in a namespace of users.
const AS_ROOT: [&str; 2] = ["--user", "--map-root-user"];
/// What has to work in the namespaces. /run is replaced since `ip netns` leaves names there.
const PROBE: &str = "mount -t tmpfs tmpfs /run && ip netns add probe && ip link add probe type veth peer name peer \
                     netns probe && ip netns exec probe true";
/// Ports of the nodes in their namespaces.
const PEER_PORT: u16 = 34569;
const API_PORT: u16 = 34570;
/// Ports of the proxy begin here, one for each node that is led to.
const PROXY_PORT: u16 = 20_000;
/// The size of the tiny file system when it is not being full, in KiB; memory is taken only as it fills.
const DISK_KIB: u64 = 8 << 20;

/// Which stage to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wanted {
    /// Namespaces if they can be had, else loopback.
    Auto,
    /// Namespaces, or an error.
    Namespaces,
    /// Loopback.
    Loopback,
}

/// The stage in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A network namespace for each node.
    Namespaces,
    /// All on 127.0.0.1.
    Loopback,
}

/// Where one node is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The node's namespace.
    namespace: Option<String>,
    /// Where it listens for peers: only the proxy reaches it there.
    pub(crate) peers: SocketAddr,
    /// Where it serves its API.
    pub(crate) api: SocketAddr,
    /// Where it finds the proxy's listeners that lead to each other node, by their numbers.
    pub(crate) proxies: Vec<SocketAddr>,
}

impl Stage {
    /// Whether this process runs in the namespaces already.
    pub(crate) fn is_inside() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    /// Enters the stage: returns only in the process that is to run on it.
    pub(crate) fn enter(wanted: Wanted) -> Result<Self, Failure> {
        if Self::is_inside() {
            run("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
            run("ip", &["link", "set", "lo", "up"])?;
            return Ok(Self::Namespaces);
        }
        if wanted == Wanted::Loopback {
            return Ok(Self::Loopback);
        }
        for before in [&[][..], &AS_ROOT] {
            let unshare = || {
                let mut command = Command::new("unshare");
                command.args(before).args(NAMESPACES);
                command
            };
            let probe = unshare().args(["sh", "-c", PROBE]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if probe.is_ok_and(|status| status.success()) {
                let program = std::env::current_exe().map_err(|error| Failure::setup("find this program", error))?;
                let error = unshare().arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
                return Err(Failure::setup("run `unshare`", error));
            }
        }
        match wanted {
            Wanted::Namespaces => Err(Failure::Setup(
                "network namespaces cannot be made here: run as root, or allow user namespaces, and install `ip` \
                 (iproute2) and `unshare` (util-linux)"
                    .to_owned(),
            )),
            _ => Ok(Self::Loopback),
        }
    }

    /// What is printed of it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Namespaces => "a network namespace for each node; peers meet only through the proxy",
            Self::Loopback => {
                "loopback (network namespaces cannot be made or are not wanted); peers tell each other their own \
                 addresses and may go round the proxy, so partitions leak; the disk is never full"
            }
        }
    }

    /// Makes the places of so many nodes.
    pub(crate) fn places(self, count: usize) -> Result<Vec<Place>, Failure> {
        (0..count)
            .map(|number| if self == Self::Namespaces { namespace(number, count) } else { loopback(count) })
            .collect()
    }

    /// Mounts the small file system that can be made full, if this stage can.
    pub(crate) fn mount(self, at: &Path) -> Result<Option<SmallDisk>, Failure> {
        if self == Self::Loopback {
            return Ok(None);
        }
        let disk = SmallDisk { at: at.to_owned() };
        run("mount", &["-t", "tmpfs", "-o", &format!("size={DISK_KIB}k"), "syncline-chaos", &disk.path()])?;
        Ok(Some(disk))
    }
}

impl Place {
    /// A command that runs in this place.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }
}

/// A namespace with one link to this program: 10.91.N.2, with this program at 10.91.N.1.
fn namespace(number: usize, count: usize) -> Result<Place, Failure> {
    let name = format!("node-{number}");
    let ip = |last: u8| Ipv4Addr::new(10, 91, number as u8, last);
    let (ours, theirs) = (format!("{}/30", ip(1)), format!("{}/30", ip(2)));
    let link = format!("link-{number}");
    run("ip", &["netns", "add", &name])?;
    run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
    run("ip", &["addr", "add", &ours, "dev", &link])?;
    run("ip", &["link", "set", &link, "up"])?;
    run("ip", &["-n", &name, "addr", "add", &theirs, "dev", "eth0"])?;
    run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
    run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
    let at = |last: u8, port: u16| SocketAddr::new(IpAddr::V4(ip(last)), port);
    let proxies = (0..count).map(|to| at(1, PROXY_PORT + to as u16)).collect();
    Ok(Place { namespace: Some(name), peers: at(2, PEER_PORT), api: at(2, API_PORT), proxies })
}

/// Ports that are free now.
fn loopback(count: usize) -> Result<Place, Failure> {
    let sockets: Vec<TcpListener> = (0..count + 2)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()
        .map_err(|error| Failure::setup("find free ports", error))?;
    let mut addresses: Vec<SocketAddr> = sockets
        .iter()
        .map(TcpListener::local_addr)
        .collect::<io::Result<_>>()
        .map_err(|error| Failure::setup("find free ports", error))?;
    let proxies = addresses.split_off(2);
    Ok(Place { namespace: None, peers: addresses[0], api: addresses[1], proxies })
}

/// A file system in memory whose size can be changed while it is in use.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn path(&self) -> String {
        self.at.display().to_string()
    }

    /// Leaves only so many KiB free.
    pub(crate) fn squeeze(&self, free_kib: u64) -> Result<(), Failure> {
        let output = Command::new("df").args(["-k", "-P", &self.path()]).output();
        let output = output.map_err(|error| Failure::setup("run `df`", error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let used = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
        let used = used.ok_or_else(|| Failure::Setup(format!("`df` says nothing of {}", self.path())))?;
        self.resize(used + free_kib)
    }

    /// Gives the room back.
    pub(crate) fn release(&self) -> Result<(), Failure> {
        self.resize(DISK_KIB)
    }

    fn resize(&self, kib: u64) -> Result<(), Failure> {
        run("mount", &["-o", &format!("remount,size={kib}k"), &self.path()])
    }

    /// Copies what is on it to a directory that outlives this program.
    pub(crate) fn rescue(&self, to: &Path) -> Result<(), Failure> {
        run("cp", &["-a", &self.path(), &to.display().to_string()])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Otherwise it goes with the namespaces, but then its directory cannot be removed before.
        let _best_effort = run("umount", &["--lazy", &self.path()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure::setup(&format!("run `{program}`"), error))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(Failure::Setup(format!("`{program} {}` failed: {}", arguments.join(" "), reason.trim())))
}
