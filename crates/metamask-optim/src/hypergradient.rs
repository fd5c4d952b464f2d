//! The mask's hypergradient: how the meta loss after a virtual step moves with
//! the mask (steps M1 to M4 of the algorithm).
//!
//! Small functions over closures; an encoder appears only as "parameters in,
//! features out" and knows its derivative along a direction ([`Linearized`]).
//! Two facts carry this file:
//!
//! - The mask sits on top of the encoder: `L_c(θ, w) = ℓ(h(θ_f), θ_g, m(w))`.
//!   So everything that concerns w happens at the head, on `batch x D` matrices,
//!   and the encoder is asked only for h, for `J_fᵀ u` and for `J_f v`.
//! - A mixed second derivative is the w-gradient of a directional derivative.
//!   The head is written over [`Dual`], whose tangent stays in Candle's
//!   autograd: reverse over forward, no second-order autograd.
//!
//! Candle gives gradients of variables only, and starts `backward` at ones. So
//! the features are cut off as variables of their own; the head's gradient u
//! goes back into the encoder by differentiating ⟨h, u⟩.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use metamask_ops::{Dual, Linearized};
use serde::{Deserialize, Serialize};

use crate::fused::{moved, squared_norm};
use crate::{DimensionMask, Sgd};

/// Which step of the network the mask is judged by, and on which batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VirtualStep {
    /// A step from the weights after the regular step, on the same batch, as in the authors' code.
    AfterRegular,
    /// A step from the weights before it, so that both share one forward pass.
    Shared,
    /// The regular step itself, judged on the next batch, whose forward pass is
    /// needed anyway and which the step has not seen.
    Lookahead,
}

/// How the second-order term of the hypergradient is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypergradient {
    /// Not at all: G = d.
    FirstOrder,
    /// Central difference along v with radius 0.01 / ‖v‖, as in the authors' code.
    FiniteDifference,
    /// The encoder's tangent and the head's mixed derivative; no step size.
    Exact,
}

/// What happens to the activations at θ while the pass at θ′ runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activations {
    /// They stay for the tangent: two sets are alive.
    Keep,
    /// They go and are computed again: one more forward pass, one set alive.
    Recompute,
}

/// The authors' radius of the central difference, as ‖r v‖.
pub const FINITE_DIFFERENCE_RADIUS: f64 = 0.01;

/// ℓ: features of each view, θ_g and the mask m to a loss, a scalar.
///
/// It applies m to every view itself (m ⊙ h), before the head.
pub type HeadLoss<'a> = dyn Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> + 'a;

/// A loss M(θ, w) of one batch, as its parts. None of them may leave a trace:
/// batch statistics only.
pub struct MetaLoss<'a> {
    /// θ_f to the features of each view, `[batch, D]`, joined to autograd in θ_f.
    /// Called with variables where a gradient is wanted and with plain tensors
    /// where not.
    pub features: &'a dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    /// The same with the derivative along any direction in θ_f.
    pub linearize: &'a dyn Fn(&[Tensor]) -> Result<Vec<Linearized>>,
    /// ℓ
    pub head: &'a HeadLoss<'a>,
    /// The mask m(w).
    pub mask: &'a DimensionMask,
}

/// A point θ = (θ_f, θ_g) with the forward pass that was done there.
pub struct Point<'a> {
    /// The encoder's parameters, which are variables.
    pub theta_f: &'a [Tensor],
    /// The parameters of the head that the meta loss goes through.
    pub theta_g: &'a [Tensor],
    /// The optimiser's velocities for [`Self::theta_f`].
    pub velocity_f: &'a [Tensor],
    /// The optimiser's velocities for [`Self::theta_g`].
    pub velocity_g: &'a [Tensor],
    /// Features of each view at θ_f. Their tangents are asked for only by
    /// [`Hypergradient::Exact`] with [`Activations::Keep`]. Dropped as soon as
    /// nothing needs them.
    pub features: Vec<Linearized>,
}

/// ∇_θ of a loss, or a direction in θ.
#[derive(Clone, Debug)]
pub struct ThetaGradient {
    /// For the encoder's parameters.
    pub theta_f: Vec<Tensor>,
    /// For the head's parameters. A direction may end early: it is zero for the rest.
    pub theta_g: Vec<Tensor>,
}

/// G, the total derivative of L_c(θ′(w), w) with respect to w, and its parts.
#[derive(Clone, Debug)]
pub struct MetaGradient {
    /// d = ∂_w L_c(θ′, w).
    pub direct: Tensor,
    /// −l · ∂²M/∂w∂θ · v, what [`Hypergradient::FirstOrder`] leaves out.
    pub second_order: Option<Tensor>,
    /// G = d + the second-order term.
    pub total: Tensor,
    /// L_c(θ′, w), a scalar.
    pub loss: Tensor,
}

impl MetaGradient {
    /// G from d and M4's product p = ∂²M/∂w∂θ · v, where there is one.
    ///
    /// ```text
    /// G = d − l c p
    /// ```
    /// `step` is l c, how far θ′ moves against the gradient of M:
    /// c is [`Sgd::virtual_gradient_factor`], 1 unless the momentum is Nesterov's.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn new(loss: Tensor, direct: Tensor, product: Option<Tensor>, step: f64) -> Result<Self> {
        let second_order = product.map(|product| product.affine(-step, 0.0)).transpose()?;
        let total = match &second_order {
            Some(second_order) => (&direct + second_order)?,
            None => direct.clone(),
        };
        Ok(Self { direct, second_order, total, loss })
    }
}

/// Steps M1 to M4: the mask's hypergradient through a virtual step from `at`.
///
/// ```text
/// M1  g  = ∇_θ L_c(θ, w)
/// M2  θ′ = θ − l (μ V + g + λ θ)
/// M3  d  = ∂_w L_c(θ′, w),   v = ∇_θ′ L_c(θ′, w)
/// M4  G  = d − l · ∂²L_c(θ, w)/∂w∂θ · v
/// ```
/// μ V and λ θ do not depend on w, so G is the exact total derivative of
/// L_c(θ′(w), w). Changes nothing: neither parameters nor velocities. With
/// [`Hypergradient::FirstOrder`] G = d, and M3 ends at the head.
///
/// Pass `gradient` where g is known already (when the regular loss is a multiple
/// of L_c and shares the point): it saves one backward pass of the encoder. `at`
/// is taken by value, so that the activations at θ live only as long as needed.
///
/// # Errors
/// If shapes do not fit or a closure fails.
/// # Source
/// Li et al. 2022, NeurIPS, arXiv:2209.07902; the finite difference is that of
/// DARTS (Liu et al. 2019, equation 8).
pub fn meta_gradient(
    loss: &MetaLoss<'_>,
    at: Point<'_>,
    gradient: Option<ThetaGradient>,
    sgd: &Sgd,
    learning_rate: f64,
    (hypergradient, activations): (Hypergradient, Activations),
) -> Result<MetaGradient> {
    let Point { theta_f, theta_g, velocity_f, velocity_g, features } = at;

    // M1
    let gradient = match gradient {
        Some(known) => known,
        None => {
            let h: Vec<Tensor> = features.iter().map(|h| h.value.clone()).collect();
            theta_gradient(loss, &h, theta_f, theta_g)?.1
        }
    };
    let kept = (hypergradient == Hypergradient::Exact && activations == Activations::Keep)
        .then_some(features);

    // M2
    let virtual_f = sgd.virtual_step(theta_f, &gradient.theta_f, velocity_f, learning_rate)?;
    let virtual_g = sgd.virtual_step(theta_g, &gradient.theta_g, velocity_g, learning_rate)?;
    drop(gradient);

    // M3, M4
    let step = learning_rate * sgd.virtual_gradient_factor();
    if hypergradient == Hypergradient::FirstOrder {
        let virtual_f: Vec<Tensor> = virtual_f.iter().map(Tensor::detach).collect();
        let at_virtual = (loss.features)(&virtual_f)?;
        let head = head_gradient(loss.head, &at_virtual, &virtual_g, loss.mask)?;
        return MetaGradient::new(head.loss, head.w, None, step);
    }
    let at_virtual = (loss.features)(&virtual_f)?;
    let (head, v) = theta_gradient(loss, &at_virtual, &virtual_f, &virtual_g)?;
    drop((at_virtual, virtual_f, virtual_g));
    let product = mixed_product(loss, (theta_f, theta_g), kept, &v, hypergradient)?;
    MetaGradient::new(head.loss, head.w, product, step)
}

/// M4's product ∂²M(θ, w)/∂w∂θ · v, of the loss M that the step from θ to θ′
/// descended; `None` where the second order is left out.
///
/// `kept` are the features at θ with their activations; without them
/// [`Hypergradient::Exact`] computes them again.
///
/// # Errors
/// If a closure fails.
pub fn mixed_product(
    loss: &MetaLoss<'_>,
    (theta_f, theta_g): (&[Tensor], &[Tensor]),
    kept: Option<Vec<Linearized>>,
    v: &ThetaGradient,
    hypergradient: Hypergradient,
) -> Result<Option<Tensor>> {
    match hypergradient {
        Hypergradient::FirstOrder => Ok(None),
        Hypergradient::FiniteDifference => {
            drop(kept);
            finite_difference_second_order(loss, theta_f, theta_g, v).map(Some)
        }
        Hypergradient::Exact => {
            let features = match kept {
                Some(features) => features,
                None => {
                    let theta_f: Vec<Tensor> = theta_f.iter().map(Tensor::detach).collect();
                    (loss.linearize)(&theta_f)?
                }
            };
            let tangents: Vec<Dual> = features
                .iter()
                .map(|h| Ok(Dual::new(h.value.detach(), h.tangent(&v.theta_f)?)))
                .collect::<Result<_>>()?;
            drop(features);
            exact_second_order(loss.head, &tangents, theta_g, &v.theta_g, loss.mask).map(Some)
        }
    }
}

/// A head's loss and its derivatives with respect to everything that goes in.
#[derive(Clone, Debug)]
pub struct HeadGradient {
    /// ℓ(h, θ_g, m(w)), a scalar.
    pub loss: Tensor,
    /// u = ∂ℓ/∂h for each view.
    pub features: Vec<Tensor>,
    /// ∂ℓ/∂θ_g, a tensor for each of θ_g's.
    pub theta_g: Vec<Tensor>,
    /// ∂ℓ/∂w.
    pub w: Tensor,
}

/// Differentiates the head's loss; the features are cut from their encoder.
///
/// # Errors
/// If the closure fails.
pub fn head_gradient(
    head: &HeadLoss<'_>,
    features: &[Tensor],
    theta_g: &[Tensor],
    mask: &DimensionMask,
) -> Result<HeadGradient> {
    let features = variables(features.iter().map(Tensor::detach))?;
    let theta_g = variables(theta_g.iter().cloned())?;
    let loss = head(&duals(&features), &duals(&theta_g), &mask.values()?.into())?.value;

    let mut gradients = loss.backward()?;
    let mut gradient_of = |x: &Tensor| take_gradient(&mut gradients, x);
    Ok(HeadGradient {
        features: features.iter().map(&mut gradient_of).collect::<Result<_>>()?,
        theta_g: theta_g.iter().map(&mut gradient_of).collect::<Result<_>>()?,
        w: gradient_of(mask.logits.as_tensor())?,
        loss: loss.detach(),
    })
}

/// J_fᵀ u: takes the head's gradient with respect to the features back through
/// the encoder, for all views in one backward pass.
///
/// May be called again on the same features with another u.
///
/// # Errors
/// If theta_f are not the variables that the features were computed from.
pub fn encoder_gradient(
    features: &[Tensor],
    theta_f: &[Tensor],
    u: &[Tensor],
) -> Result<Vec<Tensor>> {
    let mut product: Option<Tensor> = None; // ⟨h, u⟩
    for (h, u) in features.iter().zip(u) {
        let term = (h * u)?.sum_all()?;
        product = Some(match product {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    let Some(product) = product else { bail!("encoder_gradient: expected features, got none") };
    let mut gradients = product.backward()?;
    let gradient_of = |(i, theta): (usize, &Tensor)| {
        if !theta.is_variable() {
            bail!("encoder_gradient: parameter {i} must be a variable for a gradient");
        }
        take_gradient(&mut gradients, theta)
    };
    theta_f.iter().enumerate().map(gradient_of).collect()
}

/// ∂²L_c/∂w∂θ · v by the head's mixed derivative: exact.
///
/// ```text
/// ∂²L_c/∂w∂θ · v = ∂_w ⟨∇_θ L_c, v⟩ = ∂_w dℓ(h, θ_g, m(w); ḣ, v_g),    ḣ = J_f v_f
/// ```
/// `features` are h with tangent ḣ.
///
/// # Errors
/// If the closure fails.
pub fn exact_second_order(
    head: &HeadLoss<'_>,
    features: &[Dual],
    theta_g: &[Tensor],
    v_g: &[Tensor],
    mask: &DimensionMask,
) -> Result<Tensor> {
    let dual = |(i, x): (usize, &Tensor)| match v_g.get(i) {
        Some(v) => Dual::new(x.detach(), v.clone()),
        None => x.detach().into(),
    };
    let theta_g: Vec<Dual> = theta_g.iter().enumerate().map(dual).collect();
    let slope = head(features, &theta_g, &mask.values()?.into())?.tangent_or_zeros()?;
    w_gradient(&slope, mask)
}

/// ∂²L_c/∂w∂θ · v by the central difference of ∂_w L_c around θ along v.
///
/// ```text
/// [∂_w L_c(θ + r v, w) − ∂_w L_c(θ − r v, w)] / 2r        r = 0.01 / ‖v‖
/// ```
/// ‖v‖ runs over θ_f and θ_g together. Where v = 0 the product is 0. With ReLU
/// the radius crosses kinks: this is the authors' estimate, not the derivative.
///
/// # Errors
/// If a closure fails.
pub fn finite_difference_second_order(
    loss: &MetaLoss<'_>,
    theta_f: &[Tensor],
    theta_g: &[Tensor],
    v: &ThetaGradient,
) -> Result<Tensor> {
    let squares = v.theta_f.iter().chain(&v.theta_g).map(squared_norm);
    let norm = squares.sum::<Result<f64>>()?.sqrt();
    if norm == 0.0 {
        return loss.mask.logits.zeros_like();
    }
    let radius = FINITE_DIFFERENCE_RADIUS / norm;
    let w_gradient_at = |step: f64| -> Result<Tensor> {
        let moved = |theta: &[Tensor], v: &[Tensor]| -> Result<Vec<Tensor>> {
            theta.iter().zip(v).map(|(x, v)| moved(x, step, v)).collect()
        };
        let features: Vec<Dual> = (loss.features)(&moved(theta_f, &v.theta_f)?)?
            .into_iter()
            .map(|h| h.detach().into())
            .collect();
        let (moving, resting) = theta_g.split_at(v.theta_g.len());
        let mut theta_g: Vec<Dual> =
            moved(moving, &v.theta_g)?.into_iter().map(Dual::from).collect();
        theta_g.extend(resting.iter().map(|x| Dual::from(x.detach())));
        let value = (loss.head)(&features, &theta_g, &loss.mask.values()?.into())?.value;
        w_gradient(&value, loss.mask)
    };
    (w_gradient_at(radius)? - w_gradient_at(-radius)?)? / (2.0 * radius)
}

/// ∇_θ L_c at features and parameters, with the head's part of it.
fn theta_gradient(
    loss: &MetaLoss<'_>,
    features: &[Tensor],
    theta_f: &[Tensor],
    theta_g: &[Tensor],
) -> Result<(HeadGradient, ThetaGradient)> {
    let mut head = head_gradient(loss.head, features, theta_g, loss.mask)?;
    let theta_f = encoder_gradient(features, theta_f, &head.features)?;
    let theta_g = std::mem::take(&mut head.theta_g);
    Ok((head, ThetaGradient { theta_f, theta_g }))
}

/// ∂/∂w of a scalar.
fn w_gradient(scalar: &Tensor, mask: &DimensionMask) -> Result<Tensor> {
    take_gradient(&mut scalar.backward()?, mask.logits.as_tensor())
}

/// The gradient with respect to x, 0 where the loss does not depend on it.
///
/// Detached: Candle cuts gradients on their way, but the last one of each path
/// still hangs on the forward pass (`grad * rhs` on rhs). Used as a constant of
/// the next derivative it would silently add a term, and keep the pass alive.
fn take_gradient(gradients: &mut GradStore, x: &Tensor) -> Result<Tensor> {
    match gradients.remove(x) {
        Some(gradient) => Ok(gradient.detach()),
        None => x.zeros_like(),
    }
}

fn duals(variables: &[Tensor]) -> Vec<Dual> {
    variables.iter().cloned().map(Dual::from).collect()
}

/// Each tensor as a variable: itself where it is one already, else a copy.
fn variables(tensors: impl Iterator<Item = Tensor>) -> Result<Vec<Tensor>> {
    tensors.map(|tensor| Ok(Var::from_tensor(&tensor)?.into_inner())).collect()
}

#[cfg(test)]
mod tests;
