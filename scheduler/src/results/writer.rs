//! Appending batches to jobs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::frame;
use farm_proto::ids::JobId;

use super::{JobResults, MARK, Outcomes, Store, title};
use crate::sync::locked;

/// Files that are kept open between two commits.
const OPEN: usize = 64;
/// Batches up to this size are joined into one write, in bytes.
const JOINED: usize = 64 << 10;

/// Writes batches. There is one, and whoever commits has it.
#[derive(Debug)]
pub(crate) struct Writer {
    store: Arc<Store>,
    files: HashMap<JobId, File>,
}

impl Writer {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, files: HashMap::new() }
    }

    /// Appends batches to their jobs, in order. They are not [published](JobResults::publish) yet.
    ///
    /// # Errors
    ///
    /// How many were appended before one could not be: none of that one counts, and it may be tried again.
    pub(crate) fn append(&mut self, records: &[(Arc<JobResults>, Outcomes)]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        for group in records.chunk_by(|(a, _), (b, _)| a.job == b.job) {
            let results = &group[0].0;
            let (written, result) = self.append_to(results, group);
            done += written;
            result.map_err(|error| (done, error))?;
        }
        Ok(())
    }

    /// Appends batches of one job: how many, and what kept the others from it.
    fn append_to(
        &mut self,
        results: &Arc<JobResults>,
        group: &[(Arc<JobResults>, Outcomes)],
    ) -> (usize, io::Result<()>) {
        let (mut done, mut offset) = {
            let mut written = locked(&results.written);
            let held = group.iter().take_while(|(_, outcomes)| written.hold(outcomes)).count();
            (held, written.bytes)
        };
        if done == group.len() {
            return (done, Ok(()));
        }
        let store = Arc::clone(&self.store);
        let result = self.file(results).and_then(|file| {
            while done < group.len() {
                let (bytes, ends) = join(&group[done..])?;
                if let Err(error) = write_all_at(file, &bytes, offset) {
                    // What is beyond the end is never read, and overwritten by the next; it only takes up room.
                    let _ = file.set_len(offset);
                    return Err(error);
                }
                store.remember(results, &group[done..done + ends.len()], &ends, offset);
                offset += bytes.iter().map(|part| part.len() as u64).sum::<u64>();
                done += ends.len();
            }
            Ok(())
        });
        (done, result)
    }

    /// A job's file, which is made when it is first needed.
    fn file(&mut self, results: &JobResults) -> io::Result<&File> {
        if self.files.len() >= OPEN && !self.files.contains_key(&results.job) {
            self.files.clear();
        }
        match self.files.entry(results.job) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let file = OpenOptions::new().write(true).create(true).truncate(false).open(&results.path)?;
                if locked(&results.written).in_file() == 0 {
                    file.write_all_at(title(results.job).as_bytes(), 0)?;
                }
                Ok(entry.insert(file))
            }
        }
    }

    /// Closes a job's file: nothing more comes.
    pub(crate) fn close(&mut self, job: JobId) {
        self.files.remove(&job);
    }
}

impl Store {
    /// Notes what was appended at `offset`: batches whose frames end at `ends`, counted from there.
    fn remember(&self, results: &JobResults, batches: &[(Arc<JobResults>, Outcomes)], ends: &[End], offset: u64) {
        let mut written = locked(&results.written);
        let mut recent = locked(&self.recent);
        for ((_, outcomes), end) in batches.iter().zip(ends) {
            let number = written.batches;
            if written.in_file().is_multiple_of(MARK) {
                let begin = written.bytes;
                written.marks.push(begin);
            }
            written.batches += 1;
            written.bytes = offset + end.at;
            recent.insert(results.job, number, written.bytes, outcomes, end.message);
        }
    }
}

/// Where a frame ends, and how long the message in it is.
struct End {
    at: u64,
    message: usize,
}

/// The frames of the first batches of `records`: some small ones joined, or one large one whose columns are not copied.
fn join(records: &[(Arc<JobResults>, Outcomes)]) -> io::Result<(Vec<Bytes>, Vec<End>)> {
    let mut joined = Vec::new();
    let mut ends = Vec::new();
    for (_, Outcomes { batch, columns }) in records {
        let head = frame::encode(batch, columns.len()).map_err(io::Error::other)?;
        let length = head.len() + columns.len();
        if !ends.is_empty() && joined.len() + length > JOINED {
            break;
        }
        let message = head.len() - frame::HEADER_LEN;
        if length > JOINED {
            let at = length as u64;
            return Ok((vec![head, columns.clone()], vec![End { at, message }]));
        }
        joined.extend_from_slice(&head);
        joined.extend_from_slice(columns);
        let at = joined.len() as u64;
        ends.push(End { at, message });
    }
    Ok((vec![joined.into()], ends))
}

fn write_all_at(file: &File, parts: &[Bytes], mut offset: u64) -> io::Result<()> {
    for part in parts {
        file.write_all_at(part, offset)?;
        offset += part.len() as u64;
    }
    Ok(())
}
