//! `metamask inspect neighbours`: a sheet of images and what the run takes for alike.

use std::path::PathBuf;

use candle_core::DType;
use clap::Args;
use metamask_data::{Captioned, Dataset, Frame, Tile, neighbour_sheet, png_bytes};
use metamask_train::{
    Learner,
    checkpoint::{Checkpoints, Identity},
    expect_new, load_data,
    neighbours::{Neighbours, neighbours},
    run_folder, shown, write_new,
};

use super::protocol;
use crate::arguments::{PlacesArguments, WorkersArguments};
use crate::{
    commands::{restore_latest, set_threads},
    evaluate::evaluated,
    print,
    progress::Progress,
};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask inspect neighbours runs/RUN --out neighbours.png
  metamask inspect neighbours runs/RUN --data folder:my/images --out mine.png

A row for each query: the image, and its nearest by the cosine of features (masked if the
run's own number is), the cosine below each. Queries are test images and neighbours training
images; without labels both are of one set. Frames: blue is the query's class, orange
another. Needs no label, so it is what to look at where there are none.")]
pub(crate) struct InspectNeighboursArguments {
    /// The run's folder
    pub run: PathBuf,
    /// The picture to write; never overwrites a file
    #[arg(long, value_name = "FILE.png")]
    pub out: PathBuf,
    /// Rows: queries, drawn by the run's seed
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queries: u16,
    /// Another data set to look at [default: the run's own]
    #[arg(long, value_name = "NAME")]
    pub data: Option<String>,
    #[command(flatten)]
    pub places: PlacesArguments,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

/// Neighbours of a query.
pub(crate) const NEAREST: usize = 10;

pub(crate) fn inspect(arguments: &InspectNeighboursArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    let (run, out) = (&arguments.run, &arguments.out);
    expect_new(Some(out))?;
    let (config, config_sha256) = run_folder::read_config(run)?;
    let (seen, folder) = (evaluated(&config, arguments.data.as_deref())?, run.join("checkpoints"));
    let data = load_data(&seen, &arguments.places.places()?)?;
    let checkpoints = match arguments.data {
        Some(_) => Checkpoints::to_inspect(folder, config_sha256)?,
        None => Checkpoints {
            folder,
            identity: Identity { config_sha256, data_sha256: data.fingerprint() },
            keep: config.checkpoint.keep,
        },
    };
    let mut learner = Learner::new(&config, DType::F32)?;
    let state = restore_latest(&checkpoints, (run, &config), &mut learner)?;
    let mut progress = Progress::new();
    let wanted = (usize::from(arguments.queries), NEAREST);
    let found = neighbours((&seen, &learner), &data, wanted, &mut progress);
    progress.finish();
    let found = found?;

    let (rows, n_of_class) = rows(&found, &data);
    write_new(out, &png_bytes(&neighbour_sheet(&rows)))?;
    let Neighbours { is_one_set, n_looked_at, with_mask, found, .. } = &found;
    let which = if seen.data.validation_images > 0 { "validation" } else { "test" };
    let (n, mask) = (found.len(), if *with_mask { "with mask" } else { "without mask" });
    let mut text = match is_one_set {
        true => format!(
            "{}: {n} images of {} and the {NEAREST} nearest of {n_looked_at} to each\n",
            shown(out),
            data.name
        ),
        false => format!(
            "{}: {n} {which} images of {} and the {NEAREST} nearest of {n_looked_at} training \
             images to each\nclass     {n_of_class} of {} neighbours are of the query's class \
             (blue)\n",
            shown(out),
            data.name,
            n * NEAREST
        ),
    };
    text +=
        &format!("trained   {}\nprotocol  cosine of features, {mask}\n", protocol(&config, state));
    print::to_stdout(&text)
}

/// A row for each query: it, and its nearest; and how many of these are of its class.
pub(crate) fn rows<'a>(found: &'a Neighbours, data: &Dataset) -> (Vec<Vec<Captioned<'a>>>, usize) {
    let Neighbours { queries, bank, is_one_set, found, .. } = found;
    let class = |labels: &[u32], i: usize| match is_one_set {
        true => None,
        false => labels.get(i).copied(),
    };
    let mut n_of_class = 0;
    let rows = found.iter().map(|(query, nearest)| {
        let own = class(&data.test.labels, *query);
        let caption = match own {
            Some(own) => data.test.class_names[own as usize].clone(),
            None => format!("#{query}"),
        };
        let query = Captioned { tile: Tile::of(queries, *query), caption, frame: Frame::Plain };
        let nearest = nearest.iter().map(|&(cosine, i)| {
            let frame = match (own, class(&data.train.labels, i)) {
                (Some(own), Some(other)) if own == other => Frame::SameClass,
                (Some(_), Some(_)) => Frame::OtherClass,
                _ => Frame::Plain,
            };
            n_of_class += usize::from(frame == Frame::SameClass);
            Captioned { tile: Tile::of(bank, i), caption: format!("{cosine:.3}"), frame }
        });
        std::iter::once(query).chain(nearest).collect()
    });
    (rows.collect(), n_of_class)
}
