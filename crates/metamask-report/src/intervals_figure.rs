//! Values with their intervals, one below the other: differences, or one number among others.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    palette::KINDS,
    svg::{dot, ends_of, escape, number, shortened, ticks},
};

/// What the picture shows. Every number is finite.
#[derive(Clone, Debug)]
pub struct IntervalsFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was measured, in a line.
    pub subtitle: &'a str,
    /// What the numbers are, with their unit.
    pub measure: &'a str,
    /// What the colours and shapes mean; of a single one nothing is said.
    pub kinds: &'a [&'a str],
    /// A value that all are held against, and its name.
    pub level: (&'a str, f64),
    /// Where something else lies, and its name: shaded from top to bottom.
    pub band: Option<(&'a str, [f64; 2])>,
    /// From the top.
    pub rows: &'a [IntervalRow],
}

/// What has a name of its own.
#[derive(Clone, Debug)]
pub struct IntervalRow {
    /// Its name.
    pub title: String,
    /// Its values, a line each.
    pub marks: Vec<IntervalMark>,
}

/// A value.
#[derive(Clone, Debug, Default)]
pub struct IntervalMark {
    /// Which of [`IntervalsFigure::kinds`] it is.
    pub kind: usize,
    /// The value.
    pub value: f64,
    /// How far it can be trusted.
    pub interval: Option<[f64; 2]>,
    /// What it is the mean of, drawn faintly.
    pub parts: Vec<f64>,
    /// What stands at the right.
    pub text: String,
}

const TITLES: f64 = 24.0;
/// Characters of a title at most, and pixels of one.
const TITLE: (usize, f64) = (42, 6.4);
/// The plot begins behind the titles, but not before here.
const LEFT: f64 = 140.0;
const RIGHT: f64 = 690.0;
const TEXTS: f64 = 706.0;
const TOP: f64 = 96.0;
const KEY_LINE: f64 = 18.0;
const LINE: f64 = 19.0;
/// Pixels between two rows.
const APART: f64 = 5.0;

/// Draws each value as a point with its interval as a bar, on one scale along the bottom.
///
/// Kinds differ in colour and in shape.
pub fn intervals_figure(figure: &IntervalsFigure<'_>) -> Drawing {
    let marks = || figure.rows.iter().flat_map(|row| &row.marks);
    let ends = |mark: &IntervalMark| -> Vec<f64> {
        let interval = mark.interval.iter().flatten().copied();
        interval.chain(mark.parts.iter().copied()).chain([mark.value]).collect()
    };
    let band = figure.band.iter().flat_map(|(_, band)| *band);
    let values: Vec<f64> = marks().flat_map(ends).chain(band).chain([figure.level.1]).collect();
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let x_ticks = ticks((lowest, highest.max(lowest + 0.1)), 6.0, &[1.0, 2.0, 5.0, 10.0]);
    let (first, last) = ends_of(&x_ticks);
    let longest = figure.rows.iter().map(|row| row.title.chars().count().min(TITLE.0)).max();
    let behind = TITLES + TITLE.1 * longest.unwrap_or(0) as f64 + 12.0;
    let (left, right) = (behind.max(LEFT).round(), RIGHT);
    let x = |value: f64| left + (right - left) * (value - first) / (last - first);

    let mut body = String::new();
    let top = key(&mut body, figure, left) + 22.0;
    let height = |row: &IntervalRow| LINE * row.marks.len() as f64 + APART;
    let bottom = top + figure.rows.iter().map(height).sum::<f64>() + APART;
    if let Some((_, [low, high])) = figure.band {
        let (x, width) = (x(low), x(high) - x(low));
        let height = bottom - top;
        let _ = writeln!(
            body,
            r#"<rect class="band" x="{x:.1}" y="{top}" width="{width:.1}" height="{height}"/>"#
        );
    }
    for tick in &x_ticks {
        let (x, below, label) = (x(*tick), bottom + 19.0, number(*tick));
        let _ = writeln!(
            body,
            r#"<path class="grid" d="M{x:.1} {top}V{bottom}"/><text x="{x:.1}" y="{below}" class="middle">{label}</text>"#
        );
    }
    let (name, level) = (escape(figure.level.0), x(figure.level.1));
    let _ = writeln!(
        body,
        r#"<path class="line level" d="M{level:.1} {top}V{bottom}"/><text x="{level:.1}" y="{}" class="middle small">{name}</text>
<text x="{}" y="{}" class="middle">{}</text>"#,
        top - 6.0,
        (left + right) / 2.0,
        bottom + 40.0,
        escape(figure.measure),
    );
    let mut above = top + APART;
    for row in figure.rows {
        let title = escape(&shortened(&row.title, TITLE.0));
        let _ = writeln!(body, r#"<text x="{TITLES}" y="{}">{title}</text>"#, above + 14.0);
        for (i, mark) in row.marks.iter().enumerate() {
            body += &mark_svg(mark, above + LINE * (i as f64 + 0.5), &x);
        }
        above += height(row);
    }
    Drawing::new("Intervals", (figure.title, figure.subtitle), bottom + 56.0, body)
}

/// What colours, shapes and the shade mean; returns where it ends.
fn key(body: &mut String, figure: &IntervalsFigure<'_>, left: f64) -> f64 {
    let (mut y, point, text) = (TOP, left + 6.0, left + 18.0);
    let kinds = figure.kinds.iter().enumerate().filter(|_| figure.kinds.len() > 1);
    for (kind, name) in kinds {
        let (shape, name) = (dot(kind, point, y - 4.0), escape(name));
        let _ = writeln!(body, r#"{shape}<text x="{text}" y="{y}">{name}</text>"#);
        y += KEY_LINE;
    }
    if let Some((name, _)) = figure.band {
        let name = escape(name);
        let _ = writeln!(
            body,
            r#"<rect class="band" x="{left}" y="{}" width="12" height="12"/><text x="{text}" y="{y}">{name}</text>"#,
            y - 10.0
        );
        y += KEY_LINE;
    }
    y - KEY_LINE
}

fn mark_svg(mark: &IntervalMark, y: f64, x: &impl Fn(f64) -> f64) -> String {
    let mut svg = String::new();
    let kind = mark.kind % KINDS;
    // Below the bar, which would hide them.
    let beside = if mark.interval.is_some() { y + 6.0 } else { y };
    if !mark.parts.is_empty() {
        let parts: String =
            mark.parts.iter().map(|&part| format!("M{:.1} {beside}h0", x(part))).collect();
        let _ = writeln!(svg, r#"<path class="points faint kind{kind}" d="{parts}"/>"#);
    }
    if let Some([low, high]) = mark.interval {
        let (low, high) = (x(low), x(high));
        let _ = writeln!(svg, r#"<path class="line kind{kind}" d="M{low:.1} {y}H{high:.1}"/>"#);
    }
    let (shape, text) = (dot(mark.kind, x(mark.value), y), escape(&mark.text));
    let below = y + 4.0;
    let _ = writeln!(svg, r#"{shape}<text x="{TEXTS}" y="{below}">{text}</text>"#);
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure<'a>(rows: &'a [IntervalRow]) -> IntervalsFigure<'a> {
        IntervalsFigure {
            title: "a<b>",
            subtitle: "",
            measure: "points<",
            kinds: &["equal epochs<", "equal compute"],
            level: ("no <gain>", 0.0),
            band: Some(("draws<", [-1.0, 1.0])),
            rows,
        }
    }

    #[test]
    fn points_bars_and_levels_lie_where_the_numbers_say() {
        let mark = IntervalMark {
            kind: 1,
            value: 1.0,
            interval: Some([-2.0, 4.0]),
            parts: vec![0.0, 2.0],
            text: "+1.0 <".to_owned(),
        };
        let rows = [IntervalRow { title: "row<".to_owned(), marks: vec![mark] }];
        let svg = intervals_figure(&figure(&rows)).standalone();
        // -2 to 4 in steps of 1 on 140 to 690. The key takes three lines, so
        // the plot begins at 96 + 36 + 22 and its one line lies 5 + 9.5 below.
        assert!(svg.contains(r#"<path class="line kind1" d="M140.0 168.5H690.0"/>"#), "{svg}");
        assert!(svg.contains(r#"<rect class="mark kind1" x="411.0" y="164.5" width="8""#), "{svg}");
        assert!(svg.contains(r#"faint kind1" d="M323.3 174.5h0M506.7 174.5h0""#), "{svg}");
        assert!(svg.contains(r#"class="line level" d="M323.3 154V"#), "{svg}");
        assert!(svg.contains(r#"class="band" x="231.7" y="154" width="183.3""#), "{svg}");
        for word in ["row<", "+1.0 <", "draws<", "points<", "<gain>", "epochs<", "NaN"] {
            assert!(!svg.contains(word), "{word} in {svg}");
        }
    }

    #[test]
    fn nothing_and_equal_values_are_drawn_too() {
        let mark = IntervalMark { value: 0.0, ..IntervalMark::default() };
        let same = [IntervalRow { title: String::new(), marks: vec![mark; 2] }];
        for rows in [&[][..], &same] {
            let svg = intervals_figure(&IntervalsFigure {
                band: None,
                kinds: &["only kind"],
                ..figure(rows)
            });
            let svg = svg.standalone();
            assert!(
                !svg.contains("NaN") && !svg.contains("inf") && !svg.contains("only kind"),
                "{svg}"
            );
        }
    }
}
