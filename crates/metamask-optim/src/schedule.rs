//! The learning rate over a run, as a pure function of how far the run is.

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::state::check_setting;

/// How the learning rate moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The base rate throughout, as the paper's appendix names it.
    Constant,
    /// Half a cosine from the base rate to the minimum, as the authors' code has it.
    Cosine,
    /// A straight rise to the base rate, then half a cosine to the minimum.
    WarmupCosine,
    /// The base rate, multiplied by a factor at each milestone.
    Step,
}

/// When the rate is moved: at the start of what, and so in which unit time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stepping {
    /// Once an epoch, as the authors' code does.
    Epoch,
    /// Every step.
    Step,
}

/// A schedule with its settings; each schedule reads its own and leaves the others.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleConfig {
    /// How the rate moves.
    pub schedule: Schedule,
    /// When it is moved.
    pub stepping: Stepping,
    /// Epochs of the warm-up, fewer than the run has; default 10.
    pub warmup_epochs: usize,
    /// The warm-up's first rate as a share of the base rate, 0 to 1; default 0.
    pub warmup_start: f64,
    /// The cosines' last rate, from 0 to the base rate; default 0.
    pub minimum_rate: f64,
    /// The epochs, from 0 and rising, at whose start a step schedule falls; default none.
    pub milestones: Vec<usize>,
    /// What a step schedule multiplies by there, above 0 and at most 1; default 0.1.
    pub factor: f64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps taken so far.
    pub step: usize,
    /// Steps in an epoch, at least 1.
    pub steps_per_epoch: usize,
    /// Epochs in the whole run, at least 1.
    pub epochs: usize,
}

impl Schedule {
    /// The rate in `epoch` (from 0) of `epochs`, moved once an epoch, with the
    /// default settings of [`ScheduleConfig::new`].
    pub fn learning_rate(self, base: f64, epoch: usize, epochs: usize) -> f64 {
        let config = ScheduleConfig { stepping: Stepping::Epoch, ..ScheduleConfig::new(self) };
        config.learning_rate(base, Progress { step: epoch, steps_per_epoch: 1, epochs })
    }
}

impl ScheduleConfig {
    /// The defaults of a schedule: a warm-up moves every step, the others once an epoch.
    pub fn new(schedule: Schedule) -> Self {
        let stepping = match schedule {
            Schedule::WarmupCosine => Stepping::Step,
            Schedule::Constant | Schedule::Cosine | Schedule::Step => Stepping::Epoch,
        };
        Self {
            schedule,
            stepping,
            warmup_epochs: 10,
            warmup_start: 0.0,
            minimum_rate: 0.0,
            milestones: Vec::new(),
            factor: 0.1,
        }
    }

    /// The rate of the step that comes next.
    ///
    /// ```text
    /// constant       l = base
    /// cosine         l = min + (base − min) (1 + cos(π t / T)) / 2
    /// warm-up        l = base (s + (1 − s) t / W)                            t < W
    ///  + cosine      l = min + (base − min) (1 + cos(π (t − W) / (T − W))) / 2   t ≥ W
    /// step           l = base · factor^(milestones that are ≤ t)
    /// ```
    /// t counts epochs or steps, as [`Stepping`] says; T and W are the length of
    /// the run and of the warm-up in the same unit, s is `warmup_start`.
    ///
    /// # Source
    /// `torch.optim.lr_scheduler`, stepped as often: `CosineAnnealingLR(T_max = T,
    /// eta_min)`; `SequentialLR` of `LinearLR(start_factor, total_iters = W)` and
    /// `CosineAnnealingLR(T_max = T − W, eta_min)`; `MultiStepLR(milestones, gamma)`.
    pub fn learning_rate(&self, base: f64, at: Progress) -> f64 {
        let per_epoch = match self.stepping {
            Stepping::Epoch => 1,
            Stepping::Step => at.steps_per_epoch,
        };
        let t = match self.stepping {
            Stepping::Epoch => at.step / at.steps_per_epoch,
            Stepping::Step => at.step,
        };
        let n = at.epochs * per_epoch;
        match self.schedule {
            Schedule::Constant => base,
            Schedule::Cosine => self.cosine(base, t, n),
            Schedule::WarmupCosine => {
                let warmup = self.warmup_epochs * per_epoch;
                if t < warmup {
                    let risen = t as f64 / warmup as f64;
                    base * (self.warmup_start + (1.0 - self.warmup_start) * risen)
                } else {
                    self.cosine(base, t - warmup, n.saturating_sub(warmup))
                }
            }
            Schedule::Step => {
                let passed = self.milestones.iter().filter(|&&epoch| epoch * per_epoch <= t);
                passed.fold(base, |rate, _| rate * self.factor)
            }
        }
    }

    /// Refuses settings that the schedule reads and that are out of their range.
    ///
    /// # Errors
    /// If there is one.
    pub fn check(&self, base: f64, epochs: usize) -> Result<()> {
        let check =
            |name, value, range: &str, holds| check_setting("schedule", name, value, range, holds);
        let minimum = self.minimum_rate;
        if matches!(self.schedule, Schedule::Cosine | Schedule::WarmupCosine) {
            let range = format!("from 0 to the base rate {base}");
            check("minimum_rate", minimum, &range, (0.0..=base).contains(&minimum))?;
        }
        if self.schedule == Schedule::WarmupCosine {
            let start = self.warmup_start;
            check("warmup_start", start, "from 0 to 1", (0.0..=1.0).contains(&start))?;
            if self.warmup_epochs >= epochs {
                let got = self.warmup_epochs;
                bail!("schedule: warmup_epochs must be below the run's {epochs}, got {got}");
            }
        }
        if self.schedule == Schedule::Step {
            let factor = self.factor;
            check("factor", factor, "above 0 and at most 1", factor > 0.0 && factor <= 1.0)?;
            let rising = self.milestones.is_sorted_by(|a, b| a < b);
            if !rising || self.milestones.last().is_some_and(|&last| last >= epochs) {
                let got = &self.milestones;
                bail!(
                    "schedule: milestones must rise and be below the run's {epochs} epochs, got {got:?}"
                );
            }
        }
        Ok(())
    }

    fn cosine(&self, base: f64, t: usize, n: usize) -> f64 {
        // libm: the same bits on every platform.
        let phase = std::f64::consts::PI * t as f64 / n as f64;
        self.minimum_rate + (base - self.minimum_rate) * (1.0 + libm::cos(phase)) / 2.0
    }
}

/// The learning rate for a batch size by the linear rule: `base · batch / 256`.
///
/// To be asked for: no optimiser and no schedule applies it.
///
/// # Source
/// Goyal et al. 2017, arXiv:1706.02677; SimCLR (Chen et al. 2020) has 256 as its unit.
pub fn linear_scaling(base: f64, batch: usize) -> f64 {
    base * batch as f64 / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_starts_at_the_base_rate_halves_midway_and_nears_zero() {
        let rate = |epoch| Schedule::Cosine.learning_rate(0.4, epoch, 100);
        assert_eq!(rate(0), 0.4);
        assert!((rate(50) - 0.2).abs() < 1e-16);
        // 1 − cos x = 2 sin²(x/2), at the last epoch: x = π / 100.
        let last = 0.4 * (std::f64::consts::PI / 200.0).sin().powi(2);
        assert!((rate(99) - last).abs() < 1e-15);
        assert!((1..100).all(|epoch| rate(epoch) < rate(epoch - 1)));
    }

    #[test]
    fn constant_stays() {
        assert!((0..3).all(|epoch| Schedule::Constant.learning_rate(0.4, epoch, 3) == 0.4));
    }

    #[test]
    fn once_an_epoch_is_a_staircase_that_every_step_descends_smoothly() {
        let at = |stepping, step| {
            let config = ScheduleConfig { stepping, ..ScheduleConfig::new(Schedule::Cosine) };
            config.learning_rate(0.4, Progress { step, steps_per_epoch: 7, epochs: 5 })
        };
        for step in 0..35 {
            let stair = Schedule::Cosine.learning_rate(0.4, step / 7, 5);
            assert_eq!(at(Stepping::Epoch, step).to_bits(), stair.to_bits());
            if step % 7 == 0 {
                assert!((at(Stepping::Step, step) - stair).abs() < 1e-16);
            } else {
                assert!(at(Stepping::Step, step) < at(Stepping::Step, step - 1));
            }
        }
    }

    #[test]
    fn linear_scaling_has_its_unit_at_256() {
        assert_eq!(linear_scaling(0.3, 256), 0.3);
        assert_eq!(linear_scaling(0.3, 1024), 1.2);
        assert_eq!(linear_scaling(0.3, 64), 0.075);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let check = |schedule, change: &dyn Fn(&mut ScheduleConfig), expected: &str| {
            let mut config = ScheduleConfig::new(schedule);
            change(&mut config);
            let error = config.check(0.1, 20).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(Schedule::Cosine, &|c| c.minimum_rate = 0.2, "minimum_rate must be from 0 to");
        check(Schedule::WarmupCosine, &|c| c.warmup_epochs = 20, "below the run's 20, got 20");
        check(Schedule::WarmupCosine, &|c| c.warmup_start = f64::NAN, "warmup_start");
        check(Schedule::Step, &|c| c.factor = 0.0, "factor must be above 0");
        check(Schedule::Step, &|c| c.milestones = vec![5, 5], "must rise");
        check(Schedule::Step, &|c| c.milestones = vec![5, 20], "below the run's 20 epochs");
        for schedule in
            [Schedule::Constant, Schedule::Cosine, Schedule::WarmupCosine, Schedule::Step]
        {
            assert!(ScheduleConfig::new(schedule).check(0.1, 20).is_ok());
        }
    }
}
