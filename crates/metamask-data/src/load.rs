//! From a name to a data set in memory.

use std::path::PathBuf;

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::garments;
use crate::grey::GreyLabelled;
use crate::spec::DatasetSpec;

/// Where to look and how much to take.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The folder with the data set's files; `None` looks where packages put them.
    pub data_dir: Option<PathBuf>,
    /// Number of training images, the first ones; `None` takes all.
    pub train: Option<usize>,
    /// Number of test images, the first ones; `None` takes all.
    pub test: Option<usize>,
}

/// Loads and verifies a data set.
///
/// # Errors
/// With a [`DataError`] inside if files are missing or are not what they should
/// be, or if more images are asked for than there are.
pub fn load(spec: &DatasetSpec, options: &LoadOptions) -> anyhow::Result<Dataset> {
    let [mut train, mut test] = match spec {
        DatasetSpec::GarmentsPlain => garments::embedded()?,
        DatasetSpec::FashionMnist => garments::fashion_mnist(options.data_dir.as_deref())?,
    };
    cut(*spec, "training", &mut train, options.train)?;
    cut(*spec, "test", &mut test, options.test)?;
    Ok(Dataset {
        name: spec.to_string(),
        licence: garments::LICENCE.to_owned(),
        train: train.into_rgb(&garments::CLASS_NAMES),
        test: test.into_rgb(&garments::CLASS_NAMES),
    })
}

fn cut(
    spec: DatasetSpec,
    which: &str,
    set: &mut GreyLabelled,
    n: Option<usize>,
) -> Result<(), DataError> {
    let n_all = set.labels.len();
    let n = n.unwrap_or(n_all);
    if !(1..=n_all).contains(&n) {
        return Err(DataError::request(format!(
            "load `{spec}`: number of {which} images, expected 1 to {n_all}, got {n}"
        )));
    }
    set.truncate(n);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_garments_are_32_by_32_rgb_and_can_be_cut() {
        let options = LoadOptions { train: Some(50), test: Some(20), ..Default::default() };
        let dataset = load(&DatasetSpec::GarmentsPlain, &options).unwrap();
        assert_eq!((dataset.train.len(), dataset.test.len()), (50, 20));
        assert_eq!(dataset.train.images.image(49).len(), 32 * 32 * 3);
        assert_eq!(dataset.train.labels.len(), 50);
        assert_eq!(dataset.train.n_classes(), 10);
    }

    #[test]
    fn more_images_than_there_are_or_none_is_an_error() {
        for n in [0, 7_001] {
            let options = LoadOptions { train: Some(n), ..Default::default() };
            let error = load(&DatasetSpec::GarmentsPlain, &options).unwrap_err();
            assert_eq!(error.downcast_ref::<DataError>().unwrap().code, "DATA-REQUEST");
            assert!(
                error.to_string().ends_with(&format!("expected 1 to 7000, got {n}")),
                "{error}"
            );
        }
    }
}
