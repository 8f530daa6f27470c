//! The system's clock, which may be set: forward, back, and while nobody looks.

use std::time::SystemTime;

use farm_link::failpoint;

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    unix_ns() / 1_000_000
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from((since + failpoint::clock_ahead()).as_nanos()).unwrap_or(u64::MAX)
}
