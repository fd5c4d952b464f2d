//! Image sets as parquet files, as the Hugging Face hub keeps them.
//!
//! A column that is a group with a leaf `bytes` holds encoded pictures, an
//! integer column the classes; both are taken by their names. Codecs snappy and
//! zstd. The files' own order is kept, images stay upright. The parquet crate
//! panics on some damaged files; its panics come back as errors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Repetition, Type as Physical};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row, RowAccessor};
use parquet::schema::types::Type;

use crate::decode::{Target, put_pictures};
use crate::error::DataError;
use crate::file::{self, recognise};
use crate::grey::{SIDE, rim};
use crate::guard::guarded;
use crate::idx_set::centred;
use crate::manifest::{Layout, Manifest};
use crate::page_header::BoundedPages;
use crate::picture::{self, Picture};
use crate::pixel_file::{Index, PixelFile};
use crate::split::Split;

const MAX_ROWS: i64 = 4_000_000;
/// Uncompressed, a row group's column; the hub's have a thousand rows or so.
const MAX_COLUMN: i64 = 1 << 30;

/// A file and what it holds.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub path: PathBuf,
    pub split: Split,
    pub image: String,
    pub label: Option<String>,
}

/// Reads the parts of a set.
pub(crate) fn read(
    manifest: &Manifest,
    parts: &[Part],
    target: &Target,
) -> Result<PixelFile, DataError> {
    let side = manifest.side as usize;
    let mut opened = Vec::with_capacity(parts.len());
    for split in [Split::Test, Split::Unlabelled, Split::Train] {
        for part in parts.iter().filter(|part| part.split == split) {
            opened.push((part, open(part)?));
        }
    }
    let n_rows = opened.iter().map(|(_, reader)| rows(reader)).sum();
    // MNIST and its kin get the rim that they get from IDX files.
    let is_grey = matches!(manifest.layout, Layout::Idx { .. });
    let (asked, padded) = if is_grey { rim(side, target.side) } else { (target.side, false) };
    let target = &Target { side: asked, ..target.clone() };
    let decoding = target.begin(&manifest.name, Some(n_rows), side)?;
    let mut index = Index { class_names: manifest.classes.clone(), ..Index::default() };
    let mut first = 0;
    for (part, reader) in opened {
        let path = &part.path;
        let n = rows(&reader);
        let mut labels = Vec::with_capacity(n.min(1 << 20));
        let pictures = Records::of(part, reader)?.enumerate().map(|(row, record)| {
            let (bytes, label) = record?;
            labels.push(label);
            Ok((row, bytes))
        });
        let decode = |(row, bytes): &(usize, Vec<u8>)| -> Result<Picture, DataError> {
            let wrong = |found: String, expected: String| {
                DataError::content(path, format!("in row {row}: {found}"), expected)
            };
            let picture =
                picture::decode(bytes).map_err(|found| wrong(found, "a picture".into()))?;
            match (picture.height, picture.width) == (side, side) {
                true if padded => {
                    let grey: Vec<u8> = picture.bytes.iter().copied().step_by(3).collect();
                    Ok(Picture { bytes: centred(&grey, side), height: SIDE, width: SIDE })
                }
                true => Ok(picture),
                false => Err(wrong(
                    format!("a picture of {}x{}", picture.width, picture.height),
                    format!("{side}x{side}"),
                )),
            }
        };
        let done = put_pictures(&decoding, first, pictures, decode)?;
        if done != n {
            return Err(DataError::content(path, format!("{done} rows"), format!("{n}")));
        }
        first += done;
        match part.split {
            Split::Test => extend(&mut index.test, labels, path, &mut index.class_names)?,
            Split::Train => extend(&mut index.train, labels, path, &mut index.class_names)?,
            Split::Unlabelled | Split::TrainAndUnlabelled => index.unlabelled += done,
        }
    }
    if index.class_names.is_empty() {
        let n = index.train.iter().chain(&index.test).max().map_or(0, |label| label + 1);
        index.class_names = (0..n).map(|class| class.to_string()).collect();
    }
    decoding.finish(index)
}

/// Classes of a manifest without names are bounded by this.
const MAX_CLASSES: i64 = 100_000;

fn extend(
    labels: &mut Vec<u32>,
    more: Vec<Option<i64>>,
    path: &Path,
    class_names: &mut [String],
) -> Result<(), DataError> {
    let n_classes = if class_names.is_empty() { MAX_CLASSES } else { class_names.len() as i64 };
    for (row, label) in more.into_iter().enumerate() {
        match label {
            Some(label) if (0..n_classes).contains(&label) => labels.push(label as u32),
            label => {
                let label =
                    label.map_or_else(|| "no label".into(), |label| format!("label {label}"));
                let found = format!("{label} in row {row}");
                return Err(DataError::content(path, found, format!("0 to {}", n_classes - 1)));
            }
        }
    }
    Ok(())
}

fn rows(reader: &SerializedFileReader<BoundedPages>) -> usize {
    usize::try_from(reader.metadata().file_metadata().num_rows()).expect("checked when opened")
}

fn panicked(path: &Path) -> DataError {
    DataError::content(path, "a damaged parquet file", "an intact one")
}

fn failed(path: &Path, error: &parquet::errors::ParquetError) -> DataError {
    let text = error.to_string();
    let text: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect();
    DataError::content(path, format!("a damaged parquet file ({text})"), "an intact one")
}

fn open(part: &Part) -> Result<SerializedFileReader<BoundedPages>, DataError> {
    use std::io::{Read, Seek};
    let path = &part.path;
    let mut file = file::open(path, "a parquet file")?;
    let mut start = Vec::new();
    let read = file.by_ref().take(64).read_to_end(&mut start);
    read.and_then(|_| file.rewind()).map_err(|error| file::unreadable(path, &error))?;
    if !start.starts_with(b"PAR1") {
        let found = recognise(&start).unwrap_or("no parquet file");
        return Err(DataError::kind(path, found, "a parquet file"));
    }
    let length = file.metadata().map_err(|error| file::unreadable(path, &error))?.len();
    let reader = match guarded(|| SerializedFileReader::new(BoundedPages::new(file))) {
        Ok(Ok(reader)) => reader,
        Ok(Err(error)) => return Err(failed(path, &error)),
        Err(_) => return Err(panicked(path)),
    };
    let metadata = reader.metadata();
    let n_rows = metadata.file_metadata().num_rows();
    if !(1..=MAX_ROWS).contains(&n_rows) {
        return Err(DataError::content(path, format!("{n_rows} rows"), format!("1 to {MAX_ROWS}")));
    }
    // Sizes in the footer are believed as far as the file bears them out.
    for (i, group) in metadata.row_groups().iter().enumerate() {
        for column in group.columns() {
            let (packed, unpacked) = (column.compressed_size(), column.uncompressed_size());
            let fits =
                (0..=length as i64).contains(&packed) && (0..=MAX_COLUMN).contains(&unpacked);
            if !fits {
                let found = format!("row group {i} of {packed} bytes, unpacked {unpacked}");
                let expected = format!("at most {length} and {MAX_COLUMN}");
                return Err(DataError::content(path, found, expected));
            }
        }
    }
    Ok(reader)
}

/// The rows of a file: encoded picture and class.
struct Records<'a> {
    part: &'a Part,
    rows: RowIter<'static>,
    at: usize,
    broken: bool,
}

impl<'a> Records<'a> {
    fn of(part: &'a Part, reader: SerializedFileReader<BoundedPages>) -> Result<Self, DataError> {
        let path = &part.path;
        let schema = reader.metadata().file_metadata().schema_descr().root_schema().clone();
        let field = |name: &str| {
            let named = schema.get_fields().iter().find(|field| field.name() == name);
            named.cloned().ok_or_else(|| {
                let there: Vec<_> = schema
                    .get_fields()
                    .iter()
                    .map(|f| f.name().escape_default().to_string())
                    .collect();
                let found = format!("columns {}", there.join(", "));
                DataError::content(path, found, format!("`{name}` among them"))
            })
        };
        let image = field(&part.image)?;
        let holds_bytes = image.is_group()
            && image.get_fields().iter().any(|leaf| {
                leaf.name() == "bytes"
                    && leaf.is_primitive()
                    && leaf.get_physical_type() == Physical::BYTE_ARRAY
            });
        if !holds_bytes {
            let found = format!("a column `{}` without `bytes`", part.image);
            return Err(DataError::content(path, found, "encoded pictures"));
        }
        let mut fields = vec![bytes_alone(&image)];
        if let Some(label) = &part.label {
            fields.push(field(label)?);
        }
        let projection =
            guarded(|| Type::group_type_builder(schema.name()).with_fields(fields).build());
        let rows = match projection {
            Ok(Ok(projection)) => {
                guarded(|| RowIter::from_file_into(Box::new(reader)).project(Some(projection)))
            }
            Ok(Err(error)) => return Err(failed(path, &error)),
            Err(_) => return Err(panicked(path)),
        };
        match rows {
            Ok(Ok(rows)) => Ok(Self { part, rows, at: 0, broken: false }),
            Ok(Err(error)) => Err(failed(path, &error)),
            Err(_) => Err(panicked(path)),
        }
    }

    fn record(&self, row: &Row) -> Option<(Vec<u8>, Option<i64>)> {
        let bytes = row.get_group(0).ok()?.get_bytes(0).ok()?.data().to_vec();
        let label = self.part.label.as_ref().and_then(|_| match row.get_column_iter().nth(1)?.1 {
            Field::Byte(label) => Some(i64::from(*label)),
            Field::Short(label) => Some(i64::from(*label)),
            Field::Int(label) => Some(i64::from(*label)),
            Field::Long(label) => Some(*label),
            Field::UByte(label) => Some(i64::from(*label)),
            Field::UShort(label) => Some(i64::from(*label)),
            Field::UInt(label) => Some(i64::from(*label)),
            _ => None,
        });
        Some((bytes, label))
    }
}

/// The group with its leaf `bytes` only: paths in the other leaf are not needed.
fn bytes_alone(image: &Type) -> Arc<Type> {
    let leaf = image.get_fields().iter().filter(|leaf| leaf.name() == "bytes").cloned().collect();
    let info = image.get_basic_info();
    let repetition = if info.has_repetition() { info.repetition() } else { Repetition::OPTIONAL };
    let group = Type::group_type_builder(image.name())
        .with_repetition(repetition)
        .with_fields(leaf)
        .build();
    Arc::new(group.expect("a group of a leaf"))
}

impl Iterator for Records<'_> {
    type Item = Result<(Vec<u8>, Option<i64>), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        let path = &self.part.path;
        let row = self.at;
        let result = match guarded(|| self.rows.next()) {
            Ok(None) => return None,
            Ok(Some(Ok(row_read))) => match guarded(|| self.record(&row_read)) {
                Ok(Some(record)) => Ok(record),
                _ => Err(DataError::content(path, format!("no picture in row {row}"), "one")),
            },
            Ok(Some(Err(error))) => Err(failed(path, &error)),
            Err(_) => Err(DataError::content(
                path,
                format!("a damaged parquet file (at row {row})"),
                "an intact one",
            )),
        };
        self.at += 1;
        self.broken = result.is_err();
        Some(result)
    }
}
