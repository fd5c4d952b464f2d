//! `metamask embed`: features of a folder of images.

use std::io::IsTerminal as _;

use candle_core::DType;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use metamask_train::{
    Learner,
    checkpoint::Checkpoints,
    embed::{self, BadImages, EmbeddingFiles, embed},
    run_folder, shown,
};

use crate::{
    arguments::{BadImagesWord, EmbedArguments},
    commands::{restore_latest, set_threads},
    print,
};

pub(crate) fn run(arguments: &EmbedArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    let (run, images) = (&arguments.run, &arguments.images);
    let files = EmbeddingFiles::new(&arguments.out)?;
    let (config, config_sha256) = run_folder::read_config(run)?;
    let checkpoints = Checkpoints::to_inspect(run.join("checkpoints"), config_sha256)?;
    let device = arguments.device.open()?;
    let mut learner = Learner::on(&device, &config, DType::F32)?;
    let state = restore_latest(&checkpoints, (run, &config), &mut learner)?;
    let bad = match arguments.bad_images {
        BadImagesWord::Fail => BadImages::Fail,
        BadImagesWord::Skip => BadImages::Skip,
    };
    let bar = bar();
    let mut progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let embeddings = embed((&config, &learner, state), images, bad, &mut progress)?;
    bar.finish_and_clear();
    if let Some(line) = embed::skipped_line(&embeddings.skipped, images) {
        print::to_stderr(&format!("warning: {line}"));
    }
    let written = files.write(&embeddings)?;
    let (n, dim) = embeddings.features.dims2()?;
    let mut text = format!("{n} images of {}, {dim} features each, not masked\n", shown(images));
    for file in written {
        text += &format!("{}\n", shown(&file));
    }
    print::to_stdout(&text)
}

/// Images done, for whoever watches a terminal.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    let style = "{pos}/{len} images {wide_bar} {per_sec}, {eta} left";
    bar.with_style(ProgressStyle::with_template(style).expect("our own template"))
}
