//! How the values of a mask came apart: their distribution, epoch by epoch.

use crate::{
    drawing::Drawing,
    heat_map::HeatMap,
    svg::{Panel, ticks},
};

/// What the picture shows.
#[derive(Clone, Copy, Debug)]
pub struct MaskCourseFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// How the mask came about, in a line.
    pub subtitle: &'a str,
    /// The epochs, rising, each with how many values lie in each of the equal parts of 0 to 1.
    pub histograms: &'a [(u64, Vec<u64>)],
}

const TOP: f64 = 108.0;
const LEFT: f64 = 72.0;
const SIZE: (f64, f64) = (640.0, 220.0);

/// Draws the course of a mask: epochs from the left, values from the bottom, the darker the
/// more dimensions. Darkness goes by the square root of the share, so that a few dimensions
/// are seen beside many. Histograms of another length than the first are left out.
pub fn mask_course_figure(figure: &MaskCourseFigure<'_>) -> Drawing {
    let n_bins = figure.histograms.first().map_or(0, |(_, counts)| counts.len());
    let histograms: Vec<&(u64, Vec<u64>)> =
        figure.histograms.iter().filter(|(_, counts)| counts.len() == n_bins).collect();
    let n = histograms.len();
    let mut values = Vec::with_capacity(n * n_bins);
    for bin in 0..n_bins {
        values.extend(histograms.iter().map(|(_, counts)| {
            let sum = counts.iter().sum::<u64>().max(1) as f64;
            (counts[bin] as f64 / sum).sqrt()
        }));
    }
    let upwards: Vec<usize> = (0..n_bins).rev().collect();
    let epochs: Vec<usize> = (0..n).collect();
    let (width, height) = SIZE;
    let map = HeatMap {
        values: &values,
        rows: &upwards,
        columns: &epochs,
        left: LEFT,
        top: TOP,
        width,
        height,
    };
    let first = histograms.first().map_or(0, |(epoch, _)| *epoch) as f64;
    let last = histograms.last().map_or(0, |(epoch, _)| *epoch) as f64;
    let panel = Panel {
        left_right: (LEFT, LEFT + width),
        top_bottom: (TOP, TOP + height),
        // A column stands around its epoch.
        x_range: (first - 0.5, last + 0.5),
        y_range: (0.0, 1.0),
    };
    let mut x_ticks = ticks((first, last.max(first + 1.0)), 8.0, &[1.0, 2.0, 5.0, 10.0]);
    x_ticks.retain(|tick| tick.fract() == 0.0 && (first..=last).contains(tick));
    let mut body = panel.axes(
        "Share of the dimensions",
        ("epoch", &x_ticks),
        ("mask value m", &[0.0, 0.25, 0.5, 0.75, 1.0]),
    );
    body += &map.svg();
    body += &map.scale("square root of the share");
    let heading = (figure.title, figure.subtitle);
    Drawing::new("Mask over training", heading, TOP + height + 64.0, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(histograms: &[(u64, Vec<u64>)]) -> String {
        let figure = MaskCourseFigure { title: "a", subtitle: "", histograms };
        let svg = mask_course_figure(&figure).standalone();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        svg
    }

    #[test]
    fn values_stand_in_their_epoch_and_part() {
        // First all in the lower half, then all in the upper one.
        let svg = draw(&[(1, vec![4, 0]), (2, vec![0, 4])]);
        let dark = r#"class="level9" d="M392.00 108.00h320.00v110.00h-320.00zM72.00 218.00h320.00"#;
        assert!(svg.contains(dark), "{svg}");
    }

    #[test]
    fn nothing_and_histograms_of_different_lengths_can_be_drawn() {
        draw(&[]);
        draw(&[(3, vec![])]);
        let odd = draw(&[(1, vec![1, 0]), (2, vec![1, 2, 3]), (3, vec![0, 1])]);
        assert!(odd.contains("h320.00"), "two columns: {odd}");
    }
}
