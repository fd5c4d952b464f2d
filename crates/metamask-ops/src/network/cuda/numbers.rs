//! Number types on the GPU, and slices of its memory.

use std::ops::Range;

use candle_core::cuda_backend::{CudaDType, WrapErr, cudarc};
use candle_core::{Result, WithDType, bail};
use cudarc::cublas::{CudaBlas, Gemm, GemmConfig};
use cudarc::cudnn::CudnnDataType;
use cudarc::driver::{CudaSlice, CudaView, DevicePtr, DeviceRepr, ValidAsZeroBits};
use half::bf16;

/// What activations are stored as.
pub(in crate::network) trait Stored:
    WithDType + CudaDType + DeviceRepr + ValidAsZeroBits + CudnnDataType + std::fmt::Debug
{
    /// What is computed with, and what statistics, parameters and gradients have.
    type Wide: Stored<Wide = Self::Wide>;

    /// Whether cuDNN convolves images of it.
    const HAS_CUDNN: bool;

    /// Behind a kernel's name.
    const SUFFIX: &str;

    /// The numbers, if both types are one.
    fn as_stored(wide: Slice<'_, Self::Wide>) -> Option<Slice<'_, Self>>;

    /// C = α op(A) op(B) + β C.
    ///
    /// # Safety
    /// The memory must hold the matrices that `config` describes.
    unsafe fn multiply(
        blas: &CudaBlas,
        config: GemmConfig<Self>,
        a: &CudaView<'_, Self>,
        b: &CudaView<'_, Self>,
        c: &mut CudaSlice<Self>,
    ) -> Result<()>;

    /// The memory, if both types are one.
    fn into_wide(
        stored: CudaSlice<Self>,
    ) -> std::result::Result<CudaSlice<Self::Wide>, CudaSlice<Self>>;
}

/// `Stored::multiply` of a type that cuBLAS knows.
macro_rules! by_cublas {
    () => {
        unsafe fn multiply(
            blas: &CudaBlas,
            config: GemmConfig<Self>,
            a: &CudaView<'_, Self>,
            b: &CudaView<'_, Self>,
            c: &mut CudaSlice<Self>,
        ) -> Result<()> {
            // SAFETY: the caller's.
            unsafe { blas.gemm(config, a, b, c) }.w()
        }
    };
}

macro_rules! wide {
    ($type:ty, $suffix:literal, $has_cudnn:literal) => {
        impl Stored for $type {
            type Wide = $type;

            const HAS_CUDNN: bool = $has_cudnn;

            const SUFFIX: &str = $suffix;

            by_cublas!();

            fn as_stored(wide: Slice<'_, $type>) -> Option<Slice<'_, $type>> {
                Some(wide)
            }

            fn into_wide(
                stored: CudaSlice<$type>,
            ) -> std::result::Result<CudaSlice<$type>, CudaSlice<$type>> {
                Ok(stored)
            }
        }
    };
}

wide!(f32, "f32", true);
wide!(f64, "f64", false);

impl Stored for bf16 {
    type Wide = f32;

    const HAS_CUDNN: bool = true;

    const SUFFIX: &str = "bf16";

    by_cublas!();

    fn as_stored(_: Slice<'_, f32>) -> Option<Slice<'_, Self>> {
        None
    }

    fn into_wide(stored: CudaSlice<Self>) -> std::result::Result<CudaSlice<f32>, CudaSlice<Self>> {
        Err(stored)
    }
}

/// Part of a piece of the GPU's memory.
#[derive(Debug)]
pub(in crate::network) struct Slice<'a, T> {
    memory: &'a CudaSlice<T>,
    start: usize,
    len: usize,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

impl<'a, T> Slice<'a, T> {
    pub fn all(memory: &'a CudaSlice<T>) -> Self {
        Self { memory, start: 0, len: memory.len() }
    }

    /// # Errors
    /// If the memory does not hold `span`.
    pub fn of(memory: &'a CudaSlice<T>, span: Range<usize>) -> Result<Self> {
        if span.start > span.end || span.end > memory.len() {
            bail!("cuda: {span:?} does not lie in {} numbers", memory.len());
        }
        Ok(Self { memory, start: span.start, len: span.len() })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Numbers of its memory before it.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where it lies, for a kernel that reads it beside other names of the same memory.
    pub fn address(&self) -> u64 {
        self.view().device_ptr(self.memory.stream()).0
    }

    /// The numbers at `span` of these.
    pub fn part(self, span: &Range<usize>) -> Result<Self> {
        if span.start > span.end || span.end > self.len {
            bail!("cuda: {span:?} does not lie in {} numbers", self.len);
        }
        Ok(Self { memory: self.memory, start: self.start + span.start, len: span.len() })
    }

    pub fn view(&self) -> CudaView<'a, T> {
        self.memory.slice(self.start..self.start + self.len)
    }
}
