//! A tangent for encoders that bring none, by the difference of two forward passes.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use metamask_ops::{BatchStats, Linearized, ParameterGroup, Watcher};

use crate::Encoder;

/// An encoder whose [`Encoder::linearize`] is a central difference along the direction.
///
/// ```text
/// J_f(θ) v ≈ [f(x; θ + s v) − f(x; θ − s v)] / (2 s),      s = r / ‖v‖
/// ```
/// r is the radius: how far θ is moved, whatever v's length, ‖v‖ being taken
/// over all of θ. Each tangent costs two forward passes, by the batch's
/// statistics where the pass itself went by them; it moves neither the
/// parameters nor the running statistics. Not exact: the error is r² times the
/// third derivative, rounding over r, and at every ReLU that switches between
/// θ ± s v the slope of neither side. An encoder that can be written as a
/// [`GraphEncoder`](crate::GraphEncoder) has an exact tangent for the price of one pass.
///
/// To be asked for by name: no encoder is wrapped unasked.
#[derive(Debug)]
pub struct FiniteDifferenceTangent<E> {
    encoder: Arc<E>,
    radius: f64,
}

impl<E> FiniteDifferenceTangent<E> {
    /// The radius of MetaMask's code, 0.01, made for f32.
    pub const DEFAULT_RADIUS: f64 = 0.01;

    /// Wraps an encoder, with the default radius.
    pub fn new(encoder: E) -> Self {
        Self { encoder: Arc::new(encoder), radius: Self::DEFAULT_RADIUS }
    }

    /// Wraps an encoder.
    ///
    /// # Errors
    /// If the radius is not above 0 and finite.
    pub fn with_radius(encoder: E, radius: f64) -> Result<Self> {
        if !radius.is_finite() || radius <= 0.0 {
            bail!("finite_difference_tangent: the radius must be above 0, got {radius}");
        }
        Ok(Self { encoder: Arc::new(encoder), radius })
    }
}

impl<E: Encoder + 'static> Encoder for FiniteDifferenceTangent<E> {
    fn feature_dim(&self) -> usize {
        self.encoder.feature_dim()
    }

    fn parameters(&self) -> &[ParameterGroup] {
        self.encoder.parameters()
    }

    fn running_statistics(&self) -> &[ParameterGroup] {
        self.encoder.running_statistics()
    }

    fn forward(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Tensor> {
        self.encoder.forward(views, theta, stats)
    }

    fn watch(&self, watcher: Option<Arc<dyn Watcher>>) {
        self.encoder.watch(watcher);
    }

    fn release_buffers(&self) {
        self.encoder.release_buffers();
    }

    /// The forward pass, and the difference as its tangent. θ must not be
    /// changed in place before the last tangent is taken.
    fn linearize(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Linearized> {
        let value = self.encoder.forward(views, theta, stats)?;
        let stats = match stats {
            BatchStats::BatchAndUpdate | BatchStats::BatchOnly => BatchStats::BatchOnly,
            BatchStats::Running => BatchStats::Running,
        };
        let (encoder, radius) = (self.encoder.clone(), self.radius);
        let (views, like) = (views.detach(), value.detach());
        let theta: Vec<Tensor> = theta.iter().map(Tensor::detach).collect();
        Ok(Linearized::new(value, move |direction| {
            let norm = norm(&theta, direction)?;
            if norm == 0.0 {
                return like.zeros_like();
            }
            let scale = radius / norm;
            let at = |scale: f64| {
                let moved = theta.iter().zip(direction).map(|(x, v)| x + (v.detach() * scale)?);
                encoder.forward(&views, &moved.collect::<Result<Vec<_>>>()?, stats)
            };
            (at(scale)?.detach() - at(-scale)?.detach())? / (2.0 * scale)
        }))
    }
}

/// ‖v‖ of a direction that must have θ's shapes.
fn norm(theta: &[Tensor], direction: &[Tensor]) -> Result<f64> {
    if !theta.iter().map(Tensor::dims).eq(direction.iter().map(Tensor::dims)) {
        let shapes = |tensors: &[Tensor]| {
            format!("{:?}", tensors.iter().map(Tensor::dims).collect::<Vec<_>>())
        };
        let (expected, got) = (shapes(theta), shapes(direction));
        bail!(
            "tangent: the direction must have the parameters' shapes, expected {expected}, got {got}"
        );
    }
    let mut squares = 0.0;
    for v in direction {
        squares += v.detach().to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    if !squares.is_finite() {
        bail!("tangent: the direction must be finite, got squares that sum to {squares}");
    }
    Ok(squares.sqrt())
}
