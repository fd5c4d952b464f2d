//! What of an iteration is a function of its number alone: rates, momenta,
//! whether the mask moves. Nothing of it is stored, so a resumed run cannot get
//! it wrong.

use metamask_objectives::{annealed_beta, ema_momentum};
use metamask_optim::{Progress, ScheduleConfig, Stepping, linear_scaling};

use crate::config::{Annealing, BatchScaling, Config, MaskMode, Optimizer};

/// Where an iteration stands in its run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// l, of the network.
    pub learning_rate: f64,
    /// Of the mask.
    pub mask_learning_rate: f64,
    /// Whether the mask moves in this iteration.
    pub mask_moves: bool,
    /// Whether it moves in the next one: what that needs of this one is then kept.
    pub mask_moves_next: bool,
    /// τ, the share of BYOL's target that stays.
    pub target_momentum: f64,
    /// HCL's β.
    pub beta: f64,
}

impl Moment {
    /// Of the iteration after `step` others, in a run of `steps_per_epoch` iterations an epoch.
    pub fn of(config: &Config, step: u64, steps_per_epoch: u64) -> Self {
        let epochs = config.training.epochs;
        let at = Progress {
            step: step as usize,
            steps_per_epoch: steps_per_epoch.max(1) as usize,
            epochs,
        };
        let steps = steps_per_epoch * epochs as u64;
        let epoch = step / steps_per_epoch.max(1);
        let (o, m, objective) = (&config.optimizer, &config.mask, &config.objective);
        let base = match o.batch_scaling {
            BatchScaling::None => o.learning_rate,
            BatchScaling::Linear => linear_scaling(o.learning_rate, config.training.batch_size),
        };
        let mask_schedule =
            ScheduleConfig { stepping: Stepping::Epoch, ..ScheduleConfig::new(m.schedule) };
        Self {
            learning_rate: network_schedule(o).learning_rate(base, at),
            mask_learning_rate: mask_schedule.learning_rate(m.learning_rate, at),
            mask_moves: mask_moves(config, step, steps_per_epoch),
            mask_moves_next: mask_moves(config, step + 1, steps_per_epoch),
            target_momentum: ema_momentum(config.target.momentum, step, steps),
            beta: match objective.beta_annealing {
                Annealing::Constant => objective.beta,
                Annealing::Down => annealed_beta(objective.beta, epoch as f64 / epochs as f64),
            },
        }
    }
}

/// Whether the mask moves in the iteration after `step` others: in every k-th one.
fn mask_moves(config: &Config, step: u64, steps_per_epoch: u64) -> bool {
    let start = config.mask.experimental.start_epoch as u64 * steps_per_epoch;
    config.mask.mode == MaskMode::On
        && step >= start
        && (step + 1).is_multiple_of(config.meta.every as u64)
}

/// The course of the network's learning rate.
pub(crate) fn network_schedule(optimizer: &Optimizer) -> ScheduleConfig {
    ScheduleConfig {
        schedule: optimizer.schedule,
        stepping: optimizer.schedule_every,
        warmup_epochs: optimizer.warmup_epochs,
        warmup_start: 0.0,
        minimum_rate: optimizer.minimum_rate,
        milestones: optimizer.milestones.clone(),
        factor: optimizer.schedule_factor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(overrides: &[&str]) -> Config {
        let overrides: Vec<String> = overrides.iter().map(|&set| set.to_owned()).collect();
        Config::read("", "test", &overrides).expect("valid")
    }

    /// The steps of the first twelve in which the mask moves, counted from 1.
    fn moves(overrides: &[&str]) -> Vec<u64> {
        let config = config(overrides);
        (0..12)
            .filter(|&step| Moment::of(&config, step, 3).mask_moves)
            .map(|step| step + 1)
            .collect()
    }

    #[test]
    fn the_mask_moves_in_every_kth_step_from_its_start_on() {
        assert_eq!(moves(&["meta.every=4"]), [4, 8, 12]);
        assert_eq!(moves(&["meta.every=2", "mask.experimental.start_epoch=2"]), [8, 10, 12]);
        assert_eq!(moves(&["mask.mode=off"]), [0; 0]);
        assert_eq!(moves(&[]).len(), 12);
    }

    #[test]
    fn what_comes_next_is_known_one_step_before() {
        let config = config(&["meta.every=3"]);
        for step in 0..20 {
            let (now, next) = (Moment::of(&config, step, 5), Moment::of(&config, step + 1, 5));
            assert_eq!(now.mask_moves_next, next.mask_moves);
        }
    }

    #[test]
    fn the_authors_rate_is_a_cosine_that_moves_once_an_epoch() {
        let config = config(&["training.epochs=4", "optimizer.learning_rate=0.4"]);
        let rate = |step| Moment::of(&config, step, 10).learning_rate;
        assert_eq!((rate(0), rate(9)), (0.4, 0.4));
        assert!((rate(20) - 0.2).abs() < 1e-15, "half way: half the rate");
        assert_eq!(rate(10), rate(19));
    }

    #[test]
    fn linear_scaling_has_to_be_asked_for() {
        let rate = |scaling: &str| {
            let set = ["training.batch_size=512", "optimizer.learning_rate=0.3", scaling];
            Moment::of(&config(&set), 0, 10).learning_rate
        };
        assert_eq!(rate("optimizer.batch_scaling=none"), 0.3);
        assert_eq!(rate("optimizer.batch_scaling=linear"), 0.6);
    }
}
