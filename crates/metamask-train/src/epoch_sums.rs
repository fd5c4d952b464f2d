//! Means over the steps of an epoch, as sums that a checkpoint in its middle keeps.

use serde::{Deserialize, Serialize};

use crate::observer::StepReport;

/// Sums over the steps of an epoch that have been taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochSums {
    /// Steps taken.
    pub steps: u64,
    loss: f64,
    base_loss: f64,
    redundancy_loss: Option<f64>,
    gradient_norm: f64,
    /// Sum and number of the steps that have one.
    second_order_ratio: Option<(f64, u64)>,
}

impl EpochSums {
    /// Takes a step in.
    pub fn add(&mut self, report: &StepReport) {
        self.steps += 1;
        self.loss += report.loss;
        self.base_loss += report.base_loss;
        self.gradient_norm += report.gradient_norm;
        self.redundancy_loss =
            report.redundancy_loss.map(|loss| loss + self.redundancy_loss.unwrap_or(0.0));
        if let Some(ratio) = report.second_order_ratio {
            let (sum, n) = self.second_order_ratio.unwrap_or_default();
            self.second_order_ratio = Some((sum + ratio, n + 1));
        }
    }

    /// Mean L.
    pub fn loss(&self) -> f64 {
        self.loss / self.steps as f64
    }

    /// Mean B.
    pub fn base_loss(&self) -> f64 {
        self.base_loss / self.steps as f64
    }

    /// Mean L_drr.
    pub fn redundancy_loss(&self) -> Option<f64> {
        self.redundancy_loss.map(|sum| sum / self.steps as f64)
    }

    /// Mean ‖∇L‖.
    pub fn gradient_norm(&self) -> f64 {
        self.gradient_norm / self.steps as f64
    }

    /// Mean over the steps that have one.
    pub fn second_order_ratio(&self) -> Option<f64> {
        self.second_order_ratio.map(|(sum, n)| sum / n as f64)
    }
}
