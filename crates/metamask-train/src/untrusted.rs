//! One door to each parser of bytes that may come from anybody, beside [`Config::read`]:
//! for tests that mutate files, and for fuzzers.
//!
//! Whatever the bytes are, there is an answer: no panic, and no more memory than a small
//! multiple of them.
//!
//! [`Config::read`]: crate::Config::read

use crate::{
    checkpoint::{self, NamedTensors},
    dump,
    evaluate::Results,
    failure::{Code, Failure},
    run_log,
};

/// The tensors of a file of weights that has to have those of `like`.
///
/// # Errors
/// If the header is malformed, or a tensor is another or not finite.
pub fn tensors(bytes: &[u8], like: &NamedTensors) -> Result<NamedTensors, Failure> {
    checkpoint::decode(bytes, like).map_err(|(code, message)| Failure::new(code, message))
}

/// The names of the tensors of any file of weights, such as one to start from.
///
/// # Errors
/// If the header is malformed.
pub fn tensor_names(bytes: &[u8]) -> Result<Vec<String>, Failure> {
    let file = checkpoint::open(bytes).map_err(|(code, message)| Failure::new(code, message))?;
    Ok(file.names().into_iter().map(str::to_owned).collect())
}

/// The step that a checkpoint's `MANIFEST.json` is of.
///
/// # Errors
/// If it is malformed, or not what its own hash says.
pub fn manifest_step(bytes: &[u8]) -> Result<u64, Failure> {
    checkpoint::manifest_step(bytes).map_err(|message| Failure::new(Code::CheckpointHash, message))
}

/// What is kept of a `metrics.jsonl` by a run that is resumed at a step.
pub fn log_up_to(bytes: &[u8], step: u64) -> Vec<u8> {
    run_log::up_to(bytes, step)
}

/// What a `results.json` says, if it says anything.
pub fn results(bytes: &[u8]) -> Option<Results> {
    serde_json::from_slice(bytes).ok()
}

/// What a `dump.json` says.
///
/// # Errors
/// If it is malformed, or in a newer format.
pub fn dump_record(bytes: &[u8]) -> Result<dump::Record, Failure> {
    dump::record(bytes).map_err(|(code, message)| Failure::new(code, message))
}
