//! The picture of a loss's gradient: how large it is in each dimension, with the mask and
//! without, and what the dimensions are about that get it.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    svg::{Panel, ends_of, escape, ticks},
};

/// What the picture shows. Every number is finite, no gradient is below 0.
#[derive(Clone, Copy, Debug)]
pub struct GradientsFigure<'a> {
    /// The run's name.
    pub title: &'a str,
    /// What was trained and looked at, in a line.
    pub subtitle: &'a str,
    /// The loss, as `B` or `L_drr`.
    pub loss: &'a str,
    /// m, where there is a mask: the dimensions lie in its order, else in that of their gradient.
    pub mask: Option<&'a [f64]>,
    /// The gradient without the mask, a value for each dimension.
    pub none: &'a [f64],
    /// With it, where there is one.
    pub learned: Option<&'a [f64]>,
    /// With its values in random orders, mean over these.
    pub shuffled: Option<&'a [f64]>,
    /// What the dimensions are about, up to three of them.
    pub relevances: &'a [GradientRelevance<'a>],
}

/// How much each dimension is about something, and whether the gradient goes with it.
#[derive(Clone, Copy, Debug)]
pub struct GradientRelevance<'a> {
    /// What it is about.
    pub name: &'a str,
    /// Share of each dimension's variance, 0 to 1.
    pub shares: &'a [f64],
    /// Spearman's ρ of the gradient without the mask, and its p-value, where defined.
    pub none: Option<(f64, f64)>,
    /// The same of the gradient with it.
    pub learned: Option<(f64, f64)>,
}

const LEFT_RIGHT: (f64, f64) = (72.0, 856.0);
const UPPER: (f64, f64) = (124.0, 334.0);
const MASK: (f64, f64) = (362.0, 412.0);
const LOWER: (f64, f64) = (522.0, 690.0);
const HEIGHT: f64 = 752.0;
/// Of the dimensions, in the running median.
const WINDOW: usize = 8;

/// Draws the gradient of every dimension.
///
/// Above: a dot for each dimension and a line through the running median of an eighth of
/// them, on a logarithmic axis; below it the mask values. At the bottom: the gradient against
/// what each dimension is about. A gradient of 0 lies on the lower edge.
pub fn gradients_figure(figure: &GradientsFigure<'_>) -> Drawing {
    let series = [figure.learned.map(|values| ("above", values)), Some(("below", figure.none))];
    let series: Vec<(&str, &[f64])> = series.into_iter().flatten().collect();
    let all =
        series.iter().flat_map(|(_, values)| *values).chain(figure.shuffled.into_iter().flatten());
    let axis = LogAxis::of(all.copied());
    let by = figure.mask.unwrap_or(figure.none);
    let mut order: Vec<usize> = (0..by.len()).collect();
    order.sort_by(|&a, &b| by[a].total_cmp(&by[b]));

    let mut svg = dimensions_panel(figure, &series, &order, &axis);
    let slots: &[(f64, f64)] = match figure.relevances.len() {
        1 => &[(72.0, 286.0)],
        _ => &[(72.0, 286.0), (357.0, 571.0), (642.0, 856.0)],
    };
    // Without a mask what is below moves up to its place.
    let up = if figure.mask.is_some() { 0.0 } else { MASK.1 - UPPER.1 };
    let top_bottom = (LOWER.0 - up, LOWER.1 - up);
    for (relevance, slot) in figure.relevances.iter().zip(slots) {
        svg += &relevance_panel(figure, relevance, &series, &axis, (*slot, top_bottom));
    }
    let height = match figure.relevances.is_empty() {
        false => HEIGHT - up,
        true => MASK.1 - up + 58.0,
    };
    Drawing::new("The gradients", (figure.title, figure.subtitle), height, svg)
}

/// The gradient over the dimensions, and the mask below it.
fn dimensions_panel(
    figure: &GradientsFigure<'_>,
    series: &[(&str, &[f64])],
    order: &[usize],
    axis: &LogAxis,
) -> String {
    let n = order.len().max(1) as f64;
    let x_ticks: Vec<f64> = ticks((0.0, n), 6.0, &[1.0, 2.0, 5.0, 10.0]);
    let x_ticks: Vec<f64> = x_ticks.into_iter().filter(|&tick| tick <= n).collect();
    let panel =
        Panel { left_right: LEFT_RIGHT, top_bottom: UPPER, x_range: (0.0, n), y_range: axis.range };
    let y_axis = (gradient_name(figure), &axis.labels[..]);
    let x_name = match figure.mask {
        Some(_) => "dimensions, by their mask value",
        None => "dimensions, by their gradient",
    };
    let mut svg = match figure.mask {
        // The names of the shared axis stand below the mask.
        Some(_) => panel.labelled_axes("", ("", &[]), (&y_axis.0, y_axis.1)),
        None => {
            let labelled: Vec<_> = x_ticks.iter().map(|&tick| (tick, tick.to_string())).collect();
            panel.labelled_axes("", (x_name, &labelled), (&y_axis.0, y_axis.1))
        }
    };
    let mut key = LEFT_RIGHT.0;
    let mut named = |svg: &mut String, class: &str, name: &str, width: f64| {
        let y = UPPER.0 - 20.0;
        let _ = writeln!(
            svg,
            r#"<path class="line {class}" d="M{key} {}h22"/><text x="{}" y="{y}">{name}</text>"#,
            y - 4.0,
            key + 29.0,
        );
        key += width;
    };
    if let Some(shuffled) = figure.shuffled {
        let _ = writeln!(
            svg,
            r#"<path class="line level" d="{}"/>"#,
            median_line(&panel, axis, order, shuffled)
        );
    }
    for &(class, values) in series {
        let mut dots = String::new();
        for (place, &k) in order.iter().enumerate() {
            let (x, y) = (panel.x(place as f64 + 0.5), panel.y(axis.place(values[k])));
            let _ = write!(dots, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.4"/>"#);
        }
        let _ = writeln!(
            svg,
            r#"<g class="dots {class}">{dots}</g><path class="line {class}" d="{}"/>"#,
            median_line(&panel, axis, order, values)
        );
    }
    for &(class, _) in series {
        match class {
            "above" => named(&mut svg, class, "learned mask", 128.0),
            _ if figure.learned.is_some() => {
                named(&mut svg, class, "mask off, same weights", 188.0)
            }
            _ => named(&mut svg, class, "no mask", 110.0),
        }
    }
    if figure.shuffled.is_some() {
        named(&mut svg, "level", "its values in random orders", 220.0);
    }
    let _ = writeln!(
        svg,
        r#"<text x="{}" y="{}" class="end small">dots: dimensions; lines: running medians</text>"#,
        LEFT_RIGHT.1,
        UPPER.0 - 20.0,
    );
    if let Some(mask) = figure.mask {
        svg += &mask_panel(mask, order, (x_name, &x_ticks));
    }
    svg
}

/// The mask's values in their order.
fn mask_panel(mask: &[f64], order: &[usize], x_axis: (&str, &[f64])) -> String {
    let low = mask.iter().copied().fold(0.0, f64::min);
    let high = mask.iter().copied().fold(1.0, f64::max);
    let panel = Panel {
        left_right: LEFT_RIGHT,
        top_bottom: MASK,
        x_range: (0.0, order.len().max(1) as f64),
        y_range: (low, high),
    };
    let mut svg = panel.axes("", x_axis, ("mask m", &[low, high]));
    let slot = panel.x(1.0) - panel.x(0.0);
    let width = if slot < 2.0 { slot + 0.2 } else { slot * 0.8 };
    let mut bars = String::new();
    for (place, &k) in order.iter().enumerate() {
        let (x, y) = (panel.x(place as f64 + 0.1), panel.y(mask[k].max(0.0)));
        let height = panel.y(mask[k].min(0.0)) - y;
        let _ = write!(
            bars,
            r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}"/>"#
        );
    }
    let _ = writeln!(svg, r#"<g class="band faint">{bars}</g>"#);
    svg
}

/// The gradient against what the dimensions are about.
fn relevance_panel(
    figure: &GradientsFigure<'_>,
    relevance: &GradientRelevance<'_>,
    series: &[(&str, &[f64])],
    axis: &LogAxis,
    (left_right, top_bottom): ((f64, f64), (f64, f64)),
) -> String {
    let largest = relevance.shares.iter().copied().fold(0.0, f64::max);
    let x_ticks = ticks((0.0, (100.0 * largest).max(1.0)), 3.0, &[1.0, 2.0, 5.0, 10.0]);
    let x_range = ends_of(&x_ticks);
    let panel = Panel { left_right, top_bottom, x_range, y_range: axis.range };
    let labelled: Vec<_> = x_ticks.iter().map(|&tick| (tick, tick.to_string())).collect();
    let mut svg = panel.labelled_axes(
        "",
        ("share of its variance, %", &labelled),
        (&gradient_name(figure), &axis.labels),
    );
    let (left, title) = (left_right.0, top_bottom.0 - 30.0);
    let _ = writeln!(
        svg,
        r#"<text x="{left}" y="{title}" class="panel">{}</text>"#,
        escape(relevance.name)
    );
    let mut x = left;
    for &(class, values) in series {
        let correlation = if class == "above" { relevance.learned } else { relevance.none };
        if let Some((rho, p)) = correlation {
            let p = if p < 0.001 { "p &lt; 0.001".to_owned() } else { format!("p {p:.3}") };
            let _ = writeln!(
                svg,
                r#"<text x="{x}" y="{}" class="key {class}">ρ {}, {p}</text>"#,
                title + 16.0,
                format!("{rho:+.2}").replace('-', "−"),
            );
            x += 116.0;
        }
        let mut dots = String::new();
        for (&value, &share) in values.iter().zip(relevance.shares) {
            let (x, y) = (panel.x(100.0 * share), panel.y(axis.place(value)));
            let _ = write!(dots, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.4"/>"#);
        }
        let _ = writeln!(svg, r#"<g class="dots {class}">{dots}</g>"#);
    }
    svg
}

fn gradient_name(figure: &GradientsFigure<'_>) -> String {
    format!("RMS of ∂{}/∂h", escape(figure.loss))
}

/// A path through the running median of an eighth of the dimensions in their order.
fn median_line(panel: &Panel, axis: &LogAxis, order: &[usize], values: &[f64]) -> String {
    let half = (order.len() / WINDOW / 2).max(1);
    let mut line = String::new();
    for place in 0..order.len() {
        let window = &order[place.saturating_sub(half)..(place + half + 1).min(order.len())];
        let mut window: Vec<f64> = window.iter().map(|&k| values[k]).collect();
        window.sort_by(f64::total_cmp);
        let n = window.len();
        let median = (window[(n - 1) / 2] + window[n / 2]) / 2.0;
        let (x, y) = (panel.x(place as f64 + 0.5), panel.y(axis.place(median)));
        let _ = write!(line, "{}{x:.1} {y:.1}", if place == 0 { "M" } else { "L" });
    }
    line
}

/// A logarithmic axis: its ends and ticks as powers of ten.
struct LogAxis {
    range: (f64, f64),
    labels: Vec<(f64, String)>,
}

impl LogAxis {
    /// Around every value above 0; six decades at most.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|&value| value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (0.1, 1.0);
        }
        let low = low.max(high * 1e-6);
        // 1, 2, 5 where one or two decades are to be seen, else the decades alone.
        let digits: &[f64] = if high / low > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
        let steps: Vec<(f64, String)> = decades
            .flat_map(|decade| {
                digits.iter().map(move |digit| {
                    let place = digit.log10() + f64::from(decade);
                    (place, format!("{digit}e{decade}"))
                })
            })
            .collect();
        let below = |end: f64| move |(place, _): &&(f64, String)| *place <= end + 1e-9;
        let first = steps.iter().filter(below(low.log10())).count().max(1) - 1;
        let last = steps.iter().take_while(|(place, _)| *place < high.log10() - 1e-9).count();
        let labels = steps[first..=last.min(steps.len() - 1)].to_vec();
        let range = (labels[0].0, labels[labels.len() - 1].0);
        let range = if range.1 > range.0 { range } else { (range.0 - 1.0, range.1) };
        Self { range, labels }
    }

    /// Where a value lies; what is too small, or 0, on the lower edge.
    fn place(&self, value: f64) -> f64 {
        if value > 0.0 { value.log10().clamp(self.range.0, self.range.1) } else { self.range.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [f64; 4] = [1e-3, 1e-4, 1e-2, 1e-3];
    const LEARNED: [f64; 4] = [1e-4, 1e-4, 1e-2, 0.0];

    fn figure<'a>(relevances: &'a [GradientRelevance<'a>]) -> GradientsFigure<'a> {
        GradientsFigure {
            title: "a<b>",
            subtitle: "",
            loss: "B",
            mask: Some(&[0.9, 0.1, 0.5, 0.2]),
            none: &NONE,
            learned: Some(&LEARNED),
            shuffled: Some(&[2e-4; 4]),
            relevances,
        }
    }

    #[test]
    fn dimensions_stand_in_the_order_of_the_mask_on_a_logarithmic_axis() {
        let svg = gradients_figure(&figure(&[])).standalone();
        // Places 1, 3, 2, 0 at (i + 1/2) / 4 of 784 pixels; two decades on 210 pixels from 334 up.
        for (x, y) in
            [("170.0", "334.0"), ("366.0", "229.0"), ("562.0", "124.0"), ("758.0", "229.0")]
        {
            assert!(svg.contains(&format!(r#"cx="{x}" cy="{y}""#)), "{x} {y} in {svg}");
        }
        // With the mask: 1e-4 of dimension 0, and the 0 of dimension 3, on the lower edge.
        assert_eq!(svg.matches(r#"cx="758.0" cy="334.0""#).count(), 1);
        assert_eq!(svg.matches(r#"cx="366.0" cy="334.0""#).count(), 1);
        for label in [">1e-4<", ">2e-3<", ">1e-2<", "mask off, same weights", "∂B/∂h"] {
            assert!(svg.contains(label), "{label} in {svg}");
        }
        assert!(!svg.contains("a<b>") && !svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn each_panel_has_a_dot_for_each_dimension_and_its_correlations() {
        let relevance = GradientRelevance {
            name: "Class",
            shares: &[0.1, 0.2, 0.3, 0.0],
            none: Some((-0.25, 0.0004)),
            learned: Some((0.5, 0.04)),
        };
        let svg = gradients_figure(&figure(&[relevance; 3])).standalone();
        assert_eq!(svg.matches("<circle").count(), 2 * 4 + 3 * 2 * 4);
        assert!(svg.contains("ρ −0.25, p &lt; 0.001") && svg.contains("ρ +0.50, p 0.040"), "{svg}");
    }

    #[test]
    fn a_run_without_a_mask_and_nothing_can_be_drawn() {
        let plain = GradientsFigure { mask: None, learned: None, shuffled: None, ..figure(&[]) };
        let svg = gradients_figure(&plain).standalone();
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("by their gradient") && !svg.contains("mask m"), "{svg}");
        for none in [&[][..], &[0.0; 3]] {
            let svg = gradients_figure(&GradientsFigure { none, ..plain }).standalone();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
