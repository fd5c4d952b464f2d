//! What a crate may reach for: files, network, environment, clock, terminal.

use super::{Breach, File, Repository};

/// Something that only some crates may do, and the words it is done with.
struct Reach {
    what: &'static str,
    words: &'static [&'static str],
    /// Crates, or single files by path.
    allowed: &'static [&'static str],
}

const REACHES: [Reach; 9] = [
    Reach {
        what: "touches files",
        words: &[
            "fs::",
            "File::",
            "OpenOptions",
            ".exists()",
            ".is_file()",
            ".is_dir()",
            ".read_dir()",
            ".canonicalize()",
            "safetensors::load",
            "save_safetensors",
            "tempfile",
        ],
        allowed: &["metamask-data", "metamask-train", "metamask-report", "metamask-cli", "xtask"],
    },
    Reach {
        what: "reaches the network",
        words: &["std::net", "TcpStream", "TcpListener", "UdpSocket", "ureq", "reqwest", "hf_hub"],
        allowed: &["metamask-data", "xtask"],
    },
    Reach {
        what: "reads the environment",
        words: &[
            "env::var",
            "env::vars",
            "env::var_os",
            "env::args",
            "env::args_os",
            "env::current_dir",
        ],
        allowed: &["metamask-cli", "xtask", "crates/metamask-ops/src/kernel.rs"],
    },
    Reach {
        what: "reads the clock",
        words: &["Instant", "SystemTime", "clock_gettime"],
        allowed: &["metamask-train", "metamask-report", "metamask-cli", "xtask"],
    },
    Reach {
        what: "writes to the terminal",
        words: &["println!", "print!", "eprintln!", "eprint!", "stdout()", "stderr()"],
        allowed: &["metamask-cli", "xtask"],
    },
    Reach {
        what: "draws random numbers without a `Key`",
        words: &[
            "Tensor::rand",
            "Tensor::randn",
            "Var::rand",
            "Var::randn",
            "rand_like",
            "randn_like",
            "set_seed",
            "rand::",
            "fastrand",
            "getrandom",
        ],
        allowed: &[],
    },
    Reach {
        what: "names a hash table, whose order changes from run to run (take a `BTreeMap`)",
        words: &["HashMap", "HashSet"],
        // The safetensors crate takes a file's metadata as a `HashMap`: one entry, one order.
        allowed: &["crates/metamask-train/src/checkpoint/tensors.rs"],
    },
    Reach {
        what: "is `unsafe`",
        words: &["unsafe", "unsafe_code"],
        // The one memory map, of a file that we wrote and never change.
        allowed: &["metamask-ops", "crates/metamask-data/src/pixel_file.rs"],
    },
    Reach {
        what: "starts other programs",
        words: &["process::Command", "Command::new"],
        allowed: &["metamask-cli", "metamask-train", "xtask"],
    },
];

/// What the root of every other crate says, so that nothing in it can allow it again.
const FORBID: &str = "#![forbid(unsafe_code)]";
/// The kernels, and the one memory map.
const MAY_BE_UNSAFE: [&str; 2] = ["metamask-ops", "metamask-data"];

pub(super) fn check(repository: &Repository) -> anyhow::Result<Vec<Breach>> {
    Ok(repository.rust().flat_map(breaches_of).collect())
}

fn breaches_of(file: &File) -> Vec<Breach> {
    let Some(owner) = file.crate_name() else { return Vec::new() };
    // A file of tests is compiled for tests only; `mod tests;` leads to it.
    if file.path.ends_with("/tests.rs") || file.path.contains("/tests/") {
        return Vec::new();
    }
    let code = file.code();
    let mut breaches = Vec::new();
    let is_root = ["/src/lib.rs", "/src/main.rs"].iter().any(|end| file.path.ends_with(end));
    if is_root && !MAY_BE_UNSAFE.contains(&owner) && !file.text.lines().any(|line| line == FORBID) {
        breaches.push(Breach::new(&file.path, 1, format!("{owner} does not say `{FORBID}`")));
    }
    for reach in &REACHES {
        if reach.allowed.contains(&owner) || reach.allowed.contains(&file.path.as_str()) {
            continue;
        }
        for word in reach.words {
            for line in code.lines_with(word) {
                if file.text.lines().nth(line - 1) == Some(FORBID) {
                    continue;
                }
                let what = format!("{owner} {}: `{word}`", reach.what);
                breaches.push(Breach::new(&file.path, line, what));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::repository;
    use super::check;

    #[track_caller]
    fn check_one(path: &str, text: &str, n_breaches: usize) {
        let breaches = check(&repository(&[(path, text)])).unwrap();
        assert_eq!(breaches.len(), n_breaches, "{breaches:?}");
    }

    #[test]
    fn only_crates_that_may_touch_files_do() {
        let text = "fn f() { std::fs::read(path); }";
        check_one("crates/metamask-eval/src/knn.rs", text, 1);
        check_one("crates/metamask-train/src/checkpoint.rs", text, 0);
        check_one("crates/metamask-eval/tests/it.rs", text, 0);
        check_one("crates/metamask-eval/examples/knn.rs", text, 0);
    }

    #[test]
    fn the_kernel_choice_is_the_only_variable_below_the_command_line() {
        let text = "let word = std::env::var(NAME);";
        check_one("crates/metamask-ops/src/kernel.rs", text, 0);
        check_one("crates/metamask-ops/src/network.rs", text, 1);
    }

    #[test]
    fn unsafe_stays_in_the_kernels() {
        check_one("crates/metamask-ops/src/kernels/avx2.rs", "unsafe { f() }", 0);
        check_one("crates/metamask-optim/src/sgd.rs", "unsafe { f() }", 1);
        check_one("crates/metamask-optim/src/sgd.rs", "#![allow(unsafe_code)]", 1);
        check_one("crates/metamask-optim/src/lib.rs", "#![forbid(unsafe_code)]", 0);
        check_one("crates/metamask-optim/src/lib.rs", "mod sgd;", 1);
    }

    #[test]
    fn nobody_draws_from_a_global_generator_or_names_a_hash_table() {
        check_one("crates/metamask-train/src/a.rs", "Tensor::randn(0f32, 1., 3, &cpu)?", 1);
        check_one("crates/metamask-cli/src/a.rs", "let x: HashMap<u8, u8>;", 1);
        check_one("crates/metamask-cli/src/a.rs", "operand::f(); strand::g()", 0);
    }
}
