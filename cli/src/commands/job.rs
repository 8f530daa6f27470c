//! From the command line to a job.

use std::path::Path;

use farm_client::args::Arguments;
use farm_client::blobs::{read_inputs, read_secrets};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::job::{Job, JobOptions};
use farm_client::modules::{Function, LoadedModule};
use farm_client::outputs::OutputFolder;
use farm_proto::job::{CommandOptions, Limits, Mounts, OutputLimits};
use farm_proto::secret::Secrets;

use super::secret::warn;
use crate::cli::{ArgsArgs, TaskArgs};
use crate::report::Report;

/// Reads and checks everything that a job needs whose arguments are at hand.
pub(super) fn read(module: &LoadedModule, args: &ArgsArgs, task: &TaskArgs) -> Result<Job, Report> {
    let function = module.function(task.function.as_deref())?;
    let options = options(task)?;
    let arguments = arguments(&function, args)?;
    Ok(Job::new(module, &function, &options, arguments))
}

/// Reads and checks the arguments that were named.
pub(super) fn arguments(function: &Function, args: &ArgsArgs) -> Result<Arguments, Report> {
    let source = args.source().ok_or_else(|| {
        Report::usage("which arguments?")
            .hint("--args FILE, --args '[1, 2, 3]', or --range 0..1000: each element is one task")
    })?;
    Ok(Arguments::read(&source, &mut |element, out| function.encode(element, out))?)
}

/// The module at `path`, prepared.
pub(super) fn load(path: &Path, home: &Home) -> Result<LoadedModule, Report> {
    if !path.exists() {
        return Err(Report::new(exit_codes::BAD_MODULE, format!("there is no file {}", path.display()))
            .hint("the module is a .wasm or .wat file; `farm build` makes one of a Rust crate"));
    }
    Ok(LoadedModule::load(path, home)?)
}

/// What is chosen for all tasks. Reads the inputs.
pub(super) fn options(task: &TaskArgs) -> Result<JobOptions, Report> {
    let defaults = Limits::default();
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    let inputs = read_inputs(&task.input)?;
    Ok(JobOptions {
        limits: Limits {
            memory: task.memory.unwrap_or(defaults.memory),
            timeout_ms: task.timeout.map(milliseconds),
            fuel: task.fuel,
            result: task.max_result.unwrap_or(defaults.result),
            output: task.max_output.unwrap_or(defaults.output),
        },
        env: task.env.clone(),
        inputs: inputs.files,
        secrets: secrets(task)?,
        mounts: Mounts { folders: inputs.folders, outputs: outputs(task), ..Mounts::default() },
        command: CommandOptions { stdout: task.stdout, ok_exit: task.ok_exit.clone() },
        retries: task.retries,
        max_failures: task.max_failures,
        ..JobOptions::default()
    })
}

fn secrets(task: &TaskArgs) -> Result<Secrets, Report> {
    let secrets = read_secrets(&task.secret)?;
    if let Some((name, _)) = secrets.iter().find(|(name, _)| task.env.iter().any(|(other, _)| other == name)) {
        return Err(Report::usage(format!("{name} is a secret and cannot be set with --env as well")));
    }
    warn(&secrets);
    Ok(secrets)
}

/// What tasks may leave in `/out`, if they have one.
fn outputs(task: &TaskArgs) -> Option<OutputLimits> {
    let defaults = OutputLimits::default();
    task.output_dir.as_ref().map(|_| OutputLimits {
        bytes: task.max_output_dir.unwrap_or(defaults.bytes),
        files: task.max_output_files.unwrap_or(defaults.files),
    })
}

/// Where what they leave goes. Before anything is run, so that a folder that is in use costs nothing.
pub(super) fn output_folder(task: &TaskArgs) -> Result<Option<OutputFolder>, Report> {
    let folder = task.output_dir.as_ref();
    Ok(folder.map(|folder| OutputFolder::for_new_job(folder, task.force)).transpose()?)
}
