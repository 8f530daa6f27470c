//! A new job of what another left undone.

use std::ops::Range;
use std::sync::Arc;

use farm_core::RangeSet;
use farm_proto::ids::JobId;
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::{RequestError, SubmitKey};

use super::args::ArgTable;
use crate::SchedulerError;
use crate::farm::Submission;
use crate::identity::caller::Caller;
use crate::serve::Shared;
use crate::store::{JobResults, JobRow};
use crate::sync::off_loop;

/// Starts a job of the tasks of another that have no value, or with `failed` only of those that failed. Tasks whose
/// inputs have no value are left out: they would fail again. The new job needs nothing of the other.
///
/// # Errors
///
/// The other, or the one whose results it takes, is not over, or does not exist any more; no such task is left; or the
/// new job cannot be stored.
pub(crate) async fn retry(
    shared: &Shared,
    caller: &Caller,
    key: SubmitKey,
    job: JobId,
    failed: bool,
) -> Result<Arc<JobResults>, RequestError> {
    if let Some(results) = shared.farm.submitted(caller.clone(), key).await? {
        return Ok(results);
    }
    let storage = |error: SchedulerError| RequestError::Storage(error.to_string());
    let ranges = shared.farm.without_value(caller.clone(), job, failed).await?;
    let store = Arc::clone(&shared.store);
    let row = off_loop(move || store.row(job)).await.map_err(|error| storage(error.into()))?;
    let (missing, fan_in) = match row.spec.args.whole() {
        Args::Results(results) => {
            let missing = shared.farm.without_value(caller.clone(), results.job, false).await;
            let missing = missing.map_err(|error| match error {
                RequestError::NoSuchJob(source) => {
                    RequestError::Invalid(format!("job {job} takes the results of job {source}, which is deleted"))
                }
                error => error,
            })?;
            (missing, results.fan_in())
        }
        _ => (Vec::new(), 1),
    };
    let tasks: Vec<_> = ranges.into_iter().map(|range| (range.start, range.end)).collect();
    let tasks = match &row.spec.args {
        // A retry of a retry is one of the first.
        Args::Subset { tasks: inner, .. } => through(inner, &tasks),
        _ => tasks,
    };
    let tasks = without_users(&tasks, &missing, fan_in);
    if tasks.is_empty() {
        return Err(RequestError::NothingToRetry(job));
    }
    let args = Args::Subset { of: Box::new(row.spec.args.whole().clone()), tasks };
    let row = JobRow { spec: Arc::new(JobSpec { args, after: Vec::new(), ..(*row.spec).clone() }), ..row };
    let store = Arc::clone(&shared.store);
    let table = off_loop(move || ArgTable::of_row(&store, &row).map(|table| (row, table)));
    let (JobRow { spec, inline, .. }, args) = table.await.map_err(storage)?;
    let new = Submission { caller: caller.clone(), key, spec: Arc::unwrap_or_clone(spec), args, inline };
    shared.farm.submit(new).await
}

/// `tasks` but for those that take one of these `results`, of which `fan_in` make an argument.
fn without_users(tasks: &[(u64, u64)], results: &[Range<u64>], fan_in: u32) -> Vec<(u64, u64)> {
    let mut left: RangeSet = tasks.iter().map(|&(first, end)| first..end).collect();
    let fan_in = u64::from(fan_in);
    results.iter().for_each(|range| left.remove(range.start / fan_in..range.end.div_ceil(fan_in)));
    left.iter().map(|range| (range.start, range.end)).collect()
}

/// Which tasks `outer`, counted among `inner`, are.
fn through(inner: &[(u64, u64)], outer: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut number = 0;
    let mut outer = outer.iter().copied().peekable();
    for &(first, end) in inner {
        let here = number..number + (end - first);
        while let Some(&(from, to)) = outer.peek().filter(|(from, _)| *from < here.end) {
            let (from, until) = (from.max(here.start), to.min(here.end));
            if from < until {
                found.push((first + (from - here.start), first + (until - here.start)));
            }
            if to > here.end {
                break;
            }
            outer.next();
        }
        number = here.end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_left_out() {
        let tasks = [(0, 5), (8, 10)];
        assert_eq!(without_users(&tasks, &[], 1), tasks);
        assert_eq!(without_users(&tasks, &[0..1, 3..4, 6..20], 1), [(1, 3), (4, 5)]);
        assert_eq!(without_users(&tasks, std::slice::from_ref(&(4..9)), 1), [(0, 4), (9, 10)]);
    }

    #[test]
    fn a_missing_result_concerns_the_task_that_takes_it() {
        assert_eq!(without_users(&[(0, 10)], &[0..2, 2..3, 7..8], 1), [(3, 7), (8, 10)]);
        assert_eq!(without_users(&[(0, 5)], &[3..4, 5..6, 11..12], 4), [(3, 5)]);
    }

    #[test]
    fn tasks_of_a_retry_are_found_in_the_first_job() {
        let inner = [(10, 13), (20, 21), (30, 40)];
        // The tasks of the retry are 10, 11, 12, 20, 30, 31, …
        assert_eq!(through(&inner, &[(0, 14)]), inner);
        assert_eq!(through(&inner, &[(2, 5)]), [(12, 13), (20, 21), (30, 31)]);
        assert_eq!(through(&inner, &[(0, 1), (1, 2), (13, 14)]), [(10, 11), (11, 12), (39, 40)]);
        assert_eq!(through(&inner, &[]), []);
    }
}
