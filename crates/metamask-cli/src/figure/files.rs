//! The three files of a figure.

use std::path::{Path, PathBuf};

use metamask_report::Drawing;
use metamask_train::{Failure, expect_new, shown, write_new};

use super::png;
use crate::csv::Csv;

/// NAME.svg, NAME.png and NAME.csv of a folder.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    folder: &'a Path,
    paths: [PathBuf; 3],
}

impl<'a> Files<'a> {
    /// # Errors
    /// If one of them is there already.
    pub fn new(folder: &'a Path, name: &str) -> Result<Self, Failure> {
        let paths = ["svg", "png", "csv"].map(|end| folder.join(format!("{name}.{end}")));
        paths.iter().try_for_each(|path| expect_new(Some(path)))?;
        Ok(Self { folder, paths })
    }

    /// Writes them and returns the lines that say so.
    ///
    /// # Errors
    /// If they cannot be written, or no font is installed for the PNG.
    pub fn write(&self, drawing: &Drawing, table: &Csv) -> anyhow::Result<String> {
        let (folder, [svg, png, csv]) = (self.folder, &self.paths);
        let text = drawing.standalone();
        let pixels = png::png_of(&text)?;
        std::fs::create_dir_all(folder).map_err(|error| Failure::io(folder, "create", &error))?;
        write_new(svg, text.as_bytes())?;
        write_new(png, &pixels)?;
        write_new(csv, table.text().as_bytes())?;
        Ok(self.paths.iter().map(|path| format!("wrote     {}\n", shown(path))).collect())
    }
}
