//! `metamask inspect mask`: where the mask's values lie. Needs no data.

use std::{fs, io::ErrorKind, path::Path};

use candle_core::DType;
use metamask_report::{Log, MaskFigure, MaskSummary, mask_figure, mask_ranges};
use metamask_train::{
    Code, Failure, Learner,
    checkpoint::{Checkpoints, State},
    config::MaskMode,
    run_folder, write_new,
};
use serde::Serialize;

use super::{name_of, protocol, values};
use crate::{arguments::InspectMaskArguments, commands::restore_latest, print};

/// What `--json` prints of a mask.
#[derive(Serialize)]
struct InspectedMask {
    step: u64,
    epoch: u64,
    start: f64,
    #[serde(flatten)]
    summary: MaskSummary,
}

pub(crate) fn inspect(arguments: &InspectMaskArguments) -> anyhow::Result<()> {
    let run = &arguments.run;
    let (config, config_sha256) = run_folder::read_config(run)?;
    if config.mask.mode == MaskMode::Off {
        let message = "has no mask (`mask.mode` is off), expected a run with one";
        return Err(Failure::at(Code::Usage, run, message).into());
    }
    let checkpoints = Checkpoints::to_inspect(run.join("checkpoints"), config_sha256)?;
    let mut learner = Learner::new(&config, DType::F32)?;
    let start = values(&learner.mask.values()?)?[0];
    let state = restore_latest(&checkpoints, (run, &config), &mut learner)?;
    let State { step, epoch, .. } = state;
    let values = values(&learner.mask.values()?)?;

    if let Some(out) = &arguments.out {
        let mut ranges = mask_ranges(&Log::of(&metrics(run)?));
        // The log may be ahead of the checkpoint.
        ranges.retain(|range| range.epoch <= epoch);
        let figure = mask_figure(&MaskFigure {
            title: &name_of(run),
            subtitle: &protocol(&config, state),
            values: &values,
            start,
            ranges: &ranges,
        });
        write_new(out, figure.standalone().as_bytes())?;
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

fn metrics(run: &Path) -> Result<String, Failure> {
    let path = run.join("metrics.jsonl");
    fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Failure::at(Code::Missing, &path, "is not there, expected the run's log")
        }
        _ => Failure::io(&path, "read", &error),
    })
}
