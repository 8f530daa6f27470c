//! What `farm submit` is to start: a job, or several that need each other.

use std::time::Duration;

use farm_client::args::Arguments;
use farm_client::client::{Client, Watch};
use farm_client::exit_codes;
use farm_client::home::Home;
use farm_client::job::{Job, JobOptions, results_of};
use farm_client::modules::{Function, LoadedModule};
use farm_client::reduction::{ReduceError, Reduction};
use farm_proto::ids::JobId;
use farm_proto::job::ResultEncoding;

use super::job;
use super::progress::Bar;
use crate::cli::SubmitArgs;
use crate::report::Report;

/// Uploads of fewer bytes than this are over before a bar could be read.
const SHOW_UPLOAD: u64 = 32 << 20;

/// Everything that can be read and checked without a farm.
#[derive(Debug)]
pub(super) struct Plan {
    module: LoadedModule,
    /// What is called for each argument; without it, results that are there already are reduced.
    map: Option<Function>,
    source: Source,
    reduction: Option<(Reduction, ResultEncoding)>,
    options: JobOptions,
}

#[derive(Debug)]
enum Source {
    Table(Arguments),
    Results(JobId),
}

/// What was started.
#[derive(Debug)]
pub(super) struct Started {
    /// In the order in which they were started; each needs the one before.
    pub(super) jobs: Vec<JobId>,
    /// Tells the results of the last one.
    pub(super) watch: Watch,
    pub(super) encoding: ResultEncoding,
    /// Tasks of all jobs together.
    pub(super) tasks: u64,
    /// Whether the last job gives one value.
    pub(super) is_reduced: bool,
}

impl Plan {
    /// Reads module, arguments and inputs.
    pub(super) fn read(args: &SubmitArgs, home: &Home) -> Result<Self, Report> {
        let module = job::load(&args.module, home)?;
        let mut options = job::options(&args.task)?;
        options.name.clone_from(&args.name);
        options.priority = args.priority;
        options.cluster.clone_from(&args.cluster);
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        options.time_request_ms = args.time_request.map(milliseconds);
        options.after.clone_from(&args.after);
        let reduction = match &args.reduce {
            Some(name) => {
                let reduction = Reduction::new(&module, name, args.fan_in)?;
                let function = module.function(Some(name))?;
                let encoding = module.info.result_encoding(&function.info, &options.command);
                Some((reduction, encoding))
            }
            None => None,
        };
        let map = match (&args.task.function, &args.reduce) {
            (None, Some(_)) if args.args_from.is_some() => None,
            (None, Some(reduce)) => Some(module.function(the_other(&module, reduce))?),
            (name, _) => Some(module.function(name.as_deref())?),
        };
        let source = match (args.args_from, &map) {
            (Some(job), _) => Source::Results(job),
            (None, Some(function)) => Source::Table(job::arguments(function, &args.args)?),
            (None, None) => return Err(Report::usage("which arguments?")),
        };
        Ok(Self { module, map, source, reduction, options })
    }

    /// Whether it needs a job that a farm has, so that only that farm will do.
    pub(super) fn needs_a_job(&self) -> bool {
        matches!(self.source, Source::Results(_)) || !self.options.after.is_empty()
    }

    /// Uploads what is missing, and starts everything. Whoever is not going to `watch` gets a watch that tells nothing.
    pub(super) async fn start(self, client: &Client, watch: bool) -> Result<Started, Report> {
        let Self { module, map, source, reduction, mut options } = self;
        let size = options.inputs.iter().map(|file| file.input.size).sum::<u64>() + module.info.size;
        let bar = std::sync::Mutex::new((size > SHOW_UPLOAD).then(|| Bar::upload(size)));
        let uploaded = |size| {
            if let Ok(mut bar) = bar.lock()
                && let Some(bar) = bar.as_mut()
            {
                bar.advance(size, 0);
            }
        };
        let (earlier, arguments) = match source {
            Source::Table(arguments) => (None, Some(arguments)),
            Source::Results(job) => {
                let tasks = client.job(job).await?.counts.total();
                (Some((job, tasks)), map.as_ref().map(|function| results_of(job, tasks, function)))
            }
        };
        let count =
            arguments.as_ref().map(Arguments::count).or_else(|| earlier.map(|(_, tasks)| tasks)).unwrap_or_default();
        if reduction.is_some() && count == 0 {
            return Err(ReduceError::Nothing.into());
        }
        let mapped = match (&map, arguments) {
            (Some(function), Some(arguments)) => {
                let job = Job::new(&module, function, &options, arguments);
                let watch = job.submit(client, watch && reduction.is_none(), &uploaded).await?;
                options.after.clear();
                Some((watch, job.spec.module.result))
            }
            _ => None,
        };
        let Some((reduction, encoding)) = reduction else {
            let (watch, encoding) = mapped.ok_or_else(|| Report::usage("which function?"))?;
            return Ok(Started { jobs: vec![watch.job()], watch, encoding, tasks: count, is_reduced: false });
        };
        let mut jobs: Vec<_> = mapped.iter().map(|(watch, _)| watch.job()).collect();
        let of = jobs.first().copied().or_else(|| earlier.map(|(job, _)| job)).unwrap_or(super::watch::NO_JOB);
        options.name = options.name.map(|name| format!("{name} (reduce)"));
        let reduced = reduction.submit(client, (of, count), &options, &uploaded).await?;
        let watch = client.watch(reduced.value(), 0, watch).await?;
        let tasks = if jobs.is_empty() { 0 } else { count } + reduced.tasks;
        jobs.extend(reduced.jobs);
        Ok(Started { jobs, watch, encoding, tasks, is_reduced: true })
    }
}

/// What can only be meant as the function to call where one of two is for reducing.
fn the_other<'a>(module: &'a LoadedModule, reduce: &str) -> Option<&'a str> {
    match module.info.functions.as_slice() {
        [one, other] if other.name == reduce => Some(&one.name),
        [one, other] if one.name == reduce => Some(&other.name),
        _ => None,
    }
}

impl From<ReduceError> for Report {
    fn from(error: ReduceError) -> Self {
        match error {
            ReduceError::Client(error) => error.into(),
            ReduceError::Module(error) => error.into(),
            ReduceError::Nothing => Self::new(exit_codes::BAD_ARGUMENTS, error.to_string()),
            ReduceError::FanIn(_) => Self::usage(error.to_string()),
            ReduceError::Command | ReduceError::Parameters { .. } => {
                Self::usage(error.to_string()).hint("`farm inspect MODULE` shows its functions")
            }
        }
    }
}
