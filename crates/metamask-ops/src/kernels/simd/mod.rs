//! Vectors of one instruction set behind one trait, and the call that enters it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::Kernel;

/// A scalar that the kernels compute with: f32 or f64.
pub(crate) trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    const ZERO: Self;
    const NEG_INFINITY: Self;
    /// Whether there are other precisions than the exact one.
    const HAS_FAST: bool;

    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;

    /// One word of two numbers rounded to half its width, `even` in the lower
    /// half: bfloat16 of f32, f32 of f64.
    fn pair(even: Self, odd: Self) -> Self;
    /// The two numbers of a word.
    fn unpair(self) -> [Self; 2];

    /// Runs `task` compiled for the vectors of `kernel`, which this CPU must
    /// have; scalars without such vectors take the portable ones.
    fn dispatch<K: Task<Self>>(kernel: Kernel, task: K);

    /// As [`Real::dispatch`], for a task that multiplies pairs: with the
    /// instructions for them, if this CPU has any.
    fn dispatch_pairs<K: Task<Self>>(kernel: Kernel, task: K) {
        Self::dispatch(kernel, task);
    }

    /// [`Simd::LANES`] and [`Simd::TILE_VECTORS`] of the vectors that
    /// [`Real::dispatch`] takes for `kernel`.
    fn tile_columns(kernel: Kernel) -> (usize, usize);
}

const fn tile_columns<V: Simd>() -> (usize, usize) {
    (V::LANES, V::TILE_VECTORS)
}

/// A piece of work that can be compiled for any vector type.
pub(crate) trait Task<T: Real> {
    /// Does the work. Implementations are `#[inline(always)]`, so that the code
    /// lands inside the function that enables the instruction set.
    ///
    /// # Safety
    /// The CPU must have the instructions of `V`.
    unsafe fn run<V: Simd<Scalar = T>>(self);
}

/// A vector of [`Simd::LANES`] scalars.
///
/// # Safety
/// All methods require that the CPU has the vector's instructions, which
/// [`Real::dispatch`] guarantees to everything it calls. Loads and stores need
/// valid memory for the lanes they touch; no alignment.
pub(crate) trait Simd: Copy {
    type Scalar: Real;
    const LANES: usize;
    /// Vectors side by side in a tile of a matrix product, at most.
    const TILE_VECTORS: usize;
    /// Vectors that the sums of a tile may occupy: as many as leave registers
    /// for its operands.
    const TILE_SUMS: usize;

    unsafe fn splat(value: Self::Scalar) -> Self;
    unsafe fn load(from: *const Self::Scalar) -> Self;
    /// The first `lanes` elements, zeros after them. `lanes` ≤ LANES.
    unsafe fn load_first(from: *const Self::Scalar, lanes: usize) -> Self;
    unsafe fn store(self, to: *mut Self::Scalar);
    /// Stores the first `lanes` elements only. `lanes` ≤ LANES.
    unsafe fn store_first(self, to: *mut Self::Scalar, lanes: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// `self · factor + addend`, rounded once where the CPU can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Lanes of `self` where `gate` is above zero, zeros elsewhere.
    unsafe fn where_positive(self, gate: Self) -> Self;
    /// Zero where a lane is below zero. NaN stays: a diverged run must show.
    unsafe fn relu(self) -> Self;

    /// Words of pairs: `self` in the lower halves, `odd` in the upper.
    unsafe fn pair(self, odd: Self) -> Self;
    /// Stores neighbouring lanes as pairs, LANES / 2 words.
    unsafe fn store_pairs(self, to: *mut Self::Scalar);
    /// `addend` + the two products of each lane's pairs.
    unsafe fn dot_pairs(self, factor: Self, addend: Self) -> Self;

    /// `addend` + the products of what each lane's word holds: a number or, if
    /// PAIRS, two.
    #[inline(always)]
    unsafe fn mul_add_words<const PAIRS: bool>(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller's promise is the same.
        unsafe { if PAIRS { self.dot_pairs(factor, addend) } else { self.mul_add(factor, addend) } }
    }

    /// As [`Simd::load`] if all lanes are wanted, [`Simd::load_first`] if not.
    #[inline(always)]
    unsafe fn load_up_to(from: *const Self::Scalar, lanes: usize) -> Self {
        // SAFETY: the caller's promise is the same.
        unsafe {
            if lanes == Self::LANES { Self::load(from) } else { Self::load_first(from, lanes) }
        }
    }

    /// As [`Simd::store`] if all lanes are wanted, [`Simd::store_first`] if not.
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut Self::Scalar, lanes: usize) {
        // SAFETY: the caller's promise is the same.
        unsafe { if lanes == Self::LANES { self.store(to) } else { self.store_first(to, lanes) } }
    }

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::splat(Self::Scalar::ZERO) }
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    const HAS_FAST: bool = true;

    fn from_f64(value: f64) -> Self {
        value as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn pair(even: Self, odd: Self) -> Self {
        f32::from_bits(bfloat16(even) >> 16 | bfloat16(odd))
    }

    fn unpair(self) -> [Self; 2] {
        let bits = self.to_bits();
        [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
    }

    fn dispatch<K: Task<Self>>(kernel: Kernel, task: K) {
        match kernel {
            // SAFETY: portable vectors need nothing of the CPU.
            Kernel::Portable => unsafe { task.run::<PortableF32>() },
            // SAFETY: `Kernel` names only what the CPU has been asked for.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { run_avx2(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { run_avx512(task) },
            #[cfg(not(target_arch = "x86_64"))]
            other => unreachable!("{other:?} exists on x86-64 only"),
        }
    }

    fn dispatch_pairs<K: Task<Self>>(kernel: Kernel, task: K) {
        match kernel {
            // SAFETY: as in `dispatch`; the CPU has been asked.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 if is_x86_feature_detected!("avx512bf16") => unsafe {
                run_avx512_bf16(task);
            },
            _ => Self::dispatch(kernel, task),
        }
    }

    fn tile_columns(kernel: Kernel) -> (usize, usize) {
        match kernel {
            Kernel::Portable => tile_columns::<PortableF32>(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => tile_columns::<avx2::Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => tile_columns::<avx512::Avx512<false>>(),
            #[cfg(not(target_arch = "x86_64"))]
            other => unreachable!("{other:?} exists on x86-64 only"),
        }
    }
}

type PortableF32 = portable::Lanes<f32, 4>;
type PortableF64 = portable::Lanes<f64, 2>;

/// # Safety
/// The CPU must have AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Task<f32>>(task: K) {
    // SAFETY: the caller's promise.
    unsafe { task.run::<avx2::Avx2>() }
}

/// # Safety
/// The CPU must have AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn run_avx512<K: Task<f32>>(task: K) {
    // SAFETY: the caller's promise.
    unsafe { task.run::<avx512::Avx512<false>>() }
}

/// # Safety
/// The CPU must have AVX-512F and AVX512_BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn run_avx512_bf16<K: Task<f32>>(task: K) {
    // SAFETY: the caller's promise.
    unsafe { task.run::<avx512::Avx512<true>>() }
}

/// The bits of `x` rounded to bfloat16, the nearest or of two the even one.
fn bfloat16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = match x.is_nan() {
        true => bits | 0x0040_0000, // or rounding could make it infinite
        false => bits + 0x7fff + (bits >> 16 & 1),
    };
    rounded & 0xffff_0000
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    const HAS_FAST: bool = false;

    fn from_f64(value: f64) -> Self {
        value
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn pair(even: Self, odd: Self) -> Self {
        let [even, odd] = [even, odd].map(|x| u64::from((x as f32).to_bits()));
        f64::from_bits(even | odd << 32)
    }

    fn unpair(self) -> [Self; 2] {
        let bits = self.to_bits();
        [bits as u32, (bits >> 32) as u32].map(|half| f64::from(f32::from_bits(half)))
    }

    fn dispatch<K: Task<Self>>(_kernel: Kernel, task: K) {
        // SAFETY: portable vectors need nothing of the CPU.
        unsafe { task.run::<PortableF64>() }
    }

    fn tile_columns(_kernel: Kernel) -> (usize, usize) {
        tile_columns::<PortableF64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a vector of instructions makes of LANES numbers at a time.
    struct Pairs<'a> {
        even: &'a [f32],
        odd: &'a [f32],
        paired: Vec<f32>,
        stored: Vec<f32>,
        dots: Vec<f32>,
    }

    impl Task<f32> for &mut Pairs<'_> {
        unsafe fn run<V: Simd<Scalar = f32>>(self) {
            for (even, odd) in self.even.chunks_exact(V::LANES).zip(self.odd.chunks_exact(V::LANES))
            {
                let mut words = vec![0.0; V::LANES];
                // SAFETY: chunks and words are LANES long.
                unsafe {
                    let (even, odd) = (V::load(even.as_ptr()), V::load(odd.as_ptr()));
                    let pairs = even.pair(odd);
                    pairs.store(words.as_mut_ptr());
                    self.paired.extend(&words);
                    pairs.dot_pairs(pairs, V::splat(1.0)).store(words.as_mut_ptr());
                    self.dots.extend(&words);
                    even.store_pairs(words.as_mut_ptr());
                    self.stored.extend(&words[..V::LANES / 2]);
                }
            }
        }
    }

    /// Halves of the last place to even, the largest, infinity, zeros, 1 + 2⁻⁸ …
    fn numbers() -> Vec<f32> {
        let mut bits = vec![0, 0x8000_0000, 0x3f80_0000, 0x7f80_0000, 0xff80_0000];
        bits.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0x7f7f_ffff]);
        bits.extend((0..54).map(|i: u32| 0x3000_0000 + i.wrapping_mul(0x0765_4321) % 0x2000_0000));
        bits.into_iter().map(f32::from_bits).collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn pairs_are_the_nearest_bfloat16_in_every_instruction_set() {
        let even = numbers(); // 64 of them
        let odd: Vec<f32> = even.iter().rev().copied().collect();
        let nearest = |x: f32| {
            // The two neighbours, and of equally near ones the even.
            let lower = f32::from_bits(x.to_bits() & 0xffff_0000);
            let upper = f32::from_bits((x.to_bits() & 0xffff_0000).wrapping_add(0x1_0000));
            let (down, up) = (f64::from(x) - f64::from(lower), f64::from(upper) - f64::from(x));
            let is_even = lower.to_bits() & 0x1_0000 == 0;
            if x.is_infinite() || down.abs() < up.abs() || (down == up && is_even) {
                lower
            } else {
                upper
            }
        };
        for (&x, &y) in even.iter().zip(&odd) {
            if x.abs() < 3e38 && y.abs() < 3e38 {
                assert_eq!(f32::pair(x, y).unpair(), [nearest(x), nearest(y)], "{x:e} {y:e}");
            }
        }
        assert_eq!(f32::pair(f32::MAX, 1.0).unpair(), [f32::INFINITY, 1.0]);
        assert!(f32::pair(f32::from_bits(0x7f80_0001), 0.0).unpair()[0].is_nan());

        let expected: Vec<f32> = even.iter().zip(&odd).map(|(&x, &y)| f32::pair(x, y)).collect();
        let stored: Vec<f32> = even.as_chunks().0.iter().map(|&[x, y]| f32::pair(x, y)).collect();
        let check = |name: &str, run: &dyn Fn(&mut Pairs<'_>)| {
            let (even, odd) = (&even[..], &odd[..]);
            let mut pairs = Pairs { even, odd, paired: vec![], stored: vec![], dots: vec![] };
            run(&mut pairs);
            assert_eq!(bits(&pairs.paired), bits(&expected), "{name}: pair");
            assert_eq!(bits(&pairs.stored), bits(&stored), "{name}: store_pairs");
            for (word, dot) in expected.iter().zip(&pairs.dots) {
                let [x, y] = word.unpair().map(f64::from);
                let sum = (1.0 + x * x + y * y) as f32;
                assert!(*dot == sum || (dot - sum).abs() <= 2e-7 * sum, "{name}: {x} {y} {dot}");
            }
        };
        check("portable", &|pairs| f32::dispatch(Kernel::Portable, pairs));
        for kernel in Kernel::supported() {
            check(&format!("{kernel:?}"), &|pairs| f32::dispatch(kernel, pairs));
            check(&format!("{kernel:?}, pairs"), &|pairs| f32::dispatch_pairs(kernel, pairs));
        }
    }

    #[test]
    fn a_pair_in_f64_is_two_f32() {
        assert_eq!(f64::pair(1.0 + 1e-12, -0.1).unpair(), [1.0, f64::from(-0.1_f32)]);
    }
}
