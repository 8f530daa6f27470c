//! Commands that run.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::{Finished, wait_for, wait_up_to};

/// How long a process may take to end once the standard input that was kept open for it is closed.
const POLITE: Duration = Duration::from_secs(5);

/// A command that runs. Ended when dropped: by closing the standard input that was kept open, else by force.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
    since: Instant,
    patience: Duration,
}

/// What a process writes, read by a thread of its own so that it never waits.
#[derive(Debug)]
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn new(from: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let Some(mut from) = from else { return };
            let mut chunk = vec![0; 1 << 16];
            // What was read before an error is still of interest.
            while let Ok(read @ 1..) = from.read(&mut chunk) {
                if let Ok(mut bytes) = shared.lock() {
                    bytes.extend_from_slice(&chunk[..read]);
                }
            }
        });
        Self { bytes, reader }
    }

    fn so_far(&self) -> String {
        self.bytes.lock().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn take(&self) -> Vec<u8> {
        self.bytes.lock().map(|mut bytes| std::mem::take(&mut *bytes)).unwrap_or_default()
    }
}

impl Running {
    /// With `given` as its standard input, or with standard input open.
    pub(crate) fn new(mut child: Child, given: Option<Vec<u8>>, since: Instant, patience: Duration) -> Self {
        let mut stdin = child.stdin.take();
        if let Some(given) = given
            && let Some(mut stdin) = stdin.take()
        {
            std::thread::spawn(move || {
                // A command need not read what it is given.
                let _ = stdin.write_all(&given);
            });
        }
        let (stdout, stderr) = (Stream::new(child.stdout.take()), Stream::new(child.stderr.take()));
        Self { child, stdin, stdout, stderr, since, patience }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal: `Signal::INT` is Ctrl-C, `Signal::KILL` what a crash looks like.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // Fails only if it has ended.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Closes its standard input, if that was kept open.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// What it has written to stdout so far.
    pub fn printed(&self) -> String {
        self.stdout.so_far()
    }

    /// What it has written to stderr so far.
    pub fn said(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until `text` is on its stdout.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    #[track_caller]
    pub fn until_it_prints(&mut self, text: &str) {
        let found = wait_for(&format!("{text:?} on stdout"), || {
            let ended = !self.is_running() && self.stdout.reader.is_finished();
            if self.printed().contains(text) { Some(true) } else { ended.then_some(false) }
        });
        assert!(found, "it ended without {text:?} on stdout; it said: {}", self.said());
    }

    /// Waits until `text` is on its stderr.
    ///
    /// # Panics
    ///
    /// If that does not happen.
    #[track_caller]
    pub fn until_it_says(&mut self, text: &str) {
        let found = wait_for(&format!("{text:?} on stderr"), || {
            let ended = !self.is_running() && self.stderr.reader.is_finished();
            if self.said().contains(text) { Some(true) } else { ended.then_some(false) }
        });
        assert!(found, "it ended without {text:?} on stderr, which has: {}", self.said());
    }

    /// The most memory that it has had resident so far, in bytes; `None` once it has ended.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes << 10)
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it takes too long; then it is killed.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        let since = self.since;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if since.elapsed() > self.patience => {
                    panic!("still running after {:?}; it said: {}", self.patience, self.said());
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => panic!("cannot wait for the command: {error}"),
            }
        };
        let took = since.elapsed();
        let read = || self.stdout.reader.is_finished() && self.stderr.reader.is_finished();
        let is_read = wait_up_to(Duration::from_secs(10), || read().then_some(())).is_some();
        assert!(is_read, "it has ended, but something that it started holds its stdout or stderr: {}", self.said());
        let finished = Finished { status, stdout: self.stdout.take(), stderr: self.stderr.so_far(), took };
        println!("  exit code {:?} after {took:?}; stderr: {}", finished.code(), finished.stderr.trim_end());
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.stdin.take().is_some() {
            let _ = wait_up_to(POLITE, || (!self.is_running()).then_some(()));
        }
        // Does nothing where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
