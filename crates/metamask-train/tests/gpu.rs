//! Whole iterations on a GPU against the same on the CPU, in f64: every method, every form of the
//! meta step, a checkpoint from one device to the other.
//!
//! `cargo xtask cuda-toolchain --test` runs this on the emulated device; where there is no GPU, it
//! says so and passes.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Result, Tensor};
use metamask_data::{Images, LoadOptions, Unlabelled, load};
use metamask_random::{Key, Purpose};
use metamask_train::observer::Silent;
use metamask_train::{
    Config, Evaluated, FineTune, Learner, Measure, Moment, algorithm::iteration,
    checkpoint::Checkpoint, checkpoint::State, evaluate, views, views::ViewStream,
};

const SETTINGS: [&str; 9] = [
    "encoder.architecture=conv",
    "encoder.width=2",
    "contrastive_head.hidden=[4]",
    "contrastive_head.output=4",
    "redundancy_head.hidden=[4]",
    "redundancy_head.output=4",
    "predictor.hidden=[4]",
    "queue.size=8",
    "training.batch_size=4",
];

/// Relative to the largest number of a tensor: the same sums in another order, over two steps.
const TOLERANCE: f64 = 1e-8;

fn gpu() -> Option<Device> {
    match metamask_ops::cuda_device(0) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("METAMASK_GPU_EXPECTED").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("not run: {error}");
            None
        }
    }
}

fn config(settings: &[&str]) -> anyhow::Result<Config> {
    let settings: Vec<String> =
        SETTINGS.iter().chain(settings).map(|&set| set.to_owned()).collect();
    Ok(Config::read("", "test", &settings)?)
}

fn random_views(sample: u32) -> Result<[Tensor; 2]> {
    let view = |view: u16| {
        let mut stream = Key::new(0, Purpose::Test).sample(sample).view(view).stream();
        let pixels: Vec<f64> = (0..4 * 8 * 8 * 3).map(|_| stream.normal()).collect();
        Tensor::from_vec(pixels, (4, 8, 8, 3), &Device::Cpu)
    };
    Ok([view(0)?, view(1)?])
}

/// Two iterations, and all that they leave.
fn two_iterations(config: &Config, device: &Device) -> anyhow::Result<(Vec<f64>, Checkpoint)> {
    let mut learner = Learner::on(device, config, DType::F64)?;
    let mut losses = Vec::new();
    for step in 0..2 {
        let views = learner.take_views(&random_views(step as u32)?)?;
        let found = iteration(&mut learner, &views, &Moment::of(config, step, 10))?;
        losses.extend([found.loss, found.base_loss, found.gradient_norm]);
    }
    Ok((losses, learner.to_checkpoint(State::default())?))
}

#[track_caller]
fn check_close(what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    if found.elem_count() == 0 || found.dtype() != DType::F64 {
        return Ok(());
    }
    let largest = |t: &Tensor| t.flatten_all()?.abs()?.max(0)?.to_scalar::<f64>();
    let (error, scale) = (largest(&(found - expected)?)?, largest(expected)?);
    assert!(error <= TOLERANCE * scale.max(1e-3), "{what}: error {error:.1e} of {scale:.1e}");
    Ok(())
}

fn check(settings: &[&str]) -> anyhow::Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let config = config(settings)?;
    let (expected, on_cpu) = two_iterations(&config, &Device::Cpu)?;
    let (found, on_gpu) = two_iterations(&config, &device)?;
    for (found, expected) in found.iter().zip(&expected) {
        let close = (found - expected).abs() <= TOLERANCE * expected.abs().max(1e-3);
        assert!(close, "{settings:?}: {found} on the GPU, {expected} on the CPU");
    }
    for (found, expected) in [
        (&on_gpu.model, &on_cpu.model),
        (&on_gpu.optim, &on_cpu.optim),
        (&on_gpu.mask, &on_cpu.mask),
        (&on_gpu.departure, &on_cpu.departure),
    ] {
        assert!(found.keys().eq(expected.keys()), "{settings:?}");
        for (name, expected) in expected {
            check_close(&format!("{settings:?}: {name}"), &found[name], expected)?;
        }
    }

    // And back: a GPU goes on from the CPU's checkpoint.
    let mut learner = Learner::on(&device, &config, DType::F64)?;
    learner.restore(&on_cpu)?;
    let restored = learner.to_checkpoint(State::default())?;
    for (name, expected) in &on_cpu.model {
        check_close(name, &restored.model[name], expected)?;
    }
    Ok(())
}

#[test]
fn simclr_with_a_shared_exact_mask_and_l_drr() -> anyhow::Result<()> {
    check(&["objective.redundancy_weight=0.01", "mask.learning_rate=1"])
}

#[test]
fn simclr_with_an_exact_lookahead() -> anyhow::Result<()> {
    check(&["meta.virtual_step=lookahead", "mask.learning_rate=1"])
}

#[test]
fn simclr_as_the_authors_do() -> anyhow::Result<()> {
    check(&[
        "objective.redundancy_weight=1",
        "objective.alpha=10",
        "meta.virtual_step=after-regular",
        "meta.hypergradient=finite-difference",
    ])
}

#[test]
fn barlow_twins_by_lars() -> anyhow::Result<()> {
    check(&["objective.method=barlow-twins", "optimizer.rule=lars", "mask.mode=off"])
}

#[test]
fn byol_with_a_first_order_mask() -> anyhow::Result<()> {
    check(&[
        "objective.method=byol",
        "meta.virtual_step=lookahead",
        "meta.hypergradient=first-order",
    ])
}

#[test]
fn dcl_by_adam() -> anyhow::Result<()> {
    check(&["objective.method=dcl", "optimizer.rule=adam", "optimizer.learning_rate=0.001"])
}

#[test]
fn hcl_of_a_small_resnet() -> anyhow::Result<()> {
    check(&[
        "objective.method=hcl",
        "encoder.architecture=resnet",
        "encoder.stem=cifar",
        "meta.activations=recompute",
    ])
}

#[test]
fn nnclr_with_its_queue() -> anyhow::Result<()> {
    check(&["objective.method=nnclr"])
}

#[test]
fn its_views_are_the_cpus_bit_for_bit() -> anyhow::Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let config = config(&["augmentation.size=8", "augmentation.blur_probability=[1.0, 0.1]"])?;
    let stream = |device: &Device| -> anyhow::Result<ViewStream> {
        let bytes: Vec<u8> = (0..10 * 9 * 11 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let images = Unlabelled::from(Images::new(bytes, 9, 11)?);
        let recipe = views::recipe(&config.augmentation)?;
        Ok(ViewStream::start(images, recipe, 3, 4, 1..3, 1, device)?)
    };
    let (mut here, mut there) = (stream(&Device::Cpu)?, stream(&device)?);
    assert!(there.is_on_gpu() && !here.is_on_gpu());
    for _ in 0..3 {
        for (expected, found) in here.next_batch()?.iter().zip(there.next_batch()?) {
            assert!(found.device().is_cuda());
            let numbers = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
            assert_eq!(numbers(&found)?, numbers(expected)?);
        }
    }
    assert!(there.next_batch().is_err(), "the epochs are over");
    Ok(())
}

#[test]
fn it_evaluates_as_the_cpu_does() -> anyhow::Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let config = config(&["augmentation.size=8"])?;
    let options = LoadOptions { train: Some(24), test: Some(12), ..LoadOptions::default() };
    let data = load(&"shapes".parse()?, &options)?;
    let fine_tune = FineTune { epochs: Some(1), batch_size: Some(8), ..FineTune::of_labels(1.0) };
    let measures = [Measure::Knn, Measure::Linear, Measure::FineTune(fine_tune)];
    let results = |device: &Device| -> anyhow::Result<_> {
        let learner = Learner::on(device, &config, DType::F32)?;
        let places = Default::default();
        let evaluated = Evaluated {
            config: &config,
            data: &data,
            learner: &learner,
            at: (0, 0),
            places: &places,
        };
        evaluate(&evaluated, &measures, &mut Silent)
    };
    assert_eq!(results(&device)?, results(&Device::Cpu)?);
    Ok(())
}
