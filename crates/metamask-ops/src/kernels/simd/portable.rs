//! Vectors as plain arrays: any CPU, any scalar.

use super::{Real, Simd};

/// `N` scalars that the compiler is expected to keep in one register (128 bits
/// exist on every x86-64 and aarch64).
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes<T, const N: usize>([T; N]);

impl<T: Real, const N: usize> Lanes<T, N> {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(T, T) -> T) -> Self {
        let mut lanes = self.0;
        for (a, b) in lanes.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        Self(lanes)
    }
}

impl<T: Real, const N: usize> Simd for Lanes<T, N> {
    type Scalar = T;
    const LANES: usize = N;
    const TILE_VECTORS: usize = 2;
    const TILE_SUMS: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: T) -> Self {
        Self([value; N])
    }

    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller promises N readable elements; an array has the
        // alignment of its element.
        Self(unsafe { *from.cast() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const T, lanes: usize) -> Self {
        let mut all = [T::ZERO; N];
        for (i, lane) in all.iter_mut().enumerate().take(lanes) {
            // SAFETY: the caller promises `lanes` readable elements.
            *lane = unsafe { *from.add(i) };
        }
        Self(all)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: the caller promises N writable elements.
        unsafe { *to.cast() = self.0 }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut T, lanes: usize) {
        for (i, &lane) in self.0.iter().enumerate().take(lanes) {
            // SAFETY: the caller promises `lanes` writable elements.
            unsafe { *to.add(i) = lane }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Two roundings: without the instruction a fused one is a library call.
        self.zip(factor, |a, b| a * b).zip(addend, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn pair(self, odd: Self) -> Self {
        self.zip(odd, T::pair)
    }

    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut T) {
        for (i, pair) in self.0.as_chunks::<2>().0.iter().enumerate() {
            // SAFETY: the caller promises N / 2 writable elements.
            unsafe { *to.add(i) = T::pair(pair[0], pair[1]) }
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, factor: Self, addend: Self) -> Self {
        let products = self.zip(factor, |a, b| {
            let ([a, c], [b, d]) = (a.unpair(), b.unpair());
            a * b + c * d
        });
        products.zip(addend, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn where_positive(self, gate: Self) -> Self {
        self.zip(gate, |a, g| if g > T::ZERO { a } else { T::ZERO })
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        self.zip(self, |a, _| if a < T::ZERO { T::ZERO } else { a })
    }
}
