//! `metamask figure`: the paper's figures, of runs of one's own.

mod files;
mod png;

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use clap::{Args, ValueEnum};
use metamask_eval::{
    Knn, class_distances, random_masks, redundancy, scored_deviations, variance_share,
};
use metamask_random::{Key, Purpose};
use metamask_report::{
    ContributionFigure, Contributions, Drawing, RandomMasksFigure, VarianceFigure,
    contribution_figure, random_masks_figure, variance_figure,
};
use metamask_train::{
    Code, Failure, Observer as _, WithMask, config::MaskMode, embeddings_of, features_of,
};

use crate::{
    arguments::{PlacesArguments, WorkersArguments},
    commands::set_threads,
    csv::Csv,
    inspect::{Features, OpenRun, name_of, protocol},
    print,
    progress::Progress,
};

pub(crate) use files::Files;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask figure 1a runs/SIMCLR runs/BARLOW --out figures
  metamask figure 2 runs/BARLOW --out figures --draws 100
  metamask figure 5 runs/METAMASK --out figures

  1a  what each dimension adds to each class, and which dimensions say the same: runs below
      one another
  2   the frozen representation under random masks; the best of each rate is chosen on one
      half of the test images and reported on the other, too
  5   variance within classes of each dimension of the embedding, with the mask and without

Writes NAME.svg, NAME.png and NAME.csv into the folder, and overwrites nothing. docs/figures.md
says what each shows and where it departs from the paper.")]
pub(crate) struct FigureArguments {
    /// Which figure of the paper
    pub figure: Figure,
    /// The runs' folders
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The folder to write into
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Figure 2: masks of each rate
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub draws: u16,
    #[command(flatten)]
    pub places: PlacesArguments,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Figure {
    /// Contribution of dimensions to classes, redundancy
    #[value(name = "1a")]
    Contribution,
    /// Random masks
    #[value(name = "2")]
    RandomMasks,
    /// Variance within classes
    #[value(name = "5")]
    Variance,
}

impl Figure {
    /// Its files' name.
    fn name(self) -> &'static str {
        match self {
            Self::Contribution => "figure-1a",
            Self::RandomMasks => "figure-2",
            Self::Variance => "figure-5",
        }
    }

    /// Runs that it can show at most.
    fn most_runs(self) -> usize {
        match self {
            Self::Contribution => 4,
            Self::RandomMasks | Self::Variance => 1,
        }
    }
}

pub(crate) fn figure(arguments: &FigureArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    let FigureArguments { figure, runs, out, draws, .. } = arguments;
    if runs.len() > figure.most_runs() {
        let (n, most) = (runs.len(), figure.most_runs());
        let message = format!("{n} runs, expected at most {most} in {}", figure.name());
        return Err(Failure::new(Code::Usage, message).into());
    }
    let files = Files::new(out, figure.name())?;
    let places = arguments.places.places()?;
    let mut progress = Progress::new();
    let made = || -> anyhow::Result<(Drawing, Csv, Vec<String>)> {
        let open = |run: &Path| OpenRun::open(run, &places).and_then(labelled);
        match figure {
            Figure::Contribution => {
                let opened: anyhow::Result<Vec<(String, OpenRun)>> =
                    runs.iter().map(|run| Ok((name_of(run), open(run)?))).collect();
                contribution(&opened?, &mut progress)
            }
            Figure::RandomMasks => {
                masks(&name_of(&runs[0]), &open(&runs[0])?, *draws, &mut progress)
            }
            Figure::Variance => variance(&name_of(&runs[0]), &open(&runs[0])?, &mut progress),
        }
    }();
    progress.finish();
    let (drawing, table, said) = made?;
    let written = files.write(&drawing, &table)?;
    print::to_stdout(&format!("{}\n\n{written}", said.join("\n")))
}

/// The run, if it has labelled test images.
fn labelled(run: OpenRun) -> anyhow::Result<OpenRun> {
    match run.data.train.is_empty() || run.data.test.len() < 4 {
        true => {
            let message = format!("{}: expected images with labels", run.data.name);
            Err(Failure::new(Code::Usage, message).into())
        }
        false => Ok(run),
    }
}

/// Figure 1a.
fn contribution(
    runs: &[(String, OpenRun)],
    progress: &mut Progress,
) -> anyhow::Result<(Drawing, Csv, Vec<String>)> {
    let mut table = Csv::new(&["run", "class", "dimension", "distance_in_std"]);
    let mut found = Vec::new();
    for (name, run) in runs {
        progress.evaluating(&format!("features of {name}"));
        let data = &run.data.test;
        let h = features_of(&run.learner, data, run.config.augmentation.size)?;
        let distances = class_distances(&h, &data.labels, data.n_classes())?;
        let farthest = distances.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let shares: Vec<f64> = distances.iter().map(|distance| distance / farthest).collect();
        let dim = h.dim(1)?;
        for (i, distance) in distances.iter().enumerate() {
            let class = &data.class_names[i / dim];
            table.row(&[name, class, &(i % dim).to_string(), &distance.to_string()]);
        }
        let same = redundancy(&h)?;
        let mean = same.mean_off_diagonal.unwrap_or(0.0);
        let explained = variance_share(&h, &data.labels, data.n_classes())?;
        let explained = 100.0 * explained.iter().sum::<f64>() / dim.max(1) as f64;
        found.push((shares, same.absolute_correlation, mean, explained));
    }
    let (_, first) = &runs[0];
    if runs.iter().any(|(_, run)| run.data.test.class_names != first.data.test.class_names) {
        let failure = Failure::new(Code::Usage, "the runs' data have different classes");
        return Err(failure.help("show runs on one data set together").into());
    }
    let representations: Vec<Contributions<'_>> = runs
        .iter()
        .zip(&found)
        .map(|((name, _), (shares, correlation, mean, _))| Contributions {
            name,
            shares,
            correlation,
            mean_correlation: *mean,
        })
        .collect();
    let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
    let drawing = contribution_figure(&ContributionFigure {
        title: &names.join(", "),
        subtitle: &format!(
            "Distance of a class's mean from that of all, in standard deviations, over the farthest; {}",
            first.images()
        ),
        classes: &first.data.test.class_names,
        representations: &representations,
    });
    let said = runs.iter().zip(&found).map(|((name, run), (.., mean, explained))| {
        format!(
            "{name}\n  {}\n  mean |correlation| {mean:.3}; the class explains {explained:.1} % of a dimension's variance",
            protocol(&run.config, run.state)
        )
    });
    Ok((drawing, table, said.collect()))
}

/// Shares of the dimensions that figure 2 masks out.
const RATES: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
/// Test images that are asked about in figure 2, drawn by the seed: each mask asks all again.
const QUERIES: usize = 2000;
/// The draws of reports are view 6 of their key.
const VIEW: u16 = 7;

/// Figure 2.
fn masks(
    name: &str,
    run: &OpenRun,
    draws: u16,
    progress: &mut Progress,
) -> anyhow::Result<(Drawing, Csv, Vec<String>)> {
    let OpenRun { config, data, state, .. } = run;
    let Features { train, train_labels, test } = run.features(progress)?;
    let key = Key::new(config.run.seed, Purpose::Evaluation).view(VIEW);
    let mut asked = key.stream().permutation(test.dim(0)? as u32);
    asked.truncate(QUERIES);
    let queries = test.index_select(&Tensor::from_slice(&asked, asked.len(), test.device())?, 0)?;
    let labels: Vec<u32> = asked.iter().map(|&i| data.test.labels[i as usize]).collect();
    let knn = Knn {
        k: config.evaluation.knn_k.min(train_labels.len()),
        temperature: config.evaluation.knn_temperature,
    };
    let (bank, queries) = ((&train, &train_labels[..]), (&queries, &labels[..]));
    let mut told = |rate: f64| {
        progress.evaluating(&format!("{draws} masks over {:.0} % of the dimensions", 100.0 * rate));
    };
    let n_classes = data.train.n_classes();
    let found = random_masks(bank, queries, (n_classes, knn), (&RATES, draws), key, &mut told)?;
    let chosen: Vec<_> = RATES.iter().filter_map(|&rate| found.chosen(rate)).collect();
    let pairs = |draws: &[metamask_eval::MaskDraw]| -> Vec<(f64, [f64; 2])> {
        draws.iter().map(|draw| (draw.rate, draw.accuracy)).collect()
    };
    let images = format!("{} of {}", asked.len(), run.images());
    let drawing = random_masks_figure(&RandomMasksFigure {
        title: name,
        subtitle: &format!("{}; {images}, {draws} masks a rate", protocol(config, *state)),
        unmasked: found.unmasked,
        draws: &pairs(&found.draws),
        chosen: &pairs(&chosen),
    });
    let mut table = Csv::new(&["rate", "draw", "chosen_half_percent", "other_half_percent"]);
    table.row(&["0", "", &found.unmasked[0].to_string(), &found.unmasked[1].to_string()]);
    for (i, draw) in found.draws.iter().enumerate() {
        let numbers = draw.accuracy.map(|accuracy| accuracy.to_string());
        let place = (i % usize::from(draws)).to_string();
        table.row(&[&draw.rate.to_string(), &place, &numbers[0], &numbers[1]]);
    }
    let mut said = vec![
        format!(
            "{name}\n  {}\n  kNN on {images}; gains over no mask, in points\n",
            protocol(config, *state)
        ),
        "masked out   best of the half that chooses   the same on the other half".to_owned(),
    ];
    said.extend(chosen.iter().map(|draw| {
        let gain = [0, 1].map(|half| draw.accuracy[half] - found.unmasked[half]);
        format!("{:>8.0} %   {:>28.1}   {:>27.1}", 100.0 * draw.rate, gain[0], gain[1])
    }));
    Ok((drawing, table, said))
}

/// Figure 5.
fn variance(
    name: &str,
    run: &OpenRun,
    progress: &mut Progress,
) -> anyhow::Result<(Drawing, Csv, Vec<String>)> {
    let OpenRun { config, data, learner, state, .. } = run;
    let mut of = |mask: WithMask, what: &str| -> anyhow::Result<Vec<f64>> {
        progress.evaluating(what);
        let ([z_a, z_b], _) = embeddings_of(config, learner, &data.test.images, mask)?;
        let labels = &data.test.labels[..z_a.dim(0)?];
        let (n_classes, tau) = (data.test.n_classes(), config.objective.temperature);
        Ok(scored_deviations((&z_a, &z_b), labels, n_classes, tau)?)
    };
    let without = of(WithMask::No, "embeddings without the mask")?;
    let with = match config.mask.mode {
        MaskMode::On => Some(of(WithMask::Yes, "embeddings with the mask")?),
        MaskMode::Off => None,
    };
    let columns: Vec<(&str, &[f64])> = std::iter::once(("without the mask", &without[..]))
        .chain(with.iter().map(|with| ("with the mask", &with[..])))
        .collect();
    let drawing = variance_figure(&VarianceFigure {
        title: name,
        subtitle: &format!("{}; {}", protocol(config, *state), run.images()),
        columns: &columns,
    });
    let mut table = Csv::new(&["dimension", "without_mask", "with_mask"]);
    for (k, value) in without.iter().enumerate() {
        let with = with.as_ref().map_or_else(String::new, |with| with[k].to_string());
        table.row(&[&k.to_string(), &value.to_string(), &with]);
    }
    let sums = columns.iter().map(|(name, column)| {
        format!("  sum over dimensions, {name}: {:.4}", column.iter().sum::<f64>())
    });
    let said = std::iter::once(format!("{name}\n  {}", protocol(config, *state))).chain(sums);
    Ok((drawing, table, said.collect()))
}
