//! From a name to a data set.

use sha2::{Digest, Sha256};

use crate::cifar;
use crate::dataset::{Dataset, Labelled, Unlabelled};
use crate::decode::Target;
use crate::digest::hex;
use crate::error::DataError;
use crate::folder::{self, BadImages};
use crate::garments;
use crate::grey::{GreyImages, GreyLabelled};
use crate::hub_parquet;
use crate::idx_set;
use crate::manifest::{Layout, Manifest};
use crate::pixel_file::PixelFile;
use crate::places::Places;
use crate::scene::{ConfoundedImages, ConfoundedShapes, Difficulty, Ground, SceneSpec};
use crate::source::{self, Found, Search};
use crate::spec::DatasetSpec;
use crate::split::Split;
use crate::stl;
use crate::tiny_imagenet;

/// Where to look, how much to take, at what size, and how to draw the scenes.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where the data set's files are looked for and decoded images kept.
    pub places: Places,
    /// Number of training images, the first ones; `None` takes all.
    pub train: Option<usize>,
    /// Number of test images, the first ones; `None` takes all.
    pub test: Option<usize>,
    /// Rows and columns of the images, 8 to 1024: others are resized once. `None`
    /// leaves the size of the data set (grey images of 28×28 get a black rim to
    /// 32×32) and chooses one for a folder of images. Scenes are always 32×32.
    pub side: Option<usize>,
    /// Whether to leave out unlabelled images that equal a test image byte for
    /// byte; STL-10 is known to have 7,545 of them.
    pub drop_equal_to_test: bool,
    /// What to do with files in a folder of images that are none.
    pub bad_images: BadImages,
    /// How much the scenes hide the objects; data sets without scenes ignore it.
    pub difficulty: Difficulty,
    /// [`SceneSpec::spurious`], 0 to 1; data sets without scenes ignore it.
    pub spurious: f32,
    /// Seed of the scenes. Runs that are to be compared share it, whatever their
    /// own seeds.
    pub seed: u64,
}

/// Shapes are generated; as many as there are garments unless told otherwise.
const N_SHAPES: [usize; 2] = [7_000, 2_000];
/// 614 MB of bytes.
const MAX_SHAPES: usize = 200_000;

/// Loads and verifies a data set.
///
/// The first load of one that lies in files decodes them, in parallel, into one
/// file of the cache; later ones map that file.
///
/// # Errors
/// With a [`DataError`] inside if files are missing or are not what they should
/// be, or if more images are asked for than there are.
pub fn load(spec: &DatasetSpec, options: &LoadOptions) -> anyhow::Result<Dataset> {
    if !(0.0..=1.0).contains(&options.spurious) {
        let got = options.spurious;
        let message = format!("load: spurious share, expected 0 to 1, got {got}");
        return Err(DataError::request(message).into());
    }
    if let Some(side) = options.side.filter(|side| !(8..=1024).contains(side)) {
        let message = format!("load: side of the images, expected 8 to 1024, got {side}");
        return Err(DataError::request(message).into());
    }
    // Named by the user: to look elsewhere without a word would be no answer.
    if let Some(gone) = options.places.data_dir.as_ref().filter(|dir| !dir.exists()) {
        let message = format!("`{}`: is not there, expected the data set's files", gone.display());
        return Err(DataError::missing(message, None).into());
    }
    let dataset = match spec {
        DatasetSpec::Garments => in_scenes(spec, embedded(spec)?, options)?,
        DatasetSpec::GarmentsPlain => cut(embedded(spec)?, options)?,
        DatasetSpec::Shapes => shapes(options)?,
        DatasetSpec::Scenes(inner) => scenes_around(spec, inner, options)?,
        DatasetSpec::Folder(path) => {
            let file = folder::load(path, options)?;
            let licence = "your own images".to_owned();
            cut(from_pixels(spec.to_string(), licence, file, options), options)?
        }
        DatasetSpec::Manifest(_)
        | DatasetSpec::Mnist
        | DatasetSpec::FashionMnist
        | DatasetSpec::Cifar10
        | DatasetSpec::Cifar100
        | DatasetSpec::Stl10
        | DatasetSpec::TinyImagenet => {
            let manifest = spec.manifest()?.expect("these lie in files");
            from_manifest(spec, &manifest, options)?
        }
    };
    dataset.notes.iter().for_each(|note| options.places.report.note(note));
    Ok(dataset)
}

fn from_manifest(
    spec: &DatasetSpec,
    manifest: &Manifest,
    options: &LoadOptions,
) -> anyhow::Result<Dataset> {
    let file = pixels(manifest, options)?;
    let licence = format!("{}; {}", manifest.source, manifest.licence);
    cut(from_pixels(spec.to_string(), licence, file, options), options)
}

/// The decoded images of a set, from the cache or from its files.
pub(crate) fn pixels(manifest: &Manifest, options: &LoadOptions) -> Result<PixelFile, DataError> {
    let places = &options.places;
    let Search { found, looked } = source::search(manifest, places)?;
    let (origin, found) = match found {
        Some(found) => found,
        #[cfg(feature = "hub")]
        None if places.network.is_some() => crate::hub::fetch_found(manifest, places)?,
        None => return Err(source::missing(manifest, &looked)),
    };
    let side = options.side;
    let name = decoded_name(&manifest.name, &source::stamp(&found, manifest)?, side);
    let folder = places.decoded();
    let target = Target { folder, name, side, report: places.report.clone(), ..Target::default() };
    if let Some(place) = target.place()
        && let Some(file) = PixelFile::open(&place)?
    {
        return Ok(file);
    }
    let (sources, notes) = source::verify(manifest, places, origin, &found)?;
    decode(manifest, &found, &Target { sources, notes, ..target })
}

fn decode(manifest: &Manifest, found: &Found, target: &Target) -> Result<PixelFile, DataError> {
    let original = match found {
        Found::Parquet(parts) => return hub_parquet::read(manifest, parts, target),
        Found::Original(original) => original,
    };
    match (&manifest.layout, original) {
        (Layout::Cifar { folder, train, test, label_bytes, .. }, _) => {
            let files = cifar::Files { folder, train, test, label_bytes: *label_bytes };
            cifar::read(manifest, files, original, target)
        }
        (Layout::Stl { folder }, _) => stl::read(manifest, folder, original, target),
        (Layout::TinyImagenet { folder }, _) => {
            tiny_imagenet::read(manifest, folder, original, target)
        }
        (Layout::Idx { train, test, .. }, source::Original::Folder(dir)) => {
            idx_set::read(manifest, [train, test], dir, target)
        }
        (Layout::Idx { .. }, source::Original::Archive(path)) => {
            Err(DataError::kind(path, "one file", "the folder with the four IDX files"))
        }
    }
}

/// The name of a decoded file: the set's, and what it was made of and how.
pub(crate) fn decoded_name(name: &str, stamp: &[u8], side: Option<usize>) -> String {
    /// Raised when the same bytes are decoded to something else, or in another order.
    const VERSION: u8 = 2;
    let mut hash = Sha256::new();
    hash.update([VERSION]);
    hash.update(stamp);
    hash.update(side.unwrap_or(0).to_le_bytes());
    format!("{name}-{}.pixels", &hex(&hash.finalize())[..16])
}

fn from_pixels(
    name: String,
    licence: String,
    PixelFile { index, images }: PixelFile,
    options: &LoadOptions,
) -> Dataset {
    let (n_test, n_unlabelled, n) = (index.test.len(), index.unlabelled, index.len());
    let (equal, mut notes) = (index.equal_to_test, index.notes);
    let dropped = if options.drop_equal_to_test { equal } else { 0 };
    if equal > 0 {
        let done = if dropped > 0 { "left out" } else { "kept" };
        notes.push(format!("{equal} unlabelled images equal a test image and are {done}"));
    }
    let labelled = |range: std::ops::Range<usize>, labels| Labelled {
        images: images.slice(range),
        labels,
        class_names: index.class_names.clone(),
        factors: None,
    };
    let unlabelled = n_test + dropped..n_test + n_unlabelled;
    Dataset {
        name,
        licence,
        test: labelled(0..n_test, index.test),
        train: labelled(n_test + n_unlabelled..n, index.train),
        unlabelled: (!unlabelled.is_empty()).then(|| Unlabelled::from(images.slice(unlabelled))),
        folds: index.folds,
        notes,
    }
}

fn dataset(spec: &DatasetSpec, licence: &str, [train, test]: [Labelled; 2]) -> Dataset {
    Dataset {
        name: spec.to_string(),
        licence: licence.to_owned(),
        train,
        unlabelled: None,
        test,
        folds: Vec::new(),
        notes: Vec::new(),
    }
}

/// The embedded garments, grey, in 32×32 RGB.
fn embedded(spec: &DatasetSpec) -> Result<Dataset, DataError> {
    let splits = garments::embedded()?.map(|set| match spec {
        // Scenes are drawn around the photographs without a rim.
        DatasetSpec::Garments => native(set),
        _ => set.into_rgb(&garments::CLASS_NAMES),
    });
    Ok(dataset(spec, garments::LICENCE, splits))
}

fn native(set: GreyLabelled) -> Labelled {
    let rgb: Vec<u8> = set.images.bytes.iter().flat_map(|&value| [value; 3]).collect();
    let (height, width) = (set.images.height(), set.images.width());
    Labelled {
        images: crate::images::Images::new(rgb, height, width).expect("whole images"),
        labels: set.labels.into_iter().map(u32::from).collect(),
        class_names: garments::CLASS_NAMES.map(String::from).into(),
        factors: None,
    }
}

/// Photographs fill their frame; garments and digits stand on black.
const PHOTOGRAPH_SIDE: usize = 32;

fn scenes_around(
    spec: &DatasetSpec,
    inner: &DatasetSpec,
    options: &LoadOptions,
) -> anyhow::Result<Dataset> {
    let side = match inner {
        DatasetSpec::Mnist | DatasetSpec::FashionMnist => 28,
        _ => PHOTOGRAPH_SIDE,
    };
    let options = LoadOptions { side: Some(side), ..options.clone() };
    let objects = load(inner, &LoadOptions { train: None, test: None, ..options.clone() })?;
    in_scenes(spec, Dataset { name: spec.to_string(), ..objects }, &options)
}

fn in_scenes(
    spec: &DatasetSpec,
    objects: Dataset,
    options: &LoadOptions,
) -> anyhow::Result<Dataset> {
    let garments = SceneSpec::garments(options.difficulty);
    let scene = &SceneSpec { spurious: options.spurious, ..garments };
    let ground = match spec {
        DatasetSpec::Scenes(inner)
            if !matches!(**inner, DatasetSpec::Mnist | DatasetSpec::FashionMnist) =>
        {
            Ground::Opaque
        }
        _ => Ground::Black,
    };
    let objects = cut(objects, options)?;
    let draw = |split, set: &Labelled| {
        let scenes = ConfoundedImages {
            seed: options.seed,
            split,
            spec: scene,
            objects: &GreyImages::of_rgb(&set.images),
            ground,
            labels: &set.labels,
            class_names: &set.class_names,
        };
        scenes.generate()
    };
    let (train, test) = (draw(Split::Train, &objects.train), draw(Split::Test, &objects.test));
    Ok(Dataset { train, test, unlabelled: None, folds: Vec::new(), ..objects })
}

fn shapes(options: &LoadOptions) -> anyhow::Result<Dataset> {
    let shapes = SceneSpec::shapes(options.difficulty);
    let spec = &SceneSpec { spurious: options.spurious, ..shapes };
    let generate = |split, which, n: usize| {
        check_number(which, n, MAX_SHAPES)?;
        let n = u32::try_from(n).expect("checked");
        Ok::<_, DataError>(ConfoundedShapes { seed: options.seed, split, spec }.generate(n))
    };
    let splits = [
        generate(Split::Train, "training", options.train.unwrap_or(N_SHAPES[0]))?,
        generate(Split::Test, "test", options.test.unwrap_or(N_SHAPES[1]))?,
    ];
    let licence = "generated by this program; no rights of others";
    Ok(dataset(&DatasetSpec::Shapes, licence, splits))
}

/// The first images of both splits, as many as asked for.
fn cut(dataset: Dataset, options: &LoadOptions) -> anyhow::Result<Dataset> {
    let first = |which, set: Labelled, n: Option<usize>| -> Result<Labelled, DataError> {
        let Some(n) = n else { return Ok(set) };
        check_number(which, n, set.len())?;
        Ok(set.slice(0..n))
    };
    let train = first("training", dataset.train, options.train)?;
    let test = first("test", dataset.test, options.test)?;
    let whole = options.train.is_none();
    let folds = if whole { dataset.folds } else { Vec::new() };
    Ok(Dataset { train, test, folds, ..dataset })
}

fn check_number(which: &str, n: usize, n_all: usize) -> Result<(), DataError> {
    if (1..=n_all).contains(&n) {
        return Ok(());
    }
    Err(DataError::request(format!(
        "load: number of {which} images, expected 1 to {n_all}, got {n}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(train: usize, test: usize) -> LoadOptions {
        LoadOptions { train: Some(train), test: Some(test), ..Default::default() }
    }

    #[test]
    fn every_embedded_set_is_32_by_32_rgb_and_can_be_cut() {
        for spec in DatasetSpec::named().filter(|spec| spec.is_embedded()) {
            let dataset = load(&spec, &some(50, 20)).unwrap();
            assert_eq!((dataset.train.len(), dataset.test.len()), (50, 20));
            for split in [&dataset.train, &dataset.test] {
                assert_eq!(split.images.image(19).len(), 32 * 32 * 3);
                assert!(split.labels.iter().enumerate().all(|(i, &label)| label == i as u32 % 10));
                assert_eq!(split.n_classes(), 10);
                let factors = split.factors.as_ref().map(|factors| factors.len());
                let plain = spec == DatasetSpec::GarmentsPlain;
                assert_eq!(factors, (!plain).then_some(split.len()));
            }
        }
    }

    #[test]
    fn more_images_than_there_are_or_none_is_an_error() {
        for spec in [DatasetSpec::Garments, DatasetSpec::GarmentsPlain] {
            for n in [0, 7_001] {
                let error = load(&spec, &some(n, 10)).unwrap_err();
                assert_eq!(error.downcast_ref::<DataError>().unwrap().code, "DATA-REQUEST");
                assert!(error.to_string().ends_with(&format!("expected 1 to 7000, got {n}")));
            }
        }
        assert!(load(&DatasetSpec::Shapes, &some(10, 200_001)).is_err());
    }

    #[test]
    fn a_spurious_share_outside_0_to_1_and_odd_sides_are_errors() {
        for spurious in [-0.1, 1.1, f32::NAN] {
            let options = LoadOptions { spurious, ..some(10, 10) };
            assert!(load(&DatasetSpec::Shapes, &options).is_err());
        }
        for side in [0, 7, 1025] {
            let options = LoadOptions { side: Some(side), ..some(10, 10) };
            assert!(load(&DatasetSpec::Shapes, &options).is_err());
        }
    }
}
