//! The settings themselves: each table of the configuration, each field once.

use metamask_data::{BadImages, DatasetSpec, Difficulty};
use metamask_encoders::{Architecture, Stem};
use metamask_optim::{
    Activations, Hypergradient, LarsClipping, MaskForm, MaskShape, OptimizerKind, Schedule,
    Stepping, VirtualStep,
};
use serde::{Deserialize, Serialize};

use super::section::{self, Field, Range, Section, section};

section! {
    /// How the numbers are computed.
    Engine in "engine" {
        /// Convolutions: `exact`, as they are defined; `fast`, by Winograd's algorithm where that
        /// saves time, with an error a few times the rounding of f32; `bf16`, the same with products of
        /// bfloat16, an error of a hundredth.
        precision: Precision = Precision::Fast, Range::Words(&["exact", "fast", "bf16"]);
    }
}

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
        /// Side that images are resized to once, in pixels; 0 keeps the data set's own.
        image_size: usize = 0, Range::Any;
        /// What to do with damaged files in a folder of images: `fail` names the first, `skip` counts them.
        bad_images: BadImages = BadImages::Fail, Range::Words(&["fail", "skip"]);
        /// Whether to leave out unlabelled images that equal a test image (STL-10 has 7,545).
        drop_equal_to_test: bool = false, Range::Any;
        /// How much generated scenes hide their object; other images have none.
        difficulty: Difficulty = Difficulty::Medium, Range::Words(&["easy", "medium", "hard"]);
        /// Share of the training scenes whose background follows from the class; test scenes' never
        /// does. For studies of confounding.
        spurious: f64 = 0.0, Range::PROBABILITY;
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
        /// Probability of a Gaussian blur, sigma 0.1 to 2, in view a and in view b.
        blur_probability: [f64; 2] = [0.0, 0.0], Range::PROBABILITY;
        /// Probability of solarisation (values from 0.5 on are inverted) in view a and in view b.
        solarize_probability: [f64; 2] = [0.0, 0.0], Range::PROBABILITY;
    }
}

section! {
    /// The encoder f.
    Encoder in "encoder" {
        /// Network: `resnet`, `conv` (four convolutions) or `fc` (three linear layers on the pixels).
        architecture: Architecture = Architecture::ResNet, Range::Words(&["resnet", "conv", "fc"]);
        /// Layers of a ResNet: 18 or 50.
        depth: usize = 18, Range::OneOfNumbers(&[18, 50]);
        /// First layers of a ResNet: `cifar` (3x3, stride 1), `cifar-with-pool`, `imagenet` (7x7,
        /// stride 2, pool).
        stem: Stem = Stem::Cifar, Range::Words(&["cifar", "cifar-with-pool", "imagenet"]);
        /// Channels of the first stage of `resnet` and `conv`; 64 is the full network, 16 a quarter
        /// of its width.
        width: usize = 16, Range::Within(1.0, 1024.0);
        /// Whether a ReLU follows a ResNet's stem. The authors' code loses it.
        stem_relu: bool = true, Range::Any;
        /// Weights to start from: a safetensors file with torchvision's or timm's keys, or
        /// `hub:ORG/NAME@COMMIT`; empty is a random start.
        init: String = String::new(), Range::Any;
        /// SHA-256 of that file; filled in when a run is set up, and held against the file.
        init_sha256: String = String::new(), Range::Any;
        /// Keys that the file may lack, have beside the encoder's, or have in another shape; the
        /// encoder's own then start at random.
        init_allow: Vec<String> = Vec::new(), Range::Any;
    }
}

section! {
    /// The head g of the base loss B: linear, batch norm, ReLU for each hidden layer, then linear,
    /// batch norm. Barlow Twins uses the redundancy head in its place.
    ContrastiveHead in "contrastive_head" {
        /// Widths of the hidden layers.
        hidden: Vec<usize> = vec![512], Range::Within(1.0, 65536.0);
        /// Width of the embedding.
        output: usize = 128, Range::Within(2.0, 65536.0);
        /// Whether a batch norm follows the last layer (MetaMask's code has it; BYOL's projector not).
        final_norm: bool = true, Range::Any;
    }
}

section! {
    /// The predictor q of BYOL and NNCLR, behind the base loss's head; as wide as the embedding.
    Predictor in "predictor" {
        /// Widths of the hidden layers (each followed by batch norm and ReLU).
        hidden: Vec<usize> = vec![512], Range::Within(1.0, 65536.0);
    }
}

section! {
    /// The redundancy head g_r, built alike. Exists if `objective.redundancy_weight` is above 0, or
    /// the method is Barlow Twins.
    RedundancyHead in "redundancy_head" {
        /// Widths of the hidden layers.
        hidden: Vec<usize> = vec![512, 512], Range::Within(1.0, 65536.0);
        /// Width of the embedding.
        output: usize = 512, Range::Within(2.0, 65536.0);
    }
}

section! {
    /// The network's loss L = redundancy_weight L_drr + alpha B.
    #[derive(Copy)]
    Objective in "objective" {
        /// Base method: `simclr`, `barlow-twins`, `byol`, `dcl` (debiased), `hcl`, `nnclr`.
        method: Method = Method::SimClr,
            Range::Words(&["simclr", "barlow-twins", "byol", "dcl", "hcl", "nnclr"]);
        /// Weight of the base loss B.
        alpha: f64 = 1.0, Range::Above(0.0);
        /// Temperature tau of the contrastive losses.
        temperature: f64 = 0.2, Range::Above(0.0);
        /// Probability tau_plus that a negative is of the anchor's class (DCL, HCL).
        tau_plus: f64 = 0.1, Range::BelowOne;
        /// How much HCL prefers hard negatives.
        beta: f64 = 1.0, Range::AtLeast(0.0);
        /// Course of beta: `constant`, or `down` to 0 in steps as the released code can do.
        beta_annealing: Annealing = Annealing::Constant, Range::Words(&["constant", "down"]);
        /// Weight of the redundancy-reduction loss L_drr (Barlow Twins) beside B; 0 leaves it and its
        /// head out.
        redundancy_weight: f64 = 0.0, Range::AtLeast(0.0);
        /// Weight lambda of L_drr's off-diagonal terms.
        redundancy_lambda: f64 = 0.005, Range::Above(0.0);
    }
}

section! {
    /// BYOL's target network, an average over the past of the encoder and its head.
    Target in "target" {
        /// Share of it that stays in the first step; grows to 1 along a cosine.
        momentum: f64 = 0.99, Range::Within(0.0, 1.0);
    }
}

section! {
    /// NNCLR's queue of past embeddings, among which neighbours are looked for.
    Queue in "queue" {
        /// Embeddings it holds; at least the batch.
        size: usize = 4096, Range::Within(2.0, 1e7);
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
    /// The network's optimiser.
    Optimizer in "optimizer" {
        /// Rule: `sgd`, `lars`, `adam` (weight decay in the gradient), `adamw` (beside it).
        rule: OptimizerKind = OptimizerKind::Sgd, Range::Words(&["sgd", "lars", "adam", "adamw"]);
        /// Learning rate l, before the schedule.
        learning_rate: f64 = 0.06, Range::AtLeast(0.0);
        /// Whether the rate stands for a batch of 256 and grows with the batch: `none` or `linear`.
        batch_scaling: BatchScaling = BatchScaling::None, Range::Words(&["none", "linear"]);
        /// Momentum mu of SGD and LARS.
        momentum: f64 = 0.9, Range::BelowOne;
        /// Whether that momentum is Nesterov's.
        nesterov: bool = false, Range::Any;
        /// Weight decay, on every parameter (LARS: but biases and norms).
        weight_decay: f64 = 5e-4, Range::AtLeast(0.0);
        /// LARS's trust coefficient.
        trust_coefficient: f64 = 1e-3, Range::Above(0.0);
        /// Whether LARS's local rate is bounded: `none`, or `learning-rate` (solo-learn's `clip_lr`).
        lars_clipping: LarsClipping = LarsClipping::None, Range::Words(&["none", "learning-rate"]);
        /// Whether LARS neither adapts nor decays biases and norms.
        lars_excludes_biases_and_norms: bool = true, Range::Any;
        /// Adam's beta 1 and beta 2.
        betas: [f64; 2] = [0.9, 0.999], Range::BelowOne;
        /// Epsilon of LARS and Adam.
        epsilon: f64 = 1e-8, Range::AtLeast(0.0);
        /// Course of the learning rate: `cosine` (to the minimum), `constant`, `warmup-cosine`, `step`.
        schedule: Schedule = Schedule::Cosine,
            Range::Words(&["cosine", "constant", "warmup-cosine", "step"]);
        /// When the rate moves: once an `epoch` (as the authors do) or every `step`.
        schedule_every: Stepping = Stepping::Epoch, Range::Words(&["epoch", "step"]);
        /// Epochs of `warmup-cosine`'s straight rise; fewer than the training has.
        warmup_epochs: usize = 10, Range::Within(0.0, 1e6);
        /// Last rate of the cosines.
        minimum_rate: f64 = 0.0, Range::AtLeast(0.0);
        /// Epochs, rising, at which a `step` schedule multiplies the rate by `schedule_factor`.
        milestones: Vec<usize> = Vec::new(), Range::Within(0.0, 1e6);
        /// What a `step` schedule multiplies by.
        schedule_factor: f64 = 0.1, Range::AboveUpTo(0.0, 1.0);
    }
}

section! {
    /// The dimension mask m over the features, and its own optimiser.
    #[derive(Copy)]
    Mask in "mask" holding experimental: Experimental {
        /// `on`, or `off`: the plain method, bit for bit.
        mode: MaskMode = MaskMode::On, Range::Words(&["on", "off"]);
        /// `sigmoid`: m = sigmoid(w), w = 0 at the start; `free`: m = w, w = 1 at the start.
        form: MaskForm = MaskForm::Sigmoid, Range::Words(&["sigmoid", "free"]);
        /// Rule by which w moves: `sgd`, `adam` or `adamw`.
        rule: OptimizerKind = OptimizerKind::Sgd, Range::Words(&["sgd", "adam", "adamw"]);
        /// Learning rate of w.
        learning_rate: f64 = 30.0, Range::AtLeast(0.0);
        /// Momentum of w (SGD).
        momentum: f64 = 0.9, Range::BelowOne;
        /// Weight decay of w.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Course of w's learning rate over the epochs: `cosine` or `constant`.
        schedule: Schedule = Schedule::Cosine, Range::Words(&["cosine", "constant"]);
        /// Whether the run's own number is taken with the mask on; the other is printed beside it.
        at_test_time: bool = true, Range::Any;
    }
}

section! {
    /// Forms of the mask and of its step that are being studied; what earns nothing goes again.
    #[derive(Copy)]
    Experimental in "mask.experimental" {
        /// Share of the batch, its first images, that the meta step is taken on; not for `lookahead`.
        batch_fraction: f64 = 1.0, Range::AboveUpTo(0.0, 1.0);
        /// Epochs that pass before the mask begins to move.
        start_epoch: usize = 0, Range::Within(0.0, 1e6);
        /// What the mask lies on: the `representation` h, or the `embedding` z of the base loss alone.
        place: MaskPlace = MaskPlace::Representation, Range::Words(&["representation", "embedding"]);
        /// Whether L_drr sees the features without the mask.
        redundancy_unmasked: bool = false, Range::Any;
        /// `soft`: m as it is; `normalised`: m / mean(m); `thresholded`: 1 where m is at least 0.5, else 0.
        shape: MaskShape = MaskShape::Soft, Range::Words(&["soft", "normalised", "thresholded"]);
        /// What `lookahead` differentiates of the regular step: the `full` loss, or B alone (`base`).
        through: Through = Through::Full, Range::Words(&["full", "base"]);
        /// Whether the network trains without the mask, bit for bit as with `mode = "off"`, and the mask
        /// learns from its features beside it: d of B(θ, w) at the head as it is. For `lookahead` with
        /// `first-order`.
        beside: bool = false, Range::Any;
        /// Whether each dimension is moved by the hypergradient of another one, always the same, drawn
        /// by the seed: a control that leaves nothing of the method but how far the mask spreads.
        shuffled: bool = false, Range::Any;
    }
}

section! {
    /// The meta step that moves the mask.
    #[derive(Copy)]
    Meta in "meta" {
        /// Where the virtual step starts: `shared` (the weights that the regular step starts from,
        /// whose forward pass it shares), `after-regular` (the weights after it, as the authors do), or
        /// `lookahead` (the regular step is the virtual one, judged on the next batch).
        virtual_step: VirtualStep = VirtualStep::Shared,
            Range::Words(&["shared", "after-regular", "lookahead"]);
        /// The second-order term: `exact`, `finite-difference` (as the authors do), or `first-order`:
        /// none.
        hypergradient: Hypergradient = Hypergradient::Exact,
            Range::Words(&["exact", "finite-difference", "first-order"]);
        /// Whether `exact` keeps the activations for its tangent (`keep`) or computes them again
        /// (`recompute`): half the memory, one more forward pass, the same bits.
        activations: Activations = Activations::Keep, Range::Words(&["keep", "recompute"]);
        /// The mask moves in every k-th step.
        every: usize = 1, Range::Within(1.0, 1e6);
    }
}

section! {
    /// What is watched while a run trains.
    Guard in "guard" {
        /// What a collapse of the embeddings to one point does: `warn` or `stop`.
        on_collapse: OnCollapse = OnCollapse::Warn, Range::Words(&["warn", "stop"]);
    }
}

section! {
    /// The evaluation after training.
    Evaluation in "evaluation" {
        /// Neighbours of kNN.
        knn_k: usize = 20, Range::Within(1.0, 1e6);
        /// Temperature T of kNN: a neighbour votes with weight exp(cosine / T).
        knn_temperature: f64 = 0.1, Range::Above(0.0);
        /// Random orders that the mask's values are also put into, beside orders by what is known of
        /// the dimensions; 0 leaves these controls out (docs/diagnostics.md).
        mask_controls: usize = 0, Range::Within(0.0, 1000.0);
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

/// Declares the words that a setting may be, in kebab-case on disk.
macro_rules! words {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[$more:meta])* $variant:ident),+ $(,)? }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$more])* $variant),+ }
    };
}

words! {
    /// How exactly convolutions are computed.
    Precision {
        /// Every product as the definition has it.
        Exact,
        /// Winograd's algorithm where it saves time.
        Fast,
        /// The same with its products in bfloat16.
        Bf16,
    }
}

impl From<Precision> for metamask_ops::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Exact => Self::Exact,
            Precision::Fast => Self::Fast,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

words! {
    /// The base method, which gives the base loss B.
    Method {
        /// NT-Xent (Chen et al. 2020).
        #[serde(rename = "simclr")]
        SimClr,
        /// L_drr itself (Zbontar et al. 2021).
        BarlowTwins,
        /// Predicts a slowly moving target (Grill et al. 2020).
        Byol,
        /// Debiased negatives (Chuang et al. 2020); not the decoupled loss of the same letters.
        Dcl,
        /// Hard negatives (Robinson et al. 2021).
        Hcl,
        /// Nearest neighbours as positives (Dwibedi et al. 2021).
        Nnclr,
    }
}

impl Encoder {
    /// The network, in a word or two.
    pub fn title(&self) -> String {
        let Self { architecture, depth, width, .. } = self;
        match architecture {
            Architecture::ResNet => format!("ResNet-{depth} of width {width}"),
            Architecture::Conv => format!("conv of width {width}"),
            Architecture::Fc => "fc".to_owned(),
        }
    }
}

impl Method {
    /// Its name as it is printed.
    pub fn title(self) -> &'static str {
        match self {
            Self::SimClr => "SimCLR",
            Self::BarlowTwins => "Barlow Twins",
            Self::Byol => "BYOL",
            Self::Dcl => "DCL",
            Self::Hcl => "HCL",
            Self::Nnclr => "NNCLR",
        }
    }

    /// Whether a predictor follows the head.
    pub fn has_predictor(self) -> bool {
        matches!(self, Self::Byol | Self::Nnclr)
    }
}

words! {
    /// The course of HCL's beta.
    Annealing {
        /// It stays.
        Constant,
        /// It falls to 0 in steps.
        Down,
    }
}

words! {
    /// How a learning rate follows the batch size.
    BatchScaling {
        /// Not at all.
        None,
        /// l · batch / 256 (Goyal et al. 2017).
        Linear,
    }
}

words! {
    /// Whether there is a mask.
    MaskMode {
        /// The features are masked and the mask is learned.
        On,
        /// The base method alone.
        Off,
    }
}

words! {
    /// What the mask lies on.
    MaskPlace {
        /// The representation h, before every head.
        Representation,
        /// The embedding z of the base loss.
        Embedding,
    }
}

words! {
    /// What of the regular step `lookahead` differentiates.
    Through {
        /// L
        Full,
        /// alpha B
        Base,
    }
}

words! {
    /// What a collapse does.
    OnCollapse {
        /// It is said, and the run goes on.
        Warn,
        /// It ends the run.
        Stop,
    }
}
