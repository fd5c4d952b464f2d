//! `metamask selftest --device`: what a GPU computes beside what the CPU does.

use std::fmt::Write as _;

use candle_core::{DType, Device};
use metamask_train::{
    Code, Failure,
    agreement::{CASES, Disagreement, disagreements},
};

/// A column: what is computed with, and what may be different.
struct Column {
    title: &'static str,
    dtype: DType,
    precision: &'static str,
    compared: Compared,
    bound: f64,
}

enum Compared {
    /// All that two iterations leave.
    All,
    /// The loss of the first.
    FirstLoss,
}

/// f64 sums the same numbers in another order. f32 rounds them, and the finite difference of the
/// authors' mask divides what is left by a small number.
const COLUMNS: [Column; 4] = [
    column("f64", DType::F64, "exact", Compared::All, 1e-8),
    column("exact", DType::F32, "exact", Compared::All, 0.1),
    column("fast", DType::F32, "fast", Compared::FirstLoss, 0.01),
    column("bf16", DType::F32, "bf16", Compared::FirstLoss, 0.15),
];

const fn column(
    title: &'static str,
    dtype: DType,
    precision: &'static str,
    compared: Compared,
    bound: f64,
) -> Column {
    Column { title, dtype, precision, compared, bound }
}

/// The table, and the first cell that is out of its bound. `done` hears of each case.
pub(crate) fn table(
    device: &Device,
    done: &mut dyn FnMut(&str),
) -> anyhow::Result<(String, Option<Failure>)> {
    let mut text = format!("{:<34}", "difference from the CPU");
    for column in &COLUMNS {
        let _ = write!(text, "{:>9}", column.title);
    }
    text.push('\n');
    let mut failure = None;
    for case in &CASES {
        let _ = write!(text, "{:<34}", case.name);
        let reference = case.reference()?;
        for column in &COLUMNS {
            let (all, first_loss) =
                disagreements(&reference, device, column.dtype, column.precision)?;
            let found = match column.compared {
                Compared::All => all,
                Compared::FirstLoss => {
                    Disagreement { relative: first_loss, at: "loss of step 1".to_owned() }
                }
            };
            let _ = write!(text, "{:>9.1e}", found.relative);
            // A NaN is within no bound.
            let is_within = found.relative <= column.bound;
            if !is_within && failure.is_none() {
                let Disagreement { relative, at } = found;
                let message = format!(
                    "{}, {}: {at} differs from the CPU's by {relative:.1e} of its largest number, \
                     expected at most {:.1e}",
                    case.name, column.title, column.bound
                );
                failure = Some(Failure::new(Code::Promise, message));
            }
        }
        text.push('\n');
        done(case.name);
    }
    let _ = write!(text, "{:<34}", "at most");
    for column in &COLUMNS {
        let _ = write!(text, "{:>9.1e}", column.bound);
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
            Some("0.0e0"),
            "f64 on the CPU is the reference: {row}"
        );
        Ok(())
    }
}
