//! `farm run`: the small try-out before scaling, and WASI commands as programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use farm_client::args::Arguments as Table;
use farm_client::blobs::InputFile;
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::job::Job;
use farm_client::modules::LoadedModule;
use farm_client::results::Format;
use farm_host::artefact::{ArtefactError, Cache, Compiler};
use farm_host::program::{self, ProgramOptions};
use farm_host::secrets::{SecretError, SecretFolder};
use farm_host::slot::{
    Arguments, JobFolders, JobSetup, LocalError, LocalOptions, LocalOutcome, SlotCommand, run_locally,
};
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::ids::JobId;
use farm_proto::job::{Args, Counts, JobState, JobStatus, ModuleKind, Profile, StdoutMode};
use farm_proto::message::Batch;
use farm_proto::secret::Secrets;

use super::exe;
use super::job;
use super::submit::interrupted;
use super::watch::{Delivery, NO_JOB};
use crate::cli::{Output, RunArgs, block_on};
use crate::report::Report;

pub(crate) fn run(args: &RunArgs, output: Output) -> Result<u8, Report> {
    let home = Home::from_env();
    let module = job::load(&args.module, &home)?;
    let is_program = args.args.source().is_none() && module.info.kind == ModuleKind::Command;
    if is_program {
        return run_program(args, &module, &home);
    }
    if !args.argv.is_empty() || !args.dir.is_empty() {
        return Err(Report::usage("arguments behind `--` and --dir are for WASI commands that are run as programs")
            .hint("leave out --args and --range for that; inputs of functions are given with --input NAME=PATH"));
    }
    let job = job::read(&module, &args.args, &args.task)?;
    let files = job::output_folder(&args.task)?;
    let delivery = Delivery::new(&args.results, job.spec.module.result, output, (job.arguments.count(), false))?;
    let delivery = delivery.with_files(files);
    block_on(run_tasks(&job, delivery, &home))
}

fn run_program(args: &RunArgs, module: &LoadedModule, home: &Home) -> Result<u8, Report> {
    if let Some(option) = for_tasks_only(args) {
        return Err(Report::usage(format!(
            "{option} is for tasks, and a WASI command without arguments runs as a program"
        ))
        .hint("--args '[\"\"]' makes one task of it, with nothing on its stdin"));
    }
    let (artefact, _prepared) = block_on(compile(module, Profile::Fast, home))?;
    let options = ProgramOptions {
        name: args.module.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        args: args.argv.clone(),
        env: args.task.env.clone(),
        directories: args.dir.clone(),
    };
    let code = program::run(&artefact, &options)
        .map_err(|error| Report::new(exit_codes::JOB_FAILED, format!("{}", args.module.display())).because(&error))?;
    // What a shell would make of it: the lowest eight bits.
    Ok(code as u8)
}

/// The first option that would not mean anything to a program.
fn for_tasks_only(args: &RunArgs) -> Option<&'static str> {
    let RunArgs { task, results, .. } = args;
    let given = [
        ("--function", task.function.is_some()),
        ("--timeout", task.timeout.is_some()),
        ("--memory", task.memory.is_some()),
        ("--fuel", task.fuel.is_some()),
        ("--max-result", task.max_result.is_some()),
        ("--max-output", task.max_output.is_some()),
        ("--input", !task.input.is_empty()),
        ("--secret", !task.secret.is_empty()),
        ("--output-dir", task.output_dir.is_some()),
        ("--stdout", task.stdout != StdoutMode::Text),
        ("--ok-exit", task.ok_exit != [0]),
        ("--retries", task.retries > 0),
        ("--max-failures", task.max_failures.is_some()),
        ("--out", results.out.is_some()),
        ("--format", results.format != Format::Json),
    ];
    given.into_iter().find_map(|(option, is_given)| is_given.then_some(option))
}

/// The module's artefact, and the file that it was made from, which goes when it is dropped.
pub(super) async fn compile(
    module: &LoadedModule,
    profile: Profile,
    home: &Home,
) -> Result<(PathBuf, Option<tempfile::NamedTempFile>), Report> {
    let cache = Cache::open(home.artefacts())?;
    if let Some(artefact) = cache.get(&module.info.digest, profile)? {
        return Ok((artefact, None));
    }
    let write = |error: io::Error| Report::internal("cannot write a temporary file").because(&error);
    let file = tempfile::NamedTempFile::new().map_err(write)?;
    fs::write(file.path(), &module.bytes).map_err(write)?;
    let compiler = Compiler::new(exe()?, cache);
    let artefact = compiler.compile(file.path(), &module.info.digest, profile).await?;
    Ok((artefact, Some(file)))
}

impl From<ArtefactError> for Report {
    fn from(error: ArtefactError) -> Self {
        let code = if error.is_of_module() { exit_codes::BAD_MODULE } else { exit_codes::INTERNAL };
        let report = Self::new(code, error.to_string());
        if error.is_of_module() { report } else { report.hint("FARM_CACHE says where compiled modules are kept") }
    }
}

async fn run_tasks(job: &Job, mut delivery: Delivery, home: &Home) -> Result<u8, Report> {
    let (artefact, _prepared) = compile(&job.module, job.spec.profile, home).await?;
    let inputs = lay_out(&job.inputs, &job.spec.mounts.folders)?;
    let outputs = job.spec.mounts.outputs.map(|_| tempfile::tempdir()).transpose();
    let outputs = outputs.map_err(|error| Report::internal("cannot make a folder for /out").because(&error))?;
    let secrets = lay_out_secrets(&job.secrets)?;
    let path = |folder: &tempfile::TempDir| folder.path().to_owned();
    let folders = JobFolders {
        inputs: inputs.as_ref().map(path),
        outputs: outputs.as_ref().map(path),
        secrets: secrets.as_ref().map(|folder| folder.path().to_owned()),
    };
    let setup = JobSetup::new(JobId(1), &job.spec, artefact, folders);
    let options = LocalOptions {
        retries: job.spec.retries,
        ..LocalOptions::new(SlotCommand { exe: exe()?, args: vec!["slot".into()] })
    };
    let mut run = Run { job, failed: 0, succeeded: 0, error: None, started_ms: now_ms() };
    let mut items = items(&job.arguments);
    let arguments = match job.spec.args {
        Args::Range { .. } => Arguments::Range(job.arguments.count()),
        _ => Arguments::Items(&mut items),
    };
    let ended = {
        let tasks = run_locally(setup, arguments, &options, |index, outcome| run.take(index, &outcome, &mut delivery));
        tokio::select! {
            ended = tasks => ended,
            () = interrupted() => return Err(Report::silent(exit_codes::INTERRUPTED)),
        }
    };
    match ended {
        Ok(()) => {}
        Err(LocalError::Job(failure)) => return delivery.finish(&run.status(Some(failure.to_string()))),
        Err(error) => return Err(Report::internal(error.to_string())),
    }
    if let Some(error) = run.error.take() {
        return Err(error);
    }
    delivery.finish(&run.status(None))
}

fn items(table: &Table) -> impl Iterator<Item = Bytes> {
    let columns = table.columns().map_while(Result::ok);
    columns.flat_map(|columns: Columns| (0..columns.len()).map(move |index| Bytes::copy_from_slice(columns.get(index))))
}

/// What has come of a run so far.
struct Run<'a> {
    job: &'a Job,
    failed: u64,
    succeeded: u64,
    error: Option<Report>,
    started_ms: u64,
}

impl Run<'_> {
    /// Delivers one outcome; whether to go on.
    fn take(&mut self, index: u64, outcome: &LocalOutcome<'_>, delivery: &mut Delivery) -> bool {
        let mut value = ColumnsBuilder::new();
        value.push(outcome.result.unwrap_or_default());
        let failure = outcome.result.err().cloned();
        if failure.is_some() {
            self.failed += 1;
        } else {
            self.succeeded += 1;
        }
        let batch = Batch {
            first: index,
            count: 1,
            failures: failure.map(|failure| (0, failure)).into_iter().collect(),
            captured: outcome.captured.map(|captured| (0, captured.clone())).into_iter().collect(),
            run_ns: 0,
            fetch_ns: 0,
            compile_ns: 0,
        };
        let files = outcome.captured.map(|captured| captured.files.as_slice()).zip(outcome.files);
        let copied = files.map_or(Ok(()), |(files, from)| delivery.copy(index, files, from));
        if let Err(error) = copied.and_then(|()| delivery.batch(batch, value.finish())) {
            self.error = Some(error);
            return false;
        }
        !self.too_many()
    }

    fn too_many(&self) -> bool {
        self.job.spec.max_failures.is_some_and(|max| self.failed > max)
    }

    fn status(&self, reason: Option<String>) -> JobStatus {
        let left = self.job.arguments.count() - self.failed - self.succeeded;
        let reason = reason.or_else(|| self.too_many().then(|| format!("more than {} tasks failed", self.failed - 1)));
        JobStatus {
            cluster: "default".to_owned(),
            job: NO_JOB,
            name: None,
            owner: String::new(),
            function: self.job.spec.function.clone(),
            module: self.job.spec.module.digest,
            result: self.job.spec.module.result,
            state: if reason.is_some() { JobState::Failed } else { JobState::Done },
            counts: Counts { succeeded: self.succeeded, failed: self.failed, cancelled: left, ..Counts::default() },
            priority: 0,
            submitted_ms: self.started_ms,
            ended_ms: Some(now_ms()),
            retried: 0,
            reason,
            progress: Vec::new(),
            needs: Vec::new(),
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

/// A folder with the secrets, as a worker makes it.
fn lay_out_secrets(secrets: &Secrets) -> Result<Option<SecretFolder>, Report> {
    if secrets.is_empty() {
        return Ok(None);
    }
    let make = || {
        let folder = SecretFolder::new()?;
        secrets.iter().try_for_each(|(name, value)| folder.write(name, value))?;
        Ok(folder)
    };
    make().map(Some).map_err(|error: SecretError| Report::internal(error.to_string()))
}

/// A folder with the inputs under their names, as a worker makes it: the sandbox follows no link out of it.
fn lay_out(inputs: &[InputFile], folders: &[String]) -> Result<Option<tempfile::TempDir>, Report> {
    if inputs.is_empty() && folders.is_empty() {
        return Ok(None);
    }
    let cannot = |error: io::Error| Report::internal("cannot lay out the inputs").because(&error);
    let folder = tempfile::tempdir().map_err(cannot)?;
    for empty in folders {
        fs::create_dir_all(folder.path().join(empty)).map_err(cannot)?;
    }
    for file in inputs {
        let path = folder.path().join(&file.input.path);
        fs::create_dir_all(path.parent().unwrap_or_else(|| Path::new("/"))).map_err(cannot)?;
        let source = file.source.canonicalize().map_err(cannot)?;
        // Another file system takes no hard link.
        if fs::hard_link(&source, &path).is_err() {
            fs::copy(&source, &path).map_err(cannot)?;
        }
    }
    Ok(Some(folder))
}
