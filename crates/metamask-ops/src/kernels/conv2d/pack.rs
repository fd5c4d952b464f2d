//! Copies that put operands in the order in which the tiles read them.

use rayon::prelude::*;

use super::plan::{Frame, Plan};
use super::product::words_hold;
use crate::kernels::lines::Lines;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::source::Source;

/// Columns `first..first + width` of the target channels, `width` ≤ the tile's;
/// a packed row of it is `padded` long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    pub(super) first: usize,
    pub(super) width: usize,
    pub(super) padded: usize,
}

/// Cuts `channels` into blocks of at most `max_vectors` vectors of `lanes`.
pub(super) fn columns(
    channels: usize,
    lanes: usize,
    max_vectors: usize,
) -> impl Iterator<Item = Columns> + Clone {
    let block = lanes * max_vectors;
    (0..channels).step_by(block).map(move |first| {
        let width = block.min(channels - first);
        Columns { first, width, padded: width.next_multiple_of(lanes) }
    })
}

/// Writes the weights of every pass as `[pass][columns][depth][padded]`, zeros
/// where a column has no channel. With PAIRS a row is two channels of the source.
pub(super) fn pack_weights<'b, T: Real, const PAIRS: bool>(
    plan: &Plan,
    w: &[T],
    lanes: usize,
    max_vectors: usize,
    packed: &'b mut Lines<T>,
) -> &'b [T] {
    let c = plan.source.c;
    let padded_c = plan.target_c.next_multiple_of(lanes);
    let taps: usize = plan.passes.iter().flat_map(|p| &p.runs).map(|r| r.taps.len()).sum();
    let rows = c / words_hold::<PAIRS>();
    let packed = packed.at_least(taps * rows * padded_c);

    // One job for each tap of each block of columns: where it goes, which tap.
    let mut jobs = Vec::new();
    let mut rest = &mut *packed;
    for pass in &plan.passes {
        for block in columns(plan.target_c, lanes, max_vectors) {
            for &tap in pass.runs.iter().flat_map(|run| &run.taps) {
                let (rows, tail) = rest.split_at_mut(rows * block.padded);
                jobs.push((rows, tap, block));
                rest = tail;
            }
        }
    }
    jobs.into_par_iter().for_each(|(rows, tap, block)| {
        let w = &w[tap * c * plan.target_c..][..c * plan.target_c];
        for (k, row) in rows.chunks_exact_mut(block.padded).enumerate() {
            let (values, zeros) = row.split_at_mut(block.width);
            for (n, value) in values.iter_mut().enumerate() {
                let at = |k: usize| w[k * plan.k_stride + (block.first + n) * plan.n_stride];
                *value = if PAIRS { T::pair(at(2 * k), at(2 * k + 1)) } else { at(k) };
            }
            zeros.fill(T::ZERO);
        }
    });
    packed
}

/// Writes images, each with its zero border. With PAIRS neighbouring channels become
/// pairs.
pub(super) struct Pad<'a, T, const PAIRS: bool> {
    pub(super) frame: &'a Frame,
    /// Some images, one behind the other.
    pub(super) images: Source<'a, T>,
    pub(super) padded: &'a mut [T],
}

impl<T: Real, const PAIRS: bool> Task<T> for Pad<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { frame, images, padded } = self;
        let [len, row_len, line, left] =
            [frame.len(), frame.row_len(), frame.w * frame.c, frame.left * frame.c]
                .map(|terms| terms / words_hold::<PAIRS>());
        for (i, padded) in padded.chunks_exact_mut(len).enumerate() {
            let (top, rest) = padded.split_at_mut(frame.top * row_len);
            let (middle, bottom) = rest.split_at_mut(frame.h * row_len);
            top.fill(T::ZERO);
            bottom.fill(T::ZERO);
            for (y, to) in middle.chunks_exact_mut(row_len).enumerate() {
                let first = i * frame.image_len() + y * frame.w * frame.c;
                to[..left].fill(T::ZERO);
                to[left + line..].fill(T::ZERO);
                let to = &mut to[left..][..line];
                // SAFETY: the caller's promise.
                unsafe {
                    if PAIRS {
                        images.copy_pairs::<V>(first, frame.c, to);
                    } else {
                        images.copy::<V>(first, frame.c, 0..frame.c, to);
                    }
                }
            }
        }
    }
}
