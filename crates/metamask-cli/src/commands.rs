//! What each command does.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use metamask_train::{
    Code, Config, Failure, Interrupted, Learner, RunOptions,
    checkpoint::{Checkpoints, State},
    forecast::forecast,
    init, load_data,
    presets::{self, Preset},
    run_folder, shown,
};

use crate::{
    arguments::{PresetsArguments, PretrainArguments},
    dry_run, print,
    progress::Progress,
    signals::Signals,
};

pub(crate) fn pretrain(arguments: &PretrainArguments) -> anyhow::Result<ExitCode> {
    let (name, config) = configuration(arguments)?;
    let places = arguments.places.places()?;
    let config = init::resolve(&config, &places)?;
    if arguments.print_config {
        print::to_stdout(&config.to_annotated_toml())?;
        return Ok(ExitCode::SUCCESS);
    }
    let device = arguments.device.open()?;
    set_threads(arguments.workers.threads)?;
    let default = || {
        let hash = config.short_hash();
        PathBuf::from("runs").join(format!("{name}-s{}-{hash}", config.run.seed))
    };
    let out = arguments.out.clone().unwrap_or_else(default);
    if arguments.dry_run {
        let forecast = forecast(&config, &load_data(&config, &places)?)?;
        print::to_stdout(&dry_run::table(&config, &out, &forecast))?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.resume && !run_folder::is_run(&out) {
        let message = format!("note: {}: no run to resume, starting it", shown(&out));
        print::to_stderr(&message);
    }
    let (resume, dump_on_error) = (arguments.resume, arguments.dump_on_error);
    let options = RunOptions { out, resume, places, dump_on_error, device };
    let signals = Signals::listen()?;
    let mut progress = Progress::with_signals(signals.clone());
    let outcome = metamask_train::pretrain(&config, &options, &mut progress);
    progress.finish();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let interrupted = error.downcast::<Interrupted>()?;
            print::to_stderr(&format!("{interrupted}\n  help: go on with --resume"));
            return Ok(ExitCode::from(signals.exit_status()));
        }
    };
    if outcome.was_finished {
        let message = format!(
            "note: {}: already finished at step {}",
            shown(&options.out),
            outcome.results.step
        );
        print::to_stderr(&message);
    }
    print::to_stdout(&print::run_report(&config, &name, &options.out, &outcome.results))?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration that the arguments name, and its name.
fn configuration(arguments: &PretrainArguments) -> anyhow::Result<(String, Config)> {
    let mut overrides = arguments.overrides.clone();
    overrides.extend(arguments.seed.map(|seed| format!("run.seed={seed}")));
    let on_collapse = arguments.on_collapse.as_ref();
    overrides.extend(on_collapse.map(|word| format!("guard.on_collapse={word}")));
    if let Some(init) = &arguments.init {
        // A string of JSON is one of TOML.
        overrides.push(format!("encoder.init={}", serde_json::to_string(init)?));
        let allow = serde_json::to_string(&arguments.init_allow)?;
        overrides.push(format!("encoder.init_allow={allow}"));
    }
    let named = arguments.config.is_some() || arguments.preset.is_some();
    if let (Some(out), true, false) = (&arguments.out, arguments.resume, named) {
        // The run knows its own settings.
        if run_folder::is_run(out) {
            let text = run_folder::read_config(out)?.0.to_annotated_toml();
            return Ok(("run".to_owned(), Config::read(&text, &shown(out), &overrides)?));
        }
    }
    let Some(path) = &arguments.config else {
        let name = arguments.preset.as_deref().unwrap_or(presets::DEFAULT);
        return Ok((name.to_owned(), Preset::named(name)?.config(&overrides)?));
    };
    let stem = path.file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy());
    Ok((stem.into_owned(), read_config_file(path, &overrides)?))
}

/// A configuration from its file.
pub(crate) fn read_config_file(path: &Path, overrides: &[String]) -> Result<Config, Failure> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::at(Code::Missing, path, "is not there, expected a configuration file")
        }
        _ => Failure::io(path, "read", &error),
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::at(Code::Config, path, "is no UTF-8 text, expected TOML"))?;
    Config::read(&text, &shown(path), overrides)
}

pub(crate) fn set_threads(threads: Option<u16>) -> anyhow::Result<()> {
    if let Some(threads) = threads {
        metamask_ops::set_threads(usize::from(threads))?;
    }
    Ok(())
}

/// Takes a learner to the newest checkpoint of a run that verifies.
pub(crate) fn restore_latest(
    checkpoints: &Checkpoints,
    (run, config): (&Path, &Config),
    learner: &mut Learner,
) -> anyhow::Result<State> {
    let like = learner.like_checkpoint(config.training.batch_size)?;
    let Some(latest) = checkpoints.latest(&like)? else {
        let message = "has no checkpoint yet";
        return Err(Failure::at(Code::CheckpointMissing, run, message).into());
    };
    for failure in &latest.rejected {
        print::to_stderr(&format!("warning: {}", failure.message));
    }
    learner.restore(&latest.checkpoint)?;
    Ok(latest.checkpoint.state)
}

pub(crate) fn presets(arguments: &PresetsArguments) -> anyhow::Result<()> {
    if let Some(name) = &arguments.name {
        return print::to_stdout(&Preset::named(name)?.text);
    }
    let quickstart = Preset::named(presets::DEFAULT)?;
    let mut text = format!("{}  {}\n\n", quickstart.name, quickstart.title());
    text += "the cells of the paper's table, and of one that runs anywhere, are named\n\n";
    text += "  DATA-METHOD[-metamask]-RECIPE        cifar10-byol-metamask-authors\n\n";
    let mut line = |what: &str, words: &[&str]| {
        text += &format!("{what:8}{}\n", words.join(", "));
    };
    line("DATA", &presets::DATA);
    line("METHOD", &presets::METHODS);
    line("RECIPE", &presets::RECIPES);
    print::to_stdout(&text)
}
