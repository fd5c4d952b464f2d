//! The picture of a mask: where its values ended, and how they came apart.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    mask_range::MaskRange,
    svg::{Panel, ends_of, ticks},
};

/// What the picture of a mask shows. Every number is finite.
#[derive(Clone, Copy, Debug)]
pub struct MaskFigure<'a> {
    /// The run's name.
    pub title: &'a str,
    /// How the mask came about, in a line.
    pub subtitle: &'a str,
    /// m, one value for each dimension of the representation.
    pub values: &'a [f64],
    /// The value at which every dimension began.
    pub start: f64,
    /// The lowest and highest value of each epoch, ascending.
    pub ranges: &'a [MaskRange],
}

const HEIGHT: f64 = 386.0;
const TOP_BOTTOM: (f64, f64) = (108.0, 322.0);

/// Draws a mask.
///
/// Left: the values, sorted, a bar for each dimension; the dashed line is where
/// they all began. Right: the lowest and the highest value of each epoch, on the
/// same scale. The scale is 0 to 1, or more if a value lies beyond.
pub fn mask_figure(figure: &MaskFigure<'_>) -> Drawing {
    let ends = figure.ranges.iter().flat_map(|range| [range.min, range.max]);
    let all = || figure.values.iter().copied().chain([0.0, 1.0, figure.start]).chain(ends.clone());
    let range = (all().fold(0.0, f64::min), all().fold(1.0, f64::max));
    let y_ticks = ticks(range, 4.0, &[1.0, 2.5, 5.0, 10.0]);

    let heading = (figure.title, figure.subtitle);
    Drawing::new(
        "The dimension mask",
        heading,
        HEIGHT,
        values_panel(figure, &y_ticks) + &epochs_panel(figure, &y_ticks),
    )
}

/// The values, sorted, one bar a dimension.
fn values_panel(figure: &MaskFigure<'_>, y_ticks: &[f64]) -> String {
    let mut sorted = figure.values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let panel = Panel {
        left_right: (72.0, 452.0),
        top_bottom: TOP_BOTTOM,
        x_range: (0.0, n.max(1) as f64),
        y_range: ends_of(y_ticks),
    };
    let n_below = sorted.partition_point(|&value| value < figure.start);
    let title = format!(
        r#"{n} dimensions <tspan dx="8" class="below">{n_below} below the start</tspan><tspan dx="10" class="above">{} not below</tspan>"#,
        n - n_below
    );
    let x_ticks: Vec<f64> = ticks(panel.x_range, 4.0, &[1.0, 2.0, 5.0, 10.0]);
    let x_ticks: Vec<f64> = x_ticks.into_iter().filter(|&tick| tick <= n as f64).collect();
    let x_axis = ("dimensions, by their value", &x_ticks[..]);
    let mut svg = panel.axes(&title, x_axis, ("mask value m", y_ticks));

    // Bars too thin for a gap between them overlap a little instead, or seams would show.
    let slot = panel.x(1.0) - panel.x(0.0);
    let width = if slot < 2.0 { slot + 0.2 } else { slot * 0.8 };
    for (class, bars) in [("below", 0..n_below), ("above", n_below..n)] {
        let _ = writeln!(svg, r#"<g class="bars {class}">"#);
        for i in bars {
            let (x, y) = (panel.x(i as f64), panel.y(sorted[i].max(0.0)));
            let height = panel.y(sorted[i].min(0.0)) - y;
            let _ = writeln!(
                svg,
                r#"<rect x="{x:.2}" y="{y:.3}" width="{width:.2}" height="{height:.3}"/>"#
            );
        }
        svg.push_str("</g>\n");
    }
    // The lowest bars leave room for its name.
    let (x, y) = (panel.left_right.0 + 6.0, panel.y(figure.start) - 7.0);
    let name =
        format!("<text x=\"{x}\" y=\"{y:.2}\" class=\"halo\">start {}</text>\n", figure.start);
    svg + &start_line(&panel, figure.start) + &name
}

/// The lowest and the highest value over the epochs, from the common start on.
fn epochs_panel(figure: &MaskFigure<'_>, y_ticks: &[f64]) -> String {
    let begin = MaskRange { epoch: 0, min: figure.start, max: figure.start };
    let ranges = || std::iter::once(&begin).chain(figure.ranges);
    let last = figure.ranges.last().unwrap_or(&begin);
    let panel = Panel {
        left_right: (544.0, 792.0),
        top_bottom: TOP_BOTTOM,
        x_range: (0.0, last.epoch.max(1) as f64),
        y_range: ends_of(y_ticks),
    };
    let x_ticks = ticks(panel.x_range, 6.0, &[1.0, 2.0, 5.0, 10.0]);
    let whole = |tick: &f64| tick.fract() == 0.0 && *tick <= panel.x_range.1;
    let x_ticks: Vec<f64> = x_ticks.into_iter().filter(whole).collect();
    let mut svg = panel.axes("Range over training", ("epoch", &x_ticks), ("mask value m", y_ticks));

    let point =
        |epoch: u64, value: f64| format!("{:.2} {:.2}", panel.x(epoch as f64), panel.y(value));
    let highs: Vec<String> = ranges().map(|range| point(range.epoch, range.max)).collect();
    let lows: Vec<String> = ranges().map(|range| point(range.epoch, range.min)).collect();
    let back: Vec<&str> = lows.iter().rev().map(String::as_str).collect();
    let (highs, lows) = (highs.join("L"), lows.join("L"));
    let _ = writeln!(svg, r#"<path class="band" d="M{highs}L{}Z"/>"#, back.join("L"));
    svg.push_str(&start_line(&panel, figure.start));

    // Labels that would meet move apart.
    let (high, low) = (panel.y(last.max), panel.y(last.min));
    let apart = (16.0 - (low - high)).max(0.0) / 2.0;
    let x = panel.left_right.1 + 8.0;
    for (class, line, y, name, value) in [
        ("above", highs, high - apart, "max", last.max),
        ("below", lows, low + apart, "min", last.min),
    ] {
        let _ = writeln!(
            svg,
            r#"<path class="line {class}" d="M{line}"/><text x="{x}" y="{:.2}" class="{class}">{name} {value:.2}</text>"#,
            y + 4.0
        );
    }
    svg
}

fn start_line(panel: &Panel, start: f64) -> String {
    let (left, right) = panel.left_right;
    format!("<path class=\"start\" d=\"M{left} {:.2}H{right}\"/>\n", panel.y(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLOT_HEIGHT: f64 = TOP_BOTTOM.1 - TOP_BOTTOM.0;
    const ATOL: f64 = 1e-3; // coordinates have three decimals

    fn draw(title: &str, values: &[f64], ranges: &[MaskRange]) -> String {
        let svg = mask_figure(&MaskFigure { title, subtitle: "", values, start: 0.5, ranges });
        let svg = svg.standalone();
        assert_well_formed(&svg);
        svg
    }

    /// Every tag is closed in its order, attributes are quoted, `&` begins an entity.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
            match (tag.strip_prefix('/'), tag.ends_with('/')) {
                (Some(name), _) => assert_eq!(open.pop(), Some(name), "closes what is open"),
                (None, true) => {}
                (None, false) => open.push(tag.split_whitespace().next().expect("a name")),
            }
            for entity in [tag, text].iter().flat_map(|part| part.split('&').skip(1)) {
                let known = ["amp;", "lt;", "gt;", "quot;"];
                assert!(known.iter().any(|name| entity.starts_with(name)), "&{entity}");
            }
            assert!(!text.contains('>') && !svg.contains("NaN") && !svg.contains("inf"), "{text}");
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    /// An attribute of every bar, from left to right.
    fn of_bars(svg: &str, name: &str) -> Vec<f64> {
        let bars = svg.lines().filter(|line| line.starts_with("<rect x="));
        let name = format!(" {name}=\"");
        let value =
            |bar: &str| -> Option<f64> { bar.split_once(&name)?.1.split_once('"')?.0.parse().ok() };
        bars.map(|bar| value(bar).expect("a number")).collect()
    }

    #[test]
    fn bars_are_as_high_as_the_values_in_their_order() {
        let values = [0.93, 0.02, 0.5, 0.25, 1.0];
        let svg = draw("a", &values, &[]);
        let heights = of_bars(&svg, "height");
        assert_eq!(heights.len(), 5);
        for (height, value) in heights.iter().zip([0.02, 0.25, 0.5, 0.93, 1.0]) {
            assert!((height / PLOT_HEIGHT - value).abs() < ATOL, "{height} for {value}");
        }
        for (height, y) in heights.iter().zip(of_bars(&svg, "y")) {
            assert!((y + height - TOP_BOTTOM.1).abs() < 2.0 * ATOL, "stands on zero");
        }
        assert!(of_bars(&svg, "x").is_sorted());
        assert!(svg.contains("2 below the start") && svg.contains("3 not below"), "{svg}");
    }

    #[test]
    fn values_beyond_zero_and_one_widen_the_scale() {
        // From −0.5 to 1.5, the ticks around them: a unit is half of the panel.
        let svg = draw("a", &[-0.4, 1.3], &[]);
        let heights = of_bars(&svg, "height");
        for (height, value) in heights.iter().zip([0.4, 1.3]) {
            assert!((height / PLOT_HEIGHT * 2.0 - value).abs() < 2.0 * ATOL, "{heights:?}");
        }
    }

    #[test]
    fn the_range_begins_at_the_start_and_ends_at_the_last_epoch() {
        let range = |epoch, min, max| MaskRange { epoch, min, max };
        let svg = draw("a", &[0.5], &[range(1, 0.4, 0.6), range(2, 0.0, 1.0)]);
        let (top, bottom) = TOP_BOTTOM;
        let y = |value: f64| bottom - PLOT_HEIGHT * value;
        for (class, middle, end) in [("above", 0.6, top), ("below", 0.4, bottom)] {
            let line = format!(
                r#"<path class="line {class}" d="M544.00 {:.2}L668.00 {:.2}L792.00 {end:.2}"/>"#,
                y(0.5),
                y(middle)
            );
            assert!(svg.contains(&line), "{line} in\n{svg}");
        }
        assert!(svg.contains("min 0.00") && svg.contains("max 1.00"), "{svg}");
    }

    #[test]
    fn any_name_is_only_text() {
        let svg = draw(r#"</text><script>"&'"#, &[0.5], &[]);
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;&quot;&amp;'"), "{svg}");
        let long = draw(&"a".repeat(500), &[0.5], &[]);
        assert!(!long.contains(&"a".repeat(80)) && long.contains('…'));
    }

    #[test]
    fn nothing_and_very_much_can_be_drawn() {
        draw("", &[], &[]);
        let values: Vec<f64> = (0..2048).map(|i| f64::from(i) / 2047.0).collect();
        assert_eq!(of_bars(&draw("", &values, &[]), "height").len(), 2048);
    }
}
