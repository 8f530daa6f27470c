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
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use super::*;

    /// A folder of programs that stand for SLURM's.
    pub(in crate::cluster::provider) struct Fakes(tempfile::TempDir);

    impl Fakes {
        pub(in crate::cluster::provider) fn new(programs: &[(&str, &str)]) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            programs.iter().for_each(|(name, body)| folder.add(name, body));
            folder
        }

        fn add(&self, name: &str, body: &str) {
            let path = self.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        pub(in crate::cluster::provider) fn path(&self) -> &Path {
            self.0.path()
        }

        pub(in crate::cluster::provider) fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path().join(name)).unwrap()
        }

        /// Runs commands that find these programs first; and `ssh`, if it is among them, in a shell of its own.
        pub(in crate::cluster::provider) fn runner(&self, via: Option<&str>) -> Runner {
            let mut runner = Runner::new(via);
            let path = format!("{}:/usr/bin:/bin", self.path().display());
            runner.env = vec![("PATH".to_owned(), path)];
            if let Some(first) = runner.via.first_mut() {
                *first = self.path().join(&*first).display().to_string();
            }
            runner
        }
    }

    /// What ssh does: all its arguments but the first, in a shell of the other side.
    pub(in crate::cluster::provider) const SSH: (&str, &str) =
        ("ssh", r#"echo "$1" >"${0%/*}/host"; shift; exec sh -c "$*""#);

    fn say(words: &[&str]) -> Invocation {
        Invocation { words: words.iter().map(|&word| word.to_owned()).collect(), ..Invocation::default() }
    }

    #[tokio::test]
    async fn the_environment_of_a_command_is_tidied_and_the_secret_is_in_no_command_line() {
        let fakes = Fakes::new(&[SSH, ("sbatch", r#"env; echo "args: $*"; tr '\0' ' ' </proc/$$/cmdline; cat"#)]);
        for via in [None, Some("ssh login.example.org")] {
            let mut runner = fakes.runner(via);
            for name in ["SBATCH_PARTITION", "SQUEUE_FORMAT", "SCANCEL_STATE", "SLURM_CLUSTERS", "SLURM_CONF", "OTHER"]
            {
                runner.env.push((name.to_owned(), "a\nb c".to_owned()));
            }
            let secret = "farm://h:1/worker?ca=1&secret=2 ' \\n \"".to_owned();
            let job = Invocation {
                secret: secret.clone(),
                stdin: "#!/bin/sh\nexit\n".to_owned(),
                ..say(&["sbatch", "--x=it's"])
            };
            let shown = runner.shown(&job);
            let answer = runner.run(job).await.unwrap();
            for gone in ["SBATCH_PARTITION", "SQUEUE_FORMAT", "SCANCEL_STATE", "SLURM_CLUSTERS", "SECRET"] {
                assert!(!answer.contains(gone), "{gone} in {answer}");
            }
            for kept in ["SLURM_CONF=a", "PATH=", "SLURM_TIME_FORMAT=%s", "args: --x=it's\n", "#!/bin/sh\nexit\n"] {
                assert!(answer.contains(kept), "{kept:?} not in {answer}");
            }
            assert!(answer.contains(&format!("FARM_TICKET={secret}\n")), "{answer}");
            assert_eq!(answer.matches("secret=2").count(), 1, "in the environment only: {answer}");
            if via.is_some() {
                assert_eq!(fakes.read("host"), "login.example.org\n");
            }
            assert!(!shown.contains("secret") && shown.contains("--x="), "{shown}");
        }
    }

    #[tokio::test]
    async fn every_word_arrives_as_it_is() {
        let fakes = Fakes::new(&[SSH, ("squeue", r#"for word do printf '%s\n' "<$word>"; done"#)]);
        let words = ["squeue", "a b", "it's", "$HOME `x` \\", "*", "", "a\"b", "%i|%F", "--user"];
        for via in [None, Some("ssh host")] {
            let call = Invocation { tail: "\"$((1 + 1))\"", ..say(&words) };
            let answer = fakes.runner(via).run(call).await.unwrap();
            let expected: String = words[1..].iter().chain(&["2"]).map(|word| format!("<{word}>\n")).collect();
            assert_eq!(answer, expected);
        }
    }

    #[tokio::test]
    async fn errors_keep_the_words_of_the_command() {
        let fakes = Fakes::new(&[
            SSH,
            ("sbatch", "cat >/dev/null; echo 'sbatch: error: invalid partition specified: x' >&2; exit 1"),
        ]);
        let error = fakes.runner(None).run(say(&["sbatch"])).await.unwrap_err();
        assert!(error.is_sure());
        assert_eq!(error.to_string(), "sbatch failed (exit status: 1): sbatch: error: invalid partition specified: x");
        let error = fakes.runner(None).run(say(&["squeue-not-there"])).await.unwrap_err();
        assert!(error.is_sure() && error.to_string().starts_with("squeue-not-there is not on PATH: "), "{error}");
        let error = fakes.runner(Some("ssh far")).run(say(&["squeue-not-there"])).await.unwrap_err();
        assert!(error.to_string().contains("ssh far") && error.to_string().contains("PATH is "), "{error}");
        let error = fakes.runner(Some("no-such-ssh far")).run(say(&["sbatch"])).await.unwrap_err();
        assert!(matches!(error, CommandError::Start { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_would_wait_is_ended() {
        let words = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying";
        let fakes = Fakes::new(&[("sbatch", &format!("cat >/dev/null; echo '{words}' >&2; sleep 600"))]);
        let error = fakes.runner(None).run(say(&["sbatch"])).await.unwrap_err();
        assert!(error.is_sure() && error.to_string() == format!("sbatch has to wait: {words}"), "{error}");
    }

    #[tokio::test]
    async fn who_gives_no_reason_may_have_done_it() {
        for (words, is_sure) in [
            ("sbatch: error: Batch job submission failed: Requested node configuration is not available", true),
            ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy", true),
            ("sbatch: error: Batch job submission failed: Access/permission denied", true),
            ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", false),
            ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", false),
            ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", false),
            ("ssh: connect to host login port 22: Connection refused", false),
            ("", false),
        ] {
            let fakes = Fakes::new(&[("sbatch", &format!("cat >/dev/null; echo '{words}' >&2; exit 1"))]);
            let error = fakes.runner(None).run(say(&["sbatch"])).await.unwrap_err();
            assert_eq!(error.is_sure(), is_sure, "{error}");
        }
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_what_it_started() {
        let fakes = Fakes::new(&[("squeue", r#"sleep 600 & echo $! >"${0%/*}/pid"; wait"#)]);
        let mut runner = fakes.runner(None);
        runner.timeout = Duration::from_secs(1);
        let since = Instant::now();
        let error = runner.run(say(&["squeue"])).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }) && !error.is_sure(), "{error}");
        assert!(since.elapsed() < Duration::from_secs(20));
        let stat = PathBuf::from(format!("/proc/{}/stat", fakes.read("pid").trim()));
        // Its parent is gone; whoever inherits it may take a while to bury it.
        let is_dead = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !is_dead() {
            assert!(since.elapsed() < Duration::from_secs(20), "still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
