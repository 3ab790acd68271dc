//! What the demonstration shows: a line per device that moves, and a table at the end.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use syncline::Space;
use tokio::task::JoinHandle;

use super::history::History;
use super::{Device, KEY, text};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, humane_bytes, note};

/// How often the lines are brought up to date.
const REFRESH: Duration = Duration::from_millis(150);

/// The terminal; clones share it.
#[derive(Clone)]
pub(super) struct Screen {
    lines: MultiProgress,
    bars: [ProgressBar; 3],
    started: Instant,
}

impl Screen {
    pub(super) fn new(history: &History, names: [&'static str; 3]) -> Self {
        let lines = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>6} {bar:30.cyan/blue} {pos:>6}/{len} edits typed  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |(agent, name): (usize, &'static str)| {
            let edits = history.edits.iter().filter(|edit| edit.agent == agent).count();
            lines.add(ProgressBar::new(edits as u64).with_style(style.clone()).with_prefix(name))
        };
        let mut bars = names.into_iter().enumerate().map(bar);
        let bars = std::array::from_fn(|_| bars.next().unwrap_or_else(ProgressBar::hidden));
        Self { lines, bars, started: Instant::now() }
    }

    /// Tells what happens now.
    pub(super) fn say(&self, what: &str) {
        let line = format!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
        self.lines.suspend(|| note(&line));
    }

    /// An editor sent some edits.
    pub(super) fn typed(&self, agent: usize, edits: usize) {
        self.bars[agent].inc(edits as u64);
    }

    /// Shows what a device holds for as long as the task runs.
    pub(super) fn counter(&self, device: usize, space: &Space) -> JoinHandle<()> {
        let (bar, space) = (self.bars[device].clone(), space.clone());
        tokio::spawn(async move {
            loop {
                let operations = space.status().await.map_or(0, |status| status.operations);
                let characters = text(&space).await.map_or(0, |text| text.chars().count());
                bar.set_message(format!("holds {operations} operations, {characters} characters"));
                tokio::time::sleep(REFRESH).await;
            }
        })
    }

    /// Shows the outcome.
    pub(super) async fn finish(
        &self,
        devices: &[(&Device, &Space)],
        typed: Duration,
        joined: Duration,
        right: bool,
        sound: bool,
    ) -> Result<(), Failure> {
        self.bars.iter().for_each(ProgressBar::finish_and_clear);
        let mut rows = Vec::new();
        for (device, space) in devices {
            let (status, traffic) = (space.status().await?, device.node.traffic());
            let characters = text(space).await.map_or(0, |text| text.chars().count());
            rows.push(vec![
                device.name.to_owned(),
                status.operations.to_string(),
                characters.to_string(),
                humane_bytes(status.log_bytes),
                humane_bytes(traffic.sent),
                humane_bytes(traffic.received),
            ]);
        }
        let mut output = Output::new(false);
        output.line("")?;
        output.table(&["device", "operations", "characters", "log", "sent", "received"], &rows)?;
        output.line("")?;
        output.facts(&[
            ("typing and merging", format!("{:.1} s", typed.as_secs_f64())),
            ("late join", format!("{:.1} s", joined.as_secs_f64())),
            (KEY, said(right, "equal on all three, and as recorded", "NOT what it should be").to_owned()),
            ("stores", said(sound, "every record and signature verifies", "DAMAGED").to_owned()),
        ])?;
        output.flush()
    }
}

fn said<'a>(holds: bool, good: &'a str, bad: &'a str) -> &'a str {
    if holds { good } else { bad }
}
