//! Counter-based random numbers: every draw is a pure function of
//! (seed, purpose, epoch, sample, view) and of its position in the stream.
//!
//! Nothing here holds global state, so results depend neither on the thread
//! that draws nor on what was drawn before, and a resumed run needs no saved
//! generator. Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
//! easy as 1, 2, 3") turns (key, counter) into four words; the distributions
//! are defined here too, with `libm` only, so that they do not change with a
//! library or a platform.

#![forbid(unsafe_code)]

mod philox;

use philox::philox4x32_10;

/// What a number is drawn for. Two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights.
    Initialisation = 1,
    /// Order of the samples in an epoch.
    Shuffle = 2,
    /// Augmentation parameters of a view.
    Augmentation = 3,
    /// A generated scene.
    Scene = 4,
    /// The evaluation's own draws: splits, order of the probe's batches.
    Evaluation = 5,
    /// Inputs of tests, benchmarks and examples.
    Test = 6,
    /// What a queue of embeddings holds before the first batch.
    SupportQueue = 7,
    /// Which dimension of a mask is moved by which one's gradient, in a control.
    MaskShuffle = 8,
    /// What gradients are measured on after training: batches, views, orders of a mask.
    Gradients = 9,
}

/// Names one stream of random numbers.
///
/// ```
/// use metamask_random::{Key, Purpose};
/// let key = Key::new(7, Purpose::Augmentation).epoch(3).sample(41).view(1);
/// assert_eq!(key.stream().next_u32(), key.stream().next_u32());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    seed: u64,
    purpose: Purpose,
    epoch: u32,
    sample: u32,
    view: u16,
}

impl Key {
    /// The stream of `purpose` under `seed`, at epoch, sample and view 0.
    pub const fn new(seed: u64, purpose: Purpose) -> Self {
        Self { seed, purpose, epoch: 0, sample: 0, view: 0 }
    }

    /// The same stream in another epoch (or split, or layer: the first index).
    pub const fn epoch(self, epoch: u32) -> Self {
        Self { epoch, ..self }
    }

    /// The same stream for another sample (the second index).
    pub const fn sample(self, sample: u32) -> Self {
        Self { sample, ..self }
    }

    /// The same stream for another view (the third index).
    pub const fn view(self, view: u16) -> Self {
        Self { view, ..self }
    }

    /// Starts reading at the stream's first number.
    pub const fn stream(self) -> Stream {
        Stream { key: self, block: 0, words: [0; 4], used: 4 }
    }
}

/// A cursor over one stream.
#[derive(Clone, Debug)]
pub struct Stream {
    key: Key,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let Key { seed, purpose, epoch, sample, view } = self.key;
            let tag = ((purpose as u32) << 16) | u32::from(view);
            let counter = [self.block, sample, epoch, tag];
            self.words = philox4x32_10([seed as u32, (seed >> 32) as u32], counter);
            // 2^34 words a stream; a wrap would repeat it.
            self.block = self.block.checked_add(1).expect("a stream holds 2^34 words");
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// 64 random bits, the earlier word in the low half.
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | (u64::from(self.next_u32()) << 32)
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻²⁴.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`; `low` when the interval is empty.
    pub fn uniform_in(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform over `0..n`, without bias (Lemire 2019).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0, "below: n must be positive");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Standard normal (Box–Muller; the second of the pair is not kept, so that
    /// the number of words a draw takes does not depend on the draws before).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform_f64()));
        radius * libm::cos(std::f64::consts::TAU * self.uniform_f64())
    }

    /// A uniform permutation of `0..n` (Fisher–Yates, from the end).
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i as usize, self.below(i + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::new(42, Purpose::Test);

    #[test]
    fn streams_of_different_keys_differ() {
        let keys = [
            KEY,
            KEY.epoch(1),
            KEY.sample(1),
            KEY.view(1),
            Key::new(43, Purpose::Test),
            Key::new(42 | 1 << 40, Purpose::Test),
            Key::new(42, Purpose::Shuffle),
        ];
        let firsts: Vec<u64> = keys.iter().map(|key| key.stream().next_u64()).collect();
        for (i, a) in firsts.iter().enumerate() {
            assert!(firsts[i + 1..].iter().all(|b| a != b), "key {i} shares its stream");
        }
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        const N: usize = 200_000;
        let mut stream = KEY.stream();
        let uniform: f64 = (0..N).map(|_| f64::from(stream.uniform())).sum::<f64>() / N as f64;
        // Standard error of the mean: 0.289 / sqrt(N) = 6.5e-4.
        assert!((uniform - 0.5).abs() < 4.0 * 6.5e-4, "mean {uniform}");

        let draws: Vec<f64> = (0..N).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / N as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64;
        let kurtosis = draws.iter().map(|x| (x - mean).powi(4)).sum::<f64>() / N as f64;
        // Standard errors: 1, sqrt 2 and sqrt 96 over sqrt(N).
        assert!(mean.abs() < 4.0 * 2.3e-3, "mean {mean}");
        assert!((variance - 1.0).abs() < 4.0 * 3.2e-3, "variance {variance}");
        assert!((kurtosis - 3.0).abs() < 4.0 * 2.2e-2, "kurtosis {kurtosis}");
    }

    #[test]
    fn below_is_uniform_and_stays_below() {
        let mut stream = KEY.stream();
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Standard deviation of a count: sqrt(70000 · 1/7 · 6/7) = 92.6.
        assert!(counts.iter().all(|&c| (f64::from(c) - 10_000.0).abs() < 4.5 * 92.6), "{counts:?}");
    }

    #[test]
    fn permutation_holds_every_index_once() {
        let mut order = KEY.stream().permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
        assert_eq!(KEY.stream().permutation(1), [0]);
        assert!(KEY.stream().permutation(0).is_empty());
    }
}
