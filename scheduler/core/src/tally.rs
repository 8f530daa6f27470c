//! Small counters by task number, zero for nearly all of them.

use std::collections::BTreeMap;
use std::ops::Range;

/// How often something happened to each number. Neighbours with the same count are kept as one run, so that a million
/// tasks which all failed once cost as much as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Start to end (exclusive) and count, which is never 0. Runs do not overlap, and those that touch differ.
    runs: BTreeMap<u64, (u64, u32)>,
}

impl Tally {
    /// The count of `number`.
    pub(crate) fn get(&self, number: u64) -> u32 {
        self.run_at(number).0
    }

    /// The count of `number`, and the first number above it whose count may differ.
    pub(crate) fn run_at(&self, number: u64) -> (u32, u64) {
        match self.runs.range(..=number).next_back() {
            Some((_, &(end, count))) if number < end => (count, end),
            _ => (0, self.runs.range(number..).next().map_or(u64::MAX, |(&start, _)| start)),
        }
    }

    /// The parts of `range` whose count is not 0, ascending.
    pub(crate) fn runs_in(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, u32)> {
        let Range { start, end } = range;
        let from = self.runs.range(..=start).next_back().map_or(start, |(&from, _)| from);
        // The bounds must not cross: `BTreeMap::range` panics if they do.
        self.runs
            .range(from..end.max(from))
            .map(move |(&from, &(to, count))| (from.max(start)..to.min(end), count))
            .filter(|(part, _)| !part.is_empty())
    }

    /// Adds one to the count of every number in `range`.
    pub(crate) fn raise(&mut self, range: Range<u64>) {
        let mut raised = Vec::new();
        let mut at = range.start;
        for (run, count) in self.runs_in(range.clone()) {
            raised.push((at..run.start, 1));
            at = run.end;
            raised.push((run, count.saturating_add(1)));
        }
        raised.push((at..range.end, 1));
        self.clear(range);
        raised.into_iter().for_each(|(run, count)| self.put(run, count));
    }

    /// Takes one from the count of every number in `range` that has any.
    pub(crate) fn lower(&mut self, range: Range<u64>) {
        let lowered: Vec<_> = self.runs_in(range.clone()).map(|(run, count)| (run, count - 1)).collect();
        self.clear(range);
        lowered.into_iter().filter(|&(_, count)| count > 0).for_each(|(run, count)| self.put(run, count));
    }

    /// Sets the count of every number in `range` to 0.
    pub(crate) fn clear(&mut self, range: Range<u64>) {
        let Range { start, end } = range;
        if self.runs.is_empty() || start >= end {
            return;
        }
        self.split(start);
        self.split(end);
        while let Some((&run, _)) = self.runs.range(start..end).next() {
            self.runs.remove(&run);
        }
    }

    /// Makes no run reach across `at`.
    fn split(&mut self, at: u64) {
        if let Some((_, run)) = self.runs.range_mut(..at).next_back()
            && run.0 > at
        {
            let tail = (run.0, run.1);
            run.0 = at;
            self.runs.insert(at, tail);
        }
    }

    /// Sets the count of numbers that have none.
    fn put(&mut self, range: Range<u64>, count: u32) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((&before, &(before_end, before_count))) = self.runs.range(..start).next_back()
            && (before_end, before_count) == (start, count)
        {
            start = before;
        }
        if let Some(&(next_end, next_count)) = self.runs.get(&end)
            && next_count == count
        {
            self.runs.remove(&end);
            end = next_end;
        }
        self.runs.insert(start, (end, count));
    }

    /// Panics if a run is empty, zero, or could be one with the next.
    pub(crate) fn check_invariants(&self) {
        let mut last = None;
        for (&start, &(end, count)) in &self.runs {
            assert!(start < end && count > 0, "run {start}..{end} of {count}");
            if let Some((last_end, last_count)) = last {
                assert!(last_end < start || (last_end == start && last_count != count), "runs overlap at {start}");
            }
            last = Some((end, count));
        }
    }
}
