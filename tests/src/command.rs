//! Commands that have not been started.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::{Finished, PATIENCE, Running};

/// A command that has not been started.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    stdin: Vec<u8>,
    keeps_stdin: bool,
    patience: Duration,
}

impl Command {
    pub(crate) fn new(binary: &Path, folder: &Path) -> Self {
        let mut inner = std::process::Command::new(binary);
        inner.current_dir(folder);
        // What the developer has set must not change what a test sees.
        let farm = ["FARM_TICKET", "FARM_LOG", "FARM_HOME", "FARM_CACHE"];
        for name in farm.into_iter().chain(["XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"]) {
            inner.env_remove(name);
        }
        Self { inner, stdin: Vec::new(), keeps_stdin: false, patience: PATIENCE }
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.inner.args(args);
        self
    }

    /// Adds arguments, for chaining.
    #[must_use]
    pub fn with<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env(name, value);
        self
    }

    /// Sets an environment variable, for chaining.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Gives bytes to the command's standard input, which is closed afterwards.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Keeps standard input open as long as the [`Running`] lives, or until [`Running::close_stdin`].
    #[must_use]
    pub const fn keeping_stdin(mut self) -> Self {
        self.keeps_stdin = true;
        self
    }

    /// Kills the command, and fails the test, if it takes longer.
    #[must_use]
    pub const fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// As one would type it into a shell.
    fn describe(&self) -> String {
        let words = std::iter::once(self.inner.get_program()).chain(self.inner.get_args());
        let environment = self.inner.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let environment = environment.map(|(name, value)| format!("{}={}", name.to_string_lossy(), quote(value)));
        let text = environment.chain(words.map(quote)).collect::<Vec<_>>().join(" ");
        match self.inner.get_current_dir() {
            Some(folder) => format!("cd {} && {text}", folder.display()),
            None => text,
        }
    }

    /// Starts it and gives the bare process, with stdin, stdout and stderr piped. Whoever wants to end it has to.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn spawn(&mut self) -> Child {
        println!("$ {}", self.describe());
        let inner = self.inner.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        inner.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.describe()))
    }

    /// Starts it and goes on; for what happens while it runs.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(mut self) -> Running {
        let since = Instant::now();
        let child = self.spawn();
        let given = (!self.keeps_stdin).then_some(self.stdin);
        Running::new(child, given, since, self.patience)
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started, or takes too long.
    #[track_caller]
    pub fn run(self) -> Finished {
        self.start().wait()
    }

    /// Runs it and expects exit code 0.
    ///
    /// # Panics
    ///
    /// If it ends otherwise.
    #[track_caller]
    pub fn succeeds(self) -> Finished {
        self.fails(0)
    }

    /// Runs it and expects that exit code.
    ///
    /// # Panics
    ///
    /// If it ends otherwise.
    #[track_caller]
    pub fn fails(self, code: u8) -> Finished {
        self.run().with_code(code)
    }
}

fn quote(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
