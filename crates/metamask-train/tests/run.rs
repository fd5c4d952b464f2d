//! Whole runs in this process: what they leave, what must not matter, what stops them.

use std::{fs, path::Path};

use metamask_train::{
    Code, Config, Failure, Observer, Outcome, RunOptions,
    observer::{EpochReport, Silent},
    pretrain,
};

/// Two epochs of three steps, below a second.
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
    [redundancy_head]
    hidden = [16]
    output = 16
    [training]
    epochs = 2
    batch_size = 16
";

fn config(overrides: &[&str]) -> anyhow::Result<Config> {
    let overrides: Vec<String> = overrides.iter().map(|&set| set.to_owned()).collect();
    Ok(Config::read(TINY, "tiny", &overrides)?)
}

fn run(out: &Path, overrides: &[&str], observer: &mut dyn Observer) -> anyhow::Result<Outcome> {
    let options = RunOptions { out: out.to_owned(), resume: true, data_dir: None };
    pretrain(&config(overrides)?, &options, observer)
}

/// A file of the last checkpoint.
fn last(run: &Path, file: &str) -> anyhow::Result<Vec<u8>> {
    Ok(fs::read(run.join("checkpoints/step-0000006").join(file))?)
}

#[test]
fn meta_passes_leave_no_trace_so_a_mask_of_ones_is_the_plain_method() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let model = |name: &str, overrides: &[&str]| -> anyhow::Result<Vec<u8>> {
        let out = folder.path().join(name);
        run(&out, overrides, &mut Silent)?;
        last(&out, "model.safetensors")
    };
    for drr in ["objective.redundancy_weight=0", "objective.redundancy_weight=0.01"] {
        let plain = model(&format!("plain-{drr}"), &[drr, "mask.mode=off"])?;
        for step in ["shared", "after-regular"] {
            for hypergradient in ["exact", "finite-difference"] {
                let (virtual_step, hypergradient) = (
                    format!("meta.virtual_step={step}"),
                    format!("meta.hypergradient={hypergradient}"),
                );
                let still = [drr, "mask.form=free", "mask.learning_rate=0"];
                let overrides = [&still[..], &[&virtual_step, &hypergradient]].concat();
                let name = format!("{drr}-{virtual_step}-{hypergradient}");
                assert!(plain == model(&name, &overrides)?, "{overrides:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn at_rate_zero_no_weight_moves() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let still = ["optimizer.learning_rate=0", "mask.learning_rate=0"];
    let weights = |name: &str, epochs: &str| -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let out = folder.path().join(name);
        run(&out, &[&still[..], &[epochs]].concat(), &mut Silent)?;
        let step = if epochs.ends_with('1') { 3 } else { 6 };
        let file = format!("checkpoints/step-{step:07}/model.safetensors");
        let bytes = fs::read(out.join(file))?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
        let mut weights: Vec<_> = tensors
            .iter()
            .filter(|(name, _)| !name.contains("running"))
            .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
            .collect();
        weights.sort();
        Ok(weights)
    };
    assert!(weights("one", "training.epochs=1")? == weights("two", "training.epochs=2")?);
    Ok(())
}

#[test]
fn a_run_interrupted_after_an_epoch_ends_with_the_same_bits() -> anyhow::Result<()> {
    struct Stop;
    impl Observer for Stop {
        fn epoch(&mut self, report: &EpochReport, _images_per_s: f64) {
            assert!(report.epoch == 1, "interrupted before the second epoch");
        }
        fn step(&mut self, report: &metamask_train::observer::StepReport) {
            // Stands for a kill: unwinds out of the run in the middle of its second epoch.
            if report.step == 5 {
                std::panic::resume_unwind(Box::new("killed"));
            }
        }
    }
    let folder = tempfile::tempdir()?;
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let overrides = ["objective.redundancy_weight=0.01", "log.every_steps=1"];
    let expected = run(&whole, &overrides, &mut Silent)?.results;

    let killed = std::panic::catch_unwind(|| run(&cut, &overrides, &mut Stop).map(|_| ()));
    assert!(killed.is_err());
    let resumed = run(&cut, &overrides, &mut Silent)?;
    assert!(!resumed.was_finished);
    assert_eq!(resumed.results, expected);
    for file in ["model", "optim", "mask"].map(|name| format!("{name}.safetensors")) {
        assert!(last(&whole, &file)? == last(&cut, &file)?, "{file}");
    }
    assert_eq!(
        fs::read_to_string(whole.join("metrics.jsonl"))?,
        fs::read_to_string(cut.join("metrics.jsonl"))?
    );
    assert!(run(&cut, &overrides, &mut Silent)?.was_finished);
    Ok(())
}

#[test]
fn a_number_that_is_lost_stops_the_run_and_reaches_no_checkpoint() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("run");
    let error = run(&out, &["optimizer.learning_rate=1e30"], &mut Silent).expect_err("it diverges");
    let failure = error.downcast::<Failure>()?;
    assert_eq!(failure.code, Code::NotFinite, "{failure}");
    assert!(failure.message.starts_with("step "), "{failure}");
    let checkpoints = out.join("checkpoints");
    assert!(!checkpoints.exists() || fs::read_dir(checkpoints)?.count() == 0);
    Ok(())
}

#[test]
fn a_checkpoint_has_pytorch_s_names_and_layouts() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("run");
    run(&out, &["objective.redundancy_weight=0.01"], &mut Silent)?;
    let shape = |file: &str, name: &str| -> anyhow::Result<Vec<usize>> {
        let bytes = last(&out, file)?;
        Ok(safetensors::SafeTensors::deserialize(&bytes)?.tensor(name)?.shape().to_vec())
    };
    for (name, expected) in [
        ("encoder.conv1.weight", &[2, 3, 3, 3][..]),
        ("encoder.layer2.0.downsample.0.weight", &[4, 2, 1, 1]),
        ("encoder.layer4.1.bn2.running_var", &[16]),
        ("contrastive_head.0.weight", &[16, 16]),
        ("contrastive_head.4.running_mean", &[8]),
        ("redundancy_head.3.bias", &[16]),
    ] {
        assert_eq!(shape("model.safetensors", name)?, expected, "{name}");
        if !name.contains("running") {
            assert_eq!(shape("optim.safetensors", name)?, expected, "velocity of {name}");
        }
    }
    assert_eq!(shape("mask.safetensors", "mask.logits")?, [16]);
    Ok(())
}
