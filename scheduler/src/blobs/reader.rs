//! A blob on its way out.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::BlobData;
use crate::sync::off_loop;

/// How much is read from a file at once, in bytes: each read is two changes of thread.
const READ: u64 = 1 << 20;
/// How much is given out at once, in bytes.
const CHUNK: usize = 256 << 10;

/// Gives out a blob in chunks. Reads ahead of the asker by at most [`READ`] bytes.
#[derive(Debug)]
pub(crate) struct BlobReader {
    data: Arc<BlobData>,
    offset: u64,
    ready: Bytes,
}

impl BlobReader {
    pub(crate) fn new(data: BlobData) -> Self {
        Self { data: Arc::new(data), offset: 0, ready: Bytes::new() }
    }

    pub(crate) fn size(&self) -> u64 {
        self.data.size()
    }

    /// The next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.ready.is_empty() {
            let length = READ.min(self.size() - self.offset);
            if length == 0 {
                return Ok(None);
            }
            let offset = self.offset;
            self.ready = match &*self.data {
                BlobData::Memory(_) => self.data.read(offset, length)?,
                BlobData::File { .. } => {
                    let data = Arc::clone(&self.data);
                    off_loop(move || data.read(offset, length)).await?
                }
            };
            self.offset += length;
        }
        Ok(Some(self.ready.split_to(CHUNK.min(self.ready.len()))))
    }
}
