//! Functions on a farm as a program calls them: many at once, by value, with the results as they are wanted.
//!
//! ```no_run
//! use farm_client::client::Client;
//! use farm_client::home::Home;
//! use farm_client::modules::LoadedModule;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let ticket = std::env::var("FARM_TICKET")?.parse()?;
//! let client = Client::connect(&ticket, None).await?;
//! let module = LoadedModule::load("statistics.wasm".as_ref(), &Home::from_env())?;
//!
//! // A call for each argument; a function of several parameters is given tuples.
//! let squares = client.function(&module, "square")?.map(0..1000).await?;
//! let values: Vec<i64> = squares.gather().await?;
//!
//! // Results flow from job to job on the farm, each as soon as it is there.
//! let roots = client.function(&module, "root")?.map_on(&squares).await?;
//! let total: f64 = client.function(&module, "add")?.reduce(&roots, 16).await?.result().await?;
//!
//! // In the order in which they come, failures among them.
//! let mut completed = roots.as_completed::<f64>();
//! while let Some((index, result)) = completed.next().await? {
//!     match result {
//!         Ok(root) => println!("{index}: {root}"),
//!         Err(failed) => eprintln!("{failed}"),
//!     }
//! }
//! # drop((values, total)); Ok(()) }
//! ```
//!
//! A job goes on whether or not anyone waits for its [`Futures`]: dropping them cancels nothing. They can be gathered more
//! than once, and [`Client::futures`] makes them of a job that was started elsewhere.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use farm_host::module::ModuleError;
use farm_proto::columns::Columns;
use farm_proto::ids::JobId;
use farm_proto::job::{JobState, JobStatus, ResultEncoding};
use farm_proto::message::Batch;
use farm_proto::outcome::Failure;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{ArgSource, ArgsError, Arguments};
use crate::client::{Client, ClientError, Update, Watch};
use crate::job::{Job, JobOptions, results_of};
use crate::modules::{Function, LoadedModule};
use crate::reduction::{ReduceError, Reduced, Reduction};
use crate::results::write_value;

/// A task, and how it ended.
pub type Outcome<T> = (u64, Result<T, TaskFailure>);

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum FuturesError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Arguments(#[from] ArgsError),
    #[error(transparent)]
    Reduce(#[from] ReduceError),
    /// Only where results are asked for without their failures.
    #[error(transparent)]
    Task(#[from] TaskFailure),
    /// It was cancelled or failed as a whole, and some of its tasks have no outcome.
    #[error("job {job} {}{}", told(.state), because(.reason.as_deref()))]
    Job { job: JobId, state: JobState, reason: Option<String> },
    #[error("the result of task {task} of job {job} is not what was expected")]
    Value {
        job: JobId,
        task: u64,
        #[source]
        source: serde_json::Error,
    },
}

/// A task that has failed for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task} of job {job} failed: {failure}")]
pub struct TaskFailure {
    pub job: JobId,
    pub task: u64,
    pub failure: Failure,
}

const fn told(state: &JobState) -> &'static str {
    match state {
        JobState::Cancelled => "was cancelled",
        JobState::Failed => "failed",
        JobState::Waiting | JobState::Running | JobState::Done => "ended without all of its results",
    }
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

impl Client {
    /// A function of a module, to be called on the farm.
    ///
    /// # Errors
    ///
    /// The module has no such function.
    pub fn function(&self, module: &LoadedModule, name: &str) -> Result<RemoteFunction, ModuleError> {
        let function = Arc::new(module.function(Some(name))?);
        Ok(RemoteFunction { client: self.clone(), module: module.clone(), function, options: JobOptions::default() })
    }

    /// The results of a job that was started before, here or elsewhere.
    ///
    /// # Errors
    ///
    /// There is no such job, or the scheduler did not come back in time.
    pub async fn futures(&self, job: JobId) -> Result<Futures, ClientError> {
        let status = self.job(job).await?;
        Ok(Futures { client: self.clone(), job, tasks: status.counts.total(), encoding: status.result })
    }
}

/// A function on a farm. Each call of [`Self::map`], [`Self::map_on`] or [`Self::reduce`] starts jobs.
#[derive(Debug, Clone)]
pub struct RemoteFunction {
    client: Client,
    module: LoadedModule,
    function: Arc<Function>,
    options: JobOptions,
}

impl RemoteFunction {
    /// How its jobs are run.
    #[must_use]
    pub fn with(mut self, options: JobOptions) -> Self {
        self.options = options;
        self
    }

    /// Has its jobs wait until another one is done.
    #[must_use]
    pub fn after(mut self, earlier: &Futures) -> Self {
        self.options.after.push(earlier.job);
        self
    }

    /// Calls the function for each argument, as one job. All of them are checked before anything is sent.
    ///
    /// # Errors
    ///
    /// An argument is not what the function takes, or the farm refuses the job.
    pub async fn map<T: Serialize>(&self, args: impl IntoIterator<Item = T>) -> Result<Futures, FuturesError> {
        let arguments =
            Arguments::from_values(args, &mut |element, out: &mut Vec<u8>| self.function.encode(element, out))?;
        Ok(self.start(arguments).await?)
    }

    /// Calls the function for each integer of a range, of which there may be any number: they are never written down.
    ///
    /// # Errors
    ///
    /// The function does not take integers, or the farm refuses the job.
    pub async fn map_range(&self, range: Range<i64>) -> Result<Futures, FuturesError> {
        let source = ArgSource::Range { start: range.start, end: range.end.max(range.start) };
        let arguments = Arguments::read(&source, &mut |element, out: &mut Vec<u8>| self.function.encode(element, out))?;
        Ok(self.start(arguments).await?)
    }

    /// Calls the function for each result of another job, as soon as it is there. If one failed, the call for it fails,
    /// too, with [`InputFailed`](farm_proto::outcome::FailureKind::InputFailed).
    ///
    /// # Errors
    ///
    /// The farm refuses the job.
    pub async fn map_on(&self, futures: &Futures) -> Result<Futures, FuturesError> {
        Ok(self.start(results_of(futures.job, futures.tasks, &self.function)).await?)
    }

    /// Makes one value of all results of another job: see [`crate::reduction`].
    ///
    /// # Errors
    ///
    /// The function takes neither two values nor a list, there are no results, `fan_in` is less than 2, or the farm
    /// refuses a job.
    pub async fn reduce(&self, futures: &Futures, fan_in: u32) -> Result<FutureValue, FuturesError> {
        let reduction = Reduction::new(&self.module, &self.function.info.name, fan_in)?;
        let of = (futures.job, futures.tasks);
        let reduced = reduction.submit(&self.client, of, &self.options, &|_| {}).await?;
        let encoding = self.module.info.result_encoding(&self.function.info, &self.options.command);
        let futures = Futures { client: self.client.clone(), job: reduced.value(), tasks: 1, encoding };
        Ok(FutureValue { futures, reduced })
    }

    async fn start(&self, arguments: Arguments) -> Result<Futures, ClientError> {
        let tasks = arguments.count();
        let job = Job::new(&self.module, &self.function, &self.options, arguments);
        let encoding = job.spec.module.result;
        let job = job.submit(&self.client, false, &|_| {}).await?.job();
        Ok(Futures { client: self.client.clone(), job, tasks, encoding })
    }
}

/// The results of a job, whether or not they are there yet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Futures {
    client: Client,
    job: JobId,
    tasks: u64,
    encoding: ResultEncoding,
}

impl Futures {
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// How many results there will be.
    pub const fn len(&self) -> u64 {
        self.tasks
    }

    pub const fn is_empty(&self) -> bool {
        self.tasks == 0
    }

    /// All results in the order of the arguments, once all are there. Results that are bytes come as the JSON that
    /// `farm submit` writes for them.
    ///
    /// # Errors
    ///
    /// A task failed (the first to do so is named), the job was cancelled or failed, a result is no `T`, or the scheduler
    /// did not come back in time.
    pub async fn gather<T: DeserializeOwned>(&self) -> Result<Vec<T>, FuturesError> {
        let mut values = Vec::new();
        let mut completed = self.as_completed();
        while let Some((index, result)) = completed.next().await? {
            put(&mut values, index, result?);
        }
        Ok(values.into_iter().flatten().collect())
    }

    /// As [`Self::gather`], with failures in their places.
    ///
    /// # Errors
    ///
    /// As [`Self::gather`], but for failed tasks.
    pub async fn gather_results<T: DeserializeOwned>(&self) -> Result<Vec<Result<T, TaskFailure>>, FuturesError> {
        let mut values = Vec::new();
        let mut completed = self.as_completed();
        while let Some((index, result)) = completed.next().await? {
            put(&mut values, index, result);
        }
        Ok(values.into_iter().flatten().collect())
    }

    /// The results in the order in which they come.
    pub fn as_completed<T: DeserializeOwned>(&self) -> Completed<T> {
        Completed { futures: self.clone(), watch: None, ready: VecDeque::new(), given: 0, last: None, of: PhantomData }
    }

    /// How the job is doing.
    ///
    /// # Errors
    ///
    /// The job was deleted, or the scheduler did not come back in time.
    pub async fn status(&self) -> Result<JobStatus, ClientError> {
        self.client.job(self.job).await
    }

    /// Cancels the job. What has a result keeps it; one that has ended stays as it is.
    ///
    /// # Errors
    ///
    /// The job was deleted, or the scheduler did not come back in time.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        self.client.cancel(self.job).await.map(drop)
    }
}

fn put<T>(values: &mut Vec<Option<T>>, index: u64, value: T) {
    let index = index as usize;
    if values.len() <= index {
        values.resize_with(index + 1, || None);
    }
    values[index] = Some(value);
}

/// The one value that a reduction gives.
#[derive(Debug, Clone)]
pub struct FutureValue {
    futures: Futures,
    reduced: Reduced,
}

impl FutureValue {
    /// The job whose only result it is.
    pub const fn job(&self) -> JobId {
        self.futures.job
    }

    /// As the results of a job of one task: to go on with.
    pub const fn as_futures(&self) -> &Futures {
        &self.futures
    }

    /// The value, once it is there.
    ///
    /// # Errors
    ///
    /// As [`Futures::gather`].
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, FuturesError> {
        let mut values = self.futures.gather().await?;
        Ok(values.pop().ok_or(ClientError::Unexpected("a reduction without a result"))?)
    }

    /// Cancels what has not ended of the reduction, but not the job whose results it reduces.
    ///
    /// # Errors
    ///
    /// As [`Futures::cancel`].
    pub async fn cancel(&self) -> Result<(), ClientError> {
        for job in self.reduced.jobs.iter().rev() {
            self.futures.client.cancel(*job).await?;
        }
        Ok(())
    }
}

/// Results in the order in which they come.
#[derive(Debug)]
pub struct Completed<T> {
    futures: Futures,
    watch: Option<Watch>,
    ready: VecDeque<(Batch, Columns)>,
    /// How many outcomes of the first batch in `ready` have been given.
    given: usize,
    last: Option<JobStatus>,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Completed<T> {
    /// The next result and the number of its argument; `None` when all were given. May be dropped half-way.
    ///
    /// # Errors
    ///
    /// The job was cancelled or failed, and nothing more comes; a result is no `T`; or the scheduler did not come back in
    /// time.
    pub async fn next(&mut self) -> Result<Option<Outcome<T>>, FuturesError> {
        loop {
            if let Some(outcome) = self.take() {
                return outcome.map(Some);
            }
            let Futures { client, job, .. } = &self.futures;
            let watch = match &mut self.watch {
                Some(watch) => watch,
                None => self.watch.insert(client.watch(*job, 0, true).await?),
            };
            match watch.next().await? {
                Some(Update::Results { batch, results, .. }) => self.ready.push_back((batch, results)),
                Some(Update::Status(status)) => self.last = Some(status),
                Some(Update::Reconnecting { .. } | Update::Reconnected { .. }) => {}
                None => {
                    let Some(JobStatus { job, state, reason, counts, .. }) = self.last.take() else {
                        return Ok(None);
                    };
                    if counts.succeeded + counts.failed < counts.total() {
                        return Err(FuturesError::Job { job, state, reason });
                    }
                    return Ok(None);
                }
            }
        }
    }

    fn take(&mut self) -> Option<Result<Outcome<T>, FuturesError>> {
        let (batch, results) = self.ready.front()?;
        if self.given >= results.len() {
            self.ready.pop_front();
            self.given = 0;
            return self.take();
        }
        let job = self.futures.job;
        let task = batch.first + self.given as u64;
        let failed = batch.failures.binary_search_by_key(&self.given, |(offset, _)| *offset as usize);
        let outcome = match failed {
            Ok(at) => Ok((task, Err(TaskFailure { job, task, failure: batch.failures[at].1.clone() }))),
            Err(_) => value(self.futures.encoding, results.get(self.given))
                .map(|value| (task, Ok(value)))
                .map_err(|source| FuturesError::Value { job, task, source }),
        };
        self.given += 1;
        Some(outcome)
    }
}

fn value<T: DeserializeOwned>(encoding: ResultEncoding, bytes: &[u8]) -> Result<T, serde_json::Error> {
    if encoding == ResultEncoding::Json {
        return serde_json::from_slice(bytes);
    }
    let mut json = Vec::new();
    write_value(&mut json, encoding, bytes, &mut Vec::new()).map_err(serde_json::Error::io)?;
    serde_json::from_slice(&json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_values_whatever_they_are_carried_as() {
        assert_eq!(value::<i64>(ResultEncoding::Json, b"42").expect("a number"), 42);
        assert_eq!(value::<String>(ResultEncoding::Text, b"a\"b").expect("a text"), "a\"b");
        let bytes: serde_json::Value = value(ResultEncoding::Bytes, b"abcd").expect("an object");
        assert_eq!(bytes, serde_json::json!({"base64": "YWJjZA=="}));
        assert!(value::<i64>(ResultEncoding::Text, b"42").is_err(), "text is a string");
    }

    #[test]
    fn values_come_in_the_order_of_their_arguments() {
        let mut values = Vec::new();
        for index in [2, 0, 1] {
            put(&mut values, index, index * 10);
        }
        assert_eq!(values, [Some(0), Some(10), Some(20)]);
    }

    #[test]
    fn programs_may_wait_in_tasks_of_their_own() {
        fn is_send<T: Send>(_: impl FnOnce(Futures, RemoteFunction, Client) -> T) {}
        is_send(|futures, _, _| async move { futures.gather::<i64>().await });
        is_send(|_, function, _| async move { function.map([1, 2]).await });
        is_send(|futures, function, _| async move { function.reduce(&futures, 2).await });
        is_send(|_, _, client| async move { client.jobs().await });
    }
}
