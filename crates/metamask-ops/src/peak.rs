//! Work that does nothing but what a machine is fastest at: timed, the mark for
//! every rate. Whoever wants a rate brings the clock.

use rayon::prelude::*;

use crate::{Precision, kernels};

/// Multiplies and adds in registers on all worker threads, `rounds` times into each
/// vector that a tile of a matrix product holds: f32, or pairs of bfloat16 for
/// [`Precision::Bf16`]. Returns the number of multiplications and additions.
///
/// Convolutions by Winograd's method may seem to pass the rate of this: they have
/// fewer multiplications than the definition that is counted.
pub fn multiply_adds(precision: Precision, rounds: u64) -> u64 {
    let run = || match precision {
        Precision::Exact | Precision::Fast => kernels::multiply_adds::<false>(rounds),
        Precision::Bf16 => kernels::multiply_adds::<true>(rounds),
    };
    rayon::broadcast(|_| run()).iter().sum()
}

/// Copies by all worker threads.
///
/// # Panics
/// If the lengths differ.
pub fn copy(source: &[f32], target: &mut [f32]) {
    const PART: usize = 1 << 16;
    assert_eq!(source.len(), target.len(), "copy: lengths differ");
    let parts = target.par_chunks_mut(PART).zip(source.par_chunks(PART));
    parts.for_each(|(to, from)| to.copy_from_slice(from));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads;

    #[test]
    fn operations_are_counted_and_grow_with_the_rounds() {
        for precision in [Precision::Exact, Precision::Bf16] {
            let [once, thrice] = [1, 3].map(|rounds| multiply_adds(precision, rounds));
            assert_eq!(thrice, 3 * once);
            assert_eq!(once % (2 * threads() as u64), 0, "of every thread the same");
        }
        let ratio = multiply_adds(Precision::Bf16, 1) / multiply_adds(Precision::Exact, 1);
        assert_eq!(ratio, 2, "a word of two");
    }

    #[test]
    fn everything_is_copied() {
        let source: Vec<f32> = (0..(1 << 16) + 7).map(|i| i as f32).collect();
        let mut target = vec![0.0; source.len()];
        copy(&source, &mut target);
        assert_eq!(source, target);
    }
}
