//! The same networks on a GPU and on the CPU.
//!
//! `cargo xtask cuda-toolchain --test` runs them on the emulated device, and anybody with a GPU as
//! they are. Where there is neither, they pass.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::Network;
use super::tests::{Case, check_close, for_each_case, values};
use crate::BatchStats::{self, BatchAndUpdate, Running};
use crate::{Dual, Precision, cuda_device};

/// The first GPU, if there is one; `tests/gpu.rs` sees to it that there is where one is expected.
fn gpu() -> Option<Device> {
    cuda_device(0).ok()
}

/// Everything that a network computes at a point.
struct Found {
    y: Tensor,
    dx: Tensor,
    dtheta: Tensor,
    y_dot: Tensor,
    /// The value by the running statistics, of a pass without gradient: convolutions and the
    /// normalisations behind them are then one.
    free: Tensor,
    running: Tensor,
}

/// A network at a point, with directions.
struct At<'a> {
    network: &'a Network,
    /// x, θ, the running statistics, the loss's u, ẋ and θ̇.
    tensors: [Tensor; 6],
    stats: BatchStats,
}

impl<'a> At<'a> {
    fn new(network: &'a Network, case: &Case, stats: BatchStats) -> Result<Self> {
        let [x, theta, running] =
            [&case.x, &case.theta, &case.running].map(|var| var.as_detached_tensor());
        let (x_dot, theta_dot) = (values(x.dims(), 6)?, values(theta.dims(), 7)?);
        Ok(Self { network, tensors: [x, theta, running, case.u.clone(), x_dot, theta_dot], stats })
    }

    fn evaluate(&self, device: &Device, dtype: DType) -> Result<Found> {
        let moved = |t: &Tensor| t.to_dtype(dtype)?.to_device(device);
        // One number into its memory: a tensor need not begin where 16 bytes do.
        let behind = |t: &Tensor| {
            let flat = t.flatten_all()?;
            let longer = moved(&Tensor::cat(&[&flat.narrow(0, 0, 1)?, &flat], 0)?)?;
            longer.narrow(0, 1, flat.elem_count())?.reshape(t.shape())
        };
        let [x, theta, running, u, x_dot, theta_dot] = &self.tensors;
        let running = Var::from_tensor(&moved(running)?)?;
        let dual = |value: Tensor, dot: Tensor| Dual { value, tangent: Some(dot) };
        let (x_dual, theta_dual) =
            (dual(behind(x)?, behind(x_dot)?), dual(moved(theta)?, moved(theta_dot)?));
        let y_dot = self.network.tangent(&x_dual, &theta_dual, &running, self.stats)?;
        let free = self.network.forward(&x_dual.value, &theta_dual.value, &running, Running)?;
        let (x, theta) = (Var::from_tensor(&moved(x)?)?, Var::from_tensor(&moved(theta)?)?);
        let y = self.network.forward(&x, &theta, &running, self.stats)?;
        let mut gradients = (&y * moved(u)?)?.sum_all()?.backward()?;
        let host = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        Ok(Found {
            dx: host(&gradients.remove(&x).expect("tracked"))?,
            dtheta: host(&gradients.remove(&theta).expect("tracked"))?,
            y: host(&y.detach())?,
            y_dot: host(&y_dot)?,
            free: host(&free)?,
            running: host(&running.as_detached_tensor())?,
        })
    }
}

/// Compares a GPU's numbers with the CPU's in f64.
fn compare(device: &Device, dtype: DType, precision: Precision, tolerance: f64) -> Result<()> {
    for_each_case(|name, case, stats| {
        let network = case.network.with_precision(precision);
        let mut reference = At::new(&case.network, case, stats)?;
        if precision == Precision::Bf16 {
            // Where numbers are stored as bfloat16 both begin at such ones: what differs then is
            // what happens on the way.
            for tensor in &mut reference.tensors {
                *tensor = tensor.to_dtype(DType::BF16)?.to_dtype(DType::F64)?;
            }
        }
        let at = At { network: &network, tensors: reference.tensors.clone(), stats };
        let expected = reference.evaluate(&Device::Cpu, DType::F64)?;
        let found = at.evaluate(device, dtype)?;
        let what = |of: &str| format!("{name}, {dtype:?}, {precision:?}: {of}");
        check_close(&what("value"), &found.y, &expected.y, tolerance)?;
        check_close(&what("gradient in x"), &found.dx, &expected.dx, tolerance)?;
        check_close(&what("gradient in theta"), &found.dtheta, &expected.dtheta, tolerance)?;
        check_close(&what("tangent"), &found.y_dot, &expected.y_dot, tolerance)?;
        check_close(&what("value, nothing kept"), &found.free, &expected.free, tolerance)?;
        let moved = if stats == BatchAndUpdate { tolerance } else { 1e-6 };
        check_close(&what("running statistics"), &found.running, &expected.running, moved)
    })
}

#[test]
fn a_gpu_computes_what_the_cpu_does_in_f64() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    compare(&device, DType::F64, Precision::Exact, 1e-11)
}

#[test]
fn a_gpu_computes_what_the_cpu_does_in_f32() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    compare(&device, DType::F32, Precision::Exact, 2e-4)
}

#[test]
fn a_gpu_computes_what_the_cpu_does_in_bfloat16() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    // A few roundings to 2^-9 each.
    compare(&device, DType::F32, Precision::Bf16, 0.04)
}

#[test]
fn a_gpu_repeats_itself_bit_for_bit() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    for_each_case(|name, case, stats| {
        let at = At::new(&case.network, case, stats)?;
        let (once, again) = (at.evaluate(&device, DType::F32)?, at.evaluate(&device, DType::F32)?);
        check_close(name, &again.y, &once.y, 0.0)?;
        check_close(name, &again.dtheta, &once.dtheta, 0.0)?;
        check_close(name, &again.y_dot, &once.y_dot, 0.0)
    })
}
