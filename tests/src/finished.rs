//! Commands that have ended.

use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Finished {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Expects that exit code.
    ///
    /// # Panics
    ///
    /// If it is another.
    #[track_caller]
    #[must_use]
    pub fn with_code(self, code: u8) -> Self {
        let stdout = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4096)]);
        assert_eq!(self.code(), Some(code.into()), "stdout: {stdout}\nstderr: {}", self.stderr);
        self
    }

    /// Standard output as text.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|error| panic!("stdout is no text: {error}"))
    }

    /// Standard output as one JSON document.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is no JSON ({error}): {}", String::from_utf8_lossy(&self.stdout)))
    }

    /// Standard output as one JSON document a line.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        self.text().lines().map(parse).collect()
    }

    /// Standard error as one JSON document: what `--output json` makes of an error.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[track_caller]
    pub fn error_json(&self) -> Value {
        serde_json::from_str(&self.stderr)
            .unwrap_or_else(|error| panic!("stderr is no JSON ({error}): {}", self.stderr))
    }

    /// Expects each of `parts` in what the command said on stderr.
    ///
    /// # Panics
    ///
    /// If one is not there, or a panic is.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "stderr lacks {part:?}:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked at"), "a panic of the host:\n{}", self.stderr);
        self
    }

    /// Expects an error of one line that has each of `parts`, and nothing on stdout.
    ///
    /// # Panics
    ///
    /// If there is no such line, or more than one, or a panic.
    #[track_caller]
    pub fn explains(&self, parts: &[&str]) -> &Self {
        self.says(&[]);
        assert_eq!(String::from_utf8_lossy(&self.stdout), "", "an error belongs on stderr");
        let mut errors = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let error = errors.next().unwrap_or_else(|| panic!("stderr has no error:\n{}", self.stderr));
        assert_eq!(errors.next(), None, "more than one error:\n{}", self.stderr);
        for part in parts {
            assert!(error.contains(part), "the error lacks {part:?}: {error}");
        }
        let known = |line: &str| {
            ["error: ", "hint: ", "note: ", "warning: ", "no farm is up"].iter().any(|start| line.starts_with(start))
        };
        let other = self.stderr.lines().find(|line| !known(line));
        assert_eq!(other, None, "an error is one line, and a hint another:\n{}", self.stderr);
        self
    }

    /// Expects a hint of one line that has each of `parts`.
    ///
    /// # Panics
    ///
    /// If there is no such line.
    #[track_caller]
    pub fn hints(&self, parts: &[&str]) -> &Self {
        let hint = self.stderr.lines().find(|line| line.starts_with("hint: "));
        let hint = hint.unwrap_or_else(|| panic!("stderr has no hint:\n{}", self.stderr));
        for part in parts {
            assert!(hint.contains(part), "the hint lacks {part:?}: {hint}");
        }
        self
    }
}
