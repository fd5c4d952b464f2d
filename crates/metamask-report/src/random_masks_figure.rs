//! The paper's figure 2: a frozen representation under random binary masks.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    svg::{Panel, ends_of, escape, ticks},
};

/// What the picture shows. Every number is finite.
#[derive(Clone, Copy, Debug)]
pub struct RandomMasksFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What was trained and looked at, in a line.
    pub subtitle: &'a str,
    /// Accuracy without a mask in percent, on the images that choose and on the others.
    pub unmasked: [f64; 2],
    /// The masks: the share of the dimensions that are out, and the accuracies.
    pub draws: &'a [(f64, [f64; 2])],
    /// The mask of each rate that is best on the images that choose.
    pub chosen: &'a [(f64, [f64; 2])],
}

const TOP_BOTTOM: (f64, f64) = (108.0, 372.0);
const LEFTS: [(f64, f64); 2] = [(72.0, 430.0), (502.0, 860.0)];

/// Draws the accuracy of every mask over its rate. Left: on the images that the best mask of
/// each rate is chosen on, right: on the others. The dashed line is the accuracy without a
/// mask, rings are the chosen masks, the same on both sides.
pub fn random_masks_figure(figure: &RandomMasksFigure<'_>) -> Drawing {
    let accuracies = figure.draws.iter().flat_map(|(_, accuracy)| *accuracy);
    let all = || accuracies.clone().chain(figure.unmasked);
    let y_range = (all().fold(100.0, f64::min), all().fold(0.0, f64::max));
    let y_ticks = ticks((y_range.0, y_range.1 + 0.5), 6.0, &[1.0, 2.0, 5.0, 10.0]);
    let mut body = String::new();
    for (half, (left_right, name)) in
        LEFTS.into_iter().zip(["the half that chooses", "the other half"]).enumerate()
    {
        let panel = Panel {
            left_right,
            top_bottom: TOP_BOTTOM,
            x_range: (0.0, 1.0),
            y_range: ends_of(&y_ticks),
        };
        let unmasked = figure.unmasked[half];
        let title = format!("On {name} <tspan dx=\"8\">without a mask {unmasked:.1} %</tspan>");
        let x_axis = ("share of the dimensions masked out", &[0.0, 0.25, 0.5, 0.75, 1.0][..]);
        body += &panel.axes(&title, x_axis, ("kNN accuracy, %", &y_ticks));
        let mut dots = String::new();
        for (rate, accuracy) in figure.draws {
            let _ = write!(dots, "M{:.1} {:.1}h0", panel.x(*rate), panel.y(accuracy[half]));
        }
        let (left, right) = left_right;
        let y = panel.y(unmasked);
        let _ = writeln!(
            body,
            r#"<path class="points kind0 faint" d="{dots}"/><path class="line alarm" d="M{left} {y:.2}H{right}"/>"#
        );
        for (rate, accuracy) in figure.chosen {
            let (x, y) = (panel.x(*rate), panel.y(accuracy[half]));
            let _ = writeln!(body, r#"<circle class="ring" cx="{x:.1}" cy="{y:.1}" r="4.5"/>"#);
        }
    }
    let key = "dots: masks · rings: the best of each rate on the left half · dashed: no mask";
    let _ = writeln!(
        body,
        r#"<text x="{}" y="{}" class="small">{}</text>"#,
        LEFTS[0].0,
        TOP_BOTTOM.1 + 66.0,
        escape(key)
    );
    let heading = (figure.title, figure.subtitle);
    Drawing::new("Random masks over the dimensions", heading, TOP_BOTTOM.1 + 84.0, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_lie_where_rate_and_accuracy_say() {
        let draws = [(0.0, [60.0, 58.0]), (0.5, [50.0, 52.0])];
        let figure = RandomMasksFigure {
            title: "a<b>",
            subtitle: "",
            unmasked: [60.0, 58.0],
            draws: &draws,
            chosen: &draws[1..],
        };
        let svg = random_masks_figure(&figure).standalone();
        // 50 to 62 in steps of 2 on 372 up to 108: 22 pixels a percent.
        assert!(svg.contains(r#"d="M72.0 152.0h0M251.0 372.0h0""#), "{svg}");
        assert!(svg.contains(r#"class="ring" cx="681.0" cy="328.0""#), "{svg}");
        assert!(svg.contains(r#"class="line alarm" d="M72 152.00H430""#), "{svg}");
        assert!(!svg.contains("a<b>") && !svg.contains("NaN"));
        let nothing = RandomMasksFigure { draws: &[], chosen: &[], ..figure };
        assert!(!random_masks_figure(&nothing).standalone().contains("NaN"));
    }
}
