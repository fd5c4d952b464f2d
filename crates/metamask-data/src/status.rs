//! Whether a data set is on this machine, and whether it is what was published.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::DataError;
use crate::load::{LoadOptions, pixels};
use crate::manifest::Manifest;
use crate::places::Places;
use crate::source::{self, Found, Origin, Original, Search};

/// What is known of a data set's files on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the files were found; `None` if they were not.
    pub origin: Option<Origin>,
    /// The files, or the folder or archive they are in.
    pub files: Vec<PathBuf>,
    /// Every place that was looked at.
    pub looked: Vec<PathBuf>,
    /// Whether the files were decoded, which they are only once verified.
    pub is_verified: bool,
}

/// Looks for a data set without opening its files.
///
/// # Errors
/// If the folder that was named holds pickles, or a file's size cannot be read.
pub fn status(manifest: &Manifest, places: &Places) -> Result<Status, DataError> {
    let Search { found, looked } = source::search(manifest, places)?;
    let Some((origin, found)) = found else {
        return Ok(Status { origin: None, files: Vec::new(), looked, is_verified: false });
    };
    let name = crate::load::decoded_name(&manifest.name, &source::stamp(&found, manifest)?, None);
    let decoded = places.decoded().map(|folder| folder.join(name));
    let files = match found {
        Found::Original(Original::Folder(path) | Original::Archive(path)) => vec![path],
        Found::Parquet(parts) => parts.into_iter().map(|part| part.path).collect(),
    };
    let is_verified = decoded.is_some_and(|path| path.exists());
    Ok(Status { origin: Some(origin), files, looked, is_verified })
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Each file that was read, with its SHA-256.
    pub files: Vec<(String, String)>,
    /// What a user should know: unpinned files, files of another size.
    pub notes: Vec<String>,
    /// Number of test, training and unlabelled images.
    pub images: [usize; 3],
    /// SHA-256 of the decoded images.
    pub pixels_sha256: String,
}

/// Reads a data set's files and its decoded images again, and compares both
/// with their digests.
///
/// # Errors
/// If anything is missing or differs.
pub fn verify(manifest: &Manifest, options: &LoadOptions) -> Result<Verified, DataError> {
    let Search { found, looked } = source::search(manifest, &options.places)?;
    let Some((origin, found)) = found else { return Err(source::missing(manifest, &looked)) };
    let (_, notes) = source::verify(manifest, &options.places, origin, &found)?;
    let file = pixels(manifest, options)?;
    let index = &file.index;
    let mut hash = Sha256::new();
    file.images.blocks().for_each(|block| hash.update(block));
    let decoded = hex(&hash.finalize());
    if decoded != index.pixels_sha256 {
        let place = options.places.decoded().unwrap_or_default();
        let error = DataError::hash(&place, &decoded, &index.pixels_sha256);
        let help = format!("remove the folder `{}`; it is made anew", place.display());
        return Err(DataError { help: Some(help), ..error });
    }
    Ok(Verified {
        files: index.sources.iter().map(|file| (file.name.clone(), file.sha256.clone())).collect(),
        notes,
        images: [index.test.len(), index.train.len(), index.unlabelled],
        pixels_sha256: decoded,
    })
}
