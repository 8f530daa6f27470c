//! The command line: what there is to say, and which function answers.

mod access;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use farm_client::args::{ArgSource, IntRange};
use farm_client::guest::Target;
use farm_client::reduction::FAN_IN;
use farm_client::results::Format;
use farm_proto::cluster::Scale;
use farm_proto::ids::JobId;
use farm_proto::job::StdoutMode;

pub(crate) use self::access::{ContextCommand, LoginArgs, TicketCommand, TicketCreateArgs};
use crate::commands;
use crate::report::Report;

/// Run functions compiled to WebAssembly on many cores.
///
/// What travels is the function and its arguments; nothing is installed on a worker and nothing is mounted there. Each
/// task runs in a fresh sandbox that can touch only what its job grants.
#[derive(Debug, Parser)]
#[command(name = "farm", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    /// What to print on stdout: text for people, or JSON whose names are a promise.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    /// The farm that is called so here, of those that you have logged in to.
    #[arg(long, global = true, value_name = "NAME")]
    farm: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const GRAPHS: &str = "\
Jobs that need others:
  farm submit m.wasm -f parse --range 0..1000 --detach             prints 7
  farm submit m.wasm -f score --args-from 7                        score(r) for each result r of job 7
  farm submit m.wasm --args-from 7 --reduce add                    one value: add over the results of job 7
  farm submit m.wasm -f score --args-from 7 --reduce add           score for each, then add over what that gives
  farm submit m.wasm -f score --range 0..1000 --reduce add         the same without an earlier job
Results go from job to job on the farm. A reduction is one more job for each level of a tree with --fan-in branches; it
should not matter how the results are grouped. A task whose input failed fails with the cause, and prints nothing else.
With --detach, the id of the last job is printed: that of a reduction has the one value as its only result.";

const EXIT_CODES: &str = "Exit codes: 0 all went well · 1 some tasks failed · 2 wrong command line · 3 bad module or input \
· 4 bad arguments · 5 no farm answers · 6 refused by the farm · 7 job cancelled or failed · 8 no such thing · 70 internal \
error · 130 interrupted";

/// What `--output` chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a function on this machine, one task after another, without a scheduler; or a WASI command as a program.
    Run(RunArgs),
    /// Run a function on a farm: the one that is configured or up, else one made on this machine for this job.
    Submit(SubmitArgs),
    /// Start a farm on this machine that stays; later submits find it.
    Up(UpArgs),
    /// End the farm that `farm up` started.
    Down,
    /// Show the farm: its workers and what they do.
    Status(FarmArgs),
    /// List jobs.
    Jobs(FarmArgs),
    /// Show, fetch, cancel, retry or delete a job.
    #[command(subcommand)]
    Job(JobCommand),
    /// Give secrets of a job anew, or list them.
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Say what a job or one of its tasks waits for; of a finished task, where its time went.
    Why {
        /// A job, or a task of it: 7, or 7:1500.
        #[arg(value_name = "JOB[:TASK]")]
        target: WhyTarget,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Show what a module is: its functions, what they take, and what it could touch.
    Inspect {
        /// A `.wasm` or `.wat` file.
        module: PathBuf,
    },
    /// Make a function crate from a template.
    New {
        /// Folder to make; its last part names the crate.
        path: PathBuf,
        /// For a function that reads inputs or prints.
        #[arg(long)]
        wasi: bool,
        /// Folder of farm-sdk, if it is not to be found otherwise.
        #[arg(long, value_name = "FOLDER")]
        sdk: Option<PathBuf>,
    },
    /// Build a function crate to a `.wasm`, with the right target and flags.
    Build {
        /// Folder of the crate.
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Instead of what the crate says or its sources suggest.
        #[arg(long, value_enum)]
        target: Option<Target>,
        /// Where the module goes; by default its name in the current folder.
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make named groups of workers, and scale them.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Run a scheduler in the foreground.
    Scheduler(SchedulerArgs),
    /// Run a worker in the foreground, or let one leave.
    Worker(WorkerCommand),
    /// Look after the state folder of a scheduler.
    Admin(AdminArgs),
    /// Make, list and revoke tickets, which let their bearers into the farm.
    #[command(subcommand)]
    Ticket(TicketCommand),
    /// Trade a ticket for a certificate, which is kept: commands go to that farm from then on.
    Login(LoginArgs),
    /// Forget a farm and the certificate for it.
    Logout {
        /// As it is called here; by default the current one.
        name: Option<String>,
    },
    /// List the farms that you have logged in to, and choose among them.
    #[command(subcommand)]
    Context(ContextCommand),
    /// Measure this machine: the sandbox alone, and the whole farm.
    Bench(commands::bench::BenchArgs),
    /// A slot process; started by workers.
    #[command(hide = true)]
    Slot,
    /// A compiler process; started by workers.
    #[command(hide = true, disable_help_flag = true)]
    CompileModule {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// How a job is doing.
    Show {
        job: JobId,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// The results of a job, waiting for those that are yet to come.
    Results {
        job: JobId,
        /// Only those that are there already.
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        results: ResultArgs,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Fetch the files that tasks left in /out, waiting for those that are yet to come. What is there already is not
    /// fetched again.
    Fetch(FetchArgs),
    /// Stop a job.
    Cancel {
        job: JobId,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Run those tasks of a job again that have no result, as a new job, and fetch what it gives.
    Retry(RetryArgs),
    /// Delete a job that is over, with its results.
    Delete {
        job: JobId,
        #[command(flatten)]
        farm: FarmArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Give values of a job's secrets, for tasks that start afterwards.
    Update {
        job: JobId,
        /// What `farm submit --secret` took.
        #[arg(value_name = "NAME=FILE", required = true)]
        secrets: Vec<String>,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Names of a job's secrets, and when certificates in them run out.
    List {
        job: JobId,
        #[command(flatten)]
        farm: FarmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    pub(crate) job: JobId,
    /// Folder that they go to, as FOLDER/TASK/path.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// Only those of this task.
    #[arg(long, value_name = "N")]
    pub(crate) task: Option<u64>,
    /// Replace what is in the way.
    #[arg(long)]
    pub(crate) force: bool,
    /// Only those that are there already.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) farm: FarmArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// A job that is over.
    pub(crate) job: JobId,
    /// Only those that failed, not those that were given up when the job was cancelled or failed.
    #[arg(long)]
    pub(crate) failed: bool,
    /// Print the new job's id and leave.
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) results: ResultArgs,
    #[command(flatten)]
    pub(crate) farm: FarmArgs,
}

/// A job, or one of its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WhyTarget {
    pub(crate) job: JobId,
    pub(crate) task: Option<u64>,
}

impl FromStr for WhyTarget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "a job is a number, and a task of it is written JOB:TASK, as in 7:1500";
        let (job, task) = match text.split_once(':') {
            Some((job, task)) => (job, Some(task.replace('_', "").parse().map_err(|_| HELP)?)),
            None => (text, None),
        };
        Ok(Self { job: job.parse().map_err(|_| HELP)?, task })
    }
}

/// Which farm.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FarmArgs {
    /// Ticket of the farm. By default --farm, else FARM_TICKET, else the farm that you have logged in to, else the one that
    /// is up on this machine.
    #[arg(long, value_name = "TICKET")]
    pub(crate) ticket: Option<String>,
    #[arg(from_global)]
    pub(crate) farm: Option<String>,
}

/// Which arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct ArgsArgs {
    /// Arguments, one task each: a file with a JSON array, a JSON array, or `-` for stdin.
    #[arg(long, value_name = "FILE|-|JSON", conflicts_with = "range")]
    args: Option<String>,
    /// The arguments are JSON values one behind the other, as in `.ndjson` files.
    #[arg(long, requires = "args", conflicts_with = "range")]
    ndjson: bool,
    /// The integers from A up to but not including B, one task each.
    #[arg(long, value_name = "A..B", allow_hyphen_values = true)]
    range: Option<IntRange>,
}

impl ArgsArgs {
    pub(crate) fn source(&self) -> Option<ArgSource> {
        let range = self.range.map(|range| ArgSource::Range { start: range.start, end: range.end });
        range.or_else(|| self.args.as_deref().map(|text| ArgSource::parse(text, self.ndjson)))
    }
}

/// What a task may use and how it is run.
#[derive(Debug, Clone, Args)]
pub(crate) struct TaskArgs {
    /// Which function, where the module has several.
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<String>,
    /// Wall time of a task: 500ms, 10s, 5m.
    #[arg(long, value_parser = duration, value_name = "TIME", help_heading = "Limits of a task")]
    pub(crate) timeout: Option<std::time::Duration>,
    /// Memory of a task: 64MiB, 2GiB.
    #[arg(long, value_parser = size, value_name = "SIZE", help_heading = "Limits of a task")]
    pub(crate) memory: Option<u64>,
    /// Fuel of a task: about one unit an instruction, the same on every machine. Slower.
    #[arg(long, value_name = "UNITS", help_heading = "Limits of a task")]
    pub(crate) fuel: Option<u64>,
    /// Size of a task's result.
    #[arg(long, value_parser = size, value_name = "SIZE", help_heading = "Limits of a task")]
    pub(crate) max_result: Option<u64>,
    /// How much of what a task prints is kept.
    #[arg(long, value_parser = size, value_name = "SIZE", help_heading = "Limits of a task")]
    pub(crate) max_output: Option<u64>,
    /// Environment variable of the task; it sees no others.
    #[arg(long, value_parser = pair, value_name = "K=V")]
    pub(crate) env: Vec<(String, String)>,
    /// File or folder that tasks can read at /in/NAME.
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) input: Vec<String>,
    /// File that tasks can read at /secrets/NAME, where the variable NAME points. It is on no disk of the farm.
    #[arg(long, value_name = "NAME=FILE")]
    pub(crate) secret: Vec<String>,
    /// Folder for what tasks leave in /out, as FOLDER/TASK/path. Without it, tasks have no /out.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output_dir: Option<PathBuf>,
    /// How much a task may leave in /out.
    #[arg(long, value_parser = size, value_name = "SIZE", requires = "output_dir", help_heading = "Limits of a task")]
    pub(crate) max_output_dir: Option<u64>,
    /// How many files and folders a task may leave in /out.
    #[arg(long, value_name = "N", requires = "output_dir", help_heading = "Limits of a task")]
    pub(crate) max_output_files: Option<u32>,
    /// Replace what is in the way in --output-dir.
    #[arg(long, requires = "output_dir")]
    pub(crate) force: bool,
    /// What the stdout of a WASI command is.
    #[arg(long, value_parser = stdout_mode, default_value = "text", value_name = "text|json|base64")]
    pub(crate) stdout: StdoutMode,
    /// Exit codes of a WASI command that mean success.
    #[arg(long, value_delimiter = ',', default_value = "0", value_name = "CODES", allow_hyphen_values = true)]
    pub(crate) ok_exit: Vec<i32>,
    /// Attempts beyond the first for a task that failed by its own doing.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) retries: u32,
    /// Stop when more tasks than this have failed.
    #[arg(long, value_name = "N")]
    pub(crate) max_failures: Option<u64>,
}

/// Where results go.
#[derive(Debug, Clone, Args)]
pub(crate) struct ResultArgs {
    /// File for the results, instead of stdout.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// One array in the order of the arguments, or a line a task as they come.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A `.wasm` or `.wat` file.
    pub(crate) module: PathBuf,
    #[command(flatten)]
    pub(crate) args: ArgsArgs,
    #[command(flatten)]
    pub(crate) task: TaskArgs,
    #[command(flatten)]
    pub(crate) results: ResultArgs,
    /// Folder that a program may use, as HOST::GUEST.
    #[arg(long, value_parser = folder, value_name = "HOST::GUEST", help_heading = "A WASI command as a program")]
    pub(crate) dir: Vec<(PathBuf, String)>,
    /// Arguments of the program.
    #[arg(last = true, value_name = "ARGV", help_heading = "A WASI command as a program")]
    pub(crate) argv: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_long_help = GRAPHS)]
pub(crate) struct SubmitArgs {
    /// A `.wasm` or `.wat` file.
    pub(crate) module: PathBuf,
    #[command(flatten)]
    pub(crate) args: ArgsArgs,
    /// The results of an earlier job, one task each, as soon as each is there.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["args", "ndjson", "range"])]
    pub(crate) args_from: Option<JobId>,
    /// Make one value of all results, with this function of the module: of two parameters (what there is so far, and the
    /// next result), or of one (a list of results). With --args-from and without --function, of that job's results.
    #[arg(long, value_name = "FUNCTION", conflicts_with = "output_dir")]
    pub(crate) reduce: Option<String>,
    /// How many results are made into one at a time.
    #[arg(long, value_name = "N", requires = "reduce", default_value_t = FAN_IN,
          value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) fan_in: u32,
    /// Start when this job is done, and fail if it is cancelled or fails. May be given several times.
    #[arg(long, value_name = "JOB")]
    pub(crate) after: Vec<JobId>,
    #[command(flatten)]
    pub(crate) task: TaskArgs,
    #[command(flatten)]
    pub(crate) results: ResultArgs,
    #[command(flatten)]
    pub(crate) farm: FarmArgs,
    /// Workers of a farm that is made for this job; by default one with a slot per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) workers: Option<u32>,
    /// Jobs of one user with a higher priority go first.
    #[arg(long, default_value_t = 0, value_name = "N", allow_hyphen_values = true)]
    pub(crate) priority: i32,
    /// Cluster whose workers run it; by default the only one there is.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// What a task may take, as in 20m: it is given to no worker that will be gone by then.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) time_request: Option<std::time::Duration>,
    /// Name of the job, for people.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Print the job's id and leave; `farm job results ID` fetches the results.
    #[arg(long)]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Workers with one slot each; by default one worker with a slot per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) workers: Option<u32>,
    /// Address to listen on; one that others can reach lets them in with a ticket. By default a free port of this machine,
    /// or the one that the farm had before its scheduler died.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct SchedulerArgs {
    /// Address to listen on, over UDP.
    #[arg(long, default_value = "127.0.0.1:7117", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Host name or address for tickets, if it is not the one listened on.
    #[arg(long, value_name = "HOST")]
    pub(crate) public_host: Option<String>,
    /// Address for HTTP, over TCP: `/health`, and the program for nodes that do not have it. By default there is none.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<SocketAddr>,
    /// Folder for its jobs, results, blobs and certificates; by default below the XDG state folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
    /// Wait for no disk: what a crash loses is lost. Without --state, in a temporary folder that goes with the scheduler.
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// How long a job that is over is kept with its results: 12h, 7d, or `forever`.
    #[arg(long, default_value = "7d", value_parser = keep, value_name = "TIME|forever")]
    pub(crate) keep_results: Keep,
    /// A worker or client that is silent for this long is given up.
    #[arg(long, default_value = "10s", value_parser = heartbeat, value_name = "TIME")]
    pub(crate) heartbeat: std::time::Duration,
    /// What is allowed to whom; by default farm.toml in the XDG configuration folder `farm`, if there is one.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long certificates are valid: for tests.
    #[arg(long, value_parser = duration, hide = true)]
    pub(crate) certificate_validity: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) part: PartArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct WorkerCommand {
    #[command(subcommand)]
    command: Option<WorkerSubcommand>,
    #[command(flatten)]
    run: WorkerArgs,
}

#[derive(Debug, Subcommand)]
enum WorkerSubcommand {
    /// Let a worker take nothing new, finish what it holds, and leave.
    Drain {
        /// Its number as `farm status` shows it, or its name: then all workers of that name.
        worker: String,
        #[command(flatten)]
        farm: FarmArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// Ticket of a worker; better in the environment, where other users cannot read it.
    #[arg(long, env = "FARM_TICKET", hide_env_values = true, value_name = "TICKET")]
    pub(crate) ticket: Option<String>,
    /// Tasks that run at the same time; by default one per core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) slots: Option<u32>,
    /// Name for people; by default the host's.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How long it may stay: it leaves in time, and is given nothing that would take longer. In a SLURM job, the job's time
    /// counts if this does not say less.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) time: Option<std::time::Duration>,
    /// Folder for everything that it writes, instead of the cache folder. It is removed when the worker ends.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) scratch: Option<PathBuf>,
    /// How long it goes on working and waits for a scheduler that is gone.
    #[arg(long, default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub(crate) wait: std::time::Duration,
    /// How long it tries to reach the scheduler for the first time; by default as long as --wait.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) first_wait: Option<std::time::Duration>,
    /// How long the tasks that it runs may go on when it is told to end; the others are handed back at once.
    #[arg(long, default_value = "25s", value_parser = duration, value_name = "TIME")]
    pub(crate) grace: std::time::Duration,
    #[command(flatten)]
    pub(crate) part: PartArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
    /// The folder; by default that of `farm scheduler`, or if there is none, that of `farm up`.
    #[arg(long, value_name = "FOLDER", global = true)]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Read everything, and look whether each digest and each range is right. Exits with 70 if something is not.
    Check,
    /// Copy everything to a new folder, from which a scheduler can be started. The scheduler may go on meanwhile.
    Backup {
        /// A folder that is empty, or does not exist.
        to: PathBuf,
    },
    /// Remove the blobs that no job needs.
    Gc,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make a cluster, and print its name.
    Create {
        #[command(flatten)]
        spec: ClusterSpecArgs,
        /// Workers that are wanted.
        #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=100_000))]
        scale: u32,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Print what starting a worker of such a cluster would do, without doing it.
    DryRun {
        #[command(flatten)]
        spec: ClusterSpecArgs,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// List clusters: how many workers are wanted, and how many there are.
    List {
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// A cluster with its workers, and why there are fewer than wanted.
    Show {
        name: String,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Want another number of workers. Those that are too many finish what they run.
    Scale {
        name: String,
        /// Workers that are wanted.
        #[arg(value_parser = clap::value_parser!(u32).range(..=100_000))]
        workers: u32,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Want as many workers as there is work for.
    Adapt {
        name: String,
        #[command(flatten)]
        adapt: AdaptArgs,
        #[command(flatten)]
        farm: FarmArgs,
    },
    /// Let a cluster's workers finish what they run, then remove it. Its jobs wait for a cluster of that name.
    Stop {
        name: String,
        /// Do not wait for what its workers run: it is handed back.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        farm: FarmArgs,
    },
}

/// Who starts workers.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Provider {
    /// Processes of the scheduler's host.
    Local,
    /// Batch jobs of SLURM.
    Slurm,
}

/// What the workers of a cluster are like.
#[derive(Debug, Args)]
pub(crate) struct ClusterSpecArgs {
    /// Name: lower-case letters, digits and hyphens. One is made up if none is given.
    pub(crate) name: Option<String>,
    /// Who starts the workers.
    #[arg(long, value_enum)]
    pub(crate) provider: Provider,
    /// Cores of a worker; it runs as many tasks at a time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) worker_cores: u32,
    /// Memory of a worker, as in 4GiB.
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub(crate) worker_memory: Option<u64>,
    /// How long a worker may stay, as in 1h.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) time: Option<std::time::Duration>,
    /// SLURM: the partition, that is the queue.
    #[arg(long)]
    pub(crate) partition: Option<String>,
    /// SLURM: who pays.
    #[arg(long)]
    pub(crate) account: Option<String>,
    /// SLURM: the quality of service.
    #[arg(long)]
    pub(crate) qos: Option<String>,
    /// SLURM: one more argument of sbatch, as in --sbatch-arg=--constraint=intel. May be given several times.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) sbatch_arg: Vec<String>,
    /// SLURM: workers that one batch job starts, each on a node of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) nodes: u32,
    /// A file with shell commands that are run before the worker.
    #[arg(long, value_name = "FILE")]
    pub(crate) prologue: Option<PathBuf>,
    /// Environment variable of the workers (tasks have that of their job). May be given several times.
    #[arg(long, value_parser = pair, value_name = "K=V")]
    pub(crate) env: Vec<(String, String)>,
    /// Where `farm` is installed on the nodes; by default they fetch it from the scheduler.
    #[arg(long, value_name = "PATH")]
    pub(crate) worker_binary: Option<String>,
}

/// Between which bounds the number of workers follows the work.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct AdaptArgs {
    /// Never fewer workers than this.
    #[arg(long, default_value_t = 0, value_name = "A")]
    pub(crate) min: u32,
    /// Never more workers than this.
    #[arg(long, value_name = "B")]
    pub(crate) max: u32,
    /// How long a worker is kept that is not needed.
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "TIME")]
    pub(crate) idle: std::time::Duration,
}

impl AdaptArgs {
    pub(crate) fn scale(self) -> Scale {
        Scale::Adaptive { min: self.min, max: self.max, idle_s: self.idle.as_secs() }
    }
}

/// How a process of a farm ends.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct PartArgs {
    /// End when stdin does: with whoever holds the other end.
    #[arg(long, hide = true)]
    pub(crate) end_with_stdin: bool,
    /// Outlive the terminal.
    #[arg(long, hide = true)]
    pub(crate) new_session: bool,
}

fn stdout_mode(text: &str) -> Result<StdoutMode, String> {
    match text {
        "text" => Ok(StdoutMode::Text),
        "json" => Ok(StdoutMode::Json),
        "base64" => Ok(StdoutMode::Base64),
        _ => Err("there are text, json and base64".to_owned()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is written K=V")?;
    if key.is_empty() { Err("the name is empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

fn folder(text: &str) -> Result<(PathBuf, String), String> {
    let (host, guest) = text.split_once("::").unwrap_or((text, text));
    if host.is_empty() || guest.is_empty() {
        Err("it is written HOST::GUEST".to_owned())
    } else {
        Ok((host.into(), guest.to_owned()))
    }
}

/// How long results are kept; `None` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep(pub(crate) Option<std::time::Duration>);

fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" {
        return Ok(Keep(None));
    }
    duration(text).map(|time| Keep(Some(time))).map_err(|help| format!("{help}; or `forever`"))
}

pub(crate) fn heartbeat(text: &str) -> Result<std::time::Duration, String> {
    const LEAST: std::time::Duration = std::time::Duration::from_millis(250);
    let time = duration(text)?;
    if time < LEAST { Err("a heartbeat of less than 250ms takes living workers for dead".to_owned()) } else { Ok(time) }
}

/// A number and a unit.
fn with_unit(text: &str, units: &[(&str, u64)], help: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.replace('_', "").parse().map_err(|_| help.to_owned())?;
    let factor = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
    let (_, factor) = factor.ok_or_else(|| help.to_owned())?;
    let value = number * *factor as f64;
    if value.is_finite() && value <= u64::MAX as f64 { Ok(value as u64) } else { Err(help.to_owned()) }
}

/// A time with its unit; without one, seconds.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    const UNITS: [(&str, u64); 6] =
        [("ms", 1), ("", 1000), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    with_unit(text, &UNITS, "a time is written 500ms, 10s, 5m, 2h or 7d").map(std::time::Duration::from_millis)
}

/// A size with its unit; without one, bytes.
fn size(text: &str) -> Result<u64, String> {
    text.parse().map(|farm_scheduler::config::Size(bytes)| bytes)
}

/// Reads the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Slot = cli.command {
        // Before anything else: its standard input is the agent.
        return farm_host::slot::main();
    }
    commands::parts::start_log(matches!(
        cli.command,
        Command::Scheduler(_) | Command::Worker(WorkerCommand { command: None, .. })
    ));
    let output = cli.output;
    let result = match cli.command {
        Command::Run(args) => commands::run::run(&args, output),
        Command::Submit(args) => block_on(commands::submit::submit(args, output)),
        Command::Up(args) => block_on(commands::farm::up(args, output)),
        Command::Down => block_on(commands::farm::down(output)),
        Command::Status(farm) => block_on(commands::farm::status(farm, output)),
        Command::Jobs(farm) => block_on(commands::jobs::list(farm, output)),
        Command::Job(JobCommand::Show { job, farm }) => block_on(commands::jobs::show(job, farm, output)),
        Command::Job(JobCommand::Results { job, no_wait, results, farm }) => {
            block_on(commands::jobs::results(job, !no_wait, results, farm, output))
        }
        Command::Job(JobCommand::Fetch(args)) => block_on(commands::fetch::fetch(args, output)),
        Command::Job(JobCommand::Cancel { job, farm }) => block_on(commands::jobs::cancel(job, farm, output)),
        Command::Job(JobCommand::Retry(args)) => block_on(commands::jobs::retry(args, output)),
        Command::Job(JobCommand::Delete { job, farm }) => block_on(commands::jobs::delete(job, farm, output)),
        Command::Secret(command) => block_on(commands::secret::secret(command, output)),
        Command::Why { target, farm } => block_on(commands::why::why(target, farm, output)),
        Command::Inspect { module } => commands::inspect::inspect(&module, output),
        Command::New { path, wasi, sdk } => commands::guest::new(&path, wasi, sdk.as_deref()),
        Command::Build { path, target, out } => commands::guest::build(&path, target, out.as_deref(), output),
        Command::Cluster(command) => block_on(commands::cluster::cluster(command, output)),
        Command::Scheduler(args) => block_on(commands::parts::scheduler(args, output)),
        Command::Worker(WorkerCommand { command: None, run }) => block_on(commands::parts::worker(run)),
        Command::Worker(WorkerCommand { command: Some(WorkerSubcommand::Drain { worker, farm }), .. }) => {
            block_on(commands::farm::drain(&worker, farm, output))
        }
        Command::Admin(args) => commands::admin::admin(args, output),
        Command::Ticket(command) => block_on(commands::access::ticket(command, output)),
        Command::Login(args) => block_on(commands::access::login(args, output)),
        Command::Logout { name } => commands::access::logout(name.as_deref(), output),
        Command::Context(command) => commands::access::context(command, output),
        Command::Bench(args) => block_on(commands::bench::bench(args, output)),
        Command::Slot => unreachable!("handled above"),
        Command::CompileModule { args } => return farm_host::artefact::compile_main(args),
    };
    crate::report::exit(result, output)
}

/// One thread for everything: a wake-up on another core costs more than the work it would take over.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Report>>) -> Result<T, Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Report::internal("cannot start the event loop").because(&error))?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_worker_is_run_or_drained() {
        let worker = |args: &[&str]| match Cli::try_parse_from(args).expect("a command line").command {
            Command::Worker(command) => command,
            other => panic!("no worker: {other:?}"),
        };
        let run = worker(&["farm", "worker", "--slots", "3", "--wait", "1m"]);
        assert!(run.command.is_none());
        assert_eq!((run.run.slots, run.run.wait.as_secs(), run.run.grace.as_secs()), (Some(3), 60, 25));
        let drain = worker(&["farm", "worker", "drain", "w1"]).command.expect("a subcommand");
        let WorkerSubcommand::Drain { worker: name, .. } = drain;
        assert_eq!(name, "w1");
    }

    #[test]
    fn a_task_is_named_by_its_job() {
        assert_eq!("7".parse(), Ok(WhyTarget { job: JobId(7), task: None }));
        assert_eq!("7:1_500".parse(), Ok(WhyTarget { job: JobId(7), task: Some(1500) }));
        for bad in ["", "7:", ":1", "7:x", "x:1", "7:1:2"] {
            assert!(bad.parse::<WhyTarget>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn arguments_come_from_one_place() {
        let parse = |more: &[&str]| Cli::try_parse_from(["farm", "submit", "m.wasm"].iter().chain(more));
        assert!(parse(&["--args-from", "7", "--reduce", "add", "--fan-in", "2"]).is_ok());
        assert!(parse(&["--args-from", "7", "--range", "0..1"]).is_err());
        assert!(parse(&["--range", "0..1", "--fan-in", "2"]).is_err(), "a fan-in of nothing");
        assert!(parse(&["--range", "0..1", "--reduce", "add", "--fan-in", "1"]).is_err());
        assert!(parse(&["--range", "0..1", "--after", "1", "--after", "2"]).is_ok());
    }

    #[test]
    fn results_are_kept_for_a_time_or_for_ever() {
        assert_eq!(keep("forever"), Ok(Keep(None)));
        assert_eq!(keep("7d"), Ok(Keep(Some(std::time::Duration::from_secs(7 * 86_400)))));
        assert!(keep("never").is_err());
        assert!(heartbeat("1ms").is_err());
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1.5g"), Ok(3 << 29));
        assert_eq!(size("4096"), Ok(4096));
        assert!(size("lots").is_err());
        assert_eq!(duration("90"), Ok(std::time::Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(std::time::Duration::from_millis(1500)));
        assert!(duration("soon").is_err());
        assert!(duration("5 parsecs").is_err());
    }
}
