//! Theorem 5.1 over training: every checkpoint that a run keeps, as table, JSON and picture.

use std::fmt::Write as _;

use candle_core::DType;
use metamask_data::Images;
use metamask_eval::{Inequalities, RiskBounds};
use metamask_report::{BoundsFigure, BoundsPoint, Drawing, bounds_figure};
use metamask_train::{
    Code, Failure, Learner, Observer as _,
    checkpoint::{Checkpoint, State},
};
use serde::Serialize;

use super::{
    OpenRun,
    bounds::{Both, InspectBoundsArguments, Measured, heading, legend, marked, measure},
    name_of, protocol,
};
use crate::{csv::Csv, data_places, figure::Files, print, progress::Progress};

/// What the theorem says over the checkpoints of a run, the oldest first.
#[derive(Serialize)]
pub(crate) struct Course {
    split: String,
    batch: usize,
    checkpoints: Vec<AtCheckpoint>,
}

#[derive(Serialize)]
struct AtCheckpoint {
    step: u64,
    /// Whole epochs done.
    epoch: u64,
    /// The same with the part of the epoch that has begun.
    epochs: f64,
    #[serde(flatten)]
    both: Both,
}

/// How much is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Test images at most, every so many-th of them.
    pub images: usize,
    /// Checkpoints at most, evenly over training, the newest among them.
    pub checkpoints: usize,
}

impl Limits {
    pub const NONE: Self = Self { images: usize::MAX, checkpoints: usize::MAX };
}

pub(super) fn inspect(arguments: &InspectBoundsArguments) -> anyhow::Result<()> {
    let files = arguments.out.as_deref().map(|out| Files::new(out, "bounds")).transpose()?;
    let run = OpenRun::open(&arguments.run, &data_places::of(arguments.data_dir.clone(), true)?)?;
    let mut progress = Progress::new();
    let course = course(&run, Limits::NONE, &mut progress);
    progress.finish();
    let course = course?;
    if let [only] = &course.checkpoints[..] {
        let message = format!("keeps one checkpoint, of step {}, expected two or more", only.step);
        return Err(Failure::at(Code::CheckpointMissing, &arguments.run, message)
            .help(
                "set `checkpoint.keep` (how many) and `checkpoint.every_epochs` (how far apart) \
                 before the run begins; without --over-epochs one is enough",
            )
            .into());
    }
    let mut written = String::new();
    if let Some(files) = files {
        let drawing = figure(&name_of(&arguments.run), &protocol(&run.config, run.state), &course);
        written = files.write(&drawing, &csv(&course))?;
    }
    if arguments.json {
        return print::to_stdout(&(serde_json::to_string(&course)? + "\n"));
    }
    let mut text = table(&course);
    if (course.checkpoints.len() as u64) < run.state.epoch {
        let _ = writeln!(
            text,
            "kept      {} checkpoints of {} epochs; `checkpoint.keep` keeps more of a new run",
            course.checkpoints.len(),
            run.state.epoch,
        );
    }
    print::to_stdout(&(text + &written))
}

/// Measures the checkpoints of a run. One that is damaged is told and passed over.
pub(crate) fn course(
    run: &OpenRun,
    limits: Limits,
    progress: &mut Progress,
) -> anyhow::Result<Course> {
    let OpenRun { config, data, checkpoints, .. } = run;
    let steps_per_epoch = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let steps_per_epoch = (steps_per_epoch.len() / config.training.batch_size).max(1);
    let (images, labels) = thinned(&data.test.images, &data.test.labels, limits.images)?;
    let split = match images.len() == data.test.len() {
        true => run.split(),
        false => format!("{}: {} of {}", data.name, images.len(), run.images()),
    };
    let mut learner = Learner::new(config, DType::F32)?;
    let like = learner.like_checkpoint(config.training.batch_size)?;
    let mut course = Course { split, batch: 0, checkpoints: Vec::new() };
    for step in evenly(&checkpoints.steps()?, limits.checkpoints) {
        progress.evaluating(&format!("checkpoint of step {step}"));
        let Checkpoint { state, .. } = match checkpoints.at(step, &like) {
            Ok(checkpoint) => {
                learner.restore(&checkpoint)?;
                checkpoint
            }
            // Damaged, or taken away by a run that goes on.
            Err(failure) if failure.code == Code::CheckpointHash => {
                print::to_stderr(&format!("warning: {}", failure.message));
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        let State { step, epoch, .. } = state;
        let test = (&images, &labels[..], data.test.n_classes());
        let (both, batch) = measure((config, &learner), test, progress)?;
        course.batch = batch;
        let epochs = step as f64 / steps_per_epoch as f64;
        course.checkpoints.push(AtCheckpoint { step, epoch, epochs, both });
    }
    Ok(course)
}

/// At most so many steps, evenly from the first to the last.
fn evenly(steps: &[u64], most: usize) -> Vec<u64> {
    let n = steps.len();
    match n <= most {
        true => steps.to_vec(),
        false => (1..=most).map(|i| steps[(i * n).div_ceil(most) - 1]).collect(),
    }
}

/// Every so many-th image, so that at most `most` are left: sets may be sorted by class.
fn thinned(images: &Images, labels: &[u32], most: usize) -> anyhow::Result<(Images, Vec<u32>)> {
    let every = images.len().div_ceil(most).max(1);
    if every == 1 {
        return Ok((images.clone(), labels.to_vec()));
    }
    let kept = || (0..images.len()).step_by(every);
    let bytes: Vec<u8> = kept().flat_map(|i| images.image(i).iter().copied()).collect();
    let images = Images::new(bytes, images.height(), images.width())?;
    Ok((images, kept().map(|i| labels[i]).collect()))
}

impl Course {
    /// Whether there is anything to compare.
    pub fn is_several(&self) -> bool {
        self.checkpoints.len() > 1
    }

    /// What was looked at, in words.
    pub fn images(&self) -> String {
        format!("{}, in batches of {}", self.split, self.batch)
    }

    /// Each representation's measurements.
    fn columns(&self) -> Vec<(&'static str, Vec<(&AtCheckpoint, &Measured)>)> {
        let mut columns: Vec<(&str, Vec<(&AtCheckpoint, &Measured)>)> = Vec::new();
        for at in &self.checkpoints {
            for (i, (name, measured)) in at.both.columns().into_iter().enumerate() {
                if columns.len() == i {
                    columns.push((name, Vec::new()));
                }
                columns[i].1.push((at, measured));
            }
        }
        columns
    }
}

/// The inequalities for scores cos / tau: as printed they are ones for |u| = 1.
pub(crate) fn figure(title: &str, subtitle: &str, course: &Course) -> Drawing {
    let point = |(at, measured): &(&AtCheckpoint, &Measured)| {
        let (terms, sides) = (&measured.terms, &measured.at_temperature);
        BoundsPoint {
            epoch: at.epochs,
            lower: sides.lower,
            sister_lower: sides.sister_lower,
            middle: sides.middle,
            upper: sides.upper,
            perfect: terms.log_ratio,
            guess: terms.log_ratio + (terms.classes as f64).ln(),
            variance: terms.variance,
            deviation_sum: terms.deviation_sum,
        }
    };
    let columns: Vec<(&str, Vec<BoundsPoint>)> = course
        .columns()
        .into_iter()
        .map(|(name, column)| {
            let name = match name {
                "" => "no mask",
                "masked" => "with the mask",
                _ => "without the mask",
            };
            (name, column.iter().map(point).collect())
        })
        .collect();
    bounds_figure(&BoundsFigure { title, subtitle, columns: &columns })
}

fn table(course: &Course) -> String {
    let Some(last) = course.checkpoints.last() else { return String::new() };
    let mut text = heading(&last.both.unmasked.terms, &course.split, course.batch);
    text += "for scores cos / tau\n";
    for (name, column) in course.columns() {
        let _ = writeln!(
            text,
            "\n{:>6}{:>9}{:>14}{:>14}{:>18}{:>14}{:>16}{:>10}  {name}",
            "epoch",
            "step",
            "lower side",
            "sister's",
            "L_CE + log(M/K)",
            "upper side",
            "Sum sqrt Phi_k",
            "Phi"
        );
        for (at, measured) in column {
            let (terms, sides) = (&measured.terms, &measured.at_temperature);
            let sister_is_vacuous = sides.sister_lower <= terms.log_ratio;
            let _ = writeln!(
                text,
                "{:>6}{:>9}{:>14}{:>14}{:>18.3}{:>14}{:>16.3}{:>10.3}",
                format!("{:.1}", at.epochs).trim_end_matches(".0"),
                at.step,
                marked(sides.lower, sides.lower_is_vacuous, sides.lower_holds),
                marked(sides.sister_lower, sister_is_vacuous, sides.sister_lower <= sides.middle),
                sides.middle,
                marked(sides.upper, sides.upper_is_vacuous, sides.upper_holds),
                terms.deviation_sum,
                terms.variance,
            );
        }
    }
    text += &legend(last.both.unmasked.terms.classes);
    if last.both.masked.is_some() {
        text.push_str("no mask   through the head that was trained behind the mask\n");
    }
    text
}

/// Every number, both forms of the inequalities.
fn csv(course: &Course) -> Csv {
    let mut csv = Csv::new(&[
        "step",
        "epochs",
        "mask",
        "contrastive_loss",
        "nt_xent",
        "cross_entropy",
        "log_ratio",
        "variance",
        "deviation_sum",
        "form",
        "lower",
        "sister_lower",
        "middle",
        "upper",
        "gap",
        "lower_is_vacuous",
        "upper_is_vacuous",
        "lower_holds",
        "upper_holds",
    ]);
    for (name, column) in course.columns() {
        let mask = if name == "masked" { "with" } else { "without" };
        for (at, Measured { terms, at_temperature, as_printed }) in column {
            for (form, sides) in [("at-temperature", at_temperature), ("as-printed", as_printed)] {
                let cells: Vec<String> = [at.step.to_string(), at.epochs.to_string(), mask.into()]
                    .into_iter()
                    .chain(terms_of(terms).map(|x| x.to_string()))
                    .chain([form.to_owned()])
                    .chain(sides_of(sides))
                    .collect();
                csv.row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
    }
    csv
}

fn terms_of(terms: &RiskBounds) -> [f64; 6] {
    [
        terms.contrastive_loss,
        terms.nt_xent,
        terms.cross_entropy,
        terms.log_ratio,
        terms.variance,
        terms.deviation_sum,
    ]
}

fn sides_of(sides: &Inequalities) -> impl Iterator<Item = String> {
    let numbers = [sides.lower, sides.sister_lower, sides.middle, sides.upper, sides.gap];
    let words =
        [sides.lower_is_vacuous, sides.upper_is_vacuous, sides.lower_holds, sides.upper_holds];
    numbers.map(|x| x.to_string()).into_iter().chain(words.map(|word| word.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_taken_evenly_and_the_newest_always() {
        let steps: Vec<u64> = (1..=10).map(|i| 10 * i).collect();
        assert_eq!(evenly(&steps, 10), steps);
        assert_eq!(evenly(&steps, 5), [20, 40, 60, 80, 100]);
        assert_eq!(evenly(&steps, 3), [40, 70, 100]);
        assert!(evenly(&[], 3).is_empty());
    }

    #[test]
    fn images_are_thinned_with_their_labels() -> anyhow::Result<()> {
        // Images of one pixel that hold their number, with the class as the label.
        let bytes: Vec<u8> = (0..10).flat_map(|i| [i; 3]).collect();
        let (images, labels) = (Images::new(bytes, 1, 1)?, (0..10).collect::<Vec<u32>>());
        let (some, of_some) = thinned(&images, &labels, 4)?;
        assert_eq!(of_some, [0, 3, 6, 9]);
        assert!((0..4).all(|i| some.image(i) == [of_some[i] as u8; 3]));
        assert_eq!(thinned(&images, &labels, 10)?.1, labels);
        Ok(())
    }
}
