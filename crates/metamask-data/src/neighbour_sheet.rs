//! A sheet of queries and their neighbours: what a representation takes for alike, for
//! people to look at.
//!
//! ```text
//!  query      1      2      3   …
//! ┌─────┐  ┌─────┐┌─────┐┌─────┐
//! │     │  │     ││     ││     │
//! └─────┘  └─────┘└─────┘└─────┘
//!  class    0.93   0.91   0.90
//! ```

use std::borrow::Cow;

use image::{Rgb, RgbImage};

use crate::picture::fit;
use crate::preview::{LETTER, PAPER, Tile, write_line};

/// An image with a line below it and a frame around it.
#[derive(Clone, Debug)]
pub struct Captioned<'a> {
    /// The image, which is square.
    pub tile: Tile<'a>,
    /// The line; what does not fit below the image is cut off.
    pub caption: String,
    /// What the frame says.
    pub frame: Frame,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Nothing: a thin grey line.
    Plain,
    /// Of the query's class: blue.
    SameClass,
    /// Of another class: orange. The two are told apart by everybody (Okabe & Ito 2008).
    OtherClass,
}

impl Frame {
    fn colour(self) -> Rgb<u8> {
        match self {
            Self::Plain => Rgb([200; 3]),
            Self::SameClass => Rgb([0, 114, 178]),
            Self::OtherClass => Rgb([230, 159, 0]),
        }
    }
}

/// Small images are enlarged to about this side, large ones made as small.
const SHOWN_SIDE: usize = 96;
const FRAME: usize = 3;
const GAP: usize = 6;
/// Between the query and its neighbours.
const WIDE_GAP: usize = 18;

/// Draws a row for each query: it, and its neighbours from the nearest on.
///
/// # Panics
/// If an image is not square, or differs in size from the others.
pub fn neighbour_sheet(rows: &[Vec<Captioned<'_>>]) -> RgbImage {
    let Some(first) = rows.iter().flatten().next() else { return RgbImage::new(0, 0) };
    let own = first.tile.height;
    let scale = (SHOWN_SIDE / own.max(1)).max(1);
    let side = if own * scale > SHOWN_SIDE { SHOWN_SIDE } else { own * scale };
    let cell = side + 2 * FRAME;
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let left =
        |column: usize| GAP + column * (cell + GAP) + if column > 0 { WIDE_GAP - GAP } else { 0 };
    let top = |row: usize| 2 * GAP + LETTER + row * (cell + LETTER + 3 * GAP);
    let size = (left(n_columns), top(rows.len()));
    let mut sheet = RgbImage::from_pixel(size.0 as u32, size.1 as u32, PAPER);
    for column in 0..n_columns {
        let heading = if column == 0 { "query".to_owned() } else { column.to_string() };
        write_line(&mut sheet, (left(column) + FRAME, GAP), &heading, side / LETTER);
    }
    for (row, images) in rows.iter().enumerate() {
        for (column, Captioned { tile, caption, frame }) in images.iter().enumerate() {
            let (height, width) = (tile.height, tile.width);
            assert!((height, width) == (own, own), "neighbour_sheet: images must be {own}x{own}");
            let (left, top) = (left(column), top(row));
            let shown = match side < own {
                true => Cow::Owned(fit(tile.bytes, (own, own), side)),
                false => Cow::Borrowed(tile.bytes),
            };
            let repeat = if side < own { 1 } else { scale };
            let edge = frame.colour();
            for y in 0..cell {
                for x in 0..cell {
                    let inside = |at: usize| (FRAME..FRAME + side).contains(&at);
                    let pixel = match inside(x) && inside(y) {
                        true => {
                            let (y, x) = ((y - FRAME) / repeat, (x - FRAME) / repeat);
                            let start = (y * (side / repeat) + x) * 3;
                            Rgb([0, 1, 2].map(|c| shown[start + c]))
                        }
                        false => edge,
                    };
                    sheet.put_pixel((left + x) as u32, (top + y) as u32, pixel);
                }
            }
            let below = (left + FRAME, top + cell + GAP / 2);
            write_line(&mut sheet, below, caption, side / LETTER);
        }
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(bytes: &'a [u8], side: usize, frames: &[Frame]) -> Vec<Captioned<'a>> {
        let tile = Tile { bytes, height: side, width: side };
        let image = |&frame: &Frame| Captioned { tile: tile.clone(), caption: "1".into(), frame };
        frames.iter().map(image).collect()
    }

    #[test]
    fn images_stand_in_their_frames_enlarged_or_made_small() {
        // A red image with a blue last pixel, 2 x 2 and enlarged 48 times.
        let bytes = [[255, 0, 0], [255, 0, 0], [255, 0, 0], [0, 0, 255]].concat();
        let frames = [Frame::Plain, Frame::SameClass, Frame::OtherClass];
        let sheet = neighbour_sheet(&[row(&bytes, 2, &frames), row(&bytes, 2, &frames[..2])]);
        let at = |x: usize, y: usize| sheet.get_pixel(x as u32, y as u32).0;
        let (top, cell) = (2 * GAP + LETTER, SHOWN_SIDE + 2 * FRAME);
        for (column, frame) in frames.iter().enumerate() {
            let left = GAP + column * (cell + GAP) + usize::from(column > 0) * (WIDE_GAP - GAP);
            assert_eq!(at(left, top), frame.colour().0);
            assert_eq!(at(left + FRAME, top + FRAME), [255, 0, 0]);
            assert_eq!(at(left + cell - FRAME - 1, top + cell - FRAME - 1), [0, 0, 255]);
            assert_eq!(at(left + cell - 1, top + cell - 1), frame.colour().0);
            assert_eq!(at(left + cell, top), PAPER.0);
        }
        // One image of 300 x 300, flat: the same place, the same size.
        let flat = vec![9; 300 * 300 * 3];
        let small = neighbour_sheet(&[row(&flat, 300, &frames)]);
        assert_eq!(small.width(), sheet.width());
        assert_eq!(small.get_pixel((GAP + FRAME) as u32, (top + FRAME) as u32).0, [9; 3]);
        assert_eq!(neighbour_sheet(&[]).dimensions(), (0, 0));
    }
}
