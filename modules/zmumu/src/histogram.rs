//! The histogram of the invariant mass.

use serde::Serialize;

use crate::table::Row;

/// More bins than anybody looks at, and still little memory.
const MOST_BINS: usize = 1 << 20;

/// Pairs of opposite charge, counted by their mass in bins of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, farm::schemars::JsonSchema)]
#[schemars(crate = "farm::schemars")]
pub struct Histogram {
    /// Where the first bin begins, in GeV.
    pub low: f64,
    /// Where the last bin ends, in GeV. A mass that is exactly this is beyond it.
    pub high: f64,
    /// How many pairs are in each bin.
    pub counts: Vec<u64>,
    /// How many pairs have a smaller mass.
    pub underflow: u64,
    /// How many pairs have a larger mass.
    pub overflow: u64,
    /// How many pairs were left out because both have the same charge.
    pub same_sign: u64,
    /// How many rows were read.
    pub rows: u64,
    /// The largest relative difference between a mass and the column `M` of its row; `null` without such a column.
    pub largest_difference: Option<f64>,
}

impl Histogram {
    /// An empty histogram.
    ///
    /// # Errors
    ///
    /// There are no bins, or too many, or the range is empty.
    pub fn new(low: f64, high: f64, bins: usize) -> Result<Self, String> {
        if !(low < high && (high - low).is_finite()) {
            return Err(format!("there is no mass between {low} and {high}"));
        }
        if bins == 0 || bins > MOST_BINS {
            return Err(format!("{bins} bins; there can be 1 to {MOST_BINS}"));
        }
        Ok(Self {
            low,
            high,
            counts: vec![0; bins],
            underflow: 0,
            overflow: 0,
            same_sign: 0,
            rows: 0,
            largest_difference: None,
        })
    }

    /// Counts the pair of one row.
    pub(crate) fn add(&mut self, row: &Row) {
        self.rows += 1;
        let mass = row.pair.mass();
        if let Some(given) = row.mass {
            let difference = (mass - given).abs() / given.abs();
            self.largest_difference = Some(self.largest_difference.map_or(difference, |other| other.max(difference)));
        }
        if row.pair.0.charge == row.pair.1.charge {
            self.same_sign += 1;
        } else if mass < self.low {
            self.underflow += 1;
        } else {
            let bin = (mass - self.low) / (self.high - self.low) * self.counts.len() as f64;
            // From a float to an integer, what is too large becomes the largest.
            match self.counts.get_mut(bin as usize) {
                Some(count) if mass < self.high => *count += 1,
                _ => self.overflow += 1,
            }
        }
    }
}
