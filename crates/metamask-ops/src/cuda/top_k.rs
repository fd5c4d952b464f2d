//! The k largest numbers of every row of a matrix on a GPU.
#![allow(unsafe_code)]

use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{CudaStorage, Device, Result, Storage, Tensor, bail, op::BackpropOp};

use super::launch::{TOP_K, blocks_of};
use crate::MOST_OF_TOP_K;

/// How many a block of threads can keep: the `MAKE`s of `top_k.cu`.
const SIZES: [usize; 3] = [32, 256, MOST_OF_TOP_K];

/// As [`crate::top_k`]; `rows` are contiguous `[m, n]`, f32, and k is from 1 to n.
pub(crate) fn top_k(rows: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let (m, n) = rows.dims2()?;
    let Some(&size) = SIZES.iter().find(|&&size| k <= size) else {
        bail!("top_k: a GPU finds at most {MOST_OF_TOP_K} numbers of a row, got k = {k}");
    };
    let (storage, layout) = rows.storage_and_layout();
    let (Storage::Cuda(storage), Device::Cuda(device)) = (&*storage, rows.device()) else {
        bail!("top_k: expected rows on a GPU, got {:?}", rows.device());
    };
    let (Ok(width), Ok(count)) = (i32::try_from(n), i32::try_from(k)) else {
        bail!("top_k: rows of {n} are more than a GPU's kernel counts");
    };
    let start = layout.start_offset();
    let from = storage.as_cuda_slice::<f32>()?.slice(start..start + m * n);
    // SAFETY: every number is written, k in each row.
    let (mut values, mut columns) =
        unsafe { (device.alloc::<f32>(m * k)?, device.alloc::<u32>(m * k)?) };
    let kernel = TOP_K.kernel(device, "top_k", &size.to_string())?;
    let mut call = kernel.call();
    call.arg(&from).arg(&width).arg(&count).arg(&mut values).arg(&mut columns);
    let threads = (size / 2).min(256) as u32;
    // SAFETY: the kernel's arguments; a block reads its row and writes its k places. There are
    // k ranks in a row, for k ≤ n, so that every column that comes out exists.
    unsafe { blocks_of(&mut call, (m, 1), (threads, 1)) }?;
    let tensor = |storage| Tensor::from_storage(storage, (m, k), BackpropOp::none(), false);
    let values = CudaStorage::wrap_cuda_slice(values, device.clone());
    let columns = CudaStorage::wrap_cuda_slice(columns, device.clone());
    Ok((tensor(Storage::Cuda(values)), tensor(Storage::Cuda(columns))))
}
