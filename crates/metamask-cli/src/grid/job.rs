//! One job, or one measurement, in a process of its own.

use std::{
    fs,
    io::{self, Write as _},
    process::ExitCode,
};

use metamask_train::{
    Code, Config, Failure, Interrupted, RunOptions,
    grid::{
        plan,
        record::{ProcessLine, machine},
    },
    machine, shown,
};

use super::arguments::JobArguments;
use crate::{commands::set_threads, data_places, print, progress::Progress, signals::Signals};

/// Trains and evaluates, or goes on with it, until it is done or stdin ends.
pub(super) fn job(arguments: &JobArguments) -> anyhow::Result<ExitCode> {
    set_threads(arguments.threads)?;
    let config = config(arguments)?;
    let signals = Signals::listen()?;
    signals.end_with_stdin();
    let places = data_places::of(arguments.data_dir.clone(), true)?;
    let (out, dump_on_error) = (arguments.out.clone(), false);
    let options = RunOptions { out, resume: true, places, dump_on_error, ..RunOptions::default() };
    let mut progress = Progress::with_signals(signals.clone());
    let outcome = metamask_train::pretrain(&config, &options, &mut progress);
    progress.finish();
    let step = match outcome {
        Ok(outcome) => {
            remember(arguments, outcome.results.step)?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => error.downcast::<Interrupted>()?.step,
    };
    remember(arguments, step)?;
    Ok(ExitCode::from(signals.exit_status()))
}

/// Adds what this process took to the run's clocks.
fn remember(arguments: &JobArguments, step: u64) -> anyhow::Result<()> {
    let line = ProcessLine {
        kind: "process".to_owned(),
        step,
        peak_mib: machine::peak_mib(),
        threads: metamask_ops::threads(),
        jobs: arguments.beside,
        machine: machine(),
    };
    let path = arguments.out.join("timings.jsonl");
    let mut text = serde_json::to_vec(&line)?;
    text.push(b'\n');
    let file = fs::OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(&text));
    written.map_err(|error| Failure::io(&path, "write", &error).into())
}

/// Measures a configuration in an empty folder and prints what was found.
pub(super) fn measure(arguments: &JobArguments) -> anyhow::Result<()> {
    set_threads(arguments.threads)?;
    std::thread::spawn(|| {
        // Nobody waits for the measurement any more.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(Code::Internal.exit_status().into());
    });
    let config = config(arguments)?;
    let places = data_places::of(arguments.data_dir.clone(), true)?;
    let mut measured = plan::measure(&config, &arguments.out, &places)?;
    measured.peak_mib = machine::peak_mib();
    print::to_stdout(&(serde_json::to_string(&measured)? + "\n"))
}

fn config(arguments: &JobArguments) -> anyhow::Result<Config> {
    let path = &arguments.config;
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::at(Code::Missing, path, "is not there, expected a configuration file")
        }
        _ => Failure::io(path, "read", &error),
    })?;
    Ok(Config::read(&text, &shown(path), &[])?)
}
