//! `metamask inspect hypergradient`: the forms of the meta step on a run's own state.
//!
//! Each form is measured in a process of its own, so that its peak of memory is its
//! own and no form warms the buffers of the next; the parent puts them beside each
//! other.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::Context as _;
use candle_core::DType;
use metamask_train::{
    Code, Config, Failure, Learner,
    checkpoint::{Checkpoint, Checkpoints, Identity},
    compare::{Agreement, Found, all_forms, measure, second_order_share},
    config::{MaskMode, Meta},
    load_data, machine, run_folder,
};
use serde::{Deserialize, Serialize};

use crate::{arguments::InspectHypergradientArguments, print, progress::Spinner};

/// What a child process prints.
#[derive(Serialize, Deserialize)]
struct Measured {
    #[serde(flatten)]
    found: Found,
    peak_mib: Option<f64>,
}

/// A line of the table.
#[derive(Serialize)]
struct Line {
    virtual_step: String,
    hypergradient: String,
    activations: String,
    /// With `exact` of the same virtual step.
    #[serde(flatten)]
    agreement: Agreement,
    /// ‖G − d‖ / ‖d‖
    second_order_share: f64,
    /// Of a whole iteration, median.
    duration_s: f64,
    /// As a multiple of the plain step's.
    duration_ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_ratio: Option<f64>,
}

pub(crate) fn inspect(arguments: &InspectHypergradientArguments) -> anyhow::Result<()> {
    crate::commands::set_threads(arguments.workers.threads)?;
    match &arguments.only {
        Some(form) => child(arguments, form),
        None => parent(arguments),
    }
}

/// Measures one form (`plain`, or its index among [`all_forms`]) and prints it.
fn child(arguments: &InspectHypergradientArguments, form: &str) -> anyhow::Result<()> {
    let form: Option<Meta> = match form {
        "plain" => None,
        index => {
            let forms = all_forms();
            let index: usize = index.parse().context("expected an index")?;
            Some(*forms.get(index).context("there is no such form")?)
        }
    };
    let run = &arguments.run;
    let (config, config_sha256) = run_folder::read_config(run)?;
    let data = load_data(&config, &crate::data_places::of(arguments.data_dir.clone(), true)?)?;
    let identity = Identity { config_sha256, data_sha256: data.fingerprint() };
    let keep = config.checkpoint.keep;
    let checkpoints = Checkpoints { folder: run.join("checkpoints"), identity, keep };
    let checkpoint = latest(&checkpoints, run, &config)?;
    let repeats = arguments.repeats.into();
    let found = measure(&config, &data, &checkpoint, form, repeats, forget_peak)?;
    print::to_stdout(
        &(serde_json::to_string(&Measured { found, peak_mib: machine::peak_mib() })? + "\n"),
    )
}

fn latest(checkpoints: &Checkpoints, run: &Path, config: &Config) -> anyhow::Result<Checkpoint> {
    let like = Learner::new(config, DType::F32)?.like_checkpoint(config.training.batch_size)?;
    match checkpoints.latest(&like)? {
        Some(latest) => Ok(latest.checkpoint),
        None => Err(Failure::at(Code::CheckpointMissing, run, "has no checkpoint yet").into()),
    }
}

fn parent(arguments: &InspectHypergradientArguments) -> anyhow::Result<()> {
    let run = &arguments.run;
    let (config, config_sha256) = run_folder::read_config(run)?;
    if config.mask.mode == MaskMode::Off {
        let message = "has no mask (`mask.mode` is off), expected a run with one";
        return Err(Failure::at(Code::Usage, run, message).into());
    }
    // Whatever is wrong with the run is said once, here.
    latest(&Checkpoints::to_inspect(run.join("checkpoints"), config_sha256)?, run, &config)?;

    let forms = all_forms();
    let spinner = Spinner::new(forms.len() as u64 + 1);
    let plain = in_child(arguments, "plain")?;
    spinner.advance();
    let mut measured = Vec::new();
    for index in 0..forms.len() {
        measured.push(in_child(arguments, &index.to_string())?);
        spinner.advance();
    }
    spinner.finish();

    let mut lines = Vec::new();
    for (form, found) in forms.iter().zip(&measured) {
        let reference = forms.iter().zip(&measured).find(|(other, _)| {
            other.virtual_step == form.virtual_step && word(&other.hypergradient) == "exact"
        });
        let (_, reference) = reference.expect("every virtual step has an exact form");
        lines.push(Line {
            virtual_step: word(&form.virtual_step),
            hypergradient: word(&form.hypergradient),
            activations: word(&form.activations),
            agreement: Agreement::of(&found.found.total, &reference.found.total),
            second_order_share: second_order_share(&found.found),
            duration_s: median(&found.found.durations_s),
            duration_ratio: median(&found.found.durations_s) / median(&plain.found.durations_s),
            peak_mib: found.peak_mib,
            peak_ratio: found.peak_mib.zip(plain.peak_mib).map(|(peak, plain)| peak / plain),
        });
    }
    if arguments.json {
        let object = serde_json::json!({
            "plain": { "duration_s": median(&plain.found.durations_s), "peak_mib": plain.peak_mib },
            "forms": lines,
        });
        return print::to_stdout(&(object.to_string() + "\n"));
    }
    print::to_stdout(&table(&lines, &plain))
}

/// A setting as it stands in a configuration.
fn word(setting: &impl Serialize) -> String {
    let value = serde_json::to_value(setting).expect("a setting is a word");
    value.as_str().expect("a setting is a word").to_owned()
}

fn in_child(arguments: &InspectHypergradientArguments, form: &str) -> anyhow::Result<Measured> {
    let program = std::env::current_exe().context("failed to find this program")?;
    let mut command = Command::new(program);
    command.args(["inspect", "hypergradient", "--only", form]);
    command.args(["--repeats", &arguments.repeats.to_string()]);
    if let Some(threads) = arguments.workers.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    if let Some(data_dir) = &arguments.data_dir {
        command.arg("--data-dir").arg(data_dir);
    }
    let output = command.arg(&arguments.run).output().context("failed to start this program")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let message = message.lines().next().unwrap_or("ended without a word").to_owned();
        // The child's own line, its code included.
        let message = message.split_once("]: ").map_or(message.as_str(), |(_, text)| text);
        return Err(Failure::new(Code::Internal, message).into());
    }
    serde_json::from_slice(&output.stdout).context("failed to read what a measurement printed")
}

fn median(durations: &[f64]) -> f64 {
    let mut durations = durations.to_vec();
    durations.sort_by(f64::total_cmp);
    durations.get(durations.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Lets the peak of the resident memory begin anew, at what is in use.
fn forget_peak() {
    metamask_ops::give_back_freed_memory();
    // Linux only; elsewhere there is no peak to read either.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn table(lines: &[Line], plain: &Measured) -> String {
    let mut text = format!(
        "{:15}{:20}{:>9}{:>11}{:>10}{:>10}{:>9}{:>10}{:>9}\n",
        "virtual step",
        "hypergradient",
        "cosine",
        "rel. error",
        "2nd order",
        "time, s",
        "x plain",
        "peak, MiB",
        "x plain"
    );
    let number = |x: Option<f64>, digits: usize| {
        x.map_or_else(|| "-".to_owned(), |x| format!("{x:.digits$}"))
    };
    for line in lines {
        let hypergradient = match line.activations.as_str() {
            "recompute" => format!("{}, recomputed", line.hypergradient),
            _ => line.hypergradient.clone(),
        };
        let _ = writeln!(
            text,
            "{:15}{:20}{:>9.4}{:>11.2e}{:>10.3}{:>10.3}{:>9.2}{:>10}{:>9}",
            line.virtual_step,
            hypergradient,
            line.agreement.cosine,
            line.agreement.relative_error,
            line.second_order_share,
            line.duration_s,
            line.duration_ratio,
            number(line.peak_mib, 0),
            number(line.peak_ratio, 2),
        );
    }
    let _ = writeln!(
        text,
        "{:15}{:20}{:>9}{:>11}{:>10}{:>10.3}{:>9}{:>10}{:>9}",
        "plain",
        "",
        "",
        "",
        "",
        median(&plain.found.durations_s),
        "1.00",
        number(plain.peak_mib, 0),
        "1.00"
    );
    text + "\ncosine and relative error of G: against `exact` of the same virtual step\n\
            2nd order: |G - d| / |d|, the second-order term beside the direct one\n\
            time and peak: of a whole iteration, each form in a process of its own; the peak\n            is the process's, images included\n"
}
