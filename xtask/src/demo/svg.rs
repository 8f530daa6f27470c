//! The Z peak as a figure: points with error bars, the fitted curve, axes with units.

use std::fmt::Write as _;

use super::fit::Fit;
use super::histogram::Histogram;
use super::terminal::thousands;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 580.0;
const LEFT: f64 = 116.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 72.0;

/// Points of the fitted curve in one bin.
const SMOOTHNESS: usize = 10;

/// Words around the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels<'a> {
    pub(crate) title: &'a str,
    /// What is on the horizontal axis, with its unit.
    pub(crate) quantity: &'a str,
    pub(crate) unit: &'a str,
    /// One line each, in the corner above the data's left tail.
    pub(crate) notes: &'a [String],
}

/// From the data's coordinates to the picture's.
struct Frame {
    low: f64,
    high: f64,
    top: f64,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)
    }
}

/// Draws the histogram, and the fitted curve if there is one.
pub(crate) fn histogram(histogram: &Histogram, fit: Option<&Fit>, labels: Labels<'_>) -> String {
    let highest = histogram.highest().max(1) as f64;
    let frame = Frame { low: histogram.low, high: histogram.high, top: (highest + highest.sqrt()) * 1.06 };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"15\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    axes(&mut svg, &frame, histogram, labels);
    if let Some(fit) = fit {
        curve(&mut svg, &frame, histogram, fit);
    }
    points(&mut svg, &frame, histogram);
    legend(&mut svg, fit.is_some(), labels.notes);
    svg.push_str("</svg>\n");
    svg
}

/// Appends one element; the arguments are those of `format!`.
macro_rules! element {
    ($svg:expr, $($format:tt)*) => {
        // Writing to a `String` cannot fail.
        let _ = writeln!($svg, $($format)*);
    };
}

fn axes(svg: &mut String, frame: &Frame, histogram: &Histogram, labels: Labels<'_>) {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for value in ticks(frame.low, frame.high, 7) {
        let x = frame.x(value);
        element!(svg, "<path d=\"M{x:.1} {bottom}v6\" stroke=\"black\"/>");
        element!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>", bottom + 24.0);
    }
    for value in ticks(0.0, frame.top, 6) {
        let y = frame.y(value);
        if value > 0.0 {
            element!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e4e4e4\"/>");
        }
        element!(svg, "<path d=\"M{LEFT} {y:.1}h-6\" stroke=\"black\"/>");
        element!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            y + 5.0,
            thousands(value as u64)
        );
    }
    element!(svg, "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"black\" stroke-width=\"1.5\"/>");
    element!(svg, "<text x=\"{LEFT}\" y=\"34\" font-size=\"19\" font-weight=\"bold\">{}</text>", escaped(labels.title));
    element!(
        svg,
        "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"17\">{} [{}]</text>",
        HEIGHT - 18.0,
        escaped(labels.quantity),
        escaped(labels.unit)
    );
    element!(
        svg,
        "<text transform=\"translate(26 {TOP}) rotate(-90)\" text-anchor=\"end\" font-size=\"17\">\
         events / {} {}</text>",
        histogram.width(),
        escaped(labels.unit)
    );
}

fn curve(svg: &mut String, frame: &Frame, histogram: &Histogram, fit: &Fit) {
    let width = histogram.width();
    let steps = histogram.counts.len() * SMOOTHNESS;
    let points: Vec<String> = (0..=steps)
        .map(|step| {
            let mass = frame.low + step as f64 / SMOOTHNESS as f64 * width;
            let events = fit.peak.events(mass, width);
            format!("{:.1},{:.1}", frame.x(mass), frame.y(events))
        })
        .collect();
    element!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#c8102e\" stroke-width=\"2\"/>", points.join(" "));
    let x = frame.x(fit.peak.mass);
    element!(svg, "<path d=\"M{x:.1} {TOP}V{:.1}\" stroke=\"#c8102e\" stroke-dasharray=\"4 4\"/>", HEIGHT - BOTTOM);
}

fn points(svg: &mut String, frame: &Frame, histogram: &Histogram) {
    element!(svg, "<g stroke=\"black\" stroke-width=\"1.3\">");
    for (index, &count) in histogram.counts.iter().enumerate() {
        let count = count as f64;
        let error = count.sqrt();
        let (x, y) = (frame.x(histogram.centre(index)), frame.y(count));
        let (above, below) = (frame.y(count + error), frame.y((count - error).max(0.0)));
        element!(
            svg,
            "<path d=\"M{x:.1} {above:.1}V{below:.1}M{:.1} {above:.1}h6M{:.1} {below:.1}h6\"/>",
            x - 3.0,
            x - 3.0
        );
        element!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
    }
    element!(svg, "</g>");
}

fn legend(svg: &mut String, fitted: bool, notes: &[String]) {
    let x = LEFT + 24.0;
    let mut y = TOP + 26.0;
    element!(
        svg,
        "<path d=\"M{:.1} {:.1}v18\" stroke=\"black\" stroke-width=\"1.3\"/><circle cx=\"{:.1}\" cy=\"{:.1}\" \
         r=\"3\"/><text x=\"{:.1}\" y=\"{y:.1}\">events with √N errors</text>",
        x + 12.0,
        y - 14.0,
        x + 12.0,
        y - 5.0,
        x + 34.0
    );
    if fitted {
        y += 24.0;
        element!(
            svg,
            "<path d=\"M{x:.1} {:.1}h24\" stroke=\"#c8102e\" stroke-width=\"2\"/><text x=\"{:.1}\" \
             y=\"{y:.1}\">fit: Breit-Wigner ⊗ Gaussian</text>",
            y - 5.0,
            x + 34.0
        );
    }
    y += 12.0;
    for note in notes {
        y += 22.0;
        element!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(note));
    }
}

/// Round values that divide the range into about `count` parts.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&step| step >= rough * 0.999)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step * (1.0 + 1e-12)).floor() as i64;
    (first..=last).map(|index| index as f64 * step).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fit::{expected, fit};

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(ticks(60.0, 120.0, 7), [60.0, 70.0, 80.0, 90.0, 100.0, 110.0, 120.0]);
        assert_eq!(ticks(0.0, 113_000.0, 6), [0.0, 20e3, 40e3, 60e3, 80e3, 100e3]);
    }

    #[test]
    fn the_figure_says_what_it_shows() {
        let data = expected(2e4, 91.2, 1.5);
        let fit = fit(&data).unwrap();
        let notes = [format!("M = {:.2} GeV", fit.peak.mass)];
        let svg = histogram(
            &data,
            Some(&fit),
            Labels { title: "Z → μμ & more", quantity: "m(μ⁺μ⁻)", unit: "GeV", notes: &notes },
        );
        for part in ["m(μ⁺μ⁻) [GeV]", "events / 1 GeV", "M = 91.20 GeV", "Z → μμ &amp; more"] {
            assert!(svg.contains(part), "no `{part}` in {svg}");
        }
        // One point a bin and one in the legend.
        assert_eq!(svg.matches("<circle").count(), data.counts.len() + 1);
        if let Some(path) = std::env::var_os("XTASK_SVG") {
            std::fs::write(path, svg).unwrap();
        }
    }
}
