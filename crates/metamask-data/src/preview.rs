//! Contact sheets: many small images in one picture, for people to look at.

use std::path::Path;

use anyhow::Context;
use image::{Rgb, RgbImage};

use crate::dataset::Images;

/// One small image: `[height, width, 3]` bytes.
#[derive(Clone, Debug)]
pub struct Tile<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl<'a> Tile<'a> {
    /// One of a data set's images.
    ///
    /// # Panics
    /// If there is no image of that index.
    pub fn of(images: &'a Images, index: usize) -> Self {
        Self { bytes: images.image(index), height: images.height(), width: images.width() }
    }
}

/// Gap between the tiles, in pixels of the sheet.
const GAP: usize = 2;
const PAPER: Rgb<u8> = Rgb([255; 3]);

/// Lays rows of equally sized tiles out on white, each pixel `scale` × `scale`.
///
/// Rows may differ in length; no tile gives an empty picture.
///
/// # Panics
/// If tiles differ in size or a tile's bytes do not fit its size, or `scale` is 0.
pub fn contact_sheet(rows: &[Vec<Tile<'_>>], scale: usize) -> RgbImage {
    let Some(first) = rows.iter().flatten().next() else { return RgbImage::new(0, 0) };
    assert!(scale > 0, "contact_sheet: scale must be positive");
    let (height, width) = (first.height, first.width);
    let columns = rows.iter().map(Vec::len).max().expect("there is a row");
    let extent = |n: usize, side: usize| {
        u32::try_from(n * (side * scale + GAP) + GAP).expect("a sheet that fits a picture")
    };
    let size = (extent(columns, width), extent(rows.len(), height));
    let mut sheet = RgbImage::from_pixel(size.0, size.1, PAPER);
    for (row, tiles) in rows.iter().enumerate() {
        for (column, tile) in tiles.iter().enumerate() {
            assert!(
                (tile.height, tile.width) == (height, width)
                    && tile.bytes.len() == height * width * Images::CHANNELS,
                "contact_sheet: tiles must be {height}x{width}x3 bytes"
            );
            let (left, top) = (extent(column, width), extent(row, height));
            for y in 0..height * scale {
                for x in 0..width * scale {
                    let start = ((y / scale) * width + x / scale) * Images::CHANNELS;
                    let pixel = Rgb([0, 1, 2].map(|c| tile.bytes[start + c]));
                    sheet.put_pixel(left + x as u32, top + y as u32, pixel);
                }
            }
        }
    }
    sheet
}

/// Writes a picture as PNG.
///
/// # Errors
/// If the file cannot be written.
pub fn save_png(picture: &RgbImage, path: &Path) -> anyhow::Result<()> {
    picture
        .save_with_format(path, image::ImageFormat::Png)
        .with_context(|| format!("failed to write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_stand_upright_side_by_side_and_enlarged() {
        // 1×2 pixels: red, green; and blue, black.
        let bytes = [[255, 0, 0, 0, 255, 0], [0, 0, 255, 0, 0, 0]];
        let tiles: Vec<_> = bytes.iter().map(|bytes| Tile { bytes, height: 1, width: 2 }).collect();
        let sheet = contact_sheet(&[tiles.clone(), tiles[..1].to_vec()], 3);
        assert_eq!(sheet.dimensions(), (2 + 2 * (6 + 2), 2 + 2 * (3 + 2)));
        let at = |x, y| sheet.get_pixel(x, y).0;
        assert_eq!((at(2, 2), at(4, 4)), ([255, 0, 0], [255, 0, 0]));
        assert_eq!((at(5, 2), at(7, 4)), ([0, 255, 0], [0, 255, 0]));
        assert_eq!((at(10, 2), at(13, 2)), ([0, 0, 255], [0, 0, 0]));
        assert_eq!((at(2, 7), at(10, 7)), ([255, 0, 0], [255; 3]));
        assert_eq!((at(0, 0), at(8, 2), at(2, 5)), ([255; 3], [255; 3], [255; 3]));
    }

    #[test]
    fn a_sheet_is_written_as_png() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        let bytes = [9, 8, 7];
        let sheet = contact_sheet(&[vec![Tile { bytes: &bytes, height: 1, width: 1 }]], 1);
        save_png(&sheet, &path).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), sheet);
        assert!(save_png(&sheet, &folder.path().join("none/sheet.png")).is_err());
    }
}
