//! Batch normalisation by fixed statistics, of a convolution's result while it
//! is still in the cache.

use crate::Kernel;
use crate::kernels::simd::{Real, Simd, Task};

/// `y = relu?(x · scale + shift (+ residual))`, with the statistics folded into
/// `scale = γ s` and `shift = β − μ γ s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalisation<'a, T> {
    /// `[channels]`
    pub(crate) scale: &'a [T],
    /// `[channels]`
    pub(crate) shift: &'a [T],
    /// Like the convolution's result.
    pub(crate) residual: Option<&'a [T]>,
    pub(crate) relu: bool,
}

impl<T: Real> Normalisation<'_, T> {
    /// Normalises whole rows, which start at element `first` of the result.
    pub(crate) fn apply(&self, kernel: Kernel, first: usize, rows: &mut [T]) {
        let channels = self.scale.len();
        assert!(
            self.shift.len() == channels && rows.len().is_multiple_of(channels),
            "batch_norm: rows must be whole"
        );
        let residual = self.residual.map(|residual| &residual[first..][..rows.len()]);
        T::dispatch(kernel, Rows { by: Normalisation { residual, ..*self }, rows });
    }
}

struct Rows<'a, T> {
    by: Normalisation<'a, T>,
    rows: &'a mut [T],
}

impl<T: Real> Task<T> for Rows<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { by: Normalisation { scale, shift, residual, relu }, rows } = self;
        for start in (0..rows.len()).step_by(scale.len()) {
            for column in (0..scale.len()).step_by(V::LANES) {
                let lanes = V::LANES.min(scale.len() - column);
                // SAFETY: the caller's promise; rows, and the residual's, are
                // whole, with a scale and a shift for each column.
                unsafe {
                    let coefficient = |s: &[T]| V::load_up_to(s.as_ptr().add(column), lanes);
                    let at = rows.as_mut_ptr().add(start + column);
                    let x = V::load_up_to(at, lanes);
                    let mut y = x.mul_add(coefficient(scale), coefficient(shift));
                    if let Some(residual) = residual {
                        let from = residual.as_ptr().add(start + column);
                        y = y.add(V::load_up_to(from, lanes));
                    }
                    if relu {
                        y = y.relu();
                    }
                    y.store_up_to(at, lanes);
                }
            }
        }
    }
}
