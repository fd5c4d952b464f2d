//! The same networks on a GPU and on the CPU.
//!
//! `cargo xtask cuda-toolchain --test` runs them on the emulated device, and anybody with a GPU as
//! they are. Where there is neither, they pass.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::Network;
use super::tests::{check_close, for_each_case, values};
use crate::BatchStats::{self, BatchAndUpdate};
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
    running: Tensor,
}

/// The point, on `device`, as `dtype`.
struct At<'a> {
    network: &'a Network,
    tensors: [&'a Tensor; 6],
    stats: BatchStats,
}

impl At<'_> {
    fn evaluate(&self, device: &Device, dtype: DType) -> Result<Found> {
        let moved = |t: &Tensor| t.to_dtype(dtype)?.to_device(device);
        let [x, theta, running, u, x_dot, theta_dot] = self.tensors;
        let (x, theta) = (Var::from_tensor(&moved(x)?)?, Var::from_tensor(&moved(theta)?)?);
        let running = Var::from_tensor(&moved(running)?)?;
        let dual = |value: &Var, dot: &Tensor| -> Result<Dual> {
            Ok(Dual { value: value.as_detached_tensor(), tangent: Some(moved(dot)?) })
        };
        let (x_dual, theta_dual) = (dual(&x, x_dot)?, dual(&theta, theta_dot)?);
        let y_dot = self.network.tangent(&x_dual, &theta_dual, &running, self.stats)?;
        let y = self.network.forward(&x, &theta, &running, self.stats)?;
        let mut gradients = (&y * moved(u)?)?.sum_all()?.backward()?;
        let host = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        Ok(Found {
            dx: host(&gradients.remove(&x).expect("tracked"))?,
            dtheta: host(&gradients.remove(&theta).expect("tracked"))?,
            y: host(&y.detach())?,
            y_dot: host(&y_dot)?,
            running: host(&running.as_detached_tensor())?,
        })
    }
}

/// Compares a GPU's numbers with the CPU's in f64.
fn compare(device: &Device, dtype: DType, precision: Precision, tolerance: f64) -> Result<()> {
    for_each_case(|name, case, stats| {
        let network = case.network.with_precision(precision);
        let (x_dot, theta_dot) = (values(case.x.dims(), 6)?, values(case.theta.dims(), 7)?);
        let (x, theta, running) = (
            case.x.as_detached_tensor(),
            case.theta.as_detached_tensor(),
            case.running.as_detached_tensor(),
        );
        let tensors = [&x, &theta, &running, &case.u, &x_dot, &theta_dot];
        let reference = At { network: &case.network, tensors, stats };
        let expected = reference.evaluate(&Device::Cpu, DType::F64)?;
        let found = At { network: &network, tensors, stats }.evaluate(device, dtype)?;
        let what = |of: &str| format!("{name}, {dtype:?}, {precision:?}: {of}");
        check_close(&what("value"), &found.y, &expected.y, tolerance)?;
        check_close(&what("gradient in x"), &found.dx, &expected.dx, tolerance)?;
        check_close(&what("gradient in theta"), &found.dtheta, &expected.dtheta, tolerance)?;
        check_close(&what("tangent"), &found.y_dot, &expected.y_dot, tolerance)?;
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
    // Eight bits of mantissa, and ReLUs that open on another side of zero: a bound that a wrong
    // formula exceeds, not a measure of the rounding.
    compare(&device, DType::F32, Precision::Bf16, 0.35)
}

#[test]
fn a_gpu_repeats_itself_bit_for_bit() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    for_each_case(|name, case, stats| {
        let (x_dot, theta_dot) = (values(case.x.dims(), 6)?, values(case.theta.dims(), 7)?);
        let (x, theta, running) = (
            case.x.as_detached_tensor(),
            case.theta.as_detached_tensor(),
            case.running.as_detached_tensor(),
        );
        let tensors = [&x, &theta, &running, &case.u, &x_dot, &theta_dot];
        let at = At { network: &case.network, tensors, stats };
        let (once, again) = (at.evaluate(&device, DType::F32)?, at.evaluate(&device, DType::F32)?);
        check_close(name, &again.y, &once.y, 0.0)?;
        check_close(name, &again.dtheta, &once.dtheta, 0.0)?;
        check_close(name, &again.y_dot, &once.y_dot, 0.0)
    })
}
