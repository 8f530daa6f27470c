//! Running SLURM's commands, here or by way of another host.
//!
//! Always in the same form, so that there is one to be right:
//!
//! ```text
//! [ssh HOST] sh -c 'read the secret from the first line of stdin; tidy the environment; exec "$@"' sh sbatch …
//! ```
//!
//! The environment is a chosen few variables. Others would change what is asked for: `SBATCH_PARTITION` has precedence
//! over a script's. And it becomes that of the jobs: `sbatch --export` with names would make every node ask a login
//! shell of the user for more, which takes the home directory that need not be there.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::super::{quoted, quoted_line, tail};

/// How long a command may take. SLURM's own give up on a controller that does not answer after 10 s or so.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer. A job takes about 200.
const MAX_ANSWER: u64 = 64 << 20;
const MAX_COMPLAINT: u64 = 64 << 10;

/// What `sbatch` says before it sleeps for a second and more, when the queue is full.
const SLEEPS: &str = "sleeping and retrying";
/// What it says when it has got no answer, in lower case.
const SILENCES: [&str; 3] = ["timed out", "unable to contact", "zero bytes were transmitted"];
/// What it says of what it or the controller refuses. What is not in here is only repeated later.
const REFUSALS: [&str; 9] = [
    "invalid",
    "requested",
    "not available",
    "violates",
    "limit",
    "denied",
    "not permitted",
    "unrecognized option",
    "unable to accept job",
];

/// One line, as the shells of some users cannot quote others. bash has variables that cannot be unset.
const SHELL: &str = concat!(
    "IFS= read -r FARM_TICKET; ",
    r#"for farm_name in $(env | sed -n "s/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p"); do case $farm_name in "#,
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_ALL|TZ|LD_LIBRARY_PATH|SLURM_CONF) ;; ",
    "FARM_TICKET|BASHOPTS|BASH_VERSINFO|EUID|PPID|SHELLOPTS|UID) ;; ",
    r#"*) unset "$farm_name";; esac; done; unset farm_name; "#,
    r#"if [ -n "$FARM_TICKET" ]; then export FARM_TICKET; else unset FARM_TICKET; fi; "#,
    "SLURM_TIME_FORMAT=%s; export SLURM_TIME_FORMAT; ",
    r#"if command -v "$1" >/dev/null; then exec "$@"; fi; echo "PATH is $PATH" >&2; exit 127"#,
);

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("cannot start `{program}`: {source}")]
    Start { program: String, source: io::Error },
    /// The program is not where it would be run.
    #[error("{program} is not on PATH{place}: SLURM's commands are needed there ({words})")]
    Missing { program: String, place: String, words: String },
    #[error("{program} has not answered within {} s", .after.as_secs())]
    TimedOut { program: String, after: Duration },
    #[error("{program} failed ({status}): {words}")]
    Failed { program: String, status: ExitStatus, words: String },
    /// It has been refused for now, and would go on trying for two minutes.
    #[error("{program} has to wait: {words}")]
    Waits { program: String, words: String },
    #[error("the pipes of {program} broke: {source}")]
    Pipe { program: String, source: io::Error },
    #[error("{program} answers what nobody understands: {answer:?}")]
    Answer { program: String, answer: String },
}

impl CommandError {
    /// Whether it has done nothing, for sure. A command that fails may have done something: a controller that is slow
    /// to answer does what it was asked to. Only one that gives its reason has refused.
    pub(crate) fn is_sure(&self) -> bool {
        match self {
            Self::Start { .. } | Self::Missing { .. } | Self::Waits { .. } => true,
            Self::Failed { words, .. } => {
                let words = words.to_ascii_lowercase();
                let has_one_of = |list: &[&str]| list.iter().any(|part| words.contains(part));
                has_one_of(&REFUSALS) && !has_one_of(&SILENCES)
            }
            Self::TimedOut { .. } | Self::Pipe { .. } | Self::Answer { .. } => false,
        }
    }
}

/// A command of SLURM.
#[derive(Debug, Clone, Default)]
pub(super) struct Invocation {
    /// The program and its arguments.
    pub(super) words: Vec<String>,
    /// More arguments, as a shell is to read them where the program runs.
    pub(super) tail: &'static str,
    /// What it finds in `FARM_TICKET`, if it is not empty.
    pub(super) secret: String,
    pub(super) stdin: String,
}

/// Runs commands.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    /// A command that runs another one.
    via: Vec<String>,
    pub(super) timeout: Duration,
    /// Instead of this process's, for tests.
    #[cfg(test)]
    pub(super) env: Vec<(String, String)>,
}

impl Runner {
    /// `via` is split at blanks.
    pub(super) fn new(via: Option<&str>) -> Self {
        let via = via.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        Self {
            via,
            timeout: TIMEOUT,
            #[cfg(test)]
            env: Vec::new(),
        }
    }

    /// The same, for people.
    pub(super) fn shown(&self, invocation: &Invocation) -> String {
        let mut line = quoted_line(&invocation.words);
        if !invocation.tail.is_empty() {
            line = format!("{line} {}", invocation.tail);
        }
        if self.via.is_empty() { line } else { format!("{} {}", quoted_line(&self.via), quoted(&line)) }
    }

    /// Runs it to its end, and gives what it prints.
    ///
    /// # Errors
    ///
    /// It cannot be run, takes too long and is killed, or ends with another exit code than 0.
    pub(super) async fn run(&self, invocation: Invocation) -> Result<String, CommandError> {
        let program = invocation.words.first().cloned().unwrap_or_default();
        let mut child = self.start(&invocation, &program)?;
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let talk = tokio::time::timeout(self.timeout, talk(&mut child, invocation)).await;
        if !matches!(talk, Ok(Ok(_))) {
            // With all that it has started.
            if let Some(group) = group {
                // Fails only if it has just ended.
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait().await;
        }
        let (status, answer, complaint) = match talk {
            Ok(Ok(talk)) => talk,
            Ok(Err(Broken::Waits(words))) => return Err(CommandError::Waits { program, words }),
            Ok(Err(Broken::Pipe(source))) => return Err(CommandError::Pipe { program, source }),
            Err(_) => return Err(CommandError::TimedOut { program, after: self.timeout }),
        };
        if status.success() {
            return Ok(answer);
        }
        let words = first_words(&complaint);
        if status.code() == Some(127) {
            let place = if self.via.is_empty() { String::new() } else { format!(" of `{}`", self.via.join(" ")) };
            return Err(CommandError::Missing { program, place, words });
        }
        Err(CommandError::Failed { program, status, words })
    }

    fn start(&self, invocation: &Invocation, program: &str) -> Result<Child, CommandError> {
        let shell = SHELL.replacen("exec \"$@\"", &format!("exec \"$@\" {}", invocation.tail), 1);
        let words = ["sh", "-c", &shell, "sh"].into_iter().map(str::to_owned).chain(invocation.words.iter().cloned());
        let mut command = match self.via.split_first() {
            None => {
                let mut command = Command::new("sh");
                command.args(words.skip(1));
                command
            }
            Some((first, rest)) => {
                // What is to be run there goes through a shell there, as with ssh.
                let line = quoted_line(&words.collect::<Vec<_>>());
                let mut command = Command::new(first);
                command.args(rest).arg(format!("exec {line}"));
                command
            }
        };
        // An administrator's ticket may be in our own.
        command.env_remove("FARM_TICKET");
        #[cfg(test)]
        command.envs(self.env.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.process_group(0).kill_on_drop(true).spawn();
        let runs = self.via.first().map_or(program, String::as_str);
        started.map_err(|source| CommandError::Start { program: runs.to_owned(), source })
    }
}

/// Why a command is not heard to its end.
#[derive(Debug)]
enum Broken {
    Pipe(io::Error),
    /// It says that it sleeps, and why.
    Waits(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

async fn talk(child: &mut Child, invocation: Invocation) -> Result<(ExitStatus, String, String), Broken> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let say = async move {
        if let Some(mut stdin) = stdin {
            let text = format!("{}\n{}", invocation.secret, invocation.stdin);
            // One that does not want to hear it says so by its exit code.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        Ok(())
    };
    let answer = async { Ok(bounded(stdout, MAX_ANSWER).await?) };
    let ((), answer, complaint) = tokio::try_join!(say, answer, complaint(stderr))?;
    Ok((child.wait().await?, answer, complaint))
}

/// Reads to the end, or until a command says that it waits: others are not to wait with it.
async fn complaint(from: Option<impl AsyncRead + Unpin>) -> Result<String, Broken> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let mut bounded = (&mut from).take(MAX_COMPLAINT);
        while bounded.read_buf(&mut bytes).await? > 0 {
            let words = String::from_utf8_lossy(&bytes);
            if words.contains(SLEEPS) {
                return Err(Broken::Waits(first_words(&words)));
            }
        }
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads to the end, and keeps the beginning.
async fn bounded(from: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(limit).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a command complains of, in one line.
fn first_words(complaint: &str) -> String {
    let lines: Vec<_> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).take(5).collect();
    if lines.is_empty() { "without a word".to_owned() } else { tail(&lines.join("; ")).to_owned() }
}

#[cfg(test)]
pub(super) mod tests;
