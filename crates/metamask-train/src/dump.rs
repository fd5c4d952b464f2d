//! A step that failed, as it was before it was taken, so that it can be taken again.
//!
//! ```text
//! dumps/step-0000812/config.toml               the run's
//!                    checkpoints/step-0000811  parameters, optimisers, mask, queue
//!                    views.safetensors         the batch's two views, and a lookahead's
//!                    dump.json                 which step, and what was found
//! ```
//! The schedule's moment is a function of the step. A dump appears whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use metamask_ops::Kernel;
use serde::{Deserialize, Serialize};

use crate::{
    algorithm::iteration,
    checkpoint::{Checkpoint, Checkpoints, Identity, NamedTensors, State, encode, open, sha256},
    config::Config,
    durable,
    failure::{Code, Failure, one_line},
    finite::{self, Part},
    learner::Learner,
    moment::Moment,
    run_folder,
};

const DUMP: &str = "dump.json";
const VIEWS: &str = "views.safetensors";
const FORMAT: u32 = 1;
const MAX_JSON_BYTES: u64 = 1 << 20;

/// What a step starts from.
pub(crate) struct Before {
    checkpoint: Checkpoint,
    views: [Tensor; 2],
    /// Those of the step that a lookahead has to judge.
    departed: Option<[Tensor; 2]>,
}

impl Before {
    /// A copy of the state; the views are shared.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn of(learner: &Learner, state: State, views: &[Tensor; 2]) -> candle_core::Result<Self> {
        let departed = learner.departure.as_ref().map(|departure| departure.views.clone());
        Ok(Self { checkpoint: learner.to_checkpoint(state)?, views: views.clone(), departed })
    }

    /// Writes the dump and says where.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(
        &self,
        dumps: &Path,
        config: &Config,
        identity: &Identity,
        (steps_per_epoch, found): (u64, &str),
    ) -> anyhow::Result<PathBuf> {
        let step = self.checkpoint.state.step + 1;
        let name = format!("step-{step:07}");
        let (target, partial) = (dumps.join(&name), dumps.join(format!(".{name}.partial")));
        for old in [&partial, &target] {
            if old.exists() {
                // The same step, of the same run, failed before.
                fs::remove_dir_all(old).map_err(|error| Failure::io(old, "remove", &error))?;
            }
        }
        fs::create_dir_all(&partial).map_err(|error| Failure::io(&partial, "create", &error))?;
        let text = config.to_annotated_toml();
        durable::write(&partial.join(run_folder::CONFIG), text.as_bytes())?;
        let identity = Identity { config_sha256: sha256(text.as_bytes()), ..identity.clone() };
        let folder = partial.join("checkpoints");
        Checkpoints { folder, identity, keep: usize::MAX }.save(&self.checkpoint)?;

        let both = |prefix: &str, [a, b]: &[Tensor; 2]| {
            [(format!("{prefix}view_a"), a.clone()), (format!("{prefix}view_b"), b.clone())]
        };
        let departed = self.departed.iter().flat_map(|views| both("departure.", views));
        let views: NamedTensors = both("", &self.views).into_iter().chain(departed).collect();
        let bytes = encode(&views, "{}")?;
        durable::write(&partial.join(VIEWS), &bytes)?;
        let record = Record {
            format: FORMAT,
            step,
            steps_per_epoch,
            found: found.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: format!("{} {:?}", std::env::consts::ARCH, Kernel::current()).to_lowercase(),
            views_sha256: sha256(&bytes),
        };
        let mut text = serde_json::to_vec_pretty(&record)?;
        text.push(b'\n');
        durable::write(&partial.join(DUMP), &text)?;
        durable::sync_folder(&partial)?;
        durable::rename(&partial, &target)?;
        Ok(target)
    }
}

/// The words of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The dump's format.
    pub format: u32,
    /// The step that failed.
    pub step: u64,
    /// Steps in an epoch, which with the step give the schedule's moment.
    pub steps_per_epoch: u64,
    /// What the run said.
    pub found: String,
    /// Version of the program.
    pub version: String,
    /// Instruction set of its numbers.
    pub kernel: String,
    /// SHA-256 of the views' file.
    pub views_sha256: String,
}

/// What came of taking a dumped step again.
#[derive(Clone, Debug)]
pub struct Replay {
    /// What the dump says.
    pub record: Record,
    /// Every tensor of the step in the order in which it is computed; or why it cannot
    /// be taken.
    pub parts: Result<Vec<Part>, String>,
}

/// Whether a folder holds a dump.
pub fn is_dump(path: &Path) -> bool {
    path.join(DUMP).is_file()
}

/// Loads a dump and takes its step again.
///
/// # Errors
/// If a file is missing, damaged, or does not belong to the others.
pub fn replay(path: &Path) -> anyhow::Result<Replay> {
    let record = read_record(&path.join(DUMP))?;
    let (config, config_sha256) = run_folder::read_config(path)?;
    let views = read_views(&path.join(VIEWS), &config, &record)?;
    let mut learner = Learner::new(&config, DType::F32)?;
    let checkpoints = Checkpoints::to_inspect(path.join("checkpoints"), config_sha256)?;
    let like = learner.like_checkpoint(config.training.batch_size)?;
    let Some(latest) = checkpoints.latest(&like)? else {
        let message = "has no checkpoint, expected the state before the step";
        return Err(Failure::at(Code::CheckpointMissing, path, message).into());
    };
    let step = latest.checkpoint.state.step;
    if step + 1 != record.step {
        let message =
            format!("its state is after step {step}, expected {}", record.step.saturating_sub(1));
        return Err(Failure::at(Code::CheckpointShape, path, message).into());
    }
    learner.restore(&latest.checkpoint)?;
    if let Views { departed: Some(departed), .. } = &views {
        let before = Moment::of(&config, step.saturating_sub(1), record.steps_per_epoch);
        learner.restore_departure(&latest.checkpoint, departed.clone(), &before)?;
    }
    let moment = Moment::of(&config, step, record.steps_per_epoch);
    let parts = iteration(&mut learner, &views.batch, &moment)
        .and_then(|found| finite::examine(&learner, &views.batch, &found))
        .map_err(|error| one_line(&error.into()));
    Ok(Replay { record, parts })
}

fn read_record(path: &Path) -> Result<Record, Failure> {
    let bytes = match durable::read_at_most(path, MAX_JSON_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            let message = format!("is larger than {MAX_JSON_BYTES} bytes");
            return Err(Failure::at(Code::CheckpointHeader, path, message));
        }
        Err(error) => return Err(Failure::io(path, "read", &error)),
    };
    record(&bytes).map_err(|(code, message)| Failure::at(code, path, message)).map_err(|failure| {
        match failure.code {
            Code::CheckpointVersion => failure.help("update metamask"),
            _ => failure,
        }
    })
}

/// The words of a `dump.json`.
pub(crate) fn record(bytes: &[u8]) -> Result<Record, (Code, String)> {
    let malformed =
        |error: serde_json::Error| (Code::CheckpointHeader, format!("is malformed: {error}"));
    let claim: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
    match claim["format"].as_u64() {
        Some(format) if format > u64::from(FORMAT) => {
            let message = format!("format {format}, this program reads 1 to {FORMAT}");
            Err((Code::CheckpointVersion, message))
        }
        _ => {
            let record: Record = serde_json::from_value(claim).map_err(malformed)?;
            match record.step {
                0 => Err((Code::CheckpointHeader, "is malformed: steps begin with 1".to_owned())),
                _ => Ok(record),
            }
        }
    }
}

struct Views {
    batch: [Tensor; 2],
    departed: Option<[Tensor; 2]>,
}

/// Views of the shape that the configuration gives; their numbers may be anything.
fn read_views(path: &Path, config: &Config, record: &Record) -> Result<Views, Failure> {
    let shape = (config.training.batch_size, config.augmentation.size, config.augmentation.size, 3);
    let a_view = 4 * (shape.0 * shape.1 * shape.2 * shape.3) as u64;
    let limit = 4 * a_view + (1 << 20);
    let bytes = match durable::read_at_most(path, limit) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            let message = format!("is larger than the {limit} bytes of four views");
            return Err(Failure::at(Code::CheckpointShape, path, message));
        }
        Err(error) => return Err(Failure::io(path, "read", &error)),
    };
    let hash = sha256(&bytes);
    if hash != record.views_sha256 {
        let message = format!("has SHA-256 {hash}, expected {}", record.views_sha256);
        return Err(Failure::at(Code::CheckpointHash, path, message));
    }
    let file = open(&bytes).map_err(|(code, message)| Failure::at(code, path, message))?;
    let read = |name: &str| {
        let wrong = |found: String| {
            Failure::at(
                Code::CheckpointShape,
                path,
                format!("{name:?} {found}, expected {shape:?} F32"),
            )
        };
        let view = file.tensor(name).map_err(|_| wrong("is not there".to_owned()))?;
        let dims = [shape.0, shape.1, shape.2, shape.3];
        if view.shape() != dims || view.dtype() != safetensors::Dtype::F32 {
            return Err(wrong(format!("is {:?} {:?}", view.shape(), view.dtype())));
        }
        Tensor::from_raw_buffer(view.data(), DType::F32, &dims, &Device::Cpu)
            .map_err(|error| wrong(error.to_string()))
    };
    let departed = match file.names().iter().any(|name| name.starts_with("departure.")) {
        true => Some([read("departure.view_a")?, read("departure.view_b")?]),
        false => None,
    };
    Ok(Views { batch: [read("view_a")?, read("view_b")?], departed })
}
