//! A particle physicist's job: makes Z → μμ events, and finds the Z in tables of such events.
//!
//! A table is a CSV file with one event a row and the columns of CMS's open data: `Run,Event,E1,px1,py1,pz1,Q1,E2,px2,
//! py2,pz2,Q2,M`. Energies and momenta are in GeV, charges in units of that of the positron.

mod event;
mod histogram;
mod table;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

pub use histogram::Histogram;

/// Where the files are that an input named `events` ships.
const EVENTS: &str = "/in/events";

/// Makes a table of simulated events, as the detector sees them.
///
/// The Z has a mass of the relativistic Breit-Wigner distribution, a transverse momentum and a rapidity; it decays
/// isotropically in its rest frame; each muon's momentum is measured with an error of about a percent.
#[farm::function]
pub fn generate(events: u64) -> String {
    let mut rng = farm::rng();
    let first = farm::task().index.saturating_mul(events);
    let mut text = String::from(table::HEADER);
    for number in 0..events {
        let pair = event::generate(&mut rng);
        table::write_row(&mut text, first.saturating_add(number) + 1, &pair);
    }
    text
}

/// The histogram of the invariant mass of all pairs of opposite charge in a table, which lies in the input `events`
/// unless its path begins with `/`.
///
/// `rows` is a range such as `[0, 1000]`: the first row, and the one behind the last. Without it all rows are read.
#[farm::function]
pub fn histogram(
    file: String,
    low: f64,
    high: f64,
    bins: usize,
    rows: Option<(usize, usize)>,
) -> Result<Histogram, String> {
    // Joining an absolute path gives that path.
    let path = Path::new(EVENTS).join(file);
    let text = File::open(&path).map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    let mut histogram = Histogram::new(low, high, bins)?;
    let (first, end) = rows.unwrap_or((0, usize::MAX));
    let rows = table::read(BufReader::new(text)).map_err(|error| format!("{}: {error}", path.display()))?;
    for row in rows.take(end).skip(first) {
        histogram.add(&row.map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests;
