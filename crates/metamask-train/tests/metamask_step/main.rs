//! Three iterations of MetaMask against PyTorch in float64.
//!
//! The fixtures come from `xtask/golden/metamask_step.py`, written from the
//! formulas with PyTorch's autograd (`create_graph` through the virtual step for
//! the exact hypergradient); its header says what each file holds. Every cell of
//! base method, virtual step, hypergradient and losses is followed in f64 and in
//! f32, and what a faulty meta step would give must be told apart from what ours
//! gives. In f32 each iteration starts where f64 is, or rounding would grow from one to the
//! next, until it takes a ReLU over its kink.

mod cell;
mod fixture;
mod forms;

use candle_core::{DType, Device, Tensor};
use metamask_optim::Hypergradient;
use metamask_train::{
    algorithm::iteration,
    checkpoint::{Checkpoint, State},
};

use cell::{Cell, ITERATIONS, learner_at, start_from, views};
use fixture::{Comparison, Fixture, distance, norm};

/// Largest error of each tensor, ‖ours − theirs‖ / ‖theirs‖.
struct Tolerance {
    dtype: DType,
    relative: f64,
    /// Whether the second-order term, where it is a finite difference, is measured by ‖G‖ instead.
    difference_by_total: bool,
}

/// Rounding of 1e-16 grows over three steps through some twenty norms.
const F64: Tolerance = Tolerance { dtype: DType::F64, relative: 1e-8, difference_by_total: false };
/// The finite difference divides f32's rounding by 2r: 1.6e-4 of the term alone.
const F32: Tolerance = Tolerance { dtype: DType::F32, relative: 1e-4, difference_by_total: true };
/// A fault must show this much more than what is taken for rounding.
const FAULT_SHOWS: f64 = 1e-2;

fn check_all(tolerance: Tolerance) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for cell in Cell::all() {
        let compared = check(cell, &tolerance)?;
        println!("{}: worst relative error {:.1e}", compared.cell, compared.worst);
        failures.extend(compared.failures.iter().map(|it| format!("{}, {it}", compared.cell)));
    }
    assert!(failures.is_empty(), "tolerance {:e}:\n{}", tolerance.relative, failures.join("\n"));
    Ok(())
}

fn check(cell: Cell, tolerance: &Tolerance) -> anyhow::Result<Comparison> {
    let Tolerance { dtype, relative, difference_by_total } = *tolerance;
    let start = Fixture::read("metamask_step_start")?;
    let expected = Fixture::read(&cell.name())?;
    let config = cell.config(&expected)?;
    let mut learner = learner_at(&start, &config, dtype)?;
    let mut guide = match dtype {
        DType::F64 => None,
        _ => Some(learner_at(&start, &config, DType::F64)?),
    };
    let moment = Cell::moment(&expected)?;

    let name = format!("{} in {dtype:?}", cell.name());
    let mut comparison =
        Comparison { cell: name, tolerance: relative, worst: 0.0, failures: Vec::new() };
    let number = |x: f64| Tensor::new(x, &Device::Cpu);
    for t in 0..ITERATIONS {
        if let Some(guide) = &mut guide {
            if t > 0 {
                start_from(&mut learner, guide, views(&start, t - 1, dtype)?, &moment)?;
            }
            iteration(guide, &views(&start, t, DType::F64)?, &moment)?;
        }
        let found = iteration(&mut learner, &views(&start, t, dtype)?, &moment)?;
        let mut all = vec![
            ("loss", number(found.loss)?),
            ("loss_base", number(found.base_loss)?),
            ("w", learner.mask.logits.as_tensor().clone()),
        ];
        let drr = found.redundancy_loss.map(number).transpose()?;
        all.extend(drr.map(|drr| ("loss_drr", drr)));
        if let Some(meta) = &found.meta {
            all.extend([
                ("meta_loss", meta.loss.clone()),
                ("direct", meta.direct.clone()),
                ("total", meta.total.clone()),
            ]);
            if let Some(second_order) = &meta.second_order {
                let theirs = expected.get(&format!("{t}.second_order"))?;
                let is_difference = cell.hypergradient == Hypergradient::FiniteDifference;
                let scale = match difference_by_total && is_difference {
                    true => expected.get(&format!("{t}.total"))?,
                    false => theirs,
                };
                let scale = norm(scale)?;
                comparison.within(&format!("{t}.second_order"), second_order, theirs, scale)?;
            }
            check_faults(&cell, t, &meta.total, &expected)?;
        }
        for (what, ours) in &all {
            let what = format!("{t}.{what}");
            comparison.close(&what, ours, expected.get(&what)?)?;
        }
        // What is absent here is absent there.
        let theirs = expected.below(&format!("{t}."));
        let n_theirs = theirs.keys().filter(|name| !name.starts_with("wrong.")).count();
        let has_second_order = found.meta.is_some_and(|meta| meta.second_order.is_some());
        assert_eq!(n_theirs, all.len() + usize::from(has_second_order), "{}, {t}", cell.name());
    }
    let Checkpoint { model, mut optim, .. } = learner.to_checkpoint(State::default())?;
    let w_velocity = optim.remove("mask.logits").expect("the mask has momentum");
    comparison.all_close("model", &model, &expected.below("model."))?;
    comparison.all_close("velocity", &optim, &expected.below("velocity."))?;
    comparison.close("w_velocity", &w_velocity, expected.get("w_velocity")?)?;
    Ok(comparison)
}

/// What a faulty meta step would give is not what ours gives.
fn check_faults(cell: &Cell, t: usize, total: &Tensor, expected: &Fixture) -> anyhow::Result<()> {
    let faults = expected.below(&format!("{t}.wrong."));
    let has_faults = cell.what != "authors" && cell.hypergradient != Hypergradient::FirstOrder;
    assert_eq!(faults.len() >= 3, has_faults, "{}, {t}: {:?}", cell.name(), faults.keys());
    for (fault, wrong) in &faults {
        let difference = distance(total, wrong)? / norm(wrong)?;
        assert!(difference > FAULT_SHOWS, "{}, {t}: {fault}: {difference:.1e}", cell.name());
    }
    Ok(())
}

#[test]
fn three_iterations_equal_pytorch_s_in_f64() -> anyhow::Result<()> {
    check_all(F64)
}

#[test]
fn three_iterations_equal_pytorch_s_in_f32() -> anyhow::Result<()> {
    check_all(F32)
}
