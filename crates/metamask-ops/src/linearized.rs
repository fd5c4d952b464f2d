//! A function's value together with its derivative along any direction.

use candle_core::{Result, Tensor};

type TangentFn = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// `f(x; θ)` and the map `θ̇ ↦ J_θ f(x; θ) · θ̇`, at one x and θ.
///
/// What the forward pass stored is shared by both, and by `value`'s gradient;
/// it is freed when the last of them goes.
pub struct Linearized {
    /// f(x; θ), joined to Candle's autograd in θ.
    pub value: Tensor,
    tangent: Box<TangentFn>,
}

impl Linearized {
    /// Pairs a value with its directional derivative.
    pub fn new(
        value: Tensor,
        tangent: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Self {
        Self { value, tangent: Box::new(tangent) }
    }

    /// The derivative of the value along `direction`, a tensor for each of θ's.
    ///
    /// # Errors
    /// If the direction does not have θ's shapes.
    pub fn tangent(&self, direction: &[Tensor]) -> Result<Tensor> {
        (self.tangent)(direction)
    }
}
