//! The memory that a slot process shares with its agent: a page of words, then the bytes of a ring.
//!
//! This is the one file of the slot that is not safe Rust. What it offers is safe for both sides whatever the other
//! does, because a guest that broke out of its sandbox can write here what it likes:
//!
//! * the words are only ever touched as atomics;
//! * the ring's bytes are only ever copied, in and out, through raw pointers, never seen through a reference; whoever
//!   copies them out interprets its own copy, not the memory;
//! * positions are taken modulo the ring's size, so no number that the other side writes leads outside;
//! * the file is sealed at its size, so the other side cannot make an access fault by shortening it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

/// Bytes of the ring: a power of two. What a slot makes in between two drains fits many times; larger results go
/// through in pieces.
pub(super) const RING: usize = 2 << 20;
/// The words' page, in front of the ring.
const WORDS: usize = 4096;

/// Where the words stand. Those that different sides write are on different cache lines.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    /// Bytes ever written to the ring. Written by the slot.
    Written = 0,
    /// When the running task began (`CLOCK_MONOTONIC`, nanoseconds), 0 while none runs. Written by the slot.
    Started = 8,
    /// Not 0 while a job is being opened. Written by the slot.
    Opening = 16,
    /// Not 0 if the process ends itself because its task writes too much: see [`super::outputs::Over`]. Written by the
    /// slot.
    Over = 24,
    /// Bytes ever taken out of the ring. Written by the agent.
    Taken = 128,
    /// Not 0 if the worker is about to go. Written by the agent.
    Leaving = 136,
    /// [`super::span::Span`] of chunks with an even number. Written by both.
    EvenSpan = 256,
    /// [`super::span::Span`] of chunks with an odd number. Written by both.
    OddSpan = 384,
}

/// Where the slot waits for space, as a futex: 1 while it does. Written by both.
const WAITING: usize = 512;

/// One side's mapping of the memory.
#[derive(Debug)]
pub(super) struct Shared {
    /// `WORDS + RING` bytes, page-aligned, for as long as this lives.
    map: MmapRaw,
}

impl Shared {
    /// Makes the memory; the descriptor is for the other side.
    pub(super) fn create() -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("farm-slot", flags)?;
        rustix::fs::ftruncate(&fd, (WORDS + RING) as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(fd.as_fd())?, fd))
    }

    /// Maps memory that the other side has made.
    pub(super) fn open(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        if file.metadata()?.len() != (WORDS + RING) as u64 {
            return Err(io::Error::other("the shared memory has the wrong size"));
        }
        Self::map(file.as_fd())
    }

    fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let map = MmapOptions::new().len(WORDS + RING).map_raw(&file)?;
        Ok(Self { map })
    }

    #[expect(unsafe_code, reason = "a word of memory that another process writes is an atomic that nobody owns")]
    pub(super) fn word(&self, word: Word) -> &AtomicU64 {
        // SAFETY: every `Word` is a multiple of 8 within the first page of a page-aligned mapping of `WORDS + RING`
        // bytes, which lives as long as `self`. No other access to these bytes exists but through this function
        // (`copy_in` and `copy_out` stay behind `WORDS`, `waiting` is at an offset that no `Word` has).
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(word as usize).cast()) }
    }

    #[expect(unsafe_code, reason = "as `word`")]
    pub(super) fn waiting(&self) -> &AtomicU32 {
        // SAFETY: as in `word`: aligned, inside of the first page, accessed only as an atomic.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(WAITING).cast()) }
    }

    /// Copies bytes into the ring at a position, around its end if need be.
    ///
    /// # Panics
    ///
    /// If they are more than the ring holds.
    #[expect(unsafe_code, reason = "the ring is shared with another process, so no slice of it may exist")]
    pub(super) fn copy_in(&self, position: u64, bytes: &[u8]) {
        assert!(bytes.len() <= RING, "more than a ring at once");
        let at = position as usize % RING;
        let (head, tail) = bytes.split_at(bytes.len().min(RING - at));
        // SAFETY: `at < RING` and `at + head.len() <= RING`; `tail.len() <= at`, since all of it is at most `RING`.
        // So both destinations lie in the mapping. `bytes` is private memory and does not overlap with it.
        unsafe {
            let ring = self.map.as_mut_ptr().add(WORDS);
            ring.add(at).copy_from_nonoverlapping(head.as_ptr(), head.len());
            ring.copy_from_nonoverlapping(tail.as_ptr(), tail.len());
        }
    }

    /// Appends `len` bytes of the ring from a position on, around its end if need be.
    ///
    /// # Panics
    ///
    /// If they are more than the ring holds.
    #[expect(unsafe_code, reason = "the ring is shared with another process, so no slice of it may exist")]
    pub(super) fn copy_out(&self, position: u64, len: usize, into: &mut Vec<u8>) {
        assert!(len <= RING, "more than a ring at once");
        into.reserve(len);
        let at = position as usize % RING;
        let head = len.min(RING - at);
        // SAFETY: sources as in `copy_in`. The destination has room for `len` bytes behind its length, which are all
        // written before the length is raised. The bytes may change under the copy if the other side is hostile; any
        // bytes are valid `u8`s.
        unsafe {
            let ring = self.map.as_ptr().add(WORDS);
            let end = into.as_mut_ptr().add(into.len());
            end.copy_from_nonoverlapping(ring.add(at), head);
            end.add(head).copy_from_nonoverlapping(ring, len - head);
            into.set_len(into.len() + len);
        }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the same in every process of a machine.
pub(super) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_around_the_end() {
        let (ours, fd) = Shared::create().expect("memory");
        let theirs = Shared::open(fd).expect("the same memory");
        let bytes: Vec<u8> = (0..200).collect();
        for position in [0, RING as u64 - 100, u64::MAX - 50] {
            ours.copy_in(position, &bytes);
            let mut read = b"before".to_vec();
            theirs.copy_out(position, bytes.len(), &mut read);
            assert_eq!(read[6..], bytes);
        }
    }

    #[test]
    fn the_memory_cannot_be_shortened() {
        let (_ours, fd) = Shared::create().expect("memory");
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    }
}
