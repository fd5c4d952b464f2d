//! `metamask inspect dimensions`: the dimension microscope on a run's own test images.

use std::path::PathBuf;

use candle_core::Tensor;
use clap::Args;
use metamask_eval::{
    DimensionReport, DimensionRow, Knn, NuisanceFactor, Sharing, Subject, inspect_dimensions,
};
use metamask_random::{Key, Purpose};
use metamask_report::{DimensionsFigure, Drawing, Fit, Relevance, Spectrum, dimensions_figure};
use metamask_train::{Observer as _, checkpoint::State, expect_new, nuisance_factors, write_new};
use serde::Serialize;

use super::{Features, OpenRun, dimensions_table::table, name_of, protocol};
use crate::{
    arguments::WorkersArguments, commands::set_threads, data_places, print, progress::Progress,
};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask inspect dimensions runs/RUN
  metamask inspect dimensions runs/RUN --json > dimensions.json    every dimension
  metamask inspect dimensions runs/RUN --out dimensions.svg        the picture

Looks at the features of the run's test images: how their variance is spread, which
dimensions say the same, what each one tells about the class and about the nuisance
factors of generated scenes, and whether the mask goes with that. Uses labels, of which
training knows nothing. docs/diagnostics.md says what each number means and when to
distrust it.")]
pub(crate) struct InspectDimensionsArguments {
    /// The run's folder
    pub run: PathBuf,
    /// Print one JSON object with every dimension
    #[arg(long)]
    pub json: bool,
    /// The picture to write (SVG); never overwrites a file
    #[arg(long, value_name = "FILE.svg")]
    pub out: Option<PathBuf>,
    /// Folder with the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct InspectedDimensions<'a> {
    step: u64,
    epoch: u64,
    split: &'a str,
    factors: &'a [FactorLine],
    #[serde(flatten)]
    report: &'a DimensionReport,
}

/// A factor as it was measured.
#[derive(Serialize)]
struct FactorLine {
    name: String,
    sharing: Sharing,
    groups: usize,
}

pub(crate) fn inspect(arguments: &InspectDimensionsArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    expect_new(arguments.out.as_deref())?;
    let run = OpenRun::open(&arguments.run, &data_places::of(arguments.data_dir.clone(), true)?)?;
    let OpenRun { config, state, .. } = &run;
    let mut progress = Progress::new();
    let Features { train, train_labels, test } = run.features(&mut progress)?;
    let (report, factors) = measure(&run, ((&train, &train_labels), &test), &mut progress)?;
    progress.finish();

    if let Some(out) = &arguments.out {
        let subtitle = format!("{}; {}", protocol(config, *state), run.images());
        let figure = figure(&name_of(&arguments.run), &subtitle, &report);
        write_new(out, figure.standalone().as_bytes())?;
    }
    let split = run.split();
    if !arguments.json {
        return print::to_stdout(&table(&report, &split, *state));
    }
    let line = |factor: &NuisanceFactor| FactorLine {
        name: factor.name.clone(),
        sharing: factor.sharing,
        groups: factor.n_groups,
    };
    let factors: Vec<FactorLine> = factors.iter().map(line).collect();
    let State { step, epoch, .. } = *state;
    let object =
        InspectedDimensions { step, epoch, split: &split, factors: &factors, report: &report };
    print::to_stdout(&(serde_json::to_string(&object)? + "\n"))
}

/// The microscope on features of a run's training and test images.
pub(crate) fn measure(
    run: &OpenRun,
    (train, test): ((&Tensor, &[u32]), &Tensor),
    progress: &mut Progress,
) -> anyhow::Result<(DimensionReport, Vec<NuisanceFactor>)> {
    let OpenRun { config, data, .. } = run;
    let mask = run.mask_on_features(test.dim(1)?)?;
    let [factors] = nuisance_factors([&data.test]);
    let knn = Knn { k: config.evaluation.knn_k, temperature: config.evaluation.knn_temperature };
    let subject = Subject {
        train,
        test: (test, &data.test.labels),
        n_classes: data.test.n_classes(),
        mask: mask.as_deref(),
        factors: &factors,
        knn,
        key: Key::new(config.run.seed, Purpose::Evaluation),
    };
    let report = inspect_dimensions(&subject, &mut |what| progress.evaluating(what))?;
    Ok((report, factors))
}

pub(crate) fn figure(title: &str, subtitle: &str, report: &DimensionReport) -> Drawing {
    let name = if report.masked_usage.is_some() { "no mask" } else { "features" };
    let usages = [(name, &report.usage)];
    let usages = usages.into_iter().chain(report.masked_usage.iter().map(|u| ("masked", u)));
    let spectra: Vec<Spectrum<'_>> = usages
        .map(|(name, usage)| Spectrum {
            name,
            eigenvalues: &usage.spectrum,
            effective_rank: usage.effective_rank,
            fit: usage.alpha_req.as_ref().map(|law| Fit {
                alpha: law.alpha,
                ranks: [law.first_rank, law.last_rank],
                values: [law.at(law.first_rank), law.at(law.last_rank)],
                r_squared: law.r_squared,
            }),
        })
        .collect();

    let column = |value: fn(&DimensionRow) -> Option<f64>| -> Option<Vec<f64>> {
        report.dimensions.iter().map(value).collect()
    };
    let found = |measure: &str| {
        let agreement = report.agreements.iter().find(|found| found.measure == measure)?;
        agreement.correlation.map(|found| (found.rho, found.p_value))
    };
    let by_chance = |sharing| report.nuisance_share_by_chance.get(&sharing).copied().unwrap_or(0.0);
    let relevances = [
        ("Class", "class_share", column(|row| Some(row.class_share)), report.class_share_by_chance),
        (
            "Nuisance, views agree",
            "shared_nuisance_share",
            column(|row| row.shared_nuisance_share),
            by_chance(Sharing::SharedByViews),
        ),
        (
            "Nuisance, views differ",
            "differing_nuisance_share",
            column(|row| row.differing_nuisance_share),
            by_chance(Sharing::DiffersBetweenViews),
        ),
    ];
    let relevances: Vec<Relevance<'_>> = relevances
        .iter()
        .filter_map(|(name, measure, shares, by_chance)| {
            Some(Relevance {
                name,
                shares: shares.as_deref()?,
                by_chance: *by_chance,
                correlation: found(measure),
                is_task: *measure == "class_share",
            })
        })
        .collect();
    let mask = column(|row| row.mask);
    let std = column(|row| Some(row.std)).unwrap_or_default();
    let scale = match &mask {
        Some(mask) => ("mask value m", &mask[..]),
        None => ("standard deviation", &std[..]),
    };
    dimensions_figure(&DimensionsFigure {
        title,
        subtitle,
        spectra: &spectra,
        correlation: &report.redundancy.absolute_correlation,
        mean_correlation: report.mean_absolute_correlation,
        scale,
        relevances: &relevances,
    })
}
