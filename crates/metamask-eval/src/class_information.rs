//! What a single dimension tells about the class, in nats.

use candle_core::{DType, Result, Tensor, bail};

use crate::bins::equal_count_bins;
use crate::{check_labels, checked_features};

/// Mutual information of each dimension, binned, with the class.
///
/// ```text
/// I(b; y) = H(b) + H(y) − H(b, y) + (K_b + K_y − K_by − 1) / 2n        in nats
/// ```
/// b is the dimension's value in `n_bins` bins of about equally many features
/// ([`equal_count_bins`]); H are the entropies of the counts, and the last term takes
/// off what counting alone adds (K: occupied cells). So it can come out slightly below
/// 0, and it never exceeds ln min(K_b, K_y) by more than that term. Finer than η²: it
/// also sees classes that differ in spread, not in mean. Scaling a dimension changes
/// nothing.
///
/// # Shapes
/// `features`: `[n, dim]` with `n` labels. Returns `dim` values. Take n_bins · n_classes
/// well below n: [`information_bins`].
/// # Errors
/// If the labels do not fit, a feature is not finite, or there is no bin.
/// # Source
/// Miller 1955, "Note on the bias of information estimates".
pub fn class_information(
    features: &Tensor,
    labels: &[u32],
    n_classes: usize,
    n_bins: usize,
) -> Result<Vec<f64>> {
    let features = checked_features("class_information", features)?.to_dtype(DType::F64)?;
    check_labels("class_information", labels, features.dim(0)?, n_classes)?;
    if n_bins == 0 {
        bail!("class_information: there must be bins, expected at least 1, got 0");
    }
    let columns = features.t()?.to_vec2::<f64>()?; // [D, N]
    let information = |values: &Vec<f64>| {
        let bins = equal_count_bins(values, n_bins);
        let mut joint = vec![0u32; n_bins * n_classes];
        for (&bin, &label) in bins.iter().zip(labels) {
            joint[bin as usize * n_classes + label as usize] += 1;
        }
        let sum = |counts: Vec<u32>| counts.into_iter().sum::<u32>();
        let of_bin = |b: usize| sum(joint[b * n_classes..][..n_classes].to_vec());
        let of_class = |y: usize| sum((0..n_bins).map(|b| joint[b * n_classes + y]).collect());
        let bins: Vec<u32> = (0..n_bins).map(of_bin).collect();
        let classes: Vec<u32> = (0..n_classes).map(of_class).collect();
        entropy(&bins) + entropy(&classes) - entropy(&joint)
    };
    Ok(columns.iter().map(information).collect())
}

/// As many bins as leave some ten features to a cell, from 2 to 16.
pub fn information_bins(n: usize, n_classes: usize) -> usize {
    (n / (10 * n_classes.max(1))).clamp(2, 16)
}

/// Entropy of counts with Miller's correction, in nats.
fn entropy(counts: &[u32]) -> f64 {
    let n: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    let occupied = || counts.iter().filter(|&&count| count > 0);
    let plug_in: f64 =
        occupied().map(|&count| f64::from(count) / n).map(|share| -share * share.ln()).sum();
    plug_in + (occupied().count() as f64 - 1.0) / (2.0 * n)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    #[test]
    fn a_dimension_that_is_the_class_knows_all_of_it() -> Result<()> {
        const N: usize = 4000;
        let mut stream = Key::new(3, Purpose::Test).stream();
        let labels: Vec<u32> = (0..N as u32).map(|i| i % 4).collect();
        // The class; its parity, in spread alone; noise; a constant.
        let values: Vec<f64> = labels
            .iter()
            .flat_map(|&y| {
                let spread = f64::from(y % 2) * 100.0 + 1.0;
                let sign = if stream.below(2) == 0 { 1.0 } else { -1.0 };
                [f64::from(y), sign * spread, stream.normal(), 3.0]
            })
            .collect();
        let features = Tensor::from_vec(values, (N, 4), &Device::Cpu)?;
        let found = class_information(&features, &labels, 4, 8)?;
        let (four, two) = (4f64.ln(), 2f64.ln());
        // The corrections are at most 32 / 8000.
        assert!((found[0] - four).abs() < 0.004, "{found:?}");
        assert!((found[1] - two).abs() < 0.004, "{found:?}");
        // Without the correction chance would show 21 / 8000; its sd is √42 / 8000 = 0.0008.
        assert!(found[2].abs() < 0.0033, "{found:?}");
        assert!(found[3].abs() < 1e-12, "{found:?}");
        let eta = crate::variance_share(&features, &labels, 4)?;
        assert!(eta[1] < 0.01, "means alone show nothing of it: {eta:?}");
        Ok(())
    }
}
