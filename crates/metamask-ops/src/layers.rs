//! Single layers as differentiable functions, for use beside Candle's own.
//!
//! Each is a [`Network`] of one layer, so gradients and tangents are those of
//! the engine. A function call keeps no buffers: stacks of layers that run more
//! than once belong into one [`Network`].
//!
//! Every `<layer>_tangent` takes values with directions and returns the
//! derivative of the layer along them; a missing direction is zero. Tangents are
//! numbers: they carry no gradient on.

use candle_core::{Result, Tensor, Var, bail};

use crate::{BatchStats, Dual, Network, NetworkBuilder, Node, Pool, network::Window};

/// Two-dimensional convolution (cross-correlation, as everywhere) without bias.
///
/// ```text
/// y[b, i, j, o] = Σ_{u, v, c} w[u, v, c, o] · x[b, i·stride + u − padding, j·stride + v − padding, c]
/// ```
///
/// # Shapes
/// `x`: `[batch, h, w, in]`; `weight`: `[kernel_h, kernel_w, in, out]`. Returns
/// `[batch, h', w', out]`, h' = ⌊(h + 2·padding − kernel_h) / stride⌋ + 1.
/// # Errors
/// If the shapes or dtypes do not fit, stride is 0, padding is not below the
/// kernel, or the kernel exceeds the padded image.
pub fn conv2d(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    conv2d_network(x, weight, stride, padding)?.value(x, &weight.flatten_all()?)
}

/// Tangent of [`conv2d`]: conv(ẋ, w) + conv(x, ẇ).
///
/// # Errors
/// As [`conv2d`]; if a direction is not shaped like its value.
pub fn conv2d_tangent(x: &Dual, weight: &Dual, stride: usize, padding: usize) -> Result<Tensor> {
    conv2d_network(&x.value, &weight.value, stride, padding)?.tangent(x, &flat(&[weight])?)
}

/// Batch normalisation over all axes but the last, ε = 1e-5.
///
/// ```text
/// y = γ · (x − μ) / √(σ² + ε) + β
/// ```
/// μ, σ² (biased) are the batch's, or those in `running` with [`BatchStats::Running`].
/// [`BatchStats::BatchAndUpdate`] moves `running` a tenth of the way to the
/// batch's mean and unbiased variance, as PyTorch does.
///
/// # Shapes
/// `x`: `[batch, h, w, c]` or `[batch, c]`; `gamma`, `beta`: `[c]`; `running`:
/// `[2 c]`, means then variances. Returns the shape of `x`.
/// # Errors
/// If the shapes or dtypes do not fit, or the batch holds fewer than two values
/// a channel and is to be normalised by itself.
pub fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: &Var,
    stats: BatchStats,
) -> Result<Tensor> {
    let layer = batch_norm_network(x, gamma, beta)?;
    layer.network.forward(x, &Tensor::cat(&[gamma, beta], 0)?, running, stats)
}

/// Tangent of [`batch_norm`]; the batch's statistics move with x, the running ones do not.
///
/// ```text
/// ẏ = γ̇ x̂ + γ · x̂˙ + β̇        x̂˙ = (ẋ − mean ẋ − x̂ · mean(x̂ ẋ)) / √(σ² + ε)
/// ```
/// `running` is only read, whatever `stats` says.
///
/// # Errors
/// As [`batch_norm`]; if a direction is not shaped like its value.
pub fn batch_norm_tangent(
    x: &Dual,
    gamma: &Dual,
    beta: &Dual,
    running: &Var,
    stats: BatchStats,
) -> Result<Tensor> {
    let layer = batch_norm_network(&x.value, &gamma.value, &beta.value)?;
    layer.network.tangent(x, &flat(&[gamma, beta])?, running, stats)
}

/// Maximum over windows. Padding never wins; among equals the first in row order
/// gets the gradient, as in PyTorch.
///
/// # Shapes
/// `x`: `[batch, h, w, c]`. Returns `[batch, h', w', c]`, h' = ⌊(h + 2·padding − kernel) / stride⌋ + 1.
/// # Errors
/// If `x` is no batch of images, kernel or stride is 0, padding is more than half
/// the kernel, or the kernel exceeds the padded image.
pub fn max_pool2d(x: &Tensor, pool: Pool) -> Result<Tensor> {
    pool_network("max_pool2d", x, |b| b.max_pool2d(b.input(), pool))?.value_of(x)
}

/// Tangent of [`max_pool2d`]: ẋ where the maxima are.
///
/// # Errors
/// As [`max_pool2d`]; if the direction is not shaped like the value.
pub fn max_pool2d_tangent(x: &Dual, pool: Pool) -> Result<Tensor> {
    pool_network("max_pool2d", &x.value, |b| b.max_pool2d(b.input(), pool))?.tangent_of(x)
}

/// Average over windows, padding counted as zeros (PyTorch's `count_include_pad=True`).
///
/// # Shapes
/// As [`max_pool2d`].
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(x: &Tensor, pool: Pool) -> Result<Tensor> {
    pool_network("avg_pool2d", x, |b| b.avg_pool2d(b.input(), pool))?.value_of(x)
}

/// Tangent of [`avg_pool2d`]: the average of ẋ, for it is linear.
///
/// # Errors
/// As [`avg_pool2d`]; if the direction is not shaped like the value.
pub fn avg_pool2d_tangent(x: &Dual, pool: Pool) -> Result<Tensor> {
    pool_network("avg_pool2d", &x.value, |b| b.avg_pool2d(b.input(), pool))?.tangent_of(x)
}

/// Average over height and width.
///
/// # Shapes
/// `x`: `[batch, h, w, c]`. Returns `[batch, c]`.
/// # Errors
/// If `x` is no batch of images.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    pool_network("global_avg_pool", x, |b| b.global_avg_pool(b.input()))?.value_of(x)
}

/// Tangent of [`global_avg_pool`]: the average of ẋ, for it is linear.
///
/// # Errors
/// As [`global_avg_pool`]; if the direction is not shaped like the value.
pub fn global_avg_pool_tangent(x: &Dual) -> Result<Tensor> {
    pool_network("global_avg_pool", &x.value, |b| b.global_avg_pool(b.input()))?.tangent_of(x)
}

/// y = x Wᵀ (+ b)
///
/// # Shapes
/// `x`: `[batch, in]`; `weight`: `[out, in]`; `bias`: `[out]`. Returns `[batch, out]`.
/// # Errors
/// If the shapes or dtypes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let theta = match bias {
        Some(bias) => Tensor::cat(&[&weight.flatten_all()?, bias], 0)?,
        None => weight.flatten_all()?,
    };
    linear_network(x, weight, bias)?.value(x, &theta)
}

/// Tangent of [`linear`]: ẋ Wᵀ + x Ẇᵀ (+ ḃ).
///
/// # Errors
/// As [`linear`]; if a direction is not shaped like its value.
pub fn linear_tangent(x: &Dual, weight: &Dual, bias: Option<&Dual>) -> Result<Tensor> {
    let layer = linear_network(&x.value, &weight.value, bias.map(|bias| &bias.value))?;
    let parameters: Vec<_> = std::iter::once(weight).chain(bias).collect();
    layer.tangent(x, &flat(&parameters)?)
}

/// A network of one layer.
struct Layer {
    network: Network,
}

impl Layer {
    fn new(
        mut builder: NetworkBuilder,
        layer: impl FnOnce(&mut NetworkBuilder) -> Node,
    ) -> Result<Self> {
        let output = layer(&mut builder);
        Ok(Self { network: builder.finish(output)? })
    }

    /// The value of a layer without running statistics.
    fn value(&self, x: &Tensor, theta: &Tensor) -> Result<Tensor> {
        self.network.forward(x, theta, &nothing(x)?, BatchStats::BatchOnly)
    }

    fn tangent(&self, x: &Dual, theta: &Dual) -> Result<Tensor> {
        self.network.tangent(x, theta, &nothing(&x.value)?, BatchStats::BatchOnly)
    }

    /// The value of a layer without parameters.
    fn value_of(&self, x: &Tensor) -> Result<Tensor> {
        self.value(x, &nothing(x)?.as_detached_tensor())
    }

    fn tangent_of(&self, x: &Dual) -> Result<Tensor> {
        self.tangent(x, &nothing(&x.value)?.as_detached_tensor().into())
    }
}

fn nothing(x: &Tensor) -> Result<Var> {
    Var::zeros(0, x.dtype(), x.device())
}

fn conv2d_network(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Layer> {
    let (&[_, _, _, channels], &[height, width, in_channels, out_channels]) =
        (x.dims(), weight.dims())
    else {
        bail!(
            "conv2d: input and weight must have 4 axes, got {:?} and {:?}",
            x.shape(),
            weight.shape()
        );
    };
    if channels != in_channels {
        bail!(
            "conv2d: input and weight must agree, expected {in_channels} channels, got {channels}"
        );
    }
    let window = Window { height, width, stride, padding };
    Layer::new(Network::builder(channels), |b| {
        b.conv2d_window("conv", b.input(), out_channels, window)
    })
}

fn batch_norm_network(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<Layer> {
    let builder = match *x.dims() {
        [_, _, _, channels] => Network::builder(channels),
        [_, width] => Network::builder_for_vectors(width),
        _ => bail!("batch_norm: the input must have 4 or 2 axes, got {:?}", x.shape()),
    };
    if gamma.dims() != [x.dim(x.rank() - 1)?] || beta.dims() != gamma.dims() {
        bail!(
            "batch_norm: gamma and beta must have a value a channel of {:?}, got {:?} and {:?}",
            x.shape(),
            gamma.shape(),
            beta.shape()
        );
    }
    Layer::new(builder, |b| b.batch_norm("norm", b.input()))
}

fn pool_network(
    operation: &str,
    x: &Tensor,
    layer: impl FnOnce(&mut NetworkBuilder) -> Node,
) -> Result<Layer> {
    let &[_, _, _, channels] = x.dims() else {
        bail!("{operation}: the input must have 4 axes, got {:?}", x.shape());
    };
    Layer::new(Network::builder(channels), layer)
}

fn linear_network(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Layer> {
    let (&[_, width], &[out_features, in_features]) = (x.dims(), weight.dims()) else {
        bail!(
            "linear: input and weight must have 2 axes, got {:?} and {:?}",
            x.shape(),
            weight.shape()
        );
    };
    if width != in_features || bias.is_some_and(|bias| bias.dims() != [out_features]) {
        bail!(
            "linear: shapes must fit, expected {:?} for weight {:?} and {out_features} biases, \
             got {width} features and bias {:?}",
            in_features,
            weight.shape(),
            bias.map(Tensor::shape)
        );
    }
    Layer::new(Network::builder_for_vectors(width), |b| {
        b.linear("linear", b.input(), out_features, bias.is_some())
    })
}

/// Parameters and their directions back to back; all directions missing stay missing.
fn flat(parameters: &[&Dual]) -> Result<Dual> {
    let values = parameters.iter().map(|p| p.value.flatten_all()).collect::<Result<Vec<_>>>()?;
    let value = Tensor::cat(&values, 0)?;
    if parameters.iter().all(|p| p.tangent.is_none()) {
        return Ok(value.into());
    }
    let tangents = parameters
        .iter()
        .map(|p| {
            let tangent = p.tangent_or_zeros()?;
            if tangent.dims() != p.value.dims() {
                bail!(
                    "tangent: a direction must be like its value, expected {:?}, got {:?}",
                    p.value.shape(),
                    tangent.shape()
                );
            }
            tangent.flatten_all()
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Dual::new(value, Tensor::cat(&tangents, 0)?))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    /// Step and tolerance of the central differences along a direction.
    const STEP: f64 = 1e-6;
    const TOLERANCE: f64 = 1e-7;

    fn dual(shape: &[usize], seed: u64) -> Result<Dual> {
        let mut stream = Key::new(seed, Purpose::Test).stream();
        let mut draw = || -> Result<Tensor> {
            let n = shape.iter().product();
            let values: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        Ok(Dual::new(Var::from_tensor(&draw()?)?.into_inner(), draw()?))
    }

    fn inner(a: &Tensor, b: &Tensor) -> Result<f64> {
        (a * b)?.sum_all()?.to_scalar()
    }

    /// The tangent is the central difference along the directions, and the
    /// gradient of ⟨y, u⟩ its adjoint.
    fn check(
        what: &str,
        arguments: &[Dual],
        value: impl Fn(&[Tensor]) -> Result<Tensor>,
        tangent: impl Fn(&[Dual]) -> Result<Tensor>,
    ) -> Result<()> {
        let values: Vec<_> = arguments.iter().map(|a| a.value.clone()).collect();
        let directions =
            arguments.iter().map(Dual::tangent_or_zeros).collect::<Result<Vec<_>>>()?;
        let at = |step: f64| {
            let moved = values.iter().zip(&directions);
            let moved = moved.map(|(v, d)| v.detach() + (d * step)?).collect::<Result<Vec<_>>>()?;
            value(&moved)
        };
        let got = tangent(arguments)?;
        let expected = ((at(STEP)? - at(-STEP)?)? / (2.0 * STEP))?;
        assert_eq!(got.dims(), expected.dims(), "{what}");
        let largest: f64 = expected.abs()?.max_all()?.to_scalar()?;
        let error: f64 = (&got - &expected)?.abs()?.max_all()?.to_scalar()?;
        assert!(error <= TOLERANCE * largest, "{what}: error {error:.1e} of {largest:.1e}");

        let u = dual(got.dims(), 9)?.value.detach();
        let gradients = (value(&values)? * &u)?.sum_all()?.backward()?;
        let mut back = 0.0;
        for (value, direction) in values.iter().zip(&directions) {
            back += inner(gradients.get(value).expect("tracked"), direction)?;
        }
        let forth = inner(&got, &u)?;
        assert!((back - forth).abs() <= 1e-12 * forth.abs().max(1.0), "{what}: {back}, {forth}");
        Ok(())
    }

    #[test]
    fn convolutions_of_any_kernel_and_stride_are_differentiable() -> Result<()> {
        for (height, width, stride, padding) in
            [(3, 3, 1, 1), (3, 3, 2, 1), (1, 1, 2, 0), (2, 4, 3, 1)]
        {
            let arguments = [dual(&[2, 6, 7, 3], 1)?, dual(&[height, width, 3, 4], 2)?];
            check(
                &format!("conv2d {height}x{width}, stride {stride}, padding {padding}"),
                &arguments,
                |a| conv2d(&a[0], &a[1], stride, padding),
                |a| conv2d_tangent(&a[0], &a[1], stride, padding),
            )?;
        }
        Ok(())
    }

    #[test]
    fn batch_norm_is_differentiable_in_every_mode() -> Result<()> {
        for stats in [BatchStats::BatchAndUpdate, BatchStats::BatchOnly, BatchStats::Running] {
            for shape in [&[4, 3, 2, 3][..], &[6, 3]] {
                let running = Var::new(&[0.1, -0.2, 0.3, 0.5, 1.0, 2.0], &Device::Cpu)?;
                let arguments = [dual(shape, 1)?, dual(&[3], 2)?, dual(&[3], 3)?];
                check(
                    &format!("batch_norm {stats:?} of {shape:?}"),
                    &arguments,
                    |a| batch_norm(&a[0], &a[1], &a[2], &running, stats),
                    |a| batch_norm_tangent(&a[0], &a[1], &a[2], &running, stats),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn the_tangent_of_batch_norm_leaves_the_running_statistics_alone() -> Result<()> {
        let running = Var::new(&[0.1, -0.2, 0.5, 1.0], &Device::Cpu)?;
        let (x, gamma, beta) = (dual(&[4, 2], 1)?, dual(&[2], 2)?, dual(&[2], 3)?);
        batch_norm_tangent(&x, &gamma, &beta, &running, BatchStats::BatchAndUpdate)?;
        assert_eq!(running.to_vec1::<f64>()?, [0.1, -0.2, 0.5, 1.0]);
        batch_norm(&x.value, &gamma.value, &beta.value, &running, BatchStats::BatchAndUpdate)?;
        assert_ne!(running.to_vec1::<f64>()?, [0.1, -0.2, 0.5, 1.0]);
        Ok(())
    }

    #[test]
    fn pooling_is_differentiable() -> Result<()> {
        let arguments = [dual(&[2, 7, 6, 3], 1)?];
        for pool in [
            Pool { kernel: 3, stride: 2, padding: 1 },
            Pool { kernel: 2, stride: 2, padding: 0 },
            Pool { kernel: 2, stride: 3, padding: 1 },
        ] {
            let max = |a: &[Dual]| max_pool2d_tangent(&a[0], pool);
            check("max_pool2d", &arguments, |a| max_pool2d(&a[0], pool), max)?;
            let avg = |a: &[Dual]| avg_pool2d_tangent(&a[0], pool);
            check("avg_pool2d", &arguments, |a| avg_pool2d(&a[0], pool), avg)?;
        }
        let global = |a: &[Dual]| global_avg_pool_tangent(&a[0]);
        check("global_avg_pool", &arguments, |a| global_avg_pool(&a[0]), global)
    }

    #[test]
    fn linear_is_differentiable_with_and_without_bias() -> Result<()> {
        let arguments = [dual(&[5, 4], 1)?, dual(&[3, 4], 2)?, dual(&[3], 3)?];
        check(
            "linear with bias",
            &arguments,
            |a| linear(&a[0], &a[1], Some(&a[2])),
            |a| linear_tangent(&a[0], &a[1], Some(&a[2])),
        )?;
        check(
            "linear without bias",
            &arguments[..2],
            |a| linear(&a[0], &a[1], None),
            |a| linear_tangent(&a[0], &a[1], None),
        )
    }

    #[test]
    fn a_missing_direction_is_zero() -> Result<()> {
        let (x, weight) = (dual(&[2, 5, 5, 3], 1)?, dual(&[3, 3, 3, 2], 2)?);
        let still = |dual: &Dual| Dual::from(dual.value.clone());
        let sum = (conv2d_tangent(&x, &still(&weight), 1, 1)?
            + conv2d_tangent(&still(&x), &weight, 1, 1)?)?;
        let both = conv2d_tangent(&x, &weight, 1, 1)?;
        let error: f64 = (sum - both)?.abs()?.max_all()?.to_scalar()?;
        assert!(error < 1e-13, "{error}");
        let none = conv2d_tangent(&still(&x), &still(&weight), 1, 1)?;
        assert_eq!(none.abs()?.max_all()?.to_scalar::<f64>()?, 0.0);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() -> Result<()> {
        let (x, vectors) = (dual(&[2, 5, 5, 3], 1)?.value, dual(&[2, 3], 2)?.value);
        let pool = Pool { kernel: 2, stride: 0, padding: 0 };
        for (result, expected) in [
            (conv2d(&x, &dual(&[3, 3, 4, 2], 3)?.value, 1, 1), "expected 4 channels, got 3"),
            (conv2d(&vectors, &x, 1, 1), "4 axes"),
            (max_pool2d(&x, pool), "stride"),
            (global_avg_pool(&vectors), "4 axes"),
            (linear(&vectors, &dual(&[4, 2], 3)?.value, None), "got 3 features"),
            (linear(&x, &vectors, None), "2 axes"),
        ] {
            let message = result.expect_err(expected).to_string();
            assert!(message.contains(expected), "expected `{expected}` in `{message}`");
        }
        Ok(())
    }
}
