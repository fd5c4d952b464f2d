//! How far the mask reached in each epoch, from a run's `metrics.jsonl`.

use serde::Deserialize;

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

/// The ranges that the text of a `metrics.jsonl` holds, in its order.
///
/// Lines of other kinds, of runs without a mask, and a last line that is still
/// being written are passed over.
pub fn mask_ranges(metrics: &str) -> Vec<MaskRange> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        epoch: u64,
        mask_min: f64,
        mask_max: f64,
    }
    metrics
        .lines()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .filter(|line| line.kind == "epoch")
        .map(|line| MaskRange { epoch: line.epoch, min: line.mask_min, max: line.mask_max })
        .collect()
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
        assert_eq!(mask_ranges(metrics), [range(1, 0.25, 0.75), range(3, 0.125, 0.875)]);
    }
}
