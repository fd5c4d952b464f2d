//! The words of `metamask data`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::arguments::PlacesArguments;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask data list
  metamask data fetch cifar10
  metamask data stats folder:my/images
  metamask data preview garments --out views.png

Data sets are looked for in --data-dir, in the cache (METAMASK_CACHE, or metamask in
XDG_CACHE_HOME or ~/.cache), in the Hugging Face cache (HF_HOME), on the hub (HF_ENDPOINT,
HF_TOKEN), on the set's own page. A manifest of your own (data/manifests shows the form) is
used as manifest:FILE.toml wherever a data set is named.")]
pub(crate) struct DataArguments {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// List the data sets: what they are, their size and terms, and whether they are here
    #[command(after_help = "\
Examples:
  metamask data list
  metamask data list cifar10 --data-dir DIR --json")]
    List(ListArguments),
    /// Download data sets into the cache, resuming and verifying
    #[command(after_help = "\
Examples:
  metamask data fetch cifar10
  metamask data fetch stl10 --from original
  metamask data fetch tiny-imagenet --dry-run     only say what would be downloaded")]
    Fetch(FetchArguments),
    /// Read a data set's files and decoded images again and compare their digests
    #[command(after_help = "\
Examples:
  metamask data verify cifar10
  metamask data verify cifar10 --data-dir DIR")]
    Verify(VerifyArguments),
    /// Draw images of a data set with their labels, each with two of its views
    #[command(after_help = "\
Examples:
  metamask data preview garments --out views.png
  metamask data preview cifar10 --preset cifar10-simclr-metamask --out views.png
  metamask data preview folder:my/images --out views.png")]
    Preview(PreviewArguments),
    /// Count, measure and average a data set's images
    #[command(after_help = "\
Examples:
  metamask data stats cifar10 --json
  metamask data stats folder:my/images --bad-images skip")]
    Stats(StatsArguments),
}

#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    /// The data sets [default: all that have a name of their own]
    pub names: Vec<String>,
    /// Folder with a data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Open no connection; this command never opens one
    #[arg(long)]
    pub offline: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct FetchArguments {
    /// The data sets
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Where to download from [default: the hub, then the set's own page]
    #[arg(long, value_name = "SOURCE")]
    pub from: Option<FetchSource>,
    /// Only say what would be downloaded
    #[arg(long)]
    pub dry_run: bool,
    /// Open no connection, which is to fetch nothing
    #[arg(long)]
    pub offline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FetchSource {
    /// The Hugging Face hub
    Hub,
    /// The set's own page
    Original,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArguments {
    /// The data set
    pub name: String,
    /// Folder with the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Open no connection; this command never opens one
    #[arg(long)]
    pub offline: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PreviewArguments {
    /// The data set
    pub name: String,
    /// The picture to write (PNG)
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// Preset whose views are drawn [default: quickstart]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Override a setting of views or images, such as `augmentation.size=64` or
    /// `data.bad_images=skip`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    #[command(flatten)]
    pub places: PlacesArguments,
}

#[derive(Args, Debug)]
pub(crate) struct StatsArguments {
    /// The data set
    pub name: String,
    #[command(flatten)]
    pub places: PlacesArguments,
    /// Side that images are resized to [default: the data set's own]
    #[arg(long, value_name = "PIXELS")]
    pub side: Option<usize>,
    /// What to do with damaged files in a folder of images: fail or skip
    #[arg(long, value_name = "fail|skip", default_value = "fail")]
    pub bad_images: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
