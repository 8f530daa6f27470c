//! Reading a job's batches in order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use farm_proto::frame::{self, HEADER_LEN, Header};
use farm_proto::message::Batch;

use super::{JobResults, MARK, Outcomes, Published, Store};
use crate::sync::{locked, off_loop};

/// How much is read at once, in bytes, unless one batch is longer.
const READ: usize = 1 << 20;

/// A batch as it was stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) number: u64,
    pub(crate) batch: Batch,
    pub(crate) columns: Bytes,
}

/// Reads a job's batches from some number on, each once.
#[derive(Debug)]
pub(crate) struct ResultsReader {
    store: Arc<Store>,
    results: Arc<JobResults>,
    /// The batch to read next.
    next: u64,
    /// Where it begins in the file, if that is known.
    offset: Option<u64>,
    file: Option<Arc<File>>,
}

impl ResultsReader {
    pub(crate) fn new(store: Arc<Store>, results: Arc<JobResults>, from: u64) -> Self {
        Self { store, results, next: from, offset: None, file: None }
    }

    /// The next batches, about a megabyte of them; none if all that is `published` has been read.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not what was written.
    pub(crate) async fn next(&mut self, published: Published) -> io::Result<Vec<Stored>> {
        if !self.more(published) {
            return Ok(Vec::new());
        }
        let at_hand = self.at_hand(published);
        if !at_hand.is_empty() {
            return Ok(at_hand);
        }
        let results = Arc::clone(&self.results);
        let (file, offset, next) = (self.file.clone(), self.offset, self.next);
        let (file, batches, end) = off_loop(move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(results.open()?),
            };
            let offset = match offset {
                Some(offset) => offset,
                None => results.find(&file, next)?,
            };
            let (batches, end) = read(&file, offset, published.bytes, next)?;
            io::Result::Ok((file, batches, end))
        })
        .await?;
        self.file = Some(file);
        self.offset = Some(end);
        self.next += batches.len() as u64;
        Ok(batches)
    }

    /// Whether there is more to read of what is `published`.
    pub(crate) fn more(&self, published: Published) -> bool {
        self.next < published.batches
    }

    /// What there is in memory.
    fn at_hand(&mut self, published: Published) -> Vec<Stored> {
        let mut batches = Vec::new();
        let written = locked(&self.results.written);
        let held = usize::try_from(self.next).ok().and_then(|next| written.held.get(next..)).unwrap_or_default();
        for outcomes in held.iter().take((published.batches - self.next) as usize) {
            let Outcomes { batch, columns } = outcomes.clone();
            batches.push(Stored { number: self.next, batch, columns });
            self.next += 1;
        }
        drop(written);
        let recent = locked(&self.store.recent);
        let mut length = 0;
        while self.more(published) && length < READ {
            let Some((batch, columns, end)) = recent.get(self.results.job, self.next) else {
                break;
            };
            length += columns.len();
            let number = self.next;
            batches.push(Stored { number, batch, columns });
            self.next += 1;
            self.offset = Some(end);
        }
        batches
    }
}

impl JobResults {
    /// Where a batch begins in the file: from the last mark before it, over what is between.
    fn find(&self, file: &File, number: u64) -> io::Result<u64> {
        let (mark, between) = {
            let written = locked(&self.written);
            let number = number.saturating_sub(written.held.len() as u64);
            let mark = usize::try_from(number / MARK).map_err(io::Error::other)?;
            (written.marks.get(mark).copied(), number % MARK)
        };
        let mut offset = mark.ok_or(io::ErrorKind::UnexpectedEof)?;
        for _ in 0..between {
            offset += frame_len(header(file, offset)?);
        }
        Ok(offset)
    }
}

fn header(file: &File, offset: u64) -> io::Result<Header> {
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, offset)?;
    Header::decode(bytes).map_err(io::Error::other)
}

fn frame_len(header: Header) -> u64 {
    HEADER_LEN as u64 + u64::from(header.message) + u64::from(header.payload)
}

/// Batches from `offset` on, the first of which is number `first`, and where they end. At least one, none beyond `end`.
fn read(file: &File, offset: u64, end: u64, first: u64) -> io::Result<(Vec<Stored>, u64)> {
    // If the first is longer than what is read at once, exactly it.
    let wanted = frame_len(header(file, offset)?).max(READ as u64);
    let length = wanted.min(end.saturating_sub(offset));
    let mut bytes = BytesMut::zeroed(usize::try_from(length).map_err(io::Error::other)?);
    file.read_exact_at(&mut bytes, offset)?;
    let mut batches = Vec::new();
    let mut at = offset;
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(*header).map_err(io::Error::other)?;
        // As long as a vector in memory at most.
        let (message, payload) = (header.message as usize, header.payload as usize);
        if rest.len() < message + payload {
            break;
        }
        let head = bytes.split_to(HEADER_LEN + message);
        let batch = frame::decode(&head[HEADER_LEN..]).map_err(io::Error::other)?;
        let columns = bytes.split_to(payload).freeze();
        let number = first + batches.len() as u64;
        batches.push(Stored { number, batch, columns });
        at += frame_len(header);
    }
    if batches.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((batches, at))
}

#[cfg(test)]
mod tests {
    use farm_proto::ids::JobId;

    use super::*;
    use crate::results::Writer;
    use crate::state_dir::StateDir;

    fn outcomes(first: u64, length: usize) -> Outcomes {
        let batch = Batch { first, count: 1, failures: Vec::new(), captured: Vec::new(), run_ns: first };
        Outcomes { batch, columns: vec![first as u8; length].into() }
    }

    async fn read_all(store: &Arc<Store>, results: &Arc<JobResults>, from: u64) -> Vec<Stored> {
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

    #[tokio::test]
    async fn batches_are_read_from_memory_and_from_the_file_alike() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let store = Arc::new(Store::open(&state).unwrap());
        let mut writer = Writer::new(Arc::clone(&store));
        let jobs = [JobId(1), JobId(2)].map(|job| store.begin(job).unwrap());
        // Small ones, some over the size that is joined, one over what is read at once, one over what is remembered.
        let length = |n: u64| match n {
            7 | 130 => 100 << 10,
            80 => 3 << 20,
            81 => 9 << 20,
            n => n as usize,
        };
        let mut records = Vec::new();
        for n in 0..300 {
            records.extend(jobs.iter().map(|job| (Arc::clone(job), outcomes(n, length(n)))));
        }
        for commit in records.chunks(37) {
            writer.append(commit).unwrap();
        }
        assert!(read_all(&store, &jobs[0], 0).await.is_empty(), "nothing is published yet");
        jobs.iter().for_each(|job| job.publish());
        // A store without memory reads everything from the files.
        let forgetful = Arc::new(Store {
            folder: store.folder.clone(),
            recent: std::sync::Mutex::new(crate::results::recent::Recent::new(0)),
        });
        for store in [&store, &forgetful] {
            for (job, from) in jobs.iter().flat_map(|job| [0, 1, 63, 64, 80, 82, 200, 299].map(|from| (job, from))) {
                let read = read_all(store, job, from).await;
                assert_eq!(read.len() as u64, 300 - from);
                for (stored, n) in read.iter().zip(from..) {
                    assert_eq!(stored.number, n);
                    assert_eq!(stored.batch, outcomes(n, 0).batch);
                    assert!(stored.columns == outcomes(n, length(n)).columns);
                }
            }
            assert!(read_all(store, &jobs[1], 300).await.is_empty());
            assert!(read_all(store, &jobs[1], u64::MAX).await.is_empty());
        }
    }

    #[tokio::test]
    async fn a_short_job_has_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let store = Arc::new(Store::open(&state).unwrap());
        let mut writer = Writer::new(Arc::clone(&store));
        let job = store.begin(JobId(1)).unwrap();
        for n in 0..10 {
            writer.append(&[(Arc::clone(&job), outcomes(n, 100))]).unwrap();
            job.publish();
            assert_eq!(read_all(&store, &job, 0).await.len() as u64, n + 1);
        }
        assert!(!job.path.exists());
        // Once there is a file, it stays with it, in order.
        writer.append(&[(Arc::clone(&job), outcomes(10, 5000)), (Arc::clone(&job), outcomes(11, 1))]).unwrap();
        job.publish();
        assert!(job.path.exists());
        for from in [0, 3, 10, 11] {
            let numbers: Vec<u64> = read_all(&store, &job, from).await.iter().map(|stored| stored.number).collect();
            assert_eq!(numbers, (from..12).collect::<Vec<_>>());
        }
    }
}
