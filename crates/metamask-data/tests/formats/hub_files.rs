//! Parquet files as the hub keeps them.

use std::fs;
use std::path::Path;

use image::ImageFormat;
use metamask_data::{LoadOptions, Places, Split, load};
use parquet::basic::{Compression, ZstdLevel};

use crate::write::{self, picture};
use crate::{assert_images, from, refused};

/// Rows `first`, `first + 1`, … as lossless pictures, image i of class i mod `n_classes`.
fn rows(first: usize, n: usize, side: usize, n_classes: usize) -> Vec<(Vec<u8>, i64)> {
    let row = |i| (picture(i, side, ImageFormat::Png), (i % n_classes) as i64);
    (first..first + n).map(row).collect()
}

const CIFAR10: [&str; 2] = ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"];

fn write_cifar10(dir: &Path, codec: Compression) {
    fs::create_dir_all(dir).unwrap();
    write::parquet(&dir.join(CIFAR10[0]), "img", Some("label"), &rows(0, 9, 32, 10), codec);
    write::parquet(&dir.join(CIFAR10[1]), "img", Some("label"), &rows(9, 5, 32, 10), codec);
}

#[test]
fn images_from_parquet_are_upright_in_every_codec_the_hub_uses() {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for codec in [Compression::SNAPPY, zstd, Compression::UNCOMPRESSED] {
        let dir = tempfile::tempdir().unwrap();
        write_cifar10(dir.path(), codec);
        let set = from("cifar10", dir.path()).unwrap();
        assert_images(&set.train, 0, 32);
        assert_images(&set.test, 9, 32);
        assert_eq!(set.test.labels, [9, 0, 1, 2, 3]);
        // Candle's reader would turn red = 7 · row into red = 7 · column.
        let below = |row: usize| set.train.images.image(0)[row * 32 * 3];
        assert_eq!((below(0), below(1), below(2)), (0, 7, 14));
    }
}

/// CIFAR-10's manifest with the sizes and sums of the files in `dir`.
fn manifest_of(dir: &Path) -> String {
    use sha2::{Digest, Sha256};
    let embedded = include_str!("../../../../data/manifests/cifar10.toml");
    let sums = CIFAR10.map(|name| {
        let bytes = fs::read(dir.join(name)).unwrap();
        let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        (bytes.len(), sum)
    });
    embedded
        .replace("119_705_255", &sums[0].0.to_string())
        .replace("8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883", &sums[0].1)
        .replace("23_940_850", &sums[1].0.to_string())
        .replace("841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de", &sums[1].1)
}

#[test]
fn files_in_the_hub_s_own_cache_are_used_where_they_lie_if_they_are_the_pinned_ones() {
    let dir = tempfile::tempdir().unwrap();
    let commit = "0b2714987fa478483af9968de7c934580d0bb9a2";
    let folder = dir.path().join("datasets--uoft-cs--cifar10/snapshots").join(commit);
    let snapshot = folder.join("plain_text");
    write_cifar10(&snapshot, Compression::SNAPPY);
    fs::write(dir.path().join("own.toml"), manifest_of(&snapshot)).unwrap();
    let spec = format!("manifest:{}", dir.path().join("own.toml").display());
    let load_it = || {
        let places = Places { hub_cache_dir: Some(dir.path().into()), ..Places::default() };
        load(&spec.parse().unwrap(), &LoadOptions { places, ..Default::default() })
    };
    assert_images(&load_it().unwrap().test, 9, 32);

    // hf-hub 1.0 may leave an error page or half a file there under the name.
    let path = snapshot.join(CIFAR10[1]);
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(refused(load_it()).code, "DATA-HASH");
    fs::write(&path, &bytes[..half]).unwrap();
    assert!(refused(load_it()).message.contains(&format!("found {half} bytes")));
}

#[test]
fn fine_labels_are_taken_by_their_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("cifar100")).unwrap();
    for (name, first) in [("train", 0), ("test", 4)] {
        let path = dir.path().join(format!("cifar100/{name}-00000-of-00001.parquet"));
        write::parquet(
            &path,
            "img",
            Some("fine_label"),
            &rows(first, 4, 32, 100),
            Compression::SNAPPY,
        );
    }
    assert_eq!(from("cifar100", dir.path()).unwrap().test.labels, [4, 5, 6, 7]);
    let path = dir.path().join("cifar100/test-00000-of-00001.parquet");
    write::parquet(&path, "img", Some("label"), &rows(0, 1, 32, 100), Compression::SNAPPY);
    let error = refused(from("cifar100", dir.path()));
    assert!(error.message.contains("found columns img, label, expected `fine_label`"), "{error}");
}

#[test]
fn stl10_takes_its_unlabelled_images_from_a_repository_without_labels() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, label, first, n| {
        write::parquet(
            &dir.path().join(name),
            "image",
            label,
            &rows(first, n, 96, 10),
            Compression::SNAPPY,
        );
    };
    write("train-00000-of-00001.parquet", Some("label"), 0, 3);
    write("test-00000-of-00001.parquet", Some("label"), 3, 2);
    // The published sums are those of other files.
    let manifest = include_str!("../../../../data/manifests/stl10.toml").lines();
    let manifest = manifest.map(|line| match line.split_once("parquet\", sha256") {
        Some((start, _)) => format!("{start}parquet\" }},\n"),
        None => format!("{line}\n"),
    });
    fs::write(dir.path().join("own.toml"), manifest.collect::<String>()).unwrap();
    let spec = format!("manifest:{}", dir.path().join("own.toml").display());
    assert_eq!(refused(from("stl10", dir.path())).code, "DATA-HASH");
    assert!(from(&spec, dir.path()).unwrap().unlabelled.is_none());
    let hashes = ["b74cd68890b47699", "316ae046518ebbac", "4180ec8df3024526", "15264226b952a419"];
    for (i, hash) in hashes.iter().enumerate() {
        write(&format!("unlabeled-0000{i}-of-00004-{hash}.parquet"), None, 5 + i, 1);
    }
    let set = from(&spec, dir.path()).unwrap();
    assert_images(&set.train, 0, 96);
    assert_images(&set.test, 3, 96);
    let unlabelled = set.pretraining(Split::Unlabelled).unwrap();
    assert!((0..4).all(|i| unlabelled.images().image(i) == write::rgb(5 + i, 96)));
}

#[test]
fn tiny_imagenet_s_grey_pictures_become_rgb() {
    let dir = tempfile::tempdir().unwrap();
    let grey = image::GrayImage::from_fn(64, 64, |x, y| image::Luma([(x + 2 * y) as u8]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    grey.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let grey = (bytes.into_inner(), 1);
    for name in ["train-00000-of-00001-1359597a978bc4fa", "valid-00000-of-00001-70d52db3c749a935"] {
        let rows = [vec![grey.clone()], rows(0, 2, 64, 2)].concat();
        let path = dir.path().join(format!("{name}.parquet"));
        write::parquet(&path, "image", Some("label"), &rows, Compression::SNAPPY);
    }
    let set = from("tiny-imagenet", dir.path()).unwrap();
    assert_eq!(set.train.images.image(0)[(64 * 3 + 5) * 3..][..3], [11; 3], "row 3, column 5");
    assert_eq!(set.test.labels, [1, 0, 1]);
    assert!(set.notes.iter().all(|note| note.contains("is unpinned: no digest was published")));
}

#[test]
fn a_page_that_claims_more_than_its_bytes_can_hold_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    write_cifar10(dir.path(), Compression::SNAPPY);
    // Bytes that no codec packs.
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let rows = [(noise.take(1_300_000).collect(), 0)];
    let path = dir.path().join(CIFAR10[0]);
    write::parquet(&path, "img", Some("label"), &rows, Compression::SNAPPY);
    // Magic, then the first page's header: its type, its unpacked size in four bytes.
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!((bytes[4], bytes[6], bytes[9] > 127, bytes[10] > 127), (0x15, 0x15, true, false));
    bytes[7..11].copy_from_slice(&[0xfe, 0xff, 0xff, 0x7f]);
    fs::write(&path, bytes).unwrap();
    let error = refused(from("cifar10", dir.path()));
    assert!(error.message.contains("unpacked 134217727"), "{error}");
}

/// A fuzzer's file: its page lies where the footer is, and has a list of two billion strings
/// that are not there. The parquet crate looked for each of them, for 16 s.
#[test]
fn a_header_without_an_end_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    write_cifar10(dir.path(), Compression::SNAPPY);
    let forged = include_bytes!("../../../../fuzz/corpus/parquet/endless_header");
    fs::write(dir.path().join(CIFAR10[0]), forged).unwrap();
    let error = refused(from("cifar10", dir.path()));
    assert!(error.message.contains("a page header"), "{error}");
}

#[test]
fn what_lies_one_class_after_the_other_is_spread() {
    let dir = tempfile::tempdir().unwrap();
    for (split, n) in [("train", 6), ("test", 4)] {
        let of_class = |(i, (bytes, _))| (bytes, if i < n - 2 { 3 } else { 8 });
        let rows: Vec<_> = rows(0, n, 32, 10).into_iter().enumerate().map(of_class).collect();
        let path = dir.path().join(format!("{split}-00000-of-00001.parquet"));
        write::parquet(&path, "img", Some("label"), &rows, Compression::SNAPPY);
    }
    let set = from("cifar10", dir.path()).unwrap();
    // Four of class 3 at 1/8, 3/8, 5/8, 7/8, two of class 8 at 1/4 and 3/4.
    assert_eq!(set.train.labels, [3, 8, 3, 3, 8, 3]);
    for (place, image) in [0, 4, 1, 2, 5, 3].into_iter().enumerate() {
        assert!(set.train.images.image(place) == write::rgb(image, 32), "{place}");
    }
    assert_eq!(set.test.labels, [3, 8, 3, 8]);
}

#[test]
fn mnist_from_parquet_is_what_it_is_from_idx_files() {
    let dir = tempfile::tempdir().unwrap();
    let (idx, hub) = (dir.path().join("idx"), dir.path().join("hub"));
    let files: write::Files =
        write::idx_files(5).into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    write::folder(&idx, &files);
    for (split, first) in [("train", 0), ("test", 5)] {
        let grey = |i: usize| {
            let red = write::rgb(i, 28).into_iter().step_by(3).collect();
            let mut bytes = std::io::Cursor::new(Vec::new());
            let picture = image::GrayImage::from_raw(28, 28, red).unwrap();
            picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        let rows: Vec<_> = (0..5).map(|i| (grey(first + i), i as i64)).collect();
        let path = hub.join(format!("mnist/{split}/0000.parquet"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write::parquet(&path, "image", Some("label"), &rows, Compression::SNAPPY);
    }
    let [idx, hub] = [idx, hub].map(|dir| from("mnist", &dir).unwrap());
    assert_eq!(idx.fingerprint(), hub.fingerprint());
}

#[test]
fn rows_that_are_no_pictures_of_the_set_are_named() {
    let check = |row: (Vec<u8>, i64), words: &str| {
        let dir = tempfile::tempdir().unwrap();
        write_cifar10(dir.path(), Compression::SNAPPY);
        let rows = [rows(0, 3, 32, 10), vec![row]].concat();
        let path = dir.path().join(CIFAR10[1]);
        write::parquet(&path, "img", Some("label"), &rows, Compression::SNAPPY);
        let error = refused(from("cifar10", dir.path()));
        assert!(error.message.contains(&format!("{}`: found {words}", path.display())), "{error}");
    };
    check((b"<!DOCTYPE html>".to_vec(), 0), "in row 3: an HTML page, expected a picture");
    check((picture(0, 31, ImageFormat::Png), 0), "in row 3: a picture of 31x31, expected 32x32");
    check((picture(0, 32, ImageFormat::Png), 10), "label 10 in row 3, expected 0 to 9");
    check((picture(0, 32, ImageFormat::Png), -1), "label -1 in row 3, expected 0 to 9");
}

#[test]
fn another_file_under_the_name_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    write_cifar10(dir.path(), Compression::SNAPPY);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:8428\nsize 119705255\n";
    fs::write(dir.path().join(CIFAR10[0]), pointer).unwrap();
    let error = refused(from("cifar10", dir.path()));
    assert_eq!(error.code, "DATA-KIND");
    assert!(
        error.message.ends_with("found a Git LFS pointer, not the data, expected a parquet file")
    );
}
