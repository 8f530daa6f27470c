//! Fuzz targets: with libFuzzer where there is one, else with inputs that are made by chance.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::{exists, run as run_command, say};
use crate::workspace::Workspace;

/// How long each target is tried, in seconds, if nobody says.
const SECONDS: u64 = 60;
/// No target makes more of longer inputs, in bytes.
const LONGEST: u64 = 4096;

/// Tries all targets, or the one that is named, for `--seconds` each. What libFuzzer finds goes to
/// `tests/fuzz/cargo-fuzz/artifacts`, and the inputs that it learns from to `target/fuzz`.
pub(crate) fn run(workspace: &Workspace, options: &[&str]) -> Result<()> {
    let project = workspace.root().join("tests/fuzz/cargo-fuzz");
    let (only, seconds) = parse(options)?;
    let mut targets = targets(&project)?;
    if let Some(name) = only {
        if !targets.iter().any(|target| target == name) {
            bail!("there is no target `{name}`; the targets are {}", targets.join(", "));
        }
        targets.retain(|target| target == name);
    }
    let lack = lack();
    if let Some(lack) = lack {
        say(format!("{lack}; inputs are made by chance, without looking at what they reach"));
    }
    for target in targets {
        match lack {
            None => with_fuzzer(workspace, &project, &target, seconds)?,
            Some(_) => {
                let mut cargo = workspace.cargo(["run", "--quiet", "--package", "farm-fuzz", "--", "run"]);
                run_command(cargo.args([&target, &seconds.to_string()]))?;
            }
        }
    }
    Ok(())
}

/// The name of a target, if one is given, and the seconds.
fn parse<'a>(options: &[&'a str]) -> Result<(Option<&'a str>, u64)> {
    let seconds = |text: &str| text.parse().with_context(|| format!("`{text}` is no number of seconds"));
    match *options {
        [] => Ok((None, SECONDS)),
        ["--seconds", text] => Ok((None, seconds(text)?)),
        [name] if !name.starts_with('-') => Ok((Some(name), SECONDS)),
        [name, "--seconds", text] if !name.starts_with('-') => Ok((Some(name), seconds(text)?)),
        _ => bail!("`fuzz` takes a target and `--seconds N`, not `{}`", options.join(" ")),
    }
}

fn targets(project: &Path) -> Result<Vec<String>> {
    let folder = project.join("fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// What is not there of what libFuzzer needs.
fn lack() -> Option<&'static str> {
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "cargo", "--version"]);
    let has_nightly = nightly.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_nightly.is_ok_and(|status| status.success()) {
        Some("there is no nightly compiler (`rustup toolchain install nightly`)")
    } else if !exists("cargo-fuzz") {
        Some("there is no cargo-fuzz (`cargo install cargo-fuzz`)")
    } else {
        None
    }
}

fn with_fuzzer(workspace: &Workspace, project: &Path, target: &str, seconds: u64) -> Result<()> {
    let learnt = workspace.output().join("fuzz").join("corpus").join(target);
    fs::create_dir_all(&learnt).with_context(|| format!("cannot make `{}`", learnt.display()))?;
    let kept = workspace.root().join("tests/fuzz/corpus").join(target);
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir"]).arg(project);
    cargo.arg("--target-dir").arg(workspace.output().join("fuzz").join("build"));
    cargo.arg(target).args([&learnt, &kept]).arg("--");
    cargo.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={LONGEST}"),
        "-print_final_stats=1".to_owned(),
    ]);
    run_command(cargo.current_dir(workspace.root())).with_context(|| {
        format!("`{target}` found something; keep its input in `{}`", workspace.relative(&kept).display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_and_a_time_may_be_said() {
        let parsed = |options: &[&'static str]| parse(options).map_err(|error| error.to_string());
        assert_eq!(parsed(&[]), Ok((None, SECONDS)));
        assert_eq!(parsed(&["frames"]), Ok((Some("frames"), SECONDS)));
        assert_eq!(parsed(&["--seconds", "5"]), Ok((None, 5)));
        assert_eq!(parsed(&["frames", "--seconds", "5"]), Ok((Some("frames"), 5)));
        assert!(parsed(&["--seconds", "soon"]).is_err_and(|error| error.contains("`soon`")));
        assert!(parsed(&["--second"]).is_err());
    }
}
