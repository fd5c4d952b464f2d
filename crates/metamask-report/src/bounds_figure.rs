//! The two sides of theorem 5.1 over training, and what they enclose.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    svg::{Panel, ends_of, escape, ticks},
};

/// What the picture shows. Every number is finite.
#[derive(Clone, Copy, Debug)]
pub struct BoundsFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was measured, in a line.
    pub subtitle: &'a str,
    /// One or two representations with their names, measured at the same points.
    pub columns: &'a [(&'a str, Vec<BoundsPoint>)],
}

/// What the theorem says at a point of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoundsPoint {
    /// Epochs done, with the part of one that has begun.
    pub epoch: f64,
    /// The theorem's lower side.
    pub lower: f64,
    /// The one of its sister.
    pub sister_lower: f64,
    /// L_CE + log(M/K)
    pub middle: f64,
    /// The upper side.
    pub upper: f64,
    /// What it is at L_CE = 0: a lower side that is not above says nothing.
    pub perfect: f64,
    /// What it is for a guess: an upper side that is not below says nothing.
    pub guess: f64,
    /// Φ, the variance within classes.
    pub variance: f64,
    /// Σ √Φ of the dimensions, which theorem 5.2 is about.
    pub deviation_sum: f64,
}

const TOP: f64 = 138.0;
/// A panel with all that belongs to it.
const ROW: f64 = 268.0;
const PLOT: f64 = 180.0;
const LEFTS: [(f64, f64); 2] = [(72.0, 420.0), (512.0, 860.0)];
/// The key stands above the panels.
const KEY: f64 = 90.0;

/// Draws, for each representation, the upper side, what the sides enclose and the sister's lower
/// side; then the theorem's own lower side, which lies far below as a rule; then the two variances.
///
/// Where a side says nothing is shaded: above a guess, and below L_CE = 0. Points of a side that
/// lie there are hollow, and those of a side that is on the wrong side of the middle are squares.
pub fn bounds_figure(figure: &BoundsFigure<'_>) -> Drawing {
    let key = "shaded: a side there says nothing · hollow: such a side · filled: one that says \
               something · square: on the wrong side of L_CE + log(M/K)";
    let mut body =
        format!("<text x=\"{}\" y=\"{KEY}\" class=\"small\">{}</text>\n", LEFTS[0].0, escape(key));
    let mut panels = Vec::new();
    for (name, points) in figure.columns {
        let title = format!("Both sides, {}", escape(name));
        let sides: [Line<'_>; 3] = [
            ("upper side", "above", Side::Upper, |p| p.upper),
            ("L_CE + log(M/K)", "kind6", Side::Neither, |p| p.middle),
            ("lower side, the sister's", "below", Side::Lower, |p| p.sister_lower),
        ];
        panels.push((title, points, sides.to_vec()));
    }
    for (name, points) in figure.columns {
        let title = format!("The theorem's lower side, {}", escape(name));
        let sides: [Line<'_>; 2] = [
            ("L_CE + log(M/K)", "kind6", Side::Neither, |p| p.middle),
            ("lower side", "below", Side::Lower, |p| p.lower),
        ];
        panels.push((title, points, sides.to_vec()));
    }
    let place = |i: usize| {
        let top = TOP + ROW * (i / 2) as f64;
        (LEFTS[i % 2], (top, top + PLOT))
    };
    for (i, (title, points, lines)) in panels.iter().enumerate() {
        body += &sides_panel(title, place(i), points, lines);
    }
    let of = |value: Value| -> Vec<Vec<(f64, f64)>> {
        let points = |points: &[BoundsPoint]| points.iter().map(|p| (p.epoch, value(p))).collect();
        figure.columns.iter().map(|(_, column)| points(column)).collect()
    };
    let names: Vec<&str> = figure.columns.iter().map(|(name, _)| *name).collect();
    let first = panels.len();
    let title = "Φ(u|y), variance within classes";
    body += &variance_panel(title, place(first), &names, &of(|p| p.variance));
    let title = "Σ √Φ(|u|ᵏ|y) over dimensions, theorem 5.2";
    body += &variance_panel(title, place(first + 1), &names, &of(|p| p.deviation_sum));
    let rows = (first + 2).div_ceil(2) as f64;
    Drawing::new(
        "Theorem 5.1 over training",
        (figure.title, figure.subtitle),
        TOP + ROW * rows - 36.0,
        body,
    )
}

type Value = fn(&BoundsPoint) -> f64;
/// A line's name, colour, side and value.
type Line<'a> = (&'a str, &'a str, Side, Value);
type Place = ((f64, f64), (f64, f64));

/// Which side of the theorem a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Upper,
    Lower,
    Neither,
}

fn sides_panel(title: &str, place: Place, points: &[BoundsPoint], lines: &[Line<'_>]) -> String {
    let mut values: Vec<f64> =
        lines.iter().flat_map(|(.., value)| points.iter().map(value)).collect();
    values.extend(points.iter().flat_map(|p| [p.perfect, p.guess]));
    let panel = panel(place, points.iter().map(|p| p.epoch), &values);
    let mut svg = String::new();
    if let Some(point) = points.last() {
        let ((left, right), (top, bottom)) = place;
        let (guess, perfect, width) = (panel.y(point.guess), panel.y(point.perfect), right - left);
        for (y, height) in [(top, guess - top), (perfect, bottom - perfect)] {
            let _ = writeln!(
                svg,
                r#"<rect class="band" x="{left}" y="{y:.2}" width="{width}" height="{height:.2}"/>"#
            );
        }
        for (y, name) in [(guess - 4.0, "a guess"), (perfect + 13.0, "L_CE = 0")] {
            let x = left + 6.0;
            let _ = writeln!(svg, r#"<text x="{x}" y="{y:.2}" class="small">{name}</text>"#);
        }
    }
    svg.insert_str(0, &axes(&panel, title));
    for (name, class, side, value) in lines {
        svg += &line(&panel, class, points.iter().map(|p| (p.epoch, value(p))));
        for point in points {
            let (x, y) = (panel.x(point.epoch), panel.y(value(point)));
            svg += &mark(*side, class, point, value(point), (x, y));
        }
        svg += &label(&panel, name, points.last().map(value));
    }
    svg
}

/// A hollow point says nothing; a square one is on the wrong side.
fn mark(side: Side, class: &str, point: &BoundsPoint, value: f64, (x, y): (f64, f64)) -> String {
    // Rounding is no breach.
    let margin = 1e-9 * (1.0 + point.middle.abs());
    let (is_vacuous, is_wrong) = match side {
        Side::Upper => (value >= point.guess, value < point.middle - margin),
        Side::Lower => (value <= point.perfect, value > point.middle + margin),
        Side::Neither => return String::new(),
    };
    let (x0, y0) = (x - 4.0, y - 4.0);
    match (is_wrong, is_vacuous) {
        (true, _) => {
            format!(
                "<rect class=\"{class}\" x=\"{x0:.1}\" y=\"{y0:.1}\" width=\"8\" height=\"8\"/>\n"
            )
        }
        (false, true) => format!(
            "<circle class=\"hollow line {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"/>\n"
        ),
        (false, false) => {
            format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>\n")
        }
    }
}

fn variance_panel(
    title: &str,
    place: Place,
    names: &[&str],
    columns: &[Vec<(f64, f64)>],
) -> String {
    let points = || columns.iter().flatten();
    let values: Vec<f64> = points().map(|point| point.1).collect();
    let panel = panel(place, points().map(|point| point.0), &values);
    let mut svg = axes(&panel, &escape(title));
    // Lines that end on one another have their names apart.
    let ends: Vec<f64> = columns.iter().filter_map(|c| Some(panel.y(c.last()?.1))).collect();
    let apart = match ends[..] {
        [a, b] if (a - b).abs() < 16.0 => (16.0 - (a - b).abs()) / 2.0,
        _ => 0.0,
    };
    for (i, (name, points)) in names.iter().zip(columns).enumerate() {
        svg += &line(&panel, &format!("kind{i}"), points.iter().copied());
        if points.len() == 1 {
            let (x, y) = (panel.x(points[0].0), panel.y(points[0].1));
            let _ = writeln!(svg, r#"<path class="points kind{i}" d="M{x:.1} {y:.1}h0"/>"#);
        }
        let Some(&end) = ends.get(i) else { continue };
        let is_above = ends.iter().enumerate().all(|(j, &other)| (end, i) <= (other, j));
        let y = if is_above { end - apart - 4.0 } else { end + apart + 18.0 };
        let (x, name) = (panel.left_right.1, escape(name));
        let _ = writeln!(svg, r#"<text x="{x}" y="{y:.2}" class="end halo">{name}</text>"#);
    }
    svg
}

fn panel(
    (left_right, top_bottom): Place,
    epochs: impl Iterator<Item = f64> + Clone,
    values: &[f64],
) -> Panel {
    let first = epochs.clone().fold(f64::INFINITY, f64::min);
    let last = epochs.fold(f64::NEG_INFINITY, f64::max);
    let x_range = match first < last {
        true => (first, last),
        // Of one point or none.
        false => (first.min(1e9) - 0.5, first.min(1e9) + 0.5),
    };
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let around = match lowest <= highest {
        true => (lowest, highest.max(lowest + 1e-3 * lowest.abs().max(1.0))),
        false => (0.0, 1.0),
    };
    let y_range = ends_of(&ticks(around, 5.0, &[1.0, 2.0, 2.5, 5.0, 10.0]));
    Panel { left_right, top_bottom, x_range, y_range }
}

fn axes(panel: &Panel, title: &str) -> String {
    let mut x_ticks = ticks(panel.x_range, 6.0, &[1.0, 2.0, 5.0, 10.0]);
    let (first, last) = panel.x_range;
    x_ticks.retain(|tick| tick.fract() == 0.0 && (first..=last).contains(tick));
    let y_ticks = ticks(panel.y_range, 5.0, &[1.0, 2.0, 2.5, 5.0, 10.0]);
    panel.axes(title, ("epoch", &x_ticks), ("", &y_ticks))
}

fn line(panel: &Panel, class: &str, points: impl Iterator<Item = (f64, f64)>) -> String {
    let places: Vec<String> =
        points.map(|(x, y)| format!("{:.1} {:.1}", panel.x(x), panel.y(y))).collect();
    match places.len() {
        0 => String::new(),
        _ => format!("<path class=\"line {class}\" d=\"M{}\"/>\n", places.join("L")),
    }
}

/// A line's name, above its end.
fn label(panel: &Panel, name: &str, end: Option<f64>) -> String {
    let Some(end) = end else { return String::new() };
    let (x, y, name) = (panel.left_right.1, panel.y(end) - 8.0, escape(name));
    format!("<text x=\"{x}\" y=\"{y:.2}\" class=\"end halo\">{name}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: f64) -> BoundsPoint {
        BoundsPoint {
            epoch,
            lower: -60.0,
            sister_lower: 0.0,
            middle: 4.0,
            upper: 10.0,
            perfect: 2.0,
            guess: 5.0,
            variance: 4.0,
            deviation_sum: 20.0,
        }
    }

    fn draw(columns: &[(&str, Vec<BoundsPoint>)]) -> String {
        let figure = BoundsFigure { title: "a<b>", subtitle: "", columns };
        let svg = bounds_figure(&figure).standalone();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("a<b>"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        svg
    }

    #[test]
    fn sides_lie_where_the_numbers_say_and_what_says_nothing_is_shaded() {
        let svg = draw(&[("with<", vec![point(1.0), point(3.0)])]);
        // 0 to 10 on 318 up to 138, epochs 1 to 3 on 72 to 420: 18 pixels a unit.
        assert!(svg.contains(r#"<path class="line above" d="M72.0 138.0L420.0 138.0"/>"#), "{svg}");
        assert!(svg.contains(r#"<path class="line kind6" d="M72.0 246.0L420.0 246.0"/>"#), "{svg}");
        // Above a guess at 5, and below L_CE = 0 at 2.
        assert!(svg.contains(r#"y="138.00" width="348" height="90.00"/>"#), "{svg}");
        assert!(svg.contains(r#"y="282.00" width="348" height="36.00"/>"#), "{svg}");
        assert!(svg.contains("Both sides, with&lt;"), "{svg}");
        // Two checkpoints, three sides in two panels, all vacuous.
        assert_eq!(svg.matches("hollow line").count(), 2 * 3, "{svg}");
    }

    #[test]
    fn a_side_that_says_something_is_filled_and_one_that_is_wrong_is_square() {
        let told = BoundsPoint { upper: 4.5, lower: 3.0, sister_lower: 3.5, ..point(1.0) };
        let svg = draw(&[("a", vec![told]), ("b", vec![told])]);
        assert_eq!(svg.matches("hollow line").count(), 0);
        assert_eq!(svg.matches("<circle").count(), 2 * 3);
        let wrong = BoundsPoint { upper: 3.9, sister_lower: 4.1, ..told };
        let svg = draw(&[("a", vec![wrong])]);
        assert_eq!(svg.matches(r#"width="8" height="8""#).count(), 2);
        draw(&[]);
        draw(&[("none", vec![])]);
    }
}
