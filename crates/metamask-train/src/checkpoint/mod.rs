//! Checkpoints: either there whole, or not there.
//!
//! ```text
//! checkpoints/step-0000500/{model,optim,mask,departure}.safetensors  state.json  MANIFEST.json
//! ```
//! A checkpoint is written to `.step-0000500.partial`, each file synced, then
//! the folder, then read back, then renamed, then its parent synced. The latest
//! checkpoint is the one of the highest step whose manifest verifies; neither
//! links nor times are looked at. Older ones are removed only after that.
//! Everything that cannot be computed from the configuration and the step is in
//! it; learning rates, orders and views can be, so they cannot be forgotten.

mod manifest;
mod tensors;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use metamask_ops::Kernel;
use serde::{Deserialize, Serialize};

pub(crate) use crate::finite::count_not_finite;
use crate::{
    durable,
    epoch_sums::EpochSums,
    failure::{Code, Failure},
};
pub use manifest::Identity;
pub(crate) use manifest::sha256;
use manifest::{FORMAT, FileRecord, Manifest};
pub use tensors::NamedTensors;
pub(crate) use tensors::{decode, encode, open};

const MANIFEST: &str = "MANIFEST.json";
/// Where a trial save is written.
const TRIAL: &str = ".trial";
const DEPARTURE: &str = "departure.safetensors";
const FILES: [&str; 5] =
    [DEPARTURE, "mask.safetensors", "model.safetensors", "optim.safetensors", "state.json"];
const MAX_JSON_BYTES: u64 = 1 << 20;
const OTHER_CONFIG_HELP: &str = "the run's config.toml was changed after the run began: put it \
     back, or start another run";
const OTHER_DATA_HELP: &str = "the data are not those that the run was trained on: name the \
     right ones with --data-dir, or start another run";

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// What the epoch that has begun has summed up; absent between epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<EpochSums>,
}

/// Everything that a run needs to go on.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Where the run stands.
    pub state: State,
    /// Weights and running statistics; BYOL's target and NNCLR's queue.
    pub model: NamedTensors,
    /// What the optimisers remember.
    pub optim: NamedTensors,
    /// The mask's logits; empty without a mask.
    pub mask: NamedTensors,
    /// The regular step that a lookahead still has to judge; empty without one.
    pub departure: NamedTensors,
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// The folder that holds them.
    pub folder: PathBuf,
    /// The run they belong to.
    pub identity: Identity,
    /// How many are kept.
    pub keep: usize,
}

/// What a look for the latest checkpoint found.
#[derive(Debug)]
pub struct Latest {
    /// The newest one that verifies.
    pub checkpoint: Checkpoint,
    /// Where it lies.
    pub path: PathBuf,
    /// Newer ones that do not verify, with the reason.
    pub rejected: Vec<Failure>,
}

impl Checkpoints {
    /// The checkpoints of a run that is only looked at: its data need not be
    /// there, they are taken to be those that the newest readable manifest states.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn to_inspect(folder: PathBuf, config_sha256: String) -> Result<Self, Failure> {
        let identity = Identity { config_sha256, data_sha256: String::new() };
        let mut checkpoints = Self { folder, identity, keep: usize::MAX };
        let stated = |step| {
            let path = checkpoints.path(step).join(MANIFEST);
            let bytes = durable::read_at_most(&path, MAX_JSON_BYTES).ok()??;
            Some(Manifest::from_bytes(&bytes).ok()?.identity.data_sha256)
        };
        if let Some(data_sha256) = checkpoints.steps()?.into_iter().rev().find_map(stated) {
            checkpoints.identity.data_sha256 = data_sha256;
        }
        Ok(checkpoints)
    }

    /// Writes a checkpoint, verifies it, and removes the oldest ones.
    ///
    /// # Errors
    /// If it cannot be written, or does not read back.
    pub fn save(&self, checkpoint: &Checkpoint) -> anyhow::Result<PathBuf> {
        let step = checkpoint.state.step;
        let target = self.path(step);
        let partial = self.folder.join(format!(".{}.partial", name(step)));
        self.write(&partial, checkpoint)?;
        // Before it has the name of a checkpoint: a disk that lost a byte must not leave
        // a damaged one as the only one.
        self.verify(&partial, checkpoint)?;
        if target.exists() {
            // Only one that does not verify, or that this run wrote before, can be here.
            remove(&target)?;
        }
        durable::rename(&partial, &target)?;
        let steps = self.steps()?;
        for &old in &steps[..steps.len().saturating_sub(self.keep)] {
            remove(&self.path(old))?;
        }
        Ok(target)
    }

    /// Writes a checkpoint, verifies it, and takes it away again: what would fail at the
    /// end of the first epoch fails now.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn try_save(&self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let folder = self.folder.join(TRIAL);
        let written = self.write(&folder, checkpoint);
        let tried = written.and_then(|()| Ok(self.verify(&folder, checkpoint)?));
        if folder.exists() {
            remove(&folder)?;
        }
        tried
    }

    /// Reads a checkpoint back that was just written.
    fn verify(&self, folder: &Path, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let step = checkpoint.state.step;
        let read = read_verified(folder, step, &self.identity, checkpoint);
        read.map(|_| ()).map_err(|failure| match failure.code {
            Code::CheckpointHash => failure.help(
                "the disk does not keep what is written: test it, then repeat the command with \
                 --resume",
            ),
            _ => failure,
        })
    }

    /// The newest checkpoint that verifies, `None` if there is no checkpoint at
    /// all. Its tensors have the names, shapes and dtypes of `like`'s; a departure
    /// it may have or not.
    ///
    /// # Errors
    /// If there are some and none verifies; if the newest that does is of
    /// another run, another model, or a newer format.
    pub fn latest(&self, like: &Checkpoint) -> Result<Option<Latest>, Failure> {
        let mut steps = self.steps()?;
        loop {
            let mut rejected: Vec<Failure> = Vec::new();
            for &step in steps.iter().rev() {
                let path = self.path(step);
                match read_verified(&path, step, &self.identity, like) {
                    Ok(checkpoint) => return Ok(Some(Latest { checkpoint, path, rejected })),
                    Err(failure) if failure.code == Code::CheckpointHash => rejected.push(failure),
                    Err(failure) => return Err(failure),
                }
            }
            // A run that goes on meanwhile takes away what was newest a moment ago.
            let now = self.steps()?;
            if now == steps {
                return match rejected.into_iter().next() {
                    None => Ok(None),
                    Some(newest) => {
                        Err(newest.help("no other checkpoint is left; start a new run"))
                    }
                };
            }
            steps = now;
        }
    }

    /// The checkpoint of a step, which [`Self::steps`] named, with `like`'s tensors.
    ///
    /// # Errors
    /// If it does not verify, or is of another run, another model, or a newer format.
    pub fn at(&self, step: u64, like: &Checkpoint) -> Result<Checkpoint, Failure> {
        read_verified(&self.path(step), step, &self.identity, like)
    }

    /// Removes what an interrupted save left. Only for the holder of the run's lock.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove_partial(&self) -> Result<(), Failure> {
        for entry in self.entries()? {
            if entry == TRIAL || entry.starts_with(".step-") && entry.ends_with(".partial") {
                remove(&self.folder.join(entry))?;
            }
        }
        Ok(())
    }

    /// The steps of the checkpoints, ascending, verified or not.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>, Failure> {
        let step = |entry: &String| {
            let step = entry.strip_prefix("step-")?.parse().ok()?;
            (name(step) == *entry).then_some(step)
        };
        let mut steps: Vec<u64> = self.entries()?.iter().filter_map(step).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(name(step))
    }

    fn entries(&self) -> Result<Vec<String>, Failure> {
        let read = |error: io::Error| Failure::io(&self.folder, "list", &error);
        match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(read(error)),
            Ok(entries) => entries
                .map(|entry| Ok(entry.map_err(read)?.file_name().to_string_lossy().into_owned()))
                .collect(),
        }
    }

    /// Writes a checkpoint's files into a folder, until they are on the disk.
    fn write(&self, folder: &Path, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        self.create_folder(folder)?;
        let contents = contents(checkpoint)?;
        let mut files = BTreeMap::new();
        for (file, bytes) in FILES.iter().zip(&contents) {
            durable::write(&folder.join(file), bytes)?;
            let record = FileRecord { bytes: bytes.len() as u64, sha256: sha256(bytes) };
            files.insert((*file).to_owned(), record);
        }
        let manifest = Manifest {
            format: FORMAT,
            step: checkpoint.state.step,
            identity: self.identity.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: format!("{} {:?}", std::env::consts::ARCH, Kernel::current()).to_lowercase(),
            files,
            manifest_sha256: String::new(),
        };
        durable::write(&folder.join(MANIFEST), &manifest.to_bytes())?;
        Ok(durable::sync_folder(folder)?)
    }

    fn create_folder(&self, partial: &Path) -> Result<(), Failure> {
        if partial.exists() {
            remove(partial)?;
        }
        // Not with what lies above: a run's folder that vanished must not come back
        // with checkpoints and nothing else.
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Failure::io(&self.folder, "create", &error))
            }
            _ => fs::create_dir(partial).map_err(|error| Failure::io(partial, "create", &error)),
        }
    }
}

/// The bytes of each of [`FILES`].
fn contents(checkpoint: &Checkpoint) -> anyhow::Result<[Vec<u8>; 5]> {
    let metadata = serde_json::to_string(&checkpoint.state)?;
    let mut state = serde_json::to_vec_pretty(&checkpoint.state)?;
    state.push(b'\n');
    Ok([
        tensors::encode(&checkpoint.departure, &metadata)?,
        tensors::encode(&checkpoint.mask, &metadata)?,
        tensors::encode(&checkpoint.model, &metadata)?,
        tensors::encode(&checkpoint.optim, &metadata)?,
        state,
    ])
}

/// Bytes that a checkpoint takes on the disk.
pub(crate) fn encoded_bytes(checkpoint: &Checkpoint) -> anyhow::Result<u64> {
    const MANIFEST_BYTES: u64 = 1500;
    Ok(contents(checkpoint)?.iter().map(|bytes| bytes.len() as u64).sum::<u64>() + MANIFEST_BYTES)
}

/// The step that a manifest is of.
pub(crate) fn manifest_step(bytes: &[u8]) -> Result<u64, String> {
    Manifest::from_bytes(bytes).map(|manifest| manifest.step)
}

fn name(step: u64) -> String {
    format!("step-{step:07}")
}

fn remove(folder: &Path) -> Result<(), Failure> {
    fs::remove_dir_all(folder).map_err(|error| Failure::io(folder, "remove", &error))
}

/// Reads a checkpoint whose every byte is what its manifest says.
fn read_verified(
    folder: &Path,
    step: u64,
    identity: &Identity,
    like: &Checkpoint,
) -> Result<Checkpoint, Failure> {
    let damaged = |path: &Path, message: &str| Failure::at(Code::CheckpointHash, path, message);
    let read = |file: &str, limit: u64| {
        let path = folder.join(file);
        match durable::read_at_most(&path, limit) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(damaged(&path, &format!("is larger than {limit} bytes"))),
            Err(error) => Err(damaged(&path, &format!("cannot be read: {error}"))),
        }
    };
    let manifest_path = folder.join(MANIFEST);
    let manifest = read(MANIFEST, MAX_JSON_BYTES)?;
    if let Some(format) = Manifest::format_of(&manifest).filter(|&format| format > FORMAT) {
        let message = format!("format {format}, this program reads 1 to {FORMAT}");
        return Err(
            Failure::at(Code::CheckpointVersion, &manifest_path, message).help("update metamask")
        );
    }
    let manifest =
        Manifest::from_bytes(&manifest).map_err(|message| damaged(&manifest_path, &message))?;
    let has_departure = manifest.format > 1;
    let files = FILES.into_iter().filter(|&file| has_departure || file != DEPARTURE);
    if !manifest.files.keys().map(String::as_str).eq(files) || manifest.step != step {
        return Err(damaged(&manifest_path, "does not describe this checkpoint"));
    }
    let other = |found: &str, expected: &str, what: &str, help: &str| {
        let message = format!("is of another {what} (SHA-256 {found}), expected {expected}");
        Failure::at(Code::CheckpointShape, &manifest_path, message).help(help)
    };
    let Identity { config_sha256, data_sha256 } = &manifest.identity;
    if *config_sha256 != identity.config_sha256 {
        return Err(other(
            config_sha256,
            &identity.config_sha256,
            "configuration",
            OTHER_CONFIG_HELP,
        ));
    }
    if *data_sha256 != identity.data_sha256 {
        return Err(other(data_sha256, &identity.data_sha256, "data set", OTHER_DATA_HELP));
    }

    let bytes = |file: &str, limit: u64| {
        let bytes = read(file, limit)?;
        let record = &manifest.files[file];
        let (length, hash) = (bytes.len() as u64, sha256(&bytes));
        if length != record.bytes {
            let message = format!("has {length} bytes, expected {}", record.bytes);
            return Err(damaged(&folder.join(file), &message));
        }
        if hash != record.sha256 {
            let message = format!("has SHA-256 {hash}, expected {}", record.sha256);
            return Err(damaged(&folder.join(file), &message));
        }
        Ok(bytes)
    };
    let decoded = |file: &str, bytes: &[u8], like: &NamedTensors| {
        tensors::decode(bytes, like)
            .map_err(|(code, message)| Failure::at(code, &folder.join(file), message))
    };
    let tensors = |file: &str, like: &NamedTensors| {
        decoded(file, &bytes(file, tensors::size_limit(like))?, like)
    };
    let departure = match has_departure {
        false => NamedTensors::new(),
        true => {
            let bytes = bytes(DEPARTURE, tensors::size_limit(&like.departure))?;
            match tensors::is_empty(&bytes) {
                true => NamedTensors::new(),
                false => decoded(DEPARTURE, &bytes, &like.departure)?,
            }
        }
    };
    let state: State = serde_json::from_slice(&bytes("state.json", MAX_JSON_BYTES)?)
        .map_err(|error| Failure::at(Code::CheckpointHeader, &folder.join("state.json"), error))?;
    if state.step != manifest.step {
        return Err(damaged(&manifest_path, "its step is not the state's"));
    }
    Ok(Checkpoint {
        state,
        mask: tensors("mask.safetensors", &like.mask)?,
        model: tensors("model.safetensors", &like.model)?,
        optim: tensors("optim.safetensors", &like.optim)?,
        departure,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let tensors = |name: &str, value: f32| {
            let tensor = Tensor::new(&[value, 1.0, 2.0], &Device::Cpu).expect("a tensor");
            NamedTensors::from([(name.to_owned(), tensor)])
        };
        Checkpoint {
            state: State { step, epoch: step / 10, unfinished: None },
            model: tensors("encoder.conv1.weight", step as f32),
            optim: tensors("encoder.conv1.weight", 0.5),
            mask: tensors("mask.logits", -1.0),
            departure: tensors("encoder.conv1.weight", 0.25),
        }
    }

    fn checkpoints(folder: &Path) -> Checkpoints {
        let identity = Identity { config_sha256: sha256(b"c"), data_sha256: sha256(b"d") };
        Checkpoints { folder: folder.join("checkpoints"), identity, keep: 2 }
    }

    #[test]
    fn the_newest_checkpoints_are_kept_and_the_last_is_found() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let checkpoints = checkpoints(folder.path());
        assert!(checkpoints.latest(&checkpoint(0))?.is_none());
        for step in [10, 20, 100] {
            checkpoints.save(&checkpoint(step))?;
        }
        assert_eq!(checkpoints.steps()?, [20, 100]);
        let latest = checkpoints.latest(&checkpoint(0))?.expect("there are some");
        assert_eq!(latest.checkpoint.state, State { step: 100, epoch: 10, unfinished: None });
        let weight = latest.checkpoint.model["encoder.conv1.weight"].to_vec1::<f32>()?;
        assert_eq!(weight, [100.0, 1.0, 2.0]);
        // The one before can be read, too; one that is no more is damaged, whatever it was.
        let before = checkpoints.at(20, &checkpoint(0))?;
        assert_eq!(before.model["encoder.conv1.weight"].to_vec1::<f32>()?, [20.0, 1.0, 2.0]);
        let gone = checkpoints.at(10, &checkpoint(0)).expect_err("it is not kept");
        assert_eq!(gone.code, Code::CheckpointHash);
        Ok(())
    }

    #[test]
    fn a_flip_of_any_byte_is_found_and_the_one_before_is_used() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let checkpoints = checkpoints(folder.path());
        checkpoints.save(&checkpoint(10))?;
        let newest = checkpoints.save(&checkpoint(20))?;
        for file in FILES.into_iter().chain([MANIFEST]) {
            let path = newest.join(file);
            let bytes = fs::read(&path)?;
            for position in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << (position % 8);
                fs::write(&path, flipped)?;
                // A flipped digit of the format may claim a newer one.
                if let Ok(latest) = checkpoints.latest(&checkpoint(0)) {
                    let latest = latest.expect("the older one verifies");
                    assert_eq!(latest.checkpoint.state.step, 10, "{file} byte {position}");
                    assert_eq!(latest.rejected[0].code, Code::CheckpointHash);
                }
            }
            fs::write(&path, &bytes[..bytes.len() - 1])?;
            assert_eq!(
                checkpoints.latest(&checkpoint(0))?.expect("older").checkpoint.state.step,
                10
            );
            fs::write(&path, bytes)?;
        }
        assert_eq!(checkpoints.latest(&checkpoint(0))?.expect("mended").checkpoint.state.step, 20);
        Ok(())
    }

    #[test]
    fn a_checkpoint_of_another_run_or_model_is_refused() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let mine = checkpoints(folder.path());
        mine.save(&checkpoint(10))?;

        let mut other = mine.clone();
        other.identity.data_sha256 = sha256(b"e");
        let failure = other.latest(&checkpoint(0)).expect_err("other data");
        assert!(failure.message.contains("is of another data set"), "{failure}");

        let mut wider = checkpoint(0);
        wider.mask =
            NamedTensors::from([("mask.logits".into(), Tensor::new(&[0f32], &Device::Cpu)?)]);
        let failure = mine.latest(&wider).expect_err("another shape");
        assert_eq!(failure.code, Code::CheckpointShape);
        assert!(failure.message.contains("\"mask.logits\" is [3] F32, the model needs [1]"));
        Ok(())
    }

    #[test]
    fn looking_at_a_run_needs_its_configuration_but_not_its_data() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let mine = checkpoints(folder.path());
        let look = |config: &[u8]| {
            Checkpoints::to_inspect(mine.folder.clone(), sha256(config))?.latest(&checkpoint(0))
        };
        assert!(look(b"c")?.is_none());
        mine.save(&checkpoint(10))?;
        let newest = mine.save(&checkpoint(20))?;
        assert_eq!(look(b"c")?.expect("two").checkpoint.state.step, 20);
        fs::write(newest.join(MANIFEST), "{}")?;
        assert_eq!(look(b"c")?.expect("the older one").checkpoint.state.step, 10);
        assert_eq!(look(b"other").expect_err("another run").code, Code::CheckpointShape);
        Ok(())
    }

    #[test]
    fn a_newer_format_is_refused() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let checkpoints = checkpoints(folder.path());
        let path = checkpoints.save(&checkpoint(10))?.join(MANIFEST);
        let newer = fs::read_to_string(&path)?.replace("\"format\": 2", "\"format\": 3");
        fs::write(&path, newer)?;
        let failure = checkpoints.latest(&checkpoint(0)).expect_err("a newer format");
        assert_eq!(failure.code, Code::CheckpointVersion);
        assert!(failure.message.contains("format 3, this program reads 1 to 2"));
        Ok(())
    }

    #[test]
    fn a_departure_is_there_or_not_and_comes_back_as_it_was() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let checkpoints = checkpoints(folder.path());
        checkpoints.save(&Checkpoint { departure: NamedTensors::new(), ..checkpoint(10) })?;
        let found =
            || Ok::<_, Failure>(checkpoints.latest(&checkpoint(0))?.expect("one").checkpoint);
        assert!(found()?.departure.is_empty());
        checkpoints.save(&checkpoint(20))?;
        assert_eq!(found()?.departure["encoder.conv1.weight"].to_vec1::<f32>()?[0], 0.25);
        Ok(())
    }

    /// A checkpoint that the program wrote when that was its format.
    fn read_fixture(format: &str, more: &str, config_sha256: &str) -> anyhow::Result<Checkpoint> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(format);
        let config = "
            [data]
            train_images = 48
            validation_images = 16
            [augmentation]
            size = 16
            [encoder]
            width = 2
            [contrastive_head]
            hidden = [4]
            output = 4
            [training]
            epochs = 1
            batch_size = 16\n";
        let config = crate::Config::read(&format!("{config}{more}"), format, &[])?;
        let mut learner = crate::Learner::new(&config, candle_core::DType::F32)?;
        let checkpoints = Checkpoints::to_inspect(folder, config_sha256.to_owned())?;
        let latest = checkpoints.latest(&learner.like_checkpoint(16)?)?.expect("there is one");
        assert_eq!(latest.checkpoint.state, State { step: 2, epoch: 1, unfinished: None });
        learner.restore(&latest.checkpoint)?;
        let mask = learner.mask.values()?.to_vec1::<f32>()?;
        assert!(mask.iter().any(|&m| m != 0.5), "it was trained: {mask:?}");
        Ok(latest.checkpoint)
    }

    #[test]
    fn a_checkpoint_of_format_1_is_read() -> anyhow::Result<()> {
        let config_sha256 = "8be06d3ade6ca13f2a54bdbe16459099f389a5b87fd1f0c37f76119fbb258c38";
        assert!(read_fixture("1", "", config_sha256)?.departure.is_empty(), "format 1 has none");
        Ok(())
    }

    #[test]
    fn a_checkpoint_of_format_2_is_read_with_its_departure() -> anyhow::Result<()> {
        let config_sha256 = "d1b76233b7d8483c5a7fcb49fdf6c765a2d313f054fd75e0dfa1c7bdb34de014";
        let read = read_fixture("2", "[meta]\nvirtual_step = 'lookahead'", config_sha256)?;
        assert_eq!(read.departure["mask.logits"].dims(), read.mask["mask.logits"].dims());
        Ok(())
    }

    #[test]
    fn what_an_interrupted_save_left_is_ignored_and_removed() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let checkpoints = checkpoints(folder.path());
        checkpoints.save(&checkpoint(10))?;
        let partial = checkpoints.folder.join(".step-0000020.partial");
        fs::create_dir(&partial)?;
        fs::write(partial.join("model.safetensors"), b"torn")?;
        assert_eq!(checkpoints.latest(&checkpoint(0))?.expect("one").checkpoint.state.step, 10);
        checkpoints.remove_partial()?;
        assert!(!partial.exists());
        checkpoints.save(&checkpoint(20))?;
        Ok(())
    }
}
