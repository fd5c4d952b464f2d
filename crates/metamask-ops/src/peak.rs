//! What this machine does at most, measured: the mark for every rate.

use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::{Precision, kernels};

const TRIES: usize = 5;

/// Multiplications and additions in a second, with operands in registers: of f32, or
/// of bfloat16 for [`Precision::Bf16`]; all worker threads together, the best of
/// five tries of some 20 ms each.
///
/// Convolutions by Winograd's method may seem to pass it: they have fewer
/// multiplications than the definition that is counted.
pub fn multiply_add_rate(precision: Precision) -> f64 {
    let run = |rounds| match precision {
        Precision::Exact | Precision::Fast => kernels::multiply_adds::<false>(rounds),
        Precision::Bf16 => kernels::multiply_adds::<true>(rounds),
    };
    let mut rounds = 1 << 10;
    let once = |rounds| {
        let start = Instant::now();
        let operations: u64 = rayon::broadcast(|_| run(rounds)).iter().sum();
        (operations, start.elapsed())
    };
    while once(rounds).1 < Duration::from_millis(20) {
        rounds *= 2;
    }
    best((0..TRIES).map(|_| once(rounds)))
}

/// Bytes read and written in a second by a copy that no cache holds (128 MiB), all
/// worker threads together, the best of five tries.
pub fn copy_rate() -> f64 {
    const ELEMENTS: usize = 1 << 25;
    let source = vec![1.0_f32; ELEMENTS];
    let mut target = vec![0.0_f32; ELEMENTS];
    best((0..TRIES).map(|_| {
        let start = Instant::now();
        let parts = target.par_chunks_mut(1 << 16).zip(source.par_chunks(1 << 16));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
        ((2 * size_of_val(&*source)) as u64, start.elapsed())
    }))
}

fn best(tries: impl Iterator<Item = (u64, Duration)>) -> f64 {
    tries.map(|(amount, time)| amount as f64 / time.as_secs_f64()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_this_world() {
        // Any CPU of these ten years does a billion, none a hundred million million.
        for precision in [Precision::Exact, Precision::Bf16] {
            let rate = multiply_add_rate(precision);
            assert!((1e9..1e14).contains(&rate), "{precision:?}: {rate:e}");
        }
        let rate = copy_rate();
        assert!((1e8..1e13).contains(&rate), "{rate:e}");
    }
}
