//! The parsers of configurations, checkpoints, logs and dumps against bytes that were
//! damaged or forged: an answer, soon, within bounded memory, never a panic.
//!
//! One test function, so that the peak of the memory is the parsers' own.

#[path = "../../../tests/injuries.rs"]
#[allow(dead_code)]
mod injuries;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use metamask_random::{Key, Purpose};
use metamask_train::{
    Code, Config, RunOptions,
    checkpoint::NamedTensors,
    observer::Silent,
    pretrain,
    untrusted::{dump_record, log_up_to, manifest_step, results, tensor_names, tensors},
};

use injuries::{mutated, tried};

const N: u32 = 10_000;
const SLOWEST: Duration = Duration::from_secs(1);
const MEMORY_MIB: u64 = 64;

const TINY: &str = "
    [data]
    train_images = 48
    validation_images = 16
    [augmentation]
    size = 8
    [encoder]
    architecture = 'conv'
    width = 2
    [contrastive_head]
    hidden = [4]
    output = 4
    [training]
    epochs = 1
    batch_size = 16
";

/// What a real run leaves: its files by name, and what the weights must look like.
fn real_files() -> anyhow::Result<(BTreeMap<&'static str, Vec<u8>>, NamedTensors)> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("run");
    let options = RunOptions { out: out.clone(), ..RunOptions::default() };
    let config = Config::read(TINY, "tiny", &[])?;
    pretrain(&config, &options, &mut Silent)?;
    let checkpoint = out.join("checkpoints/step-0000002");
    let mut files = BTreeMap::new();
    for (name, path) in [
        ("config.toml", out.join("config.toml")),
        ("metrics.jsonl", out.join("metrics.jsonl")),
        ("results.json", out.join("results.json")),
        ("MANIFEST.json", checkpoint.join("MANIFEST.json")),
        ("mask.safetensors", checkpoint.join("mask.safetensors")),
        ("model.safetensors", checkpoint.join("model.safetensors")),
    ] {
        files.insert(name, fs::read(path)?);
    }
    // The evaluation's line is never kept.
    let log = files.get_mut("metrics.jsonl").expect("read a moment ago");
    *log = log_up_to(log, 2);
    files.insert(
        "dump.json",
        br#"{"format": 1, "step": 7, "steps_per_epoch": 6, "found": "step 7: x", "version": "0",
            "kernel": "x86_64", "views_sha256": "00"}"#
            .to_vec(),
    );
    let learner = metamask_train::Learner::new(&config, candle_core::DType::F32)?;
    Ok((files, learner.like_checkpoint(16)?.model))
}

/// Whether a parser takes the bytes.
fn takes(name: &str, bytes: &[u8], like: &NamedTensors) -> bool {
    match name {
        "config.toml" => std::str::from_utf8(bytes)
            .is_ok_and(|text| Config::read(text, "config.toml", &[]).is_ok()),
        "metrics.jsonl" => {
            let kept = log_up_to(bytes, 1_000_000);
            assert!(kept.len() <= bytes.len());
            assert_eq!(log_up_to(&kept, 1_000_000), kept, "what is kept is kept again");
            kept == bytes
        }
        "results.json" => results(bytes).is_some(),
        "MANIFEST.json" => manifest_step(bytes).is_ok(),
        "mask.safetensors" => tensor_names(bytes).is_ok(),
        "model.safetensors" => tensors(bytes, like).is_ok(),
        "dump.json" => dump_record(bytes).is_ok(),
        _ => unreachable!("{name}"),
    }
}

#[test]
fn whatever_the_bytes_there_is_an_answer_soon_and_within_bounds() -> anyhow::Result<()> {
    let (files, like) = real_files()?;
    for (name, bytes) in &files {
        assert!(takes(name, bytes, &like), "{name} as it was written");
    }
    let before = peak_memory_mib();
    for (name, bytes) in &files {
        let mut n_refused = 0;
        for sample in 0..N {
            let mut stream = Key::new(5, Purpose::Test).sample(sample).stream();
            let mutated = mutated(bytes, &mut stream);
            let start = Instant::now();
            n_refused += u32::from(!takes(name, &mutated, &like));
            let duration = start.elapsed();
            assert!(duration < SLOWEST, "{name}, mutation {sample}: {duration:?}");
        }
        // A manifest seals itself; a payload's flips are the manifest's to find.
        let expected = if *name == "MANIFEST.json" { N * 99 / 100 } else { N / 10 };
        assert!(n_refused > expected, "{name}: only {n_refused} of {N} were refused");
        tried(&format!("mutations of {name}"), N as usize, N as usize);
    }
    forged(&like);
    bombs(&like);
    if let (Some(before), Some(after)) = (before, peak_memory_mib()) {
        assert!(after - before < MEMORY_MIB, "memory grew from {before} to {after} MiB");
    }
    Ok(())
}

fn file(header: &str, n_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + n_bytes, 0);
    bytes
}

/// Headers and shapes that claim what is not so.
fn forged(_: &NamedTensors) {
    let tensor = |n: usize| Tensor::zeros(n, candle_core::DType::F32, &Device::Cpu);
    let like = NamedTensors::from([("a".to_owned(), tensor(2).expect("a tensor"))]);
    let a = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let of = |text: &str, n: usize| file(&text.replace("{A}", a), n);
    let shape = |shape: &str, end: &str, n: usize| {
        of(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#), n)
    };
    let header = Code::CheckpointHeader;
    let wrong = Code::CheckpointShape;
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("nothing", vec![], header),
        ("seven bytes", vec![0; 7], header),
        ("a header of u64::MAX bytes", u64::MAX.to_le_bytes().to_vec(), header),
        ("a header of 100,000,001 bytes", 100_000_001u64.to_le_bytes().to_vec(), header),
        ("a header beyond the file", [&99u64.to_le_bytes()[..], b"{}"].concat(), header),
        ("no UTF-8", [&3u64.to_le_bytes()[..], b"{\xff}"].concat(), header),
        ("no JSON", of("{{A}", 8), header),
        ("200,000 brackets", file(&format!("{{\"a\":{}", "[".repeat(200_000)), 0), header),
        (
            "an overlap",
            of(r#"{{A},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8),
            header,
        ),
        (
            "a partial overlap",
            of(r#"{{A},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12),
            header,
        ),
        (
            "a hole",
            of(r#"{{A},"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}}"#, 20),
            header,
        ),
        ("bytes behind", of("{{A}}", 9), header),
        ("bytes missing", of("{{A}}", 7), header),
        ("a name twice", of("{{A},{A}}", 8), header),
        ("a leading blank", of(" {{A}}", 8), header),
        ("an unknown dtype", of(&format!("{{{}}}", a.replace("F32", "F99")), 8), header),
        ("a negative dimension", shape("[-2]", "8", 8), header),
        ("a shape that overflows", shape("[4294967296,4294967296,4]", "8", 8), header),
        ("zero times huge", shape("[0,18446744073709551615]", "0", 0), wrong),
        ("rank 200", shape(&format!("[2{}]", ",1".repeat(199)), "8", 8), wrong),
        ("another dtype", of(&format!("{{{}}}", a.replace("F32", "I32")), 8), wrong),
        ("another shape", shape("[1,2]", "8", 8), wrong),
        ("metadata that is no text", of(r#"{"__metadata__":{"x":1},{A}}"#, 8), header),
        ("a missing tensor", file("{}", 0), wrong),
        ("a renamed tensor", of(&format!("{{{}}}", a.replacen("\"a\"", "\"b\"", 1)), 8), wrong),
        (
            "an extra tensor",
            of(r#"{{A},"../../etc/passwd":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}}"#, 8),
            wrong,
        ),
        (
            "a NaN",
            {
                let mut bytes = of("{{A}}", 8);
                let end = bytes.len();
                bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                bytes
            },
            Code::NotFinite,
        ),
        ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), header),
        ("a page", b"<!DOCTYPE html><title>404</title>".to_vec(), header),
    ];
    assert!(tensors(&of("{{A}}", 8), &like).is_ok(), "the file that the cases forge");
    for (what, bytes, code) in &cases {
        let failure = tensors(bytes, &like).expect_err(what);
        assert_eq!(failure.code, *code, "{what}: {failure}");
        assert!(
            !failure.message.contains('\n') && failure.message.len() < 500,
            "{what}: {failure}"
        );
    }
    tried("forged headers and shapes of safetensors", cases.len(), cases.len());
}

/// Small inputs that ask for much, and large ones.
fn bombs(like: &NamedTensors) {
    let deep = |open: &str, n: usize| open.repeat(n).into_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("config.toml", deep("a = [", 1).into_iter().chain(deep("[", 200_000)).collect()),
        ("config.toml", [b"[a".to_vec(), deep(".a", 200_000), b"]".to_vec()].concat()),
        ("config.toml", deep("{a=", 100_000)),
        ("config.toml", vec![b'#'; 2 << 20]),
        ("metrics.jsonl", deep("[", 1 << 20)),
        ("metrics.jsonl", deep("{\"step\":", 200_000)),
        ("metrics.jsonl", deep("\n", 1 << 20)),
        ("results.json", deep("[", 1 << 20)),
        ("MANIFEST.json", deep("{\"files\":", 100_000)),
        ("dump.json", deep("[", 1 << 20)),
        ("mask.safetensors", file(&format!("{{{}", "\"a\":0,".repeat(100_000)), 0)),
    ];
    for (name, bytes) in &cases {
        let start = Instant::now();
        takes(name, bytes, like);
        assert!(start.elapsed() < SLOWEST, "{name}: {:?}", start.elapsed());
    }
    let what = "bombs: deep, wide or large configurations, logs and headers";
    tried(what, cases.len(), cases.len());
}

/// The most memory this process has held, where the system tells.
fn peak_memory_mib() -> Option<u64> {
    metamask_train::machine::peak_memory().map(|bytes| bytes >> 20)
}
