//! A set of a lease's tasks, as ranges of their offsets.

use std::ops::Range;

/// Ascending, not touching each other, none of them empty. There are few: a lease is worked off from its start, by as
/// many slots as there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<u32>>);

impl Ranges {
    /// All offsets below `count`.
    pub(super) fn up_to(count: u32) -> Self {
        Self((count > 0).then_some(0..count).into_iter().collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u32>> {
        self.0.iter().cloned()
    }

    /// Takes out everything within `gone`. Says how much of it was there.
    pub(super) fn remove(&mut self, gone: Range<u32>) -> u32 {
        if gone.is_empty() {
            return 0;
        }
        let from = self.0.partition_point(|range| range.end <= gone.start);
        let to = from + self.0[from..].partition_point(|range| range.start < gone.end);
        let touched = &self.0[from..to];
        let (Some(first), Some(last)) = (touched.first(), touched.last()) else {
            return 0;
        };
        let left = first.start..gone.start;
        let right = gone.end..last.end;
        let before: u32 = touched.iter().map(|range| range.end - range.start).sum();
        let stays: Vec<_> = [left, right].into_iter().filter(|range| range.start < range.end).collect();
        let after: u32 = stays.iter().map(|range| range.end - range.start).sum();
        self.0.splice(from..to, stays);
        before - after
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn like_a_set() {
        let mut state = 1_u32;
        let mut below = |bound: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % bound
        };
        for _ in 0..500 {
            let count = below(40);
            let mut ranges = Ranges::up_to(count);
            let mut set: BTreeSet<_> = (0..count).collect();
            for _ in 0..20 {
                let start = below(45);
                let gone = start..start + below(8);
                let before = set.len();
                set.retain(|task| !gone.contains(task));
                assert_eq!(ranges.remove(gone) as usize, before - set.len());
                assert_eq!(ranges.iter().flatten().collect::<BTreeSet<_>>(), set);
                assert!(ranges.0.iter().all(|range| range.start < range.end));
                assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
                assert_eq!(ranges.is_empty(), set.is_empty());
            }
        }
    }
}
