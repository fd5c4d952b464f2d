//! The original files of CIFAR, STL-10, Tiny-ImageNet and MNIST.

use std::fs;
use std::path::Path;

use metamask_data::{LoadOptions, Places, Split, load};

use crate::write::{self, pixel};
use crate::{assert_images, at, from, refused};

#[test]
fn cifar10_is_read_from_its_folder_and_from_the_archive_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let files = write::cifar10_files(3, 4);
    let archive = dir.path().join("packed/cifar-10-binary.tar.gz");
    fs::create_dir(dir.path().join("packed")).unwrap();
    write::tar_gz(&archive, "cifar-10-batches-bin", &files);
    write::folder(&dir.path().join("plain/cifar-10-batches-bin"), &files);
    for place in ["packed", "plain", "plain/cifar-10-batches-bin", "packed/cifar-10-binary.tar.gz"]
    {
        let set = from("cifar10", &dir.path().join(place)).unwrap();
        assert_eq!((set.train.len(), set.test.len()), (15, 4), "{place}");
        assert_images(&set.train, 0, 32);
        assert_images(&set.test, 15, 32);
        assert!(set.train.labels.iter().enumerate().all(|(i, &label)| label == i as u32 % 10));
        assert_eq!(set.train.class_names[9], "truck");
        assert!(set.unlabelled.is_none());
    }
}

#[test]
fn the_class_of_cifar100_is_the_second_byte() {
    let dir = tempfile::tempdir().unwrap();
    // Coarse label 19 would be a class of its own.
    let files = vec![
        ("train.bin".to_owned(), write::cifar(0, &[99, 3], Some(19))),
        ("test.bin".to_owned(), write::cifar(2, &[26, 0], Some(4))),
    ];
    write::folder(dir.path(), &files);
    write::tar_gz(&dir.path().join("a.tar.gz"), "cifar-100-binary", &files);
    for place in [dir.path().to_owned(), dir.path().join("a.tar.gz")] {
        let set = from("cifar100", &place).unwrap();
        assert_eq!((&set.train.labels[..], &set.test.labels[..]), (&[99, 3][..], &[26, 0][..]));
        assert_images(&set.train, 0, 32);
        assert_images(&set.test, 2, 32);
        assert_eq!((set.train.class_names[26].as_str(), set.train.n_classes()), ("crab", 100));
    }
}

#[test]
fn pickles_and_missing_folders_are_answered_with_what_to_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(from("cifar10", dir.path()));
    assert_eq!(error.code, "DATA-MISSING");
    assert!(error.message.contains(&dir.path().display().to_string()), "{error}");
    assert!(error.help.unwrap().contains("metamask data fetch cifar10"));
    fs::create_dir(dir.path().join("cifar-10-batches-py")).unwrap();
    let error = refused(from("cifar10", dir.path()));
    assert_eq!(error.code, "DATA-KIND");
    assert!(error.message.contains("pickles"), "{error}");
    assert!(error.help.unwrap().contains("cifar-10-binary.tar.gz"));
    let places = Places::default();
    let error =
        refused(load(&"stl10".parse().unwrap(), &LoadOptions { places, ..LoadOptions::default() }));
    assert!(error.message.contains("no folder was given"), "{error}");
}

/// A CIFAR-10 folder with one file damaged is refused, naming it.
#[track_caller]
fn check_cifar(name: &str, bytes: Option<&[u8]>, code: &str, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    write::folder(dir.path(), &write::cifar10_files(2, 2));
    match bytes {
        Some(bytes) => fs::write(dir.path().join(name), bytes).unwrap(),
        None => fs::remove_file(dir.path().join(name)).unwrap(),
    }
    let error = refused(from("cifar10", dir.path()));
    assert_eq!(error.code, code, "{error}");
    assert!(error.message.contains(words), "{error}");
}

#[test]
fn what_is_no_whole_number_of_records_is_refused_by_name() {
    let words = "data_batch_3.bin`: found 6145 bytes, expected a multiple of 3073";
    check_cifar("data_batch_3.bin", Some(&[0; 6145]), "DATA-CONTENT", words);
    check_cifar("test_batch.bin", Some(b""), "DATA-KIND", "found an empty file");
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    check_cifar("test_batch.bin", Some(pointer), "DATA-KIND", "Git LFS pointer");
    let words = "test_batch.bin`: found label 10 at image 1, expected 0 to 9";
    check_cifar("test_batch.bin", Some(&write::cifar(0, &[9, 10], None)), "DATA-CONTENT", words);
    check_cifar("data_batch_4.bin", None, "DATA-MISSING", "data_batch_4.bin");
}

#[test]
fn an_archive_without_one_of_the_files_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = write::cifar10_files(1, 1);
    files.remove(3);
    write::tar_gz(&dir.path().join("cifar-10-binary.tar.gz"), "cifar-10-batches-bin", &files);
    let error = refused(from("cifar10", dir.path()));
    assert_eq!(error.code, "DATA-MISSING");
    assert!(error.message.contains("data_batch_4.bin`: is not in the archive"), "{error}");
}

#[test]
fn stl10_is_upright_from_its_folder_and_from_an_archive_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let files = write::stl_files(3, 4, 6, &[]);
    write::folder(&dir.path().join("plain"), &files);
    let names = ["in-order.tar.gz", "reversed.tar.gz", "rotated.tar.gz"];
    let reversed: Vec<_> = files.iter().rev().cloned().collect();
    let rotated: Vec<_> = files[3..].iter().chain(&files[..3]).cloned().collect();
    for (name, files) in names.iter().zip([&files, &reversed, &rotated]) {
        write::tar_gz(&dir.path().join(name), "stl10_binary", files);
    }
    for place in names.iter().chain(&["plain"]) {
        let set = from("stl10", &dir.path().join(place)).unwrap();
        assert_images(&set.test, 0, 96);
        assert_images(&set.train, 3, 96);
        assert_eq!(set.train.labels, [0, 1, 2, 3], "{place}: labels begin at 1 in the file");
        let unlabelled = set.pretraining(Split::Unlabelled).unwrap();
        assert_eq!(unlabelled.len(), 6);
        assert!((0..6).all(|i| unlabelled.images().image(i) == write::rgb(7 + i, 96)), "{place}");
        assert_eq!(set.pretraining(Split::TrainAndUnlabelled).unwrap().len(), 10);
        assert_eq!((set.folds.len(), &set.folds[1][..]), (10, &[1, 2][..]));
        assert_eq!(set.fold(1).unwrap().labels, [1, 2]);
        assert_eq!(set.train.class_names[7], "monkey");
    }
}

#[test]
fn unlabelled_images_that_equal_a_test_image_are_counted_and_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    write::folder(dir.path(), &write::stl_files(2, 2, 7, &[0, 3, 6]));
    for drop in [false, true] {
        let options = LoadOptions { drop_equal_to_test: drop, ..at(dir.path()) };
        let set = load(&"stl10".parse().unwrap(), &options).unwrap();
        let done = if drop { "left out" } else { "kept" };
        let note = format!("3 unlabelled images equal a test image and are {done}");
        assert!(set.notes.contains(&note), "{:?}", set.notes);
        let unlabelled = set.pretraining(Split::Unlabelled).unwrap();
        let n_equal = (0..unlabelled.len())
            .filter(|&i| unlabelled.images().image(i) == set.test.images.image(0))
            .count();
        assert_eq!((unlabelled.len(), n_equal), if drop { (4, 0) } else { (7, 3) });
        // None of the others got lost on the way.
        for i in [1, 2, 4, 5].map(|i| 4 + i) {
            let is_there = |k| unlabelled.images().image(k) == write::rgb(i, 96);
            assert_eq!((0..unlabelled.len()).filter(|&k| is_there(k)).count(), 1, "image {i}");
        }
    }
}

#[test]
fn stl10_without_the_unlabelled_images_has_none_and_odd_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write::folder(dir.path(), &write::stl_files(2, 3, 0, &[]));
    fs::remove_file(dir.path().join("unlabeled_X.bin")).unwrap();
    let set = from("stl10", dir.path()).unwrap();
    assert_eq!((set.unlabelled.is_none(), set.pretraining_split()), (true, Split::Train));
    let check = |name: &str, bytes: &[u8], words: &str| {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = refused(from("stl10", dir.path()));
        assert!(error.message.contains(&format!("{name}`: found {words}")), "{error}");
        fs::write(&path, whole).unwrap();
    };
    check("train_y.bin", &[1, 2, 0], "label 0 at image 2, expected 1 to 10");
    check("train_y.bin", &[1, 2], "2 labels, expected 3");
    check("test_X.bin", &[0; 27_649], "27649 bytes, expected a multiple of 27648");
    check("fold_indices.txt", b"0 1\n2 3\n", "index 3, expected indices of the 3");
    check("fold_indices.txt", b"0 1\n2 x\n", "`x` in line 2");
}

#[test]
fn tiny_imagenet_is_read_from_the_zip_and_from_both_layouts() {
    let dir = tempfile::tempdir().unwrap();
    for rearranged in [false, true] {
        let files = write::tiny_files(2, rearranged);
        let plain = dir.path().join(format!("plain-{rearranged}"));
        write::folder(&plain.join("tiny-imagenet-200"), &files);
        let packed = dir.path().join(format!("{rearranged}.zip"));
        write::zip(&packed, "tiny-imagenet-200", &files);
        for place in [plain, packed] {
            let set = from("tiny-imagenet", &place).unwrap();
            assert_eq!(set.train.class_names, ["n01", "n02", "n10"], "sorted, not as in wnids.txt");
            assert_eq!(set.train.labels, [0, 1, 2, 0, 1, 2], "spread");
            // n01 was written third: its images are 4 and 5.
            let order = [4, 0, 2, 5, 1, 3];
            for (k, i) in order.into_iter().enumerate() {
                assert!(set.train.images.image(k) == write::rgb(i, 64), "{} {k}", place.display());
            }
            for k in 0..set.test.len() {
                let i = (0..6).find(|i| set.test.images.image(k) == write::rgb(100 + i, 64));
                let class = [1, 2, 0][i.expect("one of them") / 2];
                assert_eq!(set.test.labels[k], class, "{} {k}", place.display());
            }
        }
    }
}

#[test]
fn odd_pictures_and_unknown_classes_of_tiny_imagenet_are_named() {
    let check = |change: &dyn Fn(&mut write::Files), words: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut files = write::tiny_files(1, false);
        change(&mut files);
        write::zip(&dir.path().join("tiny-imagenet-200.zip"), "tiny-imagenet-200", &files);
        let error = refused(from("tiny-imagenet", dir.path()));
        assert!(error.message.contains(words), "{error}");
    };
    let at = |files: &mut write::Files, name: &str| {
        files.iter().position(|(known, _)| known == name).unwrap()
    };
    let picture = "train/n10/images/n10_0.JPEG";
    check(
        &|files| {
            let i = at(files, picture);
            files[i].1.truncate(50)
        },
        picture,
    );
    check(
        &|files| {
            let i = at(files, picture);
            files[i].1 = write::picture(0, 63, image::ImageFormat::Png);
        },
        "a picture of 63x63, expected 64x64",
    );
    check(
        &|files| {
            let i = at(files, "val/val_annotations.txt");
            files[i].1 = b"val_0.JPEG\tn77\nval_1.JPEG\tn10\nval_2.JPEG\tn01\n".to_vec();
        },
        "found class `n77`, expected one that `train` has",
    );
}

#[test]
fn mnist_and_its_kin_are_centred_on_32_or_kept_at_28() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (name, bytes)) in write::idx_files(20).into_iter().enumerate() {
        match i % 2 {
            0 => fs::write(dir.path().join(name), bytes).unwrap(),
            _ => fs::write(dir.path().join(format!("{name}.gz")), write::gzip(&bytes)).unwrap(),
        }
    }
    for spec in ["mnist", "fashion-mnist"] {
        let set = from(spec, dir.path()).unwrap();
        assert_eq!((set.train.len(), set.test.labels[13]), (20, 3));
        let grey = |row: usize, column| pixel(23, row, column)[0];
        let at_32 = &set.test.images.image(3)[(32 * (2 + 5) + 2 + 9) * 3..][..3];
        assert_eq!(at_32, [grey(5, 9); 3], "two black pixels at each side");
        let native = LoadOptions { side: Some(28), ..at(dir.path()) };
        let set = load(&spec.parse().unwrap(), &native).unwrap();
        assert_eq!(set.test.images.height(), 28);
        assert_eq!(set.test.images.image(3)[(28 * 5 + 9) * 3..][..3], [grey(5, 9); 3]);
    }
}

#[test]
fn labels_of_another_number_and_missing_idx_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let files = write::idx_files(20);
    for (name, bytes) in &files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let labels = dir.path().join("t10k-labels-idx1-ubyte");
    fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 2, 1, 1]).unwrap();
    let error = refused(from("fashion-mnist", dir.path()));
    let expected =
        format!("`{}`: found 2 labels, expected 20, one for each image", labels.display());
    assert_eq!(error.message, expected);
    fs::remove_file(&labels).unwrap();
    let error = refused(from("fashion-mnist", dir.path()));
    assert!(error.message.starts_with(&format!("`{}`", labels.display())), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = refused(from("mnist", empty.path()));
    for place in [empty.path().into(), empty.path().join("mnist"), empty.path().join("MNIST/raw")] {
        assert!(error.message.contains(&format!("`{}`", place.display())), "{error}");
    }
    let error = refused(from("mnist", Path::new("/nowhere")));
    assert!(error.message.starts_with("`/nowhere`: is not there"), "{error}");
}

#[test]
fn a_file_of_the_published_size_must_be_the_published_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, header: &[u8], n: usize| {
        fs::write(dir.path().join(name), [header, &vec![0; n]].concat()).unwrap();
    };
    // All black: the right size, the wrong images. 60,000 = 0xea60, 10,000 = 0x2710.
    write(
        "train-images-idx3-ubyte",
        &[0, 0, 8, 3, 0, 0, 0xea, 0x60, 0, 0, 0, 28, 0, 0, 0, 28],
        60_000 * 784,
    );
    write("train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0xea, 0x60], 60_000);
    write(
        "t10k-images-idx3-ubyte",
        &[0, 0, 8, 3, 0, 0, 0x27, 0x10, 0, 0, 0, 28, 0, 0, 0, 28],
        10_000 * 784,
    );
    write("t10k-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0x27, 0x10], 10_000);
    assert_eq!(refused(from("fashion-mnist", dir.path())).code, "DATA-HASH");
    // CIFAR-100's unpacked files have published sums, too.
    write("train.bin", &[], 50_000 * 3_074);
    write("test.bin", &[], 10_000 * 3_074);
    let error = refused(from("cifar100", dir.path()));
    assert_eq!(error.code, "DATA-HASH");
    assert!(error.message.contains("train.bin"), "{error}");
}

#[test]
fn a_set_that_a_manifest_of_one_s_own_describes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = r#"
name = "two-by-two"
title = "tiny"
licence = "mine"
source = "me"
side = 2
classes = ["a", "b"]
[images]
train = 2
test = 1
[layout]
format = "cifar"
folder = "inside"
train = ["one.bin", "two.bin"]
test = ["test.bin"]
label_bytes = 1
"#;
    fs::write(dir.path().join("own.toml"), manifest).unwrap();
    let record = |label: u8| [&[label][..], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]].concat();
    let files = [("one.bin", record(1)), ("two.bin", record(0)), ("test.bin", record(1))];
    write::folder(dir.path(), &files.map(|(name, bytes)| (name.to_owned(), bytes)));
    let spec = format!("manifest:{}", dir.path().join("own.toml").display());
    let set = from(&spec, dir.path()).unwrap();
    assert_eq!(
        (&set.train.labels[..], &set.train.class_names[..]),
        (&[1, 0][..], &["a".into(), "b".into()][..])
    );
    assert_eq!(set.train.images.image(0), [1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12]);
}

#[test]
fn other_sizes_are_resized_once() {
    let dir = tempfile::tempdir().unwrap();
    write::folder(dir.path(), &write::cifar10_files(1, 1));
    for side in [28, 64, 96, 224] {
        let options = LoadOptions { side: Some(side), ..at(dir.path()) };
        let set = load(&"cifar10".parse().unwrap(), &options).unwrap();
        assert_eq!((set.train.images.height(), set.train.images.width()), (side, side));
        // The middle of a slope stays what it is, within a step of the slope.
        let middle = &set.train.images.image(0)[(side * (side / 2) + side / 2) * 3..][..3];
        let expected = pixel(0, 16, 16);
        for channel in 0..3 {
            let off = i32::from(middle[channel]) - i32::from(expected[channel]);
            assert!(off.abs() <= 8, "{side} {channel}: {middle:?} {expected:?}");
        }
    }
}
