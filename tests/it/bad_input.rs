//! What cannot be carried out gets one clear line and a documented exit code.

use std::fs;

use crate::support::{Finished, Metamask, TINY};

/// One line `error[CODE]: …` with these words, that exit code, no panic.
#[track_caller]
pub(crate) fn assert_refused(finished: &Finished, code: i32, name: &str, words: &[&str]) {
    let stderr = &finished.stderr;
    assert_eq!(finished.code, Some(code), "stderr:\n{stderr}");
    let head = format!("error[{name}]: ");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(lines.len(), 1, "one line, stderr:\n{stderr}");
    assert!(lines[0].starts_with(&head), "expected `{head}`, stderr:\n{stderr}");
    for word in words {
        assert!(lines[0].contains(word), "no `{word}` in `{}`", lines[0]);
    }
    for trace in ["panicked", "RUST_BACKTRACE", "stack backtrace", "Caused by"] {
        assert!(!stderr.contains(trace), "`{trace}` in\n{stderr}");
    }
    assert_eq!(finished.stdout, "", "stdout is for results");
}

/// `pretrain` of the tiny run with more arguments is refused, and leaves no run behind.
#[track_caller]
fn check(arguments: &[&str], code: i32, name: &str, words: &[&str]) {
    let Some(metamask) = Metamask::find() else { return };
    let mut all = metamask.tiny_run("run");
    all.extend(arguments.iter().map(|&word| word.to_owned()));
    assert_refused(&metamask.run(&all), code, name, words);
    assert!(!metamask.path("run").join("config.toml").exists(), "a refused run leaves no folder");
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    let words = ["`optimizer.learning_rat`", "`optimizer.learning_rate`"];
    check(&["--set", "optimizer.learning_rat=1"], 2, "CONFIG", &words);
}

#[test]
fn an_unknown_key_in_a_file_comes_with_its_line() {
    let Some(metamask) = Metamask::find() else { return };
    fs::write(metamask.path("a.toml"), "[mask]\nlerning_rate = 1.0\n").expect("written");
    let finished = metamask.run(&["pretrain", "--config", "a.toml"]);
    assert_refused(
        &finished,
        2,
        "CONFIG",
        &["a.toml:2", "`mask.lerning_rate`", "`mask.learning_rate`"],
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    for content in ["[training\n".as_bytes(), b"<!doctype html>", &[0xff, 0xfe, 0x00]] {
        fs::write(metamask.path("a.toml"), content).expect("written");
        let finished = metamask.run(&["pretrain", "--config", "a.toml"]);
        assert_refused(&finished, 2, "CONFIG", &["a.toml"]);
    }
}

#[test]
fn a_missing_configuration_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    let finished = metamask.run(&["pretrain", "--config", "gone.toml"]);
    assert_refused(&finished, 66, "MISSING", &["gone.toml"]);
}

#[test]
fn no_epoch_is_out_of_range() {
    check(&["--set", "training.epochs=0"], 2, "CONFIG", &["`training.epochs`", "0"]);
}

#[test]
fn a_batch_larger_than_the_data_is_refused() {
    // 160 images, of which 64 are for validation.
    let words = ["`training.batch_size`", "128", "96"];
    check(&["--set", "training.batch_size=128"], 2, "CONFIG", &words);
}

#[test]
fn a_word_in_place_of_a_number_is_refused() {
    check(&["--set", "training.epochs=many"], 2, "CONFIG", &["training.epochs"]);
}

#[test]
fn a_gpu_that_is_not_there_is_refused() {
    check(&["--device", "cuda:7"], 2, "DEVICE", &["cuda:7"]);
}

#[test]
fn an_unknown_preset_names_the_nearest_one() {
    let Some(metamask) = Metamask::find() else { return };
    let finished = metamask.run(&["pretrain", "--preset", "quikstart"]);
    assert_refused(&finished, 2, "USAGE", &["`quikstart`", "`quickstart`"]);
}

#[test]
fn an_unknown_data_set_names_the_known_ones() {
    check(&["--set", "data.dataset=cifar11"], 2, "CONFIG", &["cifar11", "cifar10"]);
}

#[test]
fn a_missing_data_folder_is_refused() {
    let arguments = ["--set", "data.dataset=fashion-mnist", "--data-dir", "gone"];
    check(&arguments, 66, "MISSING", &["gone"]);
}

#[test]
fn a_folder_without_the_data_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    fs::create_dir(metamask.path("empty")).expect("made");
    let mut arguments = metamask.tiny_run("run");
    // A set that no package of the system brings.
    let more = ["--set", "data.dataset=cifar10", "--data-dir", "empty", "--offline"];
    arguments.extend(more.map(String::from));
    assert_refused(&metamask.run(&arguments), 66, "MISSING", &["empty", "cifar10"]);
}

/// A folder with Fashion-MNIST's four names, each holding `content`.
#[track_caller]
fn check_data_files(content: &[u8], words: &[&str]) {
    let Some(metamask) = Metamask::find() else { return };
    fs::create_dir(metamask.path("data")).expect("made");
    for split in ["train", "t10k"] {
        for kind in ["images-idx3", "labels-idx1"] {
            let name = format!("data/{split}-{kind}-ubyte");
            fs::write(metamask.path(&name), content).expect("written");
        }
    }
    let mut arguments = metamask.tiny_run("run");
    let more = ["--set", "data.dataset=fashion-mnist", "--data-dir", "data"];
    arguments.extend(more.map(String::from));
    assert_refused(&metamask.run(&arguments), 65, "DATA", words);
}

#[test]
fn a_wrong_file_under_the_name_is_refused() {
    check_data_files(b"<!DOCTYPE html><title>404</title>", &["ubyte"]);
    check_data_files(b"", &["ubyte"]);
}

#[test]
fn a_truncated_file_is_refused() {
    // IDX: u8, three dimensions, 60000 x 28 x 28, of which ten bytes are there.
    let mut cut = vec![0, 0, 8, 3, 0, 0, 0xea, 0x60, 0, 0, 0, 28, 0, 0, 0, 28];
    cut.extend([0; 10]);
    check_data_files(&cut, &["ubyte"]);
    check_data_files(&cut[..7], &["ubyte"]);
}

#[test]
fn a_file_in_place_of_the_run_folder_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    fs::write(metamask.path("run"), "mine").expect("written");
    assert_refused(&metamask.run(&metamask.tiny_run("run")), 73, "OUT-DIR", &["run"]);
    assert_eq!(fs::read_to_string(metamask.path("run")).expect("still there"), "mine");
}

#[test]
fn a_folder_that_is_no_run_is_not_written_to() {
    let Some(metamask) = Metamask::find() else { return };
    fs::create_dir(metamask.path("run")).expect("made");
    fs::write(metamask.path("run").join("thesis.tex"), "mine").expect("written");
    assert_refused(&metamask.run(&metamask.tiny_run("run")), 73, "OUT-DIR", &["run"]);
}

#[test]
fn evaluating_what_is_no_run_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    assert_refused(&metamask.run(&["evaluate", "gone"]), 66, "MISSING", &["gone"]);
    fs::create_dir(metamask.path("empty")).expect("made");
    let finished = metamask.run(&["evaluate", "empty"]);
    assert_eq!(finished.code, Some(66), "{}", finished.stderr);
}

#[test]
fn a_word_nobody_knows_is_a_usage_error() {
    let Some(metamask) = Metamask::find() else { return };
    for arguments in [vec!["pretrian"], vec!["pretrain", "--epoch", "3"], vec![]] {
        let finished = metamask.run(&arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
}

#[test]
fn the_tiny_configuration_itself_is_accepted() {
    let Some(metamask) = Metamask::find() else { return };
    fs::write(metamask.path("tiny.toml"), TINY).expect("written");
    let printed = metamask.succeed(&["pretrain", "--config", "tiny.toml", "--print-config"]).stdout;
    assert!(printed.contains("train_images = 160"), "{printed}");
    assert!(!metamask.path("runs").exists(), "printing starts nothing");
}
