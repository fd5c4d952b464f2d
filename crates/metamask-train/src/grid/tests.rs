//! The table that comes with the repository.

use std::path::Path;

use super::{Arm, GridFile, Selection, jobs};
use crate::presets::Cell;

fn paper_table() -> GridFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/tables/paper-table.toml");
    GridFile::read(&path).expect("the repository's own grid")
}

#[test]
fn the_paper_s_table_has_the_presets_numbers() {
    let grid = paper_table();
    let mut n_numbers = 0;
    for cell in Cell::all() {
        let name = format!("{}{}", cell.method, if cell.metamask { "-metamask" } else { "" });
        let row = grid.rows.iter().find(|row| row.name == name).expect("every row");
        assert_eq!(row.title, cell.row());
        assert_eq!(row.paper.get(cell.data).copied(), cell.paper_percent(), "{}", cell.name());
        n_numbers += usize::from(cell.paper_percent().is_some());
    }
    assert_eq!((grid.rows.len(), n_numbers), (12, 2 * 48));
}

#[test]
fn every_budget_and_recipe_comes_to_jobs() {
    let grid = paper_table();
    let count = |budget: &str, recipe: Option<&str>| {
        let selection = Selection {
            budget: Some(budget.to_owned()),
            recipes: recipe.map(str::to_owned).into_iter().collect(),
            ..Selection::default()
        };
        let jobs = jobs(&grid, &selection).expect("every cell's settings fit");
        let extra = jobs.iter().filter(|job| job.arm == Arm::BaseAtEqualCompute).count();
        (jobs.len(), extra)
    };
    // Twelve rows and six bases at equal compute, times columns, recipes and seeds.
    assert_eq!(count("paper", None), (18 * 5 * 2 * 3, 6 * 5 * 2 * 3));
    assert_eq!(count("short", None), (18 * 3, 6 * 3));
    assert_eq!(count("short", Some("authors")), (18 * 3, 6 * 3));
    assert_eq!(count("smoke", None), (18 * 2 * 2, 6 * 2 * 2));
}
