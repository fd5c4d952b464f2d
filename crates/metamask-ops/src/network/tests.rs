//! Every derivative against central differences and against each other.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use metamask_random::{Key, Purpose};

use super::{
    Conv2d, Network, NetworkBuilder, Node, Pool,
    cpu::Cpu,
    op::{Evaluated, evaluate},
    run::Activations,
};
use crate::{
    BatchStats::{self, BatchAndUpdate, BatchOnly, Running},
    Precision,
};

/// Step of the central differences: its square and the rounding of a sum
/// divided by it are both far below the tolerance.
const STEP: f64 = 1e-6;
/// Relative to the largest derivative of the case.
const TOLERANCE: f64 = 1e-7;

/// A network at a point, with a direction to look back from.
pub(super) struct Case {
    pub network: Network,
    pub x: Var,
    pub theta: Var,
    pub running: Var,
    /// The loss is ⟨y, u⟩.
    pub u: Tensor,
}

pub(super) fn values(shape: &[usize], seed: u64) -> Result<Tensor> {
    let mut stream = Key::new(seed, Purpose::Test).stream();
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|_| 2.0 * stream.uniform_f64() - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

impl Case {
    fn new(network: Network, input: &[usize]) -> Result<Self> {
        let running = (values(&[network.running_count()], 3)? + 1.5)?; // variances above 0.5
        Ok(Self {
            x: Var::from_tensor(&values(input, 1)?)?,
            theta: Var::from_tensor(&values(&[network.parameter_count()], 2)?)?,
            running: Var::from_tensor(&running)?,
            u: values(&network.output_shape(input)?, 4)?,
            network,
        })
    }

    fn evaluate(&self, stats: BatchStats) -> Result<Evaluated<Cpu<f64>>> {
        let (x, theta) = (self.x.as_tensor(), self.theta.as_tensor());
        evaluate(
            &self.network.inner.cpu_f64,
            &self.network.inner,
            x,
            theta,
            &self.running,
            stats,
            Activations::Keep,
        )
    }

    fn forward(&self, x: &Tensor, theta: &Tensor, stats: BatchStats) -> Result<Tensor> {
        self.network.forward(x, theta, &self.running, stats)
    }

    /// Gradients of the loss in x and in theta.
    fn gradients(&self, y: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut gradients = (y * &self.u)?.sum_all()?.backward()?;
        let of = "tracked";
        Ok((gradients.remove(&self.x).expect(of), gradients.remove(&self.theta).expect(of)))
    }
}

/// A residual block with strides and a projection, as in ResNet-18.
fn residual() -> Result<Case> {
    let mut b = Network::builder(2);
    let conv =
        |out_channels, kernel, stride| Conv2d { out_channels, kernel, stride, padding: kernel / 2 };
    let x = b.conv2d("conv1", b.input(), conv(3, 3, 1));
    let x = b.batch_norm("bn1", x);
    let x = b.relu(x);
    let y = b.conv2d("block.conv1", x, conv(4, 3, 2));
    let y = b.batch_norm("block.bn1", y);
    let y = b.relu(y);
    let y = b.conv2d("block.conv2", y, conv(4, 3, 1));
    let y = b.batch_norm("block.bn2", y);
    let shortcut = b.conv2d("block.downsample.0", x, conv(4, 1, 2));
    let shortcut = b.batch_norm("block.downsample.1", shortcut);
    let y = b.add(y, shortcut);
    let y = b.relu(y);
    let z = b.conv2d("block2.conv", y, conv(4, 3, 1));
    let z = b.batch_norm("block2.bn", z);
    let z = b.add(z, y);
    let z = b.relu(z);
    let z = b.global_avg_pool(z);
    let z = b.linear("fc", z, 3, true);
    Case::new(b.finish(z)?, &[3, 6, 5, 2])
}

/// The stem of ImageNet's ResNets, average pooling, flattening.
fn pooled() -> Result<Case> {
    let mut b = Network::builder_for_size(9, 8, 3);
    let x =
        b.conv2d("conv", b.input(), Conv2d { out_channels: 4, kernel: 5, stride: 1, padding: 2 });
    let x = b.batch_norm("bn", x);
    let x = b.relu(x);
    let x = b.max_pool2d(x, Pool { kernel: 3, stride: 2, padding: 1 });
    let x = b.conv2d("narrow", x, Conv2d { out_channels: 2, kernel: 1, stride: 1, padding: 0 });
    let x = b.avg_pool2d(x, Pool { kernel: 2, stride: 1, padding: 1 });
    let x = b.flatten(x);
    let x = b.linear("fc", x, 3, false);
    Case::new(b.finish(x)?, &[2, 9, 8, 3])
}

/// Orders that do not fuse: values read twice, ReLU without norm, norms without
/// ReLU, a residual without ReLU, pooling of the input, the output an image.
fn unfused() -> Result<Case> {
    let conv = Conv2d { out_channels: 2, kernel: 3, stride: 1, padding: 1 };
    let mut b = Network::builder(2);
    let x = b.max_pool2d(b.input(), Pool { kernel: 2, stride: 2, padding: 0 });
    let y = b.conv2d("a", x, conv);
    let r = b.relu(y);
    let n = b.batch_norm("b", r);
    let s = b.add(n, r);
    let t = b.add(s, y);
    let t = b.relu(t);
    let t = b.add(t, t);
    let m = b.batch_norm("c", t);
    let k = b.batch_norm("d", x);
    let o = b.add(m, k);
    let v = b.batch_norm("e", o);
    let v = b.add(v, o);
    let v = b.relu(v);
    Case::new(b.finish(v)?, &[3, 6, 4, 2])
}

fn vectors() -> Result<Case> {
    let mut b = Network::builder_for_vectors(5);
    let x = b.linear("0", b.input(), 4, true);
    let x = b.batch_norm("1", x);
    let x = b.relu(x);
    let x = b.linear("3", x, 3, false);
    Case::new(b.finish(x)?, &[6, 5])
}

fn one_layer(layer: impl Fn(&mut NetworkBuilder) -> Node) -> Result<Case> {
    let mut b = Network::builder(2);
    let y = layer(&mut b);
    Case::new(b.finish(y)?, &[3, 5, 4, 2])
}

/// Every layer alone, then networks of them.
fn cases() -> Result<Vec<(&'static str, Case)>> {
    let conv = Conv2d { out_channels: 3, kernel: 3, stride: 2, padding: 1 };
    let pool = Pool { kernel: 3, stride: 2, padding: 1 };
    Ok(vec![
        ("conv2d", one_layer(|b| b.conv2d("conv", b.input(), conv))?),
        ("batch_norm", one_layer(|b| b.batch_norm("bn", b.input()))?),
        ("relu", one_layer(|b| b.relu(b.input()))?),
        ("add", one_layer(|b| b.add(b.input(), b.input()))?),
        ("max_pool2d", one_layer(|b| b.max_pool2d(b.input(), pool))?),
        ("avg_pool2d", one_layer(|b| b.avg_pool2d(b.input(), pool))?),
        ("global_avg_pool", one_layer(|b| b.global_avg_pool(b.input()))?),
        ("residual", residual()?),
        ("pooled", pooled()?),
        ("unfused", unfused()?),
        ("vectors", vectors()?),
    ])
}

pub(super) fn for_each_case(check: impl Fn(&str, &Case, BatchStats) -> Result<()>) -> Result<()> {
    for (name, case) in &cases()? {
        for stats in [BatchAndUpdate, BatchOnly, Running] {
            check(&format!("{name}, {stats:?}"), case, stats)?;
        }
    }
    Ok(())
}

/// Panics unless the largest difference is below `tolerance` of the largest value.
#[track_caller]
pub(super) fn check_close(
    what: &str,
    got: &Tensor,
    expected: &Tensor,
    tolerance: f64,
) -> Result<()> {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    if got.elem_count() == 0 {
        return Ok(());
    }
    let largest =
        |t: &Tensor| t.abs()?.flatten_all()?.max(D::Minus1)?.to_dtype(DType::F64)?.to_scalar();
    let (error, scale): (f64, f64) = (largest(&(got - expected)?)?, largest(expected)?);
    assert!(error <= tolerance * scale.max(1e-3), "{what}: error {error:.1e} of {scale:.1e}");
    Ok(())
}

/// Central differences of `f` in every coordinate of `at`, one row each.
fn differences(at: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let base: Vec<f64> = at.flatten_all()?.to_vec1()?;
    let shifted = |i: usize, step: f64| {
        let mut values = base.clone();
        values[i] += step;
        f(&Tensor::from_vec(values, at.shape(), &Device::Cpu)?)
    };
    let rows = (0..base.len())
        .map(|i| ((shifted(i, STEP)? - shifted(i, -STEP)?)? / (2.0 * STEP))?.flatten_all())
        .collect::<Result<Vec<_>>>()?;
    Tensor::stack(&rows, 0)
}

#[test]
fn gradients_and_tangents_equal_central_differences() -> Result<()> {
    for_each_case(|name, case, stats| {
        let (x, theta) = (case.x.as_detached_tensor(), case.theta.as_detached_tensor());
        let evaluated = case.evaluate(stats)?;
        let (dx, dtheta) = case.gradients(&evaluated.value)?;
        let u = case.u.flatten_all()?.unsqueeze(1)?;
        for (argument, at, gradient) in [("x", &x, dx), ("theta", &theta, dtheta)] {
            if at.elem_count() == 0 {
                continue;
            }
            let of_x = argument == "x";
            let jacobian = differences(at, |moved| {
                let (x, theta) = if of_x { (moved, &theta) } else { (&x, moved) };
                case.forward(x, theta, stats)
            })?; // [in, out]
            let what = format!("{name}, {argument}");
            let expected = jacobian.matmul(&u)?.reshape(at.shape())?;
            check_close(&format!("gradient: {what}"), &gradient, &expected, TOLERANCE)?;

            let dot = values(at.dims(), 5)?;
            let (x_dot, theta_dot) = if of_x { (Some(&dot), None) } else { (None, Some(&dot)) };
            let tangent = evaluated.tangent(x_dot, theta_dot)?;
            let expected = dot.flatten_all()?.unsqueeze(0)?.matmul(&jacobian)?;
            let expected = expected.reshape(tangent.shape())?;
            check_close(&format!("tangent: {what}"), &tangent, &expected, TOLERANCE)?;
        }
        Ok(())
    })
}

#[test]
fn gradient_and_tangent_are_adjoint() -> Result<()> {
    const TOLERANCE_ADJOINT: f64 = 1e-12; // the same products, summed in another order
    for_each_case(|name, case, stats| {
        let evaluated = case.evaluate(stats)?;
        let (dx, dtheta) = case.gradients(&evaluated.value)?;
        let x_dot = values(case.x.dims(), 6)?;
        let theta_dot = values(case.theta.dims(), 7)?;
        let tangent = evaluated.tangent(Some(&x_dot), Some(&theta_dot))?;

        let inner = |a: &Tensor, b: &Tensor| -> Result<f64> {
            if a.elem_count() == 0 {
                return Ok(0.0);
            }
            (a * b)?.sum_all()?.to_scalar()
        };
        let back = inner(&dx, &x_dot)? + inner(&dtheta, &theta_dot)?;
        let forth = inner(&tangent, &case.u)?;
        let scale = inner(&tangent.abs()?, &case.u.abs()?)?;
        assert!((back - forth).abs() <= TOLERANCE_ADJOINT * scale, "{name}: {back} and {forth}");
        Ok(())
    })
}

#[test]
fn one_forward_pass_serves_two_gradients_and_tangents() -> Result<()> {
    for_each_case(|name, case, stats| {
        let evaluated = case.evaluate(stats)?;
        let theta_dot = values(case.theta.dims(), 7)?;
        let tangent = evaluated.tangent(None, Some(&theta_dot))?;
        let (dx, dtheta) = case.gradients(&evaluated.value)?;
        let (dx_again, dtheta_again) = case.gradients(&evaluated.value)?;
        check_close(name, &dx_again, &dx, 0.0)?;
        check_close(name, &dtheta_again, &dtheta, 0.0)?;
        check_close(name, &evaluated.tangent(None, Some(&theta_dot))?, &tangent, 0.0)
    })
}

#[test]
fn a_pass_without_gradient_gives_the_same_result() -> Result<()> {
    for_each_case(|name, case, stats| {
        let expected = case.evaluate(stats)?.value;
        let (x, theta) = (case.x.as_detached_tensor(), case.theta.as_detached_tensor());
        check_close(name, &case.forward(&x, &theta, stats)?, &expected, 0.0)
    })
}

#[test]
fn only_tracked_arguments_get_a_gradient() -> Result<()> {
    let case = residual()?;
    let (x, theta) = (case.x.as_detached_tensor(), case.theta.as_detached_tensor());
    let (dx, dtheta) = case.gradients(&case.evaluate(BatchOnly)?.value)?;

    let y = case.forward(&x, &case.theta, BatchOnly)?;
    let gradients = (y * &case.u)?.sum_all()?.backward()?;
    check_close("theta alone", gradients.get(&case.theta).expect("tracked"), &dtheta, 0.0)?;
    assert!(gradients.get(&case.x).is_none());

    let y = case.forward(&case.x, &theta, BatchOnly)?;
    let gradients = (y * &case.u)?.sum_all()?.backward()?;
    check_close("x alone", gradients.get(&case.x).expect("tracked"), &dx, 0.0)?;
    assert!(gradients.get(&case.theta).is_none());
    Ok(())
}

#[test]
fn linearize_gives_value_gradient_and_tangent_of_forward() -> Result<()> {
    let case = residual()?;
    let linearized = case.network.linearize(&case.x, &case.theta, &case.running, BatchOnly)?;
    let evaluated = case.evaluate(BatchOnly)?;
    check_close("value", &linearized.value, &evaluated.value, 0.0)?;
    let dot = values(case.theta.dims(), 7)?;
    let expected = evaluated.tangent(None, Some(&dot))?;
    check_close("tangent", &linearized.tangent(std::slice::from_ref(&dot))?, &expected, 0.0)?;
    let (_, dtheta) = case.gradients(&linearized.value)?;
    check_close("gradient", &dtheta, &case.gradients(&evaluated.value)?.1, 0.0)?;

    assert!(linearized.tangent(&[]).is_err());
    assert!(linearized.tangent(&[dot.narrow(0, 1, 3)?]).is_err());
    Ok(())
}

/// Candle's own operations compute the same function.
#[test]
fn the_residual_network_equals_candles_operations() -> Result<()> {
    const TOLERANCE_FORWARD: f64 = 1e-13; // sums of at most 36 products
    let case = residual()?;
    for stats in [BatchOnly, Running] {
        let of = |name: &str| {
            let network = &case.network;
            let mut entries = network.parameters().iter().map(|e| (&case.theta, e));
            let mut running = network.running_statistics().iter().map(|e| (&case.running, e));
            let (tensor, entry) = entries
                .find(|(_, e)| e.name == name)
                .or_else(|| running.find(|(_, e)| e.name == name))
                .expect(name);
            tensor.narrow(0, entry.span.start, entry.span.len())?.reshape(entry.shape.as_slice())
        };
        let conv = |x: &Tensor, name: &str, stride: usize| {
            let weight = of(&format!("{name}.weight"))?.permute((3, 2, 0, 1))?;
            let padding = weight.dim(2)? / 2;
            x.permute((0, 3, 1, 2))?.conv2d(&weight, padding, stride, 1, 1)?.permute((0, 2, 3, 1))
        };
        let norm = |x: &Tensor, name: &str| {
            let rows = x.contiguous()?.flatten(0, 2)?;
            let (mean, variance) = if stats == Running {
                (of(&format!("{name}.running_mean"))?, of(&format!("{name}.running_var"))?)
            } else {
                let mean = rows.mean(0)?;
                let variance = rows.broadcast_sub(&mean)?.sqr()?.mean(0)?;
                (mean, variance)
            };
            x.broadcast_sub(&mean)?
                .broadcast_div(&(variance + 1e-5)?.sqrt()?)?
                .broadcast_mul(&of(&format!("{name}.weight"))?)?
                .broadcast_add(&of(&format!("{name}.bias"))?)
        };
        let x = norm(&conv(&case.x, "conv1", 1)?, "bn1")?.maximum(0.0)?;
        let y = norm(&conv(&x, "block.conv1", 2)?, "block.bn1")?.maximum(0.0)?;
        let y = norm(&conv(&y, "block.conv2", 1)?, "block.bn2")?;
        let shortcut = norm(&conv(&x, "block.downsample.0", 2)?, "block.downsample.1")?;
        let y = (y + shortcut)?.maximum(0.0)?;
        let z = (norm(&conv(&y, "block2.conv", 1)?, "block2.bn")? + y)?.maximum(0.0)?;
        let z = z.mean((1, 2))?.matmul(&of("fc.weight")?.t()?)?.broadcast_add(&of("fc.bias")?)?;
        check_close("forward", &case.evaluate(stats)?.value, &z, TOLERANCE_FORWARD)?;
    }
    Ok(())
}

#[test]
fn running_statistics_move_only_when_asked() -> Result<()> {
    let mut b = Network::builder(1);
    let y = b.batch_norm("bn", b.input());
    let network = b.finish(y)?;
    let theta = Tensor::new(&[1.0, 0.0], &Device::Cpu)?;
    let x = Tensor::new(&[1.0, 2.0, 3.0, 6.0], &Device::Cpu)?.reshape((2, 2, 1, 1))?;
    let running = Var::new(&[0.5, 2.0], &Device::Cpu)?;
    for stats in [BatchOnly, Running] {
        network.forward(&x, &theta, &running, stats)?;
        assert_eq!(running.to_vec1::<f64>()?, [0.5, 2.0]);
    }
    network.forward(&x, &theta, &running, BatchAndUpdate)?;
    // The batch's mean is 3, its unbiased variance (4 + 1 + 0 + 9) / 3.
    let expected =
        Tensor::new(&[0.9 * 0.5 + 0.1 * 3.0, 0.9 * 2.0 + 0.1 * 14.0 / 3.0], &Device::Cpu)?;
    check_close("running", &running, &expected, 1e-15)
}

#[test]
fn single_precision_follows_double() -> Result<()> {
    const TOLERANCE_F32: f64 = 1e-5; // sums of about 100 products, normalised twice
    for (name, case) in &cases()? {
        for stats in [BatchOnly, Running] {
            let evaluated = case.evaluate(stats)?;
            let (dx, dtheta) = case.gradients(&evaluated.value)?;
            let dot = values(case.theta.dims(), 7)?;
            let tangent = evaluated.tangent(None, Some(&dot))?;

            let single = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F32)?);
            let (x, theta, running) =
                (single(&case.x)?, single(&case.theta)?, single(&case.running)?);
            let narrow = case.network.linearize(&x, &theta, &running, stats)?;
            let u = case.u.to_dtype(DType::F32)?;
            let gradients = (&narrow.value * u)?.sum_all()?.backward()?;
            let check = |what: &str, got: &Tensor, expected: &Tensor| {
                let what = format!("{name}, {stats:?}, {what}");
                check_close(&what, &got.to_dtype(DType::F64)?, expected, TOLERANCE_F32)
            };
            check("value", &narrow.value, &evaluated.value)?;
            check("dx", gradients.get(&x).expect("tracked"), &dx)?;
            check("dtheta", gradients.get(&theta).expect("tracked"), &dtheta)?;
            let got = narrow.tangent(&[dot.to_dtype(DType::F32)?])?;
            check("tangent", &got, &tangent)?;
        }
    }
    Ok(())
}

/// Bits of value, gradients and tangent of a case in f32.
fn bits_in_f32(case: &Case) -> Result<Vec<u32>> {
    let single = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F32)?);
    let (x, theta, running) = (single(&case.x)?, single(&case.theta)?, single(&case.running)?);
    let narrow = case.network.linearize(&x, &theta, &running, BatchAndUpdate)?;
    let gradients = (&narrow.value * case.u.to_dtype(DType::F32)?)?.sum_all()?.backward()?;
    let dot = values(case.theta.dims(), 7)?.to_dtype(DType::F32)?;
    let tangent = narrow.tangent(&[dot])?;
    let all = [
        &narrow.value,
        gradients.get(&x).expect("tracked"),
        gradients.get(&theta).expect("tracked"),
        &tangent,
        running.as_tensor(),
    ];
    let mut bits = Vec::new();
    for tensor in all {
        bits.extend(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
    }
    Ok(bits)
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    // Large enough that the kernels split the work.
    let case = residual()?;
    let case = Case::new(case.network, &[16, 20, 18, 2])?;
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a small pool can be built").install(|| bits_in_f32(&case))
    };
    let one = run(1)?;
    for threads in [2, 4] {
        assert!(run(threads)? == one, "{threads} threads give other bits than one");
    }
    Ok(())
}

#[test]
fn threads_may_share_a_network() -> Result<()> {
    let case = residual()?;
    let expected = bits_in_f32(&case)?;
    std::thread::scope(|scope| {
        let run = || (0..20).map(|_| bits_in_f32(&case)).collect::<Result<Vec<_>>>();
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            let all = thread.join().expect("a thread that shares a network panicked")?;
            assert!(all.iter().all(|bits| *bits == expected));
        }
        Ok(())
    })
}

#[test]
fn buffers_do_not_grow_from_step_to_step() -> Result<()> {
    let case = residual()?;
    let dot = values(case.theta.dims(), 7)?;
    let step = || {
        let linearized =
            case.network.linearize(&case.x, &case.theta, &case.running, BatchAndUpdate)?;
        case.gradients(&linearized.value)?;
        linearized.tangent(std::slice::from_ref(&dot))?;
        // Features are extracted now and then, in batches of another size.
        let (x, theta) = (case.x.narrow(0, 0, 2)?.detach(), case.theta.as_detached_tensor());
        case.forward(&x, &theta, Running)
    };
    step()?;
    step()?;
    let buffers = &case.network.inner.cpu_f64.memory.buffers;
    let held = buffers.held();
    assert!(held > 0);
    for _ in 0..50 {
        step()?;
        assert_eq!(buffers.held(), held);
    }
    case.network.release_buffers();
    assert_eq!(buffers.held(), 0);
    Ok(())
}

#[test]
fn theta_changed_before_the_gradient_is_noticed() -> Result<()> {
    let case = vectors()?;
    let linearized = case.network.linearize(&case.x, &case.theta, &case.running, BatchOnly)?;
    case.theta.set(&(case.theta.as_tensor() * 0.9)?)?;
    let message = case.gradients(&linearized.value).expect_err("changed").to_string();
    assert!(message.contains("changed in place"), "{message}");
    assert!(linearized.tangent(&[case.theta.as_detached_tensor()]).is_err());
    Ok(())
}

#[test]
fn parameters_that_diverged_still_have_gradients() -> Result<()> {
    let case = vectors()?;
    case.theta.set(&case.theta.affine(f64::NAN, 0.0)?)?;
    let (_, dtheta) = case.gradients(&case.evaluate(BatchOnly)?.value)?;
    assert!(dtheta.to_vec1::<f64>()?.iter().any(|g| g.is_nan()));
    Ok(())
}

#[test]
fn arguments_that_do_not_fit_are_refused() -> Result<()> {
    let case = residual()?;
    let (x, theta, running) = (case.x.as_tensor(), case.theta.as_tensor(), &case.running);
    let check = |x: &Tensor, theta: &Tensor, running: &Var, stats, expected: &str| {
        let message = case.network.forward(x, theta, running, stats).expect_err(expected);
        assert!(message.to_string().contains(expected), "{message}");
    };
    check(x, &theta.narrow(0, 0, 5)?, running, BatchOnly, "must be flat");
    check(x, theta, &Var::from_tensor(theta)?, BatchOnly, "must be flat");
    check(&x.to_dtype(DType::F32)?, theta, running, BatchOnly, "input's dtype");
    check(&x.narrow(3, 0, 1)?, theta, running, BatchOnly, "must fit");
    let pixel = x.narrow(0, 0, 1)?.narrow(1, 0, 1)?.narrow(2, 0, 1)?;
    check(&pixel, theta, running, BatchOnly, "at least 2 values");
    case.network.forward(&pixel, theta, running, Running)?;
    Ok(())
}

/// 3x3 convolutions that Winograd's method takes, and some that it does not.
fn wide(precision: Precision) -> Result<Network> {
    let conv =
        |out_channels, kernel, stride| Conv2d { out_channels, kernel, stride, padding: kernel / 2 };
    let mut b = Network::builder(3);
    b.precision(precision);
    let x = b.conv2d("stem", b.input(), conv(24, 3, 1));
    let x = b.batch_norm("bn", x);
    let x = b.relu(x);
    let y = b.conv2d("conv1", x, conv(32, 3, 1));
    let y = b.batch_norm("bn1", y);
    let y = b.relu(y);
    let y = b.conv2d("conv2", y, conv(40, 3, 2));
    let y = b.batch_norm("bn2", y);
    let shortcut = b.conv2d("downsample", x, conv(40, 1, 2));
    let y = b.add(y, shortcut);
    let y = b.relu(y);
    let y = b.global_avg_pool(y);
    b.finish(y)
}

/// Value, gradients in the input and the parameters, and tangent, one behind the other.
fn everything(network: &Network, dtype: DType) -> Result<Vec<f64>> {
    let case = Case::new(network.clone(), &[6, 17, 14, 3])?;
    let cast = |tensor: &Tensor| tensor.to_dtype(dtype);
    let (x, theta) = (Var::from_tensor(&cast(&case.x)?)?, Var::from_tensor(&cast(&case.theta)?)?);
    let running = Var::from_tensor(&cast(&case.running)?)?;
    let linearized = network.linearize(&x, &theta, &running, BatchOnly)?;
    let mut gradients = (&linearized.value * cast(&case.u)?)?.sum_all()?.backward()?;
    let direction = cast(&values(&[network.parameter_count()], 7)?)?;
    let mut all = Vec::new();
    for tensor in [
        linearized.value.clone(),
        gradients.remove(&x).expect("tracked"),
        gradients.remove(&theta).expect("tracked"),
        linearized.tangent(&[direction])?,
    ] {
        let tensor = tensor.flatten_all()?.to_dtype(DType::F64)?;
        let scale = tensor.sqr()?.mean_all()?.sqrt()?.to_scalar::<f64>()?;
        all.extend((tensor / scale)?.to_vec1::<f64>()?);
    }
    Ok(all)
}

#[test]
fn a_fast_network_is_the_exact_one_up_to_rounding() -> Result<()> {
    let expected = everything(&wide(Precision::Exact)?, DType::F64)?;
    let error = |precision, dtype| -> Result<f64> {
        let got = everything(&wide(precision)?, dtype)?;
        Ok(got.iter().zip(&expected).map(|(g, e)| (g - e).abs()).fold(0.0, f64::max))
    };
    assert_eq!(error(Precision::Fast, DType::F64)?, 0.0, "f64 is always exact");
    let (exact, fast) = (error(Precision::Exact, DType::F32)?, error(Precision::Fast, DType::F32)?);
    // A ReLU that changes sides near 0 moves a gradient by more than rounding does.
    assert!(exact < 1e-4 && fast < 5e-4, "exact {exact:.1e}, fast {fast:.1e}");
    assert_ne!(exact, fast, "the fast network takes other kernels");
    Ok(())
}

#[test]
fn a_network_in_bf16_is_off_by_what_its_eight_bits_are() -> Result<()> {
    let expected = everything(&wide(Precision::Exact)?, DType::F64)?;
    let error = |dtype| -> Result<f64> {
        let got = everything(&wide(Precision::Bf16)?, dtype)?;
        let squares = got.iter().zip(&expected).map(|(g, e)| (g - e).powi(2));
        Ok((squares.sum::<f64>() / expected.len() as f64).sqrt())
    };
    assert_eq!(error(DType::F64)?, 0.0, "f64 is always exact");
    let error = error(DType::F32)?;
    assert!((1e-3..5e-2).contains(&error), "{error:.1e}");
    Ok(())
}

#[test]
fn extraction_normalises_in_the_convolution_and_changes_nothing_but_rounding() -> Result<()> {
    let networks = [wide(Precision::Exact)?, wide(Precision::Fast)?, residual()?.network];
    for (network, channels) in networks.iter().zip([3, 3, 2]) {
        let case = Case::new(network.clone(), &[6, 17, 14, channels])?;
        for dtype in [DType::F32, DType::F64] {
            let cast = |tensor: &Tensor| tensor.to_dtype(dtype);
            let (x, theta) = (cast(&case.x)?, Var::from_tensor(&cast(&case.theta)?)?);
            let running = Var::from_tensor(&cast(&case.running)?)?;
            // Where a gradient may be asked for, convolution and normalisation are two steps.
            let kept = network.forward(&x, &theta, &running, Running)?;
            let folded = network.forward(&x.detach(), &theta.detach(), &running, Running)?;
            let largest = |t: &Tensor| t.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar::<f64>();
            let error = largest(&(&kept - &folded)?)? / largest(&kept)?;
            let tolerance = if dtype == DType::F32 { 1e-6 } else { 1e-14 };
            assert!(error <= tolerance, "{dtype:?}: {error:.1e}");
        }
    }
    Ok(())
}
