//! From the command line to a job.

use farm_client::args::Arguments;
use farm_client::blobs::{InputFile, read_inputs};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::modules::{Function, LoadedModule};
use farm_proto::job::{CommandOptions, JobSpec, Limits, ModuleRef, Profile};

use crate::cli::{ArgsArgs, TaskArgs};
use crate::report::Report;

/// A job that is ready to run here or on a farm.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) module: LoadedModule,
    pub(super) arguments: Arguments,
    pub(super) inputs: Vec<InputFile>,
}

impl Job {
    /// Reads and checks everything that the job needs.
    pub(super) fn read(module: LoadedModule, args: &ArgsArgs, task: &TaskArgs) -> Result<Self, Report> {
        let function = module.function(task.function.as_deref())?;
        let source = args.source().ok_or_else(|| {
            Report::usage("which arguments?")
                .hint("--args FILE, --args '[1, 2, 3]', or --range 0..1000: each element is one task")
        })?;
        let inputs = read_inputs(&task.input)?;
        let arguments = Arguments::read(&source, &mut |element, out| function.encode(element, out))?;
        let spec = spec(&module, &function, task, &arguments, &inputs);
        Ok(Self { spec, module, arguments, inputs })
    }
}

/// The module at `path`, prepared.
pub(super) fn load(path: &std::path::Path, home: &Home) -> Result<LoadedModule, Report> {
    if !path.exists() {
        return Err(Report::new(exit_codes::BAD_MODULE, format!("there is no file {}", path.display()))
            .hint("the module is a .wasm or .wat file; `farm build` makes one of a Rust crate"));
    }
    Ok(LoadedModule::load(path, home)?)
}

fn spec(
    module: &LoadedModule,
    function: &Function,
    task: &TaskArgs,
    arguments: &Arguments,
    inputs: &[InputFile],
) -> JobSpec {
    let command = CommandOptions { stdout: task.stdout, ok_exit: task.ok_exit.clone() };
    let defaults = Limits::default();
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    JobSpec {
        name: None,
        module: ModuleRef {
            digest: module.info.digest,
            size: module.info.size,
            kind: module.info.kind,
            result: module.info.result_encoding(&function.info, &command),
        },
        function: function.info.name.clone(),
        args: arguments.job_args(),
        limits: Limits {
            memory: task.memory.unwrap_or(defaults.memory),
            timeout_ms: task.timeout.map(milliseconds),
            fuel: task.fuel,
            result: task.max_result.unwrap_or(defaults.result),
            output: task.max_output.unwrap_or(defaults.output),
        },
        profile: if task.fuel.is_some() { Profile::Metered } else { Profile::Fast },
        env: task.env.clone(),
        inputs: inputs.iter().map(|file| file.input.clone()).collect(),
        command,
        retries: task.retries,
        max_failures: task.max_failures,
        priority: 0,
    }
}
