//! A grid as a picture: a line for each row over the columns, with the spread over seeds.

use std::fmt::Write as _;

use crate::{
    drawing::Drawing,
    palette::KINDS,
    svg::{Panel, dot, ends_of, escape, shortened, ticks},
};

/// What the picture shows. Every number is finite.
#[derive(Clone, Debug)]
pub struct ColumnsFigure<'a> {
    /// Its heading.
    pub title: &'a str,
    /// What the bars are, in a line.
    pub subtitle: &'a str,
    /// How the numbers were measured: lines below the axis.
    pub protocol: &'a [&'a str],
    /// What the columns are, from the left: widths of a projector, shares of the labels.
    pub axis: &'a str,
    /// The columns' titles.
    pub columns: &'a [&'a str],
    /// What the numbers are, with their unit.
    pub measure: &'a str,
    /// The rows.
    pub rows: &'a [GridRow],
}

impl ColumnsFigure<'_> {
    /// Rows that have a colour of their own.
    pub const MOST_ROWS: usize = KINDS;
}

/// A row of a grid.
#[derive(Clone, Debug)]
pub struct GridRow {
    /// Its title.
    pub title: String,
    /// Mean over the seeds in each column, and their standard deviation if there are several.
    pub cells: Vec<Option<(f64, Option<f64>)>>,
}

const LEFT_RIGHT: (f64, f64) = (72.0, 860.0);
const TOP: f64 = 96.0;
const PLOT: f64 = 300.0;
const KEY_LINE: f64 = 18.0;
/// Pixels between the rows' points of one column, so that their bars stand apart.
const APART: f64 = 5.0;

/// Draws the mean of each cell, columns evenly along the axis, with a bar of one standard
/// deviation to either side. A row's line joins neighbouring columns that have a number.
pub fn columns_figure(figure: &ColumnsFigure<'_>) -> Drawing {
    let ends = |cell: &(f64, Option<f64>)| {
        [cell.0 - cell.1.unwrap_or(0.0), cell.0 + cell.1.unwrap_or(0.0)]
    };
    let cells = figure.rows.iter().flat_map(|row| row.cells.iter().flatten());
    let values: Vec<f64> = cells.flat_map(ends).collect();
    let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = match lowest <= highest {
        true => (lowest, highest.max(lowest + 1.0)),
        false => (0.0, 100.0),
    };
    let y_ticks = ticks(range, 6.0, &[1.0, 2.0, 5.0, 10.0]);
    let top = TOP + KEY_LINE * figure.rows.len().div_ceil(2) as f64 + 16.0;
    let panel = Panel {
        left_right: LEFT_RIGHT,
        top_bottom: (top, top + PLOT),
        x_range: (-0.5, figure.columns.len().max(1) as f64 - 0.5),
        y_range: ends_of(&y_ticks),
    };
    let labels = |ticks: &[f64]| -> Vec<(f64, String)> {
        ticks.iter().map(|&tick| (tick, format!("{}", (tick * 1e6).round() / 1e6))).collect()
    };
    let columns: Vec<(f64, String)> = figure
        .columns
        .iter()
        .enumerate()
        .map(|(i, name)| (i as f64, escape(&shortened(name, 16))))
        .collect();
    let y_name = escape(figure.measure);
    let mut body =
        panel.labelled_axes("", (&escape(figure.axis), &columns), (&y_name, &labels(&y_ticks)));
    for (i, row) in figure.rows.iter().enumerate() {
        let kind = i % KINDS;
        let left = LEFT_RIGHT.0 + if i % 2 == 0 { 0.0 } else { 400.0 };
        let y = TOP + KEY_LINE * (i / 2) as f64;
        let _ = writeln!(
            body,
            r#"<path class="line kind{kind}" d="M{left} {}h24"/>{}<text x="{}" y="{y}">{}</text>"#,
            y - 4.0,
            dot(i, left + 12.0, y - 4.0),
            left + 32.0,
            escape(&shortened(&row.title, 52)),
        );
        let aside = APART * (i as f64 - (figure.rows.len() as f64 - 1.0) / 2.0);
        let (mut line, mut dots, mut bars) = (String::new(), String::new(), String::new());
        let mut joins = false;
        for (column, cell) in row.cells.iter().enumerate() {
            let Some((mean, deviation)) = cell else {
                joins = false;
                continue;
            };
            let (x, y) = (panel.x(column as f64) + aside, panel.y(*mean));
            let _ = write!(line, "{}{x:.1} {y:.1}", if joins { "L" } else { "M" });
            dots += &dot(i, x, y);
            if let Some(deviation) = deviation {
                let _ = write!(
                    bars,
                    "M{x:.1} {:.1}V{:.1}",
                    panel.y(mean - deviation),
                    panel.y(mean + deviation)
                );
            }
            joins = true;
        }
        let _ = writeln!(
            body,
            r#"<path class="line kind{kind}" d="{line}"/><path class="line kind{kind} faint" d="{bars}"/>{dots}"#
        );
    }
    let mut y = top + PLOT + 64.0;
    for line in figure.protocol {
        let (x, text) = (LEFT_RIGHT.0, escape(&shortened(line, 140)));
        let _ = writeln!(body, r#"<text x="{x}" y="{y}" class="small">{text}</text>"#);
        y += 16.0;
    }
    Drawing::new("Rows over the columns", (figure.title, figure.subtitle), y, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_spreads_lie_where_they_should_and_gaps_stay_open() {
        let row = |title: &str, cells: &[Option<(f64, Option<f64>)>]| GridRow {
            title: title.to_owned(),
            cells: cells.to_vec(),
        };
        let rows =
            [row("a<b>", &[Some((50.0, Some(2.0))), Some((60.0, None)), None, Some((52.0, None))])];
        let figure = ColumnsFigure {
            title: "t",
            subtitle: "",
            protocol: &["kNN", "k<5"],
            axis: "projector width",
            columns: &["64", "128", "256", "512"],
            measure: "kNN accuracy, %",
            rows: &rows,
        };
        let svg = columns_figure(&figure).standalone();
        // Columns at (i + 1/2) / 4 of 788 pixels; 48 to 60 in steps of 2 on 430 up to 130.
        assert!(svg.contains(r#"d="M170.5 380.0L367.5 130.0M761.5 330.0""#), "{svg}");
        assert!(svg.contains(r#"faint" d="M170.5 430.0V330.0""#), "{svg}");
        assert!(svg.contains(r#"cx="761.5" cy="330.0""#), "{svg}");
        assert!(!svg.contains("a<b>") && !svg.contains("k<5") && !svg.contains("NaN"));
        for rows in [&[][..], &[row("none", &[None; 4])]] {
            let svg = columns_figure(&ColumnsFigure { rows, ..figure.clone() }).standalone();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
