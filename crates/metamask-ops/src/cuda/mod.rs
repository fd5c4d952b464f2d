//! GPUs: finding the driver's libraries when the program runs, opening a device, starting our
//! kernels; and views made there.
#![allow(unsafe_code)]

pub(crate) mod launch;
mod libraries;
mod pixels;
mod top_k;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{Device, Result};

pub use pixels::{PixelPrograms, Window};
pub(crate) use top_k::top_k;

/// The GPU of this number, from 0 on, in the driver's order: one device, however often it is asked
/// for.
///
/// All its work is on one stream, in the order in which it was asked for, so no tensor waits for
/// events of its own. A device of the same GPU that was opened otherwise is another stream: let no
/// tensor of the one meet one of the other. Memory that is freed stays with the program, to be
/// given out again without the driver's help.
///
/// # Errors
/// If the driver or one of cuBLAS, cuDNN and cuRAND is not installed, or there is no such GPU.
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    libraries::load()?;
    // What is in there was whole when it was put there.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: one stream, as said above.
    unsafe { device.disable_event_tracking() };
    if let Some(pool) = pool(&device) {
        let mut never = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device's own pool, and a number of 64 bits, as this attribute is.
        unsafe { result::mem_pool::set_attribute(pool, threshold, (&raw mut never).cast()) }.w()?;
    }
    let device = Device::Cuda(device);
    open.insert(ordinal, device.clone());
    Ok(device)
}

/// Where a device's memory comes from; old ones have no such thing.
fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
    // SAFETY: a device that is open.
    unsafe { result::device::get_mem_pool(device.cuda_stream().context().cu_device()) }.ok()
}

/// Bytes that a GPU has free, those that the program keeps for itself included.
pub(crate) fn free_memory(device: &CudaDevice) -> Result<usize> {
    use sys::CUmemPool_attribute::{
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
    };
    let (free, _) = device.cuda_stream().context().mem_get_info().w()?;
    let [reserved, used] = [CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT]
        .map(|attribute| of_pool(device, attribute).unwrap_or(0));
    Ok(free + reserved.saturating_sub(used) as usize)
}

/// The most bytes of a GPU's memory that this program had in use at once, libraries' own and freed
/// ones left out; `None` where the driver does not say.
pub(crate) fn peak_memory(device: &CudaDevice) -> Option<u64> {
    of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}

/// Bytes, as one of the pool's `…_MEM_…` attributes counts them.
fn of_pool(device: &CudaDevice, attribute: sys::CUmemPool_attribute) -> Option<u64> {
    let (pool, mut bytes) = (pool(device)?, 0u64);
    // SAFETY: the device's own pool, and a number of 64 bits, as these attributes are.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) }.ok()?;
    Some(bytes)
}
