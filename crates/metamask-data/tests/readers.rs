//! The readers against damaged files: whatever the bytes, there is a data set
//! or an error that names the file, soon and within bounded memory.
//!
//! One test function, so that the peak of the memory is the readers' own.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use metamask_data::{DataError, DatasetSpec, LoadOptions, load};
use metamask_random::{Key, Purpose, Stream};

const MUTATIONS: u32 = 10_000;
/// A reader takes a millisecond; a machine busy with other things takes longer.
const SLOWEST: Duration = Duration::from_secs(5);
/// Above what the process needed before: 64 MiB of a file, and slack for the
/// allocator. The files here have a few kB each.
const MEMORY_MIB: u64 = 64 + 16;

/// A file of a data set that is otherwise whole.
struct Case {
    spec: DatasetSpec,
    name: &'static str,
    bytes: Vec<u8>,
}

#[test]
fn damaged_files_are_refused_by_name_quickly_and_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let cases = write_cases(folder.path());
    let before = peak_memory_mib();

    let options = LoadOptions { data_dir: Some(folder.path().into()), ..Default::default() };
    let mut refused = 0;
    for sample in 0..MUTATIONS {
        let case = &cases[sample as usize % cases.len()];
        let stream = &mut Key::new(0, Purpose::Test).sample(sample).stream();
        let path = folder.path().join(case.name);
        replace(&path, &mutated(&case.bytes, stream));
        let start = Instant::now();
        let result = load(&case.spec, &options);
        assert!(start.elapsed() < SLOWEST, "{} {sample}: {:?}", case.name, start.elapsed());
        if let Err(error) = result {
            refused += 1;
            let error = error.downcast_ref::<DataError>().expect("a DataError");
            // A file that lost or gained images disagrees with its partner.
            let stem = if case.spec == DatasetSpec::Cifar10 { case.name } else { "train-" };
            assert!(error.message.contains(stem), "{} {sample}: {error}", case.name);
            assert!(!error.message.contains('\n') && error.message.len() < 400, "{error}");
        }
        replace(&path, &case.bytes);
    }
    // Pixels may change unseen in a file of no published size; structure may not.
    assert!(refused > MUTATIONS / 3, "only {refused} of {MUTATIONS} were refused");

    // 256 MiB of zeros in 260 kB, behind an honest header and behind a forged one.
    for n in [4u32, u32::MAX] {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&image_header(n)).unwrap();
        (0..256).for_each(|_| bomb.write_all(&[0; 1 << 20]).unwrap());
        fs::write(folder.path().join("train-images-idx3-ubyte.gz"), bomb.finish().unwrap())
            .unwrap();
        fs::remove_file(folder.path().join("train-images-idx3-ubyte")).ok();
        let start = Instant::now();
        assert!(load(&DatasetSpec::FashionMnist, &options).is_err());
        assert!(start.elapsed() < SLOWEST, "bomb of {n}: {:?}", start.elapsed());
    }

    if let (Some(before), Some(after)) = (before, peak_memory_mib()) {
        assert!(after - before < MEMORY_MIB, "memory grew from {before} to {after} MiB");
    }
}

/// Writes a new file: ext4 syncs one that is cut to nothing and written again,
/// which makes ten thousand of them slow.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Writes a small whole data set of each kind and returns the files to damage.
fn write_cases(folder: &Path) -> Vec<Case> {
    let images: Vec<u8> = (0..4 * 784).map(|i| (i % 253) as u8).collect();
    let images = [&image_header(4)[..], &images].concat();
    let labels = vec![0, 0, 8, 1, 0, 0, 0, 4, 3, 1, 9, 0];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&labels).unwrap();
    let records: Vec<u8> = (0..2 * 3073usize).map(|i| (i % 3073 % 10) as u8).collect();

    let whole = [
        ("train-images-idx3-ubyte", images.clone()),
        ("train-labels-idx1-ubyte.gz", gzip.finish().unwrap()),
        ("t10k-images-idx3-ubyte", images),
        ("t10k-labels-idx1-ubyte", labels),
    ];
    for (name, bytes) in &whole {
        fs::write(folder.join(name), bytes).unwrap();
    }
    for i in 1..=5 {
        fs::write(folder.join(format!("data_batch_{i}.bin")), &records).unwrap();
    }
    fs::write(folder.join("test_batch.bin"), &records).unwrap();

    let [images, labels, ..] = whole;
    let idx = [images, labels].map(|(name, bytes)| {
        let spec = DatasetSpec::FashionMnist;
        Case { spec, name, bytes }
    });
    let cifar = Case { spec: DatasetSpec::Cifar10, name: "data_batch_2.bin", bytes: records };
    idx.into_iter().chain([cifar]).collect()
}

fn image_header(n: u32) -> Vec<u8> {
    [&[0, 0, 8, 3][..], &n.to_be_bytes(), &[0, 0, 0, 28, 0, 0, 0, 28]].concat()
}

/// The file with one to three injuries.
fn mutated(bytes: &[u8], stream: &mut Stream) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=stream.below(3) {
        let n = bytes.len() as u32;
        let at = stream.below(n.max(1)) as usize;
        match stream.below(6) {
            _ if bytes.is_empty() => bytes.push(stream.next_u32() as u8),
            0 => bytes[at] ^= 1 << stream.below(8),
            1 => bytes.truncate(at),
            2 => {
                // A piece of the file in another place.
                let piece: Vec<u8> = bytes[at..].iter().take(200).copied().collect();
                let to = stream.below(n) as usize;
                bytes.splice(to..to, piece);
            }
            3 => {
                // A length in the header.
                let field = 4 * stream.below(4) as usize;
                let length = stream.next_u32() >> stream.below(32);
                let header = bytes.iter_mut().skip(field);
                header.zip(length.to_be_bytes()).for_each(|(byte, new)| *byte = new);
            }
            4 => bytes.extend((0..=stream.below(9)).map(|i| i as u8)),
            _ => {
                let start = at.min(20);
                bytes[start] = stream.next_u32() as u8; // headers are at the start
            }
        }
    }
    bytes
}

/// The most memory this process has held, where the system tells.
fn peak_memory_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
