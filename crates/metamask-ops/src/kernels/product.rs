//! Products of every row of one matrix with every row of another, shown a piece at
//! a time: nobody has to hold all of them.

use rayon::prelude::*;

use super::lines::Lines;
use super::simd::{Real, Simd, Task};
use crate::Kernel;

/// Rows of the right matrix that are packed, and whose products are shown, at once;
/// 1024 · 96 products are 384 KiB of f32, a part of the second-level cache.
const COLUMNS: usize = 1024;
/// Rows of the left matrix of a task. A packed panel is read once for all of them.
const ROWS: usize = 96;
/// Products of two rows that are added up before the next rows have their turn: a panel's
/// part, 64 columns of f32 there, is 32 KiB, which the first-level cache keeps for all rows.
const TERMS: usize = 128;

/// Calls `visit(state of a row, first, products)` for every row of `left`, with its
/// products with the rows of `right` from `first` on, in order until all were shown.
///
/// # Shapes
/// `left`: `[n, dim]` with n `states`, `right`: `[m, dim]`.
pub(crate) fn visit_products<T: Real, S: Send>(
    kernel: Kernel,
    (left, right): (&[T], &[T]),
    dim: usize,
    states: &mut [S],
    visit: impl Fn(&mut S, usize, &[T]) + Sync,
) {
    assert_eq!(left.len(), states.len() * dim, "products: one state a row of the left");
    assert!(dim > 0 && right.len().is_multiple_of(dim), "products: whole rows of the right");
    let (lanes, vectors) = T::tile_columns(kernel);
    let width = lanes * vectors;
    let mut packed = Lines::default();
    for (block, right) in right.chunks(COLUMNS * dim).enumerate() {
        let columns = right.len() / dim;
        let padded = columns.next_multiple_of(width);
        let packed = packed.at_least(padded * dim);
        pack(right, dim, width, packed);
        let rows = states.par_chunks_mut(ROWS).zip(left.par_chunks(ROWS * dim));
        rows.for_each_init(Lines::default, |products, (states, left)| {
            let products = products.at_least(states.len() * padded);
            T::dispatch(kernel, Products { left, packed, dim, products: &mut *products });
            let visit = |state: &mut S, products: &[T]| {
                visit(state, block * COLUMNS, &products[..columns]);
            };
            T::dispatch(kernel, Visits { states, products, padded, visit });
        });
    }
}

/// `[panel][dim][width]`, zeros where the right has no row.
fn pack<T: Real>(right: &[T], dim: usize, width: usize, packed: &mut [T]) {
    let panels = packed.par_chunks_exact_mut(dim * width).zip(right.par_chunks(width * dim));
    panels.for_each(|(panel, right)| {
        if right.len() < width * dim {
            panel.fill(T::ZERO);
        }
        for (column, row) in right.chunks_exact(dim).enumerate() {
            for (to, &value) in panel[column..].iter_mut().step_by(width).zip(row) {
                *to = value;
            }
        }
    });
}

struct Products<'a, T> {
    left: &'a [T],
    packed: &'a [T],
    dim: usize,
    products: &'a mut [T],
}

impl<T: Real> Task<T> for Products<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match V::TILE_SUMS {
                24 => self.tiles::<V, 6, 4>(),
                12 => self.tiles::<V, 6, 2>(),
                _ => self.tiles::<V, 4, 2>(),
            }
        }
    }
}

/// Shows each row its products. A task, so that what is inlined here has the instructions.
struct Visits<'a, T, S, F> {
    states: &'a mut [S],
    products: &'a [T],
    padded: usize,
    visit: F,
}

impl<T: Real, S, F: Fn(&mut S, &[T])> Task<T> for Visits<'_, T, S, F> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        for (state, products) in self.states.iter_mut().zip(self.products.chunks_exact(self.padded))
        {
            (self.visit)(state, products);
        }
    }
}

impl<T: Real> Products<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions.
    #[inline(always)]
    unsafe fn tiles<V: Simd<Scalar = T>, const ROWS: usize, const VECTORS: usize>(self) {
        let Self { left, packed, dim, products } = self;
        let (n, width) = (left.len() / dim, VECTORS * V::LANES);
        let padded = packed.len() / dim;
        for (p, panel) in packed.chunks_exact(dim * width).enumerate() {
            for (t, panel) in panel.chunks(TERMS * width).enumerate() {
                for first in (0..n).step_by(ROWS) {
                    let (mut x, mut y) = ([left.as_ptr(); ROWS], [products.as_mut_ptr(); ROWS]);
                    for i in 0..ROWS {
                        // Past the end the last row repeats: it is computed and stored again.
                        let row = (first + i).min(n - 1);
                        // SAFETY: row < n, a row is dim long; one of products has room for
                        // every panel.
                        unsafe {
                            x[i] = x[i].add(row * dim + t * TERMS);
                            y[i] = y[i].add(row * padded + p * width);
                        }
                    }
                    // SAFETY: the caller's promise; the panel's part is as long as the rows'.
                    unsafe { tile::<V, ROWS, VECTORS>(x, panel, y, t > 0) }
                }
            }
        }
    }
}

/// `y[i][v] (+)= Σ_k x[i][k] panel[k][v]`, onto what `y` holds if `load`.
///
/// # Safety
/// The CPU must have V's instructions. `panel` holds VECTORS vectors for each k; each x must
/// be readable for every k, each y writable for VECTORS vectors.
#[inline(always)]
unsafe fn tile<V: Simd, const ROWS: usize, const VECTORS: usize>(
    x: [*const V::Scalar; ROWS],
    panel: &[V::Scalar],
    y: [*mut V::Scalar; ROWS],
    load: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        if load {
            for (sums, y) in sums.iter_mut().zip(y) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(y.add(v * V::LANES));
                }
            }
        }
        for (k, panel) in panel.chunks_exact(VECTORS * V::LANES).enumerate() {
            let mut columns = [V::zero(); VECTORS];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = V::load(panel.as_ptr().add(v * V::LANES));
            }
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = V::splat(*x.add(k));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = x.mul_add(column, *sum);
                }
            }
        }
        for (sums, y) in sums.iter().zip(y) {
            for (v, sum) in sums.iter().enumerate() {
                sum.store(y.add(v * V::LANES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_same_for_any_threads, values, widen};

    /// Sums of up to 300 products in f32, some of them far larger than the rest.
    const TOLERANCE_F32: f64 = 1e-5;
    const TOLERANCE_F64: f64 = 1e-14;

    /// All products, row by row; pieces must come in order.
    fn products<T: Real>(kernel: Kernel, left: &[T], right: &[T], dim: usize) -> Vec<Vec<T>> {
        let mut rows = vec![Vec::new(); left.len() / dim];
        visit_products(kernel, (left, right), dim, &mut rows, |row, first, products| {
            assert_eq!(row.len(), first, "in order");
            row.extend_from_slice(products);
        });
        rows
    }

    fn check<T: Real>(kernel: Kernel, (n, m, dim): (usize, usize, usize), tolerance: f64) {
        let (left, right) = (values::<T>(n * dim, 1), values::<T>(m * dim, 2));
        let got = products(kernel, &left, &right, dim).concat();
        let (left, right) = (widen(&left), widen(&right));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let expected: Vec<f64> =
            left.chunks(dim).flat_map(|a| right.chunks(dim).map(move |b| dot(a, b))).collect();
        assert_close(&format!("{kernel:?}, {n} x {m} x {dim}"), &got, &expected, tolerance);
    }

    #[test]
    fn products_equal_the_definition_for_every_shape_and_instruction_set() {
        for shape in [(1, 1, 1), (1, 65, 3), (7, 64, 300), (97, 100, 5), (200, 1030, 129)] {
            check::<f64>(Kernel::Portable, shape, TOLERANCE_F64);
            for kernel in Kernel::supported() {
                check::<f32>(kernel, shape, TOLERANCE_F32);
            }
        }
    }

    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        let (left, right) = (values::<f32>(300 * 17, 1), values::<f32>(1500 * 17, 2));
        assert_same_for_any_threads("products", || products(Kernel::current(), &left, &right, 17));
    }
}
