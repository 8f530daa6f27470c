//! One value out of the results of a job: a tree of jobs, one for each level, whose results never leave the farm.
//!
//! With a fan-in of 16, a thousand results become 63, these 4, and these one. A function of two parameters *folds*: it is
//! called for the first two of its 16, then for what it gave and the third, and so on. A function of one parameter takes
//! the list of all 16. Either way it should not matter how the results are grouped: results keep their order, and groups
//! are consecutive.

use farm_host::module::ModuleError;
use farm_proto::ids::JobId;
use farm_proto::job::{ModuleKind, ResultArgs};

use crate::args::Arguments;
use crate::client::{Client, ClientError};
use crate::job::{Job, JobOptions};
use crate::modules::{Function, LoadedModule};

/// How many results go into one unless something else is said.
pub const FAN_IN: u32 = 16;

/// Why results cannot be reduced.
#[derive(Debug, thiserror::Error)]
pub enum ReduceError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("a WASI command cannot reduce: its argument is no list of results")]
    Command,
    #[error(
        "{function} has {count} parameters: to reduce, a function takes two values (what there is so far, and the next), or a \
         list of them"
    )]
    Parameters { function: String, count: usize },
    #[error("a fan-in of {0} makes nothing smaller: 2 is the least")]
    FanIn(u32),
    #[error("there is nothing to reduce: the job has no tasks")]
    Nothing,
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A function that makes one value of many, and how.
#[derive(Debug)]
pub struct Reduction {
    module: LoadedModule,
    function: Function,
    fan_in: u32,
    fold: bool,
}

/// The jobs of a reduction.
#[derive(Debug, Clone)]
pub struct Reduced {
    /// One for each level. The last one has a single task, and its result is the value.
    pub jobs: Vec<JobId>,
    /// Of all of them together.
    pub tasks: u64,
}

impl Reduced {
    /// The job whose only result is the value.
    pub fn value(&self) -> JobId {
        // There is one level at least.
        self.jobs.last().copied().unwrap_or(JobId(0))
    }
}

impl Reduction {
    /// Looks whether the function of that name can reduce.
    ///
    /// # Errors
    ///
    /// There is no such function, or it takes neither two values nor a list; or the fan-in is less than 2.
    pub fn new(module: &LoadedModule, function: &str, fan_in: u32) -> Result<Self, ReduceError> {
        if module.info.kind == ModuleKind::Command {
            return Err(ReduceError::Command);
        }
        if fan_in < 2 {
            return Err(ReduceError::FanIn(fan_in));
        }
        let function = module.function(Some(function))?;
        let fold = match function.info.params.len() {
            _ if function.info.raw => false,
            1 => false,
            2 => true,
            count => return Err(ReduceError::Parameters { function: function.info.name, count }),
        };
        Ok(Self { module: module.clone(), function, fan_in, fold })
    }

    /// Starts the jobs that reduce the results of `of`, a job of `tasks` tasks, which need not be there yet. Should one of
    /// them be refused, those of the levels below it have been started.
    ///
    /// # Errors
    ///
    /// `tasks` is 0, or the farm refuses a job.
    pub async fn submit(
        &self,
        client: &Client,
        (of, tasks): (JobId, u64),
        options: &JobOptions,
        uploaded: &(dyn Fn(u64) + Sync),
    ) -> Result<Reduced, ReduceError> {
        if tasks == 0 {
            return Err(ReduceError::Nothing);
        }
        let mut options = options.clone();
        let mut jobs = Vec::new();
        let mut below = of;
        let mut tasks_above = 0;
        for count in levels(tasks, self.fan_in) {
            let arguments = Arguments::from_results(ResultArgs {
                job: below,
                count,
                group: Some(self.fan_in),
                raw: self.function.takes_bytes(),
            });
            let mut job = Job::new(&self.module, &self.function, &options, arguments);
            job.spec.fold = self.fold;
            below = job.submit(client, false, uploaded).await?.job();
            jobs.push(below);
            tasks_above += count;
            // What the first level waits for, those above it wait for by waiting for that.
            options.after.clear();
        }
        Ok(Reduced { jobs, tasks: tasks_above })
    }
}

/// How many tasks each level has: the last one has one, and there is one at least.
fn levels(tasks: u64, fan_in: u32) -> impl Iterator<Item = u64> {
    let next = move |count: u64| count.div_ceil(fan_in.into());
    std::iter::successors(Some(next(tasks)), move |count| (*count > 1).then(|| next(*count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_a_task_for_each_group_of_the_one_below() {
        let levels = |tasks, fan_in| levels(tasks, fan_in).collect::<Vec<_>>();
        assert_eq!(levels(1000, 16), [63, 4, 1]);
        assert_eq!(levels(16, 16), [1]);
        assert_eq!(levels(17, 16), [2, 1]);
        assert_eq!(levels(1, 16), [1]);
        assert_eq!(levels(5, 2), [3, 2, 1]);
        assert_eq!(levels(u64::MAX, 2).last(), Some(&1));
    }

    fn module(wat: &str) -> LoadedModule {
        let prepared = farm_host::module::prepare(wat.as_bytes().to_vec()).expect("a module");
        LoadedModule { bytes: prepared.bytes.into(), info: prepared.info }
    }

    #[test]
    fn a_function_folds_if_it_takes_two() {
        let module = module(
            r#"(module
                (func (export "two") (param i64 i64) (result i64) (i64.add (local.get 0) (local.get 1)))
                (func (export "one") (param i64) (result i64) (local.get 0))
                (func (export "none") (result i64) (i64.const 0)))"#,
        );
        assert!(Reduction::new(&module, "two", 2).expect("it folds").fold);
        assert!(!Reduction::new(&module, "one", 2).expect("it takes a list").fold);
        assert!(matches!(Reduction::new(&module, "none", 2), Err(ReduceError::Parameters { count: 0, .. })));
        assert!(matches!(Reduction::new(&module, "other", 2), Err(ReduceError::Module(_))));
        assert!(matches!(Reduction::new(&module, "two", 1), Err(ReduceError::FanIn(1))));
    }
}
