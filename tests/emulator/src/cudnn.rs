//! cuDNN's convolutions, written out as their definition says.

use std::ffi::c_void;

use crate::memory;
use crate::numbers::Number;

const SUCCESS: i32 = 0;
const BAD_PARAM: i32 = 2000;
const EXECUTION_FAILED: i32 = 5000;

/// Sizes and strides of `[n, c, h, w]`, in this order whatever the layout.
#[derive(Clone, Copy, Debug)]
struct Tensor {
    number: Number,
    sizes: [usize; 4],
    strides: [usize; 4],
}

#[derive(Clone, Copy, Debug, Default)]
struct Convolution {
    padding: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
}

type Handle = *mut c_void;

fn number(data_type: i32) -> Option<Number> {
    match data_type {
        0 => Some(Number::F32),
        1 => Some(Number::F64),
        2 => Some(Number::F16),
        9 => Some(Number::Bf16),
        _ => None,
    }
}

impl Tensor {
    fn new(format: i32, data_type: i32, sizes: [i32; 4]) -> Option<Self> {
        let mut all = [0; 4];
        for (size, given) in all.iter_mut().zip(sizes) {
            *size = usize::try_from(given).ok()?;
        }
        let [_, c, h, w] = all;
        let strides = match format {
            0 => [c * h * w, h * w, w, 1],
            1 => [h * w * c, 1, w * c, c],
            _ => return None,
        };
        Some(Self { number: number(data_type)?, sizes: all, strides })
    }

    fn at(&self, index: [usize; 4]) -> usize {
        index.iter().zip(self.strides).map(|(i, stride)| i * stride).sum()
    }

    fn bytes(&self) -> usize {
        self.sizes.iter().product::<usize>() * self.number.bytes()
    }
}

/// Makes an object and gives its handle.
unsafe fn make<T>(to: *mut Handle, value: T) -> i32 {
    // SAFETY: the caller passes a place for a handle.
    unsafe { *to = Box::into_raw(Box::new(value)).cast() };
    SUCCESS
}

/// Frees an object that [`make`] made as T.
unsafe fn free<T>(handle: Handle) -> i32 {
    if !handle.is_null() {
        // SAFETY: the caller passes a handle of `make::<T>`, once.
        drop(unsafe { Box::from_raw(handle.cast::<T>()) });
    }
    SUCCESS
}

macro_rules! objects {
    ($($create:ident, $destroy:ident: $type:ty = $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $create(to: *mut Handle) -> i32 {
            // SAFETY: as cuDNN asks of its callers.
            unsafe { make::<$type>(to, $value) }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $destroy(handle: Handle) -> i32 {
            // SAFETY: as cuDNN asks of its callers.
            unsafe { free::<$type>(handle) }
        }
    )*};
}

objects! {
    cudnnCreate, cudnnDestroy: u64 = 0;
    cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor: Option<Tensor> = None;
    cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor: Option<Tensor> = None;
    cudnnCreateConvolutionDescriptor, cudnnDestroyConvolutionDescriptor:
        Convolution = Convolution::default();
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetStream(_: Handle, _: Handle) -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetVersion() -> usize {
    92100
}

unsafe fn describe(descriptor: Handle, tensor: Option<Tensor>) -> i32 {
    let known = tensor.is_some();
    // SAFETY: a tensor's or filter's descriptor.
    unsafe { *descriptor.cast::<Option<Tensor>>() = tensor };
    if known { SUCCESS } else { BAD_PARAM }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetTensor4dDescriptor(
    descriptor: Handle,
    format: i32,
    data_type: i32,
    n: i32,
    c: i32,
    h: i32,
    w: i32,
) -> i32 {
    // SAFETY: as cuDNN asks of its callers.
    unsafe { describe(descriptor, Tensor::new(format, data_type, [n, c, h, w])) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetFilter4dDescriptor(
    descriptor: Handle,
    data_type: i32,
    format: i32,
    k: i32,
    c: i32,
    h: i32,
    w: i32,
) -> i32 {
    // SAFETY: as cuDNN asks of its callers.
    unsafe { describe(descriptor, Tensor::new(format, data_type, [k, c, h, w])) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetConvolution2dDescriptor(
    descriptor: Handle,
    pad_h: i32,
    pad_w: i32,
    stride_h: i32,
    stride_w: i32,
    dilation_h: i32,
    dilation_w: i32,
    _mode: i32,
    _compute: i32,
) -> i32 {
    let sizes = |a: i32, b: i32| [a.max(0) as usize, b.max(0) as usize];
    // SAFETY: a convolution's descriptor.
    unsafe {
        *descriptor.cast::<Convolution>() = Convolution {
            padding: sizes(pad_h, pad_w),
            stride: sizes(stride_h, stride_w),
            dilation: sizes(dilation_h, dilation_w),
        };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolutionMathType(_: Handle, _: i32) -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetConvolutionGroupCount(_: Handle, groups: i32) -> i32 {
    if groups == 1 { SUCCESS } else { BAD_PARAM }
}

macro_rules! no_workspace {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            _: Handle, _: Handle, _: Handle, _: Handle, _: Handle, _: i32, bytes: *mut usize,
        ) -> i32 {
            // SAFETY: a place for a size.
            unsafe { *bytes = 64 };
            SUCCESS
        }
    )*};
}

no_workspace! {
    cudnnGetConvolutionForwardWorkspaceSize
    cudnnGetConvolutionBackwardDataWorkspaceSize
    cudnnGetConvolutionBackwardFilterWorkspaceSize
}

/// A convolution's three tensors, and where their numbers are.
struct Operands {
    x: (Tensor, u64),
    weight: (Tensor, u64),
    y: (Tensor, u64),
    convolution: Convolution,
}

impl Operands {
    unsafe fn new(
        [x, weight, y]: [(Handle, *const c_void); 3],
        convolution: Handle,
    ) -> Result<Self, i32> {
        let tensor = |(descriptor, numbers): (Handle, *const c_void)| {
            // SAFETY: a tensor's or filter's descriptor.
            let tensor = unsafe { *descriptor.cast::<Option<Tensor>>() }.ok_or(BAD_PARAM)?;
            let start = numbers as u64;
            if !memory::holds(start, tensor.bytes()) {
                eprintln!("cuDNN: {tensor:?} at {start:#x} is not allocated");
                return Err(EXECUTION_FAILED);
            }
            Ok((tensor, start))
        };
        // SAFETY: a convolution's descriptor.
        let convolution = unsafe { *convolution.cast::<Convolution>() };
        let all = Self { x: tensor(x)?, weight: tensor(weight)?, y: tensor(y)?, convolution };
        all.check().map(|()| all)
    }

    /// Whether the sizes belong to one convolution.
    fn check(&self) -> Result<(), i32> {
        let ([n, c, h, w], [k, wc, r, s]) = (self.x.0.sizes, self.weight.0.sizes);
        let Convolution { padding, stride, dilation } = self.convolution;
        let side = |size: usize, window: usize, axis: usize| {
            let reach = dilation[axis] * (window - 1) + 1;
            (size + 2 * padding[axis]).checked_sub(reach).map(|room| room / stride[axis] + 1)
        };
        let expected = [Some(n), Some(k), side(h, r, 0), side(w, s, 1)];
        if c != wc || self.y.0.sizes.map(Some) != expected {
            eprintln!(
                "cuDNN: sizes {:?}, {:?}, {:?} do not fit",
                self.x.0, self.weight.0, self.y.0
            );
            return Err(BAD_PARAM);
        }
        Ok(())
    }

    /// Calls `f` with the places of x, of the weight and of y of every product, grouped by y.
    fn for_each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let ([_, c, h, w], [k, _, r, s]) = (self.x.0.sizes, self.weight.0.sizes);
        let [n, _, out_h, out_w] = self.y.0.sizes;
        let Convolution { padding, stride, dilation } = self.convolution;
        for image in 0..n {
            for (oy, ox) in (0..out_h).flat_map(|y| (0..out_w).map(move |x| (y, x))) {
                for o in 0..k {
                    let y = self.y.0.at([image, o, oy, ox]);
                    for (u, v) in (0..r).flat_map(|u| (0..s).map(move |v| (u, v))) {
                        let iy = (oy * stride[0] + u * dilation[0]).checked_sub(padding[0]);
                        let ix = (ox * stride[1] + v * dilation[1]).checked_sub(padding[1]);
                        let (Some(iy), Some(ix)) = (iy.filter(|&i| i < h), ix.filter(|&i| i < w))
                        else {
                            continue;
                        };
                        for i in 0..c {
                            f(self.x.0.at([image, i, iy, ix]), self.weight.0.at([o, i, u, v]), y);
                        }
                    }
                }
            }
        }
    }
}

/// `result = alpha Σ products + beta result`, in f64 until it is stored.
unsafe fn accumulate(
    operands: &Operands,
    (result, start): (Tensor, u64),
    (alpha, beta): (*const c_void, *const c_void),
    product: impl Fn(usize, usize, usize) -> (usize, f64),
) {
    let len = result.sizes.iter().product();
    let mut sums = vec![0.0; len];
    operands.for_each(|x, weight, y| {
        let (at, product) = product(x, weight, y);
        sums[at] += product;
    });
    // SAFETY: the factors are cuDNN's, the result was found allocated.
    unsafe {
        let (alpha, beta) = (result.number.factor(alpha), result.number.factor(beta));
        for (i, sum) in sums.into_iter().enumerate() {
            let before = if beta == 0.0 { 0.0 } else { beta * result.number.get(start, i) };
            result.number.set(start, i, alpha * sum + before);
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnConvolutionForward(
    _: Handle,
    alpha: *const c_void,
    x_descriptor: Handle,
    x: *const c_void,
    w_descriptor: Handle,
    w: *const c_void,
    convolution: Handle,
    _algorithm: i32,
    _workspace: *mut c_void,
    _bytes: usize,
    beta: *const c_void,
    y_descriptor: Handle,
    y: *mut c_void,
) -> i32 {
    // SAFETY: as cuDNN asks of its callers.
    unsafe {
        let all = [(x_descriptor, x), (w_descriptor, w), (y_descriptor, y.cast_const())];
        match Operands::new(all, convolution) {
            Ok(o) => accumulate(&o, o.y, (alpha, beta), |x, w, y| {
                (y, o.x.0.number.get(o.x.1, x) * o.weight.0.number.get(o.weight.1, w))
            }),
            Err(status) => return status,
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnConvolutionBackwardData(
    _: Handle,
    alpha: *const c_void,
    w_descriptor: Handle,
    w: *const c_void,
    y_descriptor: Handle,
    dy: *const c_void,
    convolution: Handle,
    _algorithm: i32,
    _workspace: *mut c_void,
    _bytes: usize,
    beta: *const c_void,
    x_descriptor: Handle,
    dx: *mut c_void,
) -> i32 {
    // SAFETY: as cuDNN asks of its callers.
    unsafe {
        let all = [(x_descriptor, dx.cast_const()), (w_descriptor, w), (y_descriptor, dy)];
        match Operands::new(all, convolution) {
            Ok(o) => accumulate(&o, o.x, (alpha, beta), |x, w, y| {
                (x, o.y.0.number.get(o.y.1, y) * o.weight.0.number.get(o.weight.1, w))
            }),
            Err(status) => return status,
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnConvolutionBackwardFilter(
    _: Handle,
    alpha: *const c_void,
    x_descriptor: Handle,
    x: *const c_void,
    y_descriptor: Handle,
    dy: *const c_void,
    convolution: Handle,
    _algorithm: i32,
    _workspace: *mut c_void,
    _bytes: usize,
    beta: *const c_void,
    w_descriptor: Handle,
    dw: *mut c_void,
) -> i32 {
    // SAFETY: as cuDNN asks of its callers.
    unsafe {
        let all = [(x_descriptor, x), (w_descriptor, dw.cast_const()), (y_descriptor, dy)];
        match Operands::new(all, convolution) {
            Ok(o) => accumulate(&o, o.weight, (alpha, beta), |x, w, y| {
                (w, o.x.0.number.get(o.x.1, x) * o.y.0.number.get(o.y.1, y))
            }),
            Err(status) => return status,
        }
    }
    SUCCESS
}
