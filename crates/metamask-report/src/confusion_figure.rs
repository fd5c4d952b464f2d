//! Which classes are taken for which.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    heat_map::HeatMap,
    svg::{escape, shortened},
};

/// What the picture shows.
#[derive(Clone, Copy, Debug)]
pub struct ConfusionFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// By whom the classes were told, in a line.
    pub subtitle: &'a str,
    /// The classes' names.
    pub names: &'a [String],
    /// Images of each class (a row) that were taken for each class (a column).
    pub counts: &'a [Vec<u64>],
}

const TOP: f64 = 108.0;
const LEFT: f64 = 168.0;
const SIDE: f64 = 440.0;
/// Classes whose names and shares can be written.
const MOST_WRITTEN: usize = 20;

/// Draws a confusion matrix: each row is the shares of one class, in percent.
pub fn confusion_figure(figure: &ConfusionFigure<'_>) -> Drawing {
    let n = figure.counts.len();
    let shares: Vec<f64> = figure
        .counts
        .iter()
        .flat_map(|row| {
            let sum = row.iter().sum::<u64>().max(1) as f64;
            row.iter().map(move |&count| count as f64 / sum)
        })
        .collect();
    let order: Vec<usize> = (0..n).collect();
    let map = HeatMap {
        values: &shares,
        rows: &order,
        columns: &order,
        left: LEFT,
        top: TOP,
        width: SIDE,
        height: SIDE,
    };
    let mut body = map.svg() + &map.scale("share of the class");
    let cell = SIDE / n.max(1) as f64;
    let written = if n <= MOST_WRITTEN { n } else { 0 };
    let name = |i: usize| {
        figure.names.get(i).map_or_else(|| i.to_string(), |name| escape(&shortened(name, 20)))
    };
    for i in 0..written {
        let middle = (i as f64 + 0.5) * cell;
        let _ = writeln!(
            body,
            r#"<text x="{}" y="{:.1}" class="end small">{}</text><text transform="translate({:.1} {}) rotate(-40)" class="end small">{}</text>"#,
            LEFT - 8.0,
            TOP + middle + 4.0,
            name(i),
            LEFT + middle + 4.0,
            TOP + SIDE + 16.0,
            name(i),
        );
        for j in 0..n {
            let percent = 100.0 * shares[i * n + j];
            if percent > 0.5 {
                let _ = writeln!(
                    body,
                    r#"<text x="{:.1}" y="{:.1}" class="middle halo small">{percent:.0}</text>"#,
                    LEFT + (j as f64 + 0.5) * cell,
                    TOP + middle + 4.0,
                );
            }
        }
    }
    let _ = writeln!(
        body,
        r#"<text x="{LEFT}" y="{}" class="panel">Rows: the class. Columns: what it was taken for. Percent of the row.</text>"#,
        TOP - 14.0
    );
    let heading = (figure.title, figure.subtitle);
    Drawing::new("Confusion of classes", heading, TOP + SIDE + 96.0, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(names: &[String], counts: &[Vec<u64>]) -> String {
        let figure = ConfusionFigure { title: "a", subtitle: "", names, counts };
        let svg = confusion_figure(&figure).standalone();
        assert!(!svg.contains("NaN") && !svg.contains("x<y"), "{svg}");
        svg
    }

    #[test]
    fn a_row_is_the_shares_of_its_class() {
        let svg = draw(&["x<y".to_owned(), "z".to_owned()], &[vec![3, 1], vec![0, 8]]);
        let text = |percent: &str| format!("class=\"middle halo small\">{percent}</text>");
        for percent in ["75", "25", "100"] {
            assert_eq!(svg.matches(&text(percent)).count(), 1, "{percent}");
        }
        assert!(!svg.contains(&text("0")));
        // The last cell is dark and whole.
        assert!(svg.contains(r#"class="level9" d="M388.00 328.00h220.00v220.00"#), "{svg}");
    }

    #[test]
    fn many_classes_have_no_names_and_none_can_be_drawn() {
        let many = draw(&[], &vec![vec![1; 200]; 200]);
        assert!(!many.contains("middle halo") && many.len() < 100_000, "{}", many.len());
        draw(&[], &[]);
        draw(&["a".to_owned()], &[vec![0]]);
    }
}
