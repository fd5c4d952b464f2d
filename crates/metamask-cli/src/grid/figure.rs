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
        for (i, line) in column.lines.iter().enumerate() {
            if rows.len() == i {
                rows.push(GridRow { title: line.title.clone(), cells: Vec::new() });
            }
            rows[i].cells.push(line.ours.map(|ours| (ours.mean, ours.std)));
            if let Some(ours) = line.ours {
                let std = ours.std.map_or_else(String::new, |std| std.to_string());
                let n = line.seeds.len().to_string();
                csv.row(&[&line.title, &column.title, &ours.mean.to_string(), &std, &n]);
            }
        }
    }
    let columns: Vec<&str> = section.columns.iter().map(|column| &*column.title).collect();
    let protocol = section.columns.iter().find_map(|column| column.protocol.as_deref());
    let protocol: Vec<&str> = protocol.unwrap_or_default().split("; ").collect();
    let about = section.about.trim();
    let drawing = columns_figure(&ColumnsFigure {
        title: &table.title,
        subtitle: &format!("{about} Bars: one standard deviation over the seeds."),
        protocol: &protocol,
        axis: &grid.axis,
        columns: &columns,
        measure: &format!("{} accuracy, %", table.measure),
        rows: &rows,
    });
    print::to_stdout(&files.write(&drawing, &csv)?)
}
