//! The text of an SVG: escaping, and a panel with axes.

use std::fmt::Write as _;

use crate::palette::KINDS;

/// Text that means only itself in XML. What XML cannot hold becomes U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A circle, a square or a diamond, in turn: kinds are told apart without their colours, too. Shapes
/// and not the ends of lines, which not every printer draws.
pub(crate) fn dot(kind: usize, x: f64, y: f64) -> String {
    let class = kind % KINDS;
    match kind % 3 {
        0 => format!(r#"<circle class="mark kind{class}" cx="{x:.1}" cy="{y:.1}" r="4.5"/>"#),
        1 => format!(
            r#"<rect class="mark kind{class}" x="{:.1}" y="{:.1}" width="8" height="8"/>"#,
            x - 4.0,
            y - 4.0
        ),
        _ => format!(
            r#"<path class="mark kind{class}" d="M{x:.1} {:.1}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>"#,
            y - 5.5
        ),
    }
}

/// A place for a picture in the drawing: data on both axes, pixels on paper.
pub(crate) struct Panel {
    /// Left and right edge in pixels.
    pub left_right: (f64, f64),
    /// Upper and lower edge in pixels.
    pub top_bottom: (f64, f64),
    /// What lies at the left and the right edge.
    pub x_range: (f64, f64),
    /// What lies at the lower and the upper edge.
    pub y_range: (f64, f64),
}

impl Panel {
    pub(crate) fn x(&self, value: f64) -> f64 {
        let ((left, right), (first, last)) = (self.left_right, self.x_range);
        left + (right - left) * (value - first) / (last - first)
    }

    pub(crate) fn y(&self, value: f64) -> f64 {
        let ((top, bottom), (lowest, highest)) = (self.top_bottom, self.y_range);
        bottom - (bottom - top) * (value - lowest) / (highest - lowest)
    }

    /// Title, grid, ticks and the axes' names.
    pub(crate) fn axes(
        &self,
        title: &str,
        (x_name, x_ticks): (&str, &[f64]),
        (y_name, y_ticks): (&str, &[f64]),
    ) -> String {
        let labelled = |ticks: &[f64]| -> Vec<(f64, String)> {
            ticks.iter().map(|&tick| (tick, number(tick))).collect()
        };
        self.labelled_axes(title, (x_name, &labelled(x_ticks)), (y_name, &labelled(y_ticks)))
    }

    /// The same with ticks that say something else than their place, on logarithmic
    /// axes for example.
    pub(crate) fn labelled_axes(
        &self,
        title: &str,
        (x_name, x_ticks): (&str, &[(f64, String)]),
        (y_name, y_ticks): (&str, &[(f64, String)]),
    ) -> String {
        let ((left, right), (top, bottom)) = (self.left_right, self.top_bottom);
        let mut svg = String::new();
        let _ =
            writeln!(svg, r#"<text x="{left}" y="{}" class="panel">{title}</text>"#, top - 14.0);
        for (tick, label) in y_ticks {
            let y = self.y(*tick);
            let _ = writeln!(
                svg,
                r#"<path class="grid" d="M{left} {y:.2}H{right}"/><text x="{}" y="{:.2}" class="end">{label}</text>"#,
                left - 8.0,
                y + 4.0,
            );
        }
        for (tick, label) in x_ticks {
            let x = self.x(*tick);
            let _ = writeln!(
                svg,
                r#"<path class="axis" d="M{x:.2} {bottom}v5"/><text x="{x:.2}" y="{}" class="middle">{label}</text>"#,
                bottom + 19.0,
            );
        }
        let (middle_x, middle_y) = ((left + right) / 2.0, (top + bottom) / 2.0);
        let (below, beside) = (bottom + 40.0, left - 46.0);
        let _ = writeln!(
            svg,
            r#"<text x="{middle_x}" y="{below}" class="middle">{x_name}</text>
<text transform="translate({beside} {middle_y}) rotate(-90)" class="middle">{y_name}</text>"#
        );
        svg
    }
}

/// Multiples of a round step that cover a range, at most about `n` steps of them.
/// `digits` are the leading digits that a step may have, ascending from 1 to 10.
pub(crate) fn ticks((lowest, highest): (f64, f64), n: f64, digits: &[f64]) -> Vec<f64> {
    let wanted = (highest - lowest) / n;
    let power = 10f64.powf(wanted.log10().floor());
    let enough = |digit: &&f64| **digit * power >= wanted * (1.0 - 1e-9);
    let step = power * digits.iter().find(enough).copied().unwrap_or(10.0);
    // The margin keeps a range that ends on a tick from growing by a rounding.
    let first = (lowest / step + 1e-9).floor() as i64;
    let last = (highest / step - 1e-9).ceil() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A number without the digits that rounding left at its end.
pub(crate) fn number(value: f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6 + 0.0)
}

/// The lowest and the highest tick: an axis ends on them.
pub(crate) fn ends_of(ticks: &[f64]) -> (f64, f64) {
    (ticks[0], ticks[ticks.len() - 1])
}

/// A text of at most so many characters, its middle left out if need be.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= limit {
        return text.to_owned();
    }
    let half = (limit - 1) / 2;
    let (head, tail) = (&chars[..half], &chars[chars.len() - half..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape(r#"</text>&"a"#), "&lt;/text&gt;&amp;&quot;a");
        assert_eq!(escape("a\u{0}\u{1b}[31m\n\u{ffff}é"), "a\u{fffd}\u{fffd}[31m\u{fffd}\u{fffd}é");
    }

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        let check = |range, n, digits: &[f64], expected: &[&str]| {
            let ticks: Vec<String> = ticks(range, n, digits).into_iter().map(number).collect();
            assert_eq!(ticks, expected);
        };
        let (values, counts) = ([1.0, 2.5, 5.0, 10.0], [1.0, 2.0, 5.0, 10.0]);
        check((0.0, 1.0), 4.0, &values, &["0", "0.25", "0.5", "0.75", "1"]);
        check((-0.3, 1.7), 4.0, &values, &["-0.5", "0", "0.5", "1", "1.5", "2"]);
        check((0.0, 12.0), 6.0, &counts, &["0", "2", "4", "6", "8", "10", "12"]);
    }
}
