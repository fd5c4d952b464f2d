//! The command line `metamask`: arguments in, tables out.
//!
//! Decides nothing about training. stdout is for results, stderr for progress
//! and for the one line of an error; exit statuses are [`metamask_train::Code`]'s.

#![forbid(unsafe_code)]

mod agreement;
mod arguments;
mod bench;
mod commands;
mod csv;
mod data;
mod data_arguments;
mod data_places;
mod data_preview;
mod data_stats;
mod device;
mod doctor;
mod dry_run;
mod embed;
mod evaluate;
mod export;
mod figure;
mod grid;
mod inspect;
mod mask_controls;
mod memory;
mod print;
mod progress;
mod report;
mod selftest;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use metamask_train::{Code, Failure, one_line};

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    // Before anything is allocated: big blocks then stay with the process.
    metamask_ops::keep_freed_memory();
    metamask_ops::keep_candle_on_one_thread();
    silence_guarded_panics();
    let arguments = Arguments::parse();
    let done = signals::survive_limits_of_files().and_then(|()| match arguments.command {
        Command::Pretrain(arguments) => commands::pretrain(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments).map(success),
        Command::Inspect(arguments) => inspect::inspect(&arguments).map(success),
        Command::Export(arguments) => export::run(&arguments).map(success),
        Command::Embed(arguments) => embed::run(&arguments).map(success),
        Command::Report(arguments) => report::report(&arguments).map(success),
        Command::Figure(arguments) => figure::figure(&arguments).map(success),
        Command::Presets(arguments) => commands::presets(&arguments).map(success),
        Command::Bench(arguments) => bench::run(&arguments).map(success),
        Command::Data(arguments) => data::data(&arguments).map(success),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Selftest(arguments) => selftest::selftest(&arguments),
        Command::Grid(arguments) => grid::grid(&arguments),
    });
    match done {
        Ok(status) => status,
        Err(error) => {
            let failure = failure_of(error);
            print::to_stderr(&failure.to_string());
            ExitCode::from(failure.code.exit_status())
        }
    }
}

/// An error that nobody gave a code is one of a computation, and not of the disk or the user.
fn failure_of(error: anyhow::Error) -> Failure {
    match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => Failure::new(Code::Internal, one_line(&error)),
    }
}

fn success((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// A foreign parser that gives up becomes an error of ours: its panic is not shown.
fn silence_guarded_panics() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !metamask_data::panic_is_guarded() {
            shown(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn an_error_of_a_tensor_has_a_code_of_its_own_and_one_line() {
        let a = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        let error = a.matmul(&a).expect_err("the widths differ");
        let failure = failure_of(error.into());
        assert_eq!(
            failure.to_string(),
            "error[INTERNAL]: shape mismatch in matmul, lhs: [2, 3], rhs: [2, 3]"
        );
        assert_eq!(failure.code.exit_status(), 70);
        let locked = failure_of(Failure::new(Code::Locked, "runs/a: is in use").into());
        assert_eq!(locked.code, Code::Locked);
    }
}
