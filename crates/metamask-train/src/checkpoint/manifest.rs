//! `MANIFEST.json`: what a checkpoint consists of, so that it can be verified anywhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The format this program writes. It reads this one and those before it:
///
/// 1. `mask`, `model` and `optim.safetensors`, `state.json`
/// 2. the same with `departure.safetensors`
pub(super) const FORMAT: u32 = 2;

/// What belongs together with a checkpoint: it is of no use to another run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// SHA-256 of the run's `config.toml`.
    pub config_sha256: String,
    /// SHA-256 of the training images.
    pub data_sha256: String,
}

/// Size and hash of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub format: u32,
    pub step: u64,
    pub identity: Identity,
    /// Version of the program that wrote it.
    pub version: String,
    /// Instruction set its numbers come from: other ones round otherwise.
    pub kernel: String,
    pub files: BTreeMap<String, FileRecord>,
    /// SHA-256 of this file with this field empty.
    pub manifest_sha256: String,
}

impl Manifest {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sealed = Self { manifest_sha256: sha256(&self.text("")), ..self.clone() };
        sealed.text(&sealed.manifest_sha256)
    }

    /// Reads the file's bytes; fails unless they are exactly what we would write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("is malformed: {error}"))?;
        if manifest.to_bytes() != bytes {
            return Err("its contents do not have the hash it states".to_owned());
        }
        Ok(manifest)
    }

    /// The format a manifest claims, readable in those of any version.
    pub fn format_of(bytes: &[u8]) -> Option<u32> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        serde_json::from_slice::<Format>(bytes).ok().map(|claim| claim.format)
    }

    fn text(&self, seal: &str) -> Vec<u8> {
        let manifest = Self { manifest_sha256: seal.to_owned(), ..self.clone() };
        let mut text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain JSON");
        text.push(b'\n');
        text
    }
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
