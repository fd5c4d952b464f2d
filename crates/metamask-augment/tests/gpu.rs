//! Views made on a GPU against those made on the CPU: the same bits.
//!
//! `cargo xtask cuda-toolchain --test` runs this on the emulated device; where there is no GPU, it
//! says so and passes.
#![cfg(feature = "cuda")]

use candle_core::{Device, Result, Tensor};
use metamask_augment::{
    ImageBatch, Pipeline, Transform, TwoViews, byol, evaluation, simclr, two_view_programs,
    two_views,
};
use metamask_random::{Key, Purpose};

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

#[track_caller]
fn check(
    recipe: &TwoViews,
    n: usize,
    (height, width): (usize, usize),
    samples: &[u32],
) -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let mut stream = Key::new(0, Purpose::Test).stream();
    let bytes: Vec<u8> = (0..n * height * width * 3).map(|_| stream.below(256) as u8).collect();
    let images = ImageBatch::new(&bytes, height, width)?;
    let (a, b) = two_views(recipe, images, samples, 7, 3)?;
    let shape = [n, height, width];
    let on_gpu = Tensor::from_slice(&bytes, (n, height, width, 3), &device)?;
    let programs = two_view_programs(recipe, shape, samples, 7, 3)?;
    for ((name, expected), programs) in [("a", a), ("b", b)].into_iter().zip(programs) {
        let found = programs.run(&on_gpu)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(found.len(), expected.len());
        let differ = (0..found.len()).filter(|&i| found[i].to_bits() != expected[i].to_bits());
        let differ: Vec<_> = differ.map(|i| (i, found[i], expected[i])).collect();
        assert!(differ.is_empty(), "view {name}: {} differ, first {:?}", differ.len(), differ[0]);
    }
    Ok(())
}

/// Everything that can happen, every time.
fn everything(size: usize, kernel: usize) -> Result<TwoViews> {
    let pipeline = |blur| {
        Pipeline::new(vec![
            Transform::RandomResizedCrop { size, scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] },
            Transform::HorizontalFlip { p: 0.5 },
            Transform::ColorJitter {
                brightness: 0.9,
                contrast: 0.9,
                saturation: 0.9,
                hue: 0.5,
                p: 1.0,
            },
            Transform::Grayscale { p: 0.1 },
            Transform::GaussianBlur { kernel: blur, sigma: [0.1, 2.0], p: 1.0 },
            Transform::Solarize { threshold: 0.5, p: 0.5 },
            Transform::Normalize { mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.25] },
        ])
    };
    Ok(TwoViews { a: pipeline(3)?, b: pipeline(kernel)? })
}

#[test]
fn every_operation_gives_the_bits_of_the_cpu() -> Result<()> {
    check(&everything(8, 9)?, 5, (8, 8), &[0, 3, 4, 1, 2, 0, 3, 4, 1, 2])
}

#[test]
fn images_that_shrink_and_grow_do() -> Result<()> {
    check(&everything(6, 5)?, 3, (23, 17), &[2, 0, 1, 1])?;
    check(&everything(13, 7)?, 2, (5, 9), &[1, 0, 1, 1])
}

#[test]
fn the_mean_over_many_pixels_does() -> Result<()> {
    check(&everything(37, 3)?, 1, (37, 37), &[0])
}

#[test]
fn the_recipes_of_the_papers_do() -> Result<()> {
    check(&simclr(12), 4, (12, 12), &[3, 2, 1, 0, 3, 1])?;
    check(&byol(12), 4, (12, 12), &[3, 2, 1, 0, 3, 1])
}

#[test]
fn what_evaluation_sees_does() -> Result<()> {
    let recipe = |size| TwoViews { a: evaluation(size), b: evaluation(size) };
    check(&recipe(8), 2, (8, 8), &[1, 0])?;
    check(&recipe(8), 2, (11, 15), &[1, 0])
}

#[test]
fn samples_that_are_not_there_are_errors() {
    let error = two_view_programs(&simclr(8), [4, 8, 8], &[4], 0, 0).unwrap_err().to_string();
    assert!(error.contains("image 4 of 4"), "{error}");
}
