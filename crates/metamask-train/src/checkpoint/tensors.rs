//! Named tensors to the bytes of a safetensors file and, strictly, back.
//!
//! The safetensors crate takes a name that occurs twice, any value and any
//! shape, and orders several metadata keys at random; so a file is checked
//! before its numbers are used, and written with one metadata key.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use crate::{failure::Code, finite::count_not_finite};

/// Tensors by name, PyTorch's names and layouts, on the CPU.
pub type NamedTensors = BTreeMap<String, Tensor>;

/// The longest header that is read.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// The bytes of a file with these tensors: the same tensors give the same bytes.
pub(crate) fn encode(tensors: &NamedTensors, metadata: &str) -> candle_core::Result<Vec<u8>> {
    let metadata = HashMap::from([("metamask".to_owned(), metadata.to_owned())]);
    safetensors::serialize(tensors, Some(metadata)).map_err(candle_core::Error::wrap)
}

/// The most bytes that a file with such tensors may have.
pub(super) fn size_limit(like: &NamedTensors) -> u64 {
    let data: usize = like.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
    8 + MAX_HEADER_BYTES + data as u64
}

/// Reads a file's tensors: exactly those of `like`, with their shapes and dtypes, all finite.
pub(crate) fn decode(bytes: &[u8], like: &NamedTensors) -> Result<NamedTensors, (Code, String)> {
    let header = |message: String| (Code::CheckpointHeader, message);
    let file = open(bytes)?;

    let shape = |message: String| Err((Code::CheckpointShape, message));
    for name in file.names() {
        if !like.contains_key(name) {
            let name = short(format!("{name:?}"));
            return shape(format!("has a tensor {name} that the model does not have"));
        }
    }
    let mut tensors = NamedTensors::new();
    for (name, like) in like {
        let Ok(view) = file.tensor(name) else {
            return shape(format!("has no tensor {name:?}, the model needs it"));
        };
        let dtype = DType::try_from(view.dtype());
        if view.shape() != like.dims() || dtype.as_ref().ok() != Some(&like.dtype()) {
            return shape(format!(
                "{name:?} is {} {:?}, the model needs {:?} {:?}",
                short(format!("{:?}", view.shape())),
                view.dtype(),
                like.dims(),
                like.dtype()
            ));
        }
        let tensor = Tensor::from_raw_buffer(view.data(), like.dtype(), like.dims(), &Device::Cpu)
            .map_err(|error| header(format!("{name:?}: {error}")))?;
        let bad = count_not_finite(&tensor).map_err(|error| header(error.to_string()))?;
        if bad > 0 {
            let message = format!("{name:?} has {bad} values that are not finite");
            return Err((Code::NotFinite, message));
        }
        tensors.insert(name.clone(), tensor);
    }
    Ok(tensors)
}

/// A file's tensors as they are, each name once.
pub(crate) fn open(bytes: &[u8]) -> Result<SafeTensors<'_>, (Code, String)> {
    let header = |message: String| (Code::CheckpointHeader, message);
    check_names(bytes).map_err(header)?;
    SafeTensors::deserialize(bytes).map_err(|error| header(short(error.to_string())))
}

/// What a file says, but not pages of it.
fn short(text: String) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}

/// Whether a file holds no tensor. One that does not read is not empty.
pub(super) fn is_empty(bytes: &[u8]) -> bool {
    check_names(bytes).is_ok()
        && SafeTensors::deserialize(bytes).is_ok_and(|file| file.names().is_empty())
}

/// The header begins with `{`, is not too long, and names no tensor twice.
fn check_names(bytes: &[u8]) -> Result<(), String> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("is shorter than 8 bytes")?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > rest.len() as u64 {
        return Err(format!("its header claims {length} bytes"));
    }
    let header = &rest[..length as usize];
    if header.first() != Some(&b'{') {
        return Err("its header does not begin with `{`".to_owned());
    }
    let Names(mut names) = serde_json::from_slice(header)
        .map_err(|error| format!("its header: {}", short(error.to_string())))?;
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("tensor {} appears twice", short(format!("{:?}", pair[0])))),
        None => Ok(()),
    }
}

/// The keys of a JSON object, repeated ones too.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> NamedTensors {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).expect("a tensor");
        BTreeMap::from([
            ("a".to_owned(), tensor(&[1.0, 2.0])),
            ("b".to_owned(), tensor(&[3.0, 4.0, 5.0])),
        ])
    }

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn tensors_come_back_and_bytes_repeat() {
        let bytes = encode(&tensors(), "{}").expect("encodes");
        assert_eq!(bytes, encode(&tensors(), "{}").expect("encodes"));
        let read = decode(&bytes, &tensors()).expect("decodes");
        for (name, tensor) in tensors() {
            let (got, expected) = (read[&name].to_vec1::<f32>(), tensor.to_vec1::<f32>());
            assert_eq!(got.expect("f32"), expected.expect("f32"));
        }
    }

    #[test]
    fn forged_files_are_rejected() {
        let check = |bytes: &[u8], code: Code, expected: &str| {
            let (got, message) = decode(bytes, &tensors()).expect_err(expected);
            assert_eq!(got, code, "{message}");
            assert!(message.contains(expected), "`{message}` should contain `{expected}`");
        };
        let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        let b = r#""b":{"dtype":"F32","shape":[3],"data_offsets":[8,20]}"#;
        let header = Code::CheckpointHeader;
        check(b"short", header, "shorter than 8");
        check(&file(&format!("{{{a},{b},{a}}}"), 20), header, "\"a\" appears twice");
        check(&file(&format!(" {{{a},{b}}}"), 20), header, "does not begin with");
        check(&u64::MAX.to_le_bytes(), header, "claims 18446744073709551615 bytes");
        check(&file(&format!("{{{a},{b}}}"), 19), header, "");
        check(&file(&"[".repeat(200_000), 0), header, "does not begin with");
        check(&file(&format!("{{\"a\":{}", "[".repeat(200_000)), 0), header, "its header");

        let shape = Code::CheckpointShape;
        check(&file(&format!("{{{a}}}"), 8), shape, "no tensor \"b\"");
        let b_as_f64 = b.replace("F32", "F64").replace("[8,20]", "[8,32]");
        check(&file(&format!("{{{a},{b_as_f64}}}"), 32), shape, "\"b\" is [3] F64");
        let c = r#""../../c":{"dtype":"F32","shape":[0],"data_offsets":[20,20]}"#;
        check(&file(&format!("{{{a},{b},{c}}}"), 20), shape, "does not have");

        let mut nan = file(&format!("{{{a},{b}}}"), 20);
        let end = nan.len();
        nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        check(&nan, Code::NotFinite, "\"b\" has 1 values that are not finite");
    }
}
