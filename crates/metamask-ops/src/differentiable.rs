//! Expressions written once, evaluated on values or on values with tangents.
//!
//! A loss or a head written over [`Differentiable`] runs on [`Tensor`] as it
//! is, and on [`Dual`] carries a directional derivative along. Both stay in
//! Candle's autograd, so the derivative of a dual's tangent with respect to a
//! variable (reverse over forward) is one ordinary `backward`: that is how the
//! hypergradient is exact although Candle has no second derivatives.

use candle_core::{D, Result, Tensor};

use crate::matrix;

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
    /// The parts one after the other along `dim`.
    fn cat(parts: &[&Self], dim: usize) -> Result<Self>;

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
        self.linear(|x| matrix::sum_keepdim(x, dim))
    }
    /// Mean over `dim`, which stays with size 1.
    fn mean_keepdim(&self, dim: usize) -> Result<Self> {
        self.linear(|x| matrix::sum_keepdim(x, dim)? / x.dim(dim)? as f64)
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
        self.elementwise(matrix::relu, |_, y| matrix::step(y))
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
        matrix::add(self, rhs)
    }
    fn sub(&self, rhs: &Self) -> Result<Self> {
        matrix::sub(self, rhs)
    }
    fn mul(&self, rhs: &Self) -> Result<Self> {
        matrix::mul(self, rhs)
    }
    fn div(&self, rhs: &Self) -> Result<Self> {
        matrix::div(self, rhs)
    }
    fn matmul(&self, rhs: &Self) -> Result<Self> {
        matrix::matmul(self, rhs)
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
    fn cat(parts: &[&Self], dim: usize) -> Result<Self> {
        Tensor::cat(parts, dim)
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
        (Some(only), None) | (None, Some(only)) => matrix::broadcast_like(&only, like).map(Some),
        (Some(a), Some(b)) => matrix::broadcast_like(&matrix::add(&a, &b)?, like).map(Some),
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
        let value = matrix::add(&self.value, &rhs.value)?;
        let tangent = sum_of(self.tangent.clone(), rhs.tangent.clone(), &value)?;
        Ok(Self { value, tangent })
    }
    fn sub(&self, rhs: &Self) -> Result<Self> {
        let value = matrix::sub(&self.value, &rhs.value)?;
        let minus = rhs.tangent.as_ref().map(Tensor::neg).transpose()?;
        let tangent = sum_of(self.tangent.clone(), minus, &value)?;
        Ok(Self { value, tangent })
    }
    fn mul(&self, rhs: &Self) -> Result<Self> {
        let value = matrix::mul(&self.value, &rhs.value)?;
        let left = self.tangent.as_ref().map(|t| matrix::mul(t, &rhs.value)).transpose()?;
        let right = rhs.tangent.as_ref().map(|t| matrix::mul(&self.value, t)).transpose()?;
        let tangent = sum_of(left, right, &value)?;
        Ok(Self { value, tangent })
    }
    fn div(&self, rhs: &Self) -> Result<Self> {
        // (x / y)˙ = (ẋ − (x / y) ẏ) / y
        let value = matrix::div(&self.value, &rhs.value)?;
        let right = rhs.tangent.as_ref().map(|t| matrix::mul(&value, t)?.neg()).transpose()?;
        let tangent = sum_of(self.tangent.clone(), right, &value)?
            .map(|numerator| matrix::div(&numerator, &rhs.value))
            .transpose()?;
        Ok(Self { value, tangent })
    }
    fn matmul(&self, rhs: &Self) -> Result<Self> {
        let value = matrix::matmul(&self.value, &rhs.value)?;
        let left = self.tangent.as_ref().map(|t| matrix::matmul(t, &rhs.value)).transpose()?;
        let right = rhs.tangent.as_ref().map(|t| matrix::matmul(&self.value, t)).transpose()?;
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
    fn cat(parts: &[&Self], dim: usize) -> Result<Self> {
        let values: Vec<&Tensor> = parts.iter().map(|part| &part.value).collect();
        let value = Tensor::cat(&values, dim)?;
        if parts.iter().all(|part| part.tangent.is_none()) {
            return Ok(value.into());
        }
        let tangents =
            parts.iter().map(|part| part.tangent_or_zeros()).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(value, Tensor::cat(&tangents, dim)?))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::{DType, Device, Var};
    use metamask_random::{Key, Purpose};

    use super::*;

    /// Largest error of a central difference with [`STEP`], relative to the
    /// derivative's largest entry: truncation ~ STEP², rounding ~ 1e-16 / STEP.
    const TOLERANCE: f64 = 1e-7;
    const STEP: f64 = 1e-5;

    /// Standard normal numbers, f64.
    pub(crate) fn normal(shape: &[usize], sample: u32) -> Result<Tensor> {
        let mut stream = Key::new(0, Purpose::Test).sample(sample).stream();
        let values: Vec<f64> =
            (0..shape.iter().product()).map(|_: usize| stream.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    pub(crate) fn max_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
        (a - b)?.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar()
    }

    fn assert_close(what: &str, got: &Tensor, expected: &Tensor) -> Result<()> {
        let scale = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?.max(1e-3);
        let error = max_difference(got, expected)? / scale;
        assert!(error < TOLERANCE, "{what}: relative error {error:e}");
        Ok(())
    }

    /// Checks, at random arguments along random directions, that the tangent of
    /// `function`, the gradient of its value and the gradient of its tangent
    /// (reverse over forward) all equal central differences.
    pub(crate) fn check_derivatives(
        what: &str,
        shapes: &[&[usize]],
        function: impl Fn(&[Dual]) -> Result<Dual>,
    ) -> Result<()> {
        let n = shapes.len() as u32;
        let at: Vec<Tensor> =
            (0..n).map(|i| normal(shapes[i as usize], i)).collect::<Result<_>>()?;
        let direction: Vec<Tensor> =
            (0..n).map(|i| normal(shapes[i as usize], n + i)).collect::<Result<_>>()?;
        let moved = |by: f64| -> Result<Vec<Tensor>> {
            at.iter().zip(&direction).map(|(x, v)| x + (v * by)?).collect()
        };
        let value_at = |x: Vec<Tensor>| {
            function(&x.into_iter().map(Dual::from).collect::<Vec<_>>()).map(|y| y.value)
        };
        let central = |plus: &Tensor, minus: &Tensor| (plus - minus)? / (2.0 * STEP);

        let duals: Vec<Dual> =
            at.iter().zip(&direction).map(|(x, v)| Dual::new(x.clone(), v.clone())).collect();
        let dual = function(&duals)?;
        assert_eq!(dual.value.dims(), dual.tangent_or_zeros()?.dims(), "{what}: tangent's shape");
        let expected = central(&value_at(moved(STEP)?)?, &value_at(moved(-STEP)?)?)?;
        assert_close(&format!("{what}: tangent"), &dual.tangent_or_zeros()?, &expected)?;

        // A scalar that weighs every output differently.
        let weights = normal(dual.value.dims(), 2 * n)?;
        let gradient = |x: &[Tensor], tangent: bool| -> Result<Vec<Tensor>> {
            let vars = x.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
            let duals: Vec<Dual> = vars
                .iter()
                .zip(&direction)
                .map(|(x, v)| Dual {
                    value: x.as_tensor().clone(),
                    tangent: tangent.then(|| v.clone()),
                })
                .collect();
            let y = function(&duals)?;
            let y = if tangent { y.tangent_or_zeros()? } else { y.value };
            let grads = (y * &weights)?.sum_all()?.backward()?;
            vars.iter().map(|x| grads.get(x).cloned().map_or_else(|| x.zeros_like(), Ok)).collect()
        };
        let slope: f64 = gradient(&at, false)?
            .iter()
            .zip(&direction)
            .map(|(g, v)| (g * v)?.sum_all()?.to_scalar::<f64>())
            .sum::<Result<f64>>()?;
        let expected_slope = (&expected * &weights)?.sum_all()?.to_scalar::<f64>()?;
        let scale = (&expected * &weights)?.abs()?.sum_all()?.to_scalar::<f64>()?;
        assert!((slope - expected_slope).abs() <= TOLERANCE * scale, "{what}: gradient");

        let second = gradient(&at, true)?;
        let (plus, minus) = (gradient(&moved(STEP)?, false)?, gradient(&moved(-STEP)?, false)?);
        for (i, second) in second.iter().enumerate() {
            let expected = central(&plus[i], &minus[i])?;
            assert_close(&format!("{what}: second derivative, argument {i}"), second, &expected)?;
        }
        Ok(())
    }

    #[test]
    fn every_operation_has_exact_first_and_second_derivatives() -> Result<()> {
        let (a, b): (&[usize], &[usize]) = (&[3, 4], &[4, 2]);
        check_derivatives("add", &[a, a], |x| x[0].add(&x[1]))?;
        check_derivatives("add, broadcast", &[a, &[1, 4]], |x| x[0].add(&x[1]))?;
        check_derivatives("sub", &[a, a], |x| x[0].sub(&x[1]))?;
        check_derivatives("sub, broadcast", &[&[3, 1], a], |x| x[0].sub(&x[1]))?;
        check_derivatives("mul", &[a, a], |x| x[0].mul(&x[1]))?;
        check_derivatives("mul, broadcast", &[&[1, 4], a], |x| x[0].mul(&x[1]))?;
        check_derivatives("mul with itself", &[a], |x| x[0].mul(&x[0]))?;
        check_derivatives("div", &[a, a], |x| x[0].div(&x[1].sqr()?.affine(1.0, 1.0)?))?;
        check_derivatives("div, broadcast", &[a, &[3, 1]], |x| x[0].div(&x[1].exp()?))?;
        check_derivatives("matmul", &[a, b], |x| x[0].matmul(&x[1]))?;
        check_derivatives("matmul with its transpose", &[a], |x| x[0].matmul(&x[0].t()?))?;
        check_derivatives("affine", &[a], |x| x[0].affine(-2.5, 0.5))?;
        check_derivatives("cat", &[a, &[2, 4]], |x| Dual::cat(&[&x[0], &x[1]], 0))?;
        check_derivatives("t", &[a], |x| x[0].t())?;
        check_derivatives("sum_all", &[a], |x| x[0].sqr()?.sum_all())?;
        check_derivatives("sum_keepdim", &[a], |x| x[0].sqr()?.sum_keepdim(0))?;
        check_derivatives("mean_keepdim", &[a], |x| x[0].sqr()?.mean_keepdim(1))?;
        check_derivatives("sqr", &[a], |x| x[0].sqr())?;
        check_derivatives("sqrt", &[a], |x| x[0].sqr()?.affine(1.0, 0.5)?.sqrt())?;
        check_derivatives("exp", &[a], |x| x[0].exp())?;
        check_derivatives("log", &[a], |x| x[0].sqr()?.affine(1.0, 0.5)?.log())?;
        check_derivatives("relu", &[a], |x| x[0].sqr()?.relu()?.mul(&x[0].relu()?))?;
        check_derivatives("at_least", &[a], |x| x[0].at_least(0.3)?.sqr())?;
        check_derivatives("linear", &[a], |x| x[0].sqr()?.linear(|x| x.narrow(1, 1, 2)))
    }

    #[test]
    fn a_missing_tangent_is_a_zero_tangent() -> Result<()> {
        let (x, y, v) = (normal(&[3, 4], 0)?, normal(&[3, 4], 1)?, normal(&[3, 4], 2)?);
        let none = Dual::from(y.clone());
        let zero = Dual::new(y.clone(), y.zeros_like()?);
        let x = Dual::new(x, v);
        let cases: [fn(&Dual, &Dual) -> Result<Dual>; 7] = [
            |x, y| x.add(y),
            |x, y| y.sub(x),
            |x, y| x.mul(y),
            |x, y| x.div(y),
            |x, y| y.div(x),
            |x, y| x.t()?.matmul(y),
            |x, y| Dual::cat(&[x, y], 0),
        ];
        for (i, f) in cases.iter().enumerate() {
            let (with_none, with_zero) = (f(&x, &none)?, f(&x, &zero)?);
            let (a, b) = (with_none.tangent_or_zeros()?, with_zero.tangent_or_zeros()?);
            assert!(max_difference(&a, &b)? == 0.0, "case {i}");
        }
        assert!(none.sqr()?.mul(&none)?.tangent.is_none());
        Ok(())
    }

    #[test]
    fn relu_and_at_least_have_derivative_0_at_the_kink() -> Result<()> {
        let x = Var::new(&[-1.0f64, 0.0, 1.0], &Device::Cpu)?;
        let ones = x.ones_like()?;
        let dual = Dual::new(x.as_tensor().clone(), ones);
        for y in [dual.relu()?, dual.affine(1.0, 5.0)?.at_least(5.0)?] {
            assert_eq!(y.tangent_or_zeros()?.to_vec1::<f64>()?, [0.0, 0.0, 1.0]);
            let gradient = y.value.sum_all()?.backward()?.remove(&x).expect("x is a variable");
            assert_eq!(gradient.to_vec1::<f64>()?, [0.0, 0.0, 1.0]);
        }
        Ok(())
    }

    #[test]
    fn a_constant_lets_no_derivative_through() -> Result<()> {
        let x = Var::new(&[2.0f64, 3.0], &Device::Cpu)?;
        let y = Dual::from(x.as_tensor().clone());
        let product = Dual::constant(x.as_tensor().clone()).mul(&y)?;
        let gradient = product.value.sum_all()?.backward()?.remove(&x).expect("x is a variable");
        assert_eq!(gradient.to_vec1::<f64>()?, [2.0, 3.0]);
        Ok(())
    }
}
