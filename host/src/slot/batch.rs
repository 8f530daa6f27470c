//! Outcomes of consecutive tasks, put together as they come out of a slot's ring.

use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::frame::TARGET_PAYLOAD;
use farm_proto::message::Batch;

use super::command::Details;
use super::outputs::{KeptFolder, KeptFolders};

/// A batch is ended when failures and captured output come to this many bytes: they go into its message.
const TARGET_DETAILS: usize = 1 << 20;

/// Makes one batch after another.
#[derive(Debug, Default)]
pub(super) struct BatchBuilder {
    batch: Option<Batch>,
    results: ColumnsBuilder,
    kept: KeptFolders,
    /// Bytes of complete results.
    complete: usize,
    details: usize,
}

impl BatchBuilder {
    /// Whether the next outcome had better begin a batch of its own.
    pub(super) fn is_full_for(&self, result: usize, details: usize) -> bool {
        self.batch.is_some()
            && (self.complete + self.results.len() * 4 + result > TARGET_PAYLOAD
                || self.details + details > TARGET_DETAILS)
    }

    /// Where the bytes of the next result are to be appended.
    pub(super) fn result(&mut self) -> &mut Vec<u8> {
        self.results.item()
    }

    /// Forgets the bytes of a result that was never completed.
    pub(super) fn abandon(&mut self) {
        self.results.item().truncate(self.complete);
    }

    /// Ends the outcome of `task`, which follows the last one, if there is one in the batch.
    pub(super) fn end(&mut self, task: u64, run_ns: u64, details: Option<(Details, usize)>, kept: Option<KeptFolder>) {
        let batch = self.batch.get_or_insert_with(|| Batch {
            first: task,
            count: 0,
            failures: Vec::new(),
            captured: Vec::new(),
            run_ns: 0,
            fetch_ns: 0,
            compile_ns: 0,
        });
        if let Some((details, size)) = details {
            self.details += size;
            if let Some(failure) = details.failure {
                batch.failures.push((batch.count, failure));
                // A failure has no result, whatever was left in the buffer.
                self.results.item().truncate(self.complete);
            }
            if !details.captured.is_empty() || details.captured.truncated {
                batch.captured.push((batch.count, details.captured));
            }
        }
        self.kept.extend(kept.map(|kept| (batch.count, kept)));
        batch.count += 1;
        batch.run_ns = batch.run_ns.saturating_add(run_ns);
        self.results.end_item();
        self.complete = self.results.bytes_len();
    }

    /// The batch made so far, if it holds anything, and the folders of files that its tasks left, by offset. Not to be
    /// called while a result is half there.
    pub(super) fn finish(&mut self) -> Option<(Batch, Columns, KeptFolders)> {
        self.abandon();
        let batch = self.batch.take()?;
        self.complete = 0;
        self.details = 0;
        Some((batch, self.results.finish(), std::mem::take(&mut self.kept)))
    }
}
