//! cuBLAS's products, written out.

use std::ffi::c_void;

use crate::memory;
use crate::numbers::Number;

const SUCCESS: i32 = 0;
const INVALID_VALUE: i32 = 7;
const EXECUTION_FAILED: i32 = 13;

type Handle = *mut c_void;

/// Column-major matrices: C = α op(A) op(B) + β C, C being m by n and the sum over k.
struct Product {
    transposed: [bool; 2],
    sizes: [usize; 3],
    number: Number,
    leading: [usize; 3],
    factors: [f64; 2],
}

impl Product {
    /// # Safety
    /// The matrices must not be used by anybody else meanwhile.
    unsafe fn run(&self, [a, b, c]: [u64; 3]) -> i32 {
        let ([m, n, k], [lda, ldb, ldc]) = (self.sizes, self.leading);
        let columns = |transposed: bool, as_is: usize, flipped: usize| match transposed {
            true => flipped,
            false => as_is,
        };
        let bytes = |leading: usize, rows: usize, columns: usize| match columns {
            0 => 0,
            _ => (leading * (columns - 1) + rows) * self.number.bytes(),
        };
        let [at, bt] = self.transposed;
        let spans = [
            (a, bytes(lda, columns(at, m, k), columns(at, k, m))),
            (b, bytes(ldb, columns(bt, k, n), columns(bt, n, k))),
            (c, bytes(ldc, m, n)),
        ];
        if let Some((start, _)) = spans.iter().find(|&&(start, bytes)| !memory::holds(start, bytes))
        {
            eprintln!("cuBLAS: a matrix of {:?} at {start:#x} is not allocated", self.sizes);
            return EXECUTION_FAILED;
        }
        let [alpha, beta] = self.factors;
        for (j, i) in (0..n).flat_map(|j| (0..m).map(move |i| (j, i))) {
            // SAFETY: the spans were found allocated.
            unsafe {
                let product = |l: usize| {
                    let x = self.number.get(a, if at { l + i * lda } else { i + l * lda });
                    let y = self.number.get(b, if bt { j + l * ldb } else { l + j * ldb });
                    x * y
                };
                let sum: f64 = (0..k).map(product).sum();
                let place = i + j * ldc;
                let before = if beta == 0.0 { 0.0 } else { beta * self.number.get(c, place) };
                self.number.set(c, place, alpha * sum + before);
            }
        }
        SUCCESS
    }
}

/// cudaDataType_t
fn number(data_type: i32) -> Option<Number> {
    match data_type {
        0 => Some(Number::F32),
        1 => Some(Number::F64),
        2 => Some(Number::F16),
        14 => Some(Number::Bf16),
        _ => None,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasCreate_v2(to: *mut Handle) -> i32 {
    // SAFETY: a place for a handle.
    unsafe { *to = std::ptr::without_provenance_mut(1) };
    SUCCESS
}

macro_rules! nothing_to_do {
    ($($name:ident($($argument:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) -> i32 {
            SUCCESS
        }
    )*};
}

nothing_to_do! {
    cublasDestroy_v2(Handle);
    cublasSetStream_v2(Handle, Handle);
    cublasSetMathMode(Handle, i32);
    cublasSetPointerMode_v2(Handle, i32);
    cublasSetWorkspace_v2(Handle, Handle, usize);
}

#[allow(clippy::too_many_arguments, reason = "cuBLAS's")]
unsafe fn strided_batched(
    transposed: [i32; 2],
    sizes: [i32; 3],
    number: Option<Number>,
    (alpha, beta): (*const c_void, *const c_void),
    leading: [i32; 3],
    matrices: [*const c_void; 3],
    strides: [i64; 3],
    batch: i32,
) -> i32 {
    let Some(number) = number else { return INVALID_VALUE };
    let size = |n: i32| usize::try_from(n).unwrap_or(0);
    let product = Product {
        transposed: transposed.map(|operation| operation != 0),
        sizes: sizes.map(size),
        number,
        leading: leading.map(size),
        // SAFETY: the factors are the caller's.
        factors: unsafe { [number.factor(alpha), number.factor(beta)] },
    };
    for i in 0..i64::from(batch) {
        let at = |which: usize| {
            (matrices[which] as u64).wrapping_add_signed(i * strides[which] * number.bytes() as i64)
        };
        // SAFETY: the caller's.
        let status = unsafe { product.run([at(0), at(1), at(2)]) };
        if status != SUCCESS {
            return status;
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGemmEx(
    _: Handle,
    transa: i32,
    transb: i32,
    m: i32,
    n: i32,
    k: i32,
    alpha: *const c_void,
    a: *const c_void,
    a_type: i32,
    lda: i32,
    b: *const c_void,
    _b_type: i32,
    ldb: i32,
    beta: *const c_void,
    c: *mut c_void,
    _c_type: i32,
    ldc: i32,
    _compute: i32,
    _algorithm: i32,
) -> i32 {
    let (sizes, leading) = ([m, n, k], [lda, ldb, ldc]);
    let matrices = [a, b, c.cast_const()];
    // SAFETY: as cuBLAS asks of its callers.
    unsafe {
        strided_batched(
            [transa, transb],
            sizes,
            number(a_type),
            (alpha, beta),
            leading,
            matrices,
            [0; 3],
            1,
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGemmStridedBatchedEx(
    _: Handle,
    transa: i32,
    transb: i32,
    m: i32,
    n: i32,
    k: i32,
    alpha: *const c_void,
    a: *const c_void,
    a_type: i32,
    lda: i32,
    stride_a: i64,
    b: *const c_void,
    _b_type: i32,
    ldb: i32,
    stride_b: i64,
    beta: *const c_void,
    c: *mut c_void,
    _c_type: i32,
    ldc: i32,
    stride_c: i64,
    batch: i32,
    _compute: i32,
    _algorithm: i32,
) -> i32 {
    let (sizes, leading) = ([m, n, k], [lda, ldb, ldc]);
    let (matrices, strides) = ([a, b, c.cast_const()], [stride_a, stride_b, stride_c]);
    // SAFETY: as cuBLAS asks of its callers.
    unsafe {
        strided_batched(
            [transa, transb],
            sizes,
            number(a_type),
            (alpha, beta),
            leading,
            matrices,
            strides,
            batch,
        )
    }
}

macro_rules! typed {
    ($plain:ident, $batched:ident: $type:ty = $number:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $plain(
            _: Handle,
            transa: i32,
            transb: i32,
            m: i32,
            n: i32,
            k: i32,
            alpha: *const $type,
            a: *const $type,
            lda: i32,
            b: *const $type,
            ldb: i32,
            beta: *const $type,
            c: *mut $type,
            ldc: i32,
        ) -> i32 {
            let (sizes, leading) = ([m, n, k], [lda, ldb, ldc]);
            let matrices = [a.cast(), b.cast(), c.cast_const().cast()];
            let factors = (alpha.cast(), beta.cast());
            // SAFETY: as cuBLAS asks of its callers.
            unsafe {
                strided_batched(
                    [transa, transb],
                    sizes,
                    Some($number),
                    factors,
                    leading,
                    matrices,
                    [0; 3],
                    1,
                )
            }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $batched(
            _: Handle,
            transa: i32,
            transb: i32,
            m: i32,
            n: i32,
            k: i32,
            alpha: *const $type,
            a: *const $type,
            lda: i32,
            stride_a: i64,
            b: *const $type,
            ldb: i32,
            stride_b: i64,
            beta: *const $type,
            c: *mut $type,
            ldc: i32,
            stride_c: i64,
            batch: i32,
        ) -> i32 {
            let (sizes, leading) = ([m, n, k], [lda, ldb, ldc]);
            let matrices = [a.cast(), b.cast(), c.cast_const().cast()];
            let (factors, strides) = ((alpha.cast(), beta.cast()), [stride_a, stride_b, stride_c]);
            // SAFETY: as cuBLAS asks of its callers.
            unsafe {
                strided_batched(
                    [transa, transb],
                    sizes,
                    Some($number),
                    factors,
                    leading,
                    matrices,
                    strides,
                    batch,
                )
            }
        }
    };
}

typed!(cublasSgemm_v2, cublasSgemmStridedBatched: f32 = Number::F32);
typed!(cublasDgemm_v2, cublasDgemmStridedBatched: f64 = Number::F64);
