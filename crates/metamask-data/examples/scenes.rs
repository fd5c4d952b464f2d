//! Loads a data set, says what its first image is made of, and, given a path,
//! writes a picture with one column for each class.
//!
//!     cargo run --release -p metamask-data --example scenes -- garments medium sheet.png

use metamask_data::{DatasetSpec, Difficulty, LoadOptions, Tile, contact_sheet, load, png_bytes};

const ROWS: usize = 8;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let spec: DatasetSpec = arguments.next().as_deref().unwrap_or("garments").parse()?;
    let difficulty: Difficulty = arguments.next().as_deref().unwrap_or("medium").parse()?;
    let picture = arguments.next();

    let dataset = load(&spec, &LoadOptions { difficulty, ..Default::default() })?;
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
    if let Some(path) = picture {
        let images = &dataset.train.images;
        // Image i shows class i mod 10 in the data sets that need no files.
        let row = |y: usize| (10 * y..10 * y + 10).map(|i| Tile::of(images, i)).collect();
        let rows: Vec<Vec<Tile<'_>>> = (0..ROWS).map(row).collect();
        std::fs::write(&path, png_bytes(&contact_sheet(&rows, 3)))?;
        println!("picture: {path}");
    }
    Ok(())
}
