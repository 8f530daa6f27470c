//! Ranges of tasks as bytes, and checksums.

use std::ops::Range;

use farm_proto::message::Batch;

/// Ranges as a postcard: of each, how far it is from the end of the one before, and how long it is.
pub(crate) fn encode_ranges(ranges: &[Range<u64>]) -> Vec<u8> {
    let mut last = 0;
    let gaps: Vec<(u64, u64)> = ranges
        .iter()
        .map(|range| {
            let gap = range.start.saturating_sub(last);
            last = range.end;
            (gap, range.end.saturating_sub(range.start))
        })
        .collect();
    // Numbers always fit into a vector.
    postcard::to_stdvec(&gaps).unwrap_or_default()
}

/// The ranges that [`encode_ranges`] was given: ascending, none of them empty. None if the bytes are something else.
pub(crate) fn decode_ranges(bytes: &[u8]) -> Option<Vec<Range<u64>>> {
    let gaps: Vec<(u64, u64)> = postcard::from_bytes(bytes).ok()?;
    let mut last: u64 = 0;
    let range = |(gap, length)| {
        let start = last.checked_add(gap)?;
        let end = start.checked_add(length).filter(|_| length > 0)?;
        last = end;
        Some(start..end)
    };
    gaps.into_iter().map(range).collect()
}

/// Which outcomes of a batch are failures, as ranges of offsets.
pub(crate) fn failed_offsets(batch: &Batch) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    batch.failures.iter().for_each(|(offset, _)| push_joined(&mut ranges, u64::from(*offset)..u64::from(*offset) + 1));
    ranges
}

/// Adds a range, joined to the last one if that ends where it begins.
pub(crate) fn push_joined(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// A checksum over the columns of a row, in order.
#[derive(Debug)]
pub(crate) struct Sum(blake3::Hasher);

impl Sum {
    /// `table` keeps rows of one table from being taken for another's.
    pub(crate) fn new(table: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(table.as_bytes());
        Self(hasher)
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    pub(crate) fn maybe(self, number: Option<u64>) -> Self {
        self.number(number.is_some().into()).number(number.unwrap_or_default())
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let mut sum = self.number(bytes.len() as u64);
        sum.0.update(bytes);
        sum
    }

    pub(crate) fn finish(self) -> [u8; 16] {
        let mut sum = [0; 16];
        self.0.finalize_xof().fill(&mut sum);
        sum
    }

    /// A short one, for many small rows.
    pub(crate) fn seal(self) -> i64 {
        let mut sum = [0; 8];
        self.0.finalize_xof().fill(&mut sum);
        i64::from_le_bytes(sum)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_come_back(gaps in prop::collection::vec((0u64..1 << 40, 1u64..1 << 40), 0..20)) {
            let mut last = 0;
            let ranges: Vec<Range<u64>> = gaps
                .into_iter()
                .map(|(gap, length)| {
                    let start = last + gap;
                    last = start + length;
                    start..last
                })
                .collect();
            prop_assert_eq!(decode_ranges(&encode_ranges(&ranges)), Some(ranges));
        }

        #[test]
        fn other_bytes_are_no_ranges_or_good_ones(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(ranges) = decode_ranges(&bytes) {
                prop_assert!(ranges.iter().all(|range| range.start < range.end));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
            }
        }
    }
}
