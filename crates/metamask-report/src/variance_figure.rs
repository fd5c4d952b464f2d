//! The paper's figure 5: how far a dimension varies within a class, with the mask and without.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    svg::{Panel, ends_of, escape, ticks},
};

/// What the picture shows. Every number is finite and not below 0.
#[derive(Clone, Copy, Debug)]
pub struct VarianceFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was trained and looked at, in a line.
    pub subtitle: &'a str,
    /// One or two columns with their names: a value for each dimension, without the mask, with it.
    pub columns: &'a [(&'a str, &'a [f64])],
}

const LEFT_RIGHT: (f64, f64) = (72.0, 860.0);
const TOP_BOTTOM: (f64, f64) = (124.0, 372.0);

/// Draws √Φ(|u|ᵏ|y) of every dimension, in the order of the first column, and its sum.
pub fn variance_figure(figure: &VarianceFigure<'_>) -> Drawing {
    let n = figure.columns.first().map_or(0, |(_, values)| values.len());
    let mut order: Vec<usize> = (0..n).collect();
    if let Some((_, values)) = figure.columns.first() {
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    }
    let highest = figure.columns.iter().flat_map(|(_, values)| *values).copied();
    let y_ticks = ticks((0.0, highest.fold(1e-3, f64::max)), 4.0, &[1.0, 2.0, 2.5, 5.0, 10.0]);
    let x_ticks: Vec<f64> = ticks((0.0, n.max(1) as f64), 6.0, &[1.0, 2.0, 5.0, 10.0]);
    let x_ticks: Vec<f64> = x_ticks.into_iter().filter(|&tick| tick <= n as f64).collect();
    let panel = Panel {
        left_right: LEFT_RIGHT,
        top_bottom: TOP_BOTTOM,
        x_range: (0.0, n.max(1) as f64),
        y_range: ends_of(&y_ticks),
    };
    let by = figure.columns.first().map_or("", |(name, _)| *name);
    let x_name = format!("dimensions of the embedding, by their value {}", escape(by));
    let mut body = panel.axes("", (&x_name, &x_ticks), ("√Φ(|u|ᵏ | y)", &y_ticks));
    for (i, (name, values)) in figure.columns.iter().enumerate() {
        let class = if i == 0 { "below" } else { "above" };
        let mut dots = String::new();
        for (place, &k) in order.iter().enumerate() {
            let (x, y) = (panel.x(place as f64 + 0.5), panel.y(values[k]));
            let _ = write!(dots, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.4"/>"#);
        }
        let x = LEFT_RIGHT.0 + 320.0 * i as f64;
        let _ = writeln!(
            body,
            r#"<g class="dots {class}">{dots}</g><text x="{x}" y="{}" class="{class}">{}: sum {:.3}</text>"#,
            TOP_BOTTOM.0 - 16.0,
            escape(name),
            values.iter().sum::<f64>(),
        );
    }
    let heading = (figure.title, figure.subtitle);
    Drawing::new("Variance within classes", heading, TOP_BOTTOM.1 + 60.0, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_stand_in_the_order_of_the_first_column() {
        let columns: [(&str, &[f64]); 2] = [("without", &[0.1, 0.4]), ("with", &[0.2, 0.3])];
        let svg = variance_figure(&VarianceFigure { title: "", subtitle: "", columns: &columns });
        let svg = svg.standalone();
        // 0 to 0.4 on 372 up to 124; two places, at 269 and 663.
        for (x, y) in
            [("269.0", "124.0"), ("663.0", "310.0"), ("269.0", "186.0"), ("663.0", "248.0")]
        {
            assert!(svg.contains(&format!(r#"cx="{x}" cy="{y}""#)), "{x} {y} in {svg}");
        }
        assert!(svg.contains("without: sum 0.500") && svg.contains("with: sum 0.500"), "{svg}");
        let nothing = variance_figure(&VarianceFigure { title: "", subtitle: "", columns: &[] });
        assert!(!nothing.standalone().contains("NaN"));
    }
}
