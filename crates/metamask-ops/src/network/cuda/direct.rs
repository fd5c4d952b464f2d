//! Convolutions by kernels of our own, where cuDNN has none: f64.

use candle_core::Result;
use candle_core::cuda_backend::{CudaDevice, cudarc};
use cudarc::driver::{CudaSlice, DeviceRepr, PushKernelArg};

use super::calls::int;
use super::numbers::{Slice, Stored};
use crate::cuda::launch::{CONVOLUTION, over};
use crate::kernels::ConvShape;

/// `ConvShape` of `convolution.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Sizes([i32; 11]);

// SAFETY: eleven plain integers, in C's order.
unsafe impl DeviceRepr for Sizes {}

impl Sizes {
    fn new(s: &ConvShape) -> Result<Self> {
        let sizes = [
            s.batch,
            s.in_h,
            s.in_w,
            s.in_c,
            s.out_h(),
            s.out_w(),
            s.out_c,
            s.kernel_h,
            s.kernel_w,
            s.stride,
            s.padding,
        ];
        let mut all = [0; 11];
        for (to, size) in all.iter_mut().zip(sizes) {
            *to = int(size)?;
        }
        Ok(Self(all))
    }
}

pub(super) fn forward<S: Stored>(
    device: &CudaDevice,
    s: &ConvShape,
    x: Slice<'_, S>,
    weight: Slice<'_, S>,
    y: &mut CudaSlice<S>,
    accumulate: bool,
) -> Result<()> {
    let (sizes, add, count) = (Sizes::new(s)?, i32::from(accumulate), s.output_len() as i64);
    let (x, weight) = (x.view(), weight.view());
    let kernel = CONVOLUTION.kernel(device, "convolve", S::SUFFIX)?;
    let mut call = kernel.call();
    call.arg(&x).arg(&weight).arg(y).arg(&sizes).arg(&add).arg(&count);
    // SAFETY: the caller compared all sizes with the shape's.
    unsafe { over(count as usize, &mut call) }
}

pub(super) fn backward_data<S: Stored>(
    device: &CudaDevice,
    s: &ConvShape,
    dy: Slice<'_, S>,
    weight: Slice<'_, S>,
    dx: &mut CudaSlice<S>,
    accumulate: bool,
) -> Result<()> {
    let (sizes, add, count) = (Sizes::new(s)?, i32::from(accumulate), s.input_len() as i64);
    let (dy, weight) = (dy.view(), weight.view());
    let kernel = CONVOLUTION.kernel(device, "convolve_back", S::SUFFIX)?;
    let mut call = kernel.call();
    call.arg(&dy).arg(&weight).arg(dx).arg(&sizes).arg(&add).arg(&count);
    // SAFETY: the caller compared all sizes with the shape's.
    unsafe { over(count as usize, &mut call) }
}

pub(super) fn backward_weight<S: Stored>(
    device: &CudaDevice,
    s: &ConvShape,
    x: Slice<'_, S>,
    dy: Slice<'_, S>,
    dw: &mut CudaSlice<S>,
) -> Result<()> {
    let (sizes, count) = (Sizes::new(s)?, s.weight_len() as i64);
    let (x, dy) = (x.view(), dy.view());
    let kernel = CONVOLUTION.kernel(device, "convolve_weight", S::SUFFIX)?;
    let mut call = kernel.call();
    call.arg(&x).arg(&dy).arg(dw).arg(&sizes).arg(&count);
    // SAFETY: the caller compared all sizes with the shape's.
    unsafe { over(count as usize, &mut call) }
}
