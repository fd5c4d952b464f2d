//! A matrix of shares as a picture: dark is 1.

use std::fmt::Write as _;

/// Steps of the colour scale: more cannot be told apart in print.
const LEVELS: usize = 10;

/// Cells a side at most: finer ones would be smaller than a pixel, and the file large.
const MOST_CELLS: usize = 96;

/// A matrix in `[0, 1]`, drawn from `(left, top)` on.
pub(crate) struct HeatMap<'a> {
    /// `[rows, columns]` row by row.
    pub values: &'a [f64],
    /// The rows in the order in which they are drawn, from the top.
    pub rows: &'a [usize],
    /// The columns in the order in which they are drawn, from the left.
    pub columns: &'a [usize],
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl HeatMap<'_> {
    /// Rows and columns that share a cell, each the mean of its part of the matrix.
    pub(crate) fn pooled(&self) -> (usize, usize) {
        let pooled = |n: usize| n.div_ceil(MOST_CELLS).max(1);
        (pooled(self.rows.len()), pooled(self.columns.len()))
    }

    /// The cells in their frame, without axes: a path for each level, equal neighbours in one
    /// piece.
    pub(crate) fn svg(&self) -> String {
        let cells = self.cells();
        let height = self.height / cells.len().max(1) as f64;
        let mut paths = vec![String::new(); LEVELS];
        for (i, row) in cells.iter().enumerate() {
            let cell = self.width / row.len() as f64;
            let mut first = 0;
            for run in row.chunk_by(|a, b| level(*a) == level(*b)) {
                let (x, y) = (self.left + first as f64 * cell, self.top + i as f64 * height);
                let width = run.len() as f64 * cell;
                let path = &mut paths[level(run[0])];
                let _ = write!(path, "M{x:.2} {y:.2}h{width:.2}v{height:.2}h-{width:.2}z");
                first += run.len();
            }
        }
        let mut svg = String::from("<g class=\"cells\">\n");
        for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
            let _ = writeln!(svg, r#"<path class="level{level}" d="{path}"/>"#);
        }
        let Self { left, top, width, height, .. } = self;
        let _ = writeln!(
            svg,
            r#"</g><path class="frame" d="M{left} {top}h{width}v{height}h-{width}z"/>"#
        );
        svg
    }

    /// The colour scale beside it, from 0 at the bottom to 1 at the top.
    pub(crate) fn scale(&self, name: &str) -> String {
        let (left, width) = (self.left + self.width + 14.0, 12.0);
        let step = self.height / LEVELS as f64;
        let mut svg = String::from("<g class=\"cells\">\n");
        for level in 0..LEVELS {
            let y = self.top + self.height - (level + 1) as f64 * step;
            let _ = writeln!(
                svg,
                r#"<path class="level{level}" d="M{left} {y:.2}h{width}v{step:.2}h-{width}z"/>"#
            );
        }
        svg.push_str("</g>\n");
        for (value, label) in [(0.0, "0"), (0.5, "0.5"), (1.0, "1")] {
            let y = self.top + self.height * (1.0 - value) + 4.0;
            let _ = writeln!(svg, r#"<text x="{}" y="{y:.2}">{label}</text>"#, left + width + 6.0);
        }
        let (x, y) = (left + width + 46.0, self.top + self.height / 2.0);
        let _ = writeln!(
            svg,
            r#"<text transform="translate({x} {y}) rotate(-90)" class="middle">{name}</text>"#
        );
        svg
    }

    fn cells(&self) -> Vec<Vec<f64>> {
        let n = self.columns.len();
        let (pooled_rows, pooled_columns) = self.pooled();
        let mean = |rows: &[usize], columns: &[usize]| {
            let sum: f64 = rows
                .iter()
                .map(|&k| columns.iter().map(|&l| self.values[k * n + l]).sum::<f64>())
                .sum();
            sum / (rows.len() * columns.len()) as f64
        };
        self.rows
            .chunks(pooled_rows)
            .map(|rows| self.columns.chunks(pooled_columns).map(|columns| mean(rows, columns)))
            .map(Iterator::collect)
            .collect()
    }
}

fn level(value: f64) -> usize {
    ((value * LEVELS as f64) as usize).min(LEVELS - 1)
}

/// The colours of the levels: from paper over a middle tone to the far end.
pub(crate) fn level_style(stops: [[u8; 3]; 3]) -> String {
    let colour = |level: usize| {
        let place = 2.0 * level as f64 / (LEVELS - 1) as f64;
        let (from, to, t) = match place < 1.0 {
            true => (stops[0], stops[1], place),
            false => (stops[1], stops[2], place - 1.0),
        };
        let mixed: [u8; 3] = std::array::from_fn(|i| {
            (f64::from(from[i]) + (f64::from(to[i]) - f64::from(from[i])) * t).round() as u8
        });
        mixed.map(|part| format!("{part:02x}")).concat()
    };
    (0..LEVELS).map(|level| format!(".level{level}{{fill:#{}}}", colour(level))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_in_their_order_and_equal_neighbours_are_one() {
        // Drawn in the order 1, 0: rows (1, 0.2), (0.2, 1).
        let values = [1.0, 0.2, 0.2, 1.0];
        let map = HeatMap {
            values: &values,
            rows: &[1, 0],
            columns: &[1, 0],
            left: 10.0,
            top: 0.0,
            width: 20.0,
            height: 20.0,
        };
        let svg = map.svg();
        let dark = "class=\"level9\" d=\"M10.00 0.00h10.00v10.00h-10.00zM20.00 10.00h10.00";
        assert!(svg.contains(dark), "{svg}");
        let same = HeatMap { values: &[0.5; 4], ..map };
        assert_eq!(same.svg().matches('M').count(), 3, "a piece for each row, and the frame");
    }

    #[test]
    fn many_dimensions_share_cells_by_their_mean() {
        let n = 4 * MOST_CELLS;
        let order: Vec<usize> = (0..n).collect();
        // A cell of the diagonal holds four ones among sixteen.
        let values: Vec<f64> = (0..n * n).map(|i| if i % n == i / n { 1.0 } else { 0.0 }).collect();
        let map = HeatMap {
            values: &values,
            rows: &order,
            columns: &order,
            left: 0.0,
            top: 0.0,
            width: 96.0,
            height: 96.0,
        };
        assert_eq!((map.pooled(), map.cells().len()), ((4, 4), MOST_CELLS));
        assert_eq!((map.cells()[5][5], map.cells()[5][6]), (0.25, 0.0));
        // Wide and low: 2 x n, of which the columns alone share cells.
        let wide = HeatMap { rows: &[1, 0], values: &values[..2 * n], ..map };
        assert_eq!((wide.pooled(), wide.cells()[1][0]), ((1, 4), 0.25));
        let nothing = HeatMap { values: &[], rows: &[], columns: &[], ..map };
        assert!(!nothing.svg().contains("NaN"));
    }

    #[test]
    fn the_scale_goes_from_the_first_to_the_last_colour() {
        let style = level_style([[255, 255, 255], [0, 114, 178], [0, 0, 0]]);
        assert!(style.starts_with(".level0{fill:#ffffff}"), "{style}");
        assert!(style.ends_with(".level9{fill:#000000}"), "{style}");
    }
}
