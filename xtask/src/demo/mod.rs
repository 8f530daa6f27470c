//! The demo: real work on all cores of this machine, by functions that travel over QUIC.
//!
//! Every example is a submit as a user would type it, and is checked here against what it must come to. Its files are
//! in `target/demo`; the farm starts for each submit and ends with it, so an interrupted demo leaves nothing running.

mod fit;
mod histogram;
mod mandelbrot;
mod pi;
mod squares;
mod svg;
mod terminal;
mod wordcount;
mod zmumu;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::guests;
use crate::process::{run as run_command, say, shown};
use crate::toolchain::Source;
use crate::workspace::Workspace;

/// An example: its name on the command line, what it shows, and how.
struct Example {
    name: &'static str,
    about: &'static str,
    show: fn(&Demo<'_>) -> Result<()>,
}

const EXAMPLES: [Example; 5] = [
    Example { name: "squares", about: "a million tiny tasks, each in a sandbox of its own", show: squares::show },
    Example { name: "pi", about: "π by throwing darts, reproducible from the job's seed", show: pi::show },
    Example {
        name: "wordcount",
        about: "the commonest identifiers in the Rust sources of this project's dependencies",
        show: wordcount::show,
    },
    Example { name: "mandelbrot", about: "a picture in tiles, returned as raw bytes", show: mandelbrot::show },
    Example {
        name: "zmumu",
        about: "a particle physicist's job: make Z → μμ events, then find the Z in them",
        show: zmumu::show,
    },
];

/// Shows all examples, or the one that is named.
pub(crate) fn run(workspace: &Workspace, only: Option<&str>) -> Result<()> {
    if let Some(name) = only
        && !EXAMPLES.iter().any(|example| example.name == name)
    {
        let names = EXAMPLES.map(|example| example.name);
        bail!("there is no example `{name}`; there are {}", names.join(", "));
    }
    say("building farm (the first time this takes some minutes) and the example modules");
    let start = Instant::now();
    guests::build(workspace, Source::Any)?;
    say(format!("built in {}", seconds(start.elapsed())));

    let demo = Demo::prepare(workspace)?;
    let mut times = Vec::new();
    for example in EXAMPLES.iter().filter(|example| only.is_none_or(|name| example.name == name)) {
        println!("\n━━ {}: {}\n", example.name, example.about);
        let start = Instant::now();
        (example.show)(&demo).with_context(|| format!("the example `{}` failed", example.name))?;
        times.push((example.name, start.elapsed()));
    }
    println!("\n━━ how long it took, the start of a farm for each job and all checks included\n");
    for (name, time) in times {
        println!("   {name:<12} {:>8}", seconds(time));
    }
    Ok(())
}

/// What the examples share: where things are, and how to submit.
struct Demo<'w> {
    workspace: &'w Workspace,
}

impl<'w> Demo<'w> {
    fn prepare(workspace: &'w Workspace) -> Result<Self> {
        let demo = Self { workspace };
        let home = demo.folder().join("home");
        if home.exists() {
            fs::remove_dir_all(&home).with_context(|| format!("cannot clear `{}`", home.display()))?;
        }
        fs::create_dir_all(&home).with_context(|| format!("cannot make `{}`", home.display()))?;
        Ok(demo)
    }

    /// Where everything that the demo writes is.
    fn folder(&self) -> PathBuf {
        self.workspace.output().join("demo")
    }

    /// A path as it is shown and typed.
    fn relative<'p>(&self, path: &'p Path) -> &'p Path {
        self.workspace.relative(path)
    }

    /// Runs `farm submit MODULE --function FUNCTION …` and returns the results: one JSON array, in order.
    fn submit(&self, job: &Job<'_>) -> Result<Vec<u8>> {
        let module = self.workspace.guests().join(job.module).with_extension("wasm");
        let results = self.folder().join(job.function).with_extension("json");
        let mut command = Command::new(self.workspace.farm());
        command.arg("submit").arg(self.relative(&module)).args(["--function", job.function]).args(&job.options);
        for (name, path) in &job.inputs {
            let mut input = std::ffi::OsString::from(format!("{name}="));
            input.push(self.relative(path));
            command.arg("--input").arg(input);
        }
        command.arg("--out").arg(self.relative(&results));
        command
            .current_dir(self.workspace.root())
            // A farm of our own, whatever this user has configured.
            .env("FARM_HOME", self.folder().join("home"))
            .env("FARM_CACHE", self.folder().join("cache"))
            .env_remove("FARM_TICKET");
        println!("   $ {}", shown(&command));
        let start = Instant::now();
        run_command(&mut command)?;
        println!("   {} from submit to the last result\n", seconds(start.elapsed()));
        fs::read(&results).with_context(|| format!("cannot read `{}`", results.display()))
    }
}

/// What to submit.
struct Job<'a> {
    module: &'a str,
    function: &'a str,
    /// Where the arguments come from, and whatever else `farm submit` takes.
    options: Vec<String>,
    inputs: Vec<(&'a str, PathBuf)>,
}

impl<'a> Job<'a> {
    /// One task for each number in the range.
    fn range(module: &'a str, function: &'a str, end: u64) -> Self {
        Self { module, function, options: vec!["--range".to_owned(), format!("0..{end}")], inputs: Vec::new() }
    }

    /// One task for each element of the file.
    fn arguments(demo: &Demo<'_>, module: &'a str, function: &'a str, arguments: &serde_json::Value) -> Result<Self> {
        let file = demo.folder().join(format!("{function}-args.json"));
        fs::write(&file, arguments.to_string()).with_context(|| format!("cannot write `{}`", file.display()))?;
        Ok(Self {
            module,
            function,
            options: vec!["--args".to_owned(), demo.relative(&file).display().to_string()],
            inputs: Vec::new(),
        })
    }

    fn input(mut self, name: &'a str, path: PathBuf) -> Self {
        self.inputs.push((name, path));
        self
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
