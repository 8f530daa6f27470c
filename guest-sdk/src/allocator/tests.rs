#![expect(unsafe_code, reason = "an allocator's tests allocate")]

use std::alloc::{self, GlobalAlloc};

use proptest::prelude::*;
use talc::cell::TalcCell;
use talc::wasm::WasmBinning;

use super::*;

/// Pages out of one reserved piece of memory. Now and then some are passed over, as if somebody else had grown the
/// memory in between.
#[derive(Debug)]
struct Reserve {
    start: NonNull<u8>,
    total: usize,
    used: usize,
    takes: usize,
    gap_every: usize,
}

impl Reserve {
    fn layout(total: usize) -> Layout {
        Layout::from_size_align(total * PAGE, PAGE).expect("a layout")
    }

    fn new(total: usize, gap_every: usize) -> Self {
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc::alloc(Self::layout(total)) }).expect("memory");
        Self { start, total, used: 0, takes: 0, gap_every }
    }
}

impl Pages for Reserve {
    fn take(&mut self, count: usize) -> Option<NonNull<u8>> {
        self.takes += 1;
        let gap = usize::from(self.takes.is_multiple_of(self.gap_every));
        if self.used + gap + count > self.total {
            return None;
        }
        self.used += gap;
        // SAFETY: within the reserve.
        let start = unsafe { self.start.add(self.used * PAGE) };
        self.used += count;
        Some(start)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { alloc::dealloc(self.start.as_ptr(), Self::layout(self.total)) }
    }
}

/// The heap under test, with an arena of its own.
struct World {
    heap: TalcCell<Heap<Reserve>, WasmBinning>,
    _arena: Box<[u128]>,
}

impl World {
    fn new(pages: usize, gap_every: usize) -> Self {
        let mut arena = vec![0_u128; ARENA / size_of::<u128>()].into_boxed_slice();
        let start = NonNull::from(&mut arena[..]).cast::<u8>();
        let heap = Heap::new(NonNull::slice_from_raw_parts(start, ARENA), Reserve::new(pages, gap_every));
        Self { heap: TalcCell::new(heap), _arena: arena }
    }

    /// How many pages have been taken. Ends the heap.
    fn pages(self) -> usize {
        self.heap.into_inner().source.pages.used
    }
}

/// A piece of memory in use, every byte of which holds its mark.
struct Piece {
    start: *mut u8,
    layout: Layout,
    mark: u8,
}

impl Piece {
    fn fill(&self) {
        // SAFETY: the piece is ours and this long.
        unsafe { self.start.write_bytes(self.mark, self.layout.size()) }
    }

    fn holds(&self, length: usize) -> bool {
        // SAFETY: the piece is ours, this long, and was filled.
        unsafe { std::slice::from_raw_parts(self.start, length) }.iter().all(|byte| *byte == self.mark)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, align: usize, zeroed: bool },
    Free(prop::sample::Index),
    Resize(prop::sample::Index, usize),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1_usize..256, 4 => 1_usize..8_000, 2 => 1_usize..300_000, 1 => 1_usize..3_000_000]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (size(), 0_u32..8, any::<bool>())
            .prop_map(|(size, align, zeroed)| Step::Allocate { size, align: 1 << align, zeroed }),
        3 => any::<prop::sample::Index>().prop_map(Step::Free),
        2 => (any::<prop::sample::Index>(), size()).prop_map(|(index, size)| Step::Resize(index, size)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done, every piece keeps what was written to it, and memory that runs out is told by null.
    #[test]
    fn pieces_keep_what_is_theirs(
        steps in prop::collection::vec(step(), 1..400),
        pages in 1_usize..400,
        gap_every in 2_usize..6,
    ) {
        let world = World::new(pages, gap_every);
        let heap = &world.heap;
        let mut pieces: Vec<Piece> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let mark = number as u8;
            match step {
                Step::Allocate { size, align, zeroed } => {
                    let layout = Layout::from_size_align(size, align).expect("a layout");
                    // SAFETY: the layout is not empty.
                    let start = unsafe { if zeroed { heap.alloc_zeroed(layout) } else { heap.alloc(layout) } };
                    if start.is_null() {
                        continue;
                    }
                    prop_assert_eq!(start.addr() % align, 0);
                    if zeroed {
                        let untouched = Piece { start, layout, mark: 0 };
                        prop_assert!(untouched.holds(size));
                    }
                    let piece = Piece { start, layout, mark };
                    piece.fill();
                    pieces.push(piece);
                }
                Step::Free(index) if !pieces.is_empty() => {
                    let piece = pieces.swap_remove(index.index(pieces.len()));
                    prop_assert!(piece.holds(piece.layout.size()));
                    // SAFETY: in use, and out of the list from here on.
                    unsafe { heap.dealloc(piece.start, piece.layout) };
                }
                Step::Resize(index, size) if !pieces.is_empty() => {
                    let index = index.index(pieces.len());
                    let piece = &mut pieces[index];
                    // SAFETY: in use; the new size is not 0.
                    let start = unsafe { heap.realloc(piece.start, piece.layout, size) };
                    if start.is_null() {
                        continue;
                    }
                    let kept = size.min(piece.layout.size());
                    piece.start = start;
                    piece.layout = Layout::from_size_align(size, piece.layout.align()).expect("a layout");
                    prop_assert!(piece.holds(kept));
                    piece.fill();
                }
                Step::Free(_) | Step::Resize(..) => {}
            }
        }
        for piece in pieces {
            prop_assert!(piece.holds(piece.layout.size()));
            // SAFETY: in use, and freed once.
            unsafe { heap.dealloc(piece.start, piece.layout) };
        }
    }
}

fn bytes(size: usize) -> Layout {
    Layout::from_size_align(size, 1).expect("a layout")
}

#[test]
fn what_fits_the_arena_takes_no_page() {
    let world = World::new(8, usize::MAX);
    for _ in 0..10_000 {
        // SAFETY: not empty, and freed as it was allocated.
        unsafe {
            let piece = world.heap.alloc(bytes(20_000));
            let other = world.heap.alloc(bytes(200_000));
            assert!(!piece.is_null() && !other.is_null());
            world.heap.dealloc(piece, bytes(20_000));
            world.heap.dealloc(other, bytes(200_000));
        }
    }
    assert_eq!(world.pages(), 0);
}

#[test]
fn memory_grows_in_few_steps_and_not_much_too_far() {
    const PIECES: usize = 40_000;
    let world = World::new(1_024, usize::MAX);
    for _ in 0..PIECES {
        // SAFETY: not empty.
        assert!(!unsafe { world.heap.alloc(bytes(1_000)) }.is_null());
    }
    let reserve = &world.heap.into_inner().source.pages;
    assert!(reserve.takes < 100, "{} steps", reserve.takes);
    assert!(reserve.used * PAGE < PIECES * 1_000 * 5 / 4, "{} pages", reserve.used);
}

#[test]
fn the_last_page_is_used_before_memory_runs_out() {
    let world = World::new(64, usize::MAX);
    // SAFETY: not empty.
    let count = (0..).take_while(|_| !unsafe { world.heap.alloc(bytes(4_000)) }.is_null()).count();
    assert!(count * 4_000 > (64 * PAGE + ARENA) * 9 / 10, "{count} pieces");
    assert_eq!(world.pages(), 64);
}

#[test]
fn an_impossible_size_is_null() {
    let world = World::new(2, usize::MAX);
    for size in [isize::MAX as usize, 1 << 40, ARENA + 2 * PAGE] {
        // SAFETY: not empty.
        assert!(unsafe { world.heap.alloc(bytes(size)) }.is_null());
    }
}
