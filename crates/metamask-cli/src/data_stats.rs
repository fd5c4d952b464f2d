//! `metamask data stats`: a data set in numbers, and what they suggest.

use std::fmt::Write as _;

use metamask_data::{
    BadImages, Dataset, DatasetSpec, FolderSizes, Images, LoadOptions, folder_sizes, load,
};
use serde::Serialize;

use crate::data_arguments::StatsArguments;
use crate::print;

#[derive(Serialize)]
struct Stats {
    name: String,
    licence: String,
    /// Rows and columns of the images as they are loaded.
    side: usize,
    train: usize,
    test: usize,
    unlabelled: usize,
    classes: usize,
    /// The smallest and the largest number of training images of a class.
    per_class: Option<[usize; 2]>,
    /// Of the images that pre-training sees: red, green, blue in 0..1.
    mean: [f64; 3],
    std: [f64; 3],
    /// Test images that are, byte for byte, also training images.
    test_in_train: usize,
    folder: Option<FolderSizes>,
    notes: Vec<String>,
    suggestion: Suggestion,
}

/// What the images' size and number suggest.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Suggestion {
    stem: &'static str,
    crop: usize,
    batch: usize,
}

pub(crate) fn stats(arguments: &StatsArguments) -> anyhow::Result<()> {
    let spec: DatasetSpec = arguments.name.parse()?;
    let bad_images: BadImages = arguments.bad_images.parse()?;
    let places = arguments.places.places()?;
    let options =
        LoadOptions { places, side: arguments.side, bad_images, ..LoadOptions::default() };
    let set = load(&spec, &options)?;
    let folder = match &spec {
        DatasetSpec::Folder(path) => Some(folder_sizes(path)?),
        _ => None,
    };
    let stats = of(&set, folder)?;
    match arguments.json {
        true => print::to_stdout(&(serde_json::to_string(&stats)? + "\n")),
        false => print::to_stdout(&table(&stats)),
    }
}

fn of(set: &Dataset, folder: Option<FolderSizes>) -> anyhow::Result<Stats> {
    let seen = set.pretraining(set.pretraining_split())?;
    let (mean, std) = mean_and_std(seen.images());
    let side = seen.images().height();
    let mut per_class = vec![0; set.train.n_classes()];
    set.train.labels.iter().for_each(|&label| per_class[label as usize] += 1);
    let (least, most) = (per_class.iter().min(), per_class.iter().max());
    Ok(Stats {
        name: set.name.clone(),
        licence: set.licence.clone(),
        side,
        train: set.train.len(),
        test: set.test.len(),
        unlabelled: set.unlabelled.as_ref().map_or(0, |unlabelled| unlabelled.len()),
        classes: set.train.n_classes(),
        per_class: least.zip(most).map(|(least, most)| [*least, *most]),
        mean,
        std,
        test_in_train: set.n_test_in_train(),
        folder,
        notes: set.notes.clone(),
        suggestion: suggestion(side, seen.len()),
    })
}

/// Mean and standard deviation of each channel, in 0..1, over all pixels.
fn mean_and_std(images: &Images) -> ([f64; 3], [f64; 3]) {
    let mut counts = [[0u64; 256]; 3];
    for pixel in images.blocks().flat_map(|block| block.chunks_exact(3)) {
        (0..3).for_each(|c| counts[c][usize::from(pixel[c])] += 1);
    }
    let n = (images.len() * images.height() * images.width()) as f64;
    let moments = counts.map(|counts| {
        let sum = |power: i32| {
            let terms = counts.iter().enumerate();
            terms
                .map(|(value, &count)| (value as f64 / 255.0).powi(power) * count as f64)
                .sum::<f64>()
                / n
        };
        let mean = sum(1);
        (mean, (sum(2) - mean * mean).max(0.0).sqrt())
    });
    (moments.map(|(mean, _)| mean), moments.map(|(_, std)| std))
}

/// The stem keeps the first stage at 16 to 56 pixels: small images lose too much
/// to a stride, large ones cost too much without. Crops are the images' own
/// side. The batch leaves an epoch at least ten steps.
fn suggestion(side: usize, n: usize) -> Suggestion {
    let stem = match side {
        ..=48 => "cifar",
        49..=112 => "cifar-with-pool",
        _ => "imagenet",
    };
    let batch = [512, 256, 128, 64, 32, 16, 8, 4].into_iter().find(|batch| 10 * batch <= n);
    Suggestion { stem, crop: side, batch: batch.unwrap_or(2) }
}

fn table(stats: &Stats) -> String {
    let mut text = String::new();
    let rgb = |values: [f64; 3]| values.map(|value| format!("{value:.4}")).join("  ");
    let _ = writeln!(text, "data        {}", stats.name);
    let _ = writeln!(text, "licence     {}", stats.licence);
    let _ = writeln!(text, "side        {0}x{0} pixels", stats.side);
    if let Some(FolderSizes { files, damaged, short_side: [min, median, max], .. }) = &stats.folder
    {
        let _ = writeln!(
            text,
            "files       {files}, {damaged} damaged; short side {min} to {max}, median {median}"
        );
    }
    let _ = writeln!(
        text,
        "images      {} train, {} test, {} unlabelled",
        stats.train, stats.test, stats.unlabelled
    );
    match stats.per_class {
        None => {
            text += "classes     none: judged by effective rank and neighbours, not by a probe\n"
        }
        Some([least, most]) => {
            let _ = writeln!(
                text,
                "classes     {}, {least} to {most} training images each",
                stats.classes
            );
        }
    }
    let _ = writeln!(text, "mean        {}", rgb(stats.mean));
    let _ = writeln!(text, "std         {}", rgb(stats.std));
    let _ =
        writeln!(text, "duplicates  {} test images are also training images", stats.test_in_train);
    for note in &stats.notes {
        let _ = writeln!(text, "note        {note}");
    }
    let Suggestion { stem, crop, batch } = &stats.suggestion;
    let _ = writeln!(
        text,
        "\nsuggested   --set encoder.stem={stem} --set augmentation.size={crop} --set training.batch_size={batch}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation_are_those_of_the_formula() {
        // Red 0 and 255, green 51 twice, blue 0 and 51.
        let images = Images::new(vec![0, 51, 0, 255, 51, 51], 1, 2).expect("one image");
        let (mean, std) = mean_and_std(&images);
        let close = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close(mean, [0.5, 0.2, 0.1]) && close(std, [0.5, 0.0, 0.1]), "{mean:?} {std:?}");
    }

    #[test]
    fn suggestions_fit_the_images() {
        let of = |side, n| {
            let Suggestion { stem, crop, batch } = suggestion(side, n);
            (stem, crop, batch)
        };
        assert_eq!(of(32, 50_000), ("cifar", 32, 512));
        assert_eq!(of(64, 700), ("cifar-with-pool", 64, 64));
        assert_eq!(of(224, 30), ("imagenet", 224, 2));
    }
}
