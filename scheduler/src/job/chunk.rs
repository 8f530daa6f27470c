//! One blob of an argument table: [columns](farm_proto::columns) that are read in parts.

use std::io;

use bytes::Bytes;

use crate::blobs::BlobData;

/// Ends that are checked at once.
const ENDS: u32 = 256 << 10;

/// Arguments `from..to` of a chunk that holds `count`.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) data: BlobData,
    pub(super) count: u32,
    pub(super) from: u32,
    pub(super) to: u32,
}

/// What was read of a part.
#[derive(Debug)]
pub(super) struct Read {
    /// Where each argument ends in `bytes`.
    pub(super) ends: Vec<u32>,
    pub(super) bytes: Bytes,
    /// Whether that is the whole part.
    pub(super) whole: bool,
}

impl Part {
    /// Reads as many arguments as fit into `room` bytes with their ends; at least one if `some`.
    pub(super) fn read(&self, room: usize, some: bool) -> io::Result<Read> {
        let mut ends = read_ends(&self.data, self.from.saturating_sub(1), self.to)?;
        let start = if self.from == 0 { 0 } else { ends.remove(0) };
        let fitting = ends
            .iter()
            .zip(1usize..)
            .take_while(|&(&end, count)| end.saturating_sub(start) as usize + 4 * count <= room)
            .count()
            .max(usize::from(some));
        let whole = fitting >= ends.len();
        ends.truncate(fitting);
        let end = ends.last().copied().unwrap_or(start);
        // The chunk was checked when its job came; what is out of order now was damaged since.
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the argument table was damaged");
        let length = end.checked_sub(start).ok_or_else(damaged)?;
        let offset = 4 * u64::from(self.count) + u64::from(start);
        let bytes = self.data.read(offset, length.into())?;
        for end in &mut ends {
            *end = end.checked_sub(start).ok_or_else(damaged)?;
        }
        Ok(Read { ends, bytes, whole })
    }
}

fn read_ends(data: &BlobData, from: u32, to: u32) -> io::Result<Vec<u32>> {
    let bytes = data.read(4 * u64::from(from), 4 * u64::from(to - from))?;
    let (ends, _) = bytes.as_chunks::<4>();
    Ok(ends.iter().map(|end| u32::from_le_bytes(*end)).collect())
}

/// Looks whether a blob is columns of `count` items, `size` bytes in all, without reading the items.
///
/// # Errors
///
/// It is not, or cannot be read.
pub(super) fn check(data: &BlobData, count: u32, size: u64) -> io::Result<()> {
    let malformed = |text: String| Err(io::Error::new(io::ErrorKind::InvalidData, text));
    if data.size() != size {
        return malformed(format!("it has {} bytes, not {size}", data.size()));
    }
    let mut last = 0;
    let mut from = 0;
    while from < count {
        let to = count.min(from.saturating_add(ENDS));
        for end in read_ends(data, from, to)? {
            if end < last {
                return malformed("the ends of its arguments do not ascend".to_owned());
            }
            last = end;
        }
        from = to;
    }
    if 4 * u64::from(count) + u64::from(last) != size {
        return malformed(format!("it does not hold {count} arguments"));
    }
    Ok(())
}
