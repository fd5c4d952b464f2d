//! Draws a mask that comes from anywhere, here from a formula.
//!
//! ```text
//! cargo run --release -p metamask-report --example mask_of_your_own > mask.svg
//! ```

use metamask_report::{MaskFigure, MaskRange, mask_figure};

fn main() {
    let sigmoid = |w: f64| 1.0 / (1.0 + (-w).exp());
    let values: Vec<f64> = (0..256).map(|i| sigmoid(f64::from(i) / 32.0 - 5.0)).collect();
    let ranges: Vec<MaskRange> = (1..=20)
        .map(|epoch| {
            let spread = epoch as f64 / 20.0;
            MaskRange { epoch, min: sigmoid(-5.0 * spread), max: sigmoid(3.0 * spread) }
        })
        .collect();
    let figure = MaskFigure {
        title: "A mask from a formula",
        subtitle: "m = σ(w), w from −5 to 3",
        values: &values,
        start: 0.5,
        ranges: &ranges,
    };
    print!("{}", mask_figure(&figure).standalone());
}
