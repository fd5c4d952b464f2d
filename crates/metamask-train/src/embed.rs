//! Features of anybody's images: a folder in, one file with a row for each image out.
//!
//! Images are decoded upright and go through what evaluation uses (shorter side
//! to the run's size, centre square, ImageNet's mean and standard deviation),
//! then through the encoder under its running statistics. A JPEG's bytes differ by
//! a step or two between decoders, and the features in the third digit.

mod write;

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use metamask_augment::{ImageBatch, Pipeline, evaluation, evaluation_views, to_tensor};
use metamask_data::{Picture, read_picture};
use metamask_ops::BatchStats;
use rayon::prelude::*;

use crate::{
    checkpoint::State,
    config::Config,
    failure::{Code, Failure, shown},
    learner::Learner,
};
pub use write::EmbeddingFiles;

/// Endings that images have.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 4_000_000;
/// A picture longer than so many of its shorter sides loses its ends before it is
/// resized: only the middle square is looked at, and a sliver grows when its shorter
/// side is brought to the run's size.
const MAX_ASPECT: usize = 8;

/// What happens at a file that is no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadImages {
    /// It ends the work, and is named.
    Fail,
    /// It is left out, and is named.
    Skip,
}

/// Images by their features.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// Paths below the folder, in bytewise order, parts joined by `/`.
    pub names: Vec<String>,
    /// h, `[N, D]`, not masked.
    pub features: Tensor,
    /// m, `[D]`, where the run has a mask over its features.
    pub mask: Option<Tensor>,
    /// Where the run stood.
    pub state: State,
    /// Files that were left out, with the reason.
    pub skipped: Vec<Failure>,
}

/// Features of every image below a folder.
///
/// `progress` is told how many of how many are done.
///
/// # Errors
/// If the folder cannot be read or has no image, a file is no image and `bad` says
/// so, or a feature is not finite.
pub fn embed(
    (config, learner, state): (&Config, &Learner, State),
    folder: &Path,
    bad: BadImages,
    progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Embeddings> {
    let size = config.augmentation.size;
    let files = list(folder)?;
    let theta: Vec<Tensor> = learner.theta().encoder.iter().map(Tensor::detach).collect();
    let pipeline = evaluation(size);
    let (mut names, mut parts, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    let (n_files, mut done) = (files.len(), 0);
    for files in files.chunks(batch_of(size)) {
        let decoded: Vec<_> = files.par_iter().map(|(path, _)| view(path, &pipeline)).collect();
        let mut views = Vec::with_capacity(files.len() * size * size * 3);
        for ((_, name), decoded) in files.iter().zip(decoded) {
            match (decoded, bad) {
                (Ok(view), _) => {
                    views.extend(view);
                    names.push(name.clone());
                }
                (Err(failure), BadImages::Fail) => {
                    return Err(failure.help("leave such files out with --bad-images skip").into());
                }
                (Err(failure), BadImages::Skip) => skipped.push(failure),
            }
        }
        if !views.is_empty() {
            let views = to_tensor(views, (size, size), learner.device())?;
            let features = learner.encoder.forward(&views, &theta, BatchStats::Running)?;
            parts.push(features.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?);
        }
        done += files.len();
        progress(done, n_files);
    }
    if parts.is_empty() {
        let message = format!("none of its {} files is an image", skipped.len());
        return Err(Failure::at(Code::Data, folder, message).into());
    }
    let features = Tensor::cat(&parts, 0)?;
    let bad = crate::checkpoint::count_not_finite(&features)?;
    if bad > 0 {
        let message = format!("{bad} features of these images are not finite");
        return Err(Failure::at(Code::NotFinite, folder, message).into());
    }
    Ok(Embeddings { names, features, mask: learner.feature_mask()?, state, skipped })
}

/// How many images go through at a time, so that memory stays that of 256 images
/// of 32 pixels; results do not depend on it.
fn batch_of(size: usize) -> usize {
    (256 * 32 * 32 / (size * size)).clamp(8, 256)
}

/// The images below a folder: paths, and names below it, in bytewise order of the names.
fn list(folder: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((path, prefix, depth)) = open.pop() {
        let entries = fs::read_dir(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::at(Code::Missing, &path, "is not there, expected a folder of images")
            }
            _ => Failure::io(&path, "list", &error),
        })?;
        for entry in entries {
            let entry = entry.map_err(|error| Failure::io(&path, "list", &error))?;
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| {
                Failure::at(Code::Data, &path, "has a name that is no UTF-8, expected one that is")
            })?;
            let name = format!("{prefix}{name}");
            // Links are followed: data sets are often put together of them.
            let is_folder = path.is_dir();
            let ending = path.extension().and_then(|ending| ending.to_str());
            let ending = ending.map(str::to_ascii_lowercase);
            if is_folder && depth == MAX_DEPTH {
                let message = format!("lies more than {MAX_DEPTH} folders deep");
                return Err(Failure::at(Code::Data, &path, message));
            } else if is_folder {
                open.push((path, format!("{name}/"), depth + 1));
            } else if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
                found.push((path, name));
            }
            if found.len() > MAX_FILES {
                let message = format!("has more than {MAX_FILES} images");
                return Err(Failure::at(Code::Data, folder, message));
            }
        }
    }
    if found.is_empty() {
        let message = format!("has no image, expected files ending in {}", ENDINGS.join(", "));
        return Err(Failure::at(Code::Data, folder, message));
    }
    found.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
    Ok(found)
}

/// What the encoder sees of an image's file, `[size, size, 3]`.
fn view(path: &Path, pipeline: &Pipeline) -> Result<Vec<f32>, Failure> {
    let picture = within_aspect(read_picture(path).map_err(Failure::of_data)?);
    ImageBatch::new(&picture.bytes, picture.height, picture.width)
        .and_then(|batch| evaluation_views(pipeline, batch, &[0]))
        .map_err(|error| Failure::at(Code::Data, path, error))
}

/// The middle of a picture that is longer than [`MAX_ASPECT`] of its shorter sides.
fn within_aspect(picture: Picture) -> Picture {
    let Picture { bytes, height, width } = picture;
    let limit = MAX_ASPECT * height.min(width);
    let (rows, columns) = (height.min(limit), width.min(limit));
    if (rows, columns) == (height, width) {
        return Picture { bytes, height, width };
    }
    let (top, left) = ((height - rows) / 2, (width - columns) / 2);
    let row = |y: usize| &bytes[((top + y) * width + left) * 3..][..columns * 3];
    let middle = (0..rows).flat_map(row).copied().collect();
    Picture { bytes: middle, height: rows, width: columns }
}

/// A line about what was left out, if anything was.
pub fn skipped_line(skipped: &[Failure], folder: &Path) -> Option<String> {
    match skipped {
        [] => None,
        [first, ..] => Some(format!(
            "{}: {} damaged files left out, the first: {}",
            shown(folder),
            skipped.len(),
            first.message
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sliver_keeps_its_middle_and_a_panorama_is_left_alone() {
        // 1 x 100: columns 46 to 53 are the middle eight.
        let bytes: Vec<u8> = (0..100).flat_map(|x| [x; 3]).collect();
        let lying = Picture { bytes: bytes.clone(), height: 1, width: 100 };
        let middle = within_aspect(lying);
        assert_eq!((middle.height, middle.width), (1, 8));
        assert_eq!(middle.bytes, (46..54).flat_map(|x| [x; 3]).collect::<Vec<u8>>());
        let standing = within_aspect(Picture { bytes, height: 100, width: 1 });
        assert_eq!((standing.height, standing.width, standing.bytes), (8, 1, middle.bytes));
        let panorama = Picture { bytes: vec![7; 2 * 16 * 3], height: 2, width: 16 };
        assert_eq!(within_aspect(panorama.clone()), panorama);
    }
}
