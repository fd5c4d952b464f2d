//! A step that failed is kept as it was before it, and fails in the same place again.

use std::{fs, path::Path};

use metamask_train::{
    Code, Config, Failure, RunOptions,
    dump::{is_dump, replay},
    observer::Silent,
    pretrain,
};

const TINY: &str = "
    [data]
    train_images = 64
    validation_images = 16
    [augmentation]
    size = 16
    [encoder]
    width = 2
    [contrastive_head]
    hidden = [16]
    output = 8
    [training]
    epochs = 3
    batch_size = 16
";

fn failing(out: &Path, overrides: &[&str]) -> anyhow::Result<Failure> {
    let overrides: Vec<String> = overrides.iter().map(|&set| set.to_owned()).collect();
    let config = Config::read(TINY, "tiny", &overrides)?;
    let options = RunOptions { out: out.to_owned(), dump_on_error: true, ..RunOptions::default() };
    let error = pretrain(&config, &options, &mut Silent).expect_err("it loses a number");
    error.downcast::<Failure>()
}

/// The only folder in `dumps`.
fn dump_of(out: &Path) -> anyhow::Result<std::path::PathBuf> {
    let dumps: Vec<_> = fs::read_dir(out.join("dumps"))?.collect::<Result<_, _>>()?;
    let [dump] = &dumps[..] else { panic!("{dumps:?}") };
    Ok(dump.path())
}

/// After an epoch of warm-up at rate 0 the weights overflow: steps before are sound.
const DIVERGES: [&str; 3] = [
    "optimizer.learning_rate=3e30",
    "optimizer.schedule=warmup-cosine",
    "optimizer.warmup_epochs=1",
];

#[test]
fn a_replayed_dump_loses_the_number_in_the_same_tensor() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (i, more) in [
        &[][..],
        &["meta.virtual_step=lookahead"],
        &["objective.method=nnclr", "queue.size=20", "optimizer.rule=adam", "mask.mode=off"],
        &["objective.method=byol", "meta.virtual_step=lookahead"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(i.to_string());
        let failure = failing(&out, &[&DIVERGES[..], more].concat())?;
        assert_eq!(failure.code, Code::NotFinite, "{failure}");
        let dump = dump_of(&out)?;
        assert!(is_dump(&dump) && !is_dump(&out));
        let kept = failure.kept.as_deref().unwrap_or_default();
        assert!(kept.contains(&format!("the step, in {}", dump.display())), "{failure}");

        let again = replay(&dump)?;
        assert!(again.record.step > 3, "sound steps came before: {failure}");
        assert_eq!(again.record.found, failure.message);
        let parts = again.parts.expect("the step can be taken");
        let lost = parts.iter().find(|part| part.bad > 0).expect("the number is lost again");
        let expected = format!("step {}: {lost}", again.record.step);
        assert_eq!(failure.message, expected);
    }
    Ok(())
}

#[test]
fn a_damaged_dump_is_refused() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("run");
    failing(&out, &DIVERGES)?;
    let dump = dump_of(&out)?;
    let check = |file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, code: Code, words: &str| {
        let path = dump.join(file);
        let whole = fs::read(&path).expect("a file of the dump");
        fs::write(&path, change(whole.clone())).expect("written");
        let failure = replay(&dump).expect_err(words).downcast::<Failure>().expect("a failure");
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.contains(words), "{failure}");
        fs::write(&path, whole).expect("written");
    };
    let text = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").replace(from, to).into_bytes()
    };
    let flip = |mut bytes: Vec<u8>| {
        *bytes.last_mut().expect("not empty") ^= 1;
        bytes
    };
    check("views.safetensors", &flip, Code::CheckpointHash, "has SHA-256");
    check("dump.json", &text("{", "["), Code::CheckpointHeader, "is malformed");
    check(
        "dump.json",
        &text("\"format\": 1", "\"format\": 9"),
        Code::CheckpointVersion,
        "format 9",
    );
    check(
        "dump.json",
        &text("\"step\": ", "\"step\": 1"),
        Code::CheckpointShape,
        "its state is after step",
    );
    check("dump.json", &|_| vec![b' '; 2 << 20], Code::CheckpointHeader, "is larger than");
    check(
        "config.toml",
        &text("width = 2", "width = 4"),
        Code::CheckpointShape,
        "another configuration",
    );
    replay(&dump)?;
    Ok(())
}

#[test]
fn without_the_flag_nothing_is_written_and_the_help_names_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("run");
    let overrides: Vec<String> = DIVERGES.iter().map(|&set| set.to_owned()).collect();
    let options = RunOptions { out: out.clone(), ..RunOptions::default() };
    let error = pretrain(&Config::read(TINY, "tiny", &overrides)?, &options, &mut Silent);
    let failure = error.expect_err("it loses a number").downcast::<Failure>()?;
    assert!(
        failure.help.as_deref().is_some_and(|help| help.contains("--dump-on-error")),
        "{failure}"
    );
    assert!(!out.join("dumps").exists());
    Ok(())
}
