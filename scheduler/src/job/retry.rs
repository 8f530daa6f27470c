//! A new job of what another left undone.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::ids::JobId;
use farm_proto::job::{Args, JobSpec};
use farm_proto::message::{RequestError, SubmitKey};
use farm_proto::outcome::FailureKind;

use super::args::ArgTable;
use super::subset::SubsetTable;
use crate::SchedulerError;
use crate::farm::Submission;
use crate::identity::caller::Caller;
use crate::serve::Shared;
use crate::store::{JobResults, Store};
use crate::sync::off_loop;

/// Starts a job of the tasks of another that have no value, or with `failed` only of those that failed. Tasks whose
/// inputs failed are left out: they would fail again.
///
/// # Errors
///
/// The other is not over, or has no such task; or the new one cannot be stored.
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
    let ranges = shared.farm.retry(caller.clone(), job, failed).await?;
    let store = Arc::clone(&shared.store);
    let made = off_loop(move || subset(&store, job, ranges)).await;
    let (spec, args) = made.map_err(|error| RequestError::Storage(error.to_string()))?;
    if spec.args.count() == 0 {
        return Err(RequestError::NothingToRetry(job));
    }
    let new = Submission { caller: caller.clone(), key, spec, args, inline: Bytes::new() };
    shared.farm.submit(new).await
}

fn subset(store: &Arc<Store>, job: JobId, ranges: Vec<Range<u64>>) -> Result<(JobSpec, ArgTable), SchedulerError> {
    let mut row = store.row(job)?;
    let hopeless: BTreeSet<u64> = store.failures_of(job, FailureKind::InputFailed)?.into_iter().collect();
    let mut tasks = without(ranges, &hopeless);
    // A retry of a retry is one of the first.
    while let Args::Subset { job, tasks: inner } = &row.spec.args {
        tasks = through(inner, &tasks);
        row = store.row(*job)?;
    }
    let table = ArgTable::of_row(store, &row)?;
    let args = ArgTable::Subset(SubsetTable::new(&row.spec.args, table, &tasks));
    let spec = JobSpec { args: Args::Subset { job: row.job, tasks }, after: Vec::new(), ..(*row.spec).clone() };
    Ok((spec, args))
}

fn without(ranges: Vec<Range<u64>>, hopeless: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut tasks = Vec::new();
    for range in ranges {
        let mut from = range.start;
        for &hole in hopeless.range(range.clone()) {
            if from < hole {
                tasks.push((from, hole));
            }
            from = hole + 1;
        }
        if from < range.end {
            tasks.push((from, range.end));
        }
    }
    tasks
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
        let ranges = vec![0..5, 8..10];
        assert_eq!(without(ranges.clone(), &BTreeSet::new()), [(0, 5), (8, 10)]);
        assert_eq!(without(ranges, &BTreeSet::from([0, 3, 8, 9])), [(1, 3), (4, 5)]);
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
