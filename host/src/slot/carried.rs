//! The slot's part in carrying tasks from one worker to the next.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ring::{Header, Kind, Writer};
use super::shared::{Shared, Word, now_ns};
use crate::sandbox::Carrier;

/// What earlier attempts have kept, by the task: of the chunk that runs. Slot and sandboxes share it, all in one thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Restored(Arc<Mutex<BTreeMap<u64, Arc<[u8]>>>>);

impl Restored {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<[u8]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, task: u64, state: &[u8]) {
        self.lock().insert(task, state.into());
    }

    /// The chunk is over.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

/// Carries the tasks of a slot process.
pub(super) struct SlotCarrier {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Arc<Mutex<Writer>>,
    pub(super) restored: Restored,
}

impl Carrier for SlotCarrier {
    fn should_stop(&self) -> bool {
        self.shared.word(Word::Leaving).load(Ordering::Relaxed) != 0
    }

    fn keep(&self, task: u64, state: &[u8]) {
        let header = Header { kind: Kind::Checkpoint, details: 0, result: state.len() as u64, a: task, b: 0 };
        let started = self.shared.word(Word::Started);
        let (since, before) = (started.load(Ordering::Acquire), now_ns());
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).write(header, state, &[], before);
        if started.load(Ordering::Acquire) == 0 {
            // It waited for the agent. That is not the task's time, as it is not when its outcome waits.
            started.store(since + now_ns().saturating_sub(before), Ordering::Release);
        }
    }

    fn restored(&self, task: u64) -> Option<Arc<[u8]>> {
        self.restored.lock().get(&task).cloned()
    }
}
