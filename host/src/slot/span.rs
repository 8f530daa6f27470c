//! How far a slot is in a chunk of tasks, and how far it may go: one word, changed by both sides.
//!
//! The slot takes the next task by counting `next` up; the agent takes tasks back by lowering `end`. Each does so with
//! one compare-and-swap, so that a task is either started or taken back, never both.

use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::{Shared, Word};

/// The most tasks of a chunk: what 24 bits count.
pub(super) const MAX_CHUNK: u32 = (1 << 24) - 1;

/// Which chunk a word is about (the low 16 bits of its number), the next task, and the end; both from the chunk's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) chunk: u16,
    pub(super) next: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn pack(self) -> u64 {
        debug_assert!(self.next <= MAX_CHUNK && self.end <= MAX_CHUNK);
        u64::from(self.chunk) << 48 | u64::from(self.next) << 24 | u64::from(self.end)
    }

    pub(super) fn unpack(word: u64) -> Self {
        Self { chunk: (word >> 48) as u16, next: (word >> 24) as u32 & MAX_CHUNK, end: word as u32 & MAX_CHUNK }
    }
}

/// The word of a chunk. Two chunks at most are with a slot at a time, and their numbers follow each other.
pub(super) fn word(shared: &Shared, chunk: u64) -> &AtomicU64 {
    shared.word(if chunk.is_multiple_of(2) { Word::EvenSpan } else { Word::OddSpan })
}

/// The agent hands out a chunk of `count` tasks.
pub(super) fn set(shared: &Shared, chunk: u64, count: u32) {
    let span = Span { chunk: chunk as u16, next: 0, end: count };
    word(shared, chunk).store(span.pack(), Ordering::Release);
}

/// The slot starts the next task, if there is one left.
pub(super) fn take(shared: &Shared, chunk: u64) -> Option<u32> {
    let mut taken = None;
    // Fails only by returning `None` from the closure, in which case nothing was taken.
    let _ = word(shared, chunk).fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
        let mut span = Span::unpack(word);
        taken = None;
        if span.chunk != chunk as u16 || span.next >= span.end {
            return None;
        }
        taken = Some(span.next);
        span.next += 1;
        Some(span.pack())
    });
    taken
}

/// The agent takes back what is not started. Gives the new end.
///
/// `None` if the word is not one that an honest slot could have left.
pub(super) fn take_back(shared: &Shared, chunk: u64, end: u32) -> Option<u32> {
    let word = word(shared, chunk);
    let mut current = word.load(Ordering::Acquire);
    // The slot may start a task at each turn, an honest one not for long: starting one takes longer than a turn.
    for _ in 0..10_000 {
        let mut span = Span::unpack(current);
        if span.chunk != chunk as u16 || span.end != end || span.next > span.end {
            return None;
        }
        span.end = span.next;
        match word.compare_exchange(current, span.pack(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(span.end),
            Err(changed) => current = changed,
        }
    }
    None
}

/// How many tasks of the chunk the slot has started, as far as it can be believed.
pub(super) fn started(shared: &Shared, chunk: u64) -> u32 {
    let span = Span::unpack(word(shared, chunk).load(Ordering::Acquire));
    if span.chunk == chunk as u16 { span.next } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_started_or_taken_back() {
        let (shared, _fd) = Shared::create().expect("memory");
        set(&shared, 7, 5);
        assert_eq!(take(&shared, 7), Some(0));
        assert_eq!(take(&shared, 8), None);
        assert_eq!(take(&shared, 7), Some(1));
        assert_eq!(take_back(&shared, 7, 5), Some(2));
        assert_eq!(take(&shared, 7), None);
        assert_eq!(take_back(&shared, 7, 2), Some(2));
    }

    #[test]
    fn rubbish_is_noticed() {
        let (shared, _fd) = Shared::create().expect("memory");
        set(&shared, 7, 5);
        assert_eq!(take_back(&shared, 9, 5), None);
        word(&shared, 7).store(u64::MAX, Ordering::Release);
        assert_eq!(take_back(&shared, 7, 5), None);
    }

    #[test]
    fn both_sides_at_once() {
        let (shared, _fd) = Shared::create().expect("memory");
        for round in 0..200 {
            set(&shared, round, 1000);
            let (started, end) = std::thread::scope(|scope| {
                let slot = scope.spawn(|| std::iter::from_fn(|| take(&shared, round)).count());
                let end = take_back(&shared, round, 1000);
                (slot.join().expect("counted"), end)
            });
            assert_eq!(Some(started as u32), end, "round {round}");
        }
    }
}
