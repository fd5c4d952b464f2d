//! One encoded picture (JPEG, PNG, WebP) to upright RGB bytes of a given side.
//!
//! Colours as PIL's `convert("RGB")` has them: grey is repeated, alpha is
//! dropped, CMYK is converted; 16 bits are scaled to 8, where PIL would cut
//! them off. EXIF orientation is applied. A picture that is not square loses
//! its longer ends to the middle square, and any other size is resized once,
//! by `fast_image_resize`, bilinear with antialiasing.

use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::{Condvar, Mutex};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::error::DataError;
use crate::file;
use crate::guard::guarded;
use crate::images::Images;

/// No picture may have a longer side.
const MAX_SIDE: u32 = 16_384;
/// No picture may need more memory, decoded; 64 megapixels do.
const MAX_BYTES: u64 = 256 << 20;
/// All that are being decoded at once may need so much together.
const BUDGET: u64 = 320 << 20;
/// No encoded picture is larger.
pub(crate) const FILE_LIMIT: u64 = 256 << 20;

/// A decoded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// RGB, `[height, width, 3]`.
    pub bytes: Vec<u8>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// Reads a picture's file (JPEG, PNG or WebP), upright, at its own size.
///
/// Grey is repeated, alpha is dropped, CMYK converted, 16 bits scaled to 8. The
/// file is untrusted: its length, the picture's sides and the memory of all that
/// are decoded at once are bounded, and no panic of a decoder escapes.
///
/// # Errors
/// If the file cannot be read or is no picture within the bounds.
pub fn read_picture(path: &Path) -> Result<Picture, DataError> {
    let mut bytes = Vec::new();
    let read = file::open(path, "a picture")?.take(FILE_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| file::unreadable(path, &error))?;
    if bytes.len() as u64 > FILE_LIMIT {
        let expected = format!("a picture of at most {} MiB", FILE_LIMIT >> 20);
        return Err(DataError::content(path, "a longer file", expected));
    }
    decode(&bytes).map_err(|found| DataError::content(path, found, "a picture"))
}

/// Decodes a picture, upright.
///
/// # Errors
/// What was found instead of a picture, for people.
pub(crate) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    guarded(|| decode_unguarded(bytes)).unwrap_or_else(|_| Err("a damaged picture".into()))
}

fn decode_unguarded(bytes: &[u8]) -> Result<Picture, String> {
    if bytes.starts_with(&[0xff, JPEG_START]) && !jpeg_ends(bytes) {
        // The decoder would fill the rest with grey and say nothing.
        return Err("a damaged picture (a JPEG that is cut off)".into());
    }
    let mut decoder = decoder(bytes)?;
    let (width, height) = decoder.dimensions();
    let n_bytes = decoder.total_bytes();
    if width > MAX_SIDE || height > MAX_SIDE || n_bytes > MAX_BYTES {
        return Err(format!(
            "a picture of {width}x{height}, more than {MAX_SIDE} a side or {} MiB decoded",
            MAX_BYTES >> 20
        ));
    }
    // Decoded, converted and turned there are up to three copies.
    let _share = Share::take(3 * n_bytes.max(3 * u64::from(width) * u64::from(height)));
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| shown(&error))?;
    picture.apply_orientation(orientation);
    let rgb = picture.into_rgb8();
    let (width, height) = rgb.dimensions();
    Ok(Picture { bytes: rgb.into_raw(), height: height as usize, width: width as usize })
}

const JPEG_START: u8 = 0xd8;
const JPEG_END: u8 = 0xd9;

/// Whether a JPEG goes on to its end marker: segments with their lengths, and behind
/// each head of a scan its bytes, in which FF is followed by 0 or a restart's number
/// (ITU T.81, B.1.1). A thumbnail's own end lies within a segment.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // The next marker; FF may stand before it any number of times.
        let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff))
        else {
            return false;
        };
        at += found + 1;
        let Some(&marker) = bytes.get(at) else { return false };
        match marker {
            0xff => continue,
            JPEG_END => return true,
            0 | 0x01 | 0xd0..=0xd7 | JPEG_START => at += 1,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}

/// Rows and columns of a picture once upright, from its head alone.
pub(crate) fn size(bytes: &[u8]) -> Result<(usize, usize), String> {
    let read = || {
        let mut decoder = decoder(bytes)?;
        let (width, height) = decoder.dimensions();
        use Orientation as O;
        let lies = matches!(
            decoder.orientation().unwrap_or(O::NoTransforms),
            O::Rotate90 | O::Rotate270 | O::Rotate90FlipH | O::Rotate270FlipH
        );
        let size = (height as usize, width as usize);
        Ok(if lies { (size.1, size.0) } else { size })
    };
    guarded(read).unwrap_or_else(|_| Err("a damaged picture".into()))
}

fn decoder(bytes: &[u8]) -> Result<impl ImageDecoder + '_, String> {
    let format = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => format,
        _ => {
            let known = crate::file::recognise(bytes);
            return Err(known.unwrap_or("neither JPEG nor PNG nor WebP").to_owned());
        }
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(2 * MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    reader.into_decoder().map_err(|error| shown(&error))
}

fn shown(error: &image::ImageError) -> String {
    let text = error.to_string();
    let text: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    format!("a damaged picture ({text})")
}

/// A share of the memory for decoding; whoever comes too late waits.
struct Share(u64);

static IN_USE: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());

impl Share {
    fn take(bytes: u64) -> Self {
        let (in_use, freed) = &IN_USE;
        let mut sum = in_use.lock().expect("nothing panics with the lock");
        // One that is larger than the budget goes alone.
        while *sum > 0 && *sum + bytes > BUDGET {
            sum = freed.wait(sum).expect("nothing panics with the lock");
        }
        *sum += bytes;
        Self(bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let (in_use, freed) = &IN_USE;
        *in_use.lock().expect("nothing panics with the lock") -= self.0;
        freed.notify_all();
    }
}

/// The middle square of RGB bytes, `side` by `side`.
pub(crate) fn fit(bytes: &[u8], (height, width): (usize, usize), side: usize) -> Vec<u8> {
    if (height, width) == (side, side) {
        return bytes.to_vec();
    }
    let square = height.min(width);
    let (top, left) = ((height - square) / 2, (width - square) / 2);
    // Cut out first: the resizer would let what lies outside bleed in.
    let row = |y: usize| {
        &bytes[((top + y) * width + left) * Images::CHANNELS..][..square * Images::CHANNELS]
    };
    let middle = match height == width {
        true => Cow::Borrowed(bytes),
        false => Cow::Owned((0..square).flat_map(row).copied().collect::<Vec<u8>>()),
    };
    if square == side {
        return middle.into_owned();
    }
    let source = ImageRef::new(square as u32, square as u32, &middle, PixelType::U8x3)
        .expect("RGB bytes of that size");
    let mut target = Image::new(side as u32, side as u32, PixelType::U8x3);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false);
    Resizer::new().resize(&source, &mut target, &options).expect("both are RGB");
    let bytes = target.into_vec();
    assert_eq!(bytes.len(), side * side * Images::CHANNELS, "RGB");
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageBuffer, Luma, Rgb, RgbImage, Rgba};

    use super::*;

    fn png<P>(picture: &ImageBuffer<P, Vec<P::Subpixel>>) -> Vec<u8>
    where
        P: image::PixelWithColorType,
        [P::Subpixel]: image::EncodableLayout,
    {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// Red rises with the row, green with the column.
    fn slopes(height: u32, width: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([8 * y as u8, 8 * x as u8, 7]))
    }

    #[test]
    fn grey_alpha_and_sixteen_bits_become_rgb() {
        let first = |bytes: Vec<u8>| decode(&bytes).unwrap().bytes[..3].to_vec();
        assert_eq!(first(png(&ImageBuffer::from_pixel(2, 2, Luma([77u8])))), [77; 3]);
        assert_eq!(first(png(&ImageBuffer::from_pixel(2, 2, Luma([0x4d4du16])))), [77; 3]);
        assert_eq!(first(png(&ImageBuffer::from_pixel(2, 2, Rgba([1u8, 2, 3, 0])))), [1, 2, 3]);
        assert_eq!(
            first(png(&ImageBuffer::from_pixel(2, 2, Rgb([0xffffu16, 0, 257])))),
            [255, 0, 1]
        );
    }

    #[test]
    fn pictures_stay_upright_and_lose_their_longer_ends() {
        let picture = decode(&png(&slopes(4, 10))).unwrap();
        assert_eq!((picture.height, picture.width), (4, 10));
        let square = fit(&picture.bytes, (4, 10), 4);
        assert_eq!(square[..3], [0, 24, 7], "column 3 of 10 is the first of the middle four");
        assert_eq!(square[(3 * 4) * 3..][..3], [24, 24, 7], "row 3");
    }

    #[test]
    fn shrinking_by_two_averages_and_a_flat_picture_stays_flat() {
        // Bilinear with antialiasing at 2:1 weights four pixels 1, 3, 3, 1 of 8.
        let rows: Vec<u8> = (0..8).flat_map(|_| (0..8).flat_map(|x| [16 * x; 3])).collect();
        let half = fit(&rows, (8, 8), 4);
        // Around column 1 of 4 the source's columns 1 to 4: (16 + 3·32 + 3·48 + 64) / 8 = 40.
        assert_eq!(half[3], 40);
        assert!(fit(&[9; 300], (10, 10), 7).iter().all(|&b| b == 9));
        assert!(fit(&[200; 300], (10, 10), 23).iter().all(|&b| b == 200));
    }

    #[test]
    fn what_is_no_picture_or_too_large_is_said() {
        assert_eq!(decode(b"").err().unwrap(), "an empty file");
        assert_eq!(decode(b"<!DOCTYPE html>").err().unwrap(), "an HTML page");
        assert_eq!(decode(b"GIF89a....").err().unwrap(), "neither JPEG nor PNG nor WebP");
        let mut bytes = png(&slopes(4, 4));
        let whole = bytes.len();
        bytes.truncate(whole / 2);
        assert!(decode(&bytes).err().unwrap().starts_with("a damaged picture"));
        // The header's width and height, with the sum of the chunk made right.
        let mut forged = png(&slopes(4, 4));
        forged[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
        let crc = crc32(&forged[12..29]);
        forged[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(decode(&forged).is_err());
    }

    #[test]
    fn a_jpeg_that_is_cut_off_is_none_wherever_the_cut_is() {
        let mut bytes = Cursor::new(Vec::new());
        slopes(24, 24).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        let whole = bytes.into_inner();
        assert!(decode(&whole).is_ok());
        for end in 3..whole.len() {
            let error = decode(&whole[..end]).expect_err("cut off");
            assert!(error.starts_with("a damaged picture"), "{end}: {error}");
        }
        // What some cameras put behind the end is no damage, and a thumbnail's end is no end.
        assert_eq!(decode(&[&whole[..], b"more"].concat()), decode(&whole));
        let thumbnail = [&[0xff, 0xe1, 0, 10][..], b"Exif\0\0\xff\xd9"].concat();
        let with = [&whole[..2], &thumbnail, &whole[2..]].concat();
        assert_eq!(decode(&with), decode(&whole));
        assert!(decode(&with[..with.len() - 2]).is_err());
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }
}
