//! IDX, the format of MNIST and its kin: a big-endian header and bytes, plain
//! or gzipped.
//!
//! ```text
//! images   00 00 08 03   n, rows, cols as u32   n · rows · cols bytes
//! labels   00 00 08 01   n as u32               n bytes
//! ```
//! The header is believed only as far as the bytes behind it bear it out.

use std::io::{self, Cursor, ErrorKind, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::DataError;
use crate::file::{LIMIT, recognise, unreadable};
use crate::grey::GreyImages;

const MAGIC_IMAGES: [u8; 4] = [0, 0, 8, 3];
const MAGIC_LABELS: [u8; 4] = [0, 0, 8, 1];
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads images of `side`; `path` only names the source in errors.
pub(crate) fn read_images(
    path: &Path,
    source: impl Read,
    side: (usize, usize),
) -> Result<GreyImages, DataError> {
    let (height, width) = side;
    let check = |[_, rows, cols]: [usize; 3]| {
        if (rows, cols) == side {
            return Ok(());
        }
        let found = format!("images of {rows}x{cols}");
        Err(DataError::content(path, found, format!("{height}x{width}")))
    };
    let bytes = read(path, source, MAGIC_IMAGES, "an IDX file of images", check)?;
    Ok(GreyImages { height, width, bytes })
}

/// Reads labels below `n_classes`; `path` only names the source in errors.
pub(crate) fn read_labels(
    path: &Path,
    source: impl Read,
    n_classes: usize,
) -> Result<Vec<u8>, DataError> {
    let check = |_: [usize; 1]| Ok(());
    let labels = read(path, source, MAGIC_LABELS, "an IDX file of labels", check)?;
    match labels.iter().position(|&label| usize::from(label) >= n_classes) {
        None => Ok(labels),
        Some(i) => Err(DataError::content(
            path,
            format!("label {} at image {i}", labels[i]),
            format!("0 to {}", n_classes - 1),
        )),
    }
}

/// The header that [`read_images`] found.
pub(crate) fn image_header(images: &GreyImages) -> Vec<u8> {
    header(MAGIC_IMAGES, &[images.len(), images.height, images.width])
}

/// The header that [`read_labels`] found.
pub(crate) fn label_header(labels: &[u8]) -> Vec<u8> {
    header(MAGIC_LABELS, &[labels.len()])
}

fn header(magic: [u8; 4], sizes: &[usize]) -> Vec<u8> {
    let size = |&size: &usize| u32::try_from(size).expect("read from 32 bits").to_be_bytes();
    magic.into_iter().chain(sizes.iter().flat_map(size)).collect()
}

/// Exactly the bytes that the header announces, if its sizes pass `check`.
fn read<const RANK: usize>(
    path: &Path,
    mut source: impl Read,
    magic: [u8; 4],
    expected: &str,
    check: impl Fn([usize; RANK]) -> Result<(), DataError>,
) -> Result<Vec<u8>, DataError> {
    let broken = |error: io::Error| broken(path, &error);
    let mut start = Vec::new();
    source.by_ref().take(4).read_to_end(&mut start).map_err(broken)?;
    let packed = start.starts_with(&GZIP);
    let whole = Cursor::new(start).chain(source);
    let mut source: Box<dyn Read + '_> =
        if packed { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };

    let mut header = Vec::new();
    source.by_ref().take(4 + 4 * RANK as u64).read_to_end(&mut header).map_err(broken)?;
    if !header.starts_with(&magic) {
        return Err(DataError::kind(path, &describe(&header), expected));
    }
    let sizes = header[4..].chunks_exact(4).map(|size| {
        let size = u32::from_be_bytes(size.try_into().expect("four bytes"));
        usize::try_from(size).expect("usize holds 32 bits")
    });
    let sizes: Vec<usize> = sizes.collect();
    let Ok(sizes) = <[usize; RANK]>::try_from(sizes) else {
        let found = format!("a header of {} bytes", header.len());
        return Err(DataError::content(path, found, 4 + 4 * RANK));
    };
    let announced = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let announced = announced.filter(|&bytes| (1..=LIMIT).contains(&bytes)).ok_or_else(|| {
        let sizes = sizes.map(|size| size.to_string()).join(" x ");
        let found = format!("a header that announces {sizes} bytes");
        DataError::content(path, found, format!("1 to {LIMIT} bytes"))
    })?;
    check(sizes)?;

    // One byte more than announced tells a longer file from a fitting one, and
    // makes the gzip decoder check its sum. The buffer grows with what is there.
    let mut bytes = Vec::new();
    source.take(announced as u64 + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() < announced {
        let found = format!("{} bytes behind the header", bytes.len());
        return Err(DataError::content(path, found, format!("{announced}")));
    }
    if bytes.len() > announced {
        let found = "bytes left over";
        return Err(DataError::content(path, found, format!("{announced} behind the header")));
    }
    Ok(bytes)
}

/// A failed read: bad bytes, or a device that does not give them.
fn broken(path: &Path, error: &io::Error) -> DataError {
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
            DataError::content(path, format!("a broken gzip stream ({error})"), "an intact one")
        }
        _ => unreadable(path, error),
    }
}

/// What lies there instead of an IDX file, by its (unpacked) start.
fn describe(start: &[u8]) -> String {
    if let Some(known) = recognise(start) {
        return known.to_owned();
    }
    let shown: Vec<String> = start.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("a file that starts with {}", shown.join(" "))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const NAME: &str = "images.idx";

    /// Three images of 2×3 pixels.
    fn images() -> Vec<u8> {
        let mut file = vec![0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 3];
        file.extend(1..=18);
        file
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn check_refused(file: &[u8], expected: &str) {
        let error = read_images(Path::new(NAME), file, (2, 3)).unwrap_err();
        assert_eq!(error.message, format!("`{NAME}`: {expected}"));
    }

    #[test]
    fn plain_and_gzipped_files_read_alike() {
        for file in [images(), gzip(&images())] {
            let read = read_images(Path::new(NAME), &file[..], (2, 3)).unwrap();
            assert_eq!(read.bytes, (1..=18).collect::<Vec<u8>>());
            assert_eq!((read.len(), read.height, read.width), (3, 2, 3));
        }
        let labels = [0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1];
        assert_eq!(read_labels(Path::new(NAME), &labels[..], 3).unwrap(), [2, 0, 1]);
    }

    #[test]
    fn sizes_that_the_bytes_do_not_bear_out_are_refused() {
        let file = images();
        check_refused(&file[..33], "found 17 bytes behind the header, expected 18");
        check_refused(
            &[&file[..], &[0]].concat(),
            "found bytes left over, expected 18 behind the header",
        );
        check_refused(&file[..10], "found a header of 10 bytes, expected 16");
    }

    #[test]
    fn forged_sizes_are_refused_before_anything_is_allocated() {
        for (sizes, shown) in [
            ([u32::MAX; 3], "4294967295 x 4294967295 x 4294967295"),
            ([1 << 16, 1 << 10, 2], "65536 x 1024 x 2"),
            ([0, u32::MAX, 2], "0 x 4294967295 x 2"),
        ] {
            let mut file = MAGIC_IMAGES.to_vec();
            file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
            check_refused(
                &file,
                &format!(
                    "found a header that announces {shown} bytes, expected 1 to {LIMIT} bytes"
                ),
            );
        }
        // Within the limit, and nothing behind it: the buffer stays empty.
        let file = [&MAGIC_IMAGES[..], &[0, 0x80, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3]].concat();
        check_refused(&file, "found 0 bytes behind the header, expected 50331648");
    }

    #[test]
    fn another_side_is_refused() {
        let error = read_images(Path::new(NAME), &images()[..], (28, 28)).unwrap_err();
        assert_eq!(error.message, "`images.idx`: found images of 2x3, expected 28x28");
    }

    #[test]
    fn other_files_under_the_name_are_recognised() {
        for (file, found) in [
            (&b""[..], "an empty file"),
            (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, not the data"),
            (b"<!DOCTYPE html>", "an HTML page"),
            (&gzip(&gzip(&images())), "a gzip file"),
            (&[0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3], "an IDX file of labels"),
            (&[0, 0, 13, 3, 0, 0], "a file that starts with 00 00 0d 03"),
        ] {
            check_refused(file, &format!("found {found}, expected an IDX file of images"));
        }
    }

    #[test]
    fn a_gzip_stream_that_is_cut_changed_or_followed_by_bytes_is_refused() {
        let file = gzip(&images());
        let mut changed = file.clone();
        let n = changed.len();
        changed[n - 6] ^= 1; // in the sum of the content
        for bad in [&file[..n - 1], &file[..n - 9], &changed, &[&file[..], &[7; 4]].concat()] {
            let error = read_images(Path::new(NAME), bad, (2, 3)).unwrap_err();
            assert!(error.message.contains("broken gzip stream"), "{error}");
        }
        let twice = [&file[..], &file[..]].concat();
        check_refused(&twice, "found bytes left over, expected 18 behind the header");
    }

    #[test]
    fn labels_outside_the_classes_are_refused() {
        let labels = [0, 0, 8, 1, 0, 0, 0, 3, 2, 10, 11];
        let error = read_labels(Path::new(NAME), &labels[..], 10).unwrap_err();
        assert_eq!(error.message, "`images.idx`: found label 10 at image 1, expected 0 to 9");
    }
}
