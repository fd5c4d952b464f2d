//! Writers of small files in exactly the layouts that the readers know.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ImageFormat, RgbImage};
use parquet::basic::Compression as Codec;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// Files with their paths in a folder or an archive.
pub type Files = Vec<(String, Vec<u8>)>;

/// The pixel of image `i`: no mirror image or transpose of it is the same, and
/// no two of the first 256 images are.
pub fn pixel(i: usize, row: usize, column: usize) -> [u8; 3] {
    [i + 7 * row, 3 * i + 5 * column, 100 + i + 2 * row + 3 * column].map(|value| value as u8)
}

/// Image `i` as `[side, side, 3]`.
pub fn rgb(i: usize, side: usize) -> Vec<u8> {
    let at = |row| (0..side).flat_map(move |column| pixel(i, row, column));
    (0..side).flat_map(at).collect()
}

/// Image `i` as planes, row by row.
pub fn planes(i: usize, side: usize) -> Vec<u8> {
    let rgb = rgb(i, side);
    (0..3).flat_map(|c| rgb.iter().skip(c).step_by(3).copied().collect::<Vec<_>>()).collect()
}

/// Image `i` as planes, column by column, as STL-10 has them.
pub fn column_planes(i: usize, side: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * side * side);
    for channel in 0..3 {
        for column in 0..side {
            bytes.extend((0..side).map(|row| pixel(i, row, column)[channel]));
        }
    }
    bytes
}

/// Records of CIFAR: image `first + k` with label `labels[k]`, behind `coarse`.
pub fn cifar(first: usize, labels: &[u8], coarse: Option<u8>) -> Vec<u8> {
    let record = |(k, &label): (usize, &u8)| {
        let mut record: Vec<u8> = coarse.into_iter().chain([label]).collect();
        record.extend(planes(first + k, 32));
        record
    };
    labels.iter().enumerate().flat_map(record).collect()
}

/// The files of CIFAR-10: training images 0, 1, … in five files of `n` each,
/// then test images, image i of class i mod 10.
pub fn cifar10_files(n: usize, n_test: usize) -> Files {
    let labels = |first: usize, n| (first..first + n).map(|i| (i % 10) as u8).collect::<Vec<_>>();
    let batch =
        |k: usize| (format!("data_batch_{}.bin", k + 1), cifar(k * n, &labels(k * n, n), None));
    let test = ("test_batch.bin".to_owned(), cifar(5 * n, &labels(5 * n, n_test), None));
    (0..5).map(batch).chain([test]).collect()
}

/// The files of STL-10: test images 0, 1, …, then training, then unlabelled
/// ones; unlabelled images listed in `equal` are copies of test image 0.
pub fn stl_files(n_test: usize, n_train: usize, n_unlabelled: usize, equal: &[usize]) -> Files {
    let images = |range: std::ops::Range<usize>| range.flat_map(|i| column_planes(i, 96)).collect();
    let labels = |n: usize| (0..n).map(|i| 1 + (i % 10) as u8).collect::<Vec<u8>>();
    let first = n_test + n_train;
    let unlabelled = (0..n_unlabelled).flat_map(|i| match equal.contains(&i) {
        true => column_planes(0, 96),
        false => column_planes(first + i, 96),
    });
    let folds = (0..10).map(|fold| format!("{} {}\n", fold % n_train, (fold + 1) % n_train));
    vec![
        ("test_X.bin".into(), images(0..n_test)),
        ("test_y.bin".into(), labels(n_test)),
        ("train_X.bin".into(), images(n_test..first)),
        ("train_y.bin".into(), labels(n_train)),
        ("unlabeled_X.bin".into(), unlabelled.collect()),
        ("fold_indices.txt".into(), folds.collect::<String>().into_bytes()),
    ]
}

/// IDX files of `n` images of 28×28 and their labels: grey is the red of [`pixel`].
pub fn idx_files(n: u8) -> Vec<(&'static str, Vec<u8>)> {
    let images = |first: usize| {
        let mut file = vec![0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28];
        file.extend(
            (first..first + usize::from(n)).flat_map(|i| rgb(i, 28).into_iter().step_by(3)),
        );
        file
    };
    let labels = || {
        let mut file = vec![0, 0, 8, 1, 0, 0, 0, n];
        file.extend((0..n).map(|i| i % 10));
        file
    };
    vec![
        ("train-images-idx3-ubyte", images(0)),
        ("train-labels-idx1-ubyte", labels()),
        ("t10k-images-idx3-ubyte", images(n.into())),
        ("t10k-labels-idx1-ubyte", labels()),
    ]
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A `.tar.gz` with these files in a folder.
pub fn tar_gz(path: &Path, folder: &str, files: &[(String, Vec<u8>)]) {
    let mut builder =
        tar::Builder::new(GzEncoder::new(File::create(path).unwrap(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("{folder}/{name}"), &content[..]).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap();
}

pub fn zip(path: &Path, folder: &str, files: &[(String, Vec<u8>)]) {
    let mut writer = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, content) in files {
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(format!("{folder}/{name}"), options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap();
}

pub fn folder(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Image `i` encoded.
pub fn picture(i: usize, side: usize, format: ImageFormat) -> Vec<u8> {
    let picture = RgbImage::from_raw(side as u32, side as u32, rgb(i, side)).unwrap();
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Tiny-ImageNet: `n` training and as many validation images of each of three
/// classes whose ids are not in the order of `wnids.txt`; PNG under the JPEG's
/// names, so that pixels can be compared.
pub fn tiny_files(n: usize, rearranged: bool) -> Files {
    let classes = ["n02", "n10", "n01"];
    let mut files = vec![("wnids.txt".to_owned(), classes.join("\n").into_bytes())];
    let mut annotations = String::new();
    for (c, class) in classes.iter().enumerate() {
        for i in 0..n {
            let bytes = picture(c * n + i, 64, ImageFormat::Png);
            files.push((format!("train/{class}/images/{class}_{i}.JPEG"), bytes));
            let (at, bytes) = (c * n + i, picture(100 + c * n + i, 64, ImageFormat::Png));
            let name = match rearranged {
                true => format!("val/{class}/val_{at}.JPEG"),
                false => format!("val/images/val_{at}.JPEG"),
            };
            files.push((name, bytes));
            annotations += &format!("val_{at}.JPEG\t{class}\t0\t32\t44\t62\n");
        }
        files.push((format!("train/{class}/{class}_boxes.txt"), b"x\t1\t2\t3\t4\n".to_vec()));
    }
    if !rearranged {
        files.push(("val/val_annotations.txt".into(), annotations.into_bytes()));
    }
    files.push(("test/images/test_0.JPEG".into(), b"never read".to_vec()));
    files
}

/// A parquet file as `datasets` writes it: pictures and, if given, labels.
pub fn parquet(
    path: &Path,
    image: &str,
    label: Option<&str>,
    rows: &[(Vec<u8>, i64)],
    codec: Codec,
) {
    let label_field = label.map_or_else(String::new, |name| format!("OPTIONAL INT64 {name};"));
    let schema = format!(
        "message schema {{ OPTIONAL group {image} {{ OPTIONAL BINARY bytes; OPTIONAL BINARY path \
         (UTF8); }} {label_field} }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
    let mut writer =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    // Two row groups, so that a reader has to go from one to the next.
    for rows in rows.chunks(rows.len().div_ceil(2)) {
        let mut group = writer.next_row_group().unwrap();
        let bytes: Vec<ByteArray> = rows.iter().map(|(bytes, _)| bytes.clone().into()).collect();
        let paths: Vec<ByteArray> =
            (0..rows.len()).map(|i| format!("{i}.png").into_bytes().into()).collect();
        for values in [bytes, paths] {
            let mut column = group.next_column().unwrap().unwrap();
            let levels = vec![2; values.len()];
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        if label.is_some() {
            let labels: Vec<i64> = rows.iter().map(|(_, label)| *label).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<Int64Type>()
                .write_batch(&labels, Some(&vec![1; labels.len()]), None)
                .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}
