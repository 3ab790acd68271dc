//! The directory of a run: made, kept or removed, and what earlier runs that were killed left behind.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::Failure;

/// How directories of runs begin, in the directory for temporary files.
const PREFIX: &str = "syncline-chaos-";
/// Locked as long as the run lives.
const LOCK: &str = "lock";
/// Tells later runs to leave a directory to whoever looks into the failure.
const KEPT: &str = "kept";

/// The directory of a run; removed in the end unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    keep: bool,
    _lock: File,
}

impl Directory {
    /// Makes a directory: the one that is named, which is kept, or a temporary one.
    pub(crate) fn make(named: Option<&Path>) -> Result<Self, Failure> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                std::env::temp_dir().join(format!("{PREFIX}{}", now.as_micros()))
            }
        };
        let cannot = |error| Failure::setup(&format!("make the directory {}", path.display()), error);
        fs::create_dir_all(&path).map_err(cannot)?;
        if named.is_some() && fs::read_dir(&path).map_err(cannot)?.next().is_some() {
            return Err(Failure::Setup(format!("{} is not empty: name another directory", path.display())));
        }
        let path = fs::canonicalize(&path).map_err(cannot)?;
        let lock = File::create(path.join(LOCK)).map_err(cannot)?;
        lock.lock().map_err(cannot)?;
        Ok(Self { path, keep: named.is_some(), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory after all.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
        // It only matters to later runs.
        let _best_effort = fs::write(self.path.join(KEPT), "");
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.keep
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // What remains is removed by a later run.
            let _best_effort = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes the directories of runs that were killed, and ends the nodes that still run on them.
///
/// Not to be called from inside of namespaces, where processes have other numbers.
pub(crate) fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(PREFIX) && path.join(LOCK).exists() && !path.join(KEPT).exists()
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(ours) {
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            continue;
        }
        end_nodes_on(&path);
        let _best_effort = fs::remove_dir_all(&path);
    }
}

/// Ends the processes that serve from a directory: its nodes, since its name is used once.
fn end_nodes_on(directory: &Path) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let name = directory.as_os_str().as_encoded_bytes();
    for process in processes.flatten() {
        let id = process.file_name().to_string_lossy().into_owned();
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let has = |part: &[u8]| arguments.windows(part.len()).any(|window| window == part);
        if id.bytes().all(|byte| byte.is_ascii_digit()) && has(name) && has(b"\0serve\0") {
            let order = format!("kill -KILL {id}");
            let _best_effort = std::process::Command::new("sh").args(["-c", &order]).status();
        }
    }
}
