//! Numbers over training: a panel for each, a line for each run.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    palette::KINDS,
    svg::{Panel, ends_of, escape, shortened, ticks},
};

/// What the picture shows.
#[derive(Clone, Debug)]
pub struct CurvesFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was trained, in a line.
    pub subtitle: &'a str,
    /// The name of what runs along every panel.
    pub x_name: &'a str,
    /// The runs' names, in the order of the curves of each panel.
    pub runs: &'a [&'a str],
    /// The panels, from the left and from the top.
    pub panels: &'a [CurvePanel],
}

/// A number over training.
#[derive(Clone, Debug)]
pub struct CurvePanel {
    /// What it is, with its unit.
    pub title: String,
    /// The points of each run, as many as there are runs; one without is empty.
    pub curves: Vec<Vec<(f64, f64)>>,
    /// A value to compare with, and its name.
    pub level: Option<(String, f64)>,
}

const TOP: f64 = 108.0;
/// A panel with all that belongs to it.
const ROW: f64 = 216.0;
const PLOT: f64 = 136.0;
const LEFTS: [(f64, f64); 2] = [(72.0, 420.0), (512.0, 860.0)];
/// Points of a curve at most: more lie on the same pixels.
const MOST_POINTS: usize = 400;

/// Draws numbers over training, two panels a row.
///
/// The scale of a panel covers its points and its level. A curve of more than 400 points is
/// drawn by the means of as many equal parts.
pub fn curves_figure(figure: &CurvesFigure<'_>) -> Drawing {
    let mut body = String::new();
    let has_key = figure.runs.len() > 1;
    let mut top = TOP;
    if has_key {
        for (i, run) in figure.runs.iter().enumerate() {
            let (left, y) = (LEFTS[i % 2].0, top - 16.0 + 18.0 * (i / 2) as f64);
            let _ = writeln!(
                body,
                r#"<path class="line kind{}" d="M{left} {}h24"/><text x="{}" y="{y}">{}</text>"#,
                i % KINDS,
                y - 4.0,
                left + 32.0,
                escape(&shortened(run, 52)),
            );
        }
        top += 18.0 * figure.runs.len().div_ceil(2) as f64 + 16.0;
    }
    for (i, panel) in figure.panels.iter().enumerate() {
        let above = top + ROW * (i / 2) as f64;
        body += &curve_panel(panel, figure.x_name, LEFTS[i % 2], (above, above + PLOT));
    }
    let heading = (figure.title, figure.subtitle);
    Drawing::new("Curves", heading, top + ROW * figure.panels.len().div_ceil(2) as f64 - 24.0, body)
}

fn curve_panel(
    CurvePanel { title, curves, level }: &CurvePanel,
    x_name: &str,
    left_right: (f64, f64),
    top_bottom: (f64, f64),
) -> String {
    let curves: Vec<Vec<(f64, f64)>> = curves.iter().map(|curve| thinned(curve)).collect();
    let points = || curves.iter().flatten();
    let level_value = level.iter().map(|(_, value)| *value);
    let x_range = spread(points().map(|&(x, _)| x).chain([0.0]));
    let y_range = spread(points().map(|&(_, y)| y).chain(level_value));
    let digits = [1.0, 2.0, 2.5, 5.0, 10.0];
    let mut x_ticks = ticks(x_range, 5.0, &[1.0, 2.0, 5.0, 10.0]);
    x_ticks.retain(|&tick| tick <= x_range.1 * (1.0 + 1e-9));
    let y_ticks = ticks(y_range, 4.0, &digits);
    let panel = Panel { left_right, top_bottom, x_range, y_range: ends_of(&y_ticks) };
    let labels: Vec<(f64, String)> = y_ticks.iter().map(|&tick| (tick, short(tick))).collect();
    let x_labels: Vec<(f64, String)> = x_ticks.iter().map(|&tick| (tick, short(tick))).collect();
    let mut svg = panel.labelled_axes(&escape(title), (x_name, &x_labels), ("", &labels));
    if let Some((name, value)) = level {
        let (left, right) = left_right;
        let y = panel.y(*value);
        let _ = writeln!(
            svg,
            r#"<path class="line level" d="M{left} {y:.2}H{right}"/><text x="{right}" y="{:.2}" class="end halo small">{}</text>"#,
            y - 5.0,
            escape(name),
        );
    }
    for (i, curve) in curves.iter().enumerate() {
        let place = |&(x, y): &(f64, f64)| format!("{:.1} {:.1}", panel.x(x), panel.y(y));
        let places: Vec<String> = curve.iter().map(place).collect();
        let _ = match &places[..] {
            [] => Ok(()),
            [only] => writeln!(svg, r#"<path class="points kind{}" d="M{only}h0"/>"#, i % KINDS),
            _ => {
                writeln!(svg, r#"<path class="line kind{}" d="M{}"/>"#, i % KINDS, places.join("L"))
            }
        };
    }
    svg
}

/// The lowest and highest of some numbers, apart from each other.
fn spread(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let lowest = values.clone().fold(f64::INFINITY, f64::min);
    let highest = values.fold(f64::NEG_INFINITY, f64::max);
    match (lowest <= highest, highest - lowest > 1e-12 * highest.abs().max(1e-12)) {
        (false, _) => (0.0, 1.0),
        (true, true) => (lowest, highest),
        (true, false) => {
            let around = 0.5 * highest.abs().max(1e-3);
            (lowest - around, highest + around)
        }
    }
}

/// The means of at most [`MOST_POINTS`] equal parts.
fn thinned(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let part = curve.len().div_ceil(MOST_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
    };
    curve.chunks(part).map(mean).collect()
}

/// A tick in at most six characters or so.
fn short(value: f64) -> String {
    let value = if value.abs() < 1e-12 { 0.0 } else { value };
    let size = value.abs();
    if size >= 1e5 || (size > 0.0 && size < 1e-3) {
        return format!("{value:.1e}");
    }
    format!("{}", (value * 1e6).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(runs: &[&str], panels: &[CurvePanel]) -> String {
        let figure = CurvesFigure { title: "a<b>", subtitle: "", x_name: "epoch", runs, panels };
        let svg = curves_figure(&figure).standalone();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b>"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        svg
    }

    fn panel(curves: Vec<Vec<(f64, f64)>>, level: Option<f64>) -> CurvePanel {
        CurvePanel {
            title: "loss".into(),
            curves,
            level: level.map(|value| ("chance".into(), value)),
        }
    }

    #[test]
    fn a_curve_goes_through_its_points_and_the_level_lies_where_it_is() {
        let svg =
            draw(&["a"], &[panel(vec![vec![(0.0, 0.0), (5.0, 2.0), (10.0, 4.0)]], Some(3.0))]);
        // x: 0 to 10 on 72 to 420; y: 0 to 4 on 244 up to 108.
        assert!(
            svg.contains(r#"class="line kind0" d="M72.0 244.0L246.0 176.0L420.0 108.0""#),
            "{svg}"
        );
        assert!(svg.contains(r#"class="line level" d="M72 142.00H420""#), "{svg}");
    }

    #[test]
    fn long_curves_are_drawn_by_means_and_odd_ones_at_all() {
        let long: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thin = thinned(&long);
        assert_eq!(thin.len(), 334);
        assert_eq!(thin[0], (1.0, 1.0 / 3.0));
        draw(&["a", "b<"], &[panel(vec![vec![], vec![(1.0, 7.0)]], None)]);
        draw(&[], &[panel(vec![], None), panel(vec![vec![(1.0, -2.0), (2.0, -2.0)]], Some(-2.0))]);
        draw(&[], &[]);
    }

    #[test]
    fn ticks_are_short() {
        let shown = [0.0, -1e-15, 0.25, 1e-4, 2.5e7, -0.5].map(short);
        assert_eq!(shown, ["0", "0", "0.25", "1.0e-4", "2.5e7", "-0.5"]);
    }
}
