//! What a run is: every setting that decides its result, typed, documented,
//! checked once.
//!
//! A configuration is TOML. An unknown key is an error that names the nearest
//! known one. What cannot change a result (paths, number of threads) is not in
//! here. Each field is declared once, with its documentation, default and
//! range, by the macro of `section.rs`; the printed configuration and the
//! checks come from there.

mod parse;
mod section;

use metamask_data::DatasetSpec;
use metamask_encoders::Stem;
use metamask_optim::{Hypergradient, MaskForm, Schedule, VirtualStep};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Code, Failure};
pub use section::{Field, Range};
use section::{Section, section};

section! {
    /// The run as a whole.
    Run in "run" {
        /// Seed of every random draw: weights, order of the samples, views, scenes.
        seed: u64 = 0, Range::Any;
    }
}

section! {
    /// The images.
    Data in "data" {
        /// Data set: `garments` (embedded, in confounded scenes), `garments-plain`, `shapes`,
        /// `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `stl10`, `tiny-imagenet`,
        /// `folder:PATH`, or `scenes:NAME`, another one in confounded scenes.
        dataset: DatasetSpec = DatasetSpec::Garments, Range::Any;
        /// Training images to use, the first ones; 0 is all.
        train_images: usize = 0, Range::Any;
        /// Images at the end of the training set that stand in for the test set, so that settings
        /// can be searched without looking at it; 0 evaluates on the test set.
        validation_images: usize = 0, Range::Any;
    }
}

section! {
    /// The random views of an image. The transforms mean what torchvision's do.
    Augmentation in "augmentation" {
        /// Side of a view in pixels.
        size: usize = 32, Range::Within(8.0, 512.0);
        /// Share of the image's area that a crop keeps, lowest and highest.
        crop_scale: [f64; 2] = [0.2, 1.0], Range::AboveUpTo(0.0, 1.0);
        /// Probability of a horizontal flip.
        flip_probability: f64 = 0.5, Range::PROBABILITY;
        /// Probability of the colour jitter.
        jitter_probability: f64 = 0.8, Range::PROBABILITY;
        /// Strength of the jitter of brightness, contrast, saturation.
        jitter: [f64; 3] = [0.8, 0.8, 0.8], Range::Within(0.0, 1.0);
        /// Strength of the jitter of the hue.
        jitter_hue: f64 = 0.2, Range::Within(0.0, 0.5);
        /// Probability of grayscale.
        grayscale_probability: f64 = 0.2, Range::PROBABILITY;
        /// Probability of a Gaussian blur, sigma 0.1 to 2.
        blur_probability: f64 = 0.0, Range::PROBABILITY;
    }
}

section! {
    /// The encoder f: a ResNet.
    Encoder in "encoder" {
        /// Layers: 18 or 50.
        depth: usize = 18, Range::OneOfNumbers(&[18, 50]);
        /// First layers: `cifar` (3x3, stride 1), `cifar-with-pool`, `imagenet` (7x7, stride 2, pool).
        stem: Stem = Stem::Cifar, Range::Words(&["cifar", "cifar-with-pool", "imagenet"]);
        /// Channels of the first stage; 64 is the full network, 16 a quarter of its width.
        width: usize = 16, Range::Within(1.0, 1024.0);
        /// Whether a ReLU follows the stem. The authors' code loses it.
        stem_relu: bool = true, Range::Any;
    }
}

section! {
    /// The contrastive head g_c: linear, batch norm, ReLU for each hidden layer, then linear, batch norm.
    ContrastiveHead in "contrastive_head" {
        /// Widths of the hidden layers.
        hidden: Vec<usize> = vec![512], Range::Within(1.0, 65536.0);
        /// Width of the embedding.
        output: usize = 128, Range::Within(2.0, 65536.0);
    }
}

section! {
    /// The redundancy head g_r, built alike. Exists if `objective.redundancy_weight` is above 0.
    RedundancyHead in "redundancy_head" {
        /// Widths of the hidden layers.
        hidden: Vec<usize> = vec![512, 512], Range::Within(1.0, 65536.0);
        /// Width of the embedding.
        output: usize = 512, Range::Within(2.0, 65536.0);
    }
}

section! {
    /// The network's loss L = redundancy_weight L_drr + alpha L_c.
    Objective in "objective" {
        /// Weight of the contrastive loss L_c (NT-Xent).
        alpha: f64 = 1.0, Range::Above(0.0);
        /// Temperature tau of L_c.
        temperature: f64 = 0.2, Range::Above(0.0);
        /// Weight of the redundancy-reduction loss L_drr (Barlow Twins); 0 leaves it and its head out.
        redundancy_weight: f64 = 0.0, Range::AtLeast(0.0);
        /// Weight lambda of L_drr's off-diagonal terms.
        redundancy_lambda: f64 = 0.005, Range::Above(0.0);
    }
}

section! {
    /// How long and in what portions.
    Training in "training" {
        /// Passes over the training images.
        epochs: usize = 12, Range::Within(1.0, 1e6);
        /// Images in a step; the last incomplete batch of an epoch is dropped.
        batch_size: usize = 128, Range::Within(2.0, 65536.0);
    }
}

section! {
    /// The network's optimiser: SGD with momentum.
    Optimizer in "optimizer" {
        /// Learning rate l, before the schedule.
        learning_rate: f64 = 0.06, Range::AtLeast(0.0);
        /// Momentum mu.
        momentum: f64 = 0.9, Range::BelowOne;
        /// Weight decay, on every parameter.
        weight_decay: f64 = 5e-4, Range::AtLeast(0.0);
        /// Course of the learning rate over the epochs: `cosine` (to 0) or `constant`.
        schedule: Schedule = Schedule::Cosine, Range::Words(&["cosine", "constant"]);
    }
}

section! {
    /// The dimension mask m over the features, and its own SGD.
    Mask in "mask" {
        /// `on`, or `off`: the plain method, bit for bit.
        mode: MaskMode = MaskMode::On, Range::Words(&["on", "off"]);
        /// `sigmoid`: m = sigmoid(w), w = 0 at the start; `free`: m = w, w = 1 at the start.
        form: MaskForm = MaskForm::Sigmoid, Range::Words(&["sigmoid", "free"]);
        /// Learning rate of w.
        learning_rate: f64 = 30.0, Range::AtLeast(0.0);
        /// Momentum of w.
        momentum: f64 = 0.9, Range::BelowOne;
        /// Weight decay of w.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Course of w's learning rate over the epochs: `cosine` or `constant`.
        schedule: Schedule = Schedule::Cosine, Range::Words(&["cosine", "constant"]);
    }
}

section! {
    /// The meta step that moves the mask.
    #[derive(Copy)]
    Meta in "meta" {
        /// Where the virtual step starts: `shared` (the weights that the regular step starts from,
        /// whose forward pass it shares) or `after-regular` (the weights after it, as the authors do).
        virtual_step: VirtualStep = VirtualStep::Shared, Range::Words(&["shared", "after-regular"]);
        /// The second-order term: `exact` or `finite-difference` (as the authors do).
        hypergradient: Hypergradient = Hypergradient::Exact,
            Range::Words(&["exact", "finite-difference"]);
    }
}

section! {
    /// The evaluation after training.
    Evaluation in "evaluation" {
        /// Neighbours of kNN.
        knn_k: usize = 20, Range::Within(1.0, 1e6);
        /// Temperature T of kNN: a neighbour votes with weight exp(cosine / T).
        knn_temperature: f64 = 0.1, Range::Above(0.0);
    }
}

section! {
    /// Checkpoints.
    Checkpoint in "checkpoint" {
        /// Epochs between two checkpoints; the last epoch always ends with one.
        every_epochs: usize = 1, Range::Within(1.0, 1e6);
        /// Checkpoints that are kept, the newest ones.
        keep: usize = 2, Range::Within(2.0, 1e6);
    }
}

section! {
    /// The run's log.
    Log in "log" {
        /// Steps between two `step` lines of `metrics.jsonl`; 0 writes only the epochs' lines.
        every_steps: usize = 10, Range::Any;
    }
}

/// Whether there is a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskMode {
    /// The features are masked and the mask is learned.
    On,
    /// The base method alone.
    Off,
}

/// Every setting of a run. See `metamask pretrain --print-config` for all of
/// them with their documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The run as a whole.
    pub run: Run,
    /// The images.
    pub data: Data,
    /// The random views.
    pub augmentation: Augmentation,
    /// The encoder f.
    pub encoder: Encoder,
    /// The contrastive head g_c.
    pub contrastive_head: ContrastiveHead,
    /// The redundancy head g_r.
    pub redundancy_head: RedundancyHead,
    /// The network's loss.
    pub objective: Objective,
    /// How long and in what portions.
    pub training: Training,
    /// The network's optimiser.
    pub optimizer: Optimizer,
    /// The dimension mask.
    pub mask: Mask,
    /// The meta step.
    pub meta: Meta,
    /// The evaluation after training.
    pub evaluation: Evaluation,
    /// Checkpoints.
    pub checkpoint: Checkpoint,
    /// The run's log.
    pub log: Log,
}

impl Config {
    /// Reads a configuration: the text of a file named `origin`, then each
    /// `KEY=VALUE` of `overrides`.
    ///
    /// # Errors
    /// If a key is unknown, a value has the wrong type or is out of range.
    pub fn read(text: &str, origin: &str, overrides: &[String]) -> Result<Self, Failure> {
        let config = parse::read(text, origin, overrides)?;
        config.check()?;
        Ok(config)
    }

    /// Each section, in the order of the file.
    fn sections(&self) -> [&dyn Section; 14] {
        [
            &self.run,
            &self.data,
            &self.augmentation,
            &self.encoder,
            &self.contrastive_head,
            &self.redundancy_head,
            &self.objective,
            &self.training,
            &self.optimizer,
            &self.mask,
            &self.meta,
            &self.evaluation,
            &self.checkpoint,
            &self.log,
        ]
    }

    /// Every known key with what is known about it.
    pub fn fields() -> Vec<Field> {
        Self::default().sections().iter().flat_map(|section| section.fields()).collect()
    }

    /// The ranges of single fields, then what holds between them.
    fn check(&self) -> Result<(), Failure> {
        for field in self.sections().iter().flat_map(|section| section.fields()) {
            if !field.numbers.iter().all(|&number| field.range.holds(number)) {
                let message =
                    format!("`{}`: must be {}, got {}", field.key, field.range, field.value);
                return Err(Failure::new(Code::Config, message));
            }
        }
        let [low, high] = self.augmentation.crop_scale;
        if low > high {
            let message = format!(
                "`augmentation.crop_scale`: the lowest must come first, got [{low:?}, {high:?}]"
            );
            return Err(Failure::new(Code::Config, message));
        }
        Ok(())
    }

    /// The whole configuration as a TOML file, each field under its documentation.
    pub fn to_annotated_toml(&self) -> String {
        let defaults = Self::default();
        let mut text = String::new();
        for (section, default) in self.sections().iter().zip(defaults.sections()) {
            text += &format!("# {}\n[{}]\n", section.about(), section.name());
            for (field, default) in section.fields().iter().zip(default.fields()) {
                let name = &field.key[section.name().len() + 1..];
                text += &format!("# {}\n", field.doc.trim());
                text += &match field.range {
                    Range::Any => format!("# Default {}.\n", default.value),
                    range => format!("# Default {}; {range}.\n", default.value),
                };
                text += &format!("{name} = {}\n", field.value);
            }
            text.push('\n');
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    }

    /// The first eight hexadecimal digits of the SHA-256 of every setting but
    /// the seed: one word for what repetitions of a run share.
    pub fn short_hash(&self) -> String {
        let mut hash = Sha256::new();
        for field in self.sections().iter().flat_map(|section| section.fields()) {
            if field.key != "run.seed" {
                hash.update(format!("{} = {}\n", field.key, field.value));
            }
        }
        hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The keys whose values differ, with both values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let fields = |config: &Self| -> Vec<Field> {
            config.sections().iter().flat_map(|section| section.fields()).collect()
        };
        fields(self)
            .iter()
            .zip(fields(other))
            .filter(|(mine, other)| mine.value != other.value)
            .map(|(mine, other)| format!("`{}` is {}, was {}", mine.key, mine.value, other.value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, overrides: &[&str]) -> Result<Config, String> {
        let overrides: Vec<String> = overrides.iter().map(|&set| set.to_owned()).collect();
        Config::read(text, "a.toml", &overrides).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_annotated_text_reads_back_to_the_same_configuration() {
        let config = read("[encoder]\nwidth = 64\n", &["mask.mode=off"]).expect("valid");
        let again = read(&config.to_annotated_toml(), &[]).expect("our own text");
        assert_eq!(config, again);
        assert_eq!(config.short_hash(), again.short_hash());
    }

    #[test]
    fn every_field_is_documented_and_its_default_is_in_range() {
        for field in Config::fields() {
            assert!(field.doc.trim().ends_with('.'), "{}: {:?}", field.key, field.doc);
        }
        Config::default().check().expect("the defaults are in range");
    }

    #[test]
    fn the_short_hash_sees_every_setting_but_the_seed() {
        let hash = |set: &[&str]| read("", set).expect("valid").short_hash();
        assert_eq!(hash(&[]), hash(&["run.seed=7"]));
        assert_ne!(hash(&[]), hash(&["optimizer.momentum=0.8"]));
        assert_eq!(hash(&[]).len(), 8);
    }

    #[test]
    fn overrides_win_over_the_file() {
        let config = read("[training]\nepochs = 3\n", &["training.epochs=4"]).expect("valid");
        assert_eq!(config.training.epochs, 4);
        let config = read("", &["data.dataset=shapes", "augmentation.crop_scale=[0.1, 1]"]);
        let config = config.expect("a bare word is a string, an integer a number");
        assert_eq!(
            (&config.data.dataset.to_string()[..], config.augmentation.crop_scale[0]),
            ("shapes", 0.1)
        );
    }

    #[test]
    fn what_cannot_be_carried_out_is_said_with_key_and_place() {
        let check = |text: &str, overrides: &[&str], expected: &str| {
            let message = read(text, overrides).expect_err(expected);
            assert!(message.starts_with("error[CONFIG]: "), "{message}");
            assert!(message.contains(expected), "`{message}` should contain `{expected}`");
        };
        let nearest =
            "a.toml:2: unknown key `optimizer.learning_rat`, nearest is `optimizer.learning_rate`";
        check("[optimizer]\nlearning_rat = 1\n", &[], nearest);
        check("[optimiser]\nmomentum = 0.5\n", &[], "nearest is `optimizer.momentum`");
        check("momentum = 0.5\n", &[], "nearest is `optimizer.momentum`");
        check("", &["learning_rate=1"], "--set learning_rate=1: unknown key `learning_rate`");
        check("", &["training.epochs"], "--set training.epochs: expected KEY=VALUE");
        check(
            "[training]\nepochs = 0\n",
            &[],
            "`training.epochs`: must be within 1 to 1000000, got 0",
        );
        check(
            "",
            &["optimizer.momentum=1"],
            "`optimizer.momentum`: must be at least 0 and below 1",
        );
        check("", &["optimizer.learning_rate=nan"], "`optimizer.learning_rate`: must be");
        check("[training]\n\nepochs = \"three\"\n", &[], "a.toml:3: ");
        check("", &["training.epochs=-1"], "--set training.epochs=-1: ");
        check("[training\n", &[], "a.toml:1: ");
        check("", &["mask.mode=of"], "`on` or `off`");
        check("", &["augmentation.crop_scale=[1.0, 0.2]"], "the lowest must come first");
        check("", &["encoder.depth=34"], "`encoder.depth`: must be one of 18, 50, got 34");
    }
}
