//! Freeing what no job needs.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::Durability;
use crate::SchedulerError;
use crate::blobs::Blobs;
use crate::state_dir::{StateDir, state_error};
use crate::store::Store;
use crate::store::recover::DATABASE;

/// Blobs younger than this are kept, though no job needs them: whoever has put one may be about to submit a job that does.
pub const GRACE: Duration = Duration::from_secs(3600);

/// What was freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs that are gone.
    pub removed: u64,
    /// How many bytes these had.
    pub bytes: u64,
}

/// Removes blobs that no job needs, unless they were put within the last [hour](GRACE), and what is left of deleted jobs.
///
/// # Errors
///
/// The folder is not a farm's, a scheduler runs in it ([`SchedulerError::InUse`]), or it cannot be read or written.
pub fn gc(state: &Path) -> Result<GcReport, SchedulerError> {
    // Before the epoch, nothing was put.
    gc_older_than(state, SystemTime::now().checked_sub(GRACE).unwrap_or(SystemTime::UNIX_EPOCH))
}

/// As [`gc`], for blobs that were last put or asked about before `older_than`.
///
/// # Errors
///
/// As [`gc`].
pub fn gc_older_than(state: &Path, older_than: SystemTime) -> Result<GcReport, SchedulerError> {
    let database = state.join(DATABASE);
    if !fs::exists(&database).map_err(state_error(&database))? {
        return Err(SchedulerError::Foreign { path: database, expected: "a farm's database" });
    }
    let folder = StateDir::open(state)?;
    let (store, mut writer, _) = Store::open(&folder, Durability::Synced)?;
    while writer.tidy()? {}
    let blobs = Blobs::open(&folder, 0, Durability::Synced)?;
    let (removed, bytes) = blobs.remove_unpinned(&store.pinned()?, older_than).map_err(state_error(state))?;
    Ok(GcReport { removed, bytes })
}
