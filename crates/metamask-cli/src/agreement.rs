//! `metamask selftest --device`: what a GPU computes beside what the CPU does.

use std::fmt::Write as _;

use candle_core::{DType, Device};
use metamask_train::{
    Code, Failure,
    agreement::{CASES, Disagreement, disagreements},
};

/// A column: what is computed with, and what may be different.
struct Column {
    precision: &'static str,
    dtype: DType,
    /// Whether only the first loss is looked at.
    first_loss: bool,
    bound: f64,
}

/// f64 sums the same numbers in another order. f32 rounds them, and the finite difference of the
/// authors' mask divides what is left by a small number.
const COLUMNS: [Column; 4] = [
    Column { precision: "f64", dtype: DType::F64, first_loss: false, bound: 1e-8 },
    Column { precision: "exact", dtype: DType::F32, first_loss: false, bound: 0.1 },
    Column { precision: "fast", dtype: DType::F32, first_loss: true, bound: 0.01 },
    Column { precision: "bf16", dtype: DType::F32, first_loss: true, bound: 0.15 },
];

/// The table, and the first cell that is out of its bound. `done` hears of each case.
pub(crate) fn table(
    device: &Device,
    done: &mut dyn FnMut(&str),
) -> anyhow::Result<(String, Option<Failure>)> {
    let mut text = format!("{:<34}", "difference from the CPU");
    for column in &COLUMNS {
        let _ = write!(text, "{:>9}", column.precision);
    }
    text.push('\n');
    let mut failure = None;
    for case in &CASES {
        let _ = write!(text, "{:<34}", case.name);
        for column in &COLUMNS {
            let precision = if column.dtype == DType::F64 { "exact" } else { column.precision };
            let (all, first_loss) = disagreements(case, device, column.dtype, precision)?;
            let found = match column.first_loss {
                true => Disagreement { relative: first_loss, at: "loss of step 1".to_owned() },
                false => all,
            };
            let _ = write!(text, "{:>9.0e}", found.relative);
            // A NaN is within no bound.
            let is_within = found.relative <= column.bound;
            if !is_within && failure.is_none() {
                let Disagreement { relative, at } = found;
                let message = format!(
                    "{}, {}: {at} differs from the CPU's by {relative:.1e} of its largest number, \
                     expected at most {:.0e}",
                    case.name, column.precision, column.bound
                );
                failure = Some(Failure::new(Code::Promise, message));
            }
        }
        text.push('\n');
        done(case.name);
    }
    let _ = write!(text, "{:<34}", "at most");
    for column in &COLUMNS {
        let _ = write!(text, "{:>9.0e}", column.bound);
    }
    text += "\n\ncompared  f64, exact: all that two iterations leave; fast, bf16: the first loss\n";
    Ok((text, failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_within_every_bound_of_itself() -> anyhow::Result<()> {
        let mut told = Vec::new();
        let (text, failure) = table(&Device::Cpu, &mut |case| told.push(case.to_owned()))?;
        assert!(failure.is_none(), "{text}");
        assert_eq!(told.len(), CASES.len());
        let row =
            text.lines().find(|line| line.starts_with("Barlow Twins by LARS")).expect("a row");
        assert_eq!(
            row.split_whitespace().nth(4),
            Some("0e0"),
            "f64 on the CPU is the reference: {row}"
        );
        Ok(())
    }
}
