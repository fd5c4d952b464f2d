//! The words of the command line, with an example for each command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use metamask_data::Places;

use crate::bench::BenchArguments;
use crate::data_arguments::DataArguments;
use crate::data_places;
use crate::device::DeviceArgument;
use crate::figure::FigureArguments;
use crate::grid::GridArguments;
use crate::inspect::{
    InspectBoundsArguments, InspectDimensionsArguments, InspectGradientsArguments,
    InspectNeighboursArguments,
};
use crate::report::ReportArguments;

/// Self-supervised pre-training of image encoders with MetaMask: a mask over
/// the representation's dimensions, learned without labels.
#[derive(Debug, Parser)]
#[command(
    name = "metamask",
    version,
    after_help = "\
Examples:
  metamask pretrain                     the preset `quickstart`, minutes on two cores
  metamask evaluate runs/RUN            the numbers of a finished run again
  metamask pretrain --help              more"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train an encoder and its mask, then evaluate them
    Pretrain(PretrainArguments),
    /// Evaluate the last checkpoint of a run
    Evaluate(EvaluateArguments),
    /// Look inside a run
    Inspect(InspectArguments),
    /// Runs as a page that needs nothing but a browser
    Report(ReportArguments),
    /// The paper's figures, of runs of your own
    Figure(FigureArguments),
    /// Write the features of your images
    Embed(EmbedArguments),
    /// Write a run's encoder for PyTorch
    Export(ExportArguments),
    /// List the presets, or print one
    Presets(PresetsArguments),
    /// Measure the speed of this machine at training, augmenting, evaluating
    Bench(BenchArguments),
    /// List, fetch, verify and look at data sets
    Data(DataArguments),
    /// Look at a configuration before hours are spent on it, at a run, or at a failed step
    Doctor(DoctorArguments),
    /// Hold the promises of reproducibility against this machine
    Selftest(SelftestArguments),
    /// Plan, run, resume and add up a table of runs
    Grid(GridArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask pretrain
  metamask pretrain --set mask.mode=off --seed 1
  metamask pretrain --preset cifar10-simclr-metamask-authors --data-dir DIR
  metamask pretrain --resume                      go on with the run that was interrupted
  metamask pretrain --print-config > mine.toml    every setting, explained
  metamask pretrain --config mine.toml --out runs/mine
  metamask pretrain --config mine.toml --dry-run  what it will take: time, memory, disk
  metamask pretrain --set encoder.width=64 --init resnet18.safetensors --init-allow fc.weight fc.bias
  metamask pretrain --set encoder.width=64 --init hub:ORG/NAME@COMMIT    its model.safetensors

A run is a folder and is never overwritten. Exit status: 0 done, 2 command line or
configuration, 65 bad data or checkpoint, 66 something is missing, 70 a number is not
finite, 73 the folder cannot be made, 74 reading or writing failed, 75 folder in use.")]
pub(crate) struct PretrainArguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    pub config: Option<PathBuf>,
    /// Preset to start from [default: quickstart]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Override a setting, such as `training.epochs=30`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// The run's folder [default: runs/PRESET-sSEED-HASH, the hash of the settings]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the run in that folder from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Weights to start from, torchvision's or timm's, as a file or from the Hugging Face hub
    /// at a commit of 40 hexadecimal digits: short for --set encoder.init=…
    #[arg(long, value_name = "FILE.safetensors|hub:ORG/NAME@COMMIT")]
    pub init: Option<String>,
    /// A key of those weights that may be missing, left over or of another shape
    #[arg(long, value_name = "KEY", num_args = 1.., requires = "init")]
    pub init_allow: Vec<String>,
    /// Seed of every random draw: short for --set run.seed=N
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub places: PlacesArguments,
    /// What to do when the embeddings collapse: short for --set guard.on_collapse=WORD
    #[arg(long, value_name = "warn|stop")]
    pub on_collapse: Option<String>,
    /// Keep a step that fails, as it was before, for `metamask doctor`; costs a copy of the
    /// state in every step
    #[arg(long)]
    pub dump_on_error: bool,
    #[command(flatten)]
    pub device: DeviceArgument,
    #[command(flatten)]
    pub workers: WorkersArguments,
    /// Print what the run will take (time, memory, disk, FLOPs), and stop: a few steps are
    /// tried, nothing is written
    #[arg(long)]
    pub dry_run: bool,
    /// Print every setting with its meaning, and stop
    #[arg(long)]
    pub print_config: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask evaluate runs/RUN
  metamask evaluate runs/RUN --protocol knn --json
  metamask evaluate runs/RUN --data fashion-mnist       transfer to another data set
  metamask evaluate runs/RUN --protocol fine-tune --labels 1,0.1,0.01
  metamask evaluate runs/RUN --protocol fine-tune --labels 0.1 --data cifar10 --epochs 50

fine-tune trains the encoder and a linear classifier end to end on a share of the labels, from
the run's weights with the mask and without, and from the untrained ones: training from scratch.
Writes nothing: the same command gives the same numbers again.")]
pub(crate) struct EvaluateArguments {
    /// The run's folder
    pub run: PathBuf,
    /// How to evaluate; may be given more than once [default: knn and linear]
    #[arg(long = "protocol", value_name = "NAME")]
    pub protocols: Vec<ProtocolName>,
    #[command(flatten)]
    pub fine_tune: FineTuneArguments,
    /// Another data set to evaluate on: neighbours and probe come from its training
    /// images, the encoder and its mask stay as they are [default: the run's own]
    #[arg(long, value_name = "NAME")]
    pub data: Option<String>,
    #[command(flatten)]
    pub places: PlacesArguments,
    #[command(flatten)]
    pub device: DeviceArgument,
    #[command(flatten)]
    pub workers: WorkersArguments,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct FineTuneArguments {
    /// fine-tune: shares of the training labels, the same of every class [default: 1]
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    pub labels: Vec<f64>,
    /// fine-tune: passes over the labelled images [default: 30; 60 below 5 % of the labels]
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// fine-tune: learning rate [default: 0.3 for a batch of 256, in proportion for others]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// fine-tune: images in a step [default: an eighth of the labelled ones, but 8 to 64]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// fine-tune: seed of the labels drawn, of order, views and classifier [default: the run's]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Where data are looked for.
#[derive(Args, Debug)]
pub(crate) struct PlacesArguments {
    /// Folder with the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Open no connection: data that are not here are an error
    #[arg(long)]
    pub offline: bool,
}

impl PlacesArguments {
    pub fn places(&self) -> anyhow::Result<Places> {
        data_places::of(self.data_dir.clone(), self.offline)
    }
}

/// With how many threads.
#[derive(Args, Debug)]
pub(crate) struct WorkersArguments {
    /// Worker threads; results do not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolName {
    /// k nearest neighbours
    Knn,
    /// Linear probe
    Linear,
    /// Encoder and linear classifier trained end to end
    FineTune,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask inspect mask runs/RUN --out mask.svg
  metamask inspect dimensions runs/RUN
  metamask inspect bounds runs/RUN
  metamask inspect neighbours runs/RUN --out neighbours.png")]
pub(crate) struct InspectArguments {
    #[command(subcommand)]
    pub command: InspectCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// Where the mask's values lie, and a picture of them
    #[command(after_help = "\
Examples:
  metamask inspect mask runs/RUN
  metamask inspect mask runs/RUN --json
  metamask inspect mask runs/RUN --out mask.svg    the picture; never overwrites a file")]
    Mask(InspectMaskArguments),
    /// What each form of the meta step gives and costs, on the run's own state
    #[command(after_help = "\
Examples:
  metamask inspect hypergradient runs/RUN
  metamask inspect hypergradient runs/RUN --json

Takes the iteration after the last checkpoint under every form (virtual step x
hypergradient), from the same state and on the same batches, and changes nothing.")]
    Hypergradient(InspectHypergradientArguments),
    /// What each dimension is about, and whether the mask goes with it
    Dimensions(InspectDimensionsArguments),
    /// The losses' gradient by each dimension, with the mask and without
    Gradients(InspectGradientsArguments),
    /// What theorem 5.1 promises for the run, term by term
    Bounds(InspectBoundsArguments),
    /// A picture of some images, each with its nearest neighbours
    Neighbours(InspectNeighboursArguments),
}

#[derive(Args, Debug)]
pub(crate) struct InspectHypergradientArguments {
    /// The run's folder
    pub run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Iterations that are timed of each form
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeats: u16,
    /// Folder with the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub workers: WorkersArguments,
    /// Measure one form only and print it as JSON; this is how the forms are started
    #[arg(long, value_name = "FORM", hide = true)]
    pub only: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct InspectMaskArguments {
    /// The run's folder
    pub run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The picture to write (SVG)
    #[arg(long, value_name = "FILE.svg")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask embed runs/RUN --images photos --out photos.safetensors
  metamask embed runs/RUN --images photos --out photos.csv --bad-images skip

Takes PNG, JPEG and WebP files at any depth, in bytewise order of their paths, as
evaluation does: shorter side to the run's size, centre square, running statistics.
The features are not masked; the mask is written with them:
  FILE.safetensors   features [N, D], mask [D]; names in the metadata (JSON, `metamask`)
  FILE.csv           name, 0, 1, ...; FILE.mask.csv
  FILE.npy           [N, D]; FILE.mask.npy; FILE.names.txt
Overwrites nothing.")]
pub(crate) struct EmbedArguments {
    /// The run's folder
    pub run: PathBuf,
    /// The folder of the images
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,
    /// The file to write: .safetensors, .csv or .npy
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What happens at a file that is no image
    #[arg(long, value_name = "WORD", default_value = "fail")]
    pub bad_images: BadImagesWord,
    #[command(flatten)]
    pub device: DeviceArgument,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BadImagesWord {
    /// It ends the command, and is named
    Fail,
    /// It is left out; the first one is named, and how many there were
    Skip,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask export runs/RUN --to torchvision --out encoder.safetensors
  metamask export runs/RUN --to timm --mask folded --out encoder.safetensors

Writes NAME.safetensors (weights under the library's keys, for a strict load), with
`--mask apart` NAME.mask.safetensors (the tensor `mask`), and NAME.md, a model card that
says what was trained, how good it is, and how to load it. Overwrites nothing.")]
pub(crate) struct ExportArguments {
    /// The run's folder
    pub run: PathBuf,
    /// Whose model it is for
    #[arg(long, value_name = "LIBRARY")]
    pub to: LibraryName,
    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Where the mask goes
    #[arg(long, value_name = "WHERE", default_value = "apart")]
    pub mask: MaskPlacement,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LibraryName {
    /// torchvision.models
    Torchvision,
    /// timm.create_model
    Timm,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum MaskPlacement {
    /// Into a file of its own
    Apart,
    /// Into the classifier `fc`, which then multiplies by the mask
    Folded,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask presets
  metamask presets quickstart > mine.toml")]
pub(crate) struct PresetsArguments {
    /// The preset to print
    pub name: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask doctor mine.toml                       or the name of a preset
  metamask doctor quickstart --set training.batch_size=512
  metamask doctor runs/RUN                        its checkpoints, too
  metamask doctor runs/RUN/dumps/step-0000812     a step that `--dump-on-error` kept

Of a configuration: the data and their checksum, stem against image size, batch against
data and queue, temperature, learning rate, precision, and time, memory and disk against
what this machine has; a few steps are tried, nothing is written. Of a dump: the step is
taken again, and the first tensor that is not finite is named.
Exit status: 0 it can be run (warnings or not), else that of the error, as in docs/errors.md.")]
pub(crate) struct DoctorArguments {
    /// Configuration file, preset, run's folder, or the dump of a step
    #[arg(value_name = "CONFIG|RUN|DUMP")]
    pub target: String,
    /// Override a setting, such as `training.epochs=30`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    #[command(flatten)]
    pub places: PlacesArguments,
    #[command(flatten)]
    pub workers: WorkersArguments,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask selftest                 about half a minute on two cores
  metamask selftest --kill 100
  metamask selftest --device cuda:0

Trains a small network on the embedded images, again and again, and compares what the
runs leave, byte for byte: repeatability (same machine class, same seed: same bits),
thread independence (1, 2 or 4 threads: same bits), restart replay (killed with SIGKILL
at a random instant and resumed: same bits). On a GPU also whether two iterations of every
method give what they give on the CPU, in f64 and to rounding in the three precisions.
Exit status: 0 all hold, 70 one does not; its runs are then kept and named.")]
pub(crate) struct SelftestArguments {
    /// Runs that are killed and resumed
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub kill: u16,
    /// Draws the instants of the kills
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Where the runs lie meanwhile, up to some MB [default: the system's folder for such]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgument,
}
