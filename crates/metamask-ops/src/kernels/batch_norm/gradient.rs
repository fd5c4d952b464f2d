//! The gradient's own loops: what ReLU lets through, and the map to the input.

use rayon::prelude::*;

use super::columns::{Affine, block_len};
use crate::Kernel;
use crate::kernels::simd::{Real, Simd, Task};

/// A gradient (or a tangent) u, and what of it counts.
pub(super) enum Terms<'a, T> {
    /// All of it.
    All(&'a [T]),
    /// Where y, the output of ReLU, is above zero; elsewhere zeros are written to u.
    WhereOutput { u: &'a mut [T], y: &'a [T] },
    /// Where the input of ReLU is above zero.
    WhereInput { u: &'a [T], relu: ReluInput<'a, T> },
}

/// What ReLU read, `x · scale + shift`: computed again, the same bits, from numbers that
/// are read anyway. The coefficients are those of the widened matrix.
#[derive(Clone, Copy)]
pub(super) struct ReluInput<'a, T> {
    pub(super) scale: &'a [T],
    pub(super) shift: &'a [T],
}

impl<T: Real> ReluInput<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions, and the matrix `lanes` columns from
    /// `column` on.
    #[inline(always)]
    pub(super) unsafe fn of<V: Simd<Scalar = T>>(&self, x: V, column: usize, lanes: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let coefficient = |s: &[T]| V::load_up_to(s.as_ptr().add(column), lanes);
            x.mul_add(coefficient(self.scale), coefficient(self.shift))
        }
    }
}

impl<T: Real> Terms<'_, T> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::All(u) | Self::WhereInput { u, .. } => u.len(),
            Self::WhereOutput { u, .. } => u.len(),
        }
    }

    /// The `lanes` terms from element `at` on, which lies in `column` of the widened
    /// matrix; `x` is what the layer read there.
    ///
    /// # Safety
    /// The CPU must have V's instructions; the elements must exist.
    #[inline(always)]
    pub(super) unsafe fn at<V: Simd<Scalar = T>>(
        &mut self,
        at: usize,
        column: usize,
        lanes: usize,
        x: V,
    ) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::All(u) => V::load_up_to(u.as_ptr().add(at), lanes),
                Self::WhereOutput { u, y } => {
                    let place = u.as_mut_ptr().add(at);
                    let y = V::load_up_to(y.as_ptr().add(at), lanes);
                    let u = V::load_up_to(place, lanes).where_positive(y);
                    u.store_up_to(place, lanes);
                    u
                }
                Self::WhereInput { u, relu } => V::load_up_to(u.as_ptr().add(at), lanes)
                    .where_positive(relu.of(x, column, lanes)),
            }
        }
    }
}

impl<'a, T: Real> Terms<'a, T> {
    /// Cut into blocks of `len`, whole rows.
    pub(super) fn blocks(self, len: usize) -> Vec<Self> {
        match self {
            Self::All(u) => u.chunks(len).map(Self::All).collect(),
            Self::WhereOutput { u, y } => (u.chunks_mut(len).zip(y.chunks(len)))
                .map(|(u, y)| Self::WhereOutput { u, y })
                .collect(),
            Self::WhereInput { u, relu } => {
                u.chunks(len).map(|u| Self::WhereInput { u, relu }).collect()
            }
        }
    }
}

/// `dx = a g + b (x − mean) + c`, with g masked by ReLU's input if that is given; x
/// absent: b is zero. Without `dx` the result takes the place of g.
pub(super) fn input_gradient<T: Real>(
    kernel: Kernel,
    map: &Affine<T>,
    x: &[T],
    x_counts: bool,
    relu: Option<ReluInput<'_, T>>,
    g: &mut [T],
    dx: Option<&mut [T]>,
) {
    let len = block_len(map.a.len());
    let run = |x, g, dx| {
        T::dispatch(kernel, BlockGradient { map, x, x_counts, relu, g, dx });
    };
    match dx {
        None => {
            g.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(g, x)| run(x, None, g));
        }
        Some(dx) => {
            assert_eq!(dx.len(), g.len(), "batch_norm: dx must have dy's shape");
            (dx.par_chunks_mut(len).zip(g.par_chunks(len)).zip(x.par_chunks(len)))
                .for_each(|((dx, g), x)| run(x, Some(g), dx));
        }
    }
}

/// A block of [`input_gradient`].
struct BlockGradient<'a, T> {
    map: &'a Affine<T>,
    x: &'a [T],
    x_counts: bool,
    relu: Option<ReluInput<'a, T>>,
    /// Absent: it lies where the result is to go.
    g: Option<&'a [T]>,
    dx: &'a mut [T],
}

impl<T: Real> Task<T> for BlockGradient<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { map, x, x_counts, relu, g, dx } = self;
        let columns = map.a.len();
        let len = dx.len();
        let to = dx.as_mut_ptr();
        let g = g.map_or(to.cast_const(), <[T]>::as_ptr);
        for start in (0..len).step_by(columns) {
            let width = columns.min(len - start);
            for column in (0..width).step_by(V::LANES) {
                let (i, lanes) = (start + column, V::LANES.min(width - column));
                // SAFETY: the caller's promise; i + lanes ≤ len, the length of all
                // operands. An element is read before it is written.
                unsafe {
                    let coefficient = |s: &[T]| V::load_up_to(s.as_ptr().add(column), lanes);
                    let mut g = V::load_up_to(g.add(i), lanes);
                    let x = V::load_up_to(x.as_ptr().add(i), lanes);
                    if let Some(relu) = relu {
                        g = g.where_positive(relu.of(x, column, lanes));
                    }
                    let mut value = g.mul_add(coefficient(&map.a), coefficient(&map.c));
                    if x_counts {
                        let centred = x.sub(coefficient(&map.mean));
                        value = centred.mul_add(coefficient(&map.b), value);
                    }
                    value.store_up_to(to.add(i), lanes);
                }
            }
        }
    }
}
