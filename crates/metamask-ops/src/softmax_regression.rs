//! Loss and gradient of softmax regression (multinomial logistic regression).
//!
//! Leaves the penalty and the solver to others.

use candle_core::{CpuStorage, D, DType, Result, Storage, Tensor, bail};

use crate::{Kernel, kernels};

/// What [`softmax_regression`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct LossAndGradient {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Its gradient in W, `[n_classes, dim]` row by row.
    pub weight: Vec<f64>,
    /// Its gradient in b, `[n_classes]`.
    pub bias: Vec<f64>,
}

/// Mean cross-entropy of a linear classifier and its gradient, in one pass over the
/// features.
///
/// ```text
/// L = (1/n) Σᵢ −ln softmax(W xᵢ + b)_{yᵢ}
/// ∂L/∂W = (1/n) Σᵢ (pᵢ − e_{yᵢ}) xᵢᵀ      ∂L/∂b = (1/n) Σᵢ (pᵢ − e_{yᵢ})
/// ```
/// Products are done in the features' dtype, exponentials and long sums in f64. The
/// same bits come out whatever the number of threads.
///
/// # Shapes
/// `x`: `[n, dim]`, f32 or f64, contiguous, on any device, with `n` labels; `weight`:
/// `[n_classes, dim]` row by row; `bias`: `[n_classes]`.
/// # Errors
/// If shapes, labels or dtype do not fit, or there is no row.
pub fn softmax_regression(
    x: &Tensor,
    labels: &[u32],
    weight: &[f64],
    bias: &[f64],
) -> Result<LossAndGradient> {
    let (n, dim) = x.dims2()?;
    if n == 0 || dim == 0 || labels.len() != n {
        bail!(
            "softmax_regression: each row needs one label, got [{n}, {dim}] and {}",
            labels.len()
        );
    }
    if bias.is_empty() || weight.len() != bias.len() * dim {
        bail!(
            "softmax_regression: weights must be classes by width, expected {} x {dim}, got {}",
            bias.len(),
            weight.len()
        );
    }
    if let Some(label) = labels.iter().find(|&&label| label as usize >= bias.len()) {
        bail!("softmax_regression: labels must be below {}, got {label}", bias.len());
    }
    if !matches!(x.dtype(), DType::F32 | DType::F64) {
        bail!("softmax_regression: features must be f32 or f64, got {:?}", x.dtype());
    }
    let (storage, layout) = x.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("softmax_regression: features must be contiguous");
    };
    let sums = match &*storage {
        Storage::Cpu(CpuStorage::F32(x)) => sums(&x[start..end], labels, weight, bias),
        Storage::Cpu(CpuStorage::F64(x)) => sums(&x[start..end], labels, weight, bias),
        _ => sums_by_tensors(x, labels, weight, bias)?,
    };
    let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| sum / n as f64).collect();
    Ok(LossAndGradient {
        loss: sums.loss / n as f64,
        weight: mean(sums.weight),
        bias: mean(sums.bias),
    })
}

fn sums<T: kernels::Real>(
    x: &[T],
    labels: &[u32],
    weight: &[f64],
    bias: &[f64],
) -> kernels::RegressionSums {
    let narrow = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
    let (weight, bias) = (narrow(weight), narrow(bias));
    kernels::SoftmaxRegression { x, labels, weight: &weight, bias: &bias }.sums(Kernel::current())
}

/// The same where only tensors reach. Rows go through a block at a time, so that sums over the
/// rows of one are short.
fn sums_by_tensors(
    x: &Tensor,
    labels: &[u32],
    weight: &[f64],
    bias: &[f64],
) -> Result<kernels::RegressionSums> {
    const ROWS: usize = 4096;
    let (n, dim) = x.dims2()?;
    let (device, classes) = (x.device(), bias.len());
    let w = Tensor::from_slice(weight, (classes, dim), device)?.to_dtype(x.dtype())?;
    let b = Tensor::from_slice(bias, (1, classes), device)?;
    let mut loss = Tensor::zeros((), DType::F64, device)?;
    let mut of_weight = Tensor::zeros((classes, dim), DType::F64, device)?;
    let mut of_bias = Tensor::zeros(classes, DType::F64, device)?;
    for (first, labels) in (0..n).step_by(ROWS).zip(labels.chunks(ROWS)) {
        let x = x.narrow(0, first, labels.len())?;
        let y = Tensor::from_slice(labels, (labels.len(), 1), device)?;
        let logits = x.matmul(&w.t()?)?.to_dtype(DType::F64)?.broadcast_add(&b)?;
        let logits = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        let exp = logits.exp()?;
        let sum = exp.sum_keepdim(D::Minus1)?;
        loss = (loss + (sum.log()? - logits.gather(&y, 1)?)?.sum_all()?)?;
        // p − e_y
        let minus_one = Tensor::full(-1f64, y.shape(), device)?;
        let residual = exp.broadcast_div(&sum)?.scatter_add(&y, &minus_one, 1)?;
        let product = residual.to_dtype(x.dtype())?.t()?.matmul(&x)?;
        of_weight = (of_weight + product.to_dtype(DType::F64)?)?;
        of_bias = (of_bias + residual.sum(0)?)?;
    }
    Ok(kernels::RegressionSums {
        loss: loss.to_scalar()?,
        weight: of_weight.flatten_all()?.to_vec1()?,
        bias: of_bias.to_vec1()?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    #[test]
    fn without_weights_every_class_is_as_likely() -> Result<()> {
        // L = ln 4; of x = (1, 2) and label 3 the gradient is (¼ − e₃) xᵀ.
        let x = Tensor::new(&[[1.0_f64, 2.0]], &Device::Cpu)?;
        let got = softmax_regression(&x, &[3], &[0.0; 8], &[0.0; 4])?;
        assert!((got.loss - 4f64.ln()).abs() < 1e-15);
        assert_eq!(got.weight, [0.25, 0.5, 0.25, 0.5, 0.25, 0.5, -0.75, -1.5]);
        assert_eq!(got.bias, [0.25, 0.25, 0.25, -0.75]);
        Ok(())
    }

    #[test]
    fn tensors_alone_make_the_same_sums() -> Result<()> {
        let (n, dim, classes) = (5000, 7, 4);
        let mut stream = Key::new(2, Purpose::Test).stream();
        let mut normal = |n: usize| (0..n).map(|_| stream.normal()).collect::<Vec<f64>>();
        let (x, weight, bias) = (normal(n * dim), normal(classes * dim), normal(classes));
        let labels: Vec<u32> = (0..n as u32).map(|i| i * i % 7 % 4).collect();
        let x = Tensor::from_vec(x, (n, dim), &Device::Cpu)?;
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
            let expected = softmax_regression(&x, &labels, &weight, &bias)?;
            let x = x.to_dtype(dtype)?;
            let found = sums_by_tensors(&x, &labels, &weight, &bias)?;
            let close = |found: f64, expected: f64| {
                let found = found / n as f64;
                assert!((found - expected).abs() <= tolerance, "{dtype:?}: {found} {expected}");
            };
            close(found.loss, expected.loss);
            found.weight.iter().zip(&expected.weight).for_each(|(f, e)| close(*f, *e));
            found.bias.iter().zip(&expected.bias).for_each(|(f, e)| close(*f, *e));
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let x = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
        let refused = |x: &Tensor, labels: &[u32], weight: &[f64], expected: &str| {
            let error = softmax_regression(x, labels, weight, &[0.0; 2]).unwrap_err().to_string();
            assert!(error.contains(expected), "`{error}` does not say `{expected}`");
        };
        refused(&x, &[0, 1], &[0.0; 4], "one label");
        refused(&x, &[0, 1, 2], &[0.0; 4], "below 2, got 2");
        refused(&x, &[0, 1, 1], &[0.0; 5], "2 x 2, got 5");
        refused(&x.t()?, &[0, 1], &[0.0; 6], "contiguous");
        refused(&x.to_dtype(DType::F16)?, &[0, 1, 1], &[0.0; 4], "f32 or f64");
        Ok(())
    }
}
