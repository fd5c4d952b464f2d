//! Whole iterations on a GPU against the same on the CPU, in f64: every method, every form of the
//! meta step, a checkpoint from one device to the other.
//!
//! `cargo xtask cuda-toolchain --test` runs this on the emulated device; where there is no GPU, it
//! says so and passes.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor};
use metamask_data::{Images, LoadOptions, Unlabelled, load};
use metamask_train::{
    Config, Evaluated, FineTune, Learner, Measure,
    agreement::{CASES, disagreements},
    checkpoint::State,
    evaluate,
    observer::Silent,
    views,
    views::ViewStream,
};

/// Relative to the largest number of a tensor: the same sums in another order, over two steps.
const TOLERANCE: f64 = 1e-8;

fn config(settings: &[&str]) -> anyhow::Result<Config> {
    let small = ["encoder.architecture=conv", "encoder.width=2", "training.batch_size=4"];
    let settings: Vec<String> = small.iter().chain(settings).map(|&set| set.to_owned()).collect();
    Ok(Config::read("", "test", &settings)?)
}

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

#[test]
fn it_computes_what_the_cpu_does() -> anyhow::Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    for case in &CASES {
        let (found, _) = disagreements(&case.reference()?, &device, DType::F64, "exact")?;
        assert!(found.relative <= TOLERANCE, "{}: {found:?}", case.name);
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_the_cpu_is_one_of_its_own() -> anyhow::Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let seeded = |seed: &str| config(&["objective.method=nnclr", "optimizer.rule=lars", seed]);
    let there = Learner::new(&seeded("run.seed=0")?, DType::F32)?.to_checkpoint(State::default())?;
    let mut learner = Learner::on(&device, &seeded("run.seed=1")?, DType::F32)?;
    learner.restore(&there)?;
    let restored = learner.to_checkpoint(State::default())?;
    for (name, expected) in &there.model {
        let numbers = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        assert_eq!(numbers(&restored.model[name])?, numbers(expected)?, "{name}");
    }
    Ok(())
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
