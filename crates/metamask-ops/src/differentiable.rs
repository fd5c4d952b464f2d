//! Expressions written once, evaluated on values or on values with tangents.
//!
//! A loss or a head written over [`Differentiable`] runs on [`Tensor`] as it
//! is, and on [`Dual`] carries a directional derivative along. Both stay in
//! Candle's autograd, so the derivative of a dual's tangent with respect to a
//! variable (reverse over forward) is one ordinary `backward`: that is how the
//! hypergradient is exact although Candle has no second derivatives.

use candle_core::{D, Result, Tensor};

/// Numbers that an expression can be evaluated on. Binary operations broadcast.
pub trait Differentiable: Sized + Clone {
    /// A number that does not vary.
    fn constant(value: Tensor) -> Self;
    /// The plain value.
    fn value(&self) -> &Tensor;

    /// self + rhs
    fn add(&self, rhs: &Self) -> Result<Self>;
    /// self − rhs
    fn sub(&self, rhs: &Self) -> Result<Self>;
    /// self · rhs, elementwise
    fn mul(&self, rhs: &Self) -> Result<Self>;
    /// self / rhs, elementwise
    fn div(&self, rhs: &Self) -> Result<Self>;
    /// Matrix product of `[n, k]` and `[k, m]`.
    fn matmul(&self, rhs: &Self) -> Result<Self>;
    /// Applies a linear map (transpose, sum, reshape, narrow, scale …).
    fn linear(&self, map: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self>;
    /// Applies a function elementwise; `derivative` gets the argument and the
    /// result and is itself differentiable.
    fn elementwise(
        &self,
        function: impl Fn(&Tensor) -> Result<Tensor>,
        derivative: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Self>;

    /// scale · self + shift
    fn affine(&self, scale: f64, shift: f64) -> Result<Self>;

    /// Transpose of the last two dimensions.
    fn t(&self) -> Result<Self> {
        self.linear(|x| x.transpose(D::Minus2, D::Minus1))
    }
    /// Sum of all elements, a scalar.
    fn sum_all(&self) -> Result<Self> {
        self.linear(Tensor::sum_all)
    }
    /// Sum over `dim`, which stays with size 1.
    fn sum_keepdim(&self, dim: usize) -> Result<Self> {
        self.linear(|x| x.sum_keepdim(dim))
    }
    /// Mean over `dim`, which stays with size 1.
    fn mean_keepdim(&self, dim: usize) -> Result<Self> {
        self.linear(|x| x.mean_keepdim(dim))
    }
    /// self²
    fn sqr(&self) -> Result<Self> {
        self.elementwise(Tensor::sqr, |x, _| x * 2.0)
    }
    /// √self
    fn sqrt(&self) -> Result<Self> {
        self.elementwise(Tensor::sqrt, |_, y| y.recip()? * 0.5)
    }
    /// eˢᵉˡᶠ
    fn exp(&self) -> Result<Self> {
        self.elementwise(Tensor::exp, |_, y| Ok(y.clone()))
    }
    /// ln self
    fn log(&self) -> Result<Self> {
        self.elementwise(Tensor::log, |x, _| x.recip())
    }
    /// max(self, 0), with derivative 0 at 0 as in PyTorch (Candle's is 1).
    fn relu(&self) -> Result<Self> {
        self.mul(&Self::constant(self.value().gt(0.0)?.to_dtype(self.value().dtype())?))
    }
    /// max(self, floor), with derivative 0 at and below the floor.
    fn at_least(&self, floor: f64) -> Result<Self> {
        self.affine(1.0, -floor)?.relu()?.affine(1.0, floor)
    }
}

impl Differentiable for Tensor {
    fn constant(value: Tensor) -> Self {
        value.detach()
    }
    fn value(&self) -> &Tensor {
        self
    }
    fn add(&self, rhs: &Self) -> Result<Self> {
        self.broadcast_add(rhs)
    }
    fn sub(&self, rhs: &Self) -> Result<Self> {
        self.broadcast_sub(rhs)
    }
    fn mul(&self, rhs: &Self) -> Result<Self> {
        self.broadcast_mul(rhs)
    }
    fn div(&self, rhs: &Self) -> Result<Self> {
        self.broadcast_div(rhs)
    }
    fn matmul(&self, rhs: &Self) -> Result<Self> {
        Tensor::matmul(self, rhs)
    }
    fn linear(&self, map: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        map(self)
    }
    fn elementwise(
        &self,
        function: impl Fn(&Tensor) -> Result<Tensor>,
        _derivative: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        function(self)
    }
    fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        Tensor::affine(self, scale, shift)
    }
}

/// A value and its derivative along one direction: `x + ε ẋ` with `ε² = 0`.
#[derive(Clone, Debug)]
pub struct Dual {
    /// x
    pub value: Tensor,
    /// ẋ, of the value's shape; `None` is zero and costs nothing.
    pub tangent: Option<Tensor>,
}

impl Dual {
    /// x + ε ẋ
    pub fn new(value: Tensor, tangent: Tensor) -> Self {
        Self { value, tangent: Some(tangent) }
    }

    /// The tangent, as zeros where it is none.
    pub fn tangent_or_zeros(&self) -> Result<Tensor> {
        self.tangent.clone().map_or_else(|| self.value.zeros_like(), Ok)
    }
}

impl From<Tensor> for Dual {
    /// A value with no tangent; unlike [`Differentiable::constant`] it stays in autograd.
    fn from(value: Tensor) -> Self {
        Self { value, tangent: None }
    }
}

/// a + b where either may be zero. Both are broadcast to `like`'s shape.
fn sum_of(a: Option<Tensor>, b: Option<Tensor>, like: &Tensor) -> Result<Option<Tensor>> {
    match (a, b) {
        (None, None) => Ok(None),
        (Some(only), None) | (None, Some(only)) => only.broadcast_as(like.shape()).map(Some),
        (Some(a), Some(b)) => a.broadcast_add(&b)?.broadcast_as(like.shape()).map(Some),
    }
}

impl Differentiable for Dual {
    fn constant(value: Tensor) -> Self {
        value.detach().into()
    }
    fn value(&self) -> &Tensor {
        &self.value
    }
    fn add(&self, rhs: &Self) -> Result<Self> {
        let value = self.value.broadcast_add(&rhs.value)?;
        let tangent = sum_of(self.tangent.clone(), rhs.tangent.clone(), &value)?;
        Ok(Self { value, tangent })
    }
    fn sub(&self, rhs: &Self) -> Result<Self> {
        let value = self.value.broadcast_sub(&rhs.value)?;
        let minus = rhs.tangent.as_ref().map(Tensor::neg).transpose()?;
        let tangent = sum_of(self.tangent.clone(), minus, &value)?;
        Ok(Self { value, tangent })
    }
    fn mul(&self, rhs: &Self) -> Result<Self> {
        let value = self.value.broadcast_mul(&rhs.value)?;
        let left = self.tangent.as_ref().map(|t| t.broadcast_mul(&rhs.value)).transpose()?;
        let right = rhs.tangent.as_ref().map(|t| self.value.broadcast_mul(t)).transpose()?;
        let tangent = sum_of(left, right, &value)?;
        Ok(Self { value, tangent })
    }
    fn div(&self, rhs: &Self) -> Result<Self> {
        // (x / y)˙ = (ẋ − (x / y) ẏ) / y
        let value = self.value.broadcast_div(&rhs.value)?;
        let right = rhs.tangent.as_ref().map(|t| value.broadcast_mul(t)?.neg()).transpose()?;
        let tangent = sum_of(self.tangent.clone(), right, &value)?
            .map(|numerator| numerator.broadcast_div(&rhs.value))
            .transpose()?;
        Ok(Self { value, tangent })
    }
    fn matmul(&self, rhs: &Self) -> Result<Self> {
        let value = self.value.matmul(&rhs.value)?;
        let left = self.tangent.as_ref().map(|t| t.matmul(&rhs.value)).transpose()?;
        let right = rhs.tangent.as_ref().map(|t| self.value.matmul(t)).transpose()?;
        let tangent = sum_of(left, right, &value)?;
        Ok(Self { value, tangent })
    }
    fn linear(&self, map: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let value = map(&self.value)?;
        let tangent = self.tangent.as_ref().map(map).transpose()?;
        Ok(Self { value, tangent })
    }
    fn elementwise(
        &self,
        function: impl Fn(&Tensor) -> Result<Tensor>,
        derivative: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let value = function(&self.value)?;
        let tangent = match &self.tangent {
            Some(t) => Some((derivative(&self.value, &value)? * t)?),
            None => None,
        };
        Ok(Self { value, tangent })
    }
    fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        let value = self.value.affine(scale, shift)?;
        let tangent = self.tangent.as_ref().map(|t| t.affine(scale, 0.0)).transpose()?;
        Ok(Self { value, tangent })
    }
}
