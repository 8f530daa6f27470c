//! Some of a table's arguments.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::job::Args;

use super::args::{ArgTable, Slice};
use crate::blobs::Blobs;

/// Some of a table's arguments, in their order.
#[derive(Debug)]
pub(crate) struct SubsetTable {
    /// Where the table is a range of integers: its first.
    start: Option<i64>,
    table: Box<ArgTable>,
    /// Which of its tasks, and the number that the first of them has here.
    parts: Vec<(u64, Range<u64>)>,
}

impl SubsetTable {
    /// The arguments `tasks` (first and end) of `args`, which are `table`.
    pub(crate) fn new(args: &Args, table: ArgTable, tasks: &[(u64, u64)]) -> Self {
        let start = match args {
            Args::Range { start, .. } => Some(*start),
            _ => None,
        };
        let mut number = 0u64;
        let parts = tasks.iter().map(|&(first, end)| {
            let part = (number, first..end);
            number = number.saturating_add(end.saturating_sub(first));
            part
        });
        let parts = parts.collect();
        Self { start, table: Box::new(table), parts }
    }

    pub(super) fn bytes_per_task(&self) -> u64 {
        // The longest integer.
        if self.start.is_some() { 24 } else { self.table.bytes_per_task() }
    }

    /// As [`ArgTable::slice`].
    pub(super) async fn slice(&self, blobs: &Arc<Blobs>, first: u64, count: u32, max: usize) -> io::Result<Slice> {
        let mut columns = ColumnsBuilder::new();
        let mut taken = 0;
        while taken < count && (taken == 0 || columns.bytes_len() + 4 * columns.len() < max) {
            let task = first + u64::from(taken);
            let at = self.parts.partition_point(|(number, _)| *number <= task).checked_sub(1);
            let (number, part) = at.and_then(|at| self.parts.get(at)).ok_or(io::ErrorKind::UnexpectedEof)?;
            let from = part.start + (task - number);
            let wanted = part.end.saturating_sub(from).min(u64::from(count - taken));
            // Not more than `count`.
            let wanted = u32::try_from(wanted).map_err(io::Error::other)?;
            if wanted == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match self.start {
                Some(start) => {
                    for task in from..from + u64::from(wanted) {
                        columns.push(start.wrapping_add_unsigned(task).to_string().as_bytes());
                    }
                    taken += wanted;
                }
                None => {
                    let room = max.saturating_sub(columns.bytes_len() + 4 * columns.len());
                    let slice = self.table.slice(blobs, from, wanted, room).await?;
                    let read = Columns::decode(slice.count.into(), slice.payload).map_err(io::Error::other)?;
                    let fits = taken == 0 || read.encoded_len() <= room;
                    if !fits {
                        break;
                    }
                    read.iter().for_each(|item| columns.push(item));
                    taken += slice.count;
                    if slice.count < wanted {
                        break;
                    }
                }
            }
        }
        let columns = columns.finish();
        let mut payload = BytesMut::with_capacity(columns.encoded_len());
        payload.put_slice(&columns.encode());
        Ok(Slice { count: taken, payload: payload.freeze() })
    }
}
