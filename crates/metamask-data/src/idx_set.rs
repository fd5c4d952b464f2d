//! MNIST and its kin: four IDX files, plain or gzipped.

use std::path::{Path, PathBuf};

use crate::decode::Target;
use crate::digest::sha256;
use crate::error::DataError;
use crate::file::open;
use crate::grey::{GreyImages, GreyLabelled, SIDE, rim};
use crate::idx;
use crate::manifest::Manifest;
use crate::pixel_file::{Index, PixelFile, SourceFile};

/// Reads a set from its four files: images and labels to test by and to learn from.
///
/// Grey images become RGB, centred on black of 32×32 unless the target asks for
/// another side. A file of the published length must be the published one,
/// unpacked; smaller ones of the same layout are taken as they are.
pub(crate) fn read(
    manifest: &Manifest,
    [train, test]: [&[String; 2]; 2],
    folder: &Path,
    target: &Target,
) -> Result<PixelFile, DataError> {
    let mut sources = Vec::new();
    let [test, train] = [test, train].map(|names| split(manifest, names, folder, &mut sources));
    let (test, train) = (test?, train?);
    let side = manifest.side as usize;
    let n = test.labels.len() + train.labels.len();
    let (asked, padded) = rim(side, target.side);
    let target = Target { side: asked, ..target.clone() };
    let decoding = target.begin(&manifest.name, Some(n), side)?;
    let mut at = 0;
    for set in [&test, &train] {
        for i in 0..set.images.len() {
            let grey = set.images.image(i);
            match padded {
                true => decoding.put(at, &centred(grey, side), (SIDE, SIDE))?,
                false => {
                    let rgb: Vec<u8> = grey.iter().flat_map(|&value| [value; 3]).collect();
                    decoding.put(at, &rgb, (side, side))?;
                }
            }
            at += 1;
        }
    }
    let labels = |set: &GreyLabelled| set.labels.iter().map(|&label| label.into()).collect();
    decoding.finish(Index {
        test: labels(&test),
        train: labels(&train),
        class_names: manifest.classes.clone(),
        sources,
        ..Index::default()
    })
}

/// One grey image on black of 32×32.
pub(crate) fn centred(grey: &[u8], side: usize) -> Vec<u8> {
    let images = GreyImages::new(grey.to_vec(), side, side).expect("one image");
    images.centred_rgb()
}

fn split(
    manifest: &Manifest,
    [images, labels]: &[String; 2],
    folder: &Path,
    sources: &mut Vec<SourceFile>,
) -> Result<GreyLabelled, DataError> {
    let side = (manifest.side as usize, manifest.side as usize);
    let images_path = path_of(folder, images);
    let labels_path = path_of(folder, labels);
    let set = pair(
        &labels_path,
        idx::read_images(&images_path, open(&images_path, "an IDX file of images")?, side)?,
        idx::read_labels(
            &labels_path,
            open(&labels_path, "an IDX file of labels")?,
            manifest.classes.len(),
        )?,
    )?;
    let header = idx::image_header(&set.images);
    let files = [
        (images, &images_path, header, &set.images.bytes),
        (labels, &labels_path, idx::label_header(&set.labels), &set.labels),
    ];
    for (name, path, header, bytes) in files {
        let found = sha256(&[&header, bytes]);
        let known = manifest.known_file(name);
        let known = known.filter(|known| known.bytes == (header.len() + bytes.len()) as u64);
        if let Some(expected) = known.and_then(|known| known.sha256.as_deref())
            && found != expected
        {
            let help = format!("the file has {}'s size but not its content", manifest.name);
            let error = DataError::hash(path, &found, expected);
            return Err(DataError { help: Some(help), ..error });
        }
        sources.push(SourceFile { name: name.clone(), sha256: found });
    }
    Ok(set)
}

/// The file, plain if it is there, else gzipped.
fn path_of(folder: &Path, name: &str) -> PathBuf {
    let [plain, packed] = [folder.join(name), folder.join(format!("{name}.gz"))];
    if packed.exists() && !plain.exists() { packed } else { plain }
}

/// Images and labels of one split, of equal number.
pub(crate) fn pair(
    labels_path: &Path,
    images: GreyImages,
    labels: Vec<u8>,
) -> Result<GreyLabelled, DataError> {
    if labels.len() != images.len() {
        let found = format!("{} labels", labels.len());
        let expected = format!("{}, one for each image", images.len());
        return Err(DataError::content(labels_path, found, expected));
    }
    Ok(GreyLabelled { images, labels })
}
