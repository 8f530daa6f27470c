//! A job on the client's side: what is sent, and what has to be at hand to send it.

use farm_proto::ids::JobId;
use farm_proto::job::{Args, CommandOptions, JobSpec, Limits, ModuleRef, Mounts, Profile, ResultArgs};
use farm_proto::secret::Secrets;

use crate::args::Arguments;
use crate::blobs::{InputFile, JobBlobs};
use crate::client::{Client, ClientError, Watch};
use crate::modules::{Function, LoadedModule};

/// What can be chosen for a job, beside its function and its arguments.
#[derive(Debug, Clone, Default)]
pub struct JobOptions {
    /// For people; need not be unique.
    pub name: Option<String>,
    /// Whose workers run it; none: the only cluster there is.
    pub cluster: Option<String>,
    /// What a task may take, in milliseconds, if that is known.
    pub time_request_ms: Option<u64>,
    /// With a limit on fuel, tasks run in [`Profile::Metered`].
    pub limits: Limits,
    /// Environment variables of the guest; it sees no others.
    pub env: Vec<(String, String)>,
    /// Files that tasks can read.
    pub inputs: Vec<InputFile>,
    /// What else is in their file system, but for secrets.
    pub mounts: Mounts,
    /// Files that tasks can read and that are on nobody's disk.
    pub secrets: Secrets,
    /// How the end of a WASI command is read.
    pub command: CommandOptions,
    /// Attempts beyond the first for a task that failed by its own doing.
    pub retries: u32,
    /// The job fails when more tasks than this have failed.
    pub max_failures: Option<u64>,
    /// Jobs of one user with a higher priority go first.
    pub priority: i32,
    /// Earlier jobs that have to be done before the first task runs.
    pub after: Vec<JobId>,
}

/// A job that is ready to run, here or on a farm.
#[derive(Debug)]
pub struct Job {
    pub spec: JobSpec,
    pub module: LoadedModule,
    pub arguments: Arguments,
    pub inputs: Vec<InputFile>,
    /// The values of those that `spec` names.
    pub secrets: Secrets,
}

impl Job {
    /// Calls `function`, which is one of `module`, for each of `arguments`.
    pub fn new(module: &LoadedModule, function: &Function, options: &JobOptions, arguments: Arguments) -> Self {
        let spec = spec(module, function, options, arguments.job_args());
        Self {
            spec,
            module: module.clone(),
            arguments,
            inputs: options.inputs.clone(),
            secrets: options.secrets.clone(),
        }
    }

    /// Uploads what the farm lacks, and starts the job: see [`Client::submit`].
    ///
    /// # Errors
    ///
    /// As [`Client::submit`].
    pub async fn submit(
        &self,
        client: &Client,
        watch: bool,
        uploaded: &(dyn Fn(u64) + Sync),
    ) -> Result<Watch, ClientError> {
        let blobs = JobBlobs::new(self.module.bytes.clone(), self.module.info.digest, &self.arguments, &self.inputs);
        let watch = client.submit(&self.spec, self.arguments.inline_payload(), &blobs, watch, uploaded).await?;
        if !self.secrets.is_empty() {
            client.secrets(watch.job(), self.secrets.clone()).await?;
        }
        Ok(watch)
    }
}

/// The one place where a job's message is made up.
fn spec(module: &LoadedModule, function: &Function, options: &JobOptions, args: Args) -> JobSpec {
    JobSpec {
        cluster: options.cluster.clone(),
        time_request_ms: options.time_request_ms,
        name: options.name.clone(),
        module: ModuleRef {
            digest: module.info.digest,
            size: module.info.size,
            kind: module.info.kind,
            result: module.info.result_encoding(&function.info, &options.command),
        },
        function: function.info.name.clone(),
        args,
        limits: options.limits.clone(),
        profile: if options.limits.fuel.is_some() { Profile::Metered } else { Profile::Fast },
        env: options.env.clone(),
        inputs: options.inputs.iter().map(|file| file.input.clone()).collect(),
        mounts: Mounts {
            secrets: options.secrets.iter().map(|(name, _)| name.clone()).collect(),
            ..options.mounts.clone()
        },
        command: options.command.clone(),
        retries: options.retries,
        max_failures: options.max_failures,
        priority: options.priority,
        after: options.after.clone(),
        fold: false,
    }
}

/// The results of a job of `tasks` tasks as arguments of `function`, one for one.
pub fn results_of(job: JobId, tasks: u64, function: &Function) -> Arguments {
    Arguments::from_results(ResultArgs { job, count: tasks, group: None, raw: function.takes_bytes() })
}
