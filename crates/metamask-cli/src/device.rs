//! `--device`: where a command computes.

use candle_core::Device;
use clap::Args;
use metamask_ops::peak_gpu_memory;
use metamask_train::{Code, Failure, machine};

#[derive(Args, Debug)]
pub(crate) struct DeviceArgument {
    /// Where to compute
    #[arg(long = "device", value_name = "cpu|cuda:N", default_value = "cpu")]
    name: String,
}

impl DeviceArgument {
    /// As it was given.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The device.
    ///
    /// # Errors
    /// If the name is none, or the GPU is not there.
    pub(crate) fn open(&self) -> Result<Device, Failure> {
        let name = &self.name;
        if name == "cpu" {
            return Ok(Device::Cpu);
        }
        match name.strip_prefix("cuda:").map(str::parse::<u16>) {
            Some(Ok(ordinal)) => gpu(name, ordinal),
            _ => {
                let message = format!("`{name}`: unknown device, expected `cpu` or `cuda:N`");
                Err(Failure::new(Code::Device, message))
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn gpu(name: &str, ordinal: u16) -> Result<Device, Failure> {
    metamask_ops::cuda_device(usize::from(ordinal)).map_err(|error| {
        let message = format!("`{name}`: {}", metamask_train::one_line(&error.into()));
        Failure::new(Code::Device, message).help("compute on the CPU with --device cpu")
    })
}

#[cfg(not(feature = "cuda"))]
fn gpu(name: &str, _: u16) -> Result<Device, Failure> {
    let message = format!("`{name}`: this build computes on the CPU only, expected `cpu`");
    Err(Failure::new(Code::Device, message))
}

/// The most MiB that were in use at once: of the GPU where it is one, else of the process.
pub(crate) fn peak_mib_of(device: &Device) -> Option<f64> {
    match device {
        Device::Cpu => machine::peak_mib(),
        _ => peak_gpu_memory(device).map(|bytes| bytes as f64 / f64::from(1 << 20)),
    }
}
