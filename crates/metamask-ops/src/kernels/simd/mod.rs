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

    /// Runs `task` compiled for the vectors of `kernel`, which this CPU must
    /// have; scalars without such vectors take the portable ones.
    fn dispatch<K: Task<Self>>(kernel: Kernel, task: K);

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

    fn tile_columns(kernel: Kernel) -> (usize, usize) {
        match kernel {
            Kernel::Portable => tile_columns::<PortableF32>(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => tile_columns::<avx2::Avx2>(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => tile_columns::<avx512::Avx512>(),
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
    unsafe { task.run::<avx512::Avx512>() }
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

    fn dispatch<K: Task<Self>>(_kernel: Kernel, task: K) {
        // SAFETY: portable vectors need nothing of the CPU.
        unsafe { task.run::<PortableF64>() }
    }

    fn tile_columns(_kernel: Kernel) -> (usize, usize) {
        tile_columns::<PortableF64>()
    }
}
