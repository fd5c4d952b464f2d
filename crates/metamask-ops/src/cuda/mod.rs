//! GPUs: finding the driver's libraries when the program runs, and opening a device.

mod libraries;

use candle_core::{Device, Result};

/// The GPU of this number, from 0 on, in the driver's order.
///
/// # Errors
/// If the driver or one of cuBLAS, cuDNN and cuRAND is not installed, or there is no such GPU.
pub fn cuda_device(ordinal: usize) -> Result<Device> {
    libraries::load()?;
    Device::new_cuda(ordinal)
}
