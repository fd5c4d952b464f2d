//! Loops that do nothing but what a CPU is fastest at.

use std::hint::black_box;

use super::simd::{Real, Simd, Task};
use crate::Kernel;

/// `rounds` multiply-adds into each of as many vectors as a tile of a matrix
/// product has. Returns the number of multiplications and additions.
pub(crate) fn multiply_adds<const PAIRS: bool>(rounds: u64) -> u64 {
    let mut task = MultiplyAdds::<PAIRS> { rounds, operations: 0 };
    match PAIRS {
        true => f32::dispatch_pairs(Kernel::current(), &mut task),
        false => f32::dispatch(Kernel::current(), &mut task),
    }
    task.operations
}

struct MultiplyAdds<const PAIRS: bool> {
    rounds: u64,
    operations: u64,
}

impl<const PAIRS: bool> Task<f32> for &mut MultiplyAdds<PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = f32>>(self) {
        let terms = V::LANES * V::TILE_SUMS * if PAIRS { 2 } else { 1 };
        self.operations = 2 * terms as u64 * self.rounds;
        // SAFETY: the caller's promise.
        unsafe {
            match V::TILE_SUMS {
                24 => sum::<V, PAIRS, 24>(self.rounds),
                12 => sum::<V, PAIRS, 12>(self.rounds),
                _ => sum::<V, PAIRS, 8>(self.rounds),
            }
        }
    }
}

/// # Safety
/// The CPU must have V's instructions.
#[inline(always)]
unsafe fn sum<V: Simd<Scalar = f32>, const PAIRS: bool, const SUMS: usize>(rounds: u64) {
    // SAFETY: the caller's promise; `lanes` holds a vector.
    unsafe {
        let (x, factor) = (V::splat(black_box(1e-3)), V::splat(black_box(1e-3)));
        let mut sums = [V::zero(); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = x.mul_add_words::<PAIRS>(factor, *sum);
            }
        }
        let mut lanes = vec![0.0; V::LANES];
        for sum in sums {
            sum.store(lanes.as_mut_ptr());
            black_box(&lanes);
        }
    }
}
