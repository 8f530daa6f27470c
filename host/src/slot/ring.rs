//! Records from a slot to its agent, through shared memory.
//!
//! The ring is a pipe of bytes with one writer and one reader. A record is [`Header`], then its result, then its
//! details; what is longer than the free space goes through in pieces. A record whose writer died half-way is no record.
//!
//! **Wake-ups** are what costs here, not bytes: one on another core takes as long as ten tasks. So the writer rings a
//! bell only when its caller says that the record is the last for now, when nothing has been announced for
//! [`ANNOUNCE_AFTER_NS`], or when half the ring is unannounced. A record that is followed by a long silence may thus be
//! in the ring unannounced, but only if the last announcement was less than [`ANNOUNCE_AFTER_NS`] before it: a reader
//! that looks once, a little later than that after each announcement, misses nothing for long.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farm_proto::frame::{MAX_MESSAGE, MAX_PAYLOAD};
use rustix::thread::futex;

use super::shared::{RING, Shared, Word};

/// How old an unannounced record may get before the next one announces both.
pub(super) const ANNOUNCE_AFTER_NS: u64 = 2_000_000;
/// Bytes of a header.
pub(super) const HEADER: usize = 32;
/// The longest result, in bytes: one that still fits a frame.
pub(super) const MAX_RESULT: usize = MAX_PAYLOAD as usize - 1024;
/// The longest details, in bytes: half a message.
pub(super) const MAX_DETAILS: usize = MAX_MESSAGE as usize / 2;
/// How long a writer sleeps for want of space before it looks again, should a wake-up have been missed.
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// What a record is. The numbers are on no disk and no wire: both sides are the same program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `a`: the task, `b`: nanoseconds that it ran. Result; details: [`super::command::Details`] if there are any.
    Outcome = 1,
    /// `a`: the chunk, of which nothing more comes.
    ChunkEnd = 2,
    /// `a`: the job, details: the [`farm_proto::outcome::Failure`]. Chunks of the job end at once, without outcomes.
    OpenFailed = 3,
    /// `a`: the task, `b`: done; result: total, as eight bytes.
    Progress = 4,
    /// `a`: the task; result: the state that it keeps for its next attempt.
    Checkpoint = 5,
    /// `a`: the task, which has kept a state and given itself back. There is no outcome of it.
    Suspended = 6,
}

/// The start of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) details: u32,
    pub(super) result: u64,
    pub(super) a: u64,
    pub(super) b: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.details.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.result.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.a.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.b.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER]) -> Result<Self, Corrupt> {
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let kind = match number(0) & 0xffff_ffff {
            1 => Kind::Outcome,
            2 => Kind::ChunkEnd,
            3 => Kind::OpenFailed,
            4 => Kind::Progress,
            5 => Kind::Checkpoint,
            6 => Kind::Suspended,
            _ => return Err(Corrupt("a record of no known kind")),
        };
        let header = Self { kind, details: (number(0) >> 32) as u32, result: number(8), a: number(16), b: number(24) };
        if header.details as usize > MAX_DETAILS || header.result > MAX_RESULT as u64 {
            return Err(Corrupt("a record beyond all limits"));
        }
        Ok(header)
    }
}

/// The shared memory holds what no slot writes: its guest has got out, and nothing it says counts any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the slot's memory holds {0}")]
pub(super) struct Corrupt(pub(super) &'static str);

/// The slot's end.
pub(super) struct Writer {
    shared: Arc<Shared>,
    written: u64,
    announced: u64,
    announced_ns: u64,
    bell: Box<dyn Fn() + Send>,
}

impl Writer {
    /// `bell` makes the reader look; it must not block.
    pub(super) fn new(shared: Arc<Shared>, bell: Box<dyn Fn() + Send>) -> Self {
        let written = shared.word(Word::Written).load(Ordering::Acquire);
        Self { shared, written, announced: written, announced_ns: 0, bell }
    }

    /// Writes a record, and announces it if its time has come; waits for the reader if there is no room.
    ///
    /// `now` is the time that the caller has read already, as [`super::shared::now_ns`].
    pub(super) fn write(&mut self, header: Header, result: &[u8], details: &[u8], now: u64) {
        let len = HEADER + result.len() + details.len();
        if self.free() >= len {
            let header = header.encode();
            let at = self.written;
            self.shared.copy_in(at, &header);
            self.shared.copy_in(at + HEADER as u64, result);
            if !details.is_empty() {
                let at = at + (HEADER + result.len()) as u64;
                self.shared.copy_in(at, details);
            }
            self.publish(len);
        } else {
            // No task runs while its outcome waits for a slow link.
            self.shared.word(Word::Started).store(0, Ordering::Release);
            for part in [&header.encode(), result, details] {
                part.chunks(RING / 4).for_each(|piece| {
                    self.wait_for(piece.len());
                    self.shared.copy_in(self.written, piece);
                    self.publish(piece.len());
                });
            }
        }
        if now.saturating_sub(self.announced_ns) >= ANNOUNCE_AFTER_NS
            || self.written - self.announced >= RING as u64 / 2
        {
            self.announce(now);
        }
    }

    /// Whether a record of this length goes in without waiting.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.free() >= HEADER + len
    }

    /// Makes the reader look, if there is anything that it does not know of.
    pub(super) fn announce(&mut self, now: u64) {
        self.announced_ns = now;
        if self.announced != self.written {
            self.announced = self.written;
            (self.bell)();
        }
    }

    fn publish(&mut self, len: usize) {
        self.written += len as u64;
        self.shared.word(Word::Written).store(self.written, Ordering::Release);
    }

    fn free(&self) -> usize {
        let taken = self.shared.word(Word::Taken).load(Ordering::Acquire);
        RING - (self.written - taken) as usize
    }

    fn wait_for(&mut self, len: usize) {
        while self.free() < len {
            self.announced = self.written;
            (self.bell)();
            let waiting = self.shared.waiting();
            waiting.store(1, Ordering::SeqCst);
            if self.free() < len {
                let timeout = rustix::time::Timespec { tv_sec: SPACE_CHECK.as_secs() as i64, tv_nsec: 0 };
                // However this returns, the loop looks again.
                let _ = futex::wait(waiting, futex::Flags::empty(), 1, Some(&timeout));
            }
        }
    }
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    taken: u64,
    /// Bytes that the writer has published, as far as this side has looked.
    written: u64,
    record: Option<Header>,
    result_left: usize,
    details: Vec<u8>,
    scratch: Vec<u8>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            taken: 0,
            written: 0,
            record: None,
            result_left: 0,
            details: Vec::new(),
            scratch: Vec::with_capacity(HEADER),
        }
    }

    /// Looks how much there is now. Records are taken from what this has found.
    pub(super) fn look(&mut self) -> Result<(), Corrupt> {
        let written = self.shared.word(Word::Written).load(Ordering::Acquire);
        if written.wrapping_sub(self.taken) > RING as u64 {
            return Err(Corrupt("a position outside of the ring"));
        }
        self.written = written;
        Ok(())
    }

    fn available(&self) -> usize {
        self.written.wrapping_sub(self.taken) as usize
    }

    /// The header of the record that [`Self::body`] is to take, if it is there.
    pub(super) fn header(&mut self) -> Result<Option<Header>, Corrupt> {
        if self.record.is_none() && self.available() >= HEADER {
            self.scratch.clear();
            self.shared.copy_out(self.taken, HEADER, &mut self.scratch);
            let mut bytes = [0; HEADER];
            bytes.copy_from_slice(&self.scratch);
            let header = Header::decode(&bytes)?;
            self.taken = self.taken.wrapping_add(HEADER as u64);
            self.result_left = header.result as usize;
            self.details.clear();
            self.record = Some(header);
        }
        Ok(self.record)
    }

    /// Appends as much of the record's result as there is. Once the record is complete, its details are given, and the
    /// next record may be asked for.
    pub(super) fn body(&mut self, result: &mut Vec<u8>) -> Option<&[u8]> {
        let header = self.record?;
        let piece = self.result_left.min(self.available());
        self.take(piece, result);
        self.result_left -= piece;
        if self.result_left > 0 {
            return None;
        }
        let piece = (header.details as usize - self.details.len()).min(self.available());
        let mut details = std::mem::take(&mut self.details);
        self.take(piece, &mut details);
        self.details = details;
        if self.details.len() < header.details as usize {
            return None;
        }
        self.record = None;
        Some(&self.details)
    }

    fn take(&mut self, len: usize, into: &mut Vec<u8>) {
        if len > 0 {
            self.shared.copy_out(self.taken, len, into);
            self.taken = self.taken.wrapping_add(len as u64);
        }
    }

    /// Whether a record has been begun and is not complete.
    pub(super) fn is_within_record(&self) -> bool {
        self.record.is_some()
    }

    /// Gives the space of what was taken back to the writer.
    pub(super) fn release(&self) {
        self.shared.word(Word::Taken).store(self.taken, Ordering::SeqCst);
        let waiting = self.shared.waiting();
        if waiting.swap(0, Ordering::SeqCst) != 0 {
            // Nobody there to wake is as good.
            let _ = futex::wake(waiting, futex::Flags::empty(), 1);
        }
    }
}
