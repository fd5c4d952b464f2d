//! Writes full-size files of random pixels in each data set's layout, loads each
//! twice in a process of its own, and prints a table of times and peak memory:
//! the one in docs/results/data.md.
//!
//!     cargo run --release -p metamask-data --example load_times -- DIR [LAYOUT ...]
//!
//! DIR needs 12 GB for all layouts; what is in it already is used again.

use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{DynamicImage, ImageFormat, RgbImage};
use metamask_data::{LoadOptions, Places, load};

/// A layout: its name, the data set it is loaded as, and how it is written.
type Layout = (&'static str, &'static str, fn(&Path) -> anyhow::Result<()>);

const LAYOUTS: [Layout; 6] = [
    ("mnist, IDX gz", "mnist", mnist),
    ("cifar10, tar.gz", "cifar10", cifar10),
    ("tiny-imagenet, zip of 110,000", "tiny-imagenet", tiny_imagenet),
    ("stl10, folder", "stl10", stl10_folder),
    ("stl10, tar.gz", "stl10", stl10_archive),
    ("folder of 100,000 mixed", "folder", mixed_folder),
];

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["once", spec, data, cache] => once(spec, Path::new(data), Path::new(cache)),
        // Something small for who only wants to see it run.
        [] => table(tempfile::tempdir()?.path(), &["mnist"]),
        [dir, ref wanted @ ..] if !dir.starts_with('-') => table(Path::new(dir), wanted),
        _ => anyhow::bail!("usage: load_times [DIR [LAYOUT ...]]"),
    }
}

fn table(dir: &Path, wanted: &[&str]) -> anyhow::Result<()> {
    println!(
        "| layout | images | files, MB | first load, s | peak, MB | next load, s | peak, MB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, spec, write) in LAYOUTS {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.starts_with(word)) {
            continue;
        }
        let folder = dir.join(name.replace([' ', ',', '.'], "-"));
        let (data, cache) = (folder.join("data"), folder.join("cache"));
        if !folder.join("written").exists() {
            fs::create_dir_all(&data)?;
            write(&data).with_context(|| format!("failed to write {name}"))?;
            File::create(folder.join("written"))?;
        }
        if cache.exists() {
            fs::remove_dir_all(&cache)?;
        }
        let spec = match spec {
            "folder" => format!("folder:{}", data.display()),
            spec => spec.to_owned(),
        };
        let mut cells = Vec::new();
        for _ in 0..2 {
            let mut child = Command::new(std::env::current_exe()?);
            child.args(["once", &spec]).arg(&data).arg(&cache);
            let output = child.output()?;
            anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            cells.push(text.trim().split(' ').map(String::from).collect::<Vec<_>>());
        }
        let megabytes = size_of_tree(&data)? / 1_000_000;
        let [first, next] = &cells[..] else { unreachable!("two loads") };
        println!(
            "| {name} | {} | {megabytes} | {} | {} | {} | {} |",
            first[0], first[1], first[2], next[1], next[2]
        );
        fs::remove_dir_all(&cache)?;
    }
    Ok(())
}

/// One load in this process: images, seconds, peak memory.
fn once(spec: &str, data: &Path, cache: &Path) -> anyhow::Result<()> {
    let places =
        Places { data_dir: Some(data.into()), cache_dir: Some(cache.into()), ..Places::default() };
    let start = Instant::now();
    let set = load(&spec.parse()?, &LoadOptions { places, ..LoadOptions::default() })?;
    let seconds = start.elapsed().as_secs_f64();
    let unlabelled = set.unlabelled.as_ref().map_or(0, |unlabelled| unlabelled.len());
    let n = set.train.len() + set.test.len() + unlabelled;
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    println!("{n} {seconds:.2} {:.0}", kib * 1.024e-3);
    Ok(())
}

fn size_of_tree(path: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => open.push(entry.path()),
                false => sum += entry.metadata()?.len(),
            }
        }
    }
    Ok(sum)
}

/// SplitMix64: the bytes need only be hard to compress and the same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.chunks_mut(8).for_each(|chunk| {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        });
    }

    /// A picture that compresses like a photograph: smooth, with a little noise.
    fn picture(&mut self, width: u32, height: u32) -> RgbImage {
        let [a, b, c] = [self.next(), self.next(), self.next()].map(|word| (word % 200) as u32);
        RgbImage::from_fn(width, height, |x, y| {
            let noise = (self.next() % 12) as u32;
            image::Rgb(
                [a + x + noise, b + y + noise, c + (x + y) / 2 + noise].map(|v| v.min(255) as u8),
            )
        })
    }
}

fn mnist(dir: &Path) -> anyhow::Result<()> {
    let mut noise = Noise(1);
    for (name, n) in [("train", 60_000u32), ("t10k", 10_000)] {
        let mut images = vec![0, 0, 8, 3];
        images.extend([n, 28, 28].iter().flat_map(|size| size.to_be_bytes()));
        let start = images.len();
        images.resize(start + n as usize * 784, 0);
        noise.fill(&mut images[start..]);
        let mut labels = vec![0, 0, 8, 1];
        labels.extend(n.to_be_bytes());
        labels.extend((0..n).map(|i| (i % 10) as u8));
        for (kind, bytes) in [("images-idx3", images), ("labels-idx1", labels)] {
            let file = File::create(dir.join(format!("{name}-{kind}-ubyte.gz")))?;
            let mut gzip = GzEncoder::new(file, Compression::fast());
            gzip.write_all(&bytes)?;
            gzip.finish()?;
        }
    }
    Ok(())
}

fn cifar10(dir: &Path) -> anyhow::Result<()> {
    let mut noise = Noise(2);
    let gzip =
        GzEncoder::new(File::create(dir.join("cifar-10-binary.tar.gz"))?, Compression::fast());
    let mut builder = tar::Builder::new(gzip);
    let names = (1..=5).map(|k| format!("data_batch_{k}.bin")).chain(["test_batch.bin".into()]);
    for name in names {
        let mut records = vec![0; 10_000 * 3_073];
        noise.fill(&mut records);
        records.chunks_exact_mut(3_073).for_each(|record| record[0] %= 10);
        append(&mut builder, &format!("cifar-10-batches-bin/{name}"), &records)?;
    }
    builder.into_inner()?.finish()?;
    Ok(())
}

fn append(builder: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    Ok(builder.append_data(&mut header, name, bytes)?)
}

fn tiny_imagenet(dir: &Path) -> anyhow::Result<()> {
    let mut noise = Noise(3);
    let file = BufWriter::new(File::create(dir.join("tiny-imagenet-200.zip"))?);
    let mut writer = zip::ZipWriter::new(file);
    let options = zip::write::SimpleFileOptions::default();
    let mut put = |name: String, bytes: &[u8]| -> anyhow::Result<()> {
        writer.start_file(format!("tiny-imagenet-200/{name}"), options)?;
        Ok(writer.write_all(bytes)?)
    };
    let mut jpeg = || -> anyhow::Result<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        noise.picture(64, 64).write_to(&mut bytes, ImageFormat::Jpeg)?;
        Ok(bytes.into_inner())
    };
    for class in 0..200 {
        for i in 0..500 {
            put(format!("train/n{class:08}/images/n{class:08}_{i}.JPEG"), &jpeg()?)?;
        }
    }
    let mut annotations = String::new();
    for i in 0..10_000 {
        put(format!("val/images/val_{i}.JPEG"), &jpeg()?)?;
        annotations += &format!("val_{i}.JPEG\tn{:08}\t0\t0\t63\t63\n", i % 200);
    }
    put("val/val_annotations.txt".into(), annotations.as_bytes())?;
    writer.finish()?;
    Ok(())
}

/// One image fewer than published: a file of the published size would have to be
/// the published file.
const STL10: [(&str, &str, usize); 3] = [
    ("test_X.bin", "test_y.bin", 7_999),
    ("train_X.bin", "train_y.bin", 4_999),
    ("unlabeled_X.bin", "", 99_999),
];
const STL10_IMAGE: usize = 3 * 96 * 96;

fn stl10_folder(dir: &Path) -> anyhow::Result<()> {
    let mut noise = Noise(4);
    for (images, labels, n) in STL10 {
        let mut file = BufWriter::new(File::create(dir.join(images))?);
        let mut image = vec![0; STL10_IMAGE];
        for _ in 0..n {
            noise.fill(&mut image);
            file.write_all(&image)?;
        }
        file.flush()?;
        if !labels.is_empty() {
            fs::write(dir.join(labels), (0..n).map(|i| 1 + (i % 10) as u8).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

fn stl10_archive(dir: &Path) -> anyhow::Result<()> {
    let plain = dir.join("plain");
    fs::create_dir_all(&plain)?;
    stl10_folder(&plain)?;
    let gzip = GzEncoder::new(
        BufWriter::new(File::create(dir.join("stl10_binary.tar.gz"))?),
        Compression::fast(),
    );
    let mut builder = tar::Builder::new(gzip);
    for (images, labels, _) in STL10 {
        for name in [images, labels].into_iter().filter(|name| !name.is_empty()) {
            builder.append_path_with_name(plain.join(name), format!("stl10_binary/{name}"))?;
        }
    }
    builder.into_inner()?.finish()?.flush()?;
    fs::remove_dir_all(plain)?;
    Ok(())
}

/// Ten classes of JPEG, PNG and WebP files between 40 and 100 pixels: some of the JPEGs
/// grey, some of the PNGs with alpha or of 16 bits.
fn mixed_folder(dir: &Path) -> anyhow::Result<()> {
    let mut noise = Noise(5);
    for i in 0..100_000u32 {
        let folder: PathBuf = dir.join(format!("class-{}", i % 10));
        if i < 10 {
            fs::create_dir_all(&folder)?;
        }
        let (width, height) = (40 + i % 61, 40 + i / 7 % 61);
        let picture = DynamicImage::from(noise.picture(width, height));
        let (ending, format, picture) = match i % 20 {
            0 => ("webp", ImageFormat::WebP, picture),
            1..=3 => ("png", ImageFormat::Png, picture),
            4 => ("png", ImageFormat::Png, picture.to_rgba8().into()),
            5 => ("png", ImageFormat::Png, picture.to_luma16().into()),
            6 | 7 => ("jpg", ImageFormat::Jpeg, picture.to_luma8().into()),
            _ => ("jpg", ImageFormat::Jpeg, picture),
        };
        picture.save_with_format(folder.join(format!("{i}.{ending}")), format)?;
    }
    Ok(())
}
