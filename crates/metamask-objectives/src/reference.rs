//! What the objectives' tests share: embeddings of every awkward kind, and the
//! comparison of an objective with its equation written out as loops.
//!
//! The loops run on [`Slope`], a number with its derivative with respect to one
//! input at a time, and use nothing of the crates under test.

use std::iter::Sum;
use std::ops::{Add, Div, Mul, Sub};

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_ops::Dual;
use metamask_random::{Key, Purpose};

/// Rows of numbers.
pub type Matrix = Vec<Vec<Slope>>;

/// A number and its derivative with respect to one input.
#[derive(Clone, Copy)]
pub struct Slope {
    pub value: f64,
    pub slope: f64,
}

impl Slope {
    pub fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        Self { value, slope: self.slope / (2.0 * value) }
    }
    pub fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, slope: self.slope * value }
    }
    pub fn ln(self) -> Self {
        Self { value: self.value.ln(), slope: self.slope / self.value }
    }
    pub fn max(self, other: Self) -> Self {
        if self.value > other.value { self } else { other }
    }
}

impl From<f64> for Slope {
    fn from(value: f64) -> Self {
        Self { value, slope: 0.0 }
    }
}
impl Add for Slope {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self { value: self.value + rhs.value, slope: self.slope + rhs.slope }
    }
}
impl Sub for Slope {
    type Output = Self;
    fn sub(self, rhs: Self) -> Self {
        Self { value: self.value - rhs.value, slope: self.slope - rhs.slope }
    }
}
impl Mul for Slope {
    type Output = Self;
    fn mul(self, rhs: Self) -> Self {
        Self {
            value: self.value * rhs.value,
            slope: self.value * rhs.slope + self.slope * rhs.value,
        }
    }
}
impl Div for Slope {
    type Output = Self;
    fn div(self, rhs: Self) -> Self {
        let value = self.value / rhs.value;
        Self { value, slope: (self.slope - value * rhs.slope) / rhs.value }
    }
}
impl Sum for Slope {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(0.0.into(), Add::add)
    }
}

/// z / max(‖z‖, 1e-12)
pub fn unit(z: &[Slope]) -> Vec<Slope> {
    let squared: Slope = z.iter().map(|&x| x * x).sum();
    let norm = if squared.value > 1e-24 { squared.sqrt() } else { 1e-12.into() };
    z.iter().map(|&x| x / norm).collect()
}

/// ⟨u, v⟩ of two unit vectors.
pub fn cosine(u: &[Slope], v: &[Slope]) -> Slope {
    u.iter().zip(v).map(|(&x, &y)| x * y).sum()
}

/// The largest value, as a number that does not vary.
pub fn largest(values: &[Slope]) -> Slope {
    values.iter().fold(f64::NEG_INFINITY, |max, s| max.max(s.value)).into()
}

/// Two views' embeddings of a kind.
#[derive(Clone, Copy, Debug)]
pub enum Embeddings {
    OddBatch,
    BatchOfTwo,
    IdenticalViews,
    ZeroVectors,
    LargeNumbers,
}

impl Embeddings {
    pub const CASES: [Self; 5] = [
        Self::OddBatch,
        Self::BatchOfTwo,
        Self::IdenticalViews,
        Self::ZeroVectors,
        Self::LargeNumbers,
    ];

    /// The views, f64.
    pub fn views(self) -> Result<(Tensor, Tensor)> {
        self.pair(0)
    }

    /// What objectives with constants hold the views against: another pair of
    /// the same kind, f64.
    pub fn targets(self) -> Result<(Tensor, Tensor)> {
        self.pair(2)
    }

    fn pair(self, sample: u32) -> Result<(Tensor, Tensor)> {
        let odd = || Ok((normal(&[7, 5], sample)?, normal(&[7, 5], sample + 1)?));
        match self {
            Self::OddBatch => odd(),
            Self::BatchOfTwo => Ok((normal(&[2, 5], sample)?, normal(&[2, 5], sample + 1)?)),
            Self::IdenticalViews => Ok((normal(&[7, 5], sample)?, normal(&[7, 5], sample)?)),
            Self::ZeroVectors => {
                let (a, b) = odd()?;
                let mut keep = [1f64; 7];
                keep[3] = 0.0;
                let keep = Tensor::new(&keep, &Device::Cpu)?.reshape((7, 1))?;
                Ok((a.broadcast_mul(&keep)?, b.broadcast_mul(&keep)?))
            }
            Self::LargeNumbers => {
                let (a, b) = odd()?;
                Ok(((a * 1e6)?, (b * 1e6)?))
            }
        }
    }
}

/// Standard normal numbers.
pub fn normal(shape: &[usize], sample: u32) -> Result<Tensor> {
    let mut stream = Key::new(0, Purpose::Test).sample(sample).stream();
    let values: Vec<f64> = (0..shape.iter().product()).map(|_: usize| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// A scalar tensor's number.
pub fn value_of(scalar: &Tensor) -> Result<f64> {
    scalar.to_dtype(DType::F64)?.to_scalar()
}

/// Value and gradients of `objective` against those of the written-out
/// `reference`, in f64 and f32; gradients relative to their largest entry, or to
/// the loss over the embeddings' size where they vanish (Barlow Twins at batch 2).
pub fn check_against_reference(
    case: Embeddings,
    objective: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    reference: impl Fn(&Matrix, &Matrix) -> Slope,
) -> Result<()> {
    let (a, b) = case.views()?;
    // f32: the rounding of some dozens of terms of size 1.
    for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
        let vars = [a.to_dtype(dtype)?, b.to_dtype(dtype)?].map(|z| Var::from_tensor(&z));
        let vars = vars.into_iter().collect::<Result<Vec<_>>>()?;
        let loss = objective(vars[0].as_tensor(), vars[1].as_tensor())?;
        assert_eq!((loss.rank(), loss.dtype()), (0, dtype));
        let gradients = loss.backward()?;

        // The loops see the same rounded inputs.
        let mut views = [rows(&vars[0])?, rows(&vars[1])?];
        let expected = reference(&views[0], &views[1]).value;
        let error = (value_of(&loss)? - expected).abs() / expected.abs().max(1.0);
        assert!(error < tolerance, "{case:?} {dtype:?}: loss, relative error {error:e}");

        for (view, var) in vars.iter().enumerate() {
            let gradient = rows(gradients.get(var).expect("a variable"))?;
            let mut expected = rows(var)?;
            for (i, row) in expected.iter_mut().enumerate() {
                for (k, entry) in row.iter_mut().enumerate() {
                    views[view][i][k].slope = 1.0;
                    *entry = reference(&views[0], &views[1]).slope.into();
                    views[view][i][k].slope = 0.0;
                }
            }
            let largest = |matrix: &Matrix| {
                matrix.concat().iter().fold(0.0, |max: f64, x| max.max(x.value.abs()))
            };
            let floor = 0.1 * value_of(&loss)?.max(1.0) / largest(&views[view]);
            let scale = largest(&expected).max(floor);
            for (got, expected) in gradient.concat().iter().zip(expected.concat()) {
                let error = (got.value - expected.value).abs() / scale;
                assert!(
                    error < tolerance,
                    "{case:?} {dtype:?}: gradient of view {view}, relative error {error:e}"
                );
            }
        }
    }
    Ok(())
}

/// A matrix as rows of constants.
pub fn rows(matrix: &Tensor) -> Result<Matrix> {
    let rows = matrix.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    Ok(rows.into_iter().map(|row| row.into_iter().map(Slope::from).collect()).collect())
}

/// The tangent of `objective` along a random direction, and the gradient of that
/// tangent, against central differences in f64.
pub fn check_tangents(objective: impl Fn(&Dual, &Dual) -> Result<Dual>) -> Result<()> {
    const STEP: f64 = 1e-5;
    const TOLERANCE: f64 = 1e-7; // truncation ~ STEP², rounding ~ 1e-16 / STEP
    let (a, b) = Embeddings::OddBatch.views()?;
    let (v_a, v_b) = (normal(a.dims(), 8)?, normal(b.dims(), 9)?);
    // Loss and its gradient with respect to view a, moved along the direction.
    let moved = |by: f64| -> Result<(f64, Tensor)> {
        let a = Var::from_tensor(&(&a + (&v_a * by)?)?)?;
        let b = (&b + (&v_b * by)?)?;
        let loss = objective(&a.as_tensor().clone().into(), &b.into())?.value;
        Ok((value_of(&loss)?, loss.backward()?.remove(&a).expect("a variable")))
    };
    let (plus, minus) = (moved(STEP)?, moved(-STEP)?);

    let var = Var::from_tensor(&a)?;
    let dual = objective(&Dual::new(var.as_tensor().clone(), v_a.clone()), &Dual::new(b, v_b))?;
    let tangent = dual.tangent_or_zeros()?;
    let expected = (plus.0 - minus.0) / (2.0 * STEP);
    let error = (value_of(&tangent)? - expected).abs() / expected.abs();
    assert!(error < TOLERANCE, "tangent: relative error {error:e}");

    let second = tangent.backward()?.remove(&var).expect("a variable");
    let expected = ((plus.1 - minus.1)? / (2.0 * STEP))?;
    let largest = value_of(&expected.abs()?.flatten_all()?.max(0)?)?;
    let error = value_of(&(second - expected)?.abs()?.flatten_all()?.max(0)?)? / largest;
    assert!(error < TOLERANCE, "second derivative: relative error {error:e}");
    Ok(())
}

/// Two objectives that are one function: in value, gradients, tangent along a
/// random direction and the gradients of that tangent, in f64, on every case.
pub fn check_same(
    left: impl Fn(&Dual, &Dual) -> Result<Dual>,
    right: impl Fn(&Dual, &Dual) -> Result<Dual>,
) -> Result<()> {
    // The rounding of two different orders of operations.
    const TOLERANCE: f64 = 1e-10;
    for case in Embeddings::CASES {
        let (a, b) = case.views()?;
        let directions = [normal(a.dims(), 8)?, normal(b.dims(), 9)?];
        let derivatives = |objective: &dyn Fn(&Dual, &Dual) -> Result<Dual>| {
            let vars = [Var::from_tensor(&a)?, Var::from_tensor(&b)?];
            let [a, b] = [0, 1]
                .map(|view| Dual::new(vars[view].as_tensor().clone(), directions[view].clone()));
            let dual = objective(&a, &b)?;
            let mut all = Vec::new();
            for scalar in [dual.value.clone(), dual.tangent_or_zeros()?] {
                let mut gradients = scalar.backward()?;
                let [a, b] = [0, 1].map(|view| gradients.remove(&vars[view]).expect("a variable"));
                all.extend([scalar.reshape(1)?, Tensor::cat(&[a, b], 0)?]);
            }
            Result::Ok(all)
        };
        let names = ["value", "gradient", "tangent", "second derivative"];
        let pairs = derivatives(&left)?.into_iter().zip(derivatives(&right)?);
        for (name, (left, right)) in names.iter().zip(pairs) {
            let size = |x: &Tensor| value_of(&x.abs()?.flatten_all()?.max(0)?);
            let error = size(&(left - &right)?)? / size(&right)?;
            assert!(error < TOLERANCE, "{case:?}: {name}, relative error {error:e}");
        }
    }
    Ok(())
}

/// The messages of an objective given shapes that do not fit.
pub fn check_shape_errors(name: &str, objective: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) {
    let cases: [(&[usize], &[usize], &str); 3] = [
        (&[4, 3], &[4, 2], "views must have one shape [batch, dim], expected [4, 3], got [4, 2]"),
        (&[4], &[4], "views must have one shape [batch, dim], expected [4], got [4]"),
        (&[0, 3], &[0, 3], "a mean needs a sample, expected batch >= 1, got 0"),
    ];
    for (a, b, message) in cases {
        check_message(name, objective(&ones(a), &ones(b)), message);
    }
}

/// The message of an objective that compares samples and is given only one.
pub fn check_one_sample_is_refused(
    name: &str,
    objective: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) {
    let message = "samples are compared within the batch, expected batch >= 2, got 1";
    check_message(name, objective(&ones(&[1, 3]), &ones(&[1, 3])), message);
}

/// The message of an objective whose constants are not of the predictions' shape.
pub fn check_constants_errors(
    name: &str,
    what: &str,
    objective: impl Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Tensor>,
) {
    let (p, other) = (ones(&[4, 3]), ones(&[4, 2]));
    let message = format!("{what} must have the predictions' shape, expected [4, 3], got [4, 2]");
    check_message(name, objective(&p, &p, &other, &p), &message);
    check_message(name, objective(&p, &p, &p, &other), &message);
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
}

fn check_message(name: &str, result: Result<Tensor>, message: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{name}: {message}")), "{error}");
}
