//! The application: one image's bytes through a list of operations.
//!
//! Inside, an image is three planes of `f32` from 0 to 255 in memory that a
//! thread keeps; bytes come in and pixels go out interleaved.

use std::cell::RefCell;

use candle_core::{Result, bail};

use crate::blur::gaussian_blur;
use crate::color::Planes;
use crate::resample::Taps;
use crate::{AugmentationKey, Image, Operation, Pipeline, ViewParams};

/// Applies the operations of `params` to `image` and writes `[height, width, 3]`
/// numbers to `out`: in 0 to 1, or normalised if the last operation says so.
///
/// ```
/// # use metamask_augment::{Image, Operation, ViewParams, apply_with};
/// let image = Image::new(&[0, 51, 102, 153, 204, 255], 1, 2)?;
/// let params = ViewParams { operations: vec![Operation::HorizontalFlip] };
/// let mut out = [0.0; 6];
/// apply_with(&params, image, &mut out)?;
/// assert_eq!(out, [0.6, 0.8, 1.0, 0.0, 0.2, 0.4]);
/// # candle_core::Result::Ok(())
/// ```
/// # Errors
/// If an operation reaches outside the image, or `out` has another size.
pub fn apply_with(params: &ViewParams, image: Image<'_>, out: &mut [f32]) -> Result<()> {
    let (height, width) = params.output_size(image.height(), image.width())?;
    if out.len() != height * width * 3 {
        bail!(
            "apply: the view must fit, expected {height} x {width} x 3 numbers, got {}",
            out.len()
        );
    }
    SCRATCH.with_borrow_mut(|scratch| scratch.canvas.apply(&params.operations, image, out));
    Ok(())
}

/// Draws and applies one view; `out` fits, as the caller has checked.
pub(crate) fn write_view(
    pipeline: &Pipeline,
    key: AugmentationKey,
    image: Image<'_>,
    out: &mut [f32],
) {
    SCRATCH.with_borrow_mut(|Scratch { params, canvas }| {
        pipeline.draw_into(key, image.height(), image.width(), params);
        canvas.apply(&params.operations, image, out);
    });
}

thread_local! {
    // A view allocates nothing once a thread has made one of its size.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    params: ViewParams,
    canvas: Canvas,
}

/// The image at work. Buffers only grow: their first `3 · height · width`
/// values count.
#[derive(Default)]
struct Canvas {
    height: usize,
    width: usize,
    front: Vec<f32>,
    back: Vec<f32>,
    taps: Taps,
    row: Vec<f32>,
    kernel: Vec<f32>,
}

/// A rectangle of an image.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Window {
    /// What is read of an image of `height` x `width`: a crop that comes first costs nothing.
    pub fn opening(operations: &[Operation], height: usize, width: usize) -> Self {
        match operations.first() {
            Some(&Operation::ResizedCrop { top, left, height, width, .. }) => {
                Self { top, left, height, width }
            }
            _ => Self { top: 0, left: 0, height, width },
        }
    }
}

impl Canvas {
    fn apply(&mut self, operations: &[Operation], image: Image<'_>, out: &mut [f32]) {
        self.load(image, Window::opening(operations, image.height(), image.width()));
        let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
        for (index, operation) in operations.iter().enumerate() {
            match *operation {
                Operation::ResizedCrop { top, left, height, width, out_height, out_width } => {
                    if index > 0 {
                        self.crop(Window { top, left, height, width });
                    }
                    self.resize_rows(out_width);
                    self.resize_columns(out_height);
                }
                Operation::HorizontalFlip => {
                    let width = self.width;
                    self.values().chunks_exact_mut(width).for_each(<[f32]>::reverse);
                }
                Operation::Brightness(factor) => Planes::new(self.values()).brightness(factor),
                Operation::Contrast(factor) => Planes::new(self.values()).contrast(factor),
                Operation::Saturation(factor) => Planes::new(self.values()).saturation(factor),
                Operation::Hue(shift) => Planes::new(self.values()).hue(shift),
                Operation::Grayscale => Planes::new(self.values()).grayscale(),
                Operation::GaussianBlur { kernel, sigma } => self.blur(kernel, sigma),
                Operation::Solarize(threshold) => Planes::new(self.values()).solarize(threshold),
                Operation::Normalize { mean: m, std: s } => (mean, std) = (m, s),
            }
        }
        self.normalize(mean, std);
        self.store(out);
    }

    fn len(&self) -> usize {
        3 * self.height * self.width
    }

    fn values(&mut self) -> &mut [f32] {
        let len = self.len();
        &mut self.front[..len]
    }

    fn load(&mut self, image: Image<'_>, window: Window) {
        (self.height, self.width) = (window.height, window.width);
        grow(&mut self.front, 3 * window.height * window.width);
        let (red, rest) = self.front.split_at_mut(window.height * window.width);
        let (green, blue) = rest.split_at_mut(red.len());
        let rows = image.bytes().chunks_exact(3 * image.width()).skip(window.top);
        let planes = red
            .chunks_exact_mut(window.width)
            .zip(green.chunks_exact_mut(window.width))
            .zip(blue.chunks_exact_mut(window.width));
        for (((red, green), blue), row) in planes.zip(rows) {
            let (pixels, _) = row[3 * window.left..].as_chunks::<3>();
            for (((red, green), blue), pixel) in red.iter_mut().zip(green).zip(blue).zip(pixels) {
                [*red, *green, *blue] = pixel.map(f32::from);
            }
        }
    }

    fn crop(&mut self, Window { top, left, height, width }: Window) {
        if (height, width) == (self.height, self.width) {
            return;
        }
        grow(&mut self.back, 3 * height * width);
        let planes = self.front.chunks_exact(self.height * self.width);
        for (plane, out) in planes.zip(self.back.chunks_exact_mut(height * width)).take(3) {
            let rows = plane.chunks_exact(self.width).skip(top);
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                out.copy_from_slice(&row[left..left + width]);
            }
        }
        self.turn(height, width);
    }

    fn resize_rows(&mut self, width: usize) {
        if width == self.width {
            return;
        }
        let rows = 3 * self.height;
        grow(&mut self.back, rows * width);
        self.taps.plan(self.width, width);
        self.taps.resize_rows(&self.front[..rows * self.width], &mut self.back[..rows * width]);
        self.turn(self.height, width);
    }

    fn resize_columns(&mut self, height: usize) {
        if height == self.height {
            return;
        }
        grow(&mut self.back, 3 * height * self.width);
        self.taps.plan(self.height, height);
        let planes = self.front.chunks_exact(self.height * self.width);
        for (plane, out) in planes.zip(self.back.chunks_exact_mut(height * self.width)).take(3) {
            self.taps.resize_columns(plane, out);
        }
        self.turn(height, self.width);
    }

    fn blur(&mut self, kernel: usize, sigma: f32) {
        let len = self.len();
        grow(&mut self.back, len);
        gaussian_blur(
            &mut self.front[..len],
            (self.height, self.width),
            kernel,
            sigma,
            &mut self.back[..len],
            &mut self.row,
            &mut self.kernel,
        );
    }

    /// What was written to the back becomes the image.
    fn turn(&mut self, height: usize, width: usize) {
        (self.height, self.width) = (height, width);
        std::mem::swap(&mut self.front, &mut self.back);
    }

    /// `ToTensor` and `Normalize`, with torchvision's two divisions: an image
    /// that nothing else touched comes out bit-identical to torchvision's.
    fn normalize(&mut self, mean: [f32; 3], std: [f32; 3]) {
        let plane_len = self.height * self.width;
        let planes = self.values().chunks_exact_mut(plane_len);
        for ((plane, mean), std) in planes.zip(mean).zip(std) {
            for value in plane {
                *value = (*value / 255.0 - mean) / std;
            }
        }
    }

    fn store(&self, out: &mut [f32]) {
        let (red, rest) = self.front.split_at(self.height * self.width);
        let (green, blue) = rest.split_at(red.len());
        let (pixels, _) = out.as_chunks_mut::<3>();
        for (((pixel, &red), &green), &blue) in pixels.iter_mut().zip(red).zip(green).zip(blue) {
            *pixel = [red, green, blue];
        }
    }
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}
