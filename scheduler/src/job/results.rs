//! Arguments that are results of another job. They are read from the store when they are leased: what flows from job to
//! job does not leave the scheduler for any client.

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use farm_proto::columns::ColumnsBuilder;
use farm_proto::ids::JobId;
use farm_proto::job::{ResultArgs, ResultEncoding};
use farm_proto::message::RequestError;

use super::args::Slice;
use crate::farm::Source;
use crate::store::Store;
use crate::sync::off_loop;

/// The results of a job, one or a group of them an argument.
#[derive(Debug, Clone)]
pub(crate) struct ResultTable {
    store: Arc<Store>,
    job: JobId,
    /// Results that there will be.
    tasks: u64,
    encoding: ResultEncoding,
    group: Option<u32>,
    raw: bool,
}

impl ResultTable {
    /// The arguments that are `wanted` of a job.
    ///
    /// # Errors
    ///
    /// They are not as many as they are said to be, or groups of less than two.
    pub(crate) fn new(store: &Arc<Store>, wanted: &ResultArgs, source: Source) -> Result<Self, RequestError> {
        let ResultArgs { job, count, group, raw } = *wanted;
        let Source { tasks, encoding } = source;
        if group.is_some_and(|group| group < 2) {
            return Err(RequestError::Invalid("groups of less than two results".to_owned()));
        }
        let expected = tasks.div_ceil(wanted.fan_in().into());
        if count != expected {
            let text = format!("the {tasks} results of job {job} make {expected} arguments, not {count}");
            return Err(RequestError::Invalid(text));
        }
        Ok(Self { store: Arc::clone(store), job, tasks, encoding, group, raw })
    }

    /// As [`ArgTable::slice`](super::args::ArgTable::slice). The results have to be there.
    pub(super) async fn slice(&self, first: u64, count: u32, max: usize) -> io::Result<Slice> {
        let table = self.clone();
        off_loop(move || table.read(first, count, max)).await
    }

    fn read(&self, first: u64, count: u32, max: usize) -> io::Result<Slice> {
        let fan_in = u64::from(self.group.unwrap_or(1));
        let mut columns = ColumnsBuilder::new();
        let mut taken = 0;
        while taken < count && (taken == 0 || columns.bytes_len() < max) {
            // As many whole groups as may fit; a group that does not is read alone.
            let groups = u64::from(count - taken).min(1024);
            let from = (first + u64::from(taken)).saturating_mul(fan_in);
            let end = from.saturating_add(groups.saturating_mul(fan_in)).min(self.tasks);
            let room = max.saturating_sub(columns.bytes_len());
            let mut items = self.items(from, end, room)?;
            if (items.len() as u64) < fan_in.min(end - from) {
                if taken > 0 {
                    break;
                }
                items = self.items(from, from.saturating_add(fan_in).min(self.tasks), usize::MAX)?;
            }
            let whole = items.len() as u64 == end - from;
            for group in items.chunks(usize::try_from(fan_in).map_err(io::Error::other)?) {
                let is_whole = group.len() as u64 == fan_in || whole;
                if !is_whole || (taken > 0 && columns.bytes_len() >= max) {
                    return Ok(slice(taken, &mut columns));
                }
                self.argument(group, columns.item())?;
                columns.end_item();
                taken += 1;
            }
        }
        Ok(slice(taken, &mut columns))
    }

    /// Results of `from..end`, or the first of them if they are many bytes.
    fn items(&self, from: u64, end: u64, max: usize) -> io::Result<Vec<Bytes>> {
        let items = self.store.results_of(self.job, from..end, max).map_err(io::Error::other)?;
        let missing = |task| io::Error::new(io::ErrorKind::NotFound, format!("no result of task {task}"));
        items.into_iter().zip(from..).map(|(item, task)| item.ok_or_else(|| missing(task))).collect()
    }

    /// Appends the argument that a group of results makes.
    fn argument(&self, group: &[Bytes], out: &mut Vec<u8>) -> io::Result<()> {
        match group {
            [item] if self.group.is_none() && self.raw => raw(self.encoding, item, out),
            [item] if self.group.is_none() => json(self.encoding, item, out),
            items => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    json(self.encoding, item, out)?;
                }
                out.push(b']');
                Ok(())
            }
        }
    }
}

fn slice(count: u32, columns: &mut ColumnsBuilder) -> Slice {
    Slice { count, payload: columns.finish().encode() }
}

/// Appends a result as the JSON text that a client would show.
fn json(encoding: ResultEncoding, item: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match encoding {
        ResultEncoding::Json => out.extend_from_slice(item),
        ResultEncoding::Text => serde_json::to_writer(out, &String::from_utf8_lossy(item))?,
        ResultEncoding::Bytes => {
            let mut text = BytesMut::from(&b"{\"base64\":\""[..]);
            text.put_slice(STANDARD.encode(item).as_bytes());
            text.put_slice(b"\"}");
            out.extend_from_slice(&text);
        }
    }
    Ok(())
}

/// Appends a result as a function of bytes takes it: a text or bytes as they are, of JSON the text in a string.
fn raw(encoding: ResultEncoding, item: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    if encoding == ResultEncoding::Json && item.first() == Some(&b'"') {
        let text: String = serde_json::from_slice(item)?;
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend_from_slice(item);
    }
    Ok(())
}
