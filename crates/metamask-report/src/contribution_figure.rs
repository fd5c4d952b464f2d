//! The paper's figure 1a: what every dimension adds to every class, and which dimensions
//! say the same, of some representations side by side.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    heat_map::HeatMap,
    svg::{escape, shortened},
};

/// What the picture shows.
#[derive(Clone, Copy, Debug)]
pub struct ContributionFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was looked at, in a line.
    pub subtitle: &'a str,
    /// The classes' names.
    pub classes: &'a [String],
    /// The representations, a row of the picture for each.
    pub representations: &'a [Contributions<'a>],
}

/// A representation.
#[derive(Clone, Copy, Debug)]
pub struct Contributions<'a> {
    /// Its name.
    pub name: &'a str,
    /// How far a class's mean lies from the mean of all, in standard deviations of the
    /// dimension, as a share of the farthest of all: `[classes, dim]` row by row, 0 to 1.
    pub shares: &'a [f64],
    /// |correlation| of the dimensions, `[dim, dim]` row by row.
    pub correlation: &'a [f64],
    /// Its mean off the diagonal.
    pub mean_correlation: f64,
}

const TOP: f64 = 124.0;
const SIDE: f64 = 220.0;
const ROW: f64 = 316.0;
const MAP: (f64, f64) = (152.0, 340.0);
const CORRELATION_LEFT: f64 = 556.0;

/// Draws both maps of each representation. Dimensions stand in the order of the class that
/// they tell most about, and in it by how much.
pub fn contribution_figure(figure: &ContributionFigure<'_>) -> Drawing {
    let n_classes = figure.classes.len();
    let mut body = String::new();
    for (i, found) in figure.representations.iter().enumerate() {
        let top = TOP + ROW * i as f64;
        let dim = found.shares.len() / n_classes.max(1);
        let share = |class: usize, k: usize| found.shares[class * dim + k];
        let best = |k: usize| {
            (0..n_classes).max_by(|&a, &b| share(a, k).total_cmp(&share(b, k))).unwrap_or(0)
        };
        let mut order: Vec<usize> = (0..dim).collect();
        order.sort_by(|&a, &b| {
            let places = best(a).cmp(&best(b));
            places.then(share(best(b), b).total_cmp(&share(best(a), a)))
        });
        let classes: Vec<usize> = (0..n_classes).collect();
        let map = HeatMap {
            values: found.shares,
            rows: &classes,
            columns: &order,
            left: MAP.0,
            top,
            width: MAP.1,
            height: SIDE,
        };
        let correlation = HeatMap {
            values: found.correlation,
            rows: &order,
            columns: &order,
            left: CORRELATION_LEFT,
            top,
            width: SIDE,
            height: SIDE,
        };
        body += &(map.svg() + &correlation.svg() + &correlation.scale("share, |correlation|"));
        let (left, width) = MAP;
        let _ = writeln!(
            body,
            r#"<text x="{left}" y="{}" class="panel">{}</text><text x="{CORRELATION_LEFT}" y="{}" class="panel">Redundancy <tspan dx="8">mean {:.3}</tspan></text>
<text x="{}" y="{}" class="middle">{dim} dimensions, by the class they tell most about</text><text x="{}" y="{}" class="middle">the same order</text>"#,
            top - 14.0,
            escape(&shortened(found.name, 44)),
            top - 14.0,
            found.mean_correlation,
            left + width / 2.0,
            top + SIDE + 22.0,
            CORRELATION_LEFT + SIDE / 2.0,
            top + SIDE + 22.0,
        );
        let height = SIDE / n_classes.max(1) as f64;
        if n_classes <= 20 {
            for (class, name) in figure.classes.iter().enumerate() {
                let _ = writeln!(
                    body,
                    r#"<text x="{}" y="{:.1}" class="end small">{}</text>"#,
                    left - 8.0,
                    top + (class as f64 + 0.5) * height + 4.0,
                    escape(&shortened(name, 20)),
                );
            }
        }
    }
    let heading = (figure.title, figure.subtitle);
    Drawing::new(
        "What dimensions add to classes",
        heading,
        TOP + ROW * figure.representations.len() as f64 - 40.0,
        body,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_stand_by_the_class_that_they_tell_most_about() {
        let classes = ["a<b>".to_owned(), "c".to_owned()];
        // Dimension 0 is about class c, dimension 1 about class a.
        let found = Contributions {
            name: "one",
            shares: &[0.0, 1.0, 1.0, 0.0],
            correlation: &[1.0, 0.0, 0.0, 1.0],
            mean_correlation: 0.0,
        };
        let figure = ContributionFigure {
            title: "t",
            subtitle: "",
            classes: &classes,
            representations: &[found],
        };
        let svg = contribution_figure(&figure).standalone();
        let dark = r#"class="level9" d="M152.00 124.00h170.00v110.00h-170.00zM322.00 234.00"#;
        assert!(svg.contains(dark), "{svg}");
        assert!(!svg.contains("a<b>") && !svg.contains("NaN"));
        let nothing = ContributionFigure { classes: &[], representations: &[], ..figure };
        assert!(!contribution_figure(&nothing).standalone().contains("NaN"));
    }
}
