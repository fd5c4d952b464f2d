//! Views on a GPU: drawn here, made there, the same bits.

use candle_core::Result;
use metamask_ops::{PixelPrograms, Window};

use crate::apply;
use crate::blur::taps;
use crate::{AugmentationKey, Operation, Pipeline, TwoViews, ViewParams};

/// The programs that make two views of each of the images `samples` on a GPU that holds all
/// images, `[n, height, width]` of them: view a's and view b's.
///
/// What [`PixelPrograms::run`] makes of them is what [`two_views`](crate::two_views) returns, bit
/// for bit.
///
/// # Errors
/// If the recipe does not suit the images' size or a sample is not among them.
pub fn two_view_programs(
    recipe: &TwoViews,
    images: [usize; 3],
    samples: &[u32],
    seed: u64,
    epoch: u32,
) -> Result<[PixelPrograms; 2]> {
    let [_, height, width] = images;
    recipe.output_size(height, width)?;
    let programs = |pipeline: &Pipeline, view: u16| -> Result<PixelPrograms> {
        let mut programs = PixelPrograms::new(images);
        let mut params = ViewParams::default();
        for &sample in samples {
            let key = AugmentationKey { seed, epoch, sample, view };
            pipeline.draw_into(key, height, width, &mut params);
            write(&params.operations, sample as usize, (height, width), &mut programs)?;
        }
        Ok(programs)
    };
    Ok([programs(&recipe.a, 0)?, programs(&recipe.b, 1)?])
}

/// A program that does to an image of `height` x `width` what
/// [`apply_with`](crate::apply_with) does.
fn write(
    operations: &[Operation],
    image: usize,
    (height, width): (usize, usize),
    program: &mut PixelPrograms,
) -> Result<()> {
    let apply::Window { top, left, height, width } =
        apply::Window::opening(operations, height, width);
    program.begin(image, Window { top, left, height, width })?;
    let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
    for (index, operation) in operations.iter().enumerate() {
        match *operation {
            Operation::ResizedCrop { top, left, height, width, out_height, out_width } => {
                if index > 0 {
                    program.crop(Window { top, left, height, width })?;
                }
                program.resize(out_height, out_width)?;
            }
            Operation::HorizontalFlip => program.flip(),
            Operation::Brightness(factor) => program.brightness(factor),
            Operation::Contrast(factor) => program.contrast(factor),
            Operation::Saturation(factor) => program.saturation(factor),
            Operation::Hue(shift) => program.hue(shift),
            Operation::Grayscale => program.grayscale(),
            Operation::GaussianBlur { kernel, sigma } => program.blur(&taps(kernel, sigma))?,
            Operation::Solarize(threshold) => program.solarize(threshold),
            Operation::Normalize { mean: m, std: s } => (mean, std) = (m, s),
        }
    }
    program.store(mean, std)
}
