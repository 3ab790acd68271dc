//! How far a long step is, on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use syncline::{Activity, Progress};

/// How often the bar moves by itself.
const TICK: Duration = Duration::from_millis(200);

/// A bar on the standard error, if that is a terminal; it goes when it is dropped.
pub(crate) struct Bar {
    bar: ProgressBar,
    bounded: Option<bool>,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        // Until there is something to tell.
        if let Ok(style) = ProgressStyle::with_template("{spinner}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self { bar, bounded: None }
    }

    /// Shows what the storage reports.
    pub(crate) fn storage(&mut self, progress: Progress) {
        let what = match progress.activity {
            Activity::IndexPutAside => "putting the index aside",
            Activity::Recovering => "recovering",
            Activity::Indexing => "indexing",
            Activity::Verifying => "checking the log",
            Activity::BackingUp => "backing up",
            Activity::Restoring => "restoring",
            _ => "working",
        };
        self.bytes(what, progress.done, progress.total);
    }

    /// Shows bytes done of a total; no total when it is 0.
    pub(crate) fn bytes(&mut self, what: &str, done: u64, total: u64) {
        let template = if total > 0 {
            "{msg} {bar:40} {bytes} of {total_bytes}, {eta} left"
        } else {
            "{spinner} {msg} {bytes}, {bytes_per_sec}"
        };
        self.show(what, template, done, total);
    }

    /// Shows things done of a total.
    pub(crate) fn count(&mut self, what: &str, done: u64, total: u64) {
        self.show(what, "{msg} {bar:40} {pos} of {len}, {eta} left", done, total);
    }

    fn show(&mut self, what: &str, template: &str, done: u64, total: u64) {
        let bounded = total > 0;
        if self.bounded != Some(bounded) || self.bar.message() != what {
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.reset_eta();
            self.bar.set_message(what.to_owned());
            self.bounded = Some(bounded);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
