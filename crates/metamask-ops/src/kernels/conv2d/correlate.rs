//! The correlation itself: tiles of a few pixels by a few vectors of channels,
//! held in registers over the whole sum.

use rayon::prelude::*;

use super::Parts;
use super::pack::{Columns, Pad, columns, pack_weights};
use super::plan::{Pixel, Plan};
use super::product::{Rows, Span, dispatch, for_tile_of, words_hold};
use crate::Kernel;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::source::Source;
use crate::kernels::workspace::Workspace;

/// Target pixels of a task if there are enough: fewer would read the weights
/// too often.
const PIXELS_PER_TASK: usize = 256;

/// Tasks that are wanted before that, for machines with many cores.
const TASKS: usize = 8;

/// Rows of packed weights that are used before going on to the next ones, so
/// that they stay in the second-level cache: 2304 · 64 channels are 576 KiB.
const DEPTH_PER_STEP: usize = 2304;

/// `target (+)= correlation of source with w`, as `plan` says; `finish` is called
/// with each part of the target when it is done, and the place of its first element.
/// With PAIRS the factors are pairs of channels of the source, an even number of them.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
pub(super) fn correlate<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    plan: &Plan,
    source: Source<'_, T>,
    w: &[T],
    target: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    ws: &mut Workspace<T>,
) {
    let images = images_per_task(plan);
    let (packed, _, _, per_thread) = ws.parts();
    let (lanes, vectors) = T::tile_columns(kernel);
    let packed = pack_weights::<T, PAIRS>(plan, w, lanes, vectors, packed);
    let steps = steps(plan, words_hold::<PAIRS>());
    assert!(plan.source.c.is_multiple_of(words_hold::<PAIRS>()), "conv2d: channels in pairs");
    target
        .par_chunks_mut(images * plan.target_len)
        .zip(source.x.par_chunks(images * plan.source.image_len()))
        .enumerate()
        .for_each(|(i, (target, images_of_task))| {
            let mut scratch;
            let source = if plan.source.is_bare() && source.by.is_none() && !PAIRS {
                images_of_task
            } else {
                scratch = per_thread.get();
                let n = images_of_task.len() / plan.source.image_len();
                let len = plan.source.len() / words_hold::<PAIRS>();
                let padded = scratch.at_least(n * len);
                let images = source.at(images_of_task);
                let pad: Pad<'_, T, PAIRS> = Pad { frame: &plan.source, images, padded };
                dispatch::<T, PAIRS>(kernel, pad);
                padded
            };
            let task: Images<'_, T, PAIRS> =
                Images { plan, steps: &steps, packed, source, target: &mut *target, accumulate };
            dispatch::<T, PAIRS>(kernel, task);
            finish(i * images * plan.target_len, target);
        });
}

fn images_per_task(plan: &Plan) -> usize {
    let pixels = plan.target_len / plan.target_c;
    PIXELS_PER_TASK.div_ceil(pixels).min(plan.batch / TASKS).max(1)
}

/// The parts of the target that [`correlate`] finishes.
pub(super) fn parts(plan: &Plan) -> Parts {
    let task = images_per_task(plan) * plan.target_len;
    Parts { piece: task, part: task }
}

/// Every pass's runs in words that hold `terms`, cut into steps of at most
/// [`DEPTH_PER_STEP`].
fn steps(plan: &Plan, terms: usize) -> Vec<Vec<Vec<Span>>> {
    plan.passes
        .iter()
        .map(|pass| {
            let mut steps = Vec::new();
            let mut step = Vec::new();
            let mut room = DEPTH_PER_STEP;
            for run in &pass.runs {
                let (mut offset, mut left) =
                    (run.offset / terms, run.taps.len() * plan.source.c / terms);
                while left > 0 {
                    let len = left.min(room);
                    step.push(Span { offset, len });
                    (offset, left, room) = (offset + len, left - len, room - len);
                    if room == 0 {
                        steps.push(std::mem::take(&mut step));
                        room = DEPTH_PER_STEP;
                    }
                }
            }
            if !step.is_empty() {
                steps.push(step);
            }
            steps
        })
        .collect()
}

/// A few images of the batch.
struct Images<'a, T, const PAIRS: bool> {
    plan: &'a Plan,
    steps: &'a [Vec<Vec<Span>>],
    packed: &'a [T],
    source: &'a [T],
    target: &'a mut [T],
    accumulate: bool,
}

impl<T: Real, const PAIRS: bool> Task<T> for Images<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { plan, packed, source, target, accumulate, .. } = self;
        let mut w = packed;
        for (pass, steps) in plan.passes.iter().zip(self.steps) {
            let depth = pass.depth(plan.source.c) / words_hold::<PAIRS>();
            if depth == 0 {
                if !accumulate {
                    for image in target.chunks_exact_mut(plan.target_len) {
                        for pixel in &pass.pixels {
                            image[pixel.target..][..plan.target_c].fill(T::ZERO);
                        }
                    }
                }
                continue;
            }
            for block in columns(plan.target_c, V::LANES, V::TILE_VECTORS) {
                let (mut rows, rest) = w.split_at(depth * block.padded);
                w = rest;
                for (i, step) in steps.iter().enumerate() {
                    let sweep = Sweep {
                        plan,
                        pixels: &pass.pixels,
                        spans: step,
                        w: rows,
                        block,
                        source,
                        load: accumulate || i > 0,
                    };
                    macro_rules! run {
                        ($pixels:literal, $vectors:literal) => {
                            sweep.run::<V, PAIRS, $pixels, $vectors>(target)
                        };
                    }
                    // SAFETY: the caller's promise; the plan's offsets stay
                    // inside source and target, which `Plan` guarantees.
                    unsafe { for_tile_of!(V, block.padded / V::LANES, run) }
                    rows = &rows[step.iter().map(|s| s.len).sum::<usize>() * block.padded..];
                }
            }
        }
    }
}

/// One step of the sum, for one block of channels, over all pixels of a pass.
struct Sweep<'a, T> {
    plan: &'a Plan,
    pixels: &'a [Pixel],
    spans: &'a [Span],
    w: &'a [T],
    block: Columns,
    source: &'a [T],
    /// Whether the target already holds a part of the sum.
    load: bool,
}

impl<T: Real> Sweep<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions; all offsets of pixels and spans must
    /// lie in source and target.
    #[inline(always)]
    unsafe fn run<
        V: Simd<Scalar = T>,
        const PAIRS: bool,
        const PIXELS: usize,
        const VECTORS: usize,
    >(
        &self,
        target: &mut [T],
    ) {
        let plan = self.plan;
        let per_image = self.pixels.len();
        let total = target.len() / plan.target_len * per_image;
        let (source, to) = (self.source.as_ptr(), target.as_mut_ptr());
        let (mut image, mut next) = (0, 0);
        let rows = Rows {
            spans: self.spans,
            w: self.w.as_ptr(),
            last: self.block.width - (VECTORS - 1) * V::LANES,
            load: self.load,
        };
        for first in (0..total).step_by(PIXELS) {
            let mut x = [source; PIXELS];
            let mut y = [to; PIXELS];
            for i in 0..PIXELS {
                // Past the end the last pixel repeats: it is computed again from
                // the same values and stored again.
                if first + i < total && first + i > 0 {
                    next += 1;
                    if next == per_image {
                        (image, next) = (image + 1, 0);
                    }
                }
                let pixel = self.pixels[next];
                // SAFETY: the pixel lies inside its image, by the plan.
                unsafe {
                    let at = image * plan.source.len() + pixel.source;
                    x[i] = source.add(at / words_hold::<PAIRS>());
                    y[i] = to.add(image * plan.target_len + pixel.target + self.block.first);
                }
            }
            // SAFETY: as above; w holds a row for every element of the spans. The
            // last vector of a pixel may be a part of one; packed rows are whole.
            unsafe { rows.multiply::<V, PAIRS, PIXELS, VECTORS>(x, y) }
        }
    }
}
