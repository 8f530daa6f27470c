//! The global allocator of WebAssembly modules.
//!
//! A fresh instance is made for every task, so what its first allocations cost is what small tasks cost. `memory.grow`
//! is a system call in the host and costs more than everything else about a small task together; the default allocators
//! of Rust's WebAssembly targets begin with it. This one begins in an arena that is part of the module's own memory.
//! The arena is all zeros, hence takes no room in the module; the pages of it that a task does not touch cost nothing.
//! Only a task that needs more grows its memory, in steps that grow with it.
//!
//! The bookkeeping is that of the `talc` crate. This file only says where memory comes from.

use std::alloc::Layout;
use std::ptr::NonNull;

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// The size of a WebAssembly page.
const PAGE: usize = 64 << 10;

/// The size of the arena. A task that stays within it never grows its memory.
const ARENA: usize = 512 << 10;

/// No step is larger than this unless one allocation is: a memory limit should not be hit by what is not used.
const LARGEST_STEP: usize = 4 << 20;

/// A share of what there is already is added at once. Few steps, and little that may be for nothing.
const STEP_SHARE: usize = 8;

/// What the bookkeeping may add to an allocation: its own words at both ends, and a boundary of its own.
const OVERHEAD: usize = 64;

/// Where whole pages come from.
pub(crate) trait Pages: std::fmt::Debug {
    /// Gives `count` fresh pages in one piece, or `None` if there are no more.
    fn take(&mut self, count: usize) -> Option<NonNull<u8>>;
}

/// An arena first, pages afterwards.
#[derive(Debug)]
pub(crate) struct Heap<P> {
    /// Until it is in use.
    arena: Option<NonNull<[u8]>>,
    pages: P,
    /// The bytes taken from `pages`.
    taken: usize,
    /// The end of the piece taken last.
    end: Option<NonNull<u8>>,
}

impl<P: Pages> Heap<P> {
    /// The heap has the arena for itself from now on.
    pub(crate) const fn new(arena: NonNull<[u8]>, pages: P) -> Self {
        Self { arena: Some(arena), pages, taken: 0, end: None }
    }

    /// Pages for an allocation, more than it needs if there are that many.
    fn step(&mut self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        let needed = layout.size().checked_add(layout.align())?.checked_add(OVERHEAD)?.div_ceil(PAGE);
        let wished = (self.taken / STEP_SHARE).min(LARGEST_STEP) / PAGE;
        let mut count = needed.max(wished);
        let start = self.pages.take(count).or_else(|| {
            count = needed;
            self.pages.take(count)
        })?;
        Some((start, count * PAGE))
    }
}

#[expect(unsafe_code, reason = "an allocator hands out memory")]
mod source {
    use super::{ARENA, Binning, Heap, Layout, Pages, Source, Talc};

    // SAFETY: nothing here allocates, so nothing can call the allocator while it waits for memory.
    unsafe impl<P: Pages> Source for Heap<P> {
        fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
            if let Some(arena) = talc.source.arena.take() {
                // SAFETY: whoever made the heap gave the arena away, and it is claimed once.
                let claimed = unsafe { talc.claim(arena.cast().as_ptr(), arena.len()) };
                debug_assert!(claimed.is_some(), "the arena has room for the bookkeeping");
                if claimed.is_some() && layout.size() < ARENA {
                    return Ok(());
                }
            }
            let (start, length) = talc.source.step(layout).ok_or(())?;
            // The very last byte of the address space stays unused, for its end would be address 0.
            let length = if start.as_ptr().addr().checked_add(length).is_none() { length - 1 } else { length };
            let end = start.as_ptr().wrapping_add(length);
            // SAFETY: the pages are fresh, and an extended heap ends exactly where they start.
            let end = unsafe {
                match talc.source.end {
                    Some(former) if former == start => Some(talc.extend(former, end)),
                    _ => talc.claim(start.as_ptr(), length),
                }
            };
            talc.source.taken += length;
            talc.source.end = end;
            end.map(|_| ()).ok_or(())
        }
    }
}

#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
mod global {
    use std::arch::wasm32::memory_grow;
    use std::ptr::NonNull;

    use talc::cell::TalcSyncCell;
    use talc::wasm::WasmBinning;

    use super::{ARENA, Heap, PAGE, Pages};

    /// The module's memory.
    #[derive(Debug)]
    struct Memory;

    impl Pages for Memory {
        fn take(&mut self, count: usize) -> Option<NonNull<u8>> {
            match memory_grow::<0>(count) {
                usize::MAX => None,
                former => NonNull::new((former * PAGE) as *mut u8),
            }
        }
    }

    /// Aligned for everything, so that no byte of it is lost.
    #[repr(C, align(16))]
    struct Arena([u8; ARENA]);

    static mut ARENA_MEMORY: Arena = Arena([0; ARENA]);

    // Without the atomics feature there is one thread, which `new_wasm` makes sure of.
    #[global_allocator]
    static ALLOCATOR: TalcSyncCell<Heap<Memory>, WasmBinning> = TalcSyncCell::new_wasm(Heap::new(
        match NonNull::new((&raw mut ARENA_MEMORY).cast::<u8>()) {
            Some(start) => NonNull::slice_from_raw_parts(start, ARENA),
            None => panic!("a static has an address"),
        },
        Memory,
    ));
}

#[cfg(test)]
mod tests;
