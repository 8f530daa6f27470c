//! Whether a job's batches are whole, make sense together, and fit its end.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use farm_proto::ids::JobId;
use rusqlite::Row;

use super::{Check, Job};
use crate::blobs::path_in;
use crate::store::StoreError;
use crate::store::batches::{self, BATCH, BatchRow};
use crate::store::codec::{failed_offsets, push_joined};

/// The outcomes of a job, as its batches have them.
#[derive(Default)]
struct Outcomes {
    batches: u64,
    /// Tasks that have an outcome, and the number of the batch.
    tasks: Vec<(Range<u64>, u64)>,
    failed: Vec<Range<u64>>,
}

impl Check<'_> {
    pub(super) fn batches(&mut self) -> Result<(), StoreError> {
        let mut jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        jobs.sort_unstable();
        for job in jobs {
            let mut outcomes = Outcomes::default();
            let ids = batches::ids(job);
            let sql = format!("SELECT {BATCH} FROM batches WHERE id >= {} AND id < {} ORDER BY id", ids.start, ids.end);
            let result = self.rows(&sql, |check, row| {
                check.report.batches += 1;
                check.batch(row, &mut outcomes)
            });
            if let Err(error) = result {
                self.fault(format!("job {job}: {error}"));
            }
            self.compare(job, outcomes);
        }
        Ok(())
    }

    fn batch(&mut self, columns: &Row<'_>, outcomes: &mut Outcomes) -> Result<(), StoreError> {
        let expected = outcomes.batches;
        outcomes.batches += 1;
        let row = BatchRow::read(columns, self.path)?;
        if row.number != expected {
            outcomes.batches = row.number + 1;
            self.fault(batches::corrupt(self.path, row.job, expected, "not there").to_string());
        }
        if row.failed != failed_offsets(&row.head) {
            self.fault(batches::corrupt(self.path, row.job, row.number, "other failures than it has").to_string());
        }
        let first = row.head.first;
        let tasks = first..first + u64::from(row.head.count);
        self.report.tasks += u64::from(row.head.count);
        outcomes.failed.extend(row.failed.iter().map(|range| first + range.start..first + range.end));
        outcomes.tasks.push((tasks, row.number));
        if row.is_large(columns) {
            // Its bytes are looked at with all other blobs.
            self.needed.insert(row.digest, row.job);
            let file = path_in(&self.state.join("blobs"), &row.digest);
            if let Ok(Some(bytes)) = read(&file) {
                row.decode(bytes.into(), self.path)?;
            }
            return Ok(());
        }
        let items = row.inline(columns, self.path)?;
        self.report.bytes += items.encoded_len() as u64;
        Ok(())
    }

    /// Whether a job's batches make sense together, and with its end.
    fn compare(&mut self, job: JobId, mut outcomes: Outcomes) {
        let Some(Job { row, end }) = self.jobs.get(&job) else {
            return;
        };
        let (tasks, end) = (row.spec.args.count(), end.clone());
        outcomes.tasks.sort_unstable_by_key(|(range, _)| range.start);
        outcomes.failed.sort_unstable_by_key(|range| range.start);
        let (mut missing, mut next) = (Vec::new(), 0);
        for (range, number) in outcomes.tasks {
            if range.start < next {
                let what = format!("tasks {}..{} are in another batch, too", range.start, next.min(range.end));
                self.fault(batches::corrupt(self.path, job, number, &what).to_string());
            }
            if range.end > tasks {
                let what = format!("tasks up to {}, and the job has {tasks}", range.end);
                self.fault(batches::corrupt(self.path, job, number, &what).to_string());
            }
            if range.start > next {
                missing.push(next..range.start);
            }
            next = next.max(range.end);
        }
        if next < tasks {
            missing.push(next..tasks);
        }
        let Some((end, batches)) = end else {
            return;
        };
        let place = format!("table ends, job {job}");
        if batches != outcomes.batches {
            self.corrupt(format!("{place}: {batches} batches, and {} in the table", outcomes.batches));
        }
        if joined(&end.failed) != joined(&outcomes.failed) {
            self.corrupt(format!("{place}: other failed tasks than in its batches"));
        }
        if joined(&end.missing) != missing {
            self.corrupt(format!("{place}: other tasks without an outcome than in its batches"));
        }
    }
}

fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut joined = Vec::new();
    ranges.iter().for_each(|range| push_joined(&mut joined, range.clone()));
    joined
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
