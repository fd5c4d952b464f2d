//! Reading safetensors files: a length, a JSON header, the bytes.

use std::collections::BTreeMap;

use anyhow::Context;

/// One tensor: its type and shape as the header has them, its elements as f64.
#[derive(Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    pub(super) values: Vec<f64>,
}

/// The tensors of a safetensors file by name.
///
/// # Errors
/// If the file is not what the format says.
pub(super) fn read(bytes: &[u8]) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let (length, rest) = bytes.split_first_chunk::<8>().context("shorter than its header")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let (header, data) = rest.split_at_checked(length).context("shorter than its header")?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header)?;

    let mut tensors = BTreeMap::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let tensor = tensor(entry, data).with_context(|| format!("tensor `{name}`"))?;
        tensors.insert(name.clone(), tensor);
    }
    Ok(tensors)
}

fn tensor(entry: &serde_json::Value, data: &[u8]) -> anyhow::Result<Tensor> {
    let integers = |key: &str| -> anyhow::Result<Vec<u64>> {
        let array = entry[key].as_array().with_context(|| format!("no {key}"))?;
        array.iter().map(|n| n.as_u64().with_context(|| format!("{key}: not a count"))).collect()
    };
    let dtype = entry["dtype"].as_str().context("no dtype")?.to_owned();
    let offsets = integers("data_offsets")?;
    let [start, end] = offsets[..] else { anyhow::bail!("data_offsets: not a pair") };
    let bytes =
        data.get(usize::try_from(start)?..usize::try_from(end)?).context("outside of the file")?;
    Ok(Tensor { values: values(&dtype, bytes)?, shape: integers("shape")?, dtype })
}

fn values(dtype: &str, bytes: &[u8]) -> anyhow::Result<Vec<f64>> {
    // Fixtures hold indices and pixels: every integer is exact in an f64.
    Ok(match dtype {
        "F64" => chunks(bytes).map(f64::from_le_bytes).collect(),
        "F32" => chunks(bytes).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
        "I64" => chunks(bytes).map(|b| i64::from_le_bytes(b) as f64).collect(),
        "I32" => chunks(bytes).map(|b| f64::from(i32::from_le_bytes(b))).collect(),
        "U32" => chunks(bytes).map(|b| f64::from(u32::from_le_bytes(b))).collect(),
        "U8" | "BOOL" => bytes.iter().map(|&b| f64::from(b)).collect(),
        _ => anyhow::bail!("unknown dtype `{dtype}`"),
    })
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Tensor, read};

    /// A file with one f32 tensor `x`.
    pub(crate) fn file_with(values: &[f32]) -> Vec<u8> {
        let n = values.len();
        let header = format!(
            r#"{{"__metadata__":{{"a":"b"}},"x":{{"dtype":"F32","shape":[{n}],"data_offsets":[0,{}]}}}}"#,
            4 * n
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        file.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        file
    }

    #[test]
    fn reads_what_the_header_describes() {
        let tensors = read(&file_with(&[1.0, -2.5])).unwrap();
        let x = Tensor { dtype: "F32".into(), shape: vec![2], values: vec![1.0, -2.5] };
        assert_eq!(tensors.into_iter().collect::<Vec<_>>(), [("x".to_owned(), x)]);
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let file = file_with(&[1.0, 2.0]);
        for length in [0, 7, 20, file.len() - 1] {
            assert!(read(&file[..length]).is_err(), "{length} bytes");
        }
    }
}
