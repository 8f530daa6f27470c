//! The progress bar on stderr, where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How a job is doing, for whoever watches the terminal.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    failed: u64,
}

impl Bar {
    /// A bar for a job of `tasks` tasks. Shows nothing where stderr is no terminal.
    pub(super) fn new(tasks: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(tasks), ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(style("{wide_bar} {human_pos}/{human_len} · {per_sec} · {eta} left{msg}"));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, failed: 0 }
    }

    /// A bar for an upload of `bytes` bytes.
    pub(super) fn upload(bytes: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(style("uploading {wide_bar} {bytes}/{total_bytes} · {bytes_per_sec}"));
        Self { bar, failed: 0 }
    }

    /// `done` more, of which `failed` failed.
    pub(super) fn advance(&mut self, done: u64, failed: u64) {
        self.bar.inc(done);
        if failed > 0 {
            self.failed += failed;
            self.bar.set_message(format!(" · {} failed", self.failed));
        }
    }

    /// `done` in all, of which `failed` failed.
    pub(super) fn set(&mut self, done: u64, failed: u64) {
        self.bar.set_position(done);
        if failed != self.failed {
            self.failed = failed;
            self.bar.set_message(format!(" · {failed} failed"));
        }
    }

    /// Prints a line above the bar.
    pub(super) fn line(&self, text: &str) {
        self.bar.suspend(|| super::tell(text));
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that does not parse is a mistake of ours that costs a prettier bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
