//! Pictures made of characters.

use std::fmt::Write as _;

use super::histogram::Histogram;

/// An eighth of a character's height, two eighths, … all of it.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ROWS: usize = 14;

/// Draws one column a bin, with counts on the left and the range below.
pub(crate) fn histogram(histogram: &Histogram, unit: &str) -> String {
    let highest = histogram.highest().max(1);
    let label_width = thousands(highest).len();
    let eighths: Vec<usize> = histogram
        .counts
        .iter()
        .map(|&count| {
            let share = count as f64 / highest as f64;
            let eighths = (share * (ROWS * BLOCKS.len()) as f64).round() as usize;
            // Whatever was counted at all is seen.
            eighths.max(usize::from(count > 0))
        })
        .collect();

    let mut picture = String::new();
    for row in (0..ROWS).rev() {
        let label = match row {
            _ if row == ROWS - 1 => thousands(highest),
            _ if row == ROWS / 2 - 1 => thousands(highest / 2),
            0 => "0".to_owned(),
            _ => String::new(),
        };
        let axis = if label.is_empty() { '│' } else { '┤' };
        let bars: String = eighths
            .iter()
            .map(|&eighths| match eighths.saturating_sub(row * BLOCKS.len()) {
                0 => ' ',
                here => BLOCKS[here.min(BLOCKS.len()) - 1],
            })
            .collect();
        line(&mut picture, &format!("{label:>label_width$} {axis}{bars}"));
    }
    let indent = label_width + 1;
    let columns = histogram.counts.len();
    line(&mut picture, &format!("{:indent$}└{}", "", scale_marks(columns)));
    line(&mut picture, &format!("{:indent$}{}", "", scale_labels(histogram, unit)));
    picture
}

fn line(picture: &mut String, text: &str) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(picture, "{}", text.trim_end());
}

/// A mark every ten columns.
fn scale_marks(columns: usize) -> String {
    (1..=columns).map(|column| if column % 10 == 0 { '┴' } else { '─' }).collect()
}

/// The values at the marks, centred below them, and the unit after the last.
fn scale_labels(histogram: &Histogram, unit: &str) -> String {
    let mut labels = String::new();
    for column in (0..=histogram.counts.len()).step_by(10) {
        let value = histogram.low + column as f64 * histogram.width();
        let label = format!("{value}");
        let start = (column + 1).saturating_sub(label.len().div_ceil(2));
        let missing = start.saturating_sub(labels.chars().count());
        labels.extend(std::iter::repeat_n(' ', missing));
        labels.push_str(&label);
    }
    let _ = write!(labels, " {unit}");
    labels
}

/// A bar of `width` characters of which `share` is filled, for tables.
pub(crate) fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * BLOCKS.len()) as f64).round() as usize;
    // The partial blocks of a horizontal bar grow from the left: ▏▎▍▌▋▊▉.
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % BLOCKS.len()];
    format!("{}{rest}", "█".repeat(eighths / BLOCKS.len()))
}

/// `1234567` as `1 234 567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fit::expected;

    #[test]
    fn numbers_are_grouped_in_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn bars_have_eighths() {
        assert_eq!(bar(1.0, 3), "███");
        assert_eq!(bar(0.5, 3), "█▌");
        assert_eq!(bar(0.0, 3), "");
    }

    #[test]
    fn a_histogram_has_its_peak_where_it_belongs_and_a_scale() {
        let picture = histogram(&expected(1e5, 91.2, 1.5), "GeV");
        let lines: Vec<&str> = picture.lines().collect();
        assert_eq!(lines.len(), ROWS + 2);
        // The top row holds the highest bin only, that of 91 to 92 GeV: 31 columns of bars come before it.
        let top = lines[0].split_once('┤').unwrap().1;
        assert_eq!(top.chars().position(|c| c == '█'), Some(31), "{picture}");
        assert!(lines[ROWS + 1].trim_start().starts_with("60        70"), "{picture}");
        assert!(picture.trim_end().ends_with("120 GeV"), "{picture}");
        // Nothing that was counted is invisible.
        let bottom = lines[ROWS - 1].split_once('┤').unwrap().1;
        assert_eq!(bottom.chars().count(), 60, "{picture}");
        assert!(!bottom.contains(' '), "{picture}");
    }
}
