//! The picture of a representation's dimensions: how its variance is spread, which
//! dimensions say the same, and whether the mask goes with what they are about.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    heat_map::HeatMap,
    svg::{Panel, ends_of, escape, ticks},
};

/// What the picture shows. Every number is finite.
#[derive(Clone, Copy, Debug)]
pub struct DimensionsFigure<'a> {
    /// The run's name.
    pub title: &'a str,
    /// What was trained and looked at, in a line.
    pub subtitle: &'a str,
    /// One or two spectra: without the mask, with it.
    pub spectra: &'a [Spectrum<'a>],
    /// |correlation|, `[dim, dim]` row by row.
    pub correlation: &'a [f64],
    /// Its mean off the diagonal, if any dimensions vary.
    pub mean_correlation: Option<f64>,
    /// What the dimensions are ordered by in the map and lie along in the scatters:
    /// its name, and a value for each.
    pub scale: (&'a str, &'a [f64]),
    /// What the dimensions are about, one to three of them.
    pub relevances: &'a [Relevance<'a>],
}

/// Eigenvalues of a covariance matrix.
#[derive(Clone, Copy, Debug)]
pub struct Spectrum<'a> {
    /// `without mask`, for example.
    pub name: &'a str,
    /// The largest first.
    pub eigenvalues: &'a [f64],
    /// Effective rank.
    pub effective_rank: f64,
    /// Its power law.
    pub fit: Option<Fit>,
}

/// A power law in the spectrum.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Its exponent.
    pub alpha: f64,
    /// First and last rank of the fit, from 1.
    pub ranks: [usize; 2],
    /// What it gives at these, in the eigenvalues' units.
    pub values: [f64; 2],
    /// Share of the logarithms' variance that it explains.
    pub r_squared: f64,
}

/// How much each dimension is about something.
#[derive(Clone, Copy, Debug)]
pub struct Relevance<'a> {
    /// What it is about.
    pub name: &'a str,
    /// Share of each dimension's variance, 0 to 1.
    pub shares: &'a [f64],
    /// The share that chance explains.
    pub by_chance: f64,
    /// Spearman's ρ with the scale, and its p-value, where they are defined.
    pub correlation: Option<(f64, f64)>,
    /// Whether it is the task; else it is a nuisance.
    pub is_task: bool,
}

const TOP_ROW: (f64, f64) = (112.0, 352.0);
const BOTTOM_ROW: (f64, f64) = (470.0, 650.0);
const HEIGHT: f64 = 712.0;

/// Draws the dimensions.
///
/// Above: the eigenvalues of the covariance as shares of the variance on logarithmic
/// axes, with the power law that was fitted; and the absolute correlation of every two
/// dimensions. Below: for each relevance a dot for each dimension, its share of variance
/// against the scale; the dashed line is what chance explains.
pub fn dimensions_figure(figure: &DimensionsFigure<'_>) -> Drawing {
    let mut svg = spectrum_panel(figure.spectra);
    svg += &correlation_panel(figure);
    let slots: &[(f64, f64)] = match figure.relevances.len() {
        1 => &[(72.0, 856.0)],
        2 => &[(72.0, 440.0), (510.0, 856.0)],
        _ => &[(72.0, 286.0), (357.0, 571.0), (642.0, 856.0)],
    };
    for (relevance, slot) in figure.relevances.iter().zip(slots) {
        svg += &relevance_panel(relevance, figure.scale, *slot);
    }
    let heading = (figure.title, figure.subtitle);
    Drawing::new("The dimensions", heading, HEIGHT, svg)
}

/// Smaller shares are not drawn: a ten-thousandth of a percent.
const SMALLEST_SHARE: f64 = 1e-6;

fn spectrum_panel(spectra: &[Spectrum<'_>]) -> String {
    let shares: Vec<Vec<f64>> = spectra
        .iter()
        .map(|spectrum| {
            let sum: f64 = spectrum.eigenvalues.iter().sum();
            let share = |value: &f64| if sum > 0.0 { value / sum } else { 0.0 };
            spectrum.eigenvalues.iter().map(share).filter(|&s| s >= SMALLEST_SHARE).collect()
        })
        .collect();
    let lowest = shares.iter().flatten().copied().fold(0.1, f64::min);
    let decades = lowest.log10().floor() as i32;
    let n = spectra.iter().map(|spectrum| spectrum.eigenvalues.len()).max().unwrap_or(0).max(2);
    let panel = Panel {
        left_right: (72.0, 440.0),
        top_bottom: TOP_ROW,
        x_range: (0.0, (n as f64).log10()),
        y_range: (f64::from(decades), 0.0),
    };
    let percent = |decade: i32| (f64::from(decade), percent_of(10f64.powi(decade)));
    let y_ticks: Vec<(f64, String)> = (decades..=0).map(percent).collect();
    let x_ticks: Vec<(f64, String)> = [1usize, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
        .into_iter()
        .filter(|&rank| rank <= n)
        .map(|rank| ((rank as f64).log10(), rank.to_string()))
        .collect();
    let (x_axis, y_axis) = ("rank of the direction", "share of the variance, %");
    let mut svg = panel.labelled_axes("Spectrum", (x_axis, &x_ticks), (y_axis, &y_ticks));

    for (i, (spectrum, shares)) in spectra.iter().zip(&shares).enumerate() {
        // The last one is what evaluation sees.
        let class = if i + 1 == spectra.len() { "above" } else { "below" };
        let points: Vec<String> = (1..)
            .zip(shares)
            .map(|(rank, share)| {
                let x = panel.x(f64::from(rank).log10());
                format!("{x:.2} {:.2}", panel.y(share.log10()))
            })
            .collect();
        if !points.is_empty() {
            let _ = writeln!(svg, r#"<path class="line {class}" d="M{}"/>"#, points.join("L"));
        }
        let sum: f64 = spectrum.eigenvalues.iter().sum();
        let mut law = String::new();
        if let Some(Fit { alpha, ranks, values, r_squared }) = spectrum.fit.filter(|_| sum > 0.0) {
            // A steep law leaves the panel before its last rank: cut it there.
            let ends = [0, 1].map(|i| ((ranks[i] as f64).log10(), (values[i] / sum).log10()));
            let floor = f64::from(decades);
            let place = |end: usize| {
                let [(x0, y0), (x1, y1)] = ends;
                let (mut x, mut y) = ends[end];
                if y < floor && y0 > floor {
                    (x, y) = (x0 + (x1 - x0) * (y0 - floor) / (y0 - y1), floor);
                }
                format!("{:.2} {:.2}", panel.x(x), panel.y(y.clamp(floor, 0.0)))
            };
            let _ =
                writeln!(svg, r#"<path class="line fit {class}" d="M{}L{}"/>"#, place(0), place(1));
            law = format!(", α {alpha:.2} (R² {r_squared:.3})");
        }
        // A key in the upper right corner, which a falling line leaves free.
        let y = panel.top_bottom.0 + 16.0 + 18.0 * i as f64;
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{y}" class="end key {class}">{}: effective rank {:.1}{law}</text>"#,
            panel.left_right.1,
            escape(spectrum.name),
            spectrum.effective_rank,
        );
    }
    svg
}

fn correlation_panel(figure: &DimensionsFigure<'_>) -> String {
    let (name, scale) = figure.scale;
    let mut order: Vec<usize> = (0..scale.len()).collect();
    order.sort_by(|&a, &b| scale[a].total_cmp(&scale[b]));
    let (top, bottom) = TOP_ROW;
    let side = bottom - top;
    let map = HeatMap {
        values: figure.correlation,
        rows: &order,
        columns: &order,
        left: 536.0,
        top,
        width: side,
        height: side,
    };
    let mean = figure
        .mean_correlation
        .map_or_else(String::new, |mean| format!(r#"<tspan dx="8">mean {mean:.3}</tspan>"#));
    let pooled = match map.pooled().0 {
        1 => String::new(),
        n => format!(" ({n} × {n} a cell)"),
    };
    let name = escape(name);
    let left = map.left;
    let (right, under, beside) = (left + side, bottom + 19.0, left - 8.0);
    let (middle_x, middle_y) = (left + side / 2.0, top + side / 2.0);
    map.svg()
        + &map.scale("|correlation|")
        + &format!(
            r#"<text x="{left}" y="{}" class="panel">Redundancy {mean}</text>
<text x="{beside}" y="{}" class="end">low</text><text x="{beside}" y="{bottom}" class="end">high</text>
<text x="{left}" y="{under}">low</text><text x="{right}" y="{under}" class="end">high</text>
<text x="{middle_x}" y="{}" class="middle">dimensions, by {name}{pooled}</text>
<text transform="translate({} {middle_y}) rotate(-90)" class="middle">dimensions, by {name}</text>
"#,
            top - 14.0,
            top + 10.0,
            bottom + 40.0,
            left - 46.0,
        )
}

fn relevance_panel(
    relevance: &Relevance<'_>,
    (name, scale): (&str, &[f64]),
    left_right: (f64, f64),
) -> String {
    let lowest = scale.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = scale.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let spread = highest - lowest;
    let x_range = match spread > 0.0 && spread.is_finite() {
        true => (lowest, highest),
        // A mask that has not moved, or no dimension.
        false => (scale.first().map_or(0.0, |m| m - 0.5), scale.first().map_or(1.0, |m| m + 0.5)),
    };
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let x_ticks = ticks(x_range, 4.0, &steps);
    let top = relevance.shares.iter().copied().fold(relevance.by_chance.max(1e-3), f64::max);
    let y_ticks = ticks((0.0, 100.0 * top), 4.0, &steps);
    let panel = Panel {
        left_right,
        top_bottom: BOTTOM_ROW,
        x_range: ends_of(&x_ticks),
        y_range: ends_of(&y_ticks),
    };
    let class = if relevance.is_task { "above" } else { "below" };
    let mut svg = panel.axes("", (&escape(name), &x_ticks), ("share of variance, %", &y_ticks));
    let (left, right) = left_right;
    let top = BOTTOM_ROW.0;
    let name = escape(relevance.name);
    let _ = writeln!(svg, r#"<text x="{left}" y="{}" class="panel">{name}</text>"#, top - 32.0);
    if let Some((rho, p)) = relevance.correlation {
        let p = if p < 0.001 { "p &lt; 0.001".to_owned() } else { format!("p {p:.3}") };
        let sign = if rho < 0.0 { '−' } else { '+' };
        let _ = writeln!(
            svg,
            r#"<text x="{left}" y="{}">rank correlation {sign}{:.2}, {p}</text>"#,
            top - 14.0,
            rho.abs(),
        );
    }
    let chance = panel.y(100.0 * relevance.by_chance);
    let _ = writeln!(svg, r#"<path class="start" d="M{left} {chance:.2}H{right}"/>"#);
    let chance_label =
        format!("<text x=\"{right}\" y=\"{:.2}\" class=\"end halo\">chance</text>\n", chance - 4.0);
    let _ = writeln!(svg, r#"<g class="dots {class}">"#);
    for (value, share) in scale.iter().zip(relevance.shares) {
        let (x, y) = (panel.x(*value), panel.y(100.0 * share));
        let _ = writeln!(svg, r#"<circle cx="{x:.2}" cy="{y:.2}" r="2.6"/>"#);
    }
    svg + "</g>\n" + &chance_label
}

/// A decade as a percentage: 100, 10, 1, 0.1, ….
fn percent_of(share: f64) -> String {
    let percent = 100.0 * share;
    match percent >= 1.0 {
        true => format!("{percent:.0}"),
        false => format!("{percent:.*}", (-percent.log10()).round() as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(dim: usize, relevances: &[Relevance<'_>], scale: &[f64]) -> String {
        let eigenvalues: Vec<f64> = (1..=dim).map(|j| 2.0 / j as f64).collect();
        let values = [2.0, 2.0 / dim as f64];
        let fit = Fit { alpha: 1.0, ranks: [1, dim], values, r_squared: 0.987 };
        let spectrum = |name| Spectrum {
            name,
            eigenvalues: &eigenvalues,
            effective_rank: 3.25,
            fit: Some(fit).filter(|_| dim > 0),
        };
        let correlation = vec![0.5; dim * dim];
        let svg = dimensions_figure(&DimensionsFigure {
            title: "a<b>",
            subtitle: "",
            spectra: &[spectrum("without mask"), spectrum("with mask")],
            correlation: &correlation,
            mean_correlation: Some(0.5),
            scale: ("mask value m", scale),
            relevances,
        });
        let svg = svg.standalone();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b>"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        svg
    }

    #[test]
    fn dots_lie_where_mask_and_share_say() {
        let class = Relevance {
            name: "class",
            shares: &[0.0, 0.2, 0.4],
            by_chance: 0.1,
            correlation: Some((1.0, 0.0004)),
            is_task: true,
        };
        let svg = draw(3, &[class], &[0.0, 0.5, 1.0]);
        // From 72 to 856 and, 0 to 40 %, from 650 up to 470.
        for (x, y) in [(72.0, 650.0), (464.0, 560.0), (856.0, 470.0)] {
            assert!(svg.contains(&format!(r#"cx="{x:.2}" cy="{y:.2}""#)), "{x} {y} in {svg}");
        }
        assert!(svg.contains(r#"class="start" d="M72 605.00H856"#), "chance: {svg}");
        assert!(
            svg.contains("rank correlation +1.00, p &lt; 0.001")
                && svg.contains("α 1.00 (R² 0.987)"),
            "{svg}"
        );
    }

    #[test]
    fn masks_that_stayed_and_nothing_at_all_can_be_drawn() {
        let nuisance = |shares| Relevance {
            name: "nuisance",
            shares,
            by_chance: 0.0,
            correlation: None,
            is_task: false,
        };
        draw(2, &[nuisance(&[0.0, 0.0])], &[0.5, 0.5]);
        draw(0, &[nuisance(&[])], &[]);
        draw(0, &[], &[]);
        let many: Vec<f64> = (0..512).map(|k| f64::from(k) / 511.0).collect();
        let svg = draw(512, &[nuisance(&many), nuisance(&many), nuisance(&many)], &many);
        assert_eq!(svg.matches("<circle").count(), 3 * 512);
        assert!(svg.contains("6 × 6 a cell"));
        assert!(svg.len() < 500_000, "{} bytes", svg.len());
    }

    #[test]
    fn decades_are_percentages() {
        let shown: Vec<String> = (-6..=0).rev().map(|d| percent_of(10f64.powi(d))).collect();
        assert_eq!(shown, ["100", "10", "1", "0.1", "0.01", "0.001", "0.0001"]);
    }
}
