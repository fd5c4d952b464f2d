//! Every layout that the readers know, written small and read back.

mod archives;
mod folders;
mod hub_files;
mod python;
mod splits;
mod write;

use std::path::Path;

use metamask_data::{DataError, Dataset, DatasetSpec, Labelled, LoadOptions, Places, load};

/// Loads from a folder, without a cache.
fn from(spec: &str, dir: &Path) -> anyhow::Result<Dataset> {
    load(&spec.parse::<DatasetSpec>()?, &at(dir))
}

fn at(dir: &Path) -> LoadOptions {
    let places = Places { data_dir: Some(dir.into()), ..Places::default() };
    LoadOptions { places, ..LoadOptions::default() }
}

#[track_caller]
fn refused(result: anyhow::Result<Dataset>) -> DataError {
    result.unwrap_err().downcast::<DataError>().expect("a DataError")
}

/// Image `first + k` in place k, each pixel where it belongs.
#[track_caller]
fn assert_images(set: &Labelled, first: usize, side: usize) {
    assert!(!set.is_empty());
    for k in 0..set.len() {
        assert!(set.images.image(k) == write::rgb(first + k, side), "image {k}");
    }
}
