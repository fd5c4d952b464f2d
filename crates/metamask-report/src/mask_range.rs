//! How far the mask reached in each epoch, from a run's `metrics.jsonl`.

use crate::log::Log;

/// The mask's lowest and highest value at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskRange {
    /// Epochs done.
    pub epoch: u64,
    /// Lowest value.
    pub min: f64,
    /// Highest value.
    pub max: f64,
}

/// The ranges that a `metrics.jsonl` holds, in its order; none of a run without a mask.
pub fn mask_ranges(metrics: &Log) -> Vec<MaskRange> {
    let lows = metrics.series("epoch", "epoch", "mask_min");
    let highs = metrics.series("epoch", "epoch", "mask_max");
    let range = |((epoch, min), (_, max)): ((f64, f64), (f64, f64))| MaskRange {
        epoch: epoch as u64,
        min,
        max,
    };
    lows.into_iter().zip(highs).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_epoch_lines_with_a_mask_count() {
        let metrics = r#"{"kind":"step","step":10,"epoch":1,"loss":5.1}
{"kind":"epoch","step":46,"epoch":1,"mask_min":0.25,"loss":4.9,"mask_max":0.75}
{"kind":"epoch","step":92,"epoch":2,"loss":4.8}
{"kind":"epoch","step":138,"epoch":3,"mask_min":0.125,"mask_max":0.875}
{"kind":"epoch","step":184,"epoch":4,"mask_mi"#;
        let range = |epoch, min, max| MaskRange { epoch, min, max };
        assert_eq!(mask_ranges(&Log::of(metrics)), [range(1, 0.25, 0.75), range(3, 0.125, 0.875)]);
    }
}
