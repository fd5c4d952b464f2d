//! What this machine does at most: the best of some tries.

use std::time::{Duration, Instant};

use metamask_ops::{Precision, copy, multiply_adds};

const TRIES: usize = 5;

/// GFLOP/s of multiply-adds with operands in registers, all worker threads together.
pub(super) fn gflops(precision: Precision) -> f64 {
    let once = |rounds| {
        let start = Instant::now();
        let operations = multiply_adds(precision, rounds);
        (operations, start.elapsed())
    };
    let mut rounds = 1 << 10;
    while once(rounds).1 < Duration::from_millis(20) {
        rounds *= 2;
    }
    best((0..TRIES).map(|_| once(rounds)))
}

/// GB/s read and written by a copy that no cache holds (128 MiB).
pub(super) fn copied_gigabytes() -> f64 {
    let source = vec![1.0; 1 << 25];
    let mut target = vec![0.0; source.len()];
    best((0..TRIES).map(|_| {
        let start = Instant::now();
        copy(&source, &mut target);
        (2 * size_of_val(&*source) as u64, start.elapsed())
    }))
}

fn best(tries: impl Iterator<Item = (u64, Duration)>) -> f64 {
    tries.map(|(amount, time)| 1e-9 * amount as f64 / time.as_secs_f64()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_this_world() {
        // Any CPU of these ten years does a billion, none a hundred million million.
        for rate in [gflops(Precision::Exact), gflops(Precision::Bf16)] {
            assert!((1.0..1e5).contains(&rate), "{rate:e} GFLOP/s");
        }
        let rate = copied_gigabytes();
        assert!((0.1..1e4).contains(&rate), "{rate:e} GB/s");
    }
}
