//! A state folder with a store, and things to put in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::columns::ColumnsBuilder;
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{
    Args, CommandOptions, JobSpec, JobState, Limits, ModuleKind, ModuleRef, Mounts, Profile, ResultEncoding,
};
use farm_proto::message::{Batch, SubmitKey};
use farm_proto::outcome::{Failure, FailureKind};
use tempfile::TempDir;

use crate::SchedulerError;
use crate::blobs::Folder;
use crate::state_dir::StateDir;
use crate::store::{
    Durability, JobEnd, JobResults, JobRow, Outcomes, Record, ResultsReader, Store, Stored, StoredJob, TicketRow,
    Times, Writer,
};

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) store: Arc<Store>,
    // Options, so that they can be closed and opened again.
    writer: Option<Writer>,
    state: Option<StateDir>,
    pub(crate) life: u64,
    pub(crate) last_job: JobId,
    pub(crate) tickets: Vec<TicketRow>,
    durability: Durability,
}

impl World {
    pub(crate) fn new(durability: Durability) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let (store, writer, recovered) = Store::open(&state, durability).unwrap();
        assert!(recovered.jobs.is_empty());
        let (life, last_job) = (recovered.life, recovered.last_job);
        let (writer, state, tickets) = (Some(writer), Some(state), recovered.tickets);
        let world = Self { folder, store, writer, state, life, last_job, tickets, durability };
        put(&world.blobs(), MODULE);
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn blobs(&self) -> Folder {
        Folder::open(self.state.as_ref().unwrap(), self.durability).unwrap()
    }

    pub(crate) fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    pub(crate) fn commit(&mut self, records: &[Record]) {
        self.writer().commit(records).unwrap();
    }

    pub(crate) fn accept(&mut self, row: JobRow) -> Arc<JobResults> {
        let results = self.store.begin(row.job);
        self.commit(&[Record::Accepted(Box::new(row))]);
        results
    }

    #[expect(clippy::unused_self, reason = "reads better where it is used")]
    pub(crate) fn batch(&self, results: &Arc<JobResults>, tasks: Range<u64>, failed: &[u32]) -> Record {
        Record::Batch { results: Arc::clone(results), outcomes: outcomes(tasks, 8, failed), times: times() }
    }

    /// Closes everything, as at a scheduler's end.
    pub(crate) fn close(&mut self) {
        self.writer = None;
        self.state = None;
    }

    pub(crate) fn try_open(&mut self) -> Result<Vec<StoredJob>, SchedulerError> {
        self.close();
        let state = open_state(self.folder.path())?;
        let (store, writer, recovered) = Store::open(&state, self.durability)?;
        (self.store, self.writer, self.state) = (store, Some(writer), Some(state));
        (self.life, self.last_job, self.tickets) = (recovered.life, recovered.last_job, recovered.tickets);
        Ok(recovered.jobs)
    }

    pub(crate) fn reopen(&mut self) -> Vec<StoredJob> {
        self.try_open().unwrap()
    }
}

/// Puts a blob as a client does.
pub(crate) fn put(blobs: &Folder, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    blobs.write(&digest, bytes).unwrap();
    assert_eq!(blobs.touch(&digest), Some(bytes.len() as u64));
    digest
}

/// Locks a state folder. Programs that other tests start share the lock between their fork and their exec.
pub(crate) fn open_state(folder: &Path) -> Result<StateDir, SchedulerError> {
    for _ in 0..500 {
        match StateDir::open(folder) {
            Err(SchedulerError::InUse { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
            result => return result,
        }
    }
    StateDir::open(folder)
}

/// The faults of a folder that is whole.
pub(crate) const SOUND: [String; 0] = [];
/// What every job here runs.
pub(crate) const MODULE: &[u8] = b"not really a module";

pub(crate) fn row(job: u64, tasks: i64) -> JobRow {
    let module = ModuleRef {
        digest: Digest::of(MODULE),
        size: MODULE.len() as u64,
        kind: ModuleKind::Core,
        result: ResultEncoding::Json,
    };
    let spec = JobSpec {
        cluster: None,
        time_request_ms: None,
        name: job.is_multiple_of(2).then(|| format!("job {job}")),
        module,
        function: "f".to_owned(),
        args: Args::Range { start: 0, end: tasks },
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: Vec::new(),
        mounts: Mounts::default(),
        command: CommandOptions::default(),
        retries: 3,
        max_failures: None,
        priority: -1,
        after: Vec::new(),
        fold: false,
    };
    JobRow {
        job: JobId(job),
        key: SubmitKey(u128::from(job) << 100 | 7),
        owner: "ann".to_owned(),
        stamp: u64::MAX - job,
        submitted_ms: 1_700_000_000_000 + job,
        spec: Arc::new(spec),
        inline: Bytes::from(vec![job as u8; (job % 5) as usize]),
        arg_bytes: job * 10,
        task_ns: job.is_multiple_of(3).then_some(job),
    }
}

pub(crate) fn end(state: JobState) -> JobEnd {
    JobEnd {
        state,
        reason: (state != JobState::Done).then(|| "so it was".to_owned()),
        ended_ms: 1_800_000_000_000,
        failed: Vec::new(),
        missing: Vec::new(),
        retried: 2,
        task_ns: Some(5),
        bytes: 1000,
    }
}

/// Outcomes of `tasks`, values of `size` bytes that say whose they are. Those at the offsets `failed` are panics.
pub(crate) fn outcomes(tasks: Range<u64>, size: usize, failed: &[u32]) -> Outcomes {
    let count = (tasks.end - tasks.start) as u32;
    let mut columns = ColumnsBuilder::new();
    for (offset, task) in tasks.clone().enumerate() {
        let value: Vec<u8> = task.to_le_bytes().iter().copied().cycle().take(size).collect();
        columns.push(if failed.contains(&(offset as u32)) { &[] } else { &value });
    }
    let failures = failed
        .iter()
        .map(|offset| {
            (*offset, Failure::new(FailureKind::Panic, format!("panic {}", tasks.start + u64::from(*offset))))
        })
        .collect();
    let batch = Batch {
        first: tasks.start,
        count,
        failures,
        captured: Vec::new(),
        run_ns: 1000 * u64::from(count),
        fetch_ns: 1,
        compile_ns: 2,
    };
    Outcomes::parse(batch, columns.finish().encode()).unwrap()
}

pub(crate) fn times() -> Times {
    Times { leased_ns: 5000, arrived_ns: 1_750_000_000_000_000_000, submitted_ms: 1_700_000_000_000 }
}

pub(crate) async fn read_all(store: &Arc<Store>, results: &Arc<JobResults>, from: u64) -> Vec<Stored> {
    let published = *results.subscribe().borrow();
    let mut reader = ResultsReader::new(Arc::clone(store), Arc::clone(results), from);
    let mut all = Vec::new();
    loop {
        let batches = reader.next(published).await.unwrap();
        if batches.is_empty() {
            return all;
        }
        all.extend(batches);
    }
}

/// All files of a folder, and what is in them.
pub(crate) fn files(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Writes what [`files`] read to another folder: as if power had failed at that moment.
pub(crate) fn write_files(files: &BTreeMap<std::path::PathBuf, Vec<u8>>, to: &Path) {
    for (name, bytes) in files {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
