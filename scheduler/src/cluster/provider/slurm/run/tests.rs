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
        for name in ["SBATCH_PARTITION", "SQUEUE_FORMAT", "SCANCEL_STATE", "SLURM_CLUSTERS", "SLURM_CONF", "OTHER"] {
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
