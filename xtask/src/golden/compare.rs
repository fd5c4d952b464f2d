//! Fixtures by value: another machine's PyTorch sums in another order.

use std::path::Path;

use anyhow::Context;

use super::tensors::{self, Tensor};

// Relative to the tensor's largest element: sums of some thousand terms in
// another order move the last digits, a wrong formula moves the first.
const TOLERANCE_F64: f64 = 1e-8;
const TOLERANCE_F32: f64 = 1e-4;

/// How two files differ, or `None`. Safetensors by value, others byte by byte.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn files(committed: &Path, made: &Path) -> anyhow::Result<Option<String>> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))
    };
    let (committed_bytes, made_bytes) = (read(committed)?, read(made)?);
    if committed_bytes == made_bytes {
        return Ok(None);
    }
    if committed.extension().is_none_or(|kind| kind != "safetensors") {
        return Ok(Some("other bytes".into()));
    }
    safetensors(&committed_bytes, &made_bytes)
        .with_context(|| format!("failed to compare `{}`", committed.display()))
}

fn safetensors(committed: &[u8], made: &[u8]) -> anyhow::Result<Option<String>> {
    let (committed, made) = (tensors::read(committed)?, tensors::read(made)?);
    if !committed.keys().eq(made.keys()) {
        return Ok(Some("other tensors".into()));
    }
    for (name, old) in &committed {
        if let Some(how) = difference(old, &made[name]) {
            return Ok(Some(format!("`{name}`: {how}")));
        }
    }
    Ok(None)
}

fn difference(old: &Tensor, new: &Tensor) -> Option<String> {
    if (&old.dtype, &old.shape) != (&new.dtype, &new.shape) {
        let shown = |x: &Tensor| format!("{} {:?}", x.dtype, x.shape);
        return Some(format!("was {}, is {}", shown(old), shown(new)));
    }
    let tolerance = match old.dtype.as_str() {
        "F64" => TOLERANCE_F64,
        "F32" => TOLERANCE_F32,
        _ => 0.0,
    };
    let scale = old.values.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let apart = |(a, b): (&f64, &f64)| if a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() };
    let pairs = || old.values.iter().zip(&new.values);
    let within = pairs().all(|pair| apart(pair) <= tolerance * scale);
    let largest = pairs().map(apart).fold(0.0, f64::max);
    (!within).then(|| format!("differs by {largest:.1e}, largest element {scale:.1e}"))
}

#[cfg(test)]
mod tests {
    use super::safetensors;
    use crate::golden::tensors::tests::file_with;

    #[test]
    fn rounding_passes_and_another_value_does_not() {
        let check = |old: &[f32], new: &[f32], same: bool| {
            let verdict = safetensors(&file_with(old), &file_with(new)).unwrap();
            assert_eq!(verdict.is_none(), same, "{old:?} {new:?}: {verdict:?}");
        };
        check(&[100.0, 1e-3], &[100.0, 2e-3], true);
        check(&[100.0, 1e-3], &[100.1, 1e-3], false);
        check(&[0.0], &[1e-9], false);
        check(&[1.0], &[f32::NAN], false);
        check(&[1.0], &[1.0, 1.0], false);
    }
}
