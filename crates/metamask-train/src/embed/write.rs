//! Features as files: safetensors, CSV or NumPy's `.npy`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use candle_core::Tensor;
use serde_json::json;

use super::Embeddings;
use crate::{
    checkpoint::{NamedTensors, encode},
    durable,
    failure::{Code, Failure},
};

/// The files that embeddings go to, by the first one's ending.
///
/// ```text
/// A.safetensors   features [N, D], mask [D]; names in the metadata, as JSON under `metamask`
/// A.csv           name, 0, 1, …, D - 1 and a line for each image;   A.mask.csv   0, …, D - 1
/// A.npy           features [N, D];   A.mask.npy   [D];   A.names.txt   a line for each image
/// ```
/// The features are not masked; the files of a mask are there if the run has one.
#[derive(Clone, Debug)]
pub struct EmbeddingFiles {
    out: PathBuf,
    format: Format,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Safetensors,
    Csv,
    Npy,
}

impl EmbeddingFiles {
    /// Files that are not there yet, for a run with or without a mask.
    ///
    /// # Errors
    /// If the ending is another, or one of the files is there.
    pub fn new(out: &Path) -> Result<Self, Failure> {
        let format = match out.extension().and_then(|ending| ending.to_str()) {
            Some("safetensors") => Format::Safetensors,
            Some("csv") => Format::Csv,
            Some("npy") => Format::Npy,
            _ => {
                let message = "expected a name that ends in `.safetensors`, `.csv` or `.npy`";
                return Err(Failure::at(Code::Usage, out, message));
            }
        };
        let files = Self { out: out.to_owned(), format };
        let beside: &[&str] = match format {
            Format::Safetensors => &[],
            Format::Csv => &["mask.csv"],
            Format::Npy => &["mask.npy", "names.txt"],
        };
        let mut all = beside.iter().map(|ending| out.with_extension(ending));
        match std::iter::once(out.to_owned()).chain(&mut all).find(|path| path.exists()) {
            Some(taken) => Err(durable::in_the_way(&taken)),
            None => Ok(files),
        }
    }

    /// Writes them; returns those written.
    ///
    /// # Errors
    /// If one cannot be made, or a name cannot be a line.
    pub fn write(&self, embeddings: &Embeddings) -> anyhow::Result<Vec<PathBuf>> {
        let Self { out, format } = self;
        let Embeddings { names, features, mask, .. } = embeddings;
        let beside = |ending: &str| out.with_extension(ending);
        let mut contents = Vec::new();
        match format {
            Format::Safetensors => {
                contents.push((out.clone(), safetensors(embeddings)?));
            }
            Format::Csv => {
                contents.push((out.clone(), csv(Some(names), features)?));
                if let Some(m) = mask {
                    contents.push((beside("mask.csv"), csv(None, &m.unsqueeze(0)?)?));
                }
            }
            Format::Npy => {
                if let Some(name) = names.iter().find(|name| name.contains(['\n', '\r'])) {
                    let message = format!("{name:?}: a name with a line break has no line");
                    return Err(Failure::new(Code::Data, message)
                        .help("write a `.safetensors` or `.csv` file")
                        .into());
                }
                contents.push((out.clone(), npy(features)?));
                if let Some(m) = mask {
                    contents.push((beside("mask.npy"), npy(m)?));
                }
                let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
                contents.push((beside("names.txt"), lines.into_bytes()));
            }
        }
        for (path, bytes) in &contents {
            durable::write_new(path, bytes)?;
        }
        Ok(contents.into_iter().map(|(path, _)| path).collect())
    }
}

fn safetensors(embeddings: &Embeddings) -> anyhow::Result<Vec<u8>> {
    let Embeddings { names, features, mask, state, .. } = embeddings;
    let mut tensors = NamedTensors::from([("features".to_owned(), features.clone())]);
    tensors.extend(mask.clone().map(|m| ("mask".to_owned(), m)));
    let metadata = json!({ "step": state.step, "epoch": state.epoch, "names": names });
    Ok(encode(&tensors, &metadata.to_string())?)
}

/// RFC 4180: a header, then a line for each row; numbers in the shortest form that reads back.
fn csv(names: Option<&[String]>, rows: &Tensor) -> candle_core::Result<Vec<u8>> {
    let mut text = String::new();
    let columns: Vec<String> = (0..rows.dim(1)?).map(|i| i.to_string()).collect();
    if names.is_some() {
        text += "name,";
    }
    text += &columns.join(",");
    text += "\r\n";
    for (i, row) in rows.to_vec2::<f32>()?.iter().enumerate() {
        if let Some(names) = names {
            let _ = write!(text, "{},", quoted(&names[i]));
        }
        let cells: Vec<String> = row.iter().map(f32::to_string).collect();
        text += &cells.join(",");
        text += "\r\n";
    }
    Ok(text.into_bytes())
}

/// A path that begins like a formula of a spreadsheet is written from its folder on,
/// `./=1+1.png`: the same file, and text to everybody.
fn quoted(name: &str) -> String {
    let name = match name.starts_with(['=', '+', '-', '@', '\t']) {
        true => &format!("./{name}"),
        false => name,
    };
    match name.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.to_owned(),
    }
}

/// NumPy's format, version 1.0: magic, version, length of the header, header, numbers
/// (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
fn npy(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let shape: String = tensor.dims().iter().map(|n| format!("{n}, ")).collect();
    let shape = if tensor.rank() == 1 { shape.trim_end() } else { shape.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version and length take ten bytes; numbers begin at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header += &" ".repeat(padded - 1 - header.len());
    header += "\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for x in tensor.flatten_all()?.to_vec1::<f32>()? {
        bytes.extend(x.to_le_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn npy_is_what_numpy_saves() -> candle_core::Result<()> {
        // numpy.save(f, numpy.array([[1, 2, 3], [4, 5, 6]], "<f4")), NumPy 2.4.
        let tensor = Tensor::arange(1f32, 7.0, &Device::Cpu)?.reshape((2, 3))?;
        let mut expected = b"\x93NUMPY\x01\x00v\x00".to_vec();
        expected.extend(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        expected.resize(127, b' ');
        expected.push(b'\n');
        for x in 1..7u8 {
            expected.extend(f32::from(x).to_le_bytes());
        }
        assert_eq!(npy(&tensor)?, expected);
        let text = String::from_utf8_lossy(&npy(&tensor.flatten_all()?)?).into_owned();
        assert!(text.contains("'shape': (6,), }"), "{text}");
        Ok(())
    }

    #[test]
    fn csv_quotes_names_and_keeps_every_digit() -> candle_core::Result<()> {
        let rows = Tensor::new(&[[0.1f32, -1e-8], [3.0, 16_777_216.0]], &Device::Cpu)?;
        let names = ["a,\"b\".png".to_owned(), "=c.png".to_owned()];
        let text = String::from_utf8(csv(Some(&names), &rows)?).expect("text");
        assert_eq!(
            text,
            "name,0,1\r\n\"a,\"\"b\"\".png\",0.1,-0.00000001\r\n./=c.png,3,16777216\r\n"
        );
        Ok(())
    }
}
