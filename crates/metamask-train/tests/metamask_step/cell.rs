//! The cells of the table of fixtures: what is followed, and how ours is set to it.

use candle_core::{DType, Tensor};
use metamask_optim::{Hypergradient, VirtualStep};
use metamask_train::{
    Config, Learner, Moment,
    checkpoint::State,
    config::{Method, Precision, Through},
};

use crate::fixture::Fixture;

pub(crate) const ITERATIONS: usize = 3;
const VIRTUAL_STEPS: [VirtualStep; 3] =
    [VirtualStep::AfterRegular, VirtualStep::Shared, VirtualStep::Lookahead];

#[derive(Clone, Copy)]
pub(crate) struct Cell {
    /// As in the names of the files.
    pub(crate) what: &'static str,
    pub(crate) virtual_step: VirtualStep,
    pub(crate) hypergradient: Hypergradient,
    pub(crate) with_drr: bool,
}

impl Cell {
    pub(crate) fn all() -> Vec<Self> {
        use Hypergradient::{Exact, FiniteDifference, FirstOrder};
        use VirtualStep::{Lookahead, Shared};

        let mut cells = Vec::new();
        let mut add = |what, virtual_step, hypergradient, with_drr| {
            cells.push(Self { what, virtual_step, hypergradient, with_drr });
        };
        for virtual_step in VIRTUAL_STEPS {
            for hypergradient in [FiniteDifference, Exact] {
                add("shows", virtual_step, hypergradient, true);
                add("shows", virtual_step, hypergradient, false);
                add("authors", virtual_step, hypergradient, true);
            }
            add("shows", virtual_step, FirstOrder, true);
        }
        for virtual_step in [Shared, Lookahead] {
            for what in ["byol", "dcl", "hcl", "nnclr", "nesterov"] {
                add(what, virtual_step, Exact, true);
            }
            add("barlow-twins", virtual_step, Exact, false);
        }
        add("through-base", Lookahead, Exact, true);
        cells
    }

    /// `shows` with the exact hypergradient, for each virtual step.
    pub(crate) fn exact() -> [Self; 3] {
        VIRTUAL_STEPS.map(|virtual_step| Self {
            what: "shows",
            virtual_step,
            hypergradient: Hypergradient::Exact,
            with_drr: true,
        })
    }

    /// The file's.
    pub(crate) fn name(&self) -> String {
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
        let is_drr_left_out = !self.with_drr && self.method() != Method::BarlowTwins;
        let drr = if is_drr_left_out { "_no-drr" } else { "" };
        format!("metamask_step_{}_{step}_{hypergradient}{drr}", self.what)
    }

    fn method(&self) -> Method {
        match self.what {
            "barlow-twins" => Method::BarlowTwins,
            "byol" => Method::Byol,
            "dcl" => Method::Dcl,
            "hcl" => Method::Hcl,
            "nnclr" => Method::Nnclr,
            _ => Method::SimClr,
        }
    }

    pub(crate) fn config(&self, expected: &Fixture) -> anyhow::Result<Config> {
        let mut config = Config::default();
        config.encoder.width = 2;
        config.engine.precision = Precision::Exact;
        (config.contrastive_head.hidden, config.contrastive_head.output) = (vec![12], 10);
        (config.redundancy_head.hidden, config.redundancy_head.output) = (vec![14, 14], 12);
        config.predictor.hidden = vec![8];
        config.queue.size = 40;
        config.objective.method = self.method();
        config.objective.alpha = expected.number("alpha")?;
        config.objective.temperature = expected.number("tau")?;
        config.objective.tau_plus = expected.number("tau_plus")?;
        config.objective.redundancy_weight = if self.with_drr { 1.0 } else { 0.0 };
        config.objective.redundancy_lambda = expected.number("lambda")?;
        for (momentum, weight_decay) in [
            (&mut config.optimizer.momentum, &mut config.optimizer.weight_decay),
            (&mut config.mask.momentum, &mut config.mask.weight_decay),
        ] {
            *momentum = expected.number("momentum")?;
            *weight_decay = expected.number("weight_decay")?;
        }
        config.optimizer.nesterov = self.what == "nesterov";
        config.meta.virtual_step = self.virtual_step;
        config.meta.hypergradient = self.hypergradient;
        if self.what == "through-base" {
            config.mask.experimental.through = Through::Base;
        }
        Ok(config)
    }

    pub(crate) fn moment(expected: &Fixture) -> anyhow::Result<Moment> {
        Ok(Moment {
            learning_rate: expected.number("learning_rate")?,
            mask_learning_rate: expected.number("mask_rate")?,
            mask_moves: true,
            mask_moves_next: true,
            target_momentum: expected.number("target_momentum")?,
            beta: expected.number("beta")?,
        })
    }
}

/// A learner at the fixtures' start.
pub(crate) fn learner_at(
    start: &Fixture,
    config: &Config,
    dtype: DType,
) -> anyhow::Result<Learner> {
    let mut learner = Learner::new(config, dtype)?;
    let mut beginning = learner.to_checkpoint(State::default())?;
    for (name, x) in &mut beginning.model {
        // BYOL's target starts as the online network.
        let name = name.strip_prefix("target.").unwrap_or(name);
        *x = start.get(&format!("model.{name}"))?.to_dtype(x.dtype())?;
    }
    learner.restore(&beginning)?;
    Ok(learner)
}

/// Brings a learner to where another one is, in its own precision. `views` are those of the
/// iteration before, which a lookahead has still to judge.
pub(crate) fn start_from(
    learner: &mut Learner,
    other: &Learner,
    views: [Tensor; 2],
    moment: &Moment,
) -> anyhow::Result<()> {
    let dtype = views[0].dtype();
    let mut there = other.to_checkpoint(State::default())?;
    for tensors in [&mut there.model, &mut there.optim, &mut there.mask, &mut there.departure] {
        for x in tensors.values_mut() {
            if x.dtype().is_float() {
                *x = x.to_dtype(dtype)?;
            }
        }
    }
    learner.restore(&there)?;
    learner.restore_departure(&there, views, moment)?;
    Ok(())
}

/// The views of iteration `t`; after the last ones the first come again.
pub(crate) fn views(start: &Fixture, t: usize, dtype: DType) -> anyhow::Result<[Tensor; 2]> {
    let view = |letter: &str| -> anyhow::Result<Tensor> {
        let name = format!("view_{letter}.{}", t % ITERATIONS);
        Ok(start.get(&name)?.to_dtype(dtype)?)
    };
    Ok([view("a")?, view("b")?])
}
