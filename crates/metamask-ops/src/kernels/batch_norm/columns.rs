//! The loops of batch normalisation over the columns of an `[M, C]` matrix.
//!
//! A narrow matrix is read as one with `fold` times the columns and as many
//! times fewer rows, so that vectors fill up whatever C is.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::gradient::{ReluInput, Terms};
use crate::Kernel;
use crate::kernels::lines::Lines;
use crate::kernels::simd::{Real, Simd, Task};

/// Elements in a block of rows. It is the unit of work and of partial sums, so
/// results depend on it; and it fits the second-level cache several times.
const BLOCK: usize = 1 << 14;

/// Columns that narrow matrices are widened to, at most.
const WIDE: usize = 64;

/// Vectors whose sums are kept in registers side by side.
const GROUP: usize = 4;

/// Lanes of a group of the widest vectors.
const GROUP_LANES: usize = 64;

pub(super) fn fold(channels: usize) -> usize {
    (WIDE / channels).max(1)
}

pub(super) fn block_len(channels: usize) -> usize {
    (BLOCK / channels).max(1) * channels
}

/// Number of values, their mean, and the sum of their squared deviations.
#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    const NONE: Self = Self { count: 0.0, mean: 0.0, squares: 0.0 };

    /// The moments of both sets together (Chan et al. 1979).
    fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let delta = other.mean - self.mean;
        let mean = self.mean + delta * other.count / count;
        let squares =
            self.squares + other.squares + delta * delta * self.count * other.count / count;
        Self { count, mean, squares }
    }
}

/// Mean and biased variance of every column; see `moments`.
pub(super) fn column_moments<T: Real>(
    kernel: Kernel,
    x: &[T],
    channels: usize,
    mean: &mut [T],
    variance: &mut [T],
    sums: &mut Lines<f64>,
) {
    let block = block_len(channels);
    let parts = PartMoments::new(x.len().div_ceil(block), channels, sums);
    x.par_chunks(block).enumerate().for_each(|(part, x)| parts.take(kernel, part, x));
    parts.join(mean, variance);
}

/// The moments of a matrix that becomes known part by part, in any order.
#[derive(Debug)]
pub(crate) struct PartMoments<'a> {
    channels: usize,
    /// `[part][channel][count, mean, squares]`
    sums: Vec<Mutex<&'a mut [f64]>>,
}

impl<'a> PartMoments<'a> {
    pub(crate) fn new(parts: usize, channels: usize, sums: &'a mut Lines<f64>) -> Self {
        let sums = sums.at_least(parts * 3 * channels);
        sums.fill(0.0);
        Self { channels, sums: sums.chunks_mut(3 * channels).map(Mutex::new).collect() }
    }

    /// Takes the moments of whole rows, a part of the matrix.
    pub(crate) fn take<T: Real>(&self, kernel: Kernel, part: usize, rows: &[T]) {
        let channels = self.channels;
        assert!(rows.len().is_multiple_of(channels), "moments: rows must be whole");
        let moments = &mut *self.sums[part].lock().unwrap_or_else(PoisonError::into_inner);
        for x in rows.chunks(block_len(channels)) {
            T::dispatch(kernel, BlockMoments { x, channels, moments });
        }
    }

    /// Mean and biased variance of all parts together.
    pub(crate) fn join<T: Real>(self, mean: &mut [T], variance: &mut [T]) {
        let parts: Vec<_> = (self.sums.into_iter())
            .map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        for (c, (mean, variance)) in mean.iter_mut().zip(variance.iter_mut()).enumerate() {
            let all = parts.iter().map(|part| get(part, c)).fold(Moments::NONE, Moments::join);
            *mean = T::from_f64(all.mean);
            *variance = T::from_f64(all.squares / all.count);
        }
    }
}

fn get(moments: &[f64], channel: usize) -> Moments {
    let [count, mean, squares] = [0, 1, 2].map(|i| moments[3 * channel + i]);
    Moments { count, mean, squares }
}

/// `[Σ u, Σ u (x − mean)]` of every column, u the terms.
pub(super) fn column_sums<'s, T: Real>(
    kernel: Kernel,
    terms: Terms<'_, T>,
    x: &[T],
    mean: &[T],
    sums: &'s mut Lines<f64>,
) -> &'s [f64] {
    let channels = mean.len();
    assert_eq!(terms.len(), x.len(), "batch_norm: all operands must have the input's shape");
    let mean = mean.repeat(fold(channels));
    let block = block_len(channels);
    let sums = sums.at_least(x.len().div_ceil(block) * 2 * channels);
    (sums.par_chunks_mut(2 * channels).zip(x.par_chunks(block)).zip(terms.blocks(block))).for_each(
        |((sums, x), terms)| {
            T::dispatch(kernel, BlockSums { terms, x, mean: &mean, channels, sums });
        },
    );
    let (total, parts) = sums.split_at_mut(2 * channels);
    for part in parts.chunks_exact(2 * channels) {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

/// Coefficients of `a u + b (x − mean) + c`, one of each for every column.
pub(super) struct Affine<T> {
    pub(super) a: Vec<T>,
    pub(super) b: Vec<T>,
    pub(super) mean: Vec<T>,
    pub(super) c: Vec<T>,
}

impl<T: Real> Affine<T> {
    /// `[a, b, mean, c]` of each channel, repeated for the widened matrix.
    pub(super) fn new(channels: usize, coefficients: impl Fn(usize) -> [T; 4]) -> Self {
        let coefficients: Vec<_> = (0..channels).map(coefficients).collect();
        let all =
            |i: usize| coefficients.iter().map(|c| c[i]).collect::<Vec<_>>().repeat(fold(channels));
        Self { a: all(0), b: all(1), mean: all(2), c: all(3) }
    }
}

/// What an affine map reads at every element.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, T> {
    pub(super) u: &'a [T],
    /// Absent: b is zero.
    pub(super) x: Option<&'a [T]>,
    pub(super) residual: Option<&'a [T]>,
    /// Masks the result where ReLU's output is not above zero.
    pub(super) open_by_output: Option<&'a [T]>,
    /// Masks it where ReLU's input is not, which was made of `x`.
    pub(super) open_by_input: Option<ReluInput<'a, T>>,
    /// Whether the result goes through ReLU.
    pub(super) relu: bool,
}

impl<'a, T: Real> Operands<'a, T> {
    fn slice(&self, part: &std::ops::Range<usize>) -> Self {
        let cut = |s: Option<&'a [T]>| s.map(|s| &s[part.clone()]);
        Self {
            u: &self.u[part.clone()],
            x: cut(self.x),
            residual: cut(self.residual),
            open_by_output: cut(self.open_by_output),
            ..*self
        }
    }
}

/// `out = relu?(a u + b (x − mean) + c + residual)`, masked.
pub(super) fn affine<T: Real>(
    kernel: Kernel,
    map: &Affine<T>,
    operands: &Operands<'_, T>,
    out: &mut [T],
) {
    assert_eq!(operands.u.len(), out.len(), "batch_norm: output must have the input's shape");
    let block = block_len(map.a.len());
    out.par_chunks_mut(block).enumerate().for_each(|(i, out)| {
        let operands = operands.slice(&(i * block..i * block + out.len()));
        T::dispatch(kernel, BlockAffine { map, operands, out });
    });
}

/// Calls `$self.$method::<V, vectors>(first, width)` for groups of at most
/// [`GROUP`] vectors of `$columns` columns.
macro_rules! for_groups {
    ($self:ident.$method:ident, $columns:expr) => {
        for first in (0..$columns).step_by(GROUP * V::LANES) {
            let width = ($columns - first).min(GROUP * V::LANES);
            match width.div_ceil(V::LANES) {
                4 => $self.$method::<V, 4>(first, width),
                3 => $self.$method::<V, 3>(first, width),
                2 => $self.$method::<V, 2>(first, width),
                _ => $self.$method::<V, 1>(first, width),
            }
        }
    };
}

/// Vectors of one value for each column of a group.
type Group<T> = [T; GROUP_LANES];

/// # Safety
/// The CPU must have V's instructions.
#[inline(always)]
unsafe fn spill<V: Simd, const VECTORS: usize>(vectors: [V; VECTORS]) -> Group<V::Scalar> {
    const { assert!(VECTORS * V::LANES <= GROUP_LANES) };
    let mut group = [V::Scalar::ZERO; GROUP_LANES];
    for (v, vector) in vectors.into_iter().enumerate() {
        // SAFETY: the group holds all vectors, asserted above.
        unsafe { vector.store(group.as_mut_ptr().add(v * V::LANES)) }
    }
    group
}

/// Lanes of vector `v` of a group of `width` columns.
#[inline(always)]
fn lanes<V: Simd>(width: usize, v: usize) -> usize {
    (width - v * V::LANES).min(V::LANES)
}

/// `[count, mean, squares]` of each channel of a block, joined to what is there.
struct BlockMoments<'a, T> {
    x: &'a [T],
    channels: usize,
    moments: &'a mut [f64],
}

impl<T: Real> Task<T> for BlockMoments<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(mut self) {
        let columns = self.channels * fold(self.channels);
        // SAFETY: the caller's promise.
        unsafe { for_groups!(self.group, columns) }
    }
}

impl<T: Real> BlockMoments<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions; the group must be VECTORS wide.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]
    unsafe fn group<V: Simd<Scalar = T>, const VECTORS: usize>(
        &mut self,
        first: usize,
        width: usize,
    ) {
        let columns = self.channels * fold(self.channels);
        let rows = self.x.len() / columns;
        // The last row of the widened matrix may be a part of one.
        let rest = &self.x[rows * columns..];
        let rest = rest.get(first..).unwrap_or_default();
        let rest = &rest[..rest.len().min(width)];
        let count = |j: usize| rows + usize::from(j < rest.len());

        // SAFETY: whole rows lie in x; lanes past the group are not read.
        unsafe {
            let start = self.x.as_ptr().add(first);
            let mut sums = [V::zero(); VECTORS];
            for row in 0..rows {
                let x = start.add(row * columns);
                for v in 0..VECTORS {
                    let x = V::load_up_to(x.add(v * V::LANES), lanes::<V>(width, v));
                    sums[v] = sums[v].add(x);
                }
            }
            let mut mean = spill(sums);
            for j in 0..width {
                let sum = mean[j].to_f64() + rest.get(j).map_or(0.0, |x| x.to_f64());
                mean[j] = T::from_f64(sum / count(j).max(1) as f64);
            }

            let means: [V; VECTORS] =
                std::array::from_fn(|v| V::load(mean.as_ptr().add(v * V::LANES)));
            let (mut squares, mut errors) = ([V::zero(); VECTORS], [V::zero(); VECTORS]);
            for row in 0..rows {
                let x = start.add(row * columns);
                for v in 0..VECTORS {
                    let x = V::load_up_to(x.add(v * V::LANES), lanes::<V>(width, v));
                    let d = x.sub(means[v]);
                    squares[v] = d.mul_add(d, squares[v]);
                    errors[v] = errors[v].add(d);
                }
            }
            let (squares, errors) = (spill(squares), spill(errors));
            for j in 0..width {
                let d = rest.get(j).map_or(0.0, |x| x.to_f64() - mean[j].to_f64());
                let (count, error) = (count(j) as f64, errors[j].to_f64() + d);
                if count == 0.0 {
                    continue;
                }
                // The mean was rounded: what is left of it corrects both.
                let column = Moments {
                    count,
                    mean: mean[j].to_f64() + error / count,
                    squares: squares[j].to_f64() + d * d - error * error / count,
                };
                let channel = (first + j) % self.channels;
                let all = get(self.moments, channel).join(column);
                self.moments[3 * channel..][..3].copy_from_slice(&[
                    all.count,
                    all.mean,
                    all.squares,
                ]);
            }
        }
    }
}

/// `[Σ u]`, then `[Σ u (x − mean)]`, of each channel of a block.
struct BlockSums<'a, T> {
    terms: Terms<'a, T>,
    x: &'a [T],
    /// Widened.
    mean: &'a [T],
    channels: usize,
    sums: &'a mut [f64],
}

impl<T: Real> Task<T> for BlockSums<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(mut self) {
        self.sums.fill(0.0);
        // SAFETY: the caller's promise.
        unsafe { for_groups!(self.group, self.mean.len()) }
    }
}

impl<T: Real> BlockSums<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions; the group must be VECTORS wide.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]
    unsafe fn group<V: Simd<Scalar = T>, const VECTORS: usize>(
        &mut self,
        first: usize,
        width: usize,
    ) {
        let columns = self.mean.len();
        let rows = self.x.len() / columns;
        // SAFETY: whole rows lie in all operands; lanes past the group are not
        // read.
        unsafe {
            let mean: [V; VECTORS] = std::array::from_fn(|v| {
                let from = self.mean.as_ptr().add(first + v * V::LANES);
                V::load_up_to(from, lanes::<V>(width, v))
            });
            let (mut sums, mut products) = ([V::zero(); VECTORS], [V::zero(); VECTORS]);
            for row in 0..rows {
                let at = row * columns + first;
                for v in 0..VECTORS {
                    let (at, lanes) = (at + v * V::LANES, lanes::<V>(width, v));
                    let x = V::load_up_to(self.x.as_ptr().add(at), lanes);
                    let u = self.terms.at::<V>(at, first + v * V::LANES, lanes, x);
                    sums[v] = sums[v].add(u);
                    products[v] = u.mul_add(x.sub(mean[v]), products[v]);
                }
            }
            let (sums, products) = (spill(sums), spill(products));
            for j in 0..width {
                let channel = (first + j) % self.channels;
                self.sums[channel] += sums[j].to_f64();
                self.sums[self.channels + channel] += products[j].to_f64();
            }
        }
        // The last row of the widened matrix may be a part of one.
        let last = rows * columns;
        for i in (last + first..self.x.len()).take(width) {
            let mut u = T::ZERO;
            // SAFETY: the element lies in all operands.
            unsafe {
                let x = V::load_first(self.x.as_ptr().add(i), 1);
                self.terms.at::<V>(i, i - last, 1, x).store_first(&raw mut u, 1);
            }
            let (u, x) = (u.to_f64(), self.x[i].to_f64());
            let channel = (i - last) % self.channels;
            self.sums[channel] += u;
            self.sums[self.channels + channel] += u * (x - self.mean[i - last].to_f64());
        }
    }
}

/// A block of [`affine`].
struct BlockAffine<'a, T> {
    map: &'a Affine<T>,
    operands: Operands<'a, T>,
    out: &'a mut [T],
}

impl<T: Real> Task<T> for BlockAffine<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { map, operands: o, out } = self;
        let columns = map.a.len();
        let len = out.len();
        let out = out.as_mut_ptr();
        for start in (0..len).step_by(columns) {
            let width = columns.min(len - start);
            for column in (0..width).step_by(V::LANES) {
                let (i, lanes) = (start + column, V::LANES.min(width - column));
                // The switches are the same in the whole loop, so the CPU
                // predicts them; memory is what this waits for.
                // SAFETY: the caller's promise; i + lanes ≤ len, the length of
                // all operands.
                unsafe {
                    let coefficient = |s: &[T]| V::load_up_to(s.as_ptr().add(column), lanes);
                    let operand = |s: &[T]| V::load_up_to(s.as_ptr().add(i), lanes);
                    let u = operand(o.u);
                    let mut value = u.mul_add(coefficient(&map.a), coefficient(&map.c));
                    let x = o.x.map(operand);
                    if let Some(x) = x {
                        let centred = x.sub(coefficient(&map.mean));
                        value = centred.mul_add(coefficient(&map.b), value);
                    }
                    if let Some(residual) = o.residual {
                        value = value.add(operand(residual));
                    }
                    if let Some(output) = o.open_by_output {
                        value = value.where_positive(operand(output));
                    }
                    if let (Some(relu), Some(x)) = (o.open_by_input, x) {
                        value = value.where_positive(relu.of(x, column, lanes));
                    }
                    if o.relu {
                        value = value.relu();
                    }
                    value.store_up_to(out.add(i), lanes);
                }
            }
        }
    }
}
