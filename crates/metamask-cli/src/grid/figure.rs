//! `metamask grid figure`: the records as a picture.

use metamask_report::{ColumnsFigure, GridRow, columns_figure};
use metamask_train::{
    Code, Failure,
    grid::{GridFile, table::Section},
};

use super::{added_up, arguments::FigureArguments};
use crate::{csv::Csv, figure::Files, print};

pub(super) fn figure(arguments: &FigureArguments) -> anyhow::Result<()> {
    let grid = GridFile::read(&arguments.which.grid)?;
    if let Some(name) =
        arguments.rows.iter().find(|&name| grid.rows.iter().all(|r| r.name != *name))
    {
        let message = format!("the grid has no row `{name}`");
        return Err(Failure::at(Code::Usage, &arguments.which.grid, message).into());
    }
    let files = Files::new(&arguments.out, &grid.name)?;
    let (table, _) = added_up(&grid, &arguments.which)?;
    let with_numbers = |section: &&Section| -> bool {
        section.columns.iter().any(|column| column.lines.iter().any(|line| line.ours.is_some()))
    };
    let sections: Vec<&Section> = table.sections.iter().filter(with_numbers).collect();
    let section = match sections[..] {
        [section] => section,
        [] => {
            let failure = Failure::new(Code::Missing, "there are no records of this grid yet");
            return Err(failure.help("`metamask grid run` makes them").into());
        }
        _ => {
            let message = "there are records of several budgets or recipes, expected one of them";
            let failure = Failure::new(Code::Usage, message);
            return Err(failure.help("choose with --budget and --recipes").into());
        }
    };
    let mut csv = Csv::new(&["row", "column", "mean_percent", "std", "seeds"]);
    let mut rows: Vec<GridRow> = Vec::new();
    for column in &section.columns {
        let is_meant = |row| arguments.rows.is_empty() || arguments.rows.contains(row);
        for (i, line) in column.lines.iter().filter(|line| is_meant(&line.row)).enumerate() {
            if rows.len() == i {
                rows.push(GridRow { title: line.title.clone(), cells: Vec::new() });
            }
            rows[i].cells.push(line.ours.map(|ours| (ours.mean, ours.std)));
            if let Some(ours) = line.ours {
                let std = ours.std.map_or_else(String::new, |std| std.to_string());
                let (mean, n) = (ours.mean.to_string(), ours.n.to_string());
                csv.row(&[&line.title, &column.title, &mean, &std, &n]);
            }
        }
    }
    if rows.len() > ColumnsFigure::MOST_ROWS {
        let (n, most) = (rows.len(), ColumnsFigure::MOST_ROWS);
        let failure = Failure::new(Code::Usage, format!("{n} lines, expected at most {most}"));
        return Err(failure.help("choose with --rows: more share a colour").into());
    }
    let columns: Vec<&str> = section.columns.iter().map(|column| &*column.title).collect();
    let mut protocol: Vec<&str> = section.about.trim().lines().collect();
    // Columns differ in their images, as a rule, and in nothing else.
    let of_columns = section.columns.iter().filter_map(|column| column.protocol.as_deref());
    for part in of_columns.flat_map(|line| line.split("; ")) {
        if !protocol.contains(&part) {
            protocol.push(part);
        }
    }
    let drawing = columns_figure(&ColumnsFigure {
        title: &table.title,
        subtitle: "Means over the seeds; bars: one standard deviation to either side",
        protocol: &protocol,
        axis: &grid.axis,
        columns: &columns,
        measure: &format!("{} accuracy, %", table.measure),
        rows: &rows,
    });
    print::to_stdout(&files.write(&drawing, &csv)?)
}
