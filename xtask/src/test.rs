//! Every check of the repository, in the order in which a reader understands it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::{run as run_command, say, shown};
use crate::toolchain::Source;
use crate::workspace::Workspace;
use crate::{guests, packages, pure_core, sim};

/// One check: its name on the command line, what it makes sure of, and how.
struct Step {
    name: &'static str,
    about: &'static str,
    check: fn(&Workspace) -> Result<Option<Tally>>,
}

/// `clippy` and `doc` share what they compile of the dependencies, as do `build` and `test`.
const STEPS: [Step; 7] = [
    Step { name: "fmt", about: "the source is formatted", check: fmt },
    Step { name: "clippy", about: "no warning, from the compiler or from clippy", check: clippy },
    Step { name: "doc", about: "the documentation builds and its links lead somewhere", check: doc },
    Step { name: "core", about: "the scheduler's core needs no operating system", check: core },
    Step { name: "sim", about: "two thousand simulated farms lose nothing, whatever happens to them", check: sim },
    Step { name: "build", about: "farm, the example modules and the tests", check: build },
    Step { name: "test", about: "unit, documentation and end-to-end tests", check: test },
];

/// How many tests did what, summed over all test binaries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
}

/// Runs all steps until one fails, or only the one that is named, and prints what became of each.
pub(crate) fn run(workspace: &Workspace, only: Option<&str>) -> Result<()> {
    if let Some(name) = only
        && !STEPS.iter().any(|step| step.name == name)
    {
        let names = STEPS.map(|step| step.name);
        bail!("there is no step `{name}`; the steps are {}", names.join(", "));
    }
    let steps = STEPS.iter().filter(|step| only.is_none_or(|name| step.name == name));

    let mut lines = Vec::new();
    let mut failed = None;
    let start = Instant::now();
    for step in steps {
        if failed.is_some() {
            lines.push(format!("{:<7} {:>8}  not run", step.name, ""));
            continue;
        }
        say(format!("── {}: {}", step.name, step.about));
        let start = Instant::now();
        let outcome = (step.check)(workspace);
        let time = seconds(start.elapsed());
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        let tests = match &outcome {
            Ok(Some(tally)) => {
                format!(", {} tests passed, {} ignored", tally.passed, tally.ignored)
            }
            _ => String::new(),
        };
        say(format!("── {}: {word} after {time}", step.name));
        lines.push(format!("{:<7} {time:>8}  {word}{tests}", step.name));
        failed = outcome.err().map(|error| (step.name, error));
    }
    eprintln!();
    for line in lines {
        eprintln!("  {line}");
    }
    eprintln!("  {:<7} {:>8}\n", "all", seconds(start.elapsed()));
    match failed {
        None => Ok(()),
        Some((name, error)) => {
            Err(error.context(format!("`{name}` failed; again with `cargo xtask test --only {name}`")))
        }
    }
}

fn fmt(workspace: &Workspace) -> Result<Option<Tally>> {
    run_command(&mut workspace.cargo(["fmt", "--all", "--check"])).context("`cargo fmt` formats the source")?;
    Ok(None)
}

fn clippy(workspace: &Workspace) -> Result<Option<Tally>> {
    let mut cargo = workspace.cargo_for_tests(["clippy", "--workspace", "--all-targets"]);
    if std::env::var_os("CI").is_some() {
        // The first cargo to look at the dependencies finds out whether `Cargo.lock` was committed with them.
        cargo.arg("--locked");
    }
    run_command(cargo.args(["--", "-Dwarnings"]))?;
    Ok(None)
}

fn doc(workspace: &Workspace) -> Result<Option<Tally>> {
    // With `--examples` the dependencies have the features that `--all-targets` gave them for clippy; else all of them
    // would be checked anew.
    let mut cargo = workspace.cargo_for_tests(["doc", "--workspace", "--no-deps", "--lib", "--bins", "--examples"]);
    run_command(cargo.env("RUSTDOCFLAGS", "-Dwarnings"))?;
    Ok(None)
}

fn core(workspace: &Workspace) -> Result<Option<Tally>> {
    pure_core::check(workspace)?;
    Ok(None)
}

fn sim(workspace: &Workspace) -> Result<Option<Tally>> {
    // At least as many as it takes for each kind of event to happen, which it then insists on.
    sim::run(workspace, &["--seeds", "2000"])?;
    Ok(None)
}

fn build(workspace: &Workspace) -> Result<Option<Tally>> {
    // Everything in one go: cargo keeps both cores busy, and the features of dependencies are settled once.
    run_command(&mut workspace.cargo_for_tests(["build", "--workspace", "--bins", "--tests", "--examples"]))?;
    guests::build(workspace, Source::Any)?;
    Ok(None)
}

fn test(workspace: &Workspace) -> Result<Option<Tally>> {
    let skipped = packages::ensure_installed();
    let mut cargo = workspace.cargo_for_tests(["test", "--workspace", "--no-fail-fast"]);
    cargo.env("FARM_BIN", workspace.farm()).env("FARM_GUESTS", workspace.guests());
    let tally = count_tests(&mut cargo)?;
    // Once more, where it is not lost among what tests print.
    skipped.iter().for_each(say);
    if tally.passed == 0 {
        bail!("no test ran");
    }
    Ok(Some(tally))
}

/// Runs `cargo test`, passes on what it prints and sums up.
fn count_tests(cargo: &mut Command) -> Result<Tally> {
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(cargo)))?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally = tally.plus(&line);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} tests passed and {} failed", tally.passed, tally.failed);
    }
    Ok(tally)
}

impl Tally {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines change nothing.
    fn plus(mut self, line: &str) -> Self {
        let Some(result) = line.strip_prefix("test result: ") else {
            return self;
        };
        let words: Vec<&str> = result.split([' ', ';']).collect();
        for pair in words.windows(2) {
            let [count, what] = pair else { continue };
            let sum = match *what {
                "passed" => &mut self.passed,
                "failed" => &mut self.failed,
                "ignored" => &mut self.ignored,
                _ => continue,
            };
            *sum += count.parse::<usize>().unwrap_or(0);
        }
        self
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_test_binaries_add_up() {
        let output = [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: \u{1b}[31mFAILED\u{1b}[m. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ];
        let tally = output.iter().fold(Tally::default(), |tally, line| tally.plus(line));
        let expected = Tally { passed: 7, failed: 2, ignored: 1 };
        assert_eq!(tally, expected);
    }
}
