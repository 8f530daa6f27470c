//! Argument tables, and the slices of them that go with leases.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use farm_proto::columns::Columns;
use farm_proto::frame::MAX_PAYLOAD;
use farm_proto::ids::Digest;
use farm_proto::job::{ArgChunk, Args};
use farm_proto::message::RequestError;

use super::chunk::{self, Part};
use super::results::ResultTable;
use super::subset::SubsetTable;
use crate::SchedulerError;
use crate::blobs::{BlobData, Blobs};
use crate::farm::Source;
use crate::memory::kept;
use crate::store::{JobRow, Store};
use crate::sync::off_loop;

/// The arguments of a job's tasks.
#[derive(Debug)]
pub(crate) enum ArgTable {
    /// Workers count for themselves.
    Range,
    /// As it was received.
    Inline(Columns),
    /// In blobs, one behind the other.
    Chunks(Vec<Chunk>),
    /// What another job makes.
    Results(ResultTable),
    /// Some of a table's.
    Subset(SubsetTable),
}

/// One blob of a table.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Task number of its first argument.
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// The arguments of some consecutive tasks.
#[derive(Debug)]
pub(crate) struct Slice {
    /// How many tasks: as many as were asked for, or fewer if those would be too many bytes.
    pub(crate) count: u32,
    /// Their arguments as columns; nothing for a range.
    pub(crate) payload: Bytes,
}

impl ArgTable {
    /// Reads what came with a job.
    ///
    /// # Errors
    ///
    /// The arguments contradict themselves, or the payload.
    pub(crate) fn new(args: &Args, payload: Bytes) -> Result<Self, RequestError> {
        let invalid = |text: String| RequestError::Invalid(text);
        if !payload.is_empty() && !matches!(args, Args::Inline { .. }) {
            return Err(invalid("a job whose arguments are not inline came with a payload".to_owned()));
        }
        match args {
            Args::Range { start, end } if start > end => {
                Err(invalid(format!("the range {start}..{end} runs backwards")))
            }
            Args::Range { .. } => Ok(Self::Range),
            Args::Inline { count } => Columns::decode(*count, kept(payload))
                .map(Self::Inline)
                .map_err(|error| invalid(format!("the inline arguments are malformed: {error}"))),
            Args::Chunks(chunks) => chunk_list(chunks).map(Self::Chunks).map_err(invalid),
            Args::Results(_) | Args::Subset { .. } => Err(invalid("these arguments are not taken here".to_owned())),
        }
    }

    /// The arguments of a job that was stored.
    ///
    /// # Errors
    ///
    /// They, or the job that they are of, are not what was stored.
    pub(crate) fn of_row(store: &Arc<Store>, row: &JobRow) -> Result<Self, SchedulerError> {
        Self::of(store, row, &row.spec.args)
    }

    fn of(store: &Arc<Store>, row: &JobRow, args: &Args) -> Result<Self, SchedulerError> {
        let corrupt = |place: String| SchedulerError::Corrupt { path: store.path().to_owned(), place };
        match args {
            Args::Results(wanted) => {
                let source = store.row(wanted.job)?;
                let source = Source { tasks: source.spec.args.count(), encoding: source.spec.module.result };
                let table = ResultTable::new(store, wanted, source);
                table.map(Self::Results).map_err(|error| corrupt(format!("job {}: {error}", row.job)))
            }
            Args::Subset { of, tasks } => Ok(Self::Subset(SubsetTable::new(of, Self::of(store, row, of)?, tasks))),
            args => Self::new(args, row.inline.clone())
                .map_err(|error| corrupt(format!("the arguments of job {}: {error}", row.job))),
        }
    }

    /// Looks whether every chunk is what it is said to be. The chunks have to be there.
    ///
    /// # Errors
    ///
    /// One is not, or cannot be read.
    pub(crate) async fn check(&self, blobs: &Arc<Blobs>) -> Result<(), RequestError> {
        let Self::Chunks(chunks) = self else {
            return Ok(());
        };
        let check = |blobs: &Blobs, chunks: &[Chunk]| {
            chunks.iter().try_for_each(|chunk| {
                let data = open(blobs, chunk).map_err(|error| RequestError::Storage(error.to_string()))?;
                chunk::check(&data, chunk.count, chunk.size)
                    .map_err(|error| RequestError::Invalid(format!("argument chunk {}: {error}", chunk.digest.short())))
            })
        };
        // A lone small chunk is worth no change of thread.
        if let [chunk] = chunks.as_slice()
            && chunk.size <= crate::blobs::SMALL
        {
            return check(blobs, chunks);
        }
        let (blobs, chunks) = (Arc::clone(blobs), chunks.clone());
        off_loop(move || check(&blobs, &chunks)).await
    }

    /// Bytes of argument that a task comes with, on average.
    pub(crate) fn bytes_per_task(&self) -> u64 {
        let (bytes, count) = match self {
            Self::Range => return 0,
            // Nobody knows yet. What is too much for one lease is held back when it is cut.
            Self::Results(_) => return 0,
            Self::Subset(subset) => return subset.bytes_per_task(),
            Self::Inline(columns) => (columns.encoded_len() as u64, columns.len() as u64),
            Self::Chunks(chunks) => (chunks.iter().map(|chunk| chunk.size).sum(), chunks.last().map_or(0, Chunk::end)),
        };
        bytes.div_ceil(count.max(1))
    }

    /// The arguments of at least one, at most `count` tasks from `first` on: of as many as fit into `max` bytes. Only
    /// what is asked for is read; chunks are never in memory as a whole.
    ///
    /// # Errors
    ///
    /// A blob is gone, was damaged, or cannot be read.
    pub(crate) async fn slice(&self, blobs: &Arc<Blobs>, first: u64, count: u32, max: usize) -> io::Result<Slice> {
        match self {
            Self::Range => Ok(Slice { count, payload: Bytes::new() }),
            Self::Inline(columns) => slice_inline(columns, first, count, max),
            Self::Chunks(chunks) => {
                let parts = parts(blobs, chunks, first, count)?;
                let in_memory = |part: &Part| matches!(part.data, BlobData::Memory(_));
                if parts.iter().all(in_memory) {
                    gather(&parts, max)
                } else {
                    off_loop(move || gather(&parts, max)).await
                }
            }
            Self::Results(results) => results.slice(first, count, max).await,
            Self::Subset(subset) => Box::pin(subset.slice(blobs, first, count, max)).await,
        }
    }
}

fn chunk_list(chunks: &[ArgChunk]) -> Result<Vec<Chunk>, String> {
    let mut first = 0u64;
    let mut list = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let ArgChunk { digest, count, size } = *chunk;
        if count == 0 || size < 4 * u64::from(count) {
            return Err(format!("argument chunk {} cannot hold {count} arguments in {size} bytes", digest.short()));
        }
        if size > u64::from(MAX_PAYLOAD) {
            return Err(format!("argument chunk {} has {size} bytes; the most is {MAX_PAYLOAD}", digest.short()));
        }
        list.push(Chunk { first, count, digest, size });
        // Four billion chunks of four billion arguments are beyond any message.
        first += u64::from(count);
    }
    Ok(list)
}

fn open(blobs: &Blobs, chunk: &Chunk) -> io::Result<BlobData> {
    let data = blobs.data(&chunk.digest)?.ok_or_else(|| {
        let text = format!("argument chunk {} is gone", chunk.digest.short());
        io::Error::new(io::ErrorKind::NotFound, text)
    })?;
    Ok(data)
}

/// The parts of chunks that hold the arguments of `first..first + count`.
fn parts(blobs: &Blobs, chunks: &[Chunk], first: u64, count: u32) -> io::Result<Vec<Part>> {
    let end = first + u64::from(count);
    let from = chunks.partition_point(|chunk| chunk.end() <= first);
    chunks[from..]
        .iter()
        .take_while(|chunk| chunk.first < end)
        .map(|chunk| {
            Ok(Part {
                data: open(blobs, chunk)?,
                count: chunk.count,
                // Within the chunk, so that the numbers fit.
                from: first.saturating_sub(chunk.first) as u32,
                to: (end.min(chunk.end()) - chunk.first) as u32,
            })
        })
        .collect()
}

fn slice_inline(columns: &Columns, first: u64, count: u32, max: usize) -> io::Result<Slice> {
    let from = usize::try_from(first).map_err(io::Error::other)?;
    let to = from + count as usize;
    if to > columns.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let fits = |to: usize| columns.slice(from, to).encoded_len() <= max;
    let to = if fits(to) {
        to
    } else {
        // The most that fits, at least one: the lengths ascend.
        let (mut low, mut high) = (from + 1, to);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    };
    Ok(Slice { count: (to - from) as u32, payload: columns.slice(from, to).encode() })
}

/// Reads parts of chunks into one slice.
fn gather(parts: &[Part], max: usize) -> io::Result<Slice> {
    let mut ends: Vec<u32> = Vec::new();
    let mut bytes: Vec<Bytes> = Vec::new();
    let mut length = 0usize;
    for part in parts {
        let room = max.saturating_sub(length + 4 * ends.len());
        let read = part.read(room, ends.is_empty())?;
        ends.extend(read.ends.iter().map(|end| length as u32 + end));
        length += read.bytes.len();
        bytes.push(read.bytes);
        if !read.whole {
            break;
        }
    }
    let mut payload = BytesMut::with_capacity(4 * ends.len() + length);
    ends.iter().for_each(|&end| payload.put_u32_le(end));
    bytes.iter().for_each(|bytes| payload.put_slice(bytes));
    Ok(Slice { count: ends.len() as u32, payload: payload.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::StateDir;

    fn columns(items: &[Vec<u8>]) -> Columns {
        let mut builder = farm_proto::columns::ColumnsBuilder::new();
        items.iter().for_each(|item| builder.push(item));
        builder.finish()
    }

    fn items(slice: &Slice) -> Vec<Vec<u8>> {
        let columns = Columns::decode(slice.count.into(), slice.payload.clone()).unwrap();
        columns.iter().map(<[u8]>::to_vec).collect()
    }

    async fn stored(items: &[Vec<u8>], per_chunk: usize) -> (tempfile::TempDir, Arc<Blobs>, Args) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let blobs = Arc::new(Blobs::open(&state, 1 << 30, crate::Durability::Ephemeral).unwrap());
        let mut chunks = Vec::new();
        for part in items.chunks(per_chunk) {
            let bytes = columns(part).encode();
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            let mut writer = blobs.put(digest, size).unwrap();
            writer.write(bytes).await.unwrap();
            writer.finish().await.unwrap();
            chunks.push(ArgChunk { digest, count: part.len() as u32, size });
        }
        (folder, blobs, Args::Chunks(chunks))
    }

    /// Arguments of very different lengths, some of them in blobs too large for memory.
    fn arguments() -> Vec<Vec<u8>> {
        (0..100usize).map(|n| vec![n as u8; n * n * 3]).collect()
    }

    #[tokio::test]
    async fn slices_are_the_same_from_chunks_and_inline() {
        let arguments = arguments();
        let inline = columns(&arguments);
        let inline = ArgTable::new(&Args::Inline { count: 100 }, inline.encode()).unwrap();
        for per_chunk in [1, 7, 50, 100] {
            let (_folder, blobs, args) = stored(&arguments, per_chunk).await;
            let chunked = ArgTable::new(&args, Bytes::new()).unwrap();
            chunked.check(&blobs).await.unwrap();
            for (first, count) in [(0, 100), (0, 1), (99, 1), (6, 2), (13, 50), (49, 2), (50, 50)] {
                for max in [0, 1000, 50_000, usize::MAX] {
                    let expected = inline.slice(&blobs, first, count, max).await.unwrap();
                    let slice = chunked.slice(&blobs, first, count, max).await.unwrap();
                    assert_eq!(slice.count, expected.count, "{per_chunk} {first} {count} {max}");
                    assert!(slice.payload == expected.payload);
                    let from = first as usize;
                    assert!(items(&slice) == arguments[from..from + slice.count as usize]);
                    assert!(slice.count == 1 || slice.payload.len() <= max);
                    let one_more = from + slice.count as usize;
                    if slice.count < count {
                        assert!(slice.payload.len() + 4 + arguments[one_more].len() > max);
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn chunks_that_are_not_what_they_are_said_to_be_are_refused() {
        let (_folder, blobs, args) = stored(&arguments(), 50).await;
        let Args::Chunks(right) = args else { unreachable!("chunks were stored") };
        let broken = |change: fn(&mut ArgChunk)| {
            let mut chunks = right.clone();
            change(&mut chunks[1]);
            ArgTable::new(&Args::Chunks(chunks), Bytes::new())
        };
        let refused = [
            broken(|chunk| chunk.count = 0),
            broken(|chunk| chunk.size = 3),
            broken(|chunk| chunk.size = 1 << 40),
            ArgTable::new(&Args::Chunks(right.clone()), Bytes::from_static(b"x")),
            ArgTable::new(&Args::Inline { count: 9 }, Bytes::from_static(b"x")),
            ArgTable::new(&Args::Range { start: 2, end: 1 }, Bytes::new()),
        ];
        for (index, table) in refused.into_iter().enumerate() {
            assert!(matches!(table, Err(RequestError::Invalid(_))), "{index}: {table:?}");
        }
        let table = broken(|chunk| chunk.count = 49).unwrap();
        let result = table.check(&blobs).await;
        assert!(matches!(result, Err(RequestError::Invalid(_))), "{result:?}");
    }
}
