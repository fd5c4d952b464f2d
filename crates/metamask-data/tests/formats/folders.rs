//! Folders of anybody's own images.

use std::fs;
use std::path::Path;

use image::{DynamicImage, ImageFormat};
use metamask_data::{BadImages, LoadOptions, Split, folder_sizes, load};

use crate::write::{self, picture};
use crate::{at, from, refused};

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn png(i: usize) -> Vec<u8> {
    picture(i, 32, ImageFormat::Png)
}

fn spec(dir: &Path) -> String {
    format!("folder:{}", dir.display())
}

#[test]
fn given_splits_are_kept_and_classes_are_numbered_bytewise() {
    for test in ["test", "val", "valid"] {
        let dir = tempfile::tempdir().unwrap();
        // Bytewise: capitals, then digits would come first; 10 before 9.
        let classes = ["b", "10", "9", "B"];
        for (c, class) in classes.iter().enumerate() {
            put(dir.path(), &format!("train/{class}/deep/{c}.png"), &png(c));
            put(dir.path(), &format!("{test}/{class}/{c}.PNG"), &png(10 + c));
        }
        put(dir.path(), "unlabelled/x.png", &png(20));
        let set = from(&spec(dir.path()), dir.path()).unwrap();
        assert_eq!(set.train.class_names, ["10", "9", "B", "b"]);
        assert_eq!(set.train.labels, [0, 1, 2, 3]);
        for (k, i) in [1, 2, 3, 0].into_iter().enumerate() {
            assert!(set.train.images.image(k) == write::rgb(i, 32), "{test} {k}");
            assert!(set.test.images.image(k) == write::rgb(10 + i, 32), "{test} {k}");
        }
        assert_eq!(set.test.labels, [0, 1, 2, 3]);
        assert_eq!(set.pretraining(Split::TrainAndUnlabelled).unwrap().len(), 5);
    }
}

#[test]
fn the_first_and_the_last_images_are_of_every_class() {
    let dir = tempfile::tempdir().unwrap();
    for (class, n) in [("a", 40), ("b", 30), ("c", 20)] {
        for i in 0..n {
            put(dir.path(), &format!("train/{class}/{i:02}.png"), &png(i));
        }
    }
    put(dir.path(), "test/a/0.png", &png(90));
    let set = from(&spec(dir.path()), dir.path()).unwrap();
    // Places of the first: a 1/80, 3/80, 5/80; b 1/60, 3/60; c 1/40, 3/40.
    assert_eq!(set.train.labels[..7], [0, 1, 2, 0, 1, 0, 2]);
    assert_eq!(set.train.labels[87..], [2, 1, 0]);
    assert!(set.train.images.image(4) == write::rgb(1, 32), "in the order of their names");
    let some = LoadOptions { train: Some(30), ..at(dir.path()) };
    let some = load(&spec(dir.path()).parse().unwrap(), &some).unwrap().train;
    assert_eq!([0, 1, 2].map(|c| some.labels.iter().filter(|&&l| l == c).count()), [13, 10, 7]);
}

#[test]
fn without_splits_a_fifth_is_held_back_and_copies_stay_together() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..100 {
        put(dir.path(), &format!("{}/{i}.png", i % 2), &png(i));
        put(dir.path(), &format!("{}/copy-of-{i}.png", i % 2), &png(i));
    }
    let set = from(&spec(dir.path()), dir.path()).unwrap();
    assert_eq!(set.train.len() + set.test.len(), 200);
    assert!((20..=70).contains(&set.test.len()), "{}", set.test.len());
    assert_eq!(set.n_test_in_train(), 0);
    let again = from(&spec(dir.path()), dir.path()).unwrap();
    assert_eq!(set.fingerprint(), again.fingerprint());
}

#[test]
fn pictures_without_classes_are_unlabelled() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..5 {
        put(dir.path(), &format!("{i}.png"), &png(i));
    }
    put(dir.path(), "notes.txt", b"x");
    let set = from(&spec(dir.path()), dir.path()).unwrap();
    assert_eq!((set.train.len(), set.test.len(), set.train.n_classes()), (0, 0, 0));
    assert_eq!(set.pretraining_split(), Split::Unlabelled);
    let images = set.pretraining(Split::Unlabelled).unwrap();
    assert!((0..5).all(|i| images.images().image(i) == write::rgb(i, 32)));
    assert!(set.notes.iter().any(|note| note.contains("`notes.txt`")), "{:?}", set.notes);
}

#[test]
fn a_class_that_only_the_test_has_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "train/cat/0.png", &png(0));
    put(dir.path(), "test/fox/0.png", &png(1));
    let error = refused(from(&spec(dir.path()), dir.path()));
    assert!(error.message.contains("class `fox`"), "{error}");
}

#[test]
fn a_damaged_file_is_named_or_left_out_with_a_count() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..4 {
        put(dir.path(), &format!("train/a/{i}.png"), &png(i));
        put(dir.path(), &format!("test/a/{i}.png"), &png(10 + i));
    }
    put(dir.path(), "train/a/1.png", &png(1)[..60]);
    put(dir.path(), "test/a/0.png", b"");
    let error = refused(from(&spec(dir.path()), dir.path()));
    assert!(error.message.contains("test/a/0.png`: found an empty file"), "{error}");
    assert!(error.help.unwrap().contains("--bad-images skip"));
    let options = LoadOptions { bad_images: BadImages::Skip, ..at(dir.path()) };
    let set = load(&spec(dir.path()).parse().unwrap(), &options).unwrap();
    assert_eq!((set.train.len(), set.test.len()), (3, 3));
    assert!(set.train.images.image(1) == write::rgb(2, 32));
    let note = "2 damaged files are left out, the first: `test/a/0.png` (an empty file)";
    assert!(set.notes.iter().any(|known| known == note), "{:?}", set.notes);
}

#[test]
fn every_kind_of_picture_becomes_upright_rgb_of_one_size() {
    let dir = tempfile::tempdir().unwrap();
    // 96 wide, 64 high: the middle square is what is kept.
    let wide = image::RgbImage::from_fn(96, 64, |x, _| image::Rgb([(x * 2) as u8, 40, 200]));
    let wide = DynamicImage::from(wide);
    let kinds: [(&str, DynamicImage, ImageFormat); 6] = [
        ("rgb.jpg", wide.clone(), ImageFormat::Jpeg),
        ("rgb.webp", wide.clone(), ImageFormat::WebP),
        ("rgba.png", wide.to_rgba8().into(), ImageFormat::Png),
        ("grey.png", wide.to_luma8().into(), ImageFormat::Png),
        ("grey16.png", wide.to_luma16().into(), ImageFormat::Png),
        ("rgb16.png", wide.to_rgb16().into(), ImageFormat::Png),
    ];
    for (name, picture, format) in &kinds {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, *format).unwrap();
        put(dir.path(), name, bytes.get_ref());
    }
    let set = from(&spec(dir.path()), dir.path()).unwrap();
    let images = set.pretraining(Split::Unlabelled).unwrap();
    assert_eq!((images.len(), images.images().height()), (6, 64), "the median short side");
    let mut names: Vec<&str> = kinds.iter().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    for (k, name) in names.iter().enumerate() {
        let image = images.images().image(k);
        let red = |column: usize| i32::from(image[(64 * 32 + column) * 3]);
        // Column 0 of the square is column 16 of the picture.
        // Grey by Rec. 709: 0.2126 · 32 + 0.7152 · 40 + 0.0722 · 200.
        let expected = if name.starts_with("grey") { 50 } else { 32 };
        assert!((red(0) - expected).abs() < 6, "{name}: {}", red(0));
        assert!(red(63) > red(0) + 20, "{name} is not mirrored");
    }
    let sizes = folder_sizes(dir.path()).unwrap();
    assert_eq!((sizes.files, sizes.damaged, sizes.short_side, sizes.side), (6, 0, [64; 3], 64));
}
