//! The hypergradient against a closed form and against differences of the whole
//! bilevel map w -> L_c(θ′(w), w), which know nothing of how it is computed.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device};
use metamask_ops::{Differentiable, ParameterGroup, ParameterKind, l2_normalize, log_sum_exp};
use metamask_random::{Key, Purpose};

use super::*;
use crate::{MaskForm, MaskShape};

const BATCH: usize = 6;
const LEARNING_RATE: f64 = 1.5;
const WEIGHT_DECAY: f64 = 0.05;
const MOMENTUM: f64 = 0.9;

fn normal(shape: &[usize], sample: u32, dtype: DType) -> Result<Tensor> {
    let mut stream = Key::new(0, Purpose::Test).sample(sample).stream();
    let values: Vec<f64> = (0..shape.iter().product()).map(|_: usize| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

fn norm(x: &Tensor) -> Result<f64> {
    Ok(squared_norm(x)?.sqrt())
}

/// A small contrastive problem: h = tanh(X W) for two views, z = (m ⊙ h) P, and
/// each sample of view a has to find itself in view b.
struct Toy {
    views: Vec<Tensor>,
    groups: Vec<ParameterGroup>,
    sgd: Sgd,
    mask: DimensionMask,
    forward_passes: Cell<usize>,
    tangent_passes: Arc<AtomicUsize>,
}

impl Toy {
    fn new(dtype: DType, form: MaskForm) -> Result<Self> {
        let group = |name: &str, shape: &[usize], sample| {
            let var = Var::from_tensor(&(normal(shape, sample, dtype)? * 0.5)?)?;
            Ok(ParameterGroup::single(name, ParameterKind::Linear, var))
        };
        let groups: Vec<_> =
            [group("W", &[7, 5], 0), group("P", &[5, 4], 1)].into_iter().collect::<Result<_>>()?;
        let mut sgd = Sgd::new(&groups, MOMENTUM, WEIGHT_DECAY)?;
        let velocity = [normal(&[7, 5], 2, dtype)?, normal(&[5, 4], 3, dtype)?];
        sgd.set_velocity(&velocity.map(|v| (v * 0.1).unwrap()))?;
        let mask = DimensionMask::new(form, 5, dtype, &Device::Cpu)?;
        mask.logits.set(&(mask.logits.as_tensor() + normal(&[5], 4, dtype)?)?)?;
        let view_a = normal(&[BATCH, 7], 5, dtype)?;
        let view_b = (&view_a + (normal(&[BATCH, 7], 6, dtype)? * 0.7)?)?;
        Ok(Self {
            views: vec![view_a, view_b],
            groups,
            sgd,
            mask,
            forward_passes: Cell::new(0),
            tangent_passes: Arc::default(),
        })
    }

    fn theta(&self) -> Vec<Tensor> {
        self.groups.iter().map(|group| group.tensor().clone()).collect()
    }

    fn features(&self, theta_f: &[Tensor]) -> Result<Vec<Tensor>> {
        self.forward_passes.set(self.forward_passes.get() + 1);
        self.views.iter().map(|x| x.matmul(&theta_f[0])?.tanh()).collect()
    }

    fn linearize(&self, theta_f: &[Tensor]) -> Result<Vec<Linearized>> {
        let linearized = |(x, h): (&Tensor, Tensor)| {
            let (x, slope) = (x.clone(), h.detach().sqr()?.affine(-1.0, 1.0)?);
            let passes = self.tangent_passes.clone();
            Ok(Linearized::new(h, move |direction| {
                passes.fetch_add(1, Ordering::Relaxed);
                x.matmul(&direction[0])? * &slope
            }))
        };
        self.views.iter().zip(self.features(theta_f)?).map(linearized).collect()
    }

    fn with_loss<R>(&self, use_it: impl FnOnce(&MetaLoss<'_>) -> R) -> R {
        use_it(&MetaLoss {
            features: &|theta_f| self.features(theta_f),
            linearize: &|theta_f| self.linearize(theta_f),
            head: &contrast,
            mask: &self.mask,
        })
    }

    fn meta_gradient(&self, how: Hypergradient) -> Result<MetaGradient> {
        self.meta_gradient_with(&self.sgd, None, how)
    }

    fn meta_gradient_with(
        &self,
        sgd: &Sgd,
        gradient: Option<ThetaGradient>,
        how: Hypergradient,
    ) -> Result<MetaGradient> {
        let theta = self.theta();
        let at = Point {
            theta_f: &theta[..1],
            theta_g: &theta[1..],
            velocity_f: &sgd.velocity()[..1],
            velocity_g: &sgd.velocity()[1..],
            features: self.linearize(&theta[..1])?,
        };
        let how = (how, Activations::Keep);
        self.with_loss(|loss| meta_gradient(loss, at, gradient, sgd, LEARNING_RATE, how))
    }

    /// L_c(θ, w) and ∇_θ L_c, with nothing of this file in it.
    fn loss_and_gradient(&self, theta: &[Tensor], w: &Tensor) -> Result<(f64, Vec<Tensor>)> {
        let theta = variables(theta.iter().map(Tensor::detach))?;
        let m: Dual = self.mask.form.values(w)?.into();
        let features = duals(&self.features(&theta[..1])?);
        let loss = contrast(&features, &duals(&theta[1..]), &m)?.value;
        let mut gradients = loss.backward()?;
        let gradients = theta.iter().map(|x| gradients.remove(x).expect("a variable")).collect();
        Ok((loss.to_scalar()?, gradients))
    }

    /// w -> L_c(θ′(w), w), the virtual step written out.
    fn after_virtual_step(&self, w: &Tensor) -> Result<f64> {
        let (_, gradients) = self.loss_and_gradient(&self.theta(), w)?;
        let stepped = |i: usize| {
            let (x, v) = (self.groups[i].tensor(), &self.sgd.velocity()[i]);
            let direction = ((v * MOMENTUM)? + &gradients[i] + (x * WEIGHT_DECAY)?)?;
            x - (direction * LEARNING_RATE)?
        };
        Ok(self.loss_and_gradient(&[stepped(0)?, stepped(1)?], w)?.0)
    }

    /// The derivative of the bilevel map by five-point differences.
    fn bilevel_differences(&self) -> Result<Tensor> {
        const STEP: f64 = 5e-4; // truncation ~ STEP⁴, rounding ~ 1e-16 / STEP
        let w = self.mask.logits.as_detached_tensor();
        let mut derivative = Vec::new();
        for k in 0..w.elem_count() {
            let at = |steps: f64| {
                let mut w = w.to_vec1::<f64>()?;
                w[k] += steps * STEP;
                self.after_virtual_step(&Tensor::new(w, &Device::Cpu)?)
            };
            let sum = at(-2.0)? - 8.0 * at(-1.0)? + 8.0 * at(1.0)? - at(2.0)?;
            derivative.push(sum / (12.0 * STEP));
        }
        Tensor::new(derivative, &Device::Cpu)
    }
}

fn contrast(features: &[Dual], theta_g: &[Dual], m: &Dual) -> Result<Dual> {
    let unit = |h: &Dual| l2_normalize(&h.mul(m)?.matmul(&theta_g[0])?);
    let (u_a, u_b) = (unit(&features[0])?, unit(&features[1])?);
    let similarity = u_a.matmul(&u_b.t()?)?.affine(4.0, 0.0)?;
    let partner = u_a.mul(&u_b)?.sum_all()?.affine(4.0, 0.0)?;
    let loss = log_sum_exp(&similarity, 1)?.sum_all()?.sub(&partner)?;
    loss.affine(1.0 / BATCH as f64, 0.0)
}

fn second_order(gradient: &MetaGradient) -> &Tensor {
    gradient.second_order.as_ref().expect("this mode has a second-order term")
}

#[track_caller]
fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
    let error = norm(&(got - expected)?)? / norm(expected)?;
    assert!(error < tolerance, "relative error {error:e}");
    Ok(())
}

#[test]
fn exact_hypergradient_equals_differences_of_the_bilevel_map() -> Result<()> {
    for form in [MaskForm::Sigmoid, MaskForm::Free] {
        let toy = Toy::new(DType::F64, form)?;
        let expected = toy.bilevel_differences()?;
        let got = toy.meta_gradient(Hypergradient::Exact)?;
        assert_close(&got.total, &expected, 1e-8)?;
        assert_close(&(&got.direct + second_order(&got))?, &got.total, 1e-15)?;
        let loss = toy.after_virtual_step(toy.mask.logits.as_tensor())?;
        assert!((got.loss.to_scalar::<f64>()? - loss).abs() < 1e-13);
    }
    Ok(())
}

#[test]
fn wrong_hypergradients_are_told_apart() -> Result<()> {
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let expected = toy.bilevel_differences()?;
    let right = toy.meta_gradient(Hypergradient::Exact)?;

    let at_rest = Sgd::new(&toy.groups, 0.0, WEIGHT_DECAY)?;
    let no_momentum = toy.meta_gradient_with(&at_rest, None, Hypergradient::Exact)?.total;

    // v taken at θ in place of θ′.
    let theta = toy.theta();
    let features = toy.linearize(&theta[..1])?;
    let v = toy.loss_and_gradient(&theta, toy.mask.logits.as_tensor())?.1;
    let tangents: Vec<Dual> = features
        .iter()
        .map(|h| Ok(Dual::new(h.value.detach(), h.tangent(&v[..1])?)))
        .collect::<Result<_>>()?;
    let product = exact_second_order(&contrast, &tangents, &theta[1..], &v[1..], &toy.mask)?;
    let v_at_theta = (&right.direct - (product * LEARNING_RATE)?)?;

    for (fault, wrong) in [
        ("second order dropped", right.direct.clone()),
        ("sign flipped", (&right.direct - second_order(&right))?),
        ("momentum left out of the virtual step", no_momentum),
        ("v taken at theta", v_at_theta),
    ] {
        let error = norm(&(wrong - &expected)?)? / norm(&expected)?;
        assert!(error > 0.05, "{fault}: differs by {error:e} only");
    }
    Ok(())
}

#[test]
fn finite_differences_approach_the_exact_term_on_a_smooth_problem() -> Result<()> {
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let exact = toy.meta_gradient(Hypergradient::Exact)?;
    let difference = toy.meta_gradient(Hypergradient::FiniteDifference)?;
    // The radius is fixed at 0.01: the error is its square's size.
    assert_close(second_order(&difference), second_order(&exact), 1e-3)?;
    assert_eq!(difference.direct.to_vec1::<f64>()?, exact.direct.to_vec1::<f64>()?);
    Ok(())
}

/// L(θ, w) = (w θ − t)² / 2 with m = w and h = θ, one number each; t is the data.
fn quadratic(target: f64) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> {
    move |h, _, m| h[0].mul(m)?.affine(1.0, -target)?.sqr()?.sum_all()?.affine(0.5, 0.0)
}

#[test]
fn a_quadratic_has_its_closed_form_in_every_mode() -> Result<()> {
    // By hand, with target 1 at θ and t at θ′ (t = 1 but for the lookahead, whose
    // batch is another one):
    //   g = w (w θ − 1),  θ′ = θ − l (μ V + g),  d = θ′ (w θ′ − t),  v = w (w θ′ − t),
    //   ∂²L/∂w∂θ = 2 w θ − 1;   with Nesterov's momentum θ′ = θ − l (g + μ (μ V + g)).
    // ∂_w L is quadratic in θ, so the central difference is exact too.
    let (theta, w, l, velocity, momentum) = (0.8, 1.7, 0.3, 0.4, 0.9);
    let var = Var::new(&[[theta]], &Device::Cpu)?;
    let groups = [ParameterGroup::single("theta", ParameterKind::Linear, var)];
    let logits = Var::new(&[w], &Device::Cpu)?;
    let mask = DimensionMask { logits, form: MaskForm::Free, shape: MaskShape::Soft };
    let point = [groups[0].tensor().clone()];
    let identity = |theta: &Tensor| Linearized::new(theta.clone(), |v| Ok(v[0].clone()));
    let linearize = |theta: &[Tensor]| Ok(theta.iter().map(identity).collect());

    for nesterov in [false, true] {
        let mut sgd = match nesterov {
            false => Sgd::new(&groups, momentum, 0.0)?,
            true => Sgd::nesterov(&groups, momentum, 0.0)?,
        };
        sgd.set_velocity(&[Tensor::new(&[[velocity]], &Device::Cpu)?])?;
        let g = w * (w * theta - 1.0);
        let (moves_by, factor) = match nesterov {
            false => (momentum * velocity + g, 1.0),
            true => (g + momentum * (momentum * velocity + g), 1.0 + momentum),
        };
        let theta_virtual = theta - l * moves_by;
        let expected = |t: f64, how: Hypergradient| {
            let miss = w * theta_virtual - t;
            let product = (2.0 * w * theta - 1.0) * w * miss;
            let second = (how != Hypergradient::FirstOrder).then_some(-l * factor * product);
            (theta_virtual * miss, second)
        };
        let check = |what: &str, got: &MetaGradient, (d, second): (f64, Option<f64>)| {
            let number = |x: &Tensor| x.to_vec1::<f64>().map(|x| x[0]);
            assert_eq!(got.second_order.is_some(), second.is_some(), "{what}");
            for (got, expected) in [
                (number(&got.direct)?, d),
                (got.second_order.as_ref().map_or(Ok(0.0), number)?, second.unwrap_or(0.0)),
                (number(&got.total)?, d + second.unwrap_or(0.0)),
            ] {
                assert!((got - expected).abs() < 1e-12, "{what}: {got} {expected}");
            }
            Ok::<_, candle_core::Error>(())
        };

        let here = quadratic(1.0);
        let loss = MetaLoss {
            features: &|theta| Ok(theta.to_vec()),
            linearize: &linearize,
            head: &here,
            mask: &mask,
        };
        for how in
            [Hypergradient::FirstOrder, Hypergradient::FiniteDifference, Hypergradient::Exact]
        {
            for activations in [Activations::Keep, Activations::Recompute] {
                let at = Point {
                    theta_f: &point,
                    theta_g: &[],
                    velocity_f: sgd.velocity(),
                    velocity_g: &[],
                    features: linearize(&point)?,
                };
                let got = meta_gradient(&loss, at, None, &sgd, l, (how, activations))?;
                check(&format!("{how:?} {activations:?}"), &got, expected(1.0, how))?;
            }

            // Lookahead: the step is taken, its result judged by the next batch's target.
            let t = 0.6;
            let theta_next =
                sgd.virtual_step(&point, &[Tensor::new(&[[g]], &Device::Cpu)?], sgd.velocity(), l)?;
            let next = head_gradient(&quadratic(t), &theta_next, &[], &mask)?;
            let theta_f = encoder_gradient(&theta_next, &theta_next, &next.features)?;
            let v = ThetaGradient { theta_f, theta_g: Vec::new() };
            let product = mixed_product(&loss, (&point, &[]), None, &v, how)?;
            let step = l * sgd.virtual_gradient_factor();
            let got = MetaGradient::new(next.loss, next.w, product, step)?;
            check(&format!("lookahead {how:?}"), &got, expected(t, how))?;
        }
    }
    Ok(())
}

#[test]
fn activations_computed_again_give_what_kept_ones_give() -> Result<()> {
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let theta = toy.theta();
    let at = |activations| {
        let point = Point {
            theta_f: &theta[..1],
            theta_g: &theta[1..],
            velocity_f: &toy.sgd.velocity()[..1],
            velocity_g: &toy.sgd.velocity()[1..],
            features: toy.linearize(&theta[..1])?,
        };
        let how = (Hypergradient::Exact, activations);
        toy.with_loss(|loss| meta_gradient(loss, point, None, &toy.sgd, LEARNING_RATE, how))
    };
    let (kept, again) = (at(Activations::Keep)?, at(Activations::Recompute)?);
    assert_eq!(kept.total.to_vec1::<f64>()?, again.total.to_vec1::<f64>()?);
    Ok(())
}

#[test]
fn passes_are_those_of_the_cost_table() -> Result<()> {
    use Activations::{Keep, Recompute};
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let theta = toy.theta();
    // The forward pass at θ is the caller's; θ′ takes one, the difference two.
    for (how, activations, forward, tangents) in [
        (Hypergradient::FirstOrder, Keep, 1 + 1, 0),
        (Hypergradient::Exact, Keep, 1 + 1, 2),
        (Hypergradient::Exact, Recompute, 1 + 2, 2),
        (Hypergradient::FiniteDifference, Keep, 1 + 3, 0),
    ] {
        toy.forward_passes.set(0);
        toy.tangent_passes.store(0, Ordering::Relaxed);
        let at = Point {
            theta_f: &theta[..1],
            theta_g: &theta[1..],
            velocity_f: &toy.sgd.velocity()[..1],
            velocity_g: &toy.sgd.velocity()[1..],
            features: toy.linearize(&theta[..1])?,
        };
        let mode = (how, activations);
        toy.with_loss(|loss| meta_gradient(loss, at, None, &toy.sgd, LEARNING_RATE, mode))?;
        assert_eq!(toy.forward_passes.get(), forward, "{mode:?}");
        assert_eq!(toy.tangent_passes.load(Ordering::Relaxed), tangents, "{mode:?}: one a view");
    }
    Ok(())
}

#[test]
fn a_gradient_known_from_the_regular_step_is_taken_as_it_is() -> Result<()> {
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let mut known = toy.loss_and_gradient(&toy.theta(), toy.mask.logits.as_tensor())?.1;
    let theta_g = known.split_off(1);
    let known = ThetaGradient { theta_f: known, theta_g };
    for how in [Hypergradient::Exact, Hypergradient::FiniteDifference] {
        let computed = toy.meta_gradient(how)?;
        let given = toy.meta_gradient_with(&toy.sgd, Some(known.clone()), how)?;
        assert_close(&given.total, &computed.total, 1e-14)?;
    }
    Ok(())
}

#[test]
fn one_forward_pass_serves_two_losses() -> Result<()> {
    // `shared`: the regular loss goes back first, then the meta loss.
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let theta = toy.theta();
    let features = toy.features(&theta[..1])?;
    let u: Vec<Tensor> =
        (0..2).map(|i| normal(&[BATCH, 5], 10 + i, DType::F64)).collect::<Result<_>>()?;
    let first = encoder_gradient(&features, &theta[..1], &u)?;
    let doubled: Vec<Tensor> = u.iter().map(|u| u * 2.0).collect::<Result<_>>()?;
    let second = encoder_gradient(&features, &theta[..1], &doubled)?;
    assert_close(&second[0], &(&first[0] * 2.0)?, 1e-15)
}

#[test]
fn activations_at_theta_are_gone_before_the_differences_and_kept_for_the_tangent() -> Result<()> {
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let theta = toy.theta();
    for (how, alive_at_virtual) in [
        ((Hypergradient::Exact, Activations::Keep), true),
        ((Hypergradient::Exact, Activations::Recompute), false),
        ((Hypergradient::FiniteDifference, Activations::Keep), false),
        ((Hypergradient::FirstOrder, Activations::Keep), false),
    ] {
        let activations = Arc::new(());
        let watch = Arc::downgrade(&activations);
        let mut features = toy.linearize(&theta[..1])?;
        let Linearized { value, .. } = &features[0];
        let (value, slope) = (value.clone(), value.detach().sqr()?.affine(-1.0, 1.0)?);
        let x = toy.views[0].clone();
        features[0] = Linearized::new(value, move |direction| {
            let _held = &activations;
            x.matmul(&direction[0])? * &slope
        });
        let alive = Rc::new(Cell::new(None));
        let seen = alive.clone();
        let loss = MetaLoss {
            features: &|theta_f| {
                seen.set(Some(watch.upgrade().is_some()));
                toy.features(theta_f)
            },
            linearize: &|theta_f| toy.linearize(theta_f),
            head: &contrast,
            mask: &toy.mask,
        };
        let at = Point {
            theta_f: &theta[..1],
            theta_g: &theta[1..],
            velocity_f: &toy.sgd.velocity()[..1],
            velocity_g: &toy.sgd.velocity()[1..],
            features,
        };
        meta_gradient(&loss, at, None, &toy.sgd, LEARNING_RATE, how)?;
        assert_eq!(alive.get(), Some(alive_at_virtual), "{how:?}");
    }
    Ok(())
}

#[test]
fn nothing_is_changed() -> Result<()> {
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let state = || -> Result<Vec<f64>> {
        let mut numbers = toy.mask.logits.to_vec1::<f64>()?;
        for x in toy.theta().iter().chain(toy.sgd.velocity()) {
            numbers.extend(x.flatten_all()?.to_vec1::<f64>()?);
        }
        Ok(numbers)
    };
    let before = state()?;
    for how in [Hypergradient::FirstOrder, Hypergradient::FiniteDifference, Hypergradient::Exact] {
        toy.meta_gradient(how)?;
    }
    assert_eq!(before, state()?);
    Ok(())
}

#[test]
fn f32_agrees_with_f64() -> Result<()> {
    let (single, double) =
        (Toy::new(DType::F32, MaskForm::Sigmoid)?, Toy::new(DType::F64, MaskForm::Sigmoid)?);
    let got = single.meta_gradient(Hypergradient::Exact)?;
    let expected = double.meta_gradient(Hypergradient::Exact)?;
    for (got, expected) in [
        (&got.direct, &expected.direct),
        (second_order(&got), second_order(&expected)),
        (&got.total, &expected.total),
    ] {
        assert_close(&got.to_dtype(DType::F64)?, expected, 1e-5)?;
    }
    Ok(())
}

#[test]
fn plain_tensors_in_place_of_variables_are_an_error_and_not_a_zero() -> Result<()> {
    let toy = Toy::new(DType::F64, MaskForm::Sigmoid)?;
    let theta: Vec<Tensor> = toy.theta().iter().map(Tensor::detach).collect();
    let features = toy.features(&theta[..1])?;
    let error = encoder_gradient(&features, &theta[..1], &features).unwrap_err();
    assert!(error.to_string().contains("parameter 0 must be a variable"), "{error}");
    Ok(())
}
