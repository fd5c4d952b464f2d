//! What a page says of a run: from its logs, its checkpoint, and its images.

use std::path::Path;

use candle_core::{DType, Tensor};
use metamask_data::{neighbour_sheet, png_bytes};
use metamask_eval::{
    DimensionReport, DimensionRow, Knn, PERPLEXITY, Protocol, knn_predict, neighbour_embedding,
    principal_components,
};
use metamask_random::{Key, Purpose};
use metamask_report::{
    Accuracies, Comparison, Log, MaskFigure, MaskReport, Picture, Points, RunReport, Table,
    mask_figure, mask_ranges,
};
use metamask_train::{
    Config, Failure, Learner, Observer as _, Results,
    checkpoint::{Checkpoints, State},
    config::MaskMode,
    neighbours::{Neighbours, neighbours},
    run_folder,
};

use super::ReportArguments;
use crate::{
    commands::restore_latest,
    data_preview::views_sheet,
    inspect::{
        Features, OpenRun,
        bounds_over_epochs::{self, Limits},
        dimensions,
        neighbours::{NEAREST, rows},
    },
    inspect::{name_of, protocol, values},
    mask_controls, print,
    progress::Progress,
};

/// Images that are laid out as points.
const POINTS: usize = 1500;
/// Queries of the sheet of neighbours.
const QUERIES: usize = 10;
/// Theorem 5.1 takes four passes over the images for each checkpoint: not all for a page.
const BOUNDS: Limits = Limits { images: 1000, checkpoints: 10 };
/// The draws of the evaluations are views 0 to 5 of their key.
const VIEW: u16 = 6;

/// All that can be known of a run.
///
/// # Errors
/// If there is no run. Whatever else is not there is said in the report.
pub(super) fn gather(
    run: &Path,
    arguments: &ReportArguments,
    progress: &mut Progress,
) -> anyhow::Result<RunReport> {
    let (config, config_sha256) = run_folder::read_config(run)?;
    let log = |name: &str| run_folder::read_log(&run.join(name)).map(|text| Log::of(&text));
    let mut found = RunReport {
        name: name_of(run),
        trained: protocol(&config, State::default()),
        epochs: (0, config.training.epochs as u64),
        metrics: log("metrics.jsonl")?,
        timings: log("timings.jsonl")?,
        config: config.to_annotated_toml(),
        ..RunReport::default()
    };
    let mut provenance = vec![("settings, SHA-256", config_sha256.clone())];
    match run_folder::read_results(run)? {
        Some(results) => {
            found.controls = results.mask_controls.as_ref().map(mask_controls::report);
            found.accuracies = Some(accuracies(&config, results));
        }
        None => found.missing.push("accuracies: the run is not finished".to_owned()),
    }

    let mut learner = Learner::new(&config, DType::F32)?;
    let start = values(&learner.mask.values()?)?.first().copied().unwrap_or(0.5);
    let places = arguments.places.places()?;
    let open = match arguments.logs_only {
        true => None,
        false => but_for_failures(OpenRun::open(run, &places), "images", &mut found.missing)?,
    };
    // Without its data a run still has a mask.
    let state = match &open {
        Some(open) => Some(open.state),
        None => {
            let checkpoints = Checkpoints::to_inspect(run.join("checkpoints"), config_sha256)?;
            let restored = restore_latest(&checkpoints, (run, &config), &mut learner);
            but_for_failures(restored, "mask", &mut found.missing)?
        }
    };
    if let Some(state) = state {
        found.trained = protocol(&config, state);
        found.epochs.0 = state.epoch;
        provenance.push(("checkpoint", format!("step {}, epoch {}", state.step, state.epoch)));
        if config.mask.mode == MaskMode::On {
            let learner = open.as_ref().map_or(&learner, |open| &open.learner);
            found.mask = Some(mask((&config, state), learner, start, &found)?);
        }
    }
    if let Some(open) = &open {
        provenance.push(("data, SHA-256", open.data.fingerprint()));
        look_at_images(open, &mut found, progress)?;
    }
    provenance.push(("program", format!("metamask {}", env!("CARGO_PKG_VERSION"))));
    let named = |(name, value): (&str, String)| (name.to_owned(), value);
    found.provenance = provenance.into_iter().map(named).collect();
    Ok(found)
}

/// Says what cannot be looked at, and why; an error that is nobody's fault ends the command.
fn but_for_failures<T>(
    found: anyhow::Result<T>,
    what: &str,
    missing: &mut Vec<String>,
) -> anyhow::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) => {
            let failure = error.downcast::<Failure>()?;
            missing.push(format!("{what}: {}", failure.message));
            Ok(None)
        }
    }
}

fn accuracies(config: &Config, results: Results) -> Accuracies {
    let place =
        |words: &str| results.rows.iter().position(|row| row.representation.starts_with(words));
    let with = place("trained encoder, with mask");
    let without = place("trained encoder, without mask");
    let own = if config.mask.at_test_time { with } else { without };
    let own = own.or(place("trained encoder"));
    let knn = |row: Option<usize>| results.rows[row?].knn_percent;
    let comparison = knn(own).map(|own| Comparison {
        measure: "kNN",
        own,
        untrained: knn(place("untrained encoder")),
        pixels: knn(place("raw pixels")),
        chance: results.chance_percent,
        with_and_without_mask: knn(with).zip(knn(without)),
    });
    Accuracies {
        table: print::numbers(&results),
        own,
        comparison,
        split: results.split,
        protocols: results.protocols,
    }
}

fn mask(
    (config, state): (&Config, State),
    learner: &Learner,
    start: f64,
    found: &RunReport,
) -> anyhow::Result<MaskReport> {
    let values = values(&learner.mask.values()?)?;
    let mut ranges = mask_ranges(&found.metrics);
    // The log may be ahead of the checkpoint.
    ranges.retain(|range| range.epoch <= state.epoch);
    let figure = mask_figure(&MaskFigure {
        title: &found.name,
        subtitle: &protocol(config, state),
        values: &values,
        start,
        ranges: &ranges,
    });
    Ok(MaskReport { figure, values, start })
}

fn look_at_images(
    run: &OpenRun,
    found: &mut RunReport,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let OpenRun { config, data, learner, .. } = run;
    progress.evaluating("views");
    let (png, labels) = views_sheet(config, data)?;
    let caption = format!(
        "{} images of {} (upper row), and two views of each as training draws them.",
        labels.len(),
        data.name
    );
    let label = format!("Images of {} and views of them", data.name);
    found.views = Some((Picture { png, label }, caption));

    if data.pretraining(data.pretraining_split()).is_ok_and(|images| images.len() > NEAREST + 1) {
        let near = neighbours((config, learner), data, (QUERIES, NEAREST), progress)?;
        found.neighbours = Some(neighbour_picture(&near, data));
    }
    if data.train.is_empty() || data.test.len() < 2 {
        found.missing.push("dimensions, points, confusion: there are no labelled images".into());
        return Ok(());
    }

    let Features { train, train_labels, test } = run.features(progress)?;
    let (report, _) = dimensions::measure(run, ((&train, &train_labels), &test), progress)?;
    let subtitle = format!("{}; {}", found.trained, run.images());
    let figure = dimensions::figure(&found.name, &subtitle, &report);
    found.dimensions = Some((figure, dimension_table(&report)));

    let course = bounds_over_epochs::course(run, BOUNDS, progress)?;
    if course.is_several() {
        let figure = bounds_over_epochs::figure(&found.name, &found.trained, &course);
        found.bounds = Some((figure, course.images()));
    }

    let mask = learner.feature_mask()?.filter(|_| config.mask.at_test_time);
    let seen = |h: &Tensor| match &mask {
        Some(m) => h.broadcast_mul(m),
        None => Ok(h.clone()),
    };
    let (train, test) = (seen(&train)?, seen(&test)?);
    let (labels, n_classes) = (&data.test.labels, data.train.n_classes());
    progress.evaluating("confusion of classes");
    let knn = Knn {
        k: config.evaluation.knn_k.min(train_labels.len()),
        temperature: config.evaluation.knn_temperature,
    };
    let guessed = knn_predict(&train, &train_labels, &test, knn, n_classes)?;
    let mut counts = vec![vec![0; n_classes]; n_classes];
    for (&class, guess) in labels.iter().zip(guessed) {
        counts[class as usize][guess as usize] += 1;
    }
    let how = format!("{} on {}, the run's own number", Protocol::Knn(knn), run.images());
    found.confusion = Some((how, data.test.class_names.clone(), counts));

    let key = Key::new(config.run.seed, Purpose::Evaluation).view(VIEW);
    let mut samples = key.stream().permutation(test.dim(0)? as u32);
    samples.truncate(POINTS);
    if samples.len() >= 8 {
        progress.evaluating("images as points");
        let ids = Tensor::from_slice(&samples, samples.len(), test.device())?;
        let some = test.index_select(&ids, 0)?;
        let names = [
            ("Principal components", principal_components(&some)?),
            ("t-SNE of the cosine's neighbours", neighbour_embedding(&some)?),
        ];
        let masked = if mask.is_some() { "masked features" } else { "features" };
        found.points = Some(Points {
            layouts: names.into_iter().map(|(name, points)| (name.to_owned(), points)).collect(),
            classes: samples.iter().map(|&i| labels[i as usize]).collect(),
            names: data.test.class_names.clone(),
            caption: format!(
                "{} of the {}, {masked}. Left: along the two directions of the largest variance. \
                 Right: t-SNE, perplexity {PERPLEXITY}, from the left picture: neighbours mean \
                 something there, sizes and distances of groups do not.",
                samples.len(),
                run.images()
            ),
        });
    }
    Ok(())
}

fn neighbour_picture(found: &Neighbours, data: &metamask_data::Dataset) -> (Picture, String) {
    let (rows, n_of_class) = rows(found, data);
    let png = png_bytes(&neighbour_sheet(&rows));
    let n = found.found.len();
    let judged = match found.is_one_set {
        true => String::new(),
        false => format!(
            " {n_of_class} of {} are of the query's class (blue), the others are not (orange).",
            n * NEAREST
        ),
    };
    let masked = if found.with_mask { "masked features" } else { "features" };
    let caption = format!(
        "{n} images and the {NEAREST} nearest of {} to each, by the cosine of {masked}, which \
         stands below.{judged}",
        found.n_looked_at
    );
    (Picture { png, label: "Images and their nearest neighbours".to_owned() }, caption)
}

/// Dimensions at either end of the class's share.
const SHOWN: usize = 6;

fn dimension_table(report: &DimensionReport) -> Table {
    let mut rows: Vec<&DimensionRow> = report.dimensions.iter().collect();
    rows.sort_by(|a, b| b.class_share.total_cmp(&a.class_share));
    let n = rows.len();
    let ends = rows.iter().enumerate().filter(|(i, _)| *i < SHOWN || *i + SHOWN >= n);
    let percent = |share: Option<f64>| share.map(|share| format!("{:.1}", 100.0 * share));
    type Cell<'a> = Box<dyn Fn(&DimensionRow) -> Option<String> + 'a>;
    let columns: [(&str, Cell<'_>); 7] = [
        ("dimension", Box::new(|row| Some(row.dimension.to_string()))),
        ("mask", Box::new(|row| Some(format!("{:.3}", row.mask?)))),
        ("std", Box::new(|row| Some(format!("{:.3}", row.std)))),
        ("class, %", Box::new(|row| percent(Some(row.class_share)))),
        ("nuisance, views agree, %", Box::new(|row| percent(row.shared_nuisance_share))),
        ("nuisance, views differ, %", Box::new(|row| percent(row.differing_nuisance_share))),
        ("kNN votes", Box::new(|row| Some(format!("{:+.2}", row.knn_vote_drop)))),
    ];
    let used = |(_, cell): &&(&str, Cell<'_>)| rows.iter().any(|row| cell(row).is_some());
    let columns: Vec<&(&str, Cell<'_>)> = columns.iter().filter(used).collect();
    let cells =
        |row: &DimensionRow| columns.iter().map(|(_, of)| of(row).unwrap_or_default()).collect();
    Table {
        head: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        rows: ends.map(|(_, row)| cells(row)).collect(),
        ..Table::default()
    }
}
