//! The Mandelbrot set in tiles, put together into a PNG.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{Demo, Job};

const WIDTH: usize = 1600;
const HEIGHT: usize = 1200;
/// Divides both.
const TILE: usize = 100;
/// Red, green and blue.
const CHANNELS: usize = 3;

pub(crate) fn show(demo: &Demo<'_>) -> Result<()> {
    let arguments: Vec<Value> = corners()
        .map(|(left, top)| {
            json!({
                "left": left, "top": top, "width": TILE, "height": TILE,
                "picture_width": WIDTH, "picture_height": HEIGHT,
            })
        })
        .collect();
    let results = demo.submit(&Job::arguments(demo, "mandelbrot", "tile", &arguments.into())?)?;
    let tiles: Vec<Value> = serde_json::from_slice(&results).context("the results are not an array")?;
    ensure!(tiles.len() == corners().count(), "{} tiles instead of {}", tiles.len(), corners().count());

    let mut picture = Picture::new(WIDTH, HEIGHT);
    for (corner, tile) in corners().zip(&tiles) {
        picture.lay(corner, TILE, &pixels(tile)?);
    }
    ensure!(picture.is_mirrored(), "the halves above and below the real axis differ, which those of the set do not");
    let path = demo.folder().join("mandelbrot.png");
    picture.write(&path)?;
    println!("   {} tiles make {WIDTH} × {HEIGHT} pixels: {}", tiles.len(), demo.relative(&path).display());
    Ok(())
}

/// The upper left corners of all tiles.
fn corners() -> impl Iterator<Item = (usize, usize)> {
    let rows = (0..HEIGHT).step_by(TILE);
    rows.flat_map(|top| (0..WIDTH).step_by(TILE).map(move |left| (left, top)))
}

/// Raw bytes travel as they are; only the JSON that results are written as has them in base64.
fn pixels(tile: &Value) -> Result<Vec<u8>> {
    let text = tile["base64"].as_str().context("a tile is not raw bytes")?;
    let pixels = BASE64.decode(text).context("a tile's base64 is broken")?;
    ensure!(pixels.len() == TILE * TILE * CHANNELS, "a tile has {} bytes", pixels.len());
    Ok(pixels)
}

/// An RGB picture that is filled tile by tile.
struct Picture {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Picture {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, bytes: vec![0; width * height * CHANNELS] }
    }

    /// Lays a tile of `width` pixels a row into the picture with its upper left corner at `(left, top)`.
    ///
    /// # Panics
    ///
    /// If the tile reaches beyond the picture.
    fn lay(&mut self, (left, top): (usize, usize), width: usize, tile: &[u8]) {
        for (row, pixels) in tile.chunks_exact(width * CHANNELS).enumerate() {
            let start = ((top + row) * self.width + left) * CHANNELS;
            self.bytes[start..start + pixels.len()].copy_from_slice(pixels);
        }
    }

    /// Whether the lower half is the upper one upside down.
    fn is_mirrored(&self) -> bool {
        let rows = || self.bytes.chunks_exact(self.width * CHANNELS);
        rows().eq(rows().rev())
    }

    fn write(&self, path: &Path) -> Result<()> {
        let context = || format!("cannot write `{}`", path.display());
        let file = BufWriter::new(File::create(path).with_context(context)?);
        let mut encoder = png::Encoder::new(file, u32::try_from(self.width)?, u32::try_from(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().with_context(context)?;
        writer.write_image_data(&self.bytes).with_context(context)?;
        writer.finish().with_context(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn tiles_cover_the_picture_once() {
        let mut picture = Picture::new(WIDTH, HEIGHT);
        for corner in corners() {
            let before = picture.bytes.iter().filter(|&&byte| byte == 1).count();
            picture.lay(corner, TILE, &[1; TILE * TILE * CHANNELS]);
            let after = picture.bytes.iter().filter(|&&byte| byte == 1).count();
            assert_eq!(after - before, TILE * TILE * CHANNELS, "the tile at {corner:?} lies on another");
        }
        assert!(picture.bytes.iter().all(|&byte| byte == 1));
    }

    #[test]
    fn the_file_holds_the_pixels() {
        let mut picture = Picture::new(3, 2);
        picture.lay((1, 0), 2, &[10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25]);
        let path = std::env::temp_dir().join(format!("xtask-picture-{}.png", std::process::id()));
        picture.write(&path).unwrap();
        let mut reader = png::Decoder::new(BufReader::new(File::open(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        let expected = [0, 0, 0, 10, 11, 12, 13, 14, 15, 0, 0, 0, 20, 21, 22, 23, 24, 25];
        assert_eq!(pixels[..info.buffer_size()], expected);
    }

    #[test]
    fn a_tile_out_of_place_is_noticed() {
        let mut picture = Picture::new(2, 4);
        picture.lay((0, 0), 2, &[1; 6]);
        assert!(!picture.is_mirrored());
        picture.lay((0, 3), 2, &[1; 6]);
        assert!(picture.is_mirrored());
    }

    #[test]
    fn a_tile_of_the_wrong_size_is_refused() {
        let tile = |bytes: usize| json!({"base64": BASE64.encode(vec![0; bytes])});
        assert!(pixels(&tile(TILE * TILE * CHANNELS)).is_ok());
        assert!(pixels(&tile(TILE * TILE)).is_err());
        assert!(pixels(&json!("text")).is_err());
    }
}
