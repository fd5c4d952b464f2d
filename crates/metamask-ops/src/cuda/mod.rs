//! GPUs: finding the driver's libraries when the program runs, opening a device, starting our
//! kernels; and views made there.

pub(crate) mod launch;
mod libraries;
mod pixels;

use candle_core::cuda_backend::WrapErr;
use candle_core::{Device, Result};

pub use pixels::{PixelPrograms, Window};

/// The GPU of this number, from 0 on, in the driver's order.
///
/// # Errors
/// If the driver or one of cuBLAS, cuDNN and cuRAND is not installed, or there is no such GPU.
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    libraries::load()?;
    Device::new_cuda(ordinal)
}

/// Bytes that a GPU has free; `None` of anything else.
///
/// # Errors
/// If the driver does not say.
pub fn free_gpu_memory(device: &Device) -> Result<Option<usize>> {
    match device {
        Device::Cuda(device) => {
            let (free, _) = device.cuda_stream().context().mem_get_info().w()?;
            Ok(Some(free))
        }
        _ => Ok(None),
    }
}
