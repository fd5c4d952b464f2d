//! `metamask inspect`: what is inside a run, without its data.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    path::Path,
};

use candle_core::DType;
use metamask_report::{MaskFigure, MaskSummary, mask_figure, mask_ranges};
use metamask_train::{
    Code, Config, Failure, Learner,
    checkpoint::{Checkpoints, State},
    config::MaskMode,
    run_folder, shown,
};
use serde::Serialize;

use crate::{
    arguments::{InspectArguments, InspectCommand, InspectMaskArguments},
    commands::restore_latest,
    hypergradient, print,
};

pub(crate) fn inspect(arguments: &InspectArguments) -> anyhow::Result<()> {
    match &arguments.command {
        InspectCommand::Mask(arguments) => mask(arguments),
        InspectCommand::Hypergradient(arguments) => hypergradient::inspect(arguments),
    }
}

/// What `--json` prints of a mask.
#[derive(Serialize)]
struct InspectedMask {
    step: u64,
    epoch: u64,
    start: f64,
    #[serde(flatten)]
    summary: MaskSummary,
}

fn mask(arguments: &InspectMaskArguments) -> anyhow::Result<()> {
    let run = &arguments.run;
    let (config, config_sha256) = run_folder::read_config(run)?;
    if config.mask.mode == MaskMode::Off {
        let message = "has no mask (`mask.mode` is off), expected a run with one";
        return Err(Failure::at(Code::Usage, run, message).into());
    }
    let checkpoints = Checkpoints::to_inspect(run.join("checkpoints"), config_sha256)?;
    let mut learner = Learner::new(&config, DType::F32)?;
    let start = values(&learner)?[0];
    let State { step, epoch, .. } = restore_latest(&checkpoints, (run, &config), &mut learner)?;
    let values = values(&learner)?;

    if let Some(out) = &arguments.out {
        let mut ranges = mask_ranges(&metrics(run)?);
        // The log may be ahead of the checkpoint.
        ranges.retain(|range| range.epoch <= epoch);
        let figure = mask_figure(&MaskFigure {
            title: &name_of(run),
            subtitle: &protocol(&config, step, epoch),
            values: &values,
            start,
            ranges: &ranges,
        });
        write_new(out, &figure)?;
    }
    let summary = MaskSummary::of(&values).expect("a representation has dimensions");
    match arguments.json {
        true => {
            let object = InspectedMask { step, epoch, start, summary };
            print::to_stdout(&(serde_json::to_string(&object)? + "\n"))
        }
        false => print::to_stdout(&print::mask_table(&summary, (step, epoch), start)),
    }
}

/// m, one value for each dimension.
fn values(learner: &Learner) -> candle_core::Result<Vec<f64>> {
    learner.mask.values()?.to_dtype(DType::F64)?.to_vec1::<f64>()
}

fn metrics(run: &Path) -> Result<String, Failure> {
    let path = run.join("metrics.jsonl");
    fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Failure::at(Code::Missing, &path, "is not there, expected the run's log")
        }
        _ => Failure::io(&path, "read", &error),
    })
}

/// The last part of a run's path, also when it is given as `.`.
fn name_of(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_owned());
    whole.file_name().map_or_else(|| shown(run), |name| name.to_string_lossy().into_owned())
}

/// What was trained, in a line.
fn protocol(config: &Config, step: u64, epoch: u64) -> String {
    let redundancy = match config.objective.redundancy_weight > 0.0 {
        true => " + L_drr",
        false => "",
    };
    format!(
        "{}{redundancy} + MetaMask on {}, {}, seed {}, epoch {epoch} of {}, step {step}",
        config.objective.method.title(),
        config.data.dataset,
        config.encoder.title(),
        config.run.seed,
        config.training.epochs,
    )
}

/// Writes a file that is not there yet: whole, or not at all.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Failure::at(Code::OutDir, path, "exists already, expected a new file")
                .help("choose another name with --out")
        }
        _ => Failure::at(Code::OutDir, path, format!("cannot be created: {error}")),
    })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        // Ours, and of no use to anybody.
        let _ = fs::remove_file(path);
        Failure::io(path, "write", &error)
    })
}
