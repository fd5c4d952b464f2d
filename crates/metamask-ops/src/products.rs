//! Products of the rows of two matrices, for who wants to see them but not keep them.

use crate::{Kernel, kernels};

/// Calls `visit(state, first, products)` for every row of `left`: the row's state, and
/// its inner products with the rows of `right` from number `first` on. Each row sees all
/// its products, in order, a thousand at most at a time.
///
/// Rows are visited by several threads; a row's products do not depend on how many.
///
/// ```
/// # use metamask_ops::visit_products;
/// // The largest product of each row of [[1, 2], [3, 4]] with (1, 0) and (0, 1).
/// let mut largest = [f32::NEG_INFINITY; 2];
/// visit_products(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0, 0.0, 1.0], 2, &mut largest, |of_row, _, products| {
///     *of_row = products.iter().copied().fold(*of_row, f32::max);
/// });
/// assert_eq!(largest, [2.0, 4.0]);
/// ```
/// # Shapes
/// `left`: `[n, dim]` with n `states`; `right`: `[m, dim]`.
/// # Panics
/// If a matrix is not whole rows, or there is not one state for each of the left.
pub fn visit_products<S: Send>(
    left: &[f32],
    right: &[f32],
    dim: usize,
    states: &mut [S],
    visit: impl Fn(&mut S, usize, &[f32]) + Sync,
) {
    kernels::visit_products(Kernel::current(), (left, right), dim, states, visit);
}
