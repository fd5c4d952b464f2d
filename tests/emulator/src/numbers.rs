//! Numbers in memory, by a type that is known when the program runs.

use half::{bf16, f16};

/// What a matrix or an image is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    F32,
    F64,
    F16,
    Bf16,
}

impl Number {
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The `i`-th number from `start` on.
    ///
    /// # Safety
    /// It must lie in memory that may be read.
    pub unsafe fn get(self, start: u64, i: usize) -> f64 {
        let at = start as usize + i * self.bytes();
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::F32 => f64::from(*(at as *const f32)),
                Self::F64 => *(at as *const f64),
                Self::F16 => f16::from_bits(*(at as *const u16)).to_f64(),
                Self::Bf16 => bf16::from_bits(*(at as *const u16)).to_f64(),
            }
        }
    }

    /// Writes it, rounded.
    ///
    /// # Safety
    /// It must lie in memory that may be written.
    pub unsafe fn set(self, start: u64, i: usize, value: f64) {
        let at = start as usize + i * self.bytes();
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::F32 => *(at as *mut f32) = value as f32,
                Self::F64 => *(at as *mut f64) = value,
                Self::F16 => *(at as *mut u16) = f16::from_f32(value as f32).to_bits(),
                Self::Bf16 => *(at as *mut u16) = bf16::from_f32(value as f32).to_bits(),
            }
        }
    }

    /// A factor, which is f64 beside f64 and else f32.
    ///
    /// # Safety
    /// `factor` must point to such a number.
    pub unsafe fn factor(self, factor: *const std::ffi::c_void) -> f64 {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::F64 => *factor.cast::<f64>(),
                _ => f64::from(*factor.cast::<f32>()),
            }
        }
    }
}
