//! Programs that some tests need and that only the operating system has.
//!
//! Nothing depends on them: where they cannot be had, the tests that need them say so and pass.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{run, run_for, say};

/// Lists of 9 MB and packages of 5 MB.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(120);

/// What a group of tests needs.
struct Need {
    tests: &'static str,
    /// One program of each package.
    programs: &'static [&'static str],
    packages: &'static [&'static str],
}

const NEEDS: [Need; 2] = [
    Need {
        tests: "tests on SLURM",
        programs: &["slurmctld", "slurmd", "sbatch", "munged"],
        packages: &["slurmctld", "slurmd", "slurm-client", "munge"],
    },
    Need { tests: "tests of networks", programs: &["ip", "nft"], packages: &["iproute2", "nftables"] },
];

/// Installs what is missing, and gives a line for each group of tests that will be skipped.
pub(crate) fn ensure_installed() -> Vec<String> {
    let skipped = NEEDS.iter().filter_map(|need| {
        let reason = need.install().err()?;
        // The outermost reason: apt has told the rest.
        let line = format!("{} are skipped: {reason}", need.tests);
        say(&line);
        Some(line)
    });
    skipped.collect()
}

impl Need {
    fn install(&self) -> Result<()> {
        let root = is_root();
        if self.missing().is_empty() {
            ensure!(root, "they take root");
            return Ok(());
        }
        let missing = self.missing().join(", ");
        let by_hand = format!("apt-get install --no-install-recommends {}", self.packages.join(" "));
        ensure!(root, "they take root, and {missing} (`{by_hand}`)");
        ensure!(is_there("apt-get"), "there is no {missing}, and no `apt-get` that could install it");

        say(format!("{}: installing {} from Debian's packages", self.tests, self.packages.join(" ")));
        // Only what may take for ever has a limit: whoever stops dpkg halfway leaves a broken machine.
        let download = || self.apt(&["--download-only"], Some(DOWNLOAD_LIMIT));
        if download().is_err() {
            // Fails as well when one of many servers does not answer, maybe one that we do not need.
            let _ = run_for(apt().arg("update"), DOWNLOAD_LIMIT);
            download().with_context(|| format!("there is no {missing}, and apt cannot fetch it"))?;
        }
        self.apt(&["--no-download"], None)?;
        let missing = self.missing();
        if !missing.is_empty() {
            bail!("the packages do not have {}", missing.join(", "));
        }
        Ok(())
    }

    fn apt(&self, options: &[&str], limit: Option<Duration>) -> Result<()> {
        let mut command = apt();
        command.args(["install", "--yes", "--no-install-recommends"]).args(options).args(self.packages);
        match limit {
            Some(limit) => run_for(&mut command, limit),
            None => run(&mut command),
        }
    }

    fn missing(&self) -> Vec<&'static str> {
        self.programs.iter().copied().filter(|program| !is_there(program)).collect()
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["--quiet=2", "-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::Retries=0"]);
    command.args(["-o", "Acquire::http::Timeout=20", "-o", "Dpkg::Use-Pty=0"]);
    command
}

/// Whether there is a program of that name, also where only root looks. Not started: daemons may not know `--version`.
fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

/// Whether we may do what we like: our own files in `/proc` are root's.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    Path::new("/proc/self").metadata().is_ok_and(|metadata| metadata.uid() == 0)
}
