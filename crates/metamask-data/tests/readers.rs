//! The readers against damaged files: whatever the bytes, there is a data set
//! or an error that names the file, soon and within bounded memory.
//!
//! One test function, so that the peak of the memory is the readers' own.
//! METAMASK_FULL=1 damages ten thousand files for each parser, otherwise a few hundred.

#[path = "../../../tests/injuries.rs"]
#[allow(dead_code)]
mod injuries;

#[path = "formats/write.rs"]
#[allow(dead_code)]
mod write;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::ImageFormat;
use metamask_data::{DataError, DatasetSpec, LoadOptions, Manifest, Places, load};
use metamask_random::{Key, Purpose};

use injuries::{mutated, tried, tries_all};

/// A reader takes a millisecond of this process's time on the cores.
const SLOWEST: Duration = Duration::from_secs(3);
/// Above what the process needed before: 64 MiB of a file, and slack for the
/// allocator. The files here have a few kB each.
const MEMORY_MIB: u64 = 64 + 16;

/// A file of a data set that is otherwise whole.
struct Case {
    parser: &'static str,
    spec: String,
    /// What `--data-dir` names.
    dir: PathBuf,
    file: PathBuf,
    bytes: Vec<u8>,
}

#[test]
fn damaged_files_are_refused_by_name_quickly_and_within_bounds() {
    let full = std::env::var_os("METAMASK_FULL").is_some_and(|value| value == "1");
    let n = if full || tries_all() { 10_000 } else { 250 };
    // A foreign parser's panic is caught, and need not be seen.
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !metamask_data::panic_is_guarded() {
            shown(panic);
        }
    }));
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path());
    cases.iter().for_each(|case| attempt(case).expect("whole files are read"));
    let before = peak_memory_mib();

    for case in &cases {
        let mut refused = 0;
        for sample in 0..n {
            let stream = &mut Key::new(0, Purpose::Test).sample(sample).stream();
            replace(&case.file, &mutated(&case.bytes, stream));
            let start = cpu_time();
            let result = attempt(case);
            let what = format!("{} {sample}", case.parser);
            assert!((cpu_time() - start) < SLOWEST, "{what}: {:?}", (cpu_time() - start));
            if let Err(error) = result {
                refused += 1;
                let error = error.downcast_ref::<DataError>().expect("a DataError");
                // The file, its archive, or the partner that it then disagrees with.
                let dir = case.dir.display().to_string();
                assert!(error.message.contains(&dir), "{what}: {error}");
                assert!(
                    !error.message.contains('\n') && error.message.len() < 700,
                    "{what}: {error}"
                );
            }
        }
        replace(&case.file, &case.bytes);
        // Pixels may change unseen in a file of no published size; structure may not.
        assert!(refused > n / 4, "{}: only {refused} of {n} were refused", case.parser);
        tried(&format!("mutations of a data set's file: {}", case.parser), n as usize, n as usize);
    }
    bombs(folder.path());

    if let (Some(before), Some(after)) = (before, peak_memory_mib()) {
        assert!(after - before < MEMORY_MIB, "memory grew from {before} to {after} MiB");
    }
}

fn attempt(case: &Case) -> anyhow::Result<()> {
    if case.parser == "manifest" {
        return Ok(Manifest::read(&case.file).map(|_| ())?);
    }
    let places = Places { data_dir: Some(case.dir.clone()), ..Places::default() };
    let options = LoadOptions { places, ..LoadOptions::default() };
    load(&case.spec.parse::<DatasetSpec>()?, &options).map(|_| ())
}

/// Small inputs whose content is large.
fn bombs(folder: &Path) {
    let check = |what: &str, spec: &str, dir: &Path| {
        let places = Places { data_dir: Some(dir.into()), ..Places::default() };
        let options = LoadOptions { places, ..LoadOptions::default() };
        let start = cpu_time();
        assert!(load(&spec.parse().unwrap(), &options).is_err(), "{what}");
        assert!((cpu_time() - start) < SLOWEST, "{what}: {:?}", (cpu_time() - start));
    };
    // 256 MiB of zeros in 260 kB, behind an honest header and behind a forged one.
    for n in [4u32, u32::MAX] {
        let dir = folder.join(format!("idx-bomb-{n}"));
        fs::create_dir(&dir).unwrap();
        for (name, bytes) in write::idx_files(4) {
            fs::write(dir.join(name), bytes).unwrap();
        }
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(
            &[&[0, 0, 8, 3][..], &n.to_be_bytes(), &[0, 0, 0, 28, 0, 0, 0, 28]].concat(),
        )
        .unwrap();
        (0..256).for_each(|_| bomb.write_all(&[0; 1 << 20]).unwrap());
        fs::remove_file(dir.join("train-images-idx3-ubyte")).unwrap();
        fs::write(dir.join("train-images-idx3-ubyte.gz"), bomb.finish().unwrap()).unwrap();
        check("an IDX bomb", "mnist", &dir);
    }
    // A tar whose header promises 4 GiB of a member that is not there, and one
    // whose long name would have 1 GiB.
    for (what, kind, size) in
        [("a forged member", b'0', 4u64 << 30), ("a long name", b'L', 1 << 30)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_path("cifar-10-batches-bin/data_batch_1.bin").unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_cksum();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(header.as_bytes()).unwrap();
        if kind == b'L' {
            (0..256).for_each(|_| gzip.write_all(&[b'a'; 1 << 20]).unwrap());
        }
        let path = folder.join(format!("{}.tar.gz", kind as char));
        fs::write(&path, gzip.finish().unwrap()).unwrap();
        check(what, "cifar10", &path);
    }
    // A PNG of 60,000 x 60,000 in a hundred bytes.
    let dir = folder.join("png-bomb");
    fs::create_dir(&dir).unwrap();
    let mut png = write::picture(0, 32, ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    fs::write(dir.join("a.png"), png).unwrap();
    check("a PNG bomb", &format!("folder:{}", dir.display()), &dir);
}

/// Writes a new file: ext4 syncs one that is cut to nothing and written again,
/// which makes ten thousand of them slow.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Writes a small whole data set for each parser and returns the files to damage.
fn cases(folder: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |parser: &'static str, spec: &str, dir: PathBuf, file: PathBuf| {
        let bytes = fs::read(&file).unwrap();
        cases.push(Case { parser, spec: spec.to_owned(), dir, file, bytes });
    };
    let dir = folder.join("idx");
    fs::create_dir(&dir).unwrap();
    for (name, bytes) in write::idx_files(4) {
        match name.contains("labels") {
            true => fs::write(dir.join(format!("{name}.gz")), write::gzip(&bytes)).unwrap(),
            false => fs::write(dir.join(name), bytes).unwrap(),
        }
    }
    add("IDX images", "mnist", dir.clone(), dir.join("train-images-idx3-ubyte"));
    add("IDX labels", "mnist", dir.clone(), dir.join("train-labels-idx1-ubyte.gz"));

    let dir = folder.join("cifar");
    write::folder(&dir, &write::cifar10_files(2, 2));
    add("CIFAR", "cifar10", dir.clone(), dir.join("data_batch_2.bin"));
    let archive = folder.join("cifar-10-binary.tar.gz");
    write::tar_gz(&archive, "cifar-10-batches-bin", &write::cifar10_files(1, 1));
    add("tar.gz", "cifar10", archive.clone(), archive);

    let dir = folder.join("stl");
    write::folder(&dir, &write::stl_files(1, 1, 1, &[]));
    for (parser, name) in [
        ("STL images", "train_X.bin"),
        ("STL labels", "test_y.bin"),
        ("STL folds", "fold_indices.txt"),
    ] {
        add(parser, "stl10", dir.clone(), dir.join(name));
    }

    let archive = folder.join("tiny-imagenet-200.zip");
    write::zip(&archive, "tiny-imagenet-200", &write::tiny_files(1, false));
    add("zip", "tiny-imagenet", archive.clone(), archive);

    let dir = folder.join("parquet");
    fs::create_dir(&dir).unwrap();
    let codecs = [
        parquet::basic::Compression::SNAPPY,
        parquet::basic::Compression::ZSTD(Default::default()),
    ];
    for (split, codec) in ["train", "test"].into_iter().zip(codecs) {
        let rows: Vec<(Vec<u8>, i64)> =
            (0..3).map(|i| (write::picture(i, 32, ImageFormat::Png), i as i64)).collect();
        let file = dir.join(format!("{split}-00000-of-00001.parquet"));
        write::parquet(&file, "img", Some("label"), &rows, codec);
    }
    add("parquet, snappy", "cifar10", dir.clone(), dir.join("train-00000-of-00001.parquet"));
    add("parquet, zstd", "cifar10", dir.clone(), dir.join("test-00000-of-00001.parquet"));

    let pictures = [
        ("PNG", "png", ImageFormat::Png),
        ("JPEG", "jpg", ImageFormat::Jpeg),
        ("WebP", "webp", ImageFormat::WebP),
    ];
    for (parser, ending, format) in pictures {
        let dir = folder.join(ending);
        let file = format!("a.{ending}");
        write::folder(&dir, &[(file.clone(), write::picture(3, 32, format))]);
        add(parser, &format!("folder:{}", dir.display()), dir.clone(), dir.join(file));
    }
    let file = folder.join("own.toml");
    fs::write(&file, include_str!("../../../data/manifests/stl10.toml")).unwrap();
    add("manifest", "", folder.to_owned(), file);
    cases
}

/// The time this process has been on a core, where the system tells: a machine
/// busy with other things then does not count. Else the time of the day.
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    // User and system time are the 14th and 15th field, in hundredths of a second.
    let ticks = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    ticks.map_or_else(|| START.elapsed(), |ticks| Duration::from_millis(10 * ticks))
}

/// The most memory this process has held, where the system tells.
fn peak_memory_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
