//! The same layouts written by Python's own tools: what users have was.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use metamask_data::Split;

use crate::{assert_images, from, write};

const SCRIPT: &str = include_str!("write.py");

/// Runs the writer for one layout; false, aloud, where Python lacks a tool.
fn written(layout: &str, dir: &Path) -> bool {
    let python = std::env::var_os("METAMASK_PYTHON").unwrap_or_else(|| "python3".into());
    let script = dir.join("write.py");
    fs::write(&script, SCRIPT).unwrap();
    let mut command = Command::new(&python);
    command.arg(&script).arg(layout).arg(dir).stdin(Stdio::null());
    let reason = match command.output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = stderr.lines().last().unwrap_or_default().to_owned();
            assert!(last.starts_with("ModuleNotFoundError"), "{layout}:\n{stderr}");
            last
        }
        Err(error) => error.to_string(),
    };
    // Whoever names an interpreter wants its tools used.
    let named = std::env::var_os("METAMASK_PYTHON").is_some();
    assert!(!named, "METAMASK_PYTHON is set, but {layout} by Python cannot run: {reason}");
    let line = format!("left to METAMASK_PYTHON: {layout} written by Python: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}

#[test]
fn a_tar_gz_by_tarfile_is_read() {
    let dir = tempfile::tempdir().unwrap();
    if written("tarfile", dir.path()) {
        let set = from("cifar10", &dir.path().join("cifar-10-binary.tar.gz")).unwrap();
        assert_images(&set.train, 0, 32);
        assert_images(&set.test, 10, 32);
        assert_eq!(set.train.labels, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}

#[test]
fn a_zip_by_zipfile_with_jpegs_by_pil_is_read() {
    let dir = tempfile::tempdir().unwrap();
    if written("zipfile", dir.path()) {
        let set = from("tiny-imagenet", &dir.path().join("tiny-imagenet-200.zip")).unwrap();
        assert_eq!((&set.train.labels[..], &set.test.labels[..]), (&[0, 1][..], &[1, 0][..]));
        // Quality 95 of smooth colours is close; the grey picture is grey.
        let first = set.train.images.image(0);
        let close = |a: u8, b: u8| a.abs_diff(b) < 12;
        assert!(
            close(first[0], 128) && close(first[1], 64) && close(first[2], 32),
            "{:?}",
            &first[..3]
        );
        let grey = set.train.images.image(1);
        assert!(grey.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]), "grey to RGB");
    }
}

#[test]
fn parquet_by_pyarrow_is_read() {
    let dir = tempfile::tempdir().unwrap();
    if written("pyarrow", dir.path()) {
        let set = from("cifar10", dir.path()).unwrap();
        assert_images(&set.train, 0, 32);
        assert_images(&set.test, 7, 32);
        assert_eq!(
            (&set.train.labels[..], &set.test.labels[..]),
            (&[0, 1, 2, 3, 4, 5, 6][..], &[7, 8][..])
        );
    }
}

#[test]
fn stl10_by_numpy_s_transpose_is_upright() {
    let dir = tempfile::tempdir().unwrap();
    if written("stl", dir.path()) {
        let set = from("stl10", dir.path()).unwrap();
        assert_images(&set.test, 0, 96);
        assert_images(&set.train, 2, 96);
        let unlabelled = set.pretraining(Split::Unlabelled).unwrap();
        assert!(unlabelled.images().image(0) == write::rgb(5, 96));
    }
}

/// Each `NAME.EXT` beside a `NAME.rgb` with what PIL makes of it: transposed
/// by EXIF, converted to RGB, cropped to the middle square, resized by
/// `Image.BILINEAR`.
#[test]
fn pictures_of_every_kind_are_what_pil_makes_of_them() {
    let dir = tempfile::tempdir().unwrap();
    if !written("pil", dir.path()) {
        return;
    }
    let pictures = dir.path().join("pictures");
    let options = metamask_data::LoadOptions { side: Some(48), ..Default::default() };
    let spec = format!("folder:{}", pictures.display()).parse().unwrap();
    let set = metamask_data::load(&spec, &options).unwrap();
    let images = set.pretraining(Split::Unlabelled).unwrap();
    let mut names: Vec<String> = fs::read_dir(&pictures)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert!(names.len() >= 14, "{names:?}");
    assert_eq!(images.len(), names.len());
    for (i, name) in names.iter().enumerate() {
        let stem = name.split('.').next().unwrap();
        let expected = fs::read(dir.path().join("expected").join(format!("{stem}.rgb"))).unwrap();
        let ours = images.images().image(i);
        let off = ours.iter().zip(&expected).map(|(a, b)| u32::from(a.abs_diff(*b)));
        let (worst, mean) =
            (off.clone().max().unwrap(), f64::from(off.sum::<u32>()) / ours.len() as f64);
        // Two JPEG decoders differ in rounding and in how they enlarge halved
        // colour planes; CMYK has no one formula. Lossless kinds are off by the
        // rounding of one resize.
        let (max, mean_max) = match name {
            name if name.contains("cmyk") => (24, 4.0),
            name if name.ends_with(".jpg") => (16, 1.5),
            name if name.starts_with("lossy") => (16, 1.5),
            _ => (1, 0.5),
        };
        assert!(worst <= max && mean <= mean_max, "{name}: worst {worst}, mean {mean:.2}");
    }
}
