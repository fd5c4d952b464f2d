//! Small files in exactly the layout of a data set that is not here: what trains on
//! them goes the way that the real files will go, from the first byte on.
//!
//! The images are noise; only their format, their number of classes and what they
//! cost are those of the set.

use std::{fs, io::Cursor, path::Path};

use anyhow::Context as _;
use image::{ImageFormat, RgbImage};
use metamask_data::{Layout, Manifest};
use metamask_random::{Key, Purpose, Stream};

/// How many images a fixture has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Training images; a little more, where the layout asks for full files.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// Images without labels, for sets that have some.
    pub unlabelled: usize,
}

/// More classes than this make no difference to what is rehearsed, and folders are slow.
const MAX_FOLDERS: usize = 10;

/// Writes a fixture into a folder, to be read with `--data-dir FOLDER`.
///
/// # Errors
/// If a file cannot be written.
pub fn write(manifest: &Manifest, sizes: Sizes, folder: &Path) -> anyhow::Result<()> {
    let mut noise = Noise(Key::new(0, Purpose::Initialisation).stream());
    let n_classes = manifest.classes.len().clamp(1, 256);
    let side = manifest.side as usize;
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let parent = path.parent().expect("a file in a folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("failed to write `{}`", path.display()))
    };
    match &manifest.layout {
        Layout::Cifar { train, test, label_bytes, .. } => {
            let mut records = |n: usize| -> Vec<u8> {
                let mut bytes = Vec::with_capacity(n * (label_bytes + 3 * side * side));
                for i in 0..n {
                    bytes.extend(vec![0; label_bytes - 1]);
                    bytes.push((i % n_classes) as u8);
                    bytes.extend(noise.bytes(3 * side * side));
                }
                bytes
            };
            for name in train {
                put(name, &records(sizes.train.div_ceil(train.len())))?;
            }
            for name in test {
                put(name, &records(sizes.test.div_ceil(test.len())))?;
            }
        }
        Layout::Idx { train, test, .. } => {
            for ([images, labels], n) in [(train, sizes.train), (test, sizes.test)] {
                let [n_bytes, side_bytes] = [n, side].map(|x| (x as u32).to_be_bytes());
                let header = [&[0, 0, 8, 3][..], &n_bytes, &side_bytes, &side_bytes].concat();
                put(images, &[header, noise.bytes(n * side * side)].concat())?;
                let classes: Vec<u8> = (0..n).map(|i| (i % n_classes) as u8).collect();
                put(labels, &[&[0, 0, 8, 1][..], &n_bytes, &classes].concat())?;
            }
        }
        Layout::Stl { .. } => {
            let image = 3 * side * side;
            for (name, n) in [("train", sizes.train), ("test", sizes.test)] {
                put(&format!("{name}_X.bin"), &noise.bytes(n * image))?;
                let labels: Vec<u8> = (0..n).map(|i| 1 + (i % n_classes) as u8).collect();
                put(&format!("{name}_y.bin"), &labels)?;
            }
            put("unlabeled_X.bin", &noise.bytes(sizes.unlabelled * image))?;
            put("fold_indices.txt", "0\n".repeat(10).as_bytes())?;
        }
        Layout::TinyImagenet { .. } => {
            let classes: Vec<String> = (0..MAX_FOLDERS).map(|i| format!("n{i:08}")).collect();
            put("wnids.txt", classes.join("\n").as_bytes())?;
            for i in 0..sizes.train {
                let class = &classes[i % MAX_FOLDERS];
                put(&format!("train/{class}/images/{class}_{i}.JPEG"), &noise.jpeg(side)?)?;
            }
            let mut annotations = String::new();
            for i in 0..sizes.test {
                put(&format!("val/images/val_{i}.JPEG"), &noise.jpeg(side)?)?;
                annotations +=
                    &format!("val_{i}.JPEG\t{}\t0\t0\t62\t62\n", classes[i % MAX_FOLDERS]);
            }
            put("val/val_annotations.txt", annotations.as_bytes())?;
        }
    }
    Ok(())
}

struct Noise(Stream);

impl Noise {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.0.below(256) as u8).collect()
    }

    fn jpeg(&mut self, side: usize) -> anyhow::Result<Vec<u8>> {
        let pixels = self.bytes(3 * side * side);
        let picture = RgbImage::from_raw(side as u32, side as u32, pixels).expect("whole pixels");
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Jpeg)?;
        Ok(bytes.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use metamask_data::{DatasetSpec, LoadOptions, Places, load};

    use super::*;

    #[test]
    fn the_reader_of_each_set_takes_its_fixture() -> anyhow::Result<()> {
        let sizes = Sizes { train: 40, test: 20, unlabelled: 12 };
        let specs = DatasetSpec::named().filter_map(|spec| Some((spec.manifest().ok()??, spec)));
        let mut n_sets = 0;
        for (manifest, spec) in specs {
            let folder = tempfile::tempdir()?;
            write(&manifest, sizes, folder.path())?;
            let places = Places { data_dir: Some(folder.path().into()), ..Places::default() };
            let data = load(&spec, &LoadOptions { places, ..LoadOptions::default() })?;
            assert_eq!((data.train.len(), data.test.len()), (40, 20), "{spec}");
            let bordered = if manifest.side == 28 { 32 } else { manifest.side as usize };
            assert_eq!(data.train.images.height(), bordered, "{spec}");
            let unlabelled = data.unlabelled.map_or(0, |unlabelled| unlabelled.len());
            assert_eq!(unlabelled, if spec == DatasetSpec::Stl10 { 12 } else { 0 }, "{spec}");
            n_sets += 1;
        }
        assert_eq!(n_sets, 6, "mnist, fashion-mnist, cifar10, cifar100, stl10, tiny-imagenet");
        Ok(())
    }
}
