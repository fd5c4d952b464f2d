//! `metamask doctor`: a configuration before hours are spent on it, a run that is there,
//! or a step that failed.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use candle_core::DType;
use metamask_data::Dataset;
use metamask_train::{
    Code, Config, Failure, Learner,
    advice::{self, Finding, Level},
    checkpoint::{Checkpoints, Identity},
    dump::{self, Replay},
    finite::{Part, Stage},
    forecast::{Forecast, forecast},
    init, load_data, machine,
    presets::Preset,
    run_folder, shown,
};

use crate::{
    arguments::DoctorArguments,
    commands::{self, set_threads},
    data_places::bytes,
    dry_run, print,
};

pub(crate) fn doctor(arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    set_threads(arguments.workers.threads)?;
    let target = Path::new(&arguments.target);
    if dump::is_dump(target) {
        return of_dump(target, arguments.json).map(|()| ExitCode::SUCCESS);
    }
    let run = run_folder::is_run(target).then_some(target);
    let config = match (run, target.exists()) {
        (Some(run), _) => {
            let text = run_folder::read_config(run)?.0.to_annotated_toml();
            Config::read(&text, &shown(run), &arguments.overrides)?
        }
        (None, true) if target.is_dir() => {
            let message = "holds neither a run nor the dump of a step";
            return Err(Failure::at(Code::Missing, target, message)
                .help("name a configuration file, a preset, a run's folder or a dump's")
                .into());
        }
        (None, true) => commands::read_config_file(target, &arguments.overrides)?,
        (None, false) => Preset::named(&arguments.target)?.config(&arguments.overrides)?,
    };
    let places = arguments.places.places()?;
    let config = init::resolve(&config, &places)?;

    let mut found = Found::default();
    match load_data(&config, &places) {
        Err(error) => found.failed("data", error.downcast::<Failure>()?),
        Ok(data) => {
            of_data(&config, &data, &mut found)?;
            if let Some(run) = run {
                of_checkpoints(run, &config, &data, &mut found)?;
            }
            let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
            let (n, side) = (images.len(), images.images().height());
            found.findings.extend(advice::of(&config, n, side));
            let forecast = forecast(&config, &data)?;
            let out = run.unwrap_or(Path::new("."));
            of_forecast(&forecast, out, &mut found);
        }
    }
    match arguments.json {
        true => print::to_stdout(&(serde_json::to_string(&found.findings)? + "\n"))?,
        false => print::to_stdout(&table(&found.findings))?,
    }
    Ok(found.status.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// What was found so far, and the exit status of the first that makes a run impossible.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    status: Option<u8>,
}

impl Found {
    fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn failed(&mut self, topic: &'static str, failure: Failure) {
        self.status.get_or_insert(failure.code.exit_status());
        let message = format!("[{}] {}", failure.code.name(), failure.message);
        let help = failure.help.unwrap_or_else(|| "see docs/errors.md".to_owned());
        self.add(Finding::new(topic, Level::Error, message, help));
    }
}

fn of_data(config: &Config, data: &Dataset, found: &mut Found) -> anyhow::Result<()> {
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let message = format!(
        "{}: {} images to train on, SHA-256 {}",
        config.data.dataset,
        images.len(),
        &data.fingerprint()[..16]
    );
    found.add(Finding::ok("data", message));
    for note in &data.notes {
        found.add(Finding::new("data", Level::Note, note.clone(), "see `metamask data stats`"));
    }
    Ok(())
}

/// Whether a run's checkpoints hold, and are of these data.
fn of_checkpoints(
    run: &Path,
    config: &Config,
    data: &Dataset,
    found: &mut Found,
) -> anyhow::Result<()> {
    let (_, config_sha256) = run_folder::read_config(run)?;
    let identity = Identity { config_sha256, data_sha256: data.fingerprint() };
    let folder = run.join("checkpoints");
    let checkpoints = Checkpoints { folder, identity, keep: config.checkpoint.keep };
    let learner = Learner::new(config, DType::F32)?;
    match checkpoints.latest(&learner.like_checkpoint(config.training.batch_size)?) {
        Err(failure) => found.failed("checkpoint", failure),
        Ok(None) => found.add(Finding::new(
            "checkpoint",
            Level::Note,
            "none yet",
            "--resume starts the run at its beginning",
        )),
        Ok(Some(latest)) => {
            for failure in &latest.rejected {
                let help = "the one before is used";
                found.add(Finding::new(
                    "checkpoint",
                    Level::Warning,
                    failure.message.clone(),
                    help,
                ));
            }
            let step = latest.checkpoint.state.step;
            let message =
                format!("step {step}, {}: every byte is as it was written", shown(&latest.path));
            found.add(Finding::ok("checkpoint", message));
        }
    }
    Ok(())
}

fn of_forecast(forecast: &Forecast, out: &Path, found: &mut Found) {
    let time = forecast.training_s + forecast.evaluation_s;
    found.add(Finding::ok("time", format!("about {} on this machine", dry_run::duration(time))));
    let mut compare = |topic: &'static str, needs: Option<u64>, has: Option<u64>, help: &str| {
        let Some(needs) = needs else { return };
        let message = format!("needs about {}", bytes(needs));
        found.add(match has {
            None => Finding::ok(topic, message),
            Some(has) if has < needs => {
                let message = format!("{message}, {} are available", bytes(has));
                Finding::new(topic, Level::Warning, message, help)
            }
            Some(has) => Finding::ok(topic, format!("{message}, {} are available", bytes(has))),
        });
    };
    let help = "take a smaller batch, or --set meta.activations=recompute";
    compare("memory", forecast.memory_bytes, machine::available_memory(), help);
    let help = "free some space, or choose another disk with --out";
    compare("disk", Some(forecast.disk_bytes), machine::free_disk(out), help);
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { topic, level, message, help } in findings {
        let _ = writeln!(text, "{:9}{topic:13}{message}", level.word());
        if let Some(help) = help {
            let _ = writeln!(text, "{:22}{help}", "");
        }
    }
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let _ = writeln!(
        text,
        "\n{}",
        match (errors, warnings) {
            (0, 0) => "nothing stands against this run".to_owned(),
            (0, n) =>
                format!("it can be run; {n} thing{} to think about", if n == 1 { "" } else { "s" }),
            (n, _) => format!("it cannot be run: {n} error{}", if n == 1 { "" } else { "s" }),
        }
    );
    text
}

/// Takes a dumped step again and says where its number was lost.
fn of_dump(path: &Path, json: bool) -> anyhow::Result<()> {
    let Replay { record, parts } = dump::replay(path)?;
    let lost = parts.as_ref().ok().and_then(|parts| parts.iter().find(|part| part.bad > 0));
    if json {
        let object = serde_json::json!({
            "step": record.step,
            "run": record.found,
            "replay": match (&parts, lost) {
                (Err(error), _) => error.clone(),
                (_, Some(part)) => part.to_string(),
                (_, None) => "every number is finite".to_owned(),
            },
            "first": lost.map(|part| &part.name),
        });
        return print::to_stdout(&(object.to_string() + "\n"));
    }
    let mut text = format!("step {} of the run, taken again\n\n", record.step);
    match &parts {
        Err(error) => {
            let _ = writeln!(text, "it cannot be taken: {error}");
        }
        Ok(parts) => text += &stages(parts),
    }
    let _ = writeln!(text, "\nthe run said   {}", record.found);
    let _ = writeln!(
        text,
        "first lost     {}",
        match (lost, &parts) {
            (Some(part), _) => part.to_string(),
            (None, Err(_)) => "unknown".to_owned(),
            (None, Ok(_)) => format!(
                "nothing: here every number is finite. The run was on {}, version {}; \
                 test that machine's memory",
                record.kernel, record.version
            ),
        }
    );
    print::to_stdout(&text)
}

/// A line for each stage of the step.
fn stages(parts: &[Part]) -> String {
    let mut text = String::new();
    for stage in Stage::ALL {
        let of_stage: Vec<&Part> = parts.iter().filter(|part| part.stage == stage).collect();
        if of_stage.is_empty() {
            continue;
        }
        let bad: Vec<&&Part> = of_stage.iter().filter(|part| part.bad > 0).collect();
        let verdict = match &bad[..] {
            [] => "finite".to_owned(),
            [first, ..] => format!("{} not finite, first {}", bad.len(), first.name),
        };
        let _ = writeln!(text, "{:22}{:>4} tensors   {verdict}", stage.title(), of_stage.len());
    }
    text
}
