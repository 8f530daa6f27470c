//! How much memory this process takes, and keeping it from being more than it seems.

use bytes::Bytes;

/// Longer pieces are worth the buffer that they are in.
const SHORT: usize = 256 << 10;

/// Resident memory in bytes; 0 where the kernel does not say.
pub(crate) fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Bytes that are to be kept, apart from the buffer in which they were received: a result of ten bytes would hold on to
/// as many kilobytes.
pub(crate) fn kept(received: Bytes) -> Bytes {
    if received.len() < SHORT { Bytes::copy_from_slice(&received) } else { received }
}
