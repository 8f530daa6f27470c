//! Calls without a farm: what the rest is compared with.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::launch::cores;
use farm_client::modules::LoadedModule;
use farm_host::sandbox::{self, SandboxSpec};
use farm_proto::job::{CommandOptions, Limits, Profile};
use serde::Serialize;

use super::{Bench, BenchArgs, Line, per_second};
use crate::commands::{print, run, tell};
use crate::report::Report;

#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// Calls a second, each in a fresh instance, on one core.
    sandbox_one_core_per_s: f64,
    /// The same with a process on each core.
    pub(super) sandbox_all_cores_per_s: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Figures, Report> {
    tell("the sandbox alone");
    Ok(Figures { sandbox_one_core_per_s: bench.median(|| rate(bench, 1))?, sandbox_all_cores_per_s: all_cores(bench)? })
}

pub(super) fn all_cores(bench: &Bench) -> Result<f64, Report> {
    bench.median(|| rate(bench, cores()))
}

impl Figures {
    pub(super) fn lines(&self) -> Vec<Line> {
        let one = self.sandbox_one_core_per_s;
        vec![
            Line::new("sandbox alone, one core", per_second(one), format!("{:.2} µs a call", 1e6 / one)),
            Line::new("sandbox alone, all cores", per_second(self.sandbox_all_cores_per_s), ""),
        ]
    }
}

/// Calls a second in so many processes at once.
fn rate(bench: &Bench, processes: u32) -> Result<f64, Report> {
    let mut children = Vec::new();
    for _ in 0..processes {
        let mut command = bench.farm("warm");
        command.args(["bench", "--sandbox-for", "2000", "--function", &bench.args.function]).arg(&bench.args.module);
        children.push(command.stdout(Stdio::piped()).spawn()?);
    }
    let mut sum = 0.0;
    for mut child in children {
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        child.wait()?;
        sum += line.trim().parse::<f64>().map_err(|_| Report::internal("the sandbox could not be measured"))?;
    }
    Ok(sum)
}

/// The child that measures the sandbox: a process, because that is what a slot is.
pub(super) async fn child(args: &BenchArgs, module: &LoadedModule, time: Duration, home: &Home) -> Result<u8, Report> {
    let (artefact, _prepared) = run::compile(module, Profile::Fast, home).await?;
    let function = module.function(Some(&args.function))?;
    let spec = SandboxSpec {
        kind: module.info.kind,
        function: function.info.name.clone(),
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: None,
        outputs: None,
        secrets: None,
        command: CommandOptions::default(),
        result: module.info.result_encoding(&function.info, &CommandOptions::default()),
    };
    let thread = std::thread::Builder::new().stack_size(sandbox::THREAD_STACK_SIZE);
    let measuring = thread.spawn(move || sandbox::instances_per_second(&artefact, spec, b"12345", time))?;
    let rate = measuring.join().map_err(|_| Report::internal("the measuring thread panicked"))?;
    let rate = rate.map_err(|failure| Report::new(exit_codes::JOB_FAILED, failure.to_string()))?;
    print(&format!("{rate}\n"))?;
    Ok(exit_codes::OK)
}
