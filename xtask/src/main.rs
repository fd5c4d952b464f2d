//! Automation of this repository: `cargo xtask <command>`.
//!
//! Builds and spawns programs and reads files; knows no crate of the
//! workspace, so that it compiles in seconds and never breaks with them.

#![forbid(unsafe_code)]

mod arguments;
mod bench;
mod bench_meta;
mod ci;
mod cuda_toolchain;
mod faults;
mod fuzz;
mod golden;
mod peers;
mod reproduce_figure;
mod reproduce_table;
mod shell;
mod studies;
mod test;
mod tidy;

use std::process::ExitCode;

use arguments::Arguments;

/// A command: its name, its line in the overview, its help and what it does.
struct Command {
    name: &'static str,
    about: &'static str,
    help: &'static str,
    run: fn(Arguments) -> anyhow::Result<()>,
}

const COMMANDS: [Command; 13] = [
    Command {
        name: "test",
        about: "build the command line and run every test with it",
        help: test::HELP,
        run: test::run,
    },
    Command {
        name: "ci",
        about: "everything that must hold before a change lands",
        help: ci::HELP,
        run: ci::run,
    },
    Command {
        name: "tidy",
        about: "check the invariants that ARCHITECTURE.md states",
        help: tidy::HELP,
        run: tidy::run,
    },
    Command {
        name: "faults",
        about: "try every fault, and write what was survived",
        help: faults::HELP,
        run: faults::run,
    },
    Command {
        name: "fuzz",
        about: "run libFuzzer on every parser, and write how far it came",
        help: fuzz::HELP,
        run: fuzz::run,
    },
    Command {
        name: "golden",
        about: "write or check the fixtures that PyTorch makes",
        help: golden::HELP,
        run: golden::run,
    },
    Command {
        name: "bench",
        about: "time a training step of ours beside PyTorch's",
        help: bench::HELP,
        run: bench::run,
    },
    Command {
        name: "bench-meta",
        about: "time every form of the meta step, beside PyTorch's",
        help: bench_meta::HELP,
        run: bench_meta::run,
    },
    Command {
        name: "reproduce-table",
        about: "run the paper's table, at one of three budgets",
        help: reproduce_table::HELP,
        run: reproduce_table::run,
    },
    Command {
        name: "reproduce-figure",
        about: "train and draw one of the paper's figures",
        help: reproduce_figure::HELP,
        run: reproduce_figure::run,
    },
    Command {
        name: "confounder-study",
        about: "does the mask find the confounders? the runs and their tables",
        help: studies::CONFOUNDERS_HELP,
        run: studies::run_confounders,
    },
    Command {
        name: "claims",
        about: "the runs behind docs/claims.md and docs/knobs.md, and their tables",
        help: studies::CLAIMS_HELP,
        run: studies::run_claims,
    },
    Command {
        name: "cuda-toolchain",
        about: "a CUDA compiler where there is no GPU, and whether the feature builds",
        help: cuda_toolchain::HELP,
        run: cuda_toolchain::run,
    },
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();

    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        if matches!(name.as_str(), "" | "help" | "-h" | "--help") {
            print!("{}", overview());
            return ExitCode::SUCCESS;
        }
        eprint!("error: unknown command `{name}`\n\n{}", overview());
        return ExitCode::from(2);
    };
    if rest.iter().any(|word| word == "-h" || word == "--help") {
        print!("{}", command.help);
        return ExitCode::SUCCESS;
    }
    match (command.run)(Arguments::new(rest)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cargo xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn overview() -> String {
    let mut text = String::from("Usage: cargo xtask <command> [options]\n\nCommands:\n");
    for command in &COMMANDS {
        text += &format!("  {:<16} {}\n", command.name, command.about);
    }
    text + "\n`cargo xtask <command> --help` says more.\n"
}

#[cfg(test)]
mod tests {
    use super::COMMANDS;

    #[test]
    fn every_help_text_shows_how_to_call_its_command() {
        for command in &COMMANDS {
            let call = format!("Usage: cargo xtask {}", command.name);
            assert!(command.help.starts_with(&call), "{}", command.name);
            assert!(command.help.ends_with('\n'), "{}", command.name);
        }
    }
}
