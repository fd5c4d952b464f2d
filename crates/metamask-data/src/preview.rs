//! Contact sheets: many small images in one picture, for people to look at.

use image::{Rgb, RgbImage};

use crate::images::Images;

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
pub(crate) const PAPER: Rgb<u8> = Rgb([255; 3]);

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

/// Height of a line of captions, in pixels of the sheet.
const CAPTION: u32 = 12;
const INK: Rgb<u8> = Rgb([40; 3]);

/// A contact sheet with a caption over each column, cut to the column's width;
/// what is no ASCII is shown as `?`.
///
/// # Panics
/// As [`contact_sheet`].
pub fn captioned_sheet(rows: &[Vec<Tile<'_>>], captions: &[String], scale: usize) -> RgbImage {
    let sheet = contact_sheet(rows, scale);
    let Some(first) = rows.iter().flatten().next() else { return sheet };
    let column_width = first.width * scale + GAP;
    let mut captioned = RgbImage::from_pixel(sheet.width(), sheet.height() + CAPTION, PAPER);
    image::imageops::replace(&mut captioned, &sheet, 0, i64::from(CAPTION));
    for (column, caption) in captions.iter().enumerate() {
        let left = column * column_width + GAP;
        write_line(&mut captioned, (left, GAP), caption, column_width / LETTER);
    }
    captioned
}

/// Width of a letter, and its height.
pub(crate) const LETTER: usize = 8;

/// Writes the first letters of a line, as many as fit, from its upper left corner on.
pub(crate) fn write_line(
    sheet: &mut RgbImage,
    (left, top): (usize, usize),
    line: &str,
    n_letters: usize,
) {
    for (i, letter) in line.chars().take(n_letters).enumerate() {
        let code = if letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' };
        let glyph = font8x8::legacy::BASIC_LEGACY[code as usize];
        for (y, bits) in glyph.into_iter().enumerate() {
            for x in (0..LETTER).filter(|x| bits >> x & 1 == 1) {
                let (x, y) = ((left + LETTER * i + x) as u32, (top + y) as u32);
                if x < sheet.width() && y < sheet.height() {
                    sheet.put_pixel(x, y, INK);
                }
            }
        }
    }
}

/// The bytes of a picture's PNG file.
pub fn png_bytes(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let written = picture.write_to(&mut bytes, image::ImageFormat::Png);
    written.expect("RGB of eight bits fits PNG, and memory takes it");
    bytes.into_inner()
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
    fn captions_stand_over_their_columns_and_stay_within_them() {
        let bytes = [0; 16 * 16 * 3];
        let tile = Tile { bytes: &bytes, height: 16, width: 16 };
        let rows = [vec![tile.clone(), tile]];
        let captions = ["".to_owned(), "MMMMMMMMMM\u{1b}".to_owned()];
        let sheet = captioned_sheet(&rows, &captions, 1);
        let plain = contact_sheet(&rows, 1);
        assert_eq!(sheet.dimensions(), (plain.width(), plain.height() + CAPTION));
        let inked = |x: u32| (0..CAPTION).any(|y| *sheet.get_pixel(x, y) == INK);
        let columns: Vec<u32> = (0..sheet.width()).filter(|x| inked(*x)).collect();
        assert!(columns[0] >= 20 && *columns.last().unwrap() < 38, "{columns:?}");
    }

    #[test]
    fn a_sheet_is_written_as_png() {
        let bytes = [9, 8, 7];
        let sheet = contact_sheet(&[vec![Tile { bytes: &bytes, height: 1, width: 1 }]], 1);
        let png = png_bytes(&sheet);
        let format = image::ImageFormat::Png;
        assert_eq!(image::load_from_memory_with_format(&png, format).unwrap().to_rgb8(), sheet);
    }
}
