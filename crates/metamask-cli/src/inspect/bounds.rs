//! `metamask inspect bounds`: theorem 5.1 on a run's own test images, term by term.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use metamask_data::Images;
use metamask_eval::{Inequalities, RiskBounds, risk_bounds};
use metamask_train::{
    Config, Learner, Observer as _, WithMask, checkpoint::State, config::MaskMode, embeddings_of,
};
use serde::Serialize;

use super::{OpenRun, bounds_over_epochs};
use crate::arguments::WorkersArguments;
use crate::{commands::set_threads, data_places, print, progress::Progress};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask inspect bounds runs/RUN
  metamask inspect bounds runs/RUN --json
  metamask inspect bounds runs/RUN --over-epochs                  every checkpoint that is kept
  metamask inspect bounds runs/RUN --over-epochs --out figures    the same as a picture

Measures every term of the paper's theorem 5.1 on the embeddings of the run's test images,
with the mask and without, in batches as in training. The inequalities are shown without
their O(M^-1/2), whose constant nobody knows: a side that misses by less than that proves
nothing. docs/diagnostics.md says what each number means and when to distrust it.

A run keeps its newest two checkpoints. To see more of its epochs set `checkpoint.keep` (how
many) and `checkpoint.every_epochs` (how far apart) before it begins.")]
pub(crate) struct InspectBoundsArguments {
    /// The run's folder
    pub run: PathBuf,
    /// Measure every checkpoint that is kept, and not only the newest
    #[arg(long)]
    pub over_epochs: bool,
    /// Write bounds.svg, bounds.png and bounds.csv into the folder; overwrites nothing
    #[arg(long, value_name = "DIR", requires = "over_epochs")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Folder with the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

/// What `--json` prints of one checkpoint.
#[derive(Serialize)]
struct InspectedBounds {
    step: u64,
    epoch: u64,
    split: String,
    batch: usize,
    #[serde(flatten)]
    both: Both,
}

/// With the mask, where there is one, and without.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Both {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked: Option<Measured>,
    pub unmasked: Measured,
}

/// The terms, and the sides that they make.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub terms: RiskBounds,
    pub at_temperature: Inequalities,
    pub as_printed: Inequalities,
}

impl Both {
    /// The measured ones with their names.
    pub fn columns(&self) -> Vec<(&'static str, &Measured)> {
        match &self.masked {
            Some(masked) => vec![("masked", masked), ("no mask", &self.unmasked)],
            None => vec![("", &self.unmasked)],
        }
    }
}

/// Measures images with their classes, and says in which batches.
pub(super) fn measure(
    (config, learner): (&Config, &Learner),
    (images, labels, n_classes): (&Images, &[u32], usize),
    progress: &mut Progress,
) -> candle_core::Result<(Both, usize)> {
    let mut measure = |mask: WithMask, what: &str| -> candle_core::Result<(Measured, usize)> {
        progress.evaluating(what);
        let ([z_a, z_b], batch) = embeddings_of(config, learner, images, mask)?;
        let labels = &labels[..z_a.dim(0)?];
        let tau = config.objective.temperature;
        let terms = risk_bounds((&z_a, &z_b), labels, n_classes, tau, batch)?;
        let (at_temperature, as_printed) = (terms.at_temperature(), terms.as_printed());
        Ok((Measured { terms, at_temperature, as_printed }, batch))
    };
    let masked = match config.mask.mode {
        MaskMode::On => Some(measure(WithMask::Yes, "embeddings with the mask")?.0),
        MaskMode::Off => None,
    };
    let (unmasked, batch) = measure(WithMask::No, "embeddings without the mask")?;
    Ok((Both { masked, unmasked }, batch))
}

pub(crate) fn inspect(arguments: &InspectBoundsArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    if arguments.over_epochs {
        return bounds_over_epochs::inspect(arguments);
    }
    let run = OpenRun::open(&arguments.run, &data_places::of(arguments.data_dir.clone(), true)?)?;
    let OpenRun { config, data, learner, state, .. } = &run;
    let mut progress = Progress::new();
    let test = (&data.test.images, &data.test.labels[..], data.test.n_classes());
    let measured = measure((config, learner), test, &mut progress);
    progress.finish();
    let (both, batch) = measured?;
    let State { step, epoch, .. } = *state;
    let found = InspectedBounds { step, epoch, split: run.split(), batch, both };
    match arguments.json {
        true => print::to_stdout(&(serde_json::to_string(&found)? + "\n")),
        false => print::to_stdout(&table(&found)),
    }
}

fn table(found: &InspectedBounds) -> String {
    let columns = found.both.columns();
    let classes = found.both.unmasked.terms.classes;
    let mut text = heading(&found.both.unmasked.terms, &found.split, found.batch);
    let head: String = columns.iter().map(|(name, _)| format!("{name:>18}  ")).collect();
    if columns.len() > 1 {
        let _ = writeln!(text, "{:36}{}", "", head.trim_end());
    }
    let mut line = |name: &str, cell: &dyn Fn(&Measured) -> String| {
        let cells: String =
            columns.iter().map(|(_, found)| format!("{:>20}", cell(found))).collect();
        let line = format!("{name:<36}{cells}");
        let _ = writeln!(text, "{}", line.trim_end());
    };
    let number = |value: f64| format!("{value:.3}  ");
    line("L_contrast, over the M negatives", &|m| number(m.terms.contrastive_loss));
    line("  NT-Xent, the positive among them", &|m| number(m.terms.nt_xent));
    line("L_CE of the mean classifier", &|m| number(m.terms.cross_entropy));
    line("log(M/K)", &|m| number(m.terms.log_ratio));
    line("Phi(u|y), variance within classes", &|m| number(m.terms.variance));
    line("Sum_k sqrt Phi(|u|^k|y), theorem 5.2", &|m| number(m.terms.deviation_sum));
    for (title, sides) in [
        ("for scores cos / tau", (|m| m.at_temperature) as fn(&Measured) -> Inequalities),
        ("as printed, for |u| = 1", |m| m.as_printed),
    ] {
        line("", &|_| String::new());
        line(title, &|_| String::new());
        line("  lower side", &|m| {
            let s = sides(m);
            marked(s.lower, s.lower_is_vacuous, s.lower_holds)
        });
        line("    with 1/2 Phi, the sister's", &|m| {
            let s = sides(m);
            let vacuous = s.sister_lower <= m.terms.log_ratio;
            marked(s.sister_lower, vacuous, s.sister_lower <= s.middle)
        });
        line("  L_CE + log(M/K)", &|m| marked(sides(m).middle, false, true));
        line("  upper side", &|m| {
            let s = sides(m);
            marked(s.upper, s.upper_is_vacuous, s.upper_holds)
        });
        line("  gap", &|m| marked(sides(m).gap, false, true));
    }
    text += &legend(classes);
    if columns.len() > 1 {
        text.push_str("no mask   through the head that was trained behind the mask\n");
    }
    let _ = writeln!(text, "trained   {} epochs, {} steps", found.epoch, found.step);
    text
}

/// What is measured, and the symbols in it.
pub(super) fn heading(terms: &RiskBounds, split: &str, batch: usize) -> String {
    let RiskBounds { samples, negatives, classes, temperature, .. } = terms;
    format!(
        "theorem 5.1 on {split}, {samples} in batches of {batch}\nM = {negatives} negatives, K = \
         {classes} classes, all terms in u = z / (|z| sqrt(tau)), tau = {temperature}\n\n"
    )
}

/// A side with the mark of one that says nothing or is wrong.
pub(super) fn marked(value: f64, vacuous: bool, holds: bool) -> String {
    let mark = match (holds, vacuous) {
        (false, _) => " !",
        (true, true) => " v",
        (true, false) => "  ",
    };
    format!("{value:.3}{mark}")
}

/// What the marks mean.
pub(super) fn legend(classes: usize) -> String {
    let guess = (classes as f64).ln();
    format!(
        "\nv         vacuous: the lower side allows L_CE = 0, the upper one L_CE = ln K = {guess:.3}, a guess
!         on the wrong side of L_CE + log(M/K); O(M^-1/2) is left out of both sides\n"
    )
}
