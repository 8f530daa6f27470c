//! From a job's updates to results on stdout or in a file, and an exit code.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farm_client::client::{Client, ClientError, Update, Watch};
use farm_client::exit_codes;
use farm_client::outputs::{Fetched, OutputFolder};
use farm_client::results::{FailureGroups, Format, ResultWriter};
use farm_link::failpoint;
use farm_proto::columns::Columns;
use farm_proto::ids::JobId;
use farm_proto::job::{JobState, JobStatus, ResultEncoding};
use farm_proto::message::Batch;
use farm_proto::outcome::{FailureKind, OutputFile};
use farm_proto::why::Cause;
use indicatif::HumanDuration;
use serde::Serialize;
use serde_json::json;

use super::fetch::summary;
use super::progress::Bar;
use super::{show, tell, why};
use crate::cli::{Output, ResultArgs};
use crate::report::Report;

/// Where the results of one job go.
pub(super) struct Delivery {
    writer: ResultWriter<Sink>,
    output: Output,
    format: Format,
    failures: FailureGroups,
    /// For `--output json`: the first failures as they are.
    told: Vec<serde_json::Value>,
    /// Where the files go that tasks left, and what has come.
    files: Option<(OutputFolder, Fetched)>,
    pub(super) bar: Bar,
}

/// Failures that `--output json` lists one by one; the rest is counted.
const TOLD: usize = 100;

/// Standard output, or a file that appears under its name only when it is whole.
enum Sink {
    Stdout(BufWriter<io::Stdout>),
    File {
        file: BufWriter<File>,
        partial: tempfile::TempPath,
        path: PathBuf,
    },
    /// A device or a pipe, which cannot be replaced.
    Special(BufWriter<File>),
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, Report> {
        let Some(path) = path else {
            return Ok(Self::Stdout(BufWriter::with_capacity(1 << 16, io::stdout())));
        };
        let cannot = |error: io::Error| {
            Report::new(exit_codes::USAGE, format!("cannot write {}", path.display())).because(&error)
        };
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            let file = File::options().write(true).open(path).map_err(cannot)?;
            return Ok(Self::Special(BufWriter::with_capacity(1 << 16, file)));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        // Readable to whom the umask allows, as every file that a command makes.
        let partial = tempfile::Builder::new()
            .prefix(".farm-results-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(cannot)?;
        let (file, partial) = partial.into_parts();
        Ok(Self::File { file: BufWriter::with_capacity(1 << 16, file), partial, path: path.to_owned() })
    }

    fn finish(self) -> Result<(), Report> {
        if let Self::File { partial, path, .. } = self {
            partial
                .persist(&path)
                .map_err(|error| Report::internal(format!("cannot write {}", path.display())).because(&error.error))?;
        }
        Ok(())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File { file, .. } | Self::Special(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File { file, .. } | Self::Special(file) => file.flush(),
        }
    }
}

impl Delivery {
    /// For a job of so many tasks; a single one is written without an array around it.
    pub(super) fn new(
        results: &ResultArgs,
        encoding: ResultEncoding,
        output: Output,
        (tasks, is_single): (u64, bool),
    ) -> Result<Self, Report> {
        let mut sink = Sink::open(results.out.as_deref())?;
        if output == Output::Json && matches!(sink, Sink::Stdout(_)) && results.format == Format::Json {
            // The array, or the value, becomes a part of the one document on stdout.
            sink.write_all(if is_single { b"{\"result\":" } else { b"{\"results\":" })?;
        }
        Ok(Self {
            writer: ResultWriter::new(sink, results.format, encoding).single(is_single),
            output,
            format: results.format,
            failures: FailureGroups::default(),
            told: Vec::new(),
            files: None,
            bar: Bar::new(tasks),
        })
    }

    /// Has the files of tasks brought to a folder as well.
    #[must_use]
    pub(super) fn with_files(mut self, folder: Option<OutputFolder>) -> Self {
        self.files = folder.map(|folder| (folder, Fetched::default()));
        self
    }

    /// Fetches the files of some outcomes.
    async fn fetch(&mut self, client: &Client, batch: &Batch) -> Result<(), Report> {
        if let Some((folder, sum)) = &mut self.files {
            *sum += folder.fetch(client, batch, None).await?;
        }
        Ok(())
    }

    /// Copies the files of one task, which are in a folder here.
    pub(super) fn copy(&mut self, task: u64, files: &[OutputFile], from: &Path) -> Result<(), Report> {
        if let Some((folder, sum)) = &mut self.files {
            *sum += folder.copy(task, files, from)?;
        }
        Ok(())
    }

    /// Takes one batch. Whoever reads line by line gets it at once.
    pub(super) fn batch(&mut self, batch: Batch, results: Columns) -> Result<(), Report> {
        failpoint::hit("client.batch");
        self.bar.advance(batch.count.into(), batch.failures.len() as u64);
        self.failures.add(&batch);
        for (offset, failure) in &batch.failures {
            if self.told.len() < TOLD && self.output == Output::Json {
                self.told.push(json!({"index": batch.first + u64::from(*offset), "error": failure}));
            }
        }
        self.writer.batch(batch, results)?;
        if self.format == Format::Ndjson {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Whether there is more to say to a user: tasks failed because others had.
    pub(super) fn wants_cause(&self) -> bool {
        self.output == Output::Text && self.failures.have(FailureKind::InputFailed)
    }

    /// Writes the end, says what failed, and gives the exit code.
    pub(super) fn finish(self, status: &JobStatus) -> Result<u8, Report> {
        self.bar.clear();
        let mut sink = self.writer.finish(status.counts.total())?;
        if self.output == Output::Json {
            let summary = Summary { job: show::JobJson::from(status), failures: &self.told };
            let text = serde_json::to_string(&summary).map_err(io::Error::from)?;
            match &mut sink {
                Sink::Stdout(out) if self.format == Format::Json => writeln!(out, ",{}", &text[1..])?,
                Sink::Stdout(out) => writeln!(out, "{text}")?,
                Sink::File { .. } | Sink::Special(_) => super::print(&format!("{text}\n"))?,
            }
            sink.flush()?;
        }
        sink.finish()?;
        if let Some((folder, sum)) = &self.files
            && self.output == Output::Text
        {
            tell(&summary(sum, &folder.path().display().to_string()));
        }
        Ok(conclude(status, &self.failures, self.output))
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    job: show::JobJson<'a>,
    failures: &'a [serde_json::Value],
}

fn conclude(status: &JobStatus, failures: &FailureGroups, output: Output) -> u8 {
    let counts = &status.counts;
    let code = match status.state {
        JobState::Done if counts.failed == 0 => return exit_codes::OK,
        JobState::Done => exit_codes::TASKS_FAILED,
        JobState::Cancelled | JobState::Failed => exit_codes::JOB_FAILED,
        JobState::Waiting | JobState::Running => exit_codes::OK,
    };
    if output == Output::Text {
        match status.state {
            JobState::Cancelled => tell(&format!("error: {} was cancelled", name(status))),
            JobState::Failed => {
                let reason = status.reason.as_deref().unwrap_or("no reason was given");
                tell(&format!("error: {} failed: {reason}", name(status)));
            }
            _ => {}
        }
        if failures.count() > 0 {
            tell(&format!("{} of {} tasks failed:\n{}", counts.failed, counts.total(), failures.describe().trim_end()));
        }
    }
    code
}

/// What people call the job. That of `farm run` has no number.
fn name(status: &JobStatus) -> String {
    if status.job == NO_JOB { "the run".to_owned() } else { format!("job {}", status.job) }
}

/// Stands for the number of a job that no farm knows. Farms count from 1.
pub(super) const NO_JOB: JobId = JobId(0);

/// How long a job may give no sign of life before its user is told what it waits for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the bar is brought up to date with jobs whose results are not for this client.
const GLANCE: Duration = Duration::from_millis(500);

/// Follows a job to its end, across the scheduler's deaths. `jobs` are all that were started with it, itself included:
/// where there are others, the bar shows how far all of them are.
pub(super) async fn follow(
    client: &Client,
    watch: &mut Watch,
    delivery: &mut Delivery,
    jobs: &[JobId],
) -> Result<JobStatus, Report> {
    let patient = client;
    // What is asked on the way must not wait for a scheduler that is away: the watch does that.
    let client = client.clone().with_patience(Duration::ZERO);
    let has_others = jobs.len() > 1;
    let mut last = None;
    let mut is_away = false;
    let mut is_explained = false;
    let mut since_glance = Duration::ZERO;
    loop {
        let patience = if has_others { GLANCE } else { PATIENCE };
        let update = match tokio::time::timeout(patience, watch.next()).await {
            Ok(update) => update?,
            Err(_) if is_away => continue,
            Err(_) => {
                since_glance += patience;
                if has_others {
                    unless_away(glance(&client, jobs, delivery).await)?;
                }
                if !is_explained && since_glance >= PATIENCE {
                    since_glance = Duration::ZERO;
                    is_explained = unless_away(explain(&client, watch.job(), delivery).await)?.unwrap_or(false);
                }
                continue;
            }
        };
        match update {
            Some(Update::Results { batch, results, .. }) => {
                delivery.fetch(patient, &batch).await?;
                delivery.batch(batch, results)?;
            }
            Some(Update::Status(status)) => last = Some(status),
            Some(Update::Reconnecting { patience, .. }) => {
                is_away = true;
                delivery.bar.line(&format!("{} (job {} goes on)", away(patience), watch.job()));
            }
            Some(Update::Reconnected { after }) => {
                is_away = false;
                delivery.bar.line(&back(after));
            }
            None => break,
        }
    }
    last.ok_or_else(|| Report::internal("the farm did not say how the job ended"))
}

/// What users are told when the scheduler does not answer.
pub(super) fn away(patience: Duration) -> String {
    let patience = HumanDuration(patience);
    format!("note: the scheduler does not answer; waiting up to {patience} for it to come back")
}

/// And when it does again.
pub(super) fn back(after: Duration) -> String {
    format!("note: the scheduler is back after {:.1} s", after.as_secs_f64())
}

/// Says which failures of earlier jobs are behind those of a job whose tasks failed for want of their arguments. What
/// cannot be found out is left unsaid: that tasks failed has been told.
pub(super) async fn tell_cause(client: &Client, status: &JobStatus) {
    let client = client.clone().with_patience(Duration::ZERO);
    match cause_of(&client, status).await {
        Ok(Some((job, failures))) => tell(&format!(
            "the cause: {} of {} tasks of {} failed, as in\n{}",
            job.counts.failed,
            job.counts.total(),
            name(&job),
            failures.describe().trim_end()
        )),
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "cannot find out why a job's arguments are missing"),
    }
}

/// The earlier job that failures began in, and some of its own.
async fn cause_of(client: &Client, status: &JobStatus) -> Result<Option<(JobStatus, FailureGroups)>, ClientError> {
    let mut needs = status.needs.clone();
    // Jobs need earlier ones only, so that this ends.
    while let Some(job) = needs.pop() {
        let earlier = client.job(job).await?;
        if earlier.counts.failed == 0 {
            continue;
        }
        let failures = some_failures(client, job).await?;
        if !failures.have(FailureKind::InputFailed) {
            return Ok(Some((earlier, failures)));
        }
        needs = earlier.needs;
    }
    Ok(None)
}

/// The first failures of a job: all results of a large one are not worth fetching for the others.
async fn some_failures(client: &Client, job: JobId) -> Result<FailureGroups, ClientError> {
    let mut failures = FailureGroups::default();
    let mut watch = client.watch(job, 0, false).await?;
    while failures.count() == 0
        && let Some(update) = watch.next().await?
    {
        if let Update::Results { batch, .. } = update {
            failures.add(&batch);
        }
    }
    Ok(failures)
}

/// The answer, unless the scheduler has just gone, which the watch will notice as well.
fn unless_away<T>(result: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match result {
        Err(error) if error.is_passing() => Ok(None),
        result => result.map(Some),
    }
}

/// Brings the bar up to date.
async fn glance(client: &Client, jobs: &[JobId], delivery: &mut Delivery) -> Result<(), ClientError> {
    let (mut done, mut failed) = (0, 0);
    for job in jobs {
        let counts = client.job(*job).await?.counts;
        done += counts.succeeded + counts.failed + counts.cancelled;
        failed += counts.failed;
    }
    delivery.bar.set(done, failed);
    Ok(())
}

/// Says why nothing happens, if that is so. Whether it was said.
async fn explain(client: &Client, job: JobId, delivery: &Delivery) -> Result<bool, ClientError> {
    let waits = client.why(job, None).await?.groups.into_iter().find_map(|group| match group.cause {
        Cause::Secrets { names } => Some(names),
        _ => None,
    });
    if let Some(names) = waits {
        delivery.bar.line(&format!("job {job} waits for {}", why::secrets(job, &names)));
        return Ok(true);
    }
    let is_alone = client.farm().await?.workers.is_empty();
    if is_alone {
        delivery.bar.line("no worker is connected: the job waits for one; Ctrl-C gives up");
    }
    Ok(is_alone)
}
