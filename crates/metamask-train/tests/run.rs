//! Whole runs in this process: what they leave, what must not matter, what stops them.

use std::{fs, path::Path};

use metamask_train::{
    Code, Config, Failure, Interrupted, Observer, Outcome, RunOptions,
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
    let options = RunOptions { out: out.to_owned(), resume: true, ..RunOptions::default() };
    pretrain(&config(overrides)?, &options, observer)
}

/// A file of the last checkpoint.
fn last(run: &Path, file: &str) -> anyhow::Result<Vec<u8>> {
    Ok(fs::read(run.join("checkpoints/step-0000006").join(file))?)
}

/// The methods with what each needs at this size.
const METHODS: [&[&str]; 6] = [
    &["objective.method=simclr"],
    &["objective.method=barlow-twins"],
    &["objective.method=byol", "predictor.hidden=[12]"],
    &["objective.method=dcl"],
    &["objective.method=hcl", "objective.beta_annealing=down"],
    &["objective.method=nnclr", "predictor.hidden=[12]", "queue.size=20"],
];

/// Weights, running statistics, target and queue, and the optimiser's buffers, are
/// bit-unchanged by meta passes: with a mask of ones that stays they are the plain method's.
#[test]
fn meta_passes_leave_no_trace_so_a_mask_of_ones_is_the_plain_method() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut n_runs = 0;
    let mut state = |overrides: &[&str]| -> anyhow::Result<Vec<Vec<u8>>> {
        n_runs += 1;
        let out = folder.path().join(n_runs.to_string());
        run(&out, overrides, &mut Silent)?;
        let checkpoint = out.join("checkpoints/step-0000003");
        let mut optim = NamedBytes::read(&fs::read(checkpoint.join("optim.safetensors"))?)?;
        optim.0.remove("mask.logits"); // the mask's own buffer
        Ok(vec![fs::read(checkpoint.join("model.safetensors"))?, format!("{optim:?}").into_bytes()])
    };
    let still = ["mask.form=free", "mask.learning_rate=0", "training.epochs=1"];
    for method in METHODS {
        let (drr, hypergradients): (&[&str], &[&str]) = match method[0] {
            "objective.method=simclr" => (
                &["objective.redundancy_weight=0", "objective.redundancy_weight=0.01"],
                &["exact", "finite-difference", "first-order"],
            ),
            "objective.method=barlow-twins" => (&["objective.redundancy_weight=0"], &["exact"]),
            _ => (&["objective.redundancy_weight=0.01"], &["exact"]),
        };
        for drr in drr {
            let base = [method, &[drr, "training.epochs=1"]].concat();
            let plain = state(&[&base[..], &["mask.mode=off"]].concat())?;
            for step in ["shared", "after-regular", "lookahead"] {
                for hypergradient in hypergradients {
                    let (step, hypergradient) = (
                        format!("meta.virtual_step={step}"),
                        format!("meta.hypergradient={hypergradient}"),
                    );
                    let meta = [&base[..], &still, &[&step, &hypergradient]].concat();
                    let masked = state(&meta)?;
                    assert!(plain == masked, "{meta:?}");
                }
            }
        }
    }
    Ok(())
}

/// A safetensors file as names and bytes.
#[derive(Debug)]
struct NamedBytes(std::collections::BTreeMap<String, Vec<u8>>);

impl NamedBytes {
    fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let file = safetensors::SafeTensors::deserialize(bytes)?;
        Ok(Self(file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()))
    }
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

/// Ends the run in the middle of its second epoch, as a kill would.
struct Kill;

impl Observer for Kill {
    fn epoch(&mut self, report: &EpochReport, _images_per_s: f64) {
        assert!(report.epoch == 1, "interrupted before the second epoch");
    }
    fn step(&mut self, report: &metamask_train::observer::StepReport) {
        if report.step == 5 {
            std::panic::resume_unwind(Box::new("killed"));
        }
    }
}

fn check_interrupted(overrides: &[&str]) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let overrides = [overrides, &["log.every_steps=1"]].concat();
    let expected = run(&whole, &overrides, &mut Silent)?.results;

    let killed = std::panic::catch_unwind(|| run(&cut, &overrides, &mut Kill).map(|_| ()));
    assert!(killed.is_err(), "{overrides:?}");
    let resumed = run(&cut, &overrides, &mut Silent)?;
    assert!(!resumed.was_finished);
    assert_eq!(resumed.results, expected, "{overrides:?}");
    for file in ["model", "optim", "mask", "departure"].map(|name| format!("{name}.safetensors")) {
        assert!(last(&whole, &file)? == last(&cut, &file)?, "{file}: {overrides:?}");
    }
    assert_eq!(
        fs::read_to_string(whole.join("metrics.jsonl"))?,
        fs::read_to_string(cut.join("metrics.jsonl"))?
    );
    assert!(run(&cut, &overrides, &mut Silent)?.was_finished);
    Ok(())
}

#[test]
fn a_run_interrupted_after_an_epoch_ends_with_the_same_bits() -> anyhow::Result<()> {
    check_interrupted(&["objective.redundancy_weight=0.01"])
}

#[test]
fn so_does_every_method_with_a_lookahead_pending() -> anyhow::Result<()> {
    for method in METHODS {
        for hypergradient in ["exact", "finite-difference"] {
            let hypergradient = format!("meta.hypergradient={hypergradient}");
            let lookahead = ["meta.virtual_step=lookahead", &hypergradient];
            check_interrupted(&[method, &lookahead].concat())?;
        }
    }
    let lookahead = ["meta.virtual_step=lookahead", "meta.activations=recompute"];
    check_interrupted(&[&lookahead[..], &["objective.redundancy_weight=0.01"]].concat())?;
    // Epochs of three steps: the mask moves in steps 2, 4, 6; none is pending at the checkpoint.
    check_interrupted(&[&lookahead[..], &["meta.every=2"]].concat())?;
    check_interrupted(&[&lookahead[..], &["meta.every=4", "optimizer.nesterov=true"]].concat())
}

/// Asks the run to stop after some step.
struct StopAfter {
    step: u64,
    asked: bool,
}

impl Observer for StopAfter {
    fn step(&mut self, report: &metamask_train::observer::StepReport) {
        self.asked = report.step >= self.step;
    }
    fn is_interrupted(&self) -> bool {
        self.asked
    }
}

#[test]
fn a_run_asked_to_stop_after_any_step_has_saved_it_and_ends_with_the_same_bits()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let overrides = [
        "objective.method=nnclr",
        "objective.redundancy_weight=0.01",
        "queue.size=20",
        "meta.virtual_step=lookahead",
        "log.every_steps=1",
    ];
    let whole = folder.path().join("whole");
    let expected = run(&whole, &overrides, &mut Silent)?.results;
    for step in 1..=6 {
        let out = folder.path().join(step.to_string());
        let stopped = run(&out, &overrides, &mut StopAfter { step, asked: false });
        let interrupted = stopped.expect_err("it was asked to stop").downcast::<Interrupted>()?;
        assert_eq!(interrupted.step, step);
        let resumed = run(&out, &overrides, &mut Silent)?;
        assert_eq!(resumed.results, expected, "stopped after step {step}");
        for file in ["model", "optim", "mask", "departure"] {
            let file = format!("{file}.safetensors");
            assert!(last(&whole, &file)? == last(&out, &file)?, "{file}, step {step}");
        }
        assert_eq!(
            fs::read_to_string(whole.join("metrics.jsonl"))?,
            fs::read_to_string(out.join("metrics.jsonl"))?,
            "stopped after step {step}"
        );
    }
    Ok(())
}

#[test]
fn so_does_every_optimiser_with_every_schedule() -> anyhow::Result<()> {
    for optimizer in [
        ["optimizer.rule=lars", "optimizer.schedule=cosine", "mask.rule=adam"],
        ["optimizer.rule=adam", "optimizer.schedule=step", "mask.rule=adamw"],
        ["optimizer.rule=adamw", "optimizer.schedule=warmup-cosine", "mask.rule=sgd"],
    ] {
        let rest = [
            "optimizer.schedule_every=step",
            "optimizer.warmup_epochs=1",
            "optimizer.milestones=[1]",
            "optimizer.learning_rate=0.001",
        ];
        check_interrupted(&[&optimizer[..], &rest].concat())?;
    }
    Ok(())
}

/// Hears the warnings of a run and when they came.
#[derive(Default)]
struct Warnings {
    step: u64,
    heard: Vec<(u64, String)>,
}

impl Observer for Warnings {
    fn step(&mut self, report: &metamask_train::observer::StepReport) {
        self.step = report.step;
    }
    fn warned(&mut self, warning: &str, help: &str) {
        assert!(!help.is_empty());
        self.heard.push((self.step, warning.to_owned()));
    }
}

/// BYOL whose target is the network itself, under a weight decay that leaves nothing of it.
const COLLAPSES: [&str; 8] = [
    "objective.method=byol",
    "mask.mode=off",
    "target.momentum=0",
    "contrastive_head.final_norm=false",
    "optimizer.learning_rate=0.2",
    "optimizer.weight_decay=1",
    "optimizer.momentum=0",
    "training.epochs=20",
];

#[test]
fn a_collapse_is_warned_of_within_fifty_steps_and_can_stop_the_run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut warnings = Warnings::default();
    run(&folder.path().join("warn"), &COLLAPSES, &mut warnings)?;
    let [(step, warning)] = &warnings.heard[..] else { panic!("{:?}", warnings.heard) };
    assert!(*step <= 50 && warning.contains("have collapsed to a point"), "{step}: {warning}");

    let out = folder.path().join("stop");
    let stop = [&COLLAPSES[..], &["guard.on_collapse=stop"]].concat();
    let error = run(&out, &stop, &mut Silent).expect_err("it was to stop");
    let failure = error.downcast::<Failure>()?;
    assert_eq!(failure.code, Code::Collapsed, "{failure}");
    assert!(failure.kept.is_some() && failure.help.is_some(), "{failure}");
    Ok(())
}

#[test]
fn mask_rates_over_nine_orders_of_magnitude_saturate_at_worst() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (i, rate) in [1e-3, 1.0, 1e3, 1e6].into_iter().enumerate() {
        for rule in ["sgd", "adam"] {
            let mut warnings = Warnings::default();
            let out = folder.path().join(format!("{i}-{rule}"));
            let (rule, rate) = (format!("mask.rule={rule}"), format!("mask.learning_rate={rate}"));
            let results = run(&out, &[&rule, &rate], &mut warnings)?.results;
            let mask = results.mask.expect("there is a mask");
            assert!(mask.min >= 0.0 && mask.max <= 1.0 && mask.mean.is_finite(), "{mask:?}");
            let told =
                warnings.heard.iter().any(|(_, text)| text.contains("the mask is saturated"));
            assert_eq!(told, mask.saturated >= 0.9, "{rate}: {mask:?} {:?}", warnings.heard);
            assert!(told || i < 3, "{rate}: at the highest rate it saturates, {mask:?}");
        }
    }
    Ok(())
}

#[test]
fn the_log_begins_with_the_first_step_and_says_how_dimensions_are_used() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("run");
    run(&out, &["log.every_steps=4"], &mut Silent)?;
    let text = fs::read_to_string(out.join("metrics.jsonl"))?;
    let lines: Vec<serde_json::Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let steps: Vec<_> = lines.iter().filter(|line| line["kind"] == "step").collect();
    assert_eq!(
        steps.iter().map(|line| line["step"].as_u64()).collect::<Vec<_>>(),
        [Some(1), Some(4)]
    );
    for line in steps {
        for key in [
            "embedding_std",
            "embedding_std_even",
            "effective_rank",
            "dead_dimensions",
            "gradient_norm",
        ] {
            assert!(line[key].is_number(), "{key}: {line}");
        }
        // 1 / √8 for embeddings of width 8, and no more than sixteen samples can fill.
        let even = line["embedding_std_even"].as_f64().expect("a number");
        assert!((even - 8f64.sqrt().recip()).abs() < 1e-12);
        assert!(line["effective_rank"].as_f64() <= Some(16.0));
    }
    // At an epoch's end, more of it.
    let of_epochs = lines.iter().filter(|line| line["kind"] == "epoch");
    for line in of_epochs {
        let measure = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key}: {line}"));
        // Squares weigh the large ones.
        assert!(measure("participation_ratio") <= measure("effective_rank"), "{line}");
        assert!((1.0..=17.0).contains(&measure("rank_me")), "{line}");
        assert!((0.0..=1.0).contains(&measure("mean_correlation")), "{line}");
        assert!(measure("alpha_req") > 0.0, "{line}");
    }
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
