//! Whether a state folder is whole.

mod files;
mod outcomes;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use farm_proto::ids::{Digest, JobId};
use rusqlite::{Connection, Row};

use crate::SchedulerError;
use crate::state_dir::state_error;
use crate::store::mark::{self, Marked};
use crate::store::recover::{DATABASE, commits, lost};
use crate::store::schema::connect_to_inspect;
use crate::store::{self, JobEnd, JobRow, StoreError, checkpoints, clusters, rows};

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Jobs, but for those whose deletion is under way.
    pub jobs: u64,
    pub batches: u64,
    /// Tasks that have an outcome.
    pub tasks: u64,
    /// Blobs, needed or not.
    pub blobs: u64,
    /// Bytes of the results and checkpoints in the database, and of the blobs.
    pub bytes: u64,
    /// What is wrong, each with the exact place. Empty if the folder is whole.
    pub faults: Vec<String>,
}

/// Reads everything that is stored in a farm's folder, and compares it with its checksums and with each other: pages of
/// the database, jobs, batches and their columns, checkpoints, ends, tickets, digests of blobs, and that nothing is missing. What a scheduler
/// stores meanwhile is not looked at. Changes nothing.
///
/// # Errors
///
/// The folder cannot be read, is not a farm's, or is of another version, or its database is so damaged that it cannot be
/// opened.
pub fn check(state: &Path) -> Result<CheckReport, SchedulerError> {
    let path = state.join(DATABASE);
    // Before the moment that is looked at, so that it has all that the mark counts.
    let marked = mark::read(state).map_err(state_error(&state.join(mark::NAME)))?;
    let connection = connect_to_inspect(&path)?;
    connection.execute_batch("BEGIN").map_err(StoreError::of(&path))?;
    let mut check = Check {
        state,
        path: &path,
        connection: &connection,
        report: CheckReport::default(),
        jobs: HashMap::new(),
        needed: HashMap::new(),
    };
    check.mark(marked);
    let parts = [
        Check::pages,
        Check::farm,
        Check::jobs,
        Check::ends,
        Check::batches,
        Check::checkpoints,
        Check::strays,
        Check::pins,
        Check::tickets,
    ];
    for part in parts {
        // Where one part cannot be read, others may be.
        if let Err(error) = part(&mut check) {
            check.fault(error.to_string());
        }
    }
    check.files()?;
    Ok(check.report)
}

struct Check<'a> {
    state: &'a Path,
    path: &'a Path,
    connection: &'a Connection,
    report: CheckReport,
    jobs: HashMap<JobId, Job>,
    /// Blobs, and a job that needs each.
    needed: HashMap<Digest, JobId>,
}

struct Job {
    row: JobRow,
    /// And how many batches there were then.
    end: Option<(JobEnd, u64)>,
}

impl Check<'_> {
    fn fault(&mut self, fault: impl Into<String>) {
        self.report.faults.push(fault.into());
    }

    fn corrupt(&mut self, place: impl std::fmt::Display) {
        let fault = format!("{}: {place}", self.path.display());
        self.fault(fault);
    }

    fn mark(&mut self, marked: Marked) {
        let mark = self.state.join(mark::NAME);
        match (marked, commits(self.connection, self.path)) {
            (_, Err(error)) => self.fault(error.to_string()),
            (Marked::Commits(acknowledged), Ok(found)) if acknowledged > found => {
                self.corrupt(lost(found, acknowledged));
            }
            (Marked::Damaged, _) => self.fault(format!("{}: not what was written", mark.display())),
            (Marked::Commits(_) | Marked::Nothing, Ok(_)) => {}
        }
    }

    /// Calls `each` for every row.
    fn rows(
        &mut self,
        sql: &str,
        mut each: impl FnMut(&mut Self, &Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let sqlite = StoreError::of(self.path);
        let connection = self.connection;
        let mut statement = connection.prepare(sql).map_err(&sqlite)?;
        let mut found = statement.query([]).map_err(&sqlite)?;
        while let Some(row) = found.next().map_err(&sqlite)? {
            if let Err(error) = each(self, row) {
                self.fault(error.to_string());
            }
        }
        Ok(())
    }

    /// SQLite's own check: pages, and that tables and indices agree.
    fn pages(&mut self) -> Result<(), StoreError> {
        let sqlite = StoreError::of(self.path);
        self.rows("PRAGMA integrity_check", |check, row| {
            let found: String = row.get(0).map_err(&sqlite)?;
            if found != "ok" {
                check.corrupt(found);
            }
            Ok(())
        })
    }

    fn jobs(&mut self) -> Result<(), StoreError> {
        let sql = format!("SELECT {} FROM jobs WHERE deleted IS NULL ORDER BY job", rows::JOB);
        self.rows(&sql, |check, row| {
            check.report.jobs += 1;
            let row = rows::job(row, check.path)?;
            rows::blobs_of(&row.spec).for_each(|digest| {
                check.needed.insert(digest, row.job);
            });
            check.jobs.insert(row.job, Job { row, end: None });
            Ok(())
        })
    }

    fn ends(&mut self) -> Result<(), StoreError> {
        let sql = format!("SELECT {} FROM ends ORDER BY job", rows::END);
        self.rows(&sql, |check, row| {
            let (job, end, batches) = rows::end(row, check.path)?;
            if let Some(job) = check.jobs.get_mut(&job) {
                job.end = Some((end, batches));
            }
            Ok(())
        })
    }

    fn checkpoints(&mut self) -> Result<(), StoreError> {
        let sql = format!("SELECT {} FROM checkpoints", checkpoints::CHECKPOINT);
        self.rows(&sql, |check, row| {
            check.report.bytes += checkpoints::state(row, check.path)?.len() as u64;
            let (job, task, ..) = checkpoints::kept(row, check.path)?;
            match check.jobs.get(&job) {
                Some(known) if known.end.is_some() || task >= known.row.spec.args.count() => {
                    check.corrupt(format!("table checkpoints, job {job}, task {task}: it needs none"));
                }
                _ => {}
            }
            Ok(())
        })
    }

    /// Rows about the farm as a whole, and jobs that are to be forgotten.
    fn farm(&mut self) -> Result<(), StoreError> {
        if rows::Farm::read(self.connection, self.path)?.is_none() {
            self.corrupt("table farm: no row");
        }
        match clusters::read(self.connection, self.path) {
            Err(StoreError::Corrupt { place, .. }) => self.corrupt(place),
            read => drop(read?),
        }
        self.rows("SELECT job, deleted FROM jobs WHERE deleted NOT NULL", |check, row| {
            let job = JobId(rows::number(row, 0).map_err(StoreError::of(check.path))?);
            rows::is_deleted(row, 1, job, check.path).map(|_| ())
        })
    }

    fn tickets(&mut self) -> Result<(), StoreError> {
        let sql = format!("SELECT {} FROM tickets", store::TICKET);
        self.rows(&sql, |check, row| store::ticket(row, check.path).map(drop))
    }

    /// Rows that belong to no job, or say that they are another row.
    fn strays(&mut self) -> Result<(), StoreError> {
        for table in ["ends", "batches", "pins", "checkpoints"] {
            let sql = format!("SELECT DISTINCT job FROM {table} WHERE job NOT IN (SELECT job FROM jobs)");
            self.rows(&sql, |check, row| {
                let job = rows::number(row, 0).map_err(StoreError::of(check.path))?;
                check.corrupt(format!("table {table}, job {job}: there is no such job"));
                Ok(())
            })?;
        }
        let sql = "SELECT id FROM batches WHERE id <> (job << 31 | number)";
        self.rows(sql, |check, row| {
            let id = rows::number(row, 0).map_err(StoreError::of(check.path))?;
            check.corrupt(format!("table batches, row {id}: of another job or number"));
            Ok(())
        })
    }

    /// Whether everything that is needed is pinned.
    fn pins(&mut self) -> Result<(), StoreError> {
        let mut pinned = HashSet::new();
        self.rows("SELECT job, digest, seal FROM pins", |check, row| {
            let (job, digest) = rows::pin(row, check.path)?;
            pinned.insert(digest);
            if check.jobs.contains_key(&job) {
                check.needed.entry(digest).or_insert(job);
            }
            Ok(())
        })?;
        let unpinned: Vec<String> = self
            .needed
            .iter()
            .filter(|(digest, _)| !pinned.contains(digest))
            .map(|(digest, job)| format!("table pins, job {job}: blob {digest} is not among them"))
            .collect();
        unpinned.into_iter().for_each(|fault| self.corrupt(fault));
        Ok(())
    }
}
