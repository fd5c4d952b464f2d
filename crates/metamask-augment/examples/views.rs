//! Two views of each of a few synthetic images, and what was drawn for them.
//!
//! `cargo run --release -p metamask-augment --example views -- views.ppm` also
//! writes a picture: a row for each image, the image itself and its two views.

use std::error::Error;

use metamask_augment::{AugmentationKey, ImageBatch, TwoViews, simclr, two_views};

const SIDE: usize = 32;
const N: usize = 6;
const SEED: u64 = 7;
const EPOCH: u32 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let bytes: Vec<u8> = (0..N).flat_map(synthetic_image).collect();
    let images = ImageBatch::new(&bytes, SIDE, SIDE)?;
    let samples: Vec<u32> = (0..N as u32).collect();

    let recipe = simclr(SIDE);
    for sample in 0..2 {
        for (view, pipeline) in [(0, &recipe.a), (1, &recipe.b)] {
            let key = AugmentationKey { seed: SEED, epoch: EPOCH, sample, view };
            println!("sample {sample}, view {view}:");
            for operation in pipeline.draw(key, SIDE, SIDE).operations {
                println!("    {operation:?}");
            }
        }
    }
    let (view_a, view_b) = two_views(&recipe, images, &samples, SEED, EPOCH)?;
    for (name, view) in [("a", &view_a), ("b", &view_b)] {
        let mean = view.iter().sum::<f32>() / view.len() as f32;
        println!("view {name}: {} numbers, mean {mean:.3}", view.len());
    }

    if let Some(path) = std::env::args().nth(1) {
        // The same draws, without the normalisation: values in 0 to 1.
        let shown = TwoViews { a: recipe.a.without_normalize(), b: recipe.b.without_normalize() };
        let (view_a, view_b) = two_views(&shown, images, &samples, SEED, EPOCH)?;
        let originals: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        std::fs::write(&path, ppm(&[&originals, &view_a, &view_b]))?;
        println!("wrote {path}");
    }
    Ok(())
}

/// A disc on a gradient; place and colours follow the index.
fn synthetic_image(index: usize) -> Vec<u8> {
    let (centre_y, centre_x) = (10 + 3 * index % 13, 9 + 5 * index % 15);
    let disc = [[230, 60, 40], [40, 170, 80], [50, 90, 220]][index % 3];
    let pixel = |y: usize, x: usize| {
        let distance2 = y.abs_diff(centre_y).pow(2) + x.abs_diff(centre_x).pow(2);
        if distance2 < 50 { disc } else { [6 * y as u8 + 40, 7 * x as u8, 30 * index as u8 + 60] }
    };
    (0..SIDE * SIDE).flat_map(|i| pixel(i / SIDE, i % SIDE)).collect()
}

/// The images of each column below each other, as a binary PPM.
fn ppm(columns: &[&[f32]]) -> Vec<u8> {
    let mut file = format!("P6 {} {} 255\n", SIDE * columns.len(), SIDE * N).into_bytes();
    for y in 0..SIDE * N {
        for column in columns {
            let row = &column[y * SIDE * 3..][..SIDE * 3];
            file.extend(row.iter().map(|value| (value * 255.0).round() as u8));
        }
    }
    file
}
