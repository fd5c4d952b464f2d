//! `metamask inspect`: what is inside a run.

mod bounds;
pub(crate) mod bounds_over_epochs;
pub(crate) mod dimensions;
mod dimensions_table;
mod gradients;
mod gradients_table;
mod hypergradient;
mod mask;
pub(crate) mod neighbours;

use std::path::Path;

use candle_core::{DType, Tensor};
use metamask_data::{Dataset, Places};
use metamask_train::{
    Config, Learner, Observer as _,
    checkpoint::{Checkpoints, Identity, State},
    config::MaskMode,
    evaluate::features_of_images,
    features_of, load_data, run_folder, shown,
};

pub(crate) use bounds::InspectBoundsArguments;
pub(crate) use dimensions::InspectDimensionsArguments;
pub(crate) use gradients::InspectGradientsArguments;
pub(crate) use neighbours::InspectNeighboursArguments;

use crate::{
    arguments::{InspectArguments, InspectCommand},
    commands::restore_latest,
    progress::Progress,
};

pub(crate) fn inspect(arguments: &InspectArguments) -> anyhow::Result<()> {
    match &arguments.command {
        InspectCommand::Mask(arguments) => mask::inspect(arguments),
        InspectCommand::Hypergradient(arguments) => hypergradient::inspect(arguments),
        InspectCommand::Dimensions(arguments) => dimensions::inspect(arguments),
        InspectCommand::Gradients(arguments) => gradients::inspect(arguments),
        InspectCommand::Bounds(arguments) => bounds::inspect(arguments),
        InspectCommand::Neighbours(arguments) => neighbours::inspect(arguments),
    }
}

/// A run at its newest checkpoint, with the data it was trained on.
pub(crate) struct OpenRun {
    pub config: Config,
    pub data: Dataset,
    pub learner: Learner,
    pub state: State,
    /// All of the run's.
    pub checkpoints: Checkpoints,
}

/// What a run's encoder makes of its labelled images, without the mask.
pub(crate) struct Features {
    /// Of the training images but those that are also test images, which evaluation leaves
    /// out, too.
    pub train: Tensor,
    pub train_labels: Vec<u32>,
    pub test: Tensor,
}

impl OpenRun {
    pub fn open(run: &Path, places: &Places) -> anyhow::Result<Self> {
        let (config, config_sha256) = run_folder::read_config(run)?;
        let data = load_data(&config, places)?;
        let mut learner = Learner::new(&config, DType::F32)?;
        let checkpoints = Checkpoints {
            folder: run.join("checkpoints"),
            identity: Identity { config_sha256, data_sha256: data.fingerprint() },
            keep: config.checkpoint.keep,
        };
        let state = restore_latest(&checkpoints, (run, &config), &mut learner)?;
        Ok(Self { config, data, learner, state, checkpoints })
    }

    pub fn features(&self, progress: &mut Progress) -> anyhow::Result<Features> {
        let Self { config, data, learner, .. } = self;
        let size = config.augmentation.size;
        let samples = data.training_without_test_images();
        progress.evaluating("features of the training images");
        let train = features_of_images(learner, &data.train.images, Some(&samples), size)?;
        progress.evaluating("features of the test images");
        let test = features_of(learner, &data.test, size)?;
        let train_labels = samples.iter().map(|&i| data.train.labels[i as usize]).collect();
        Ok(Features { train, train_labels, test })
    }

    /// The images that are looked at: how many of which kind.
    pub fn images(&self) -> String {
        let which = match self.config.data.validation_images {
            0 => "test",
            _ => "validation",
        };
        format!("{} {which} images", self.data.test.len())
    }

    /// The same with the data set's name.
    fn split(&self) -> String {
        format!("{}: {}", self.data.name, self.images())
    }

    /// m, where there is a mask on features of that width.
    fn mask_on_features(&self, dim: usize) -> candle_core::Result<Option<Vec<f64>>> {
        match self.learner.meta.is_some() && self.learner.mask.logits.dims() == [dim] {
            true => values(&self.learner.mask.values()?).map(Some),
            false => Ok(None),
        }
    }
}

/// A vector's numbers.
pub(crate) fn values(vector: &Tensor) -> candle_core::Result<Vec<f64>> {
    vector.to_dtype(DType::F64)?.to_vec1::<f64>()
}

/// The last part of a run's path, also when it is given as `.`.
pub(crate) fn name_of(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    whole.file_name().map_or_else(|| shown(run), |name| name.to_string_lossy().into_owned())
}

/// What was trained, in a line.
pub(crate) fn protocol(config: &Config, State { step, epoch, .. }: State) -> String {
    let redundancy = match config.objective.redundancy_weight > 0.0 {
        true => " + L_drr",
        false => "",
    };
    let mask = match config.mask.mode {
        MaskMode::On => " + MetaMask",
        MaskMode::Off => "",
    };
    format!(
        "{}{redundancy}{mask} on {}, {}, seed {}, epoch {epoch} of {}, step {step}",
        config.objective.method.title(),
        config.data.dataset,
        config.encoder.title(),
        config.run.seed,
        config.training.epochs,
    )
}
