//! Counts in bins of equal width.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What was counted, and in which range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) counts: Vec<u64>,
}

impl Histogram {
    /// Adds up histograms of the same bins.
    pub(crate) fn sum(parts: impl IntoIterator<Item = Self>) -> Result<Self> {
        let mut parts = parts.into_iter();
        let mut sum = parts.next().context("there is no histogram to add up")?;
        for part in parts {
            ensure!(
                part.low == sum.low && part.high == sum.high && part.counts.len() == sum.counts.len(),
                "the histograms have different bins"
            );
            for (total, count) in sum.counts.iter_mut().zip(&part.counts) {
                *total += count;
            }
        }
        Ok(sum)
    }

    /// Reads `{"low": …, "high": …, "counts": […]}`, what the function `histogram` of `zmumu` returns.
    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let number = |name| value[name].as_f64().with_context(|| format!("the histogram has no number `{name}`"));
        let counts = value["counts"].as_array().context("the histogram has no list `counts`")?;
        Ok(Self {
            low: number("low")?,
            high: number("high")?,
            counts: counts
                .iter()
                .map(|count| count.as_u64().context("a count is not a whole number"))
                .collect::<Result<_>>()?,
        })
    }

    /// The width of one bin.
    pub(crate) fn width(&self) -> f64 {
        (self.high - self.low) / self.counts.len() as f64
    }

    /// The middle of bin `index`.
    pub(crate) fn centre(&self, index: usize) -> f64 {
        self.low + (index as f64 + 0.5) * self.width()
    }

    /// Everything that was counted.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The largest count.
    pub(crate) fn highest(&self) -> u64 {
        self.counts.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_add_up_bin_by_bin() {
        let part = |counts: [u64; 3]| Histogram { low: 60.0, high: 120.0, counts: counts.to_vec() };
        let sum = Histogram::sum([part([1, 2, 3]), part([10, 0, 30])]).unwrap();
        assert_eq!(sum, part([11, 2, 33]));
        assert_eq!((sum.total(), sum.highest(), sum.width()), (46, 33, 20.0));
        assert_eq!(sum.centre(2), 110.0);

        let other = Histogram { high: 121.0, ..part([1, 1, 1]) };
        assert!(Histogram::sum([sum, other]).is_err());
    }
}
