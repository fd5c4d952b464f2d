//! `metamask inspect bounds`: theorem 5.1 on a run's own test images, term by term.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use metamask_eval::{Inequalities, RiskBounds, risk_bounds};
use metamask_train::{Observer as _, WithMask, checkpoint::State, config::MaskMode, embeddings_of};
use serde::Serialize;

use super::OpenRun;
use crate::arguments::WorkersArguments;
use crate::{commands::set_threads, data_places, print, progress::Progress};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask inspect bounds runs/RUN
  metamask inspect bounds runs/RUN --json

Measures every term of the paper's theorem 5.1 on the embeddings of the run's test images,
with the mask and without, in batches as in training. The inequalities are shown without
their O(M^-1/2), whose constant nobody knows: a side that misses by less than that proves
nothing. docs/diagnostics.md says what each number means and when to distrust it.")]
pub(crate) struct InspectBoundsArguments {
    /// The run's folder
    pub run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Folder with the data set's files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

/// What `--json` prints.
#[derive(Serialize)]
struct InspectedBounds {
    step: u64,
    epoch: u64,
    split: String,
    batch: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    masked: Option<Measured>,
    unmasked: Measured,
}

/// The terms, and the sides that they make.
#[derive(Clone, Copy, Serialize)]
struct Measured {
    #[serde(flatten)]
    terms: RiskBounds,
    at_temperature: Inequalities,
    as_printed: Inequalities,
}

pub(crate) fn inspect(arguments: &InspectBoundsArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    let run = OpenRun::open(&arguments.run, &data_places::of(arguments.data_dir.clone(), true)?)?;
    let OpenRun { config, data, learner, state } = &run;
    let mut progress = Progress::new();
    let mut measure = |mask: WithMask, what: &str| -> candle_core::Result<(Measured, usize)> {
        progress.evaluating(what);
        let ([z_a, z_b], batch) = embeddings_of(config, learner, &data.test.images, mask)?;
        let n = z_a.dim(0)?;
        let (labels, n_classes) = (&data.test.labels[..n], data.test.n_classes());
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
    progress.finish();
    let State { step, epoch, .. } = *state;
    let split = run.split();
    let found = InspectedBounds { step, epoch, split, batch, masked, unmasked };
    match arguments.json {
        true => print::to_stdout(&(serde_json::to_string(&found)? + "\n")),
        false => print::to_stdout(&table(&found)),
    }
}

fn table(found: &InspectedBounds) -> String {
    let columns: Vec<(&str, &Measured)> = match &found.masked {
        Some(masked) => vec![("masked", masked), ("no mask", &found.unmasked)],
        None => vec![("", &found.unmasked)],
    };
    let RiskBounds { samples, negatives, classes, temperature, .. } = found.unmasked.terms;
    let mut text = format!(
        "theorem 5.1 on {}, {samples} in batches of {}\nM = {negatives} negatives, K = {classes} \
         classes, all terms in u = z / (|z| sqrt(tau)), tau = {temperature}\n\n",
        found.split, found.batch,
    );
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
        let marked = |value: f64, vacuous: bool, holds: bool| {
            let mark = match (holds, vacuous) {
                (false, _) => " !",
                (true, true) => " v",
                (true, false) => "  ",
            };
            format!("{value:.3}{mark}")
        };
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
    let guess = (classes as f64).ln();
    let _ = writeln!(
        text,
        "\nv         vacuous: the lower side allows L_CE = 0, the upper one L_CE = ln K = {guess:.3}, a guess
!         on the wrong side of L_CE + log(M/K); O(M^-1/2) is left out of both sides"
    );
    if columns.len() > 1 {
        text.push_str("no mask   through the head that was trained behind the mask\n");
    }
    let _ = writeln!(text, "trained   {} epochs, {} steps", found.epoch, found.step);
    text
}
