//! `metamask inspect gradients`: the losses' gradient by each dimension of the
//! representation, with the mask and without.

use std::path::PathBuf;

use clap::Args;
use metamask_eval::{GradientProfile, dimension_std, variance_shares};
use metamask_random::{Key, Purpose};
use metamask_report::{Drawing, GradientRelevance, GradientsFigure, gradients_figure};
use metamask_train::{
    Failure, Observer as _,
    checkpoint::State,
    features_of,
    gradient_report::{GradientReport, GradientRow, RowGradient, gradient_report},
    gradients::{TESTS, last_layer, measure},
    nuisance_factors,
};
use serde::Serialize;

use super::{OpenRun, gradients_table::table, name_of, protocol};
use crate::{
    arguments::WorkersArguments, commands::set_threads, csv::Csv, data_places, figure::Files,
    print, progress::Progress,
};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask inspect gradients runs/RUN
  metamask inspect gradients runs/RUN --json > gradients.json    every dimension
  metamask inspect gradients runs/RUN --out figures              the picture and its numbers

The gradient of the method's loss (and of L_drr, if the run has it) by the features, before
the mask, over batches of the training images in the run's augmentation: with the learned
mask, with the mask off, and with its values in ten random orders, by the same weights. What
a mask closes gets less by construction; whether that is what carries nuisance is the
question. Where labels and factors are known, each dimension's gradient is held against
them. Changes nothing. --out writes gradients.svg, .png and .csv into the folder and
overwrites nothing. docs/diagnostics.md says what each number means and when to distrust it.")]
pub(crate) struct InspectGradientsArguments {
    /// The run's folder
    pub run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Batches that are looked at
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10000))]
    pub batches: u16,
    /// The folder to write the picture into
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Folder with the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

/// Random orders of the mask's values.
const ORDERS: u16 = 10;

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct InspectedGradients {
    step: u64,
    epoch: u64,
    /// Batches of the training images, and images in each.
    pub batches: usize,
    pub batch_size: usize,
    /// Random orders.
    pub orders: usize,
    /// What the shares of variance are of; none without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// α and ρ in L = ρ L_drr + α B. The gradients are of B and of L_drr.
    base_weight: f64,
    redundancy_weight: f64,
    #[serde(flatten)]
    pub report: GradientReport,
}

pub(crate) fn inspect(arguments: &InspectGradientsArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    let files = arguments.out.as_deref().map(|out| Files::new(out, "gradients")).transpose()?;
    let run = OpenRun::open(&arguments.run, &data_places::of(arguments.data_dir.clone(), true)?)?;
    let OpenRun { config, data, learner, state, .. } = &run;
    let mut progress = Progress::new();
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let n_batches = usize::from(arguments.batches);
    let mut watch =
        |batch| progress.evaluating(&format!("gradients of batch {} of {n_batches}", batch + 1));
    let found = measure((config, learner, *state), &images, (n_batches, ORDERS), &mut watch)?;

    let has_labels = !data.train.is_empty() && data.test.len() > 1;
    let measures = match has_labels {
        true => {
            progress.evaluating("features of the test images");
            let features = features_of(learner, &data.test, config.augmentation.size)?;
            let [factors] = nuisance_factors([&data.test]);
            let labels = (&data.test.labels[..], data.test.n_classes());
            let mut measures = variance_shares(&features, labels, &factors)?;
            measures.push(("std", dimension_std(&features)?));
            measures
        }
        false => Vec::new(),
    };
    progress.evaluating("what the gradients go with");
    let key = Key::new(config.run.seed, Purpose::Gradients).view(TESTS);
    let layer = last_layer(learner);
    let layer = layer.as_ref().map(|layer| layer.name.as_str());
    let report = gradient_report(&found, layer, &measures, key);
    progress.finish();

    let State { step, epoch, .. } = *state;
    let inspected = InspectedGradients {
        step,
        epoch,
        batches: n_batches,
        batch_size: config.training.batch_size,
        orders: found.shuffled.len(),
        split: has_labels.then(|| run.split()),
        base_weight: config.objective.alpha,
        redundancy_weight: config.objective.redundancy_weight,
        report,
    };
    let written = match &files {
        Some(files) => {
            let drawing = figure(&name_of(&arguments.run), &run, &inspected);
            files.write(&drawing, &rows(&inspected.report))?
        }
        None => String::new(),
    };
    match arguments.json {
        true => print::to_stdout(&(serde_json::to_string(&inspected)? + "\n")),
        false => {
            let table = table(&protocol(config, *state), config.objective.method, &inspected);
            let gap = if written.is_empty() { "" } else { "\n" };
            print::to_stdout(&format!("{table}{gap}{written}"))
        }
    }
}

/// The shares of variance, as they are shown.
pub(super) const MEASURES: [(&str, &str); 3] = [
    ("class_share", "Class"),
    ("shared_nuisance_share", "Nuisance, views agree"),
    ("differing_nuisance_share", "Nuisance, views differ"),
];

fn figure(title: &str, run: &OpenRun, found: &InspectedGradients) -> Drawing {
    let GradientReport { base, dimensions, .. } = &found.report;
    let column = |value: &dyn Fn(&GradientRow) -> Option<f64>| -> Option<Vec<f64>> {
        dimensions.iter().map(value).collect()
    };
    let mask = column(&|row| row.mask);
    let learned = column(&|row| row.base.learned);
    let none = column(&|row| Some(row.base.none)).unwrap_or_default();
    let shuffled = column(&|row| row.base.shuffled);
    let shares: Vec<(&str, &str, Vec<f64>)> = MEASURES
        .iter()
        .filter_map(|&(measure, name)| {
            Some((measure, name, column(&|row| row.measures.get(measure).copied())?))
        })
        .collect();
    let tested = |profile: &GradientProfile, measure: &str| {
        let alignment = profile.alignments.iter().find(|found| found.measure == measure)?;
        Some((alignment.rho?, alignment.p_value?))
    };
    let relevances: Vec<GradientRelevance<'_>> = shares
        .iter()
        .map(|(measure, name, shares)| GradientRelevance {
            name,
            shares,
            none: tested(&base.none.profile, measure),
            learned: base.learned.as_ref().and_then(|found| tested(&found.profile, measure)),
        })
        .collect();
    let subtitle = format!(
        "{}; {} batches of {}",
        protocol(&run.config, run.state),
        found.batches,
        found.batch_size
    );
    gradients_figure(&GradientsFigure {
        title,
        subtitle: &subtitle,
        loss: "B",
        mask: mask.as_deref(),
        none: &none,
        learned: learned.as_deref(),
        shuffled: shuffled.as_deref(),
        relevances: &relevances,
    })
}

/// Every number of every dimension.
fn rows(report: &GradientReport) -> Csv {
    let mut head = vec!["dimension", "mask"];
    head.extend(MEASURES.map(|(measure, _)| measure));
    head.push("std");
    head.extend(["base_learned", "base_none", "base_shuffled"]);
    head.extend(["redundancy_learned", "redundancy_none", "redundancy_shuffled"]);
    head.extend(["last_layer_learned", "last_layer_none"]);
    let mut csv = Csv::new(&head);
    let text = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for row in &report.dimensions {
        let mut cells = vec![row.dimension.to_string(), text(row.mask)];
        cells.extend(MEASURES.map(|(measure, _)| text(row.measures.get(measure).copied())));
        cells.push(text(row.measures.get("std").copied()));
        let of = |gradient: Option<RowGradient>| {
            let learned = gradient.and_then(|g| g.learned);
            [learned, gradient.map(|g| g.none), gradient.and_then(|g| g.shuffled)]
        };
        let gradients = [of(Some(row.base)), of(row.redundancy), of(row.last_layer)].concat();
        // The shuffled masks have no gradient of the last layer.
        cells.extend(gradients[..8].iter().map(|&value| text(value)));
        csv.row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    csv
}
