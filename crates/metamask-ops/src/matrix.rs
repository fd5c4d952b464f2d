//! What expressions over `[batch, dim]` need and Candle does slowly on the CPU:
//! sums over the batch, rows repeated over it, and ReLU; and the matrix product.
//!
//! Candle walks a sum over the first axis, hence the gradient of every
//! broadcast row, and a comparison with a number element by element through
//! strides. Numbers on other devices, or neither f32 nor f64, are left to it.
//! Its product has both factors' gradients computed and kept, a constant's too:
//! in M4 those of a head's weights would take more than the activations of it.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, WithDType,
    backend::BackendStorage, bail,
};

/// Matrix product of `[n, k]` and `[k, m]`. A factor that no variable is in gets no
/// gradient.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match a.track_op() != b.track_op() && a.rank() == 2 && b.rank() == 2 && is_ours(a) {
        true => a.apply_op2(b, Product),
        false => a.matmul(b),
    }
}

/// A product one of whose factors is a constant.
struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((n, k), (k_b, m)) = (a_layout.shape().dims2()?, b_layout.shape().dims2()?);
        if k != k_b {
            bail!("product: the inner sizes must be equal, got {k} and {k_b}");
        }
        Ok((a.matmul(b, (1, n, m, k), a_layout, b_layout)?, (n, m).into()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _product: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_a = a.track_op().then(|| gradient.matmul(&b.t()?)).transpose()?;
        let of_b = b.track_op().then(|| a.t()?.matmul(gradient)).transpose()?;
        Ok((of_a, of_b))
    }
}

/// Sum over `dim`, which stays with size 1.
pub(crate) fn sum_keepdim(x: &Tensor, dim: usize) -> Result<Tensor> {
    match *x.dims() {
        [n, _] if dim == 0 && n > 1 && is_ours(x) => x.contiguous()?.apply_op1(Op::SumRows),
        _ => x.sum_keepdim(dim),
    }
}

/// a + b, broadcast.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    repeated_like(a, b)?.broadcast_add(&repeated_like(b, a)?)
}

/// a − b, broadcast.
pub(crate) fn sub(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    repeated_like(a, b)?.broadcast_sub(&repeated_like(b, a)?)
}

/// a · b elementwise, broadcast.
pub(crate) fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    repeated_like(a, b)?.broadcast_mul(&repeated_like(b, a)?)
}

/// a / b elementwise, broadcast.
pub(crate) fn div(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    repeated_like(a, b)?.broadcast_div(&repeated_like(b, a)?)
}

/// `x` broadcast to the shape of `like`.
pub(crate) fn broadcast_like(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    repeated_like(x, like)?.broadcast_as(like.shape())
}

/// `x` once for each row, if it is a row (`[dim]` or `[1, dim]`) of a matrix
/// like `like`; anything else as it is, for Candle to broadcast.
fn repeated_like(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let is_row_of = |dim: usize| matches!(*x.dims(), [d] | [1, d] if d == dim);
    match *like.dims() {
        [n, dim] if n > 1 && is_row_of(dim) && is_ours(x) => {
            x.reshape((1, dim))?.contiguous()?.apply_op1(Op::RepeatRow { n })
        }
        _ => Ok(x.clone()),
    }
}

/// max(x, 0). A NaN stays one; the derivative at 0 is 0.
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    if is_ours(x) { x.contiguous()?.apply_op1(Op::Relu) } else { x.mul(&step(x)?) }
}

/// 1 where x > 0, else 0. No derivative goes through it.
pub(crate) fn step(x: &Tensor) -> Result<Tensor> {
    if is_ours(x) {
        x.contiguous()?.apply_op1_no_bwd(&Op::Step)
    } else {
        x.detach().gt(0.0)?.to_dtype(x.dtype())
    }
}

fn is_ours(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// `[n, dim]` to `[1, dim]`.
    SumRows,
    /// `[1, dim]` to `[n, dim]`.
    RepeatRow {
        n: usize,
    },
    Relu,
    Step,
}

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        match self {
            Self::SumRows => "sum_rows",
            Self::RepeatRow { .. } => "repeat_row",
            Self::Relu => "relu",
            Self::Step => "step",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(x) => f32::to_cpu_storage_owned(self.run(x, layout)?),
            CpuStorage::F64(x) => f64::to_cpu_storage_owned(self.run(x, layout)?),
            _ => bail!("{}: dtype must be f32 or f64", self.name()),
        };
        let shape = match *self {
            Self::SumRows => (1, layout.shape().dims2()?.1).into(),
            Self::RepeatRow { n } => (n, layout.shape().dims2()?.1).into(),
            Self::Relu | Self::Step => layout.shape().clone(),
        };
        Ok((y, shape))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        match self {
            Self::SumRows => repeated_like(gradient, x).map(Some),
            Self::RepeatRow { .. } => sum_keepdim(gradient, 0).map(Some),
            Self::Relu => gradient.mul(&step(y)?).map(Some),
            Self::Step => Ok(None),
        }
    }
}

impl Op {
    fn run<T: WithDType>(self, x: &[T], layout: &Layout) -> Result<Vec<T>> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{}: the tensor must be contiguous, got {layout:?}", self.name())
        };
        let (x, zero) = (&x[start..end], T::zero());
        Ok(match self {
            Self::SumRows => sum_rows(x, layout.shape().dims2()?.1),
            Self::RepeatRow { n } => x.repeat(n),
            // A NaN is not below 0 and stays.
            Self::Relu => x.iter().map(|&x| if x <= zero { zero } else { x }).collect(),
            Self::Step => x.iter().map(|&x| if x > zero { T::one() } else { zero }).collect(),
        })
    }
}

/// Rows are summed in blocks of 16 and the blocks' sums then: the rounding of a
/// sum over thousands of rows stays that of a few hundred, at no cost.
fn sum_rows<T: WithDType>(x: &[T], dim: usize) -> Vec<T> {
    const BLOCK: usize = 16;
    let mut sum = vec![T::zero(); dim];
    let mut block_sum = vec![T::zero(); dim];
    let add = |sum: &mut [T], row: &[T]| sum.iter_mut().zip(row).for_each(|(s, &x)| *s += x);
    for block in x.chunks(BLOCK * dim) {
        block_sum.fill(T::zero());
        block.chunks_exact(dim).for_each(|row| add(&mut block_sum, row));
        add(&mut sum, &block_sum);
    }
    sum
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::differentiable::tests::{max_difference, normal};

    #[test]
    fn rows_and_sums_equal_candle_s() -> Result<()> {
        // 37 rows: two whole blocks and a part.
        let x = normal(&[37, 5], 1)?;
        let transposed = normal(&[5, 37], 2)?.t()?;
        let expected = x.sum_keepdim(0)?;
        assert_eq!(sum_keepdim(&x, 0)?.dims(), [1, 5]);
        assert!(max_difference(&sum_keepdim(&x, 0)?, &expected)? < 1e-13);
        assert!(
            max_difference(&sum_keepdim(&transposed, 0)?, &transposed.sum_keepdim(0)?)? < 1e-13
        );
        assert!(max_difference(&sum_keepdim(&x, 1)?, &x.sum_keepdim(1)?)? == 0.0);

        for row in [normal(&[5], 3)?, normal(&[1, 5], 3)?] {
            assert!(max_difference(&sub(&x, &row)?, &x.broadcast_sub(&row)?)? == 0.0);
            assert!(max_difference(&div(&row, &x)?, &row.broadcast_div(&x)?)? == 0.0);
            assert!(
                max_difference(&broadcast_like(&row, &x)?, &row.broadcast_as((37, 5))?)? == 0.0
            );
        }
        Ok(())
    }

    #[test]
    fn their_gradients_equal_candle_s() -> Result<()> {
        let x = Var::from_tensor(&normal(&[7, 4], 1)?)?;
        let row = Var::from_tensor(&normal(&[4], 2)?)?;
        let weights = normal(&[7, 4], 3)?;
        let gradients = |y: Tensor| -> Result<[Tensor; 2]> {
            let mut gradients = (y * &weights)?.sum_all()?.backward()?;
            Ok([&x, &row].map(|v| gradients.remove(v).expect("both are variables")))
        };
        let ours = gradients(mul(&sub(&x, &row)?, &sum_keepdim(&x, 0)?)?)?;
        let theirs = gradients(x.broadcast_sub(&row)?.broadcast_mul(&x.sum_keepdim(0)?)?)?;
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.dims(), theirs.dims());
            assert!(max_difference(ours, theirs)? < 1e-12);
        }
        Ok(())
    }

    #[test]
    fn a_product_gives_its_constant_factor_no_gradient() -> Result<()> {
        let x = Var::from_tensor(&normal(&[7, 4], 1)?)?;
        let (left, right) = (normal(&[5, 7], 2)?, normal(&[6, 4], 3)?.t()?); // strided
        let gradients = |product: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>| {
            let y = product(&product(&left, x.as_tensor())?, &right)?; // [5, 6]
            let mut gradients = y.sqr()?.sum_all()?.backward()?;
            let of_x = gradients.remove(&x).expect("x is a variable");
            let constants = [&left, &right].map(|c| gradients.get(c).is_some());
            Ok::<_, candle_core::Error>((y, of_x, constants))
        };
        let (y, of_x, constants) = gradients(&matmul)?;
        let (theirs, of_x_theirs, constants_theirs) = gradients(&Tensor::matmul)?;
        assert!(max_difference(&y, &theirs)? < 1e-12);
        assert!(max_difference(&of_x, &of_x_theirs)? < 1e-12);
        assert_eq!((constants, constants_theirs), ([false; 2], [true; 2]));
        Ok(())
    }

    #[test]
    fn relu_keeps_nan_and_step_is_0_at_0() -> Result<()> {
        let x = Tensor::new(&[-1.0f32, 0.0, 2.0, f32::NAN], &Device::Cpu)?;
        let y = relu(&x)?.to_vec1::<f32>()?;
        assert_eq!(y[..3], [0.0, 0.0, 2.0]);
        assert!(y[3].is_nan());
        assert_eq!(step(&x)?.to_vec1::<f32>()?, [0.0, 0.0, 1.0, 0.0]);
        Ok(())
    }
}
