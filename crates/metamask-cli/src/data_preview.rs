//! `metamask data preview`: images, their labels, and two views of each.

use metamask_augment::{ImageBatch, Pipeline, evaluation, evaluation_views, two_views};
use metamask_data::{
    Dataset, DatasetSpec, LoadOptions, Tile, captioned_sheet, epoch_order, load, png_bytes,
};
use metamask_train::{
    Config, expect_new,
    presets::{self, Preset},
    shown, views, write_new,
};

use crate::data_arguments::PreviewArguments;
use crate::print;

/// Columns of a preview: an image and two views of it, a few times.
const SAMPLES: usize = 16;
/// Small images are drawn three times as large.
const SHOWN_SIDE: usize = 96;

pub(crate) fn preview(arguments: &PreviewArguments) -> anyhow::Result<()> {
    expect_new(Some(&arguments.out))?;
    let spec: DatasetSpec = arguments.name.parse()?;
    let preset = arguments.preset.as_deref().unwrap_or(presets::DEFAULT);
    let config = Preset::named(preset)?.config(&arguments.overrides)?;
    let places = arguments.places.places()?;
    let side = (config.data.image_size > 0).then_some(config.data.image_size);
    let bad_images = config.data.bad_images;
    let data = load(&spec, &LoadOptions { places, side, bad_images, ..LoadOptions::default() })?;
    let (png, captions) = views_sheet(&config, &data)?;
    write_new(&arguments.out, &png)?;
    print::to_stdout(&format!(
        "{}: {} images of {} (upper row), two views of each below\nlabels  {}\n",
        shown(&arguments.out),
        captions.len(),
        data.name,
        captions.join(", ")
    ))
}

/// Some images of a set and two views of each as a configuration makes them: the bytes of a
/// PNG file, and the images' labels.
pub(crate) fn views_sheet(
    config: &Config,
    data: &Dataset,
) -> anyhow::Result<(Vec<u8>, Vec<String>)> {
    // Labelled images if there are any: their classes are shown.
    let unlabelled = data.pretraining(data.pretraining_split())?;
    let images = if data.train.is_empty() { unlabelled.images() } else { &data.train.images };
    let n = images.len().min(SAMPLES);
    // Drawn, as the set may be sorted by class.
    let samples = epoch_order(config.run.seed, 0, images.len() as u32)[..n].to_vec();
    let captions: Vec<String> = samples
        .iter()
        .map(|&i| match data.train.labels.get(i as usize) {
            Some(&label) => data.train.class_names[label as usize].clone(),
            None => format!("#{i}"),
        })
        .collect();

    let (height, width) = (images.height(), images.width());
    let batch = ImageBatch::new(images.bytes(), height, width)?;
    let recipe = views::recipe_in_colour(&config.augmentation)?;
    let size = recipe.output_size(height, width)?;
    let (view_a, view_b) = two_views(&recipe, batch, &samples, config.run.seed, 0)?;
    let bytes = |view: Vec<f32>| -> Vec<u8> {
        view.into_iter().map(|x| (x * 255.0).round().clamp(0.0, 255.0) as u8).collect()
    };
    let (view_a, view_b) = (bytes(view_a), bytes(view_b));
    // The images as evaluation sees them, but in colour: without the last step.
    let whole = evaluation(config.augmentation.size);
    let (_, in_colour) = whole.transforms().split_last().expect("a recipe");
    let whole = bytes(evaluation_views(&Pipeline::new(in_colour.to_vec())?, batch, &samples)?);
    let rows = [whole, view_a, view_b];
    let rows: Vec<Vec<Tile<'_>>> = rows.iter().map(|row| tiles(row, size)).collect();
    let scale = (SHOWN_SIDE / size.0.max(1)).max(1);
    Ok((png_bytes(&captioned_sheet(&rows, &captions, scale)), captions))
}

fn tiles(view: &[u8], (height, width): (usize, usize)) -> Vec<Tile<'_>> {
    view.chunks_exact(height * width * 3).map(|bytes| Tile { bytes, height, width }).collect()
}
