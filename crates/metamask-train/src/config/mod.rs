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
mod sections;

use metamask_data::DatasetSpec;
use metamask_optim::{Hypergradient, OptimizerKind, VirtualStep};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    failure::{Code, Failure},
    moment,
};
use section::Section;
pub use section::{Field, Range};
pub use sections::{
    Annealing, Augmentation, BatchScaling, Checkpoint, ContrastiveHead, Data, Encoder, Engine,
    Evaluation, Experimental, Guard, Log, Mask, MaskMode, MaskPlace, Meta, Method, Objective,
    OnCollapse, Optimizer, Precision, Predictor, Queue, RedundancyHead, Run, Target, Through,
    Training,
};

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
    /// The head of the base loss.
    pub contrastive_head: ContrastiveHead,
    /// The predictor behind it.
    pub predictor: Predictor,
    /// The redundancy head g_r.
    pub redundancy_head: RedundancyHead,
    /// The network's loss.
    pub objective: Objective,
    /// BYOL's target network.
    pub target: Target,
    /// NNCLR's queue.
    pub queue: Queue,
    /// How long and in what portions.
    pub training: Training,
    /// The network's optimiser.
    pub optimizer: Optimizer,
    /// The dimension mask.
    pub mask: Mask,
    /// The meta step.
    pub meta: Meta,
    /// What is watched.
    pub guard: Guard,
    /// How the numbers are computed.
    pub engine: Engine,
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
    fn sections(&self) -> [&dyn Section; 20] {
        [
            &self.run,
            &self.data,
            &self.augmentation,
            &self.encoder,
            &self.contrastive_head,
            &self.predictor,
            &self.redundancy_head,
            &self.objective,
            &self.training,
            &self.optimizer,
            &self.mask,
            &self.mask.experimental,
            &self.meta,
            &self.target,
            &self.queue,
            &self.guard,
            &self.engine,
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
        match self.contradiction() {
            Some((message, help)) => Err(Failure::new(Code::Config, message).help(help)),
            None => Ok(()),
        }
    }

    /// What cannot be carried out together, and what to do about it.
    fn contradiction(&self) -> Option<(String, &'static str)> {
        let (objective, optimizer, mask, meta) =
            (&self.objective, &self.optimizer, &self.mask, &self.meta);
        let [low, high] = self.augmentation.crop_scale;
        let (batch, epochs) = (self.training.batch_size, self.training.epochs);
        let masked = mask.mode == MaskMode::On;
        if low > high {
            return Some((
                format!(
                    "`augmentation.crop_scale`: the lowest must come first, got [{low:?}, {high:?}]"
                ),
                "swap the two",
            ));
        }
        if objective.method == Method::BarlowTwins && objective.redundancy_weight > 0.0 {
            return Some((
                "`objective.redundancy_weight`: Barlow Twins is L_drr itself, expected 0, got "
                    .to_owned()
                    + &objective.redundancy_weight.to_string(),
                "weigh the loss with `objective.alpha`",
            ));
        }
        if objective.method == Method::Nnclr && self.queue.size < batch {
            return Some((
                format!(
                    "`queue.size`: must be at least `training.batch_size` {batch}, got {}",
                    self.queue.size
                ),
                "take a multiple of the batch size",
            ));
        }
        if let Err(error) =
            moment::network_schedule(optimizer).check(optimizer.learning_rate, epochs)
        {
            return Some((
                format!("`optimizer.schedule`: {error}"),
                "see `optimizer.warmup_epochs`, `minimum_rate` and `milestones`",
            ));
        }
        if optimizer.nesterov && optimizer.momentum == 0.0 {
            return Some((
                "`optimizer.nesterov`: needs a momentum, `optimizer.momentum` is 0".to_owned(),
                "set a momentum, or nesterov = false",
            ));
        }
        if mask.rule == OptimizerKind::Lars {
            return Some((
                "`mask.rule`: LARS scales by a tensor's norm, which means nothing for a mask, \
                 expected sgd, adam or adamw"
                    .to_owned(),
                "take `sgd`",
            ));
        }
        let lookahead = masked && meta.virtual_step == VirtualStep::Lookahead;
        if lookahead
            && optimizer.rule != OptimizerKind::Sgd
            && meta.hypergradient != Hypergradient::FirstOrder
        {
            return Some((
                format!(
                    "`meta.virtual_step`: lookahead differentiates the regular step, which must be \
                     SGD's, got `optimizer.rule` {}",
                    section::toml_value(&optimizer.rule)
                ),
                "take `optimizer.rule = \"sgd\"`, `meta.virtual_step = \"shared\"`, or \
                 `meta.hypergradient = \"first-order\"`",
            ));
        }
        let experimental = &mask.experimental;
        let is_scene = matches!(
            self.data.dataset,
            DatasetSpec::Garments | DatasetSpec::Shapes | DatasetSpec::Scenes(_)
        );
        if self.data.spurious > 0.0 && !is_scene {
            let (spurious, dataset) = (self.data.spurious, &self.data.dataset);
            return Some((
                format!("`data.spurious`: is for generated scenes, got {spurious} for {dataset}"),
                "take `garments`, `shapes` or `scenes:NAME`",
            ));
        }
        let first_order = lookahead && meta.hypergradient == Hypergradient::FirstOrder;
        if masked && experimental.beside && !first_order {
            return Some((
                "`mask.experimental.beside`: the network's step does not depend on such a mask, so that there \
                 is nothing to differentiate through it"
                    .to_owned(),
                "take `meta.virtual_step = \"lookahead\"` and `meta.hypergradient = \"first-order\"`",
            ));
        }
        if lookahead && experimental.batch_fraction < 1.0 {
            return Some((
                format!(
                    "`mask.experimental.batch_fraction`: lookahead takes whole batches, expected 1, got {}",
                    experimental.batch_fraction
                ),
                "take `meta.every` to make its meta step cheaper",
            ));
        }
        if masked && experimental.batch_fraction * (batch as f64) < 2.0 {
            return Some((
                format!(
                    "`mask.experimental.batch_fraction`: must leave at least 2 images of {batch}, got {}",
                    experimental.batch_fraction
                ),
                "raise it, or `training.batch_size`",
            ));
        }
        None
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

    /// Every key with its value, as TOML, in the order of the file.
    pub fn settings(&self) -> Vec<(String, String)> {
        let fields = self.sections().into_iter().flat_map(|section| section.fields());
        fields.map(|field| (field.key, field.value)).collect()
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
