//! Sets of task numbers that mostly stand side by side.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers kept as disjoint ranges that do not touch. Costs what its ranges cost, however many numbers they
/// hold; operations take the logarithm of the number of ranges, plus the ranges they touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end (exclusive).
    ranges: BTreeMap<u64, u64>,
    /// How many numbers there are.
    len: u64,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new(), len: 0 }
    }

    /// How many numbers are in the set.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether no number is in the set.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many ranges the set is kept as.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// The lowest range.
    pub fn first(&self) -> Option<Range<u64>> {
        self.ranges.first_key_value().map(|(&start, &end)| start..end)
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, &end)| number < end)
    }

    /// How many numbers below `number` are in the set. Takes the time of the ranges below it.
    pub fn count_below(&self, number: u64) -> u64 {
        self.ranges.range(..number).map(|(&start, &end)| end.min(number) - start).sum()
    }

    /// How many numbers of `range` are in the set.
    pub fn count_in(&self, range: Range<u64>) -> u64 {
        self.intersection(range).map(|part| part.end - part.start).sum()
    }

    /// The number that has so many in the set below it. Takes the time of the ranges below it.
    pub fn nth(&self, mut below: u64) -> Option<u64> {
        self.iter().find_map(|Range { start, end }| {
            let found = (below < end - start).then(|| start + below);
            below = below.saturating_sub(end - start);
            found
        })
    }

    /// The parts of `range` that are in the set, ascending.
    pub fn intersection(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let Range { start, end } = range;
        let from = self.ranges.range(..=start).next_back().map_or(start, |(&from, _)| from);
        // The bounds must not cross: `BTreeMap::range` panics if they do.
        self.ranges
            .range(from..end.max(from))
            .map(move |(&from, &to)| from.max(start)..to.min(end))
            .filter(|part| !part.is_empty())
    }

    /// Whether all of `range` is in the set.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.intersection(range.clone()).next().as_ref() == Some(range)
    }

    /// Whether any of `range` is in the set.
    pub fn meets(&self, range: &Range<u64>) -> bool {
        self.intersection(range.clone()).next().is_some()
    }

    /// Adds a range. Numbers that are in the set already stay.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Nearly always, there is no neighbour or only one.
        match self.ranges.range_mut(..=end).next_back() {
            Some((&last, last_end)) if last <= start && *last_end >= start => {
                self.len += end.saturating_sub(*last_end);
                *last_end = end.max(*last_end);
                return;
            }
            Some((_, &mut last_end)) if last_end >= start => {}
            _ => {
                self.ranges.insert(start, end);
                self.len += end - start;
                return;
            }
        }
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            if before_end >= end {
                return;
            }
            start = before;
        }
        // Whatever begins within, or where the new range ends, becomes part of it.
        while let Some((&next, &next_end)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&next);
            self.len -= next_end - next;
            end = end.max(next_end);
        }
        self.ranges.insert(start, end);
        self.len += end - start;
    }

    /// Takes a range out. Numbers that are not in the set stay out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { start, end } = range;
        if let Some((_, before_end)) = self.ranges.range_mut(..start).next_back()
            && *before_end > start
        {
            let tail = *before_end;
            *before_end = start;
            self.len -= tail - start;
            if tail > end {
                self.ranges.insert(end, tail);
                self.len += tail - end;
                return;
            }
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..end).next() {
            self.ranges.remove(&next);
            self.len -= next_end - next;
            if next_end > end {
                self.ranges.insert(end, next_end);
                self.len += next_end - end;
                return;
            }
        }
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Panics if ranges are empty, overlap or touch, or the length is not theirs.
    pub(crate) fn check_invariants(&self) {
        let mut last_end = None;
        for Range { start, end } in self.iter() {
            assert!(start < end, "range {start}..{end}");
            assert!(last_end < Some(start), "ranges overlap or touch at {start}");
            last_end = Some(end);
        }
        assert_eq!(self.len, self.iter().map(|range| range.end - range.start).sum::<u64>(), "length");
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl From<Range<u64>> for RangeSet {
    fn from(range: Range<u64>) -> Self {
        Self::from_iter([range])
    }
}
