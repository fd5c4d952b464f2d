//! The dimension mask: one number for each dimension of the representation,
//! learned by the meta step and by nothing else.

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_ops::{ParameterGroup, ParameterKind};
use serde::{Deserialize, Serialize};

/// How the mask m comes from its logits w.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskForm {
    /// m = 1 / (1 + exp(−w)), w = 0 at the start.
    Sigmoid,
    /// m = w, w = 1 at the start.
    Free,
}

impl MaskForm {
    /// m(w), joined to autograd in w.
    ///
    /// # Errors
    /// If w is not of a floating-point type.
    pub fn values(self, w: &Tensor) -> Result<Tensor> {
        match self {
            // As a tanh, whose value and gradient stay finite for every w.
            Self::Sigmoid => w.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5),
            Self::Free => Ok(w.clone()),
        }
    }

    /// Every w at the start.
    fn initial_logit(self) -> f64 {
        match self {
            // σ(0) = 0.5: every dimension starts half open, where σ is steepest.
            Self::Sigmoid => 0.0,
            Self::Free => 1.0,
        }
    }
}

/// What becomes of m before it meets the representation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskShape {
    /// Nothing: m as it is, as in MetaMask.
    #[default]
    Soft,
    /// m / mean(m): only the relative values are left, which are all that a head
    /// with linear and batch norm can see.
    Normalised,
    /// 1 where m ≥ 0.5, else 0; its gradient is m's (straight-through estimator,
    /// Bengio et al. 2013, arXiv:1308.3432).
    Thresholded,
}

impl MaskShape {
    fn apply(self, m: Tensor) -> Result<Tensor> {
        match self {
            Self::Soft => Ok(m),
            Self::Normalised => {
                // A mask that shuts everything stays finite.
                m.broadcast_div(&m.mean_keepdim(0)?.affine(1.0, f64::from(f32::MIN_POSITIVE))?)
            }
            Self::Thresholded => {
                let open = m.ge(0.5)?.to_dtype(m.dtype())?;
                &m + (open - &m)?.detach()
            }
        }
    }
}

/// The mask m(w) over the D dimensions of a representation; the masked
/// representation is m ⊙ h, for both views and before every head.
///
/// No softmax, no normalisation, no binarisation, unless [`MaskShape`] says so.
#[derive(Clone, Debug)]
pub struct DimensionMask {
    /// w, `[D]`, one vector for the whole data set.
    pub logits: Var,
    /// How m comes from w.
    pub form: MaskForm,
    /// What becomes of m.
    pub shape: MaskShape,
}

impl DimensionMask {
    /// A mask at its start: every dimension the same.
    ///
    /// # Errors
    /// If the logits cannot be allocated.
    pub fn new(form: MaskForm, dim: usize, dtype: DType, device: &Device) -> Result<Self> {
        let logits = Tensor::full(form.initial_logit(), dim, device)?.to_dtype(dtype)?;
        Ok(Self { logits: Var::from_tensor(&logits)?, form, shape: MaskShape::Soft })
    }

    /// The same with another shape.
    #[must_use]
    pub fn with_shape(self, shape: MaskShape) -> Self {
        Self { shape, ..self }
    }

    /// A mask of the same values whose logits are its own: it stays when this one moves.
    ///
    /// # Errors
    /// If the logits cannot be copied.
    pub fn copy(&self) -> Result<Self> {
        let logits = Var::from_tensor(&self.logits.as_detached_tensor().copy()?)?;
        Ok(Self { logits, ..*self })
    }

    /// m(w), `[D]`, joined to autograd in the logits.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn values(&self) -> Result<Tensor> {
        self.shape.apply(self.form.values(self.logits.as_tensor())?)
    }

    /// The logits as a group that an optimiser takes, named `mask.logits`.
    pub fn parameter_group(&self) -> ParameterGroup {
        ParameterGroup::single("mask.logits", ParameterKind::MaskLogits, self.logits.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_sigmoid_mask_halves_every_dimension_and_a_free_one_keeps_it() -> Result<()> {
        for (form, expected) in [(MaskForm::Sigmoid, 0.5), (MaskForm::Free, 1.0)] {
            let mask = DimensionMask::new(form, 3, DType::F64, &Device::Cpu)?;
            assert_eq!(mask.values()?.to_vec1::<f64>()?, [expected; 3]);
        }
        Ok(())
    }

    #[test]
    fn sigmoid_and_its_gradient_are_right_and_finite_everywhere() -> Result<()> {
        let w = [-2000.0f64, -30.0, -1.0, 0.0, 2.0, 2000.0];
        let logits = Var::new(&w, &Device::Cpu)?;
        let mask = DimensionMask { logits, form: MaskForm::Sigmoid, shape: MaskShape::Soft };
        let m = mask.values()?;
        let gradient = m.sum_all()?.backward()?.remove(&mask.logits).expect("a variable");
        let (m, gradient) = (m.to_vec1::<f64>()?, gradient.to_vec1::<f64>()?);
        for (k, w) in w.iter().enumerate() {
            let expected = 1.0 / (1.0 + (-w).exp());
            assert!((m[k] - expected).abs() < 1e-15, "{w}: {}", m[k]);
            assert!((gradient[k] - expected * (1.0 - expected)).abs() < 1e-15, "{w}");
        }
        Ok(())
    }

    #[test]
    fn a_normalised_mask_has_mean_one_and_does_not_see_its_scale() -> Result<()> {
        let mask = |w: &[f64]| -> Result<DimensionMask> {
            let logits = Var::new(w, &Device::Cpu)?;
            Ok(DimensionMask { logits, form: MaskForm::Free, shape: MaskShape::Normalised })
        };
        let once = mask(&[1.0, 2.0, 6.0])?;
        for (got, expected) in
            once.values()?.to_vec1::<f64>()?.iter().zip([1.0 / 3.0, 2.0 / 3.0, 2.0])
        {
            assert!((got - expected).abs() < 1e-15);
        }
        let twice = mask(&[2.0, 4.0, 12.0])?.values()?.to_vec1::<f64>()?;
        assert_eq!(once.values()?.to_vec1::<f64>()?, twice);
        assert_eq!(mask(&[0.0; 3])?.values()?.to_vec1::<f64>()?, [0.0; 3]);
        Ok(())
    }

    #[test]
    fn a_thresholded_mask_is_binary_with_the_gradient_of_the_soft_one() -> Result<()> {
        let logits = Var::new(&[-1.0f64, 0.0, 2.0], &Device::Cpu)?;
        let soft = DimensionMask { logits, form: MaskForm::Sigmoid, shape: MaskShape::Soft };
        let hard = soft.clone().with_shape(MaskShape::Thresholded);
        assert_eq!(hard.values()?.to_vec1::<f64>()?, [0.0, 1.0, 1.0]);
        let gradient = |mask: &DimensionMask| -> Result<Vec<f64>> {
            let mut gradients = mask.values()?.sum_all()?.backward()?;
            gradients.remove(&mask.logits).expect("a variable").to_vec1()
        };
        assert_eq!(gradient(&hard)?, gradient(&soft)?);
        Ok(())
    }

    #[test]
    fn a_copy_stays_when_the_original_moves() -> Result<()> {
        let mask = DimensionMask::new(MaskForm::Free, 2, DType::F32, &Device::Cpu)?;
        let copy = mask.copy()?;
        mask.logits.set(&Tensor::zeros(2, DType::F32, &Device::Cpu)?)?;
        assert_eq!(copy.values()?.to_vec1::<f32>()?, [1.0, 1.0]);
        Ok(())
    }
}
