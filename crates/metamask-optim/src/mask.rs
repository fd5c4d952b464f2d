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

/// The mask m(w) over the D dimensions of a representation; the masked
/// representation is m ⊙ h, for both views and before every head.
///
/// No softmax, no normalisation, no binarisation.
#[derive(Clone, Debug)]
pub struct DimensionMask {
    /// w, `[D]`, one vector for the whole data set.
    pub logits: Var,
    /// How m comes from w.
    pub form: MaskForm,
}

impl DimensionMask {
    /// A mask at its start: every dimension the same.
    ///
    /// # Errors
    /// If the logits cannot be allocated.
    pub fn new(form: MaskForm, dim: usize, dtype: DType, device: &Device) -> Result<Self> {
        let logits = Tensor::full(form.initial_logit(), dim, device)?.to_dtype(dtype)?;
        Ok(Self { logits: Var::from_tensor(&logits)?, form })
    }

    /// m(w), `[D]`, joined to autograd in the logits.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn values(&self) -> Result<Tensor> {
        self.form.values(self.logits.as_tensor())
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
        let mask = DimensionMask { logits, form: MaskForm::Sigmoid };
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
}
