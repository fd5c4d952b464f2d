//! What was evaluated, in full: a number without its protocol says nothing.

use std::fmt;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Knn, LinearProbe, accuracy_percent, knn_predict};

/// A way to turn frozen features into an accuracy.
///
/// Displays as the full line that belongs beside every number:
///
/// ```
/// use metamask_eval::{Knn, Protocol};
/// assert_eq!(
///     Protocol::Knn(Knn::default()).to_string(),
///     "kNN: k = 20, T = 0.1, votes weighted exp(cos / T), features L2-normalised"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Weighted k nearest neighbours.
    Knn(Knn),
    /// Multinomial logistic regression.
    LinearProbe(LinearProbe),
}

impl Protocol {
    /// Accuracy on the test features, in percent, of a classifier made from the
    /// training features.
    ///
    /// # Errors
    /// If shapes, labels or settings do not fit, or a feature is not finite.
    pub fn accuracy_percent(
        &self,
        train: (&Tensor, &[u32]),
        test: (&Tensor, &[u32]),
        n_classes: usize,
    ) -> Result<f64> {
        let predictions = match self {
            Self::Knn(knn) => knn_predict(train.0, train.1, test.0, *knn, n_classes)?,
            Self::LinearProbe(probe) => probe.fit(train.0, train.1, n_classes)?.predict(test.0)?,
        };
        accuracy_percent(&predictions, test.1)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Knn(Knn { k, temperature }) => write!(
                f,
                "kNN: k = {k}, T = {temperature}, votes weighted exp(cos / T), features L2-normalised"
            ),
            Self::LinearProbe(LinearProbe { penalty, max_iterations, gradient_tolerance }) => {
                write!(
                    f,
                    "linear probe: multinomial logistic regression, features standardised, \
                     penalty {penalty}/2 ‖W‖², L-BFGS to gradient {gradient_tolerance:e} \
                     or {max_iterations} iterations"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn every_setting_is_in_the_protocol_line() {
        let probe = LinearProbe { penalty: 0.25, max_iterations: 77, gradient_tolerance: 3e-5 };
        let line = Protocol::LinearProbe(probe).to_string();
        for word in ["standardised", "0.25/2 ‖W‖²", "L-BFGS", "77 iterations", "3e-5"] {
            assert!(line.contains(word), "`{line}` lacks `{word}`");
        }
    }

    #[test]
    fn both_protocols_separate_two_clusters() -> Result<()> {
        let train =
            Tensor::new(&[[1f32, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]], &Device::Cpu)?;
        let test = Tensor::new(&[[0f32, 2.0], [3.0, 0.0]], &Device::Cpu)?;
        for protocol in [
            Protocol::Knn(Knn { k: 2, temperature: 0.1 }),
            Protocol::LinearProbe(LinearProbe::default()),
        ] {
            let accuracy =
                protocol.accuracy_percent((&train, &[0, 0, 1, 1]), (&test, &[1, 0]), 2)?;
            assert_eq!(accuracy, 100.0, "{protocol}");
        }
        Ok(())
    }
}
