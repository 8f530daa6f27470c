//! The Z's mass from the histogram: a least-squares fit of the line shape that the events were made with.

use super::histogram::Histogram;

/// The width of the Z in GeV (Particle Data Group, 2024). Fixed in the fit: the detector's resolution hides it.
const WIDTH: f64 = 2.4955;

/// Nodes of the sum that stands for the integral over the detector's resolution, in standard deviations.
const SPREAD: f64 = 4.0;
const NODES: i32 = 20;

const ITERATIONS: usize = 200;

/// A relativistic Breit-Wigner peak as a detector sees it whose error is Gaussian and grows with the mass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peak {
    /// Events under the peak's whole line shape, up to a constant factor.
    scale: f64,
    /// The position in GeV.
    pub(crate) mass: f64,
    /// The standard deviation of the detector's error at that mass in GeV.
    pub(crate) resolution: f64,
}

/// A peak and how well it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit {
    pub(crate) peak: Peak,
    /// One standard deviation of [`Peak::mass`], from the counts alone.
    pub(crate) mass_error: f64,
    /// The sum of squared deviations in units of their errors.
    pub(crate) chi_square: f64,
    /// Bins less parameters.
    pub(crate) freedom: usize,
}

impl Peak {
    /// The events expected in a bin of this width about `centre`.
    pub(crate) fn events(&self, centre: f64, width: f64) -> f64 {
        // Simpson's rule over both halves of the bin: the line shape bends within a GeV.
        let density = |quarters: f64| self.density(centre + quarters / 4.0 * width);
        let ends = density(-2.0) + density(2.0);
        let between = 4.0 * (density(-1.0) + density(1.0)) + 2.0 * density(0.0);
        width / 12.0 * (ends + between)
    }

    fn density(&self, measured: f64) -> f64 {
        let relative = self.resolution / self.mass;
        let step = SPREAD / f64::from(NODES);
        let (mut sum, mut weights) = (0.0, 0.0);
        for node in -NODES..=NODES {
            let deviation = f64::from(node) * step;
            let weight = (-deviation * deviation / 2.0).exp();
            // The mass that this error makes look like the measured one.
            let factor = 1.0 + relative * deviation;
            sum += weight * self.line_shape(measured / factor) / factor;
            weights += weight;
        }
        self.scale * sum / weights
    }

    /// The relativistic Breit-Wigner curve, a density of the mass (that of its square has no factor in front).
    fn line_shape(&self, mass: f64) -> f64 {
        let (square, pole) = (mass * mass, self.mass * self.mass);
        2.0 * mass / ((square - pole).powi(2) + pole * WIDTH * WIDTH)
    }

    fn parameters(&self) -> [f64; 3] {
        [self.scale, self.mass, self.resolution]
    }

    fn from_parameters([scale, mass, resolution]: [f64; 3]) -> Self {
        Self { scale, mass, resolution: resolution.abs() }
    }
}

/// Fits the peak by the method of Levenberg and Marquardt; `None` if there is none to fit.
pub(crate) fn fit(histogram: &Histogram) -> Option<Fit> {
    let bins = histogram.counts.len();
    let highest = histogram.highest();
    let freedom = bins.checked_sub(3).filter(|&freedom| freedom > 0)?;
    if highest == 0 {
        return None;
    }
    let top = histogram.counts.iter().position(|&count| count == highest)?;
    let mut peak = Peak { scale: 1.0, mass: histogram.centre(top), resolution: 1.0 };
    peak.scale = highest as f64 / peak.events(peak.mass, histogram.width());

    let mut damping = 1e-3;
    let mut best = chi_square(histogram, &peak);
    for _ in 0..ITERATIONS {
        let (curvature, gradient) = normal_equations(histogram, &peak);
        let mut damped = curvature;
        for (index, row) in damped.iter_mut().enumerate() {
            row[index] *= 1.0 + damping;
        }
        let step = solve(damped, gradient)?;
        let mut next = peak.parameters();
        for (parameter, change) in next.iter_mut().zip(step) {
            *parameter += change;
        }
        let next = Peak::from_parameters(next);
        let reached = chi_square(histogram, &next);
        if reached < best {
            let gained = best - reached;
            (peak, best, damping) = (next, reached, damping / 10.0);
            if gained < 1e-6 {
                break;
            }
        } else {
            damping *= 10.0;
            if damping > 1e12 {
                break;
            }
        }
    }
    // The inverse of the curvature is the covariance; its middle column belongs to the mass.
    let (curvature, _) = normal_equations(histogram, &peak);
    let covariance = solve(curvature, [0.0, 1.0, 0.0])?;
    Some(Fit { peak, mass_error: covariance[1].sqrt(), chi_square: best, freedom })
}

/// The variance of a count, which an empty bin has too.
fn variance(count: u64) -> f64 {
    count.max(1) as f64
}

fn chi_square(histogram: &Histogram, peak: &Peak) -> f64 {
    let width = histogram.width();
    histogram
        .counts
        .iter()
        .enumerate()
        .map(|(index, &count)| {
            let expected = peak.events(histogram.centre(index), width);
            (count as f64 - expected).powi(2) / variance(count)
        })
        .sum()
}

/// The matrix and the right-hand side that give the next step, by numerical derivatives.
fn normal_equations(histogram: &Histogram, peak: &Peak) -> ([[f64; 3]; 3], [f64; 3]) {
    let width = histogram.width();
    let here = peak.parameters();
    let steps = [here[0] * 1e-5, 1e-4, 1e-4];
    let mut matrix = [[0.0; 3]; 3];
    let mut right = [0.0; 3];
    for (index, &count) in histogram.counts.iter().enumerate() {
        let centre = histogram.centre(index);
        let at = |parameter: usize, step: f64| {
            let mut moved = here;
            moved[parameter] += step;
            Peak::from_parameters(moved).events(centre, width)
        };
        let slopes: [f64; 3] = std::array::from_fn(|parameter| {
            let step = steps[parameter];
            (at(parameter, step) - at(parameter, -step)) / (2.0 * step)
        });
        let weight = 1.0 / variance(count);
        let missing = count as f64 - peak.events(centre, width);
        for row in 0..3 {
            right[row] += weight * slopes[row] * missing;
            for column in 0..3 {
                matrix[row][column] += weight * slopes[row] * slopes[column];
            }
        }
    }
    (matrix, right)
}

/// Solves three linear equations by Gauss's elimination with pivoting; `None` if they are not independent.
fn solve(mut matrix: [[f64; 3]; 3], mut right: [f64; 3]) -> Option<[f64; 3]> {
    for column in 0..3 {
        let pivot = (column..3).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()))?;
        if matrix[pivot][column].abs() < f64::MIN_POSITIVE {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        for row in 0..3 {
            if row != column {
                let factor = matrix[row][column] / matrix[column][column];
                let above = matrix[column];
                for (cell, above) in matrix[row].iter_mut().zip(above) {
                    *cell -= factor * above;
                }
                right[row] -= factor * right[column];
            }
        }
    }
    Some(std::array::from_fn(|index| right[index] / matrix[index][index]))
}

/// A histogram that is exactly what the peak predicts, for the tests of everything that draws one.
#[cfg(test)]
pub(crate) fn expected(events: f64, mass: f64, resolution: f64) -> Histogram {
    let mut histogram = Histogram { low: 60.0, high: 120.0, counts: vec![0; 60] };
    let peak = |scale| Peak { scale, mass, resolution };
    let all: f64 = (0..60).map(|index| peak(1.0).events(histogram.centre(index), 1.0)).sum();
    histogram.counts =
        (0..60).map(|index| peak(events / all).events(histogram.centre(index), 1.0).round() as u64).collect();
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_that_made_the_histogram_is_found() {
        for (mass, resolution) in [(91.188, 1.5), (90.4, 2.5), (92.6, 0.8)] {
            let fit = fit(&expected(1e6, mass, resolution)).unwrap();
            assert!((fit.peak.mass - mass).abs() < 1e-3, "{fit:?}");
            assert!((fit.peak.resolution - resolution).abs() < 1e-2, "{fit:?}");
            assert!((0.001..0.01).contains(&fit.mass_error), "{fit:?}");
            assert!(fit.chi_square < fit.freedom as f64, "{fit:?}");
        }
    }

    #[test]
    fn where_there_is_no_peak_there_is_no_fit() {
        let empty = Histogram { low: 60.0, high: 120.0, counts: vec![0; 60] };
        assert!(fit(&empty).is_none());
    }
}
