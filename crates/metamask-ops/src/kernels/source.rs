//! What a convolution reads: an activation as it lies in memory, or normalised on the way.
//!
//! Where only a convolution reads a normalised activation, that activation need not exist:
//! the convolution copies what it reads anyhow, to give it a border or to bring it to
//! Winograd's points, and can normalise as it copies. The same operations on the same
//! numbers: the same bits.

use std::ops::Range;

use super::simd::{Real, Simd};

/// `relu?(x · scale + shift)` of each channel: a normalisation with its statistics folded
/// in, `scale = γ s`, `shift = β − μ γ s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling<'a, T> {
    /// `[channels]`
    pub(crate) scale: &'a [T],
    /// `[channels]`
    pub(crate) shift: &'a [T],
    pub(crate) relu: bool,
}

/// An activation `[…, channels]` to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a, T> {
    pub(crate) x: &'a [T],
    /// What becomes of x on the way.
    pub(crate) by: Option<Scaling<'a, T>>,
}

impl<'a, T> From<&'a [T]> for Source<'a, T> {
    fn from(x: &'a [T]) -> Self {
        Self { x, by: None }
    }
}

impl<'a, T: Real> Source<'a, T> {
    /// Other pixels of the same activation, or of one like it.
    pub(super) fn at(self, x: &'a [T]) -> Self {
        Self { x, ..self }
    }

    /// Copies some of `c` channels of the pixels from element `first` on, as many pixels
    /// as `to` has room for.
    ///
    /// # Safety
    /// The CPU must have V's instructions.
    #[inline(always)]
    pub(super) unsafe fn copy<V: Simd<Scalar = T>>(
        &self,
        first: usize,
        c: usize,
        channels: Range<usize>,
        to: &mut [T],
    ) {
        let from = &self.x[first..][..to.len() / channels.len() * c];
        let pixels = to.chunks_exact_mut(channels.len()).zip(from.chunks_exact(c));
        match self.by {
            None if channels.len() == c => to.copy_from_slice(from),
            None => pixels.for_each(|(to, from)| to.copy_from_slice(&from[channels.clone()])),
            Some(by) => {
                by.check(c);
                for (to, from) in pixels {
                    for i in (0..to.len()).step_by(V::LANES) {
                        let (channel, lanes) = (channels.start + i, V::LANES.min(to.len() - i));
                        // SAFETY: the caller's promise; the lanes lie in both pixels.
                        unsafe {
                            let x = V::load_up_to(from.as_ptr().add(channel), lanes);
                            by.of(x, channel, lanes).store_up_to(to.as_mut_ptr().add(i), lanes);
                        }
                    }
                }
            }
        }
    }

    /// The same of all channels, neighbouring ones as pairs: an even number of them.
    ///
    /// # Safety
    /// The CPU must have V's instructions.
    #[inline(always)]
    pub(super) unsafe fn copy_pairs<V: Simd<Scalar = T>>(
        &self,
        first: usize,
        c: usize,
        to: &mut [T],
    ) {
        let from = &self.x[first..][..2 * to.len()];
        // Without a normalisation pixels follow each other as channels do.
        let run = if self.by.is_some() { c } else { from.len() };
        if let Some(by) = self.by {
            by.check(c);
        }
        for (to, from) in to.chunks_exact_mut(run / 2).zip(from.chunks_exact(run)) {
            for i in (0..run).step_by(V::LANES) {
                let lanes = V::LANES.min(run - i);
                // SAFETY: the caller's promise; the lanes, and half as many words, exist.
                unsafe {
                    let mut x = V::load_up_to(from.as_ptr().add(i), lanes);
                    if let Some(by) = self.by {
                        x = by.of(x, i, lanes);
                    }
                    let to = to.as_mut_ptr().add(i / 2);
                    if lanes == V::LANES {
                        x.store_pairs(to);
                    } else {
                        let mut words = [T::ZERO; MOST_LANES];
                        const { assert!(V::LANES <= MOST_LANES) };
                        x.store_pairs(words.as_mut_ptr());
                        to.copy_from_nonoverlapping(words.as_ptr(), lanes / 2);
                    }
                }
            }
        }
    }
}

/// Lanes of the widest vectors.
const MOST_LANES: usize = 16;

impl<T: Real> Scaling<'_, T> {
    fn check(&self, channels: usize) {
        assert!(
            self.scale.len() == channels && self.shift.len() == channels,
            "batch_norm: a scale and a shift for each of {channels} channels"
        );
    }

    /// # Safety
    /// The CPU must have V's instructions; there must be `lanes` channels from `channel` on.
    #[inline(always)]
    unsafe fn of<V: Simd<Scalar = T>>(&self, x: V, channel: usize, lanes: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let coefficient = |s: &[T]| V::load_up_to(s.as_ptr().add(channel), lanes);
            let y = x.mul_add(coefficient(self.scale), coefficient(self.shift));
            if self.relu { y.relu() } else { y }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use crate::kernels::simd::Task;
    use crate::kernels::testing::values;

    /// Both copies of some pixels of `c` channels.
    struct Copies<'a, T> {
        source: Source<'a, T>,
        first: usize,
        c: usize,
        channels: Range<usize>,
        some: &'a mut [T],
        pairs: Option<&'a mut [T]>,
    }

    impl<T: Real> Task<T> for Copies<'_, T> {
        unsafe fn run<V: Simd<Scalar = T>>(self) {
            // SAFETY: the caller's promise.
            unsafe {
                self.source.copy::<V>(self.first, self.c, self.channels, self.some);
                if let Some(pairs) = self.pairs {
                    self.source.copy_pairs::<V>(self.first, self.c, pairs);
                }
            }
        }
    }

    fn check<T: Real>(kernel: Kernel, dispatch: impl Fn(Kernel, Copies<'_, T>)) {
        for c in [1, 2, 3, 8, 16, 17, 30, 32, 50, 64, 100] {
            let (pixels, first) = (5, 2 * c);
            let x = values::<T>((pixels + 3) * c, 1);
            let (scale, shift) = (values::<T>(c, 2), values::<T>(c, 3));
            // Numbers whose product with a factor is exact are the same with one rounding or two.
            let round = |x: &T| T::from_f64((x.to_f64() * 64.0).round() / 64.0);
            let [x, scale, shift] =
                [x, scale, shift].map(|v| v.iter().map(round).collect::<Vec<_>>());
            let channels = c / 3..c - c / 4;
            for by in [None, Some(false), Some(true)] {
                let expected = |pixel: usize, channel: usize| {
                    let x = x[first + pixel * c + channel].to_f64();
                    T::from_f64(match by {
                        None => x,
                        Some(relu) => {
                            let y = x * scale[channel].to_f64() + shift[channel].to_f64();
                            if relu { y.max(0.0) } else { y }
                        }
                    })
                };
                let by = by.map(|relu| Scaling { scale: &scale, shift: &shift, relu });
                let source = Source { x: &x, by };
                let mut some = vec![T::from_f64(7.0); pixels * channels.len()];
                let mut pairs = vec![T::from_f64(7.0); pixels * c / 2];
                let wanted = c.is_multiple_of(2).then_some(&mut pairs[..]);
                let channels_now = channels.clone();
                let some_now = &mut some[..];
                dispatch(
                    kernel,
                    Copies {
                        source,
                        first,
                        c,
                        channels: channels_now,
                        some: some_now,
                        pairs: wanted,
                    },
                );
                for (i, value) in some.iter().enumerate() {
                    let (pixel, channel) =
                        (i / channels.len(), channels.start + i % channels.len());
                    assert!(*value == expected(pixel, channel), "{kernel:?} {c} {by:?} {i}");
                }
                if c.is_multiple_of(2) {
                    for (i, word) in pairs.iter().enumerate() {
                        let (pixel, channel) = (2 * i / c, 2 * i % c);
                        let pair = T::pair(expected(pixel, channel), expected(pixel, channel + 1));
                        assert!(word.unpair() == pair.unpair(), "{kernel:?} pairs {c} {by:?} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn copies_are_the_source_normalised() {
        for kernel in Kernel::supported() {
            check::<f32>(kernel, |kernel, copies| f32::dispatch(kernel, copies));
            check::<f32>(kernel, |kernel, copies| f32::dispatch_pairs(kernel, copies));
        }
        check::<f64>(Kernel::Portable, |kernel, copies| f64::dispatch(kernel, copies));
    }
}
