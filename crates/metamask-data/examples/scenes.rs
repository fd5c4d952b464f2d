//! Writes a picture of a data set: one column a class.
//!
//!     cargo run --release -p metamask-data --example scenes -- garments medium sheet.png

use std::path::Path;

use metamask_data::{DatasetSpec, Difficulty, LoadOptions, Tile, contact_sheet, load, save_png};

const ROWS: usize = 8;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let spec: DatasetSpec = arguments.next().as_deref().unwrap_or("garments").parse()?;
    let difficulty: Difficulty = arguments.next().as_deref().unwrap_or("medium").parse()?;
    let path = arguments.next().unwrap_or("sheet.png".into());

    let dataset = load(&spec, &LoadOptions { difficulty, ..Default::default() })?;
    let images = &dataset.train.images;
    // Image i shows class i mod 10.
    let tile = |i| Tile { bytes: images.image(i), height: images.height(), width: images.width() };
    let rows: Vec<Vec<_>> =
        (0..ROWS).map(|y| (0..10).map(|x| tile(10 * y + x)).collect()).collect();
    save_png(&contact_sheet(&rows, 3), Path::new(&path))?;

    println!(
        "{}: {} training and {} test images",
        dataset.name,
        dataset.train.len(),
        dataset.test.len()
    );
    println!("{}", dataset.licence);
    if let Some(factors) = &dataset.train.factors {
        for (factor, value) in factors.factors().iter().zip(factors.row(0)) {
            println!("{:24} {:?}: {value}", factor.name, factor.group);
        }
    }
    Ok(())
}
