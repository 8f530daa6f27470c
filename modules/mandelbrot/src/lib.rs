//! Draws the Mandelbrot set, one tile a task.

use serde::Deserialize;

/// Red, green and blue.
const CHANNELS: usize = 3;

/// A point that stays this long is taken to stay for ever.
const LIMIT: u32 = 1_000;

/// The square of a distance from which no point returns. Larger than it must be, for smooth colours.
const FAR: f64 = 256.0 * 256.0;

/// No tile has more pixels than this.
const LARGEST: usize = 1 << 24;

/// The middle of the picture, and what its width spans.
const MIDDLE: (f64, f64) = (-0.65, 0.0);
const SPAN: f64 = 3.2;

/// Which part of which picture to draw.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// Where the tile's upper left corner is in the picture.
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
    pub picture_width: usize,
    pub picture_height: usize,
}

/// The pixels of a tile: rows from top to bottom, three bytes a pixel (red, green, blue).
///
/// The argument is JSON: `{"left": 0, "top": 0, "width": 100, "height": 100, "picture_width": 1600, "picture_height":
/// 1200}`.
#[farm::function(raw)]
pub fn tile(argument: &[u8]) -> Result<Vec<u8>, String> {
    let tile: Tile = serde_json::from_slice(argument).map_err(|error| format!("this is no tile: {error}"))?;
    draw(&tile)
}

fn draw(tile: &Tile) -> Result<Vec<u8>, String> {
    let inside = |start: usize, length: usize, whole: usize| start.checked_add(length).is_some_and(|end| end <= whole);
    if !inside(tile.left, tile.width, tile.picture_width) || !inside(tile.top, tile.height, tile.picture_height) {
        return Err("the tile reaches beyond the picture".to_owned());
    }
    let pixels = tile.width.checked_mul(tile.height).filter(|pixels| *pixels <= LARGEST);
    let pixels = pixels.ok_or_else(|| format!("the tile has more than {LARGEST} pixels"))?;

    let step = SPAN / tile.picture_width as f64;
    let coordinate =
        |middle: f64, position: usize, whole: usize| middle + (position as f64 + 0.5 - whole as f64 / 2.0) * step;
    let mut bytes = Vec::with_capacity(pixels * CHANNELS);
    for row in tile.top..tile.top + tile.height {
        let y = coordinate(MIDDLE.1, row, tile.picture_height);
        for column in tile.left..tile.left + tile.width {
            bytes.extend(colour(escape(coordinate(MIDDLE.0, column, tile.picture_width), y)));
        }
    }
    Ok(bytes)
}

/// How many steps of z → z² + c it takes to get far away, with a smooth fraction; `None` for a point of the set.
fn escape(x: f64, y: f64) -> Option<f64> {
    // The two largest parts of the set have formulas, and would take the longest.
    let q = (x - 0.25).powi(2) + y * y;
    if q * (q + x - 0.25) <= 0.25 * y * y || (x + 1.0).powi(2) + y * y <= 0.0625 {
        return None;
    }
    let (mut re, mut im) = (0.0_f64, 0.0_f64);
    for step in 0..LIMIT {
        let (re2, im2) = (re * re, im * im);
        if re2 + im2 > FAR {
            // Each further step squares the distance.
            return Some(f64::from(step) + 1.0 - ((re2 + im2).ln() / FAR.ln()).log2());
        }
        (re, im) = (re2 - im2 + x, 2.0 * re * im + y);
    }
    None
}

/// Black for the set, and a wheel of colours around it that turns ever more slowly.
fn colour(escape: Option<f64>) -> [u8; CHANNELS] {
    let Some(steps) = escape else { return [0; CHANNELS] };
    let turn = 0.62 + 0.35 * steps.max(1.0).ln();
    [0.0, 0.10, 0.22].map(|phase| {
        let wave = 0.5 - 0.5 * (std::f64::consts::TAU * (turn + phase)).cos();
        (255.0 * wave) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Tile = Tile { left: 0, top: 0, width: 64, height: 48, picture_width: 64, picture_height: 48 };

    #[test]
    fn points_of_the_set_stay_and_others_leave() {
        for (x, y) in [(0.0, 0.0), (-1.0, 0.0), (-0.1, 0.75), (0.25, 0.0), (-2.0, 0.0)] {
            assert_eq!(escape(x, y), None, "{x} {y}");
        }
        for (x, y) in [(1.0, 0.0), (0.26, 0.0), (-0.75, 0.3), (-2.01, 0.0)] {
            assert!(escape(x, y).is_some(), "{x} {y}");
        }
    }

    #[test]
    fn tiles_make_the_whole() {
        let whole = draw(&WHOLE).expect("a picture");
        assert_eq!(whole.len(), 64 * 48 * CHANNELS);
        let quarter = draw(&Tile { left: 32, top: 24, width: 32, height: 24, ..WHOLE }).expect("a tile");
        for (row, pixels) in quarter.chunks_exact(32 * CHANNELS).enumerate() {
            let start = ((24 + row) * 64 + 32) * CHANNELS;
            assert_eq!(pixels, &whole[start..start + 32 * CHANNELS]);
        }
        let black = whole.chunks_exact(CHANNELS).filter(|pixel| *pixel == [0; CHANNELS]).count();
        // The set's area is 1.507, of 3.2 × 2.4.
        assert!((0.17..0.23).contains(&(black as f64 / (64.0 * 48.0))), "{black} black pixels");
    }

    #[test]
    fn what_is_no_tile_is_refused() {
        assert_eq!(draw(&Tile { left: 1, ..WHOLE }), Err("the tile reaches beyond the picture".to_owned()));
        let large = Tile { width: 1 << 20, picture_width: 1 << 20, ..WHOLE };
        assert_eq!(draw(&large), Err("the tile has more than 16777216 pixels".to_owned()));
        assert!(tile(b"{}").is_err_and(|error| error.starts_with("this is no tile: missing field `left`")));
    }
}
