//! The scrub: going over all that is stored at a gentle pace, so that damage is found while peers can still mend it.
//!
//! What it finds goes the way of damage that is met by reading: into quarantine, and the space is opened again without
//! it. Where it is stands in memory alone, so a node that starts begins a round anew.

use std::sync::Weak;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};
use syncline_model::SpaceId;
use syncline_storage::{LogReader, Position, ScrubStep};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Inner, Node, builder};
use crate::error::Error;
use crate::space::pump::Message;

/// Bytes that a node goes over in a second unless it is told otherwise.
pub(super) const SCRUB_BYTES_PER_SECOND: u64 = 1 << 20;
/// Most bytes of one step.
const STEP_BYTES_MAX: u64 = 1 << 20;
/// Pause between two rounds: small logs would otherwise be read all the time.
const ROUND_PAUSE: Duration = Duration::from_secs(3600);
/// Longest pause after one step, whatever the pace.
const STEP_PAUSE_MAX: Duration = Duration::from_secs(600);

/// What the scrub has done since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Scrub {
    bytes: Counter,
    damaged_runs: Counter,
}

/// The scrub of a node.
#[derive(Debug)]
pub(super) struct Scrubbing {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Whether to go on.
enum Next {
    Goes,
    Ends,
}

impl Scrub {
    /// Its figures, as a monitoring system reads them.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let scrub = Self::default();
        registry.register_with_unit("scrubbed", "Stored bytes gone over", Unit::Bytes, scrub.bytes.clone());
        let help = "Damaged runs that going over them found";
        registry.register("scrub_damaged_runs", help, scrub.damaged_runs.clone());
        scrub
    }

    /// Starts it, unless the pace is none.
    pub(super) fn start(self, node: Weak<Inner>, bytes_per_second: u64) -> Option<Scrubbing> {
        if bytes_per_second == 0 {
            return None;
        }
        let (stop, mut stopping) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Next::Goes = self.round(&node, bytes_per_second, &mut stopping).await
                && let Next::Goes = pause(ROUND_PAUSE, &mut stopping).await
            {}
        });
        Some(Scrubbing { stop, task })
    }

    /// Goes over all spaces once.
    async fn round(&self, node: &Weak<Inner>, bytes_per_second: u64, stopping: &mut watch::Receiver<bool>) -> Next {
        let handle = || node.upgrade().map(|inner| Node { inner });
        let Some(first) = handle() else { return Next::Ends };
        let spaces: Vec<SpaceId> = first.entries().iter().map(|entry| entry.link.space).collect();
        drop(first);
        let step_bytes = bytes_per_second.min(STEP_BYTES_MAX);
        for space in spaces {
            let mut after = None;
            loop {
                let Some(node) = handle() else { return Next::Ends };
                // A space that was left or has failed is passed over.
                let Ok(step) = step(&node, space, after, step_bytes as usize).await else { break };
                drop(node);
                self.bytes.inc_by(step.bytes);
                self.damaged_runs.inc_by(step.damaged.len() as u64);
                let rest = Duration::from_secs_f64(step.bytes as f64 / bytes_per_second as f64);
                if let Next::Ends = pause(rest.min(STEP_PAUSE_MAX), stopping).await {
                    return Next::Ends;
                }
                if step.complete {
                    break;
                }
                after = Some(step.reached);
            }
        }
        Next::Goes
    }
}

impl Scrubbing {
    /// Ends it, after the step that is under way: whoever waits may open the data directory again at once.
    pub(super) async fn end(self) {
        self.stop.send_replace(true);
        // The task only fails by a panic, which its runtime has reported.
        let _ended = self.task.await;
    }
}

async fn pause(rest: Duration, stopping: &mut watch::Receiver<bool>) -> Next {
    tokio::select! {
        () = tokio::time::sleep(rest) => Next::Goes,
        // An error means that the node is gone.
        _ = stopping.wait_for(|stop| *stop) => Next::Ends,
    }
}

async fn step(node: &Node, space: SpaceId, after: Option<Position>, bytes: usize) -> Result<ScrubStep, Error> {
    let space = node.space(&space.to_string())?;
    let reader: LogReader = space.log_reader().await?;
    let step = builder::blocking(move || Ok(reader.scrub(after, bytes)?)).await?;
    if !step.damaged.is_empty() {
        // The space looks for damage after everything that it does.
        space.link.send(Message::Tick);
    }
    Ok(step)
}
