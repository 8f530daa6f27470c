//! Processes that live no longer than the test that started them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::{env, fs, io, iter};

use rustix::process::Signal;

use crate::leftovers::{Process, children};

/// Starts a program for each line on its standard input and ends with it. It is bash, and not any shell, because it
/// reaps whatever ends in the meantime. Programs that a shell starts beside itself would ignore Ctrl-C, were it not for
/// `--default-signal`.
const INIT: &str = r#"
eval "$1" || exit 1
log=$2; shift 2
echo ready
while read -r _; do
    env -i --default-signal PATH="$PATH" HOME=/root LANG=C.UTF-8 "$@" </dev/null >>"$log" 2>&1 &
done
"#;

/// A place apart with its own process ids, mounts and host name.
///
/// Whatever runs in it ends when it is dropped, without exception: also what has made itself a daemon, changed its name
/// or cleared its environment, for the kernel ends all processes of a namespace with the first one. That one ends when
/// our end of a pipe is closed, so that even a test that is killed leaves none behind.
#[derive(Debug)]
pub(crate) struct Cell {
    /// `unshare`, which waits for the first process.
    outer: Child,
    first: u32,
    lines: ChildStdin,
}

/// What a [`Cell`] is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Put in front of everything; a program that becomes what follows, such as `nsenter --net=… --`.
    pub(crate) prefix: Vec<String>,
    /// More options of `unshare`.
    pub(crate) unshare: Vec<String>,
    /// Lines for a shell that prepare the place.
    pub(crate) set_up: String,
    /// What [`Cell::run`] starts.
    pub(crate) program: Vec<String>,
    /// Where it writes to.
    pub(crate) log: PathBuf,
}

impl Cell {
    /// Makes the place; nothing runs in it yet.
    pub(crate) fn new(plan: &Plan) -> io::Result<Self> {
        let unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let words = plan.prefix.iter().map(String::as_str).chain(unshare);
        let words = words.chain(plan.unshare.iter().map(String::as_str)).chain(["bash", "-c", INIT, "bash"]);
        let mut command = command(words);
        command.arg(&plan.set_up).arg(&plan.log).args(&plan.program);
        let mut outer =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/").spawn()?;

        let ready = outer.stdout.take().is_some_and(|stdout| {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).is_ok_and(|_| line == "ready\n")
        });
        let first = children(outer.id()).first().map(|process| process.pid);
        if ready && let (Some(first), Some(lines)) = (first, outer.stdin.take()) {
            return Ok(Self { outer, first, lines });
        }
        let _ = outer.kill();
        let mut said = String::new();
        if let Some(mut stderr) = outer.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        outer.wait()?;
        Err(io::Error::other(said.trim().to_owned()))
    }

    /// Starts the program of the plan, and does not wait for it.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.lines.write_all(b"\n")
    }

    /// The program, if it runs: what the first process has started, not what that has.
    pub(crate) fn running(&self, program: &str) -> Vec<Process> {
        let mut running = children(self.first);
        running.retain(|process| process.words.first().is_some_and(|word| word == program));
        running
    }

    /// All that runs in it, but for the first process.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let Some(ours) = namespace(self.first) else { return Vec::new() };
        let mut all = Process::all();
        all.retain(|process| process.pid != self.first && namespace(process.pid).as_ref() == Some(&ours));
        all
    }

    /// The id of the first process.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// The file of one of its namespaces, for `nsenter`.
    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.first).into()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        // As long as the outer process has not ended, the first one's id is its own.
        if matches!(self.outer.try_wait(), Ok(None)) {
            Process { pid: self.first, words: Vec::new() }.signal(Signal::KILL);
        }
        if let Err(error) = self.outer.wait() {
            println!("cannot wait for process {}: {error}", self.outer.id());
        }
    }
}

/// In which process namespace a process is.
fn namespace(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Why no [`Cell`] can be made, with these programs in it.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("this takes root".to_owned());
    }
    let path = path();
    let folders = || env::split_paths(&path);
    let is_there = |program: &&str| folders().any(|folder| folder.join(program).is_file());
    let needed = ["bash", "unshare", "mount", "hostname"].iter().chain(programs);
    if let Some(program) = needed.copied().find(|program| !is_there(program)) {
        return Some(format!("there is no `{program}`"));
    }
    Cell::new(&Plan { unshare: vec!["--net".to_owned()], ..Plan::default() }).err().map(|error| error.to_string())
}

/// Says that a test is skipped, and why. Not by way of `println!`, which nobody sees of a test that passes.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let _ = writeln!(io::stderr(), "skipped: {}: {reason}", thread.name().unwrap_or("test"));
}

/// Where programs are looked for: also in the folders that only root has on its path.
fn path() -> String {
    let path = env::var("PATH").unwrap_or_default();
    [path.as_str(), "/usr/sbin", "/usr/bin", "/sbin", "/bin"].join(":")
}

/// A command with nothing of the test's environment but the path.
pub(crate) fn command<'w>(words: impl IntoIterator<Item = &'w str>) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env_clear().env("PATH", path()).env("HOME", "/root").env("LANG", "C.UTF-8");
    command
}

/// The words of `prefix`, then `program`.
pub(crate) fn behind<'w>(prefix: &'w [String], program: &'w str) -> impl Iterator<Item = &'w str> {
    prefix.iter().map(String::as_str).chain(iter::once(program))
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
