//! The learning rate over a run.

use serde::{Deserialize, Serialize};

/// How the learning rate moves from epoch to epoch; no warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The base rate throughout, as the paper's appendix names it.
    Constant,
    /// Half a cosine from the base rate to 0, as the authors' code has it.
    Cosine,
}

impl Schedule {
    /// The rate in `epoch` (from 0) of `epochs`.
    ///
    /// ```text
    /// constant: l = base        cosine: l = base (1 + cos(π epoch / epochs)) / 2
    /// ```
    /// # Source
    /// `torch.optim.lr_scheduler.CosineAnnealingLR(T_max = epochs)`, stepped once an epoch.
    pub fn learning_rate(self, base: f64, epoch: usize, epochs: usize) -> f64 {
        match self {
            Self::Constant => base,
            Self::Cosine => {
                // libm: the same bits on every platform.
                let phase = std::f64::consts::PI * epoch as f64 / epochs as f64;
                base * (1.0 + libm::cos(phase)) / 2.0
            }
        }
    }
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
}
