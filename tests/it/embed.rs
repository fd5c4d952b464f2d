//! Features of anybody's images.

use std::fs;

use crate::bad_input::assert_refused;
use crate::support::{Finished, Metamask, read, sorted_names};

/// A folder `photos` with two pictures, one of them below another folder, and a text.
fn photos(metamask: &Metamask) {
    fs::create_dir_all(metamask.path("photos/b")).expect("made");
    metamask.succeed(&["data", "preview", "garments", "--out", "photos/b/z.png"]);
    metamask.succeed(&["data", "preview", "shapes", "--out", "photos/a,1.PNG"]);
    fs::write(metamask.path("photos/notes.txt"), "no picture").expect("written");
}

#[test]
fn features_come_with_names_and_mask_in_three_formats() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    photos(&metamask);
    let embed = |out: &str, more: &[&str]| {
        metamask.run(&[&["embed", "a", "--images", "photos", "--out", out], more].concat())
    };
    let done = embed("f.csv", &[]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(
        done.stdout,
        "2 images of photos, 32 features each, not masked\nf.csv\nf.mask.csv\n"
    );
    let csv = fs::read_to_string(metamask.path("f.csv")).expect("written");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("name,0,1,") && lines[0].ends_with(",31"), "{}", lines[0]);
    assert!(lines[1].starts_with("\"a,1.PNG\",") && lines[2].starts_with("b/z.png,"), "{csv}");
    let row: Vec<f32> =
        lines[2].split(',').skip(1).map(|cell| cell.parse().expect("a number")).collect();

    // The same numbers, in the other formats; one thread or two.
    assert_eq!(embed("f.npy", &["--threads", "1"]).code, Some(0));
    let npy = read(&metamask.path("f.npy"));
    let last: Vec<f32> = npy[npy.len() - 32 * 4..]
        .chunks_exact(4)
        .map(|x| f32::from_le_bytes(x.try_into().expect("four bytes")))
        .collect();
    assert_eq!(last, row);
    assert_eq!(
        fs::read_to_string(metamask.path("f.names.txt")).expect("there"),
        "a,1.PNG\nb/z.png\n"
    );
    let done = embed("f.safetensors", &[]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let file = read(&metamask.path("f.safetensors"));
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).expect("JSON");
    assert_eq!(header["features"]["shape"], serde_json::json!([2, 32]));
    assert_eq!(header["mask"]["shape"], serde_json::json!([32]));
    let metadata = header["__metadata__"]["metamask"].as_str().expect("text");
    let metadata: serde_json::Value = serde_json::from_str(metadata).expect("JSON");
    assert_eq!(metadata["names"], serde_json::json!(["a,1.PNG", "b/z.png"]));

    let before = sorted_names(metamask.folder());
    fs::remove_file(metamask.path("f.csv")).expect("removed");
    assert_refused(&embed("f.csv", &[]), 73, "OUT-DIR", &["f.mask.csv", "exists already"]);
    assert_refused(&embed("f.pt", &[]), 2, "USAGE", &["f.pt", ".npy"]);
    assert_eq!(sorted_names(metamask.folder()).len(), before.len() - 1);
}

#[test]
fn a_damaged_image_is_named_or_left_out() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    photos(&metamask);
    let whole = read(&metamask.path("photos/b/z.png"));
    fs::write(metamask.path("photos/b/cut.png"), &whole[..whole.len() / 2]).expect("written");
    fs::write(metamask.path("photos/empty.jpg"), b"").expect("written");
    let embed = |more: &[&str]| {
        let all = ["embed", "a", "--images", "photos", "--out", "f.csv"];
        metamask.run(&[&all, more].concat())
    };
    assert_refused(&embed(&[]), 65, "DATA", &["photos/b/cut.png", "damaged"]);
    assert!(!metamask.path("f.csv").exists());
    let skipped = embed(&["--bad-images", "skip"]);
    assert_eq!(skipped.code, Some(0), "{}", skipped.stderr);
    assert!(skipped.stdout.starts_with("2 images of photos"), "{}", skipped.stdout);
    for words in ["2 damaged files left out", "photos/b/cut.png"] {
        assert!(skipped.stderr.contains(words), "{}", skipped.stderr);
    }

    fs::create_dir(metamask.path("none")).expect("made");
    let none = metamask.run(&["embed", "a", "--images", "none", "--out", "n.csv"]);
    assert_refused(&none, 65, "DATA", &["none", "has no image"]);
    let gone = metamask.run(&["embed", "a", "--images", "gone", "--out", "n.csv"]);
    assert_refused(&gone, 66, "MISSING", &["gone"]);
}

/// A PNG of `width` x `height` whose head is whole and whose pixels are not there.
fn head_of_png(width: u32, height: u32) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    png.extend([8, 2, 0, 0, 0]);
    let mut sum = flate2::Crc::new();
    sum.update(&png[12..]);
    png.extend(sum.sum().to_be_bytes());
    png
}

#[test]
fn hostile_files_are_left_out_within_bounds_and_no_panic_escapes() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    photos(&metamask);
    let whole = read(&metamask.path("photos/b/z.png"));
    let mut hostile = vec![
        head_of_png(60_000, 60_000),
        head_of_png(16_384, 16_384),
        head_of_png(0, 7),
        b"<!DOCTYPE html><h1>403</h1>".to_vec(),
        b"version https://git-lfs.github.com/spec/v1".to_vec(),
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0MM\0*\xff\xff\xff\xff".to_vec(),
        b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\xff\xff\xff\xff\xff".to_vec(),
    ];
    // Cut and bent in many places: the checksums see it, or the inflater does.
    hostile.extend((0..40).map(|i| {
        let mut bytes = whole[..whole.len() - i * whole.len() / 80].to_vec();
        let at = 8 + i * (bytes.len() - 9) / 40;
        bytes[at] ^= 0x5a;
        bytes
    }));
    let n = hostile.len() + 2;
    for (i, bytes) in hostile.iter().enumerate() {
        fs::write(metamask.path(&format!("photos/h{i:02}.png")), bytes).expect("written");
    }
    // A pipe would wait for ever, a link leads nowhere.
    let pipe = metamask.path("photos/pipe.jpg");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("it starts");
    assert!(made.success());
    std::os::unix::fs::symlink("nowhere", metamask.path("photos/link.webp")).expect("made");

    let arguments = ["embed", "a", "--images", "photos", "--out", "f.csv"];
    let failed = metamask.run(&arguments);
    assert_refused(&failed, 65, "DATA", &["photos/h00.png", "exceeds limit"]);
    // Four gigabytes of addresses are enough for two threads and 256 MiB of pixels each.
    let limited = ["-c", "ulimit -v 4000000; exec \"$0\" \"$@\""];
    let skipping = [&arguments[..], &["--bad-images", "skip", "--threads", "2"]].concat();
    let done = metamask.under("sh", &limited, &skipping).output().expect("sh starts");
    let done = Finished::from(done);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.starts_with("2 images of photos"), "{}", done.stdout);
    assert!(done.stderr.contains(&format!("{n} damaged files left out")), "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}
