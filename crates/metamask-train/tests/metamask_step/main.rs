//! Three iterations of SimCLR + MetaMask against PyTorch in float64.
//!
//! The fixtures come from `xtask/golden/metamask_step.py`, written from the
//! formulas with PyTorch's autograd (`create_graph` for the exact
//! hypergradient); its header says what each file holds. Every cell of setting,
//! virtual step, hypergradient and losses is followed in f64 and in f32, and
//! what a faulty meta step would give must be told apart from what ours gives.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use candle_core::{DType, Device, Tensor};
use metamask_optim::{Hypergradient, VirtualStep};
use metamask_train::{
    Config, Learner, Moment,
    algorithm::iteration,
    checkpoint::{Checkpoint, NamedTensors, State},
    config::Precision,
};

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
const ITERATIONS: usize = 3;

struct Fixture(BTreeMap<String, Tensor>);

impl Fixture {
    fn read(name: &str) -> anyhow::Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors")))
            .with_context(|| format!("failed to read fixture `{name}`"))?;
        let file = safetensors::SafeTensors::deserialize(&bytes)?;
        let tensor = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
            let dtype = DType::try_from(view.dtype())?;
            let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
            Ok((name.to_owned(), tensor))
        };
        Ok(Self(file.iter().map(tensor).collect::<anyhow::Result<_>>()?))
    }

    fn get(&self, name: &str) -> anyhow::Result<&Tensor> {
        self.0.get(name).with_context(|| format!("the fixture has no `{name}`"))
    }

    fn number(&self, name: &str) -> anyhow::Result<f64> {
        Ok(self.get(name)?.to_dtype(DType::F64)?.to_scalar()?)
    }

    /// The tensors below a prefix, by the rest of their names.
    fn below(&self, prefix: &str, dtype: DType) -> anyhow::Result<NamedTensors> {
        let entries = self.0.iter().filter_map(|(name, x)| Some((name.strip_prefix(prefix)?, x)));
        entries.map(|(name, x)| Ok((name.to_owned(), x.to_dtype(dtype)?))).collect()
    }
}

/// One cell of the table of fixtures.
#[derive(Clone, Copy)]
struct Cell {
    setting: &'static str,
    virtual_step: VirtualStep,
    hypergradient: Hypergradient,
    with_drr: bool,
}

impl Cell {
    fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for virtual_step in [VirtualStep::AfterRegular, VirtualStep::Shared] {
            for hypergradient in [Hypergradient::FiniteDifference, Hypergradient::Exact] {
                for (setting, with_drr) in [("shows", true), ("shows", false), ("authors", true)] {
                    cells.push(Self { setting, virtual_step, hypergradient, with_drr });
                }
            }
        }
        cells
    }

    fn name(&self) -> String {
        let step = match self.virtual_step {
            VirtualStep::AfterRegular => "after-regular",
            VirtualStep::Shared => "shared",
            VirtualStep::Lookahead => "lookahead",
        };
        let hypergradient = match self.hypergradient {
            Hypergradient::FiniteDifference => "finite-difference",
            Hypergradient::Exact => "exact",
            Hypergradient::FirstOrder => "first-order",
        };
        let drr = if self.with_drr { "" } else { "_no-drr" };
        format!("metamask_step_{}_{step}_{hypergradient}{drr}", self.setting)
    }

    fn config(&self, expected: &Fixture) -> anyhow::Result<Config> {
        let mut config = Config::default();
        config.encoder.width = 2;
        config.engine.precision = Precision::Exact;
        (config.contrastive_head.hidden, config.contrastive_head.output) = (vec![12], 10);
        (config.redundancy_head.hidden, config.redundancy_head.output) = (vec![14, 14], 12);
        config.objective.alpha = expected.number("alpha")?;
        config.objective.temperature = expected.number("tau")?;
        config.objective.redundancy_weight = if self.with_drr { 1.0 } else { 0.0 };
        config.objective.redundancy_lambda = expected.number("lambda")?;
        for (momentum, weight_decay) in [
            (&mut config.optimizer.momentum, &mut config.optimizer.weight_decay),
            (&mut config.mask.momentum, &mut config.mask.weight_decay),
        ] {
            *momentum = expected.number("momentum")?;
            *weight_decay = expected.number("weight_decay")?;
        }
        config.meta.virtual_step = self.virtual_step;
        config.meta.hypergradient = self.hypergradient;
        Ok(config)
    }
}

fn norm(x: &Tensor) -> anyhow::Result<f64> {
    Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
}

/// ‖ours − theirs‖
fn distance(ours: &Tensor, theirs: &Tensor) -> anyhow::Result<f64> {
    norm(&(ours.to_dtype(DType::F64)? - theirs.to_dtype(DType::F64)?)?)
}

/// Collects what differs, so that a failure shows all of it.
struct Comparison {
    cell: String,
    tolerance: f64,
    worst: f64,
    failures: Vec<String>,
}

impl Comparison {
    fn close(&mut self, what: &str, ours: &Tensor, theirs: &Tensor) -> anyhow::Result<()> {
        self.within(what, ours, theirs, norm(theirs)?)
    }

    /// The same with the error measured by `scale`.
    fn within(
        &mut self,
        what: &str,
        ours: &Tensor,
        theirs: &Tensor,
        scale: f64,
    ) -> anyhow::Result<()> {
        let error = distance(ours, theirs)? / scale;
        self.worst = self.worst.max(error);
        if error.is_nan() || error > self.tolerance {
            self.failures.push(format!("{what}: relative error {error:.2e}"));
        }
        Ok(())
    }

    fn all_close(
        &mut self,
        what: &str,
        ours: &NamedTensors,
        theirs: &NamedTensors,
    ) -> anyhow::Result<()> {
        assert!(ours.keys().eq(theirs.keys()), "{what}: {:?} {:?}", ours.keys(), theirs.keys());
        for (name, ours) in ours {
            self.close(&format!("{what}.{name}"), ours, &theirs[name])?;
        }
        Ok(())
    }
}

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
    let mut learner = Learner::new(&cell.config(&expected)?, dtype)?;
    let mut beginning = learner.to_checkpoint(State::default())?;
    beginning.model = start.below("model.", dtype)?;
    learner.restore(&beginning)?;

    let name = format!("{} in {dtype:?}", cell.name());
    let mut comparison =
        Comparison { cell: name, tolerance: relative, worst: 0.0, failures: Vec::new() };
    let moment = Moment {
        learning_rate: expected.number("learning_rate")?,
        mask_learning_rate: expected.number("mask_rate")?,
        mask_moves: true,
        mask_moves_next: true,
        target_momentum: 0.0,
        beta: 0.0,
    };
    for t in 0..ITERATIONS {
        let view = |letter: &str| -> anyhow::Result<Tensor> {
            Ok(start.get(&format!("view_{letter}.{t}"))?.to_dtype(dtype)?)
        };
        let found = iteration(&mut learner, &[view("a")?, view("b")?], &moment)?;
        let meta = found.meta.context("there is a mask")?;
        let theirs = |name: &str| expected.get(&format!("{t}.{name}"));
        let number = |x: f64| Tensor::new(x, &Device::Cpu);

        comparison.close(&format!("{t}.loss"), &number(found.loss)?, theirs("loss")?)?;
        let contrastive = number(found.base_loss)?;
        comparison.close(&format!("{t}.loss_c"), &contrastive, theirs("loss_c")?)?;
        assert_eq!(found.redundancy_loss.is_some(), cell.with_drr);
        if let Some(loss) = found.redundancy_loss {
            comparison.close(&format!("{t}.loss_drr"), &number(loss)?, theirs("loss_drr")?)?;
        }
        for (what, ours) in [
            ("meta_loss", &meta.loss),
            ("direct", &meta.direct),
            ("total", &meta.total),
            ("w", learner.mask.logits.as_tensor()),
        ] {
            comparison.close(&format!("{t}.{what}"), ours, theirs(what)?)?;
        }
        let is_difference = cell.hypergradient == Hypergradient::FiniteDifference;
        let scale = match difference_by_total && is_difference {
            true => "total",
            false => "second_order",
        };
        let ours = meta.second_order.as_ref().context("both modes have a second order")?;
        let scale = norm(theirs(scale)?)?;
        comparison.within(&format!("{t}.second_order"), ours, theirs("second_order")?, scale)?;
        if cell.setting == "shows" {
            check_faults(&cell, t, &meta.total, &expected)?;
        }
    }
    let Checkpoint { model, mut optim, .. } = learner.to_checkpoint(State::default())?;
    let w_velocity = optim.remove("mask.logits").context("the mask has momentum")?;
    comparison.all_close("model", &model, &expected.below("model.", DType::F64)?)?;
    comparison.all_close("velocity", &optim, &expected.below("velocity.", DType::F64)?)?;
    comparison.close("w_velocity", &w_velocity, expected.get("w_velocity")?)?;
    Ok(comparison)
}

/// What a faulty meta step would give is not what ours gives.
fn check_faults(cell: &Cell, t: usize, total: &Tensor, expected: &Fixture) -> anyhow::Result<()> {
    let theirs = |name: &str| expected.get(&format!("{t}.{name}"));
    let (direct, second_order) = (theirs("direct")?, theirs("second_order")?);
    let mut faults = vec![
        ("second order dropped", direct.clone()),
        ("sign flipped", (direct - second_order)?),
        ("v at theta", theirs("wrong.v-at-theta")?.clone()),
    ];
    // In the first iteration the shared virtual step starts at rest.
    if t > 0 || cell.virtual_step == VirtualStep::AfterRegular {
        faults.push(("momentum left out", theirs("wrong.no-momentum")?.clone()));
    }
    for (fault, wrong) in faults {
        let difference = distance(total, &wrong)? / norm(&wrong)?;
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
