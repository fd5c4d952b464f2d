//! Convolutions by cuDNN: NHWC, weights `[out, kh, kw, in]`, algorithms that give the same bits in
//! every run. f64, which cuDNN does not convolve over NHWC, is left to [`direct`].

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::cuda_backend::{CudaDevice, DeviceId, cudarc};
use candle_core::{Error, Result};
use cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnError,
    FilterDescriptor, TensorDescriptor, sys,
};
use cudarc::driver::CudaSlice;

use super::direct;
use super::numbers::{Slice, Stored};
use crate::Precision;
use crate::kernels::ConvShape;

// Of each pass the algorithm that cuDNN documents as deterministic and that has tensor cores.
const FORWARD: sys::cudnnConvolutionFwdAlgo_t =
    sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
const BACKWARD_DATA: sys::cudnnConvolutionBwdDataAlgo_t =
    sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
const BACKWARD_WEIGHT: sys::cudnnConvolutionBwdFilterAlgo_t =
    sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;

thread_local! {
    // A handle of cuDNN must not be used by two threads. A machine has a few devices.
    static HANDLES: RefCell<Vec<(DeviceId, Arc<Cudnn>)>> = const { RefCell::new(Vec::new()) };
}

/// The calling thread's handle for a device.
fn handle(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    HANDLES.with_borrow_mut(|handles| {
        if let Some((_, handle)) = handles.iter().find(|(id, _)| *id == device.id()) {
            return Ok(Arc::clone(handle));
        }
        let made = Cudnn::new(device.cuda_stream()).map_err(Error::wrap)?;
        handles.push((device.id(), Arc::clone(&made)));
        Ok(made)
    })
}

/// What cuDNN wants to be told of a convolution.
struct Descriptors<S: Stored> {
    x: TensorDescriptor<S>,
    y: TensorDescriptor<S>,
    weight: FilterDescriptor<S>,
    convolution: ConvDescriptor<S::Wide>,
}

impl<S: Stored> Descriptors<S> {
    fn new(handle: &Arc<Cudnn>, s: &ConvShape, precision: Precision) -> Result<Self> {
        let int = |n: usize| {
            i32::try_from(n).map_err(|_| Error::msg(format!("cuda: {n} is more than cuDNN counts")))
        };
        let [batch, in_c, out_c] = [int(s.batch)?, int(s.in_c)?, int(s.out_c)?];
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let tensor = |dims| handle.create_4d_tensor::<S>(format, dims).map_err(Error::wrap);
        let weight = [out_c, in_c, int(s.kernel_h)?, int(s.kernel_w)?];
        let (padding, stride) = (int(s.padding)?, int(s.stride)?);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let mut convolution = handle
            .create_conv2d::<S::Wide>([padding; 2], [stride; 2], [1, 1], mode)
            .map_err(Error::wrap)?;
        convolution.set_math_type(math(precision)).map_err(Error::wrap)?;
        Ok(Self {
            x: tensor([batch, in_c, int(s.in_h)?, int(s.in_w)?])?,
            y: tensor([batch, out_c, int(s.out_h())?, int(s.out_w())?])?,
            weight: handle.create_4d_filter::<S>(format, weight).map_err(Error::wrap)?,
            convolution,
        })
    }
}

/// `exact` keeps all 24 bits of f32, `fast` may round factors to TF32's 11.
fn math(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        Precision::Exact => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Precision::Fast | Precision::Bf16 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
    }
}

/// β of cuDNN: whether the result is added to what is there.
fn scaling<S: Stored>(accumulate: bool) -> (S, S) {
    (S::from_f64(1.0), S::from_f64(if accumulate { 1.0 } else { 0.0 }))
}

/// Memory for cuDNN to work in, of no particular content.
fn workspace(
    device: &CudaDevice,
    bytes: std::result::Result<usize, CudnnError>,
) -> Result<CudaSlice<u8>> {
    let bytes = bytes.map_err(Error::wrap)?;
    // An empty piece has no address.
    // SAFETY: cuDNN reads of it only what it wrote.
    #[allow(unsafe_code)]
    unsafe {
        device.alloc(bytes.max(1))
    }
}

pub(super) fn forward<S: Stored>(
    device: &CudaDevice,
    precision: Precision,
    s: &ConvShape,
    x: Slice<'_, S>,
    weight: Slice<'_, S>,
    y: &mut CudaSlice<S>,
    accumulate: bool,
) -> Result<()> {
    s.check(x.len(), weight.len(), y.len());
    if !S::HAS_CUDNN {
        return direct::forward(device, s, x, weight, y, accumulate);
    }
    let d = Descriptors::<S>::new(&handle(device)?, s, precision)?;
    let conv = ConvForward { conv: &d.convolution, x: &d.x, w: &d.weight, y: &d.y };
    let mut space = workspace(device, conv.get_workspace_size(FORWARD))?;
    let scale = scaling(accumulate);
    // SAFETY: the descriptors have the sizes that were compared above.
    #[allow(unsafe_code)]
    unsafe { conv.launch(FORWARD, Some(&mut space), scale, &x.view(), &weight.view(), y) }
        .map_err(Error::wrap)
}

pub(super) fn backward_data<S: Stored>(
    device: &CudaDevice,
    precision: Precision,
    s: &ConvShape,
    dy: Slice<'_, S>,
    weight: Slice<'_, S>,
    dx: &mut CudaSlice<S>,
    accumulate: bool,
) -> Result<()> {
    s.check(dx.len(), weight.len(), dy.len());
    if !S::HAS_CUDNN {
        return direct::backward_data(device, s, dy, weight, dx, accumulate);
    }
    let d = Descriptors::<S>::new(&handle(device)?, s, precision)?;
    let conv = ConvBackwardData { conv: &d.convolution, dx: &d.x, w: &d.weight, dy: &d.y };
    let mut space = workspace(device, conv.get_workspace_size(BACKWARD_DATA))?;
    let scale = scaling(accumulate);
    // SAFETY: the descriptors have the sizes that were compared above.
    #[allow(unsafe_code)]
    unsafe { conv.launch(BACKWARD_DATA, Some(&mut space), scale, dx, &weight.view(), &dy.view()) }
        .map_err(Error::wrap)
}

pub(super) fn backward_weight<S: Stored>(
    device: &CudaDevice,
    precision: Precision,
    s: &ConvShape,
    x: Slice<'_, S>,
    dy: Slice<'_, S>,
    dw: &mut CudaSlice<S>,
) -> Result<()> {
    s.check(x.len(), dw.len(), dy.len());
    if !S::HAS_CUDNN {
        return direct::backward_weight(device, s, x, dy, dw);
    }
    let d = Descriptors::<S>::new(&handle(device)?, s, precision)?;
    let conv = ConvBackwardFilter { conv: &d.convolution, x: &d.x, dw: &d.weight, dy: &d.y };
    let mut space = workspace(device, conv.get_workspace_size(BACKWARD_WEIGHT))?;
    let scale = scaling(false);
    // SAFETY: the descriptors have the sizes that were compared above.
    #[allow(unsafe_code)]
    unsafe { conv.launch(BACKWARD_WEIGHT, Some(&mut space), scale, &x.view(), dw, &dy.view()) }
        .map_err(Error::wrap)
}
