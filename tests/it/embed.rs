//! Features of anybody's images.

use std::fs;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, read, sorted_names};

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
