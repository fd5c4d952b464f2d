//! Images as points in the plane: what lies together, the representation takes for alike.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    palette::KINDS,
    svg::{escape, shortened},
};

/// What the picture shows.
#[derive(Clone, Copy, Debug)]
pub struct PointsFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was trained and looked at, in a line.
    pub subtitle: &'a str,
    /// One or two ways to lay the points out, each with its name and a point an image.
    pub layouts: &'a [(&'a str, &'a [[f64; 2]])],
    /// A class for each point, or nothing.
    pub classes: &'a [u32],
    /// The classes' names.
    pub names: &'a [String],
}

const TOP: f64 = 108.0;
const SIDE: f64 = 392.0;
const LEFTS: [f64; 2] = [24.0, 464.0];
/// Names of a row of the key.
const KEYS_A_ROW: usize = 5;

/// Draws points in the plane, a colour for each class.
///
/// Units along both axes are equal, and none are shown: only who lies beside whom means
/// something, and in a neighbour embedding nothing else. More classes than colours share them.
pub fn points_figure(figure: &PointsFigure<'_>) -> Drawing {
    let mut body = String::new();
    for ((name, points), left) in figure.layouts.iter().zip(LEFTS) {
        let _ = writeln!(
            body,
            r#"<text x="{left}" y="{}" class="panel">{}</text><path class="axis" d="M{left} {TOP}h{SIDE}v{SIDE}h-{SIDE}z"/>"#,
            TOP - 14.0,
            escape(name),
        );
        let place = into_square(points, (left + 10.0, TOP + 10.0), SIDE - 20.0);
        let mut kinds = vec![String::new(); KINDS];
        for (i, point) in points.iter().enumerate() {
            let class = figure.classes.get(i).map_or(0, |&class| class as usize);
            let (x, y) = place(*point);
            let _ = write!(kinds[class % KINDS], "M{x:.1} {y:.1}h0");
        }
        for (kind, path) in kinds.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let _ = writeln!(body, r#"<path class="points kind{kind}" d="{path}"/>"#);
        }
    }
    let mut height = TOP + SIDE + 24.0;
    // A key of hundreds of names tells nobody anything.
    let names = if figure.names.len() <= 4 * KINDS && !figure.classes.is_empty() {
        figure.names
    } else {
        &[]
    };
    for (i, name) in names.iter().enumerate() {
        let (row, column) = (i / KEYS_A_ROW, i % KEYS_A_ROW);
        let x = LEFTS[0] + 168.0 * column as f64;
        let y = TOP + SIDE + 28.0 + 20.0 * row as f64;
        let _ = writeln!(
            body,
            r#"<path class="points kind{}" d="M{} {}h0"/><text x="{}" y="{y}" class="small">{}</text>"#,
            i % KINDS,
            x + 4.0,
            y - 4.0,
            x + 14.0,
            escape(&shortened(name, 24)),
        );
        height = y + 20.0;
    }
    let heading = (figure.title, figure.subtitle);
    Drawing::new("Images as points", heading, height, body)
}

/// Where points lie in a square: all inside, in their middle, by one scale.
fn into_square(
    points: &[[f64; 2]],
    (left, top): (f64, f64),
    side: f64,
) -> impl Fn([f64; 2]) -> (f64, f64) {
    let ends = [0, 1].map(|axis| {
        let values = || points.iter().map(|point| point[axis]);
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    });
    let extent = ends.iter().map(|(low, high)| high - low).fold(0.0, f64::max);
    let scale = if extent > 0.0 && extent.is_finite() { side / extent } else { 0.0 };
    move |point| {
        let [x, y] = [0, 1].map(|axis| {
            let (low, high) = ends[axis];
            side / 2.0 + scale * (point[axis] - (low + high) / 2.0)
        });
        (left + x, top + side - y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(points: &[[f64; 2]], classes: &[u32], names: &[String]) -> String {
        let layouts: [(&str, &[[f64; 2]]); 2] = [("PCA<", points), ("t-SNE", points)];
        let figure = PointsFigure { title: "a", subtitle: "", layouts: &layouts, classes, names };
        let svg = points_figure(&figure).standalone();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("PCA<"), "{svg}");
        svg
    }

    #[test]
    fn points_lie_in_the_square_by_one_scale_in_their_class_colour() {
        // Twice as wide as high: 372 pixels wide, and in the middle of the height.
        let points = [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0]];
        let names = ["cat".to_owned(), "dog".to_owned()];
        let svg = draw(&points, &[0, 1, 1], &names);
        assert!(svg.contains(r#"<path class="points kind0" d="M34.0 397.0h0"/>"#), "{svg}");
        assert!(
            svg.contains(r#"<path class="points kind1" d="M406.0 397.0h0M406.0 211.0h0"/>"#),
            "{svg}"
        );
        assert!(svg.contains(">cat</text>") && svg.contains(">dog</text>"));
    }

    #[test]
    fn one_point_none_and_points_without_a_class_can_be_drawn() {
        draw(&[], &[], &[]);
        draw(&[[3.0, 3.0]], &[], &[]);
        draw(&[[f64::MAX, 0.0], [f64::MIN, 0.0]], &[7, 19], &[]);
    }
}
