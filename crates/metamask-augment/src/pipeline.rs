//! A checked list of transforms, and the pair of them that two views need.

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::Transform;
use crate::resample::resized;

/// Transforms in the order in which they happen, every setting in its range.
///
/// A config file holds a list of tables; it is checked while it is read:
///
/// ```
/// # use std::collections::BTreeMap;
/// # use metamask_augment::Pipeline;
/// let text = "
///     view = [
///         { kind = 'random-resized-crop', size = 32, scale = [0.2, 1.0] },
///         { kind = 'horizontal-flip' },
///         { kind = 'normalize' },
///     ]";
/// let config: BTreeMap<String, Pipeline> = toml::from_str(text).unwrap();
/// assert_eq!(config["view"].output_size(96, 96).unwrap(), (32, 32));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Transform>", into = "Vec<Transform>")]
pub struct Pipeline {
    transforms: Vec<Transform>,
}

impl Pipeline {
    /// Checks the settings and that `Normalize` stands last: the others expect
    /// values from black to white.
    ///
    /// # Errors
    /// See [`Transform::validate`].
    pub fn new(transforms: Vec<Transform>) -> Result<Self> {
        for (index, transform) in transforms.iter().enumerate() {
            transform.validate()?;
            if matches!(transform, Transform::Normalize { .. }) && index + 1 != transforms.len() {
                bail!(
                    "pipeline: normalize must be the last transform, expected position {}, \
                     got {index}",
                    transforms.len() - 1
                );
            }
        }
        Ok(Self { transforms })
    }

    /// The transforms, in order.
    pub fn transforms(&self) -> &[Transform] {
        &self.transforms
    }

    /// The same pipeline up to its normalisation: the same draws, values in 0
    /// to 1, to be looked at.
    pub fn without_normalize(&self) -> Self {
        let kept = |transform: &&Transform| !matches!(transform, Transform::Normalize { .. });
        Self { transforms: self.transforms.iter().filter(kept).cloned().collect() }
    }

    /// Whether two keys can give two results.
    pub fn is_random(&self) -> bool {
        self.transforms.iter().any(Transform::is_random)
    }

    /// Height and width of what comes out when images of `height` x `width` go in.
    ///
    /// # Errors
    /// If a transform cannot be done at the size it meets: a centre crop larger
    /// than the image, a blur whose reflection is wider than the image.
    pub fn output_size(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        if height == 0 || width == 0 {
            bail!(
                "pipeline: images must not be empty, expected a positive height and width, \
                 got {height} x {width}"
            );
        }
        let mut current = (height, width);
        for transform in &self.transforms {
            let (height, width) = current;
            match *transform {
                Transform::RandomResizedCrop { size, .. } => current = (size, size),
                Transform::Resize { size } => current = resized(height, width, size),
                Transform::CenterCrop { size } => {
                    if size > height.min(width) {
                        bail!(
                            "center-crop: size must lie within the image, expected at most {}, \
                             got {size}",
                            height.min(width)
                        );
                    }
                    current = (size, size);
                }
                Transform::GaussianBlur { kernel, .. } => {
                    if kernel / 2 >= height.min(width) {
                        bail!(
                            "gaussian-blur: kernel must reflect within the image, \
                             expected at most {}, got {kernel}",
                            2 * height.min(width) - 1
                        );
                    }
                }
                Transform::HorizontalFlip { .. }
                | Transform::ColorJitter { .. }
                | Transform::Grayscale { .. }
                | Transform::Solarize { .. }
                | Transform::Normalize { .. } => {}
            }
        }
        Ok(current)
    }
}

impl TryFrom<Vec<Transform>> for Pipeline {
    type Error = candle_core::Error;

    fn try_from(transforms: Vec<Transform>) -> Result<Self> {
        Self::new(transforms)
    }
}

impl From<Pipeline> for Vec<Transform> {
    fn from(pipeline: Pipeline) -> Self {
        pipeline.transforms
    }
}

/// The recipes of the two views of a sample; they may differ (BYOL, Barlow Twins).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwoViews {
    /// The first view's.
    pub a: Pipeline,
    /// The second view's.
    pub b: Pipeline,
}

impl TwoViews {
    /// Both views from one recipe (SimCLR); their draws still differ.
    pub fn same(pipeline: Pipeline) -> Self {
        Self { a: pipeline.clone(), b: pipeline }
    }

    /// Height and width of both views.
    ///
    /// # Errors
    /// As [`Pipeline::output_size`], and if the two views would differ in size.
    pub fn output_size(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let (a, b) = (self.a.output_size(height, width)?, self.b.output_size(height, width)?);
        if a != b {
            bail!("two views: both must have one size, expected {a:?}, got {b:?}");
        }
        Ok(a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{barlow_twins, evaluation, simclr};

    #[test]
    fn a_recipe_survives_toml() {
        for recipe in [simclr(32), barlow_twins(64)] {
            let text = toml::to_string(&recipe).unwrap();
            assert_eq!(toml::from_str::<TwoViews>(&text).unwrap(), recipe, "{text}");
        }
    }

    #[test]
    fn reading_a_config_checks_the_ranges() {
        let text = "a = [{ kind = 'grayscale', p = 2.0 }]\nb = []";
        let error = toml::from_str::<TwoViews>(text).unwrap_err().to_string();
        assert!(
            error.contains("grayscale: p must lie within its range, expected 0 to 1, got 2"),
            "{error}"
        );
    }

    #[test]
    fn normalize_stands_last() {
        let transforms =
            vec![evaluation(8).transforms()[2].clone(), Transform::Grayscale { p: 0.2 }];
        let error = Pipeline::new(transforms).unwrap_err().to_string();
        assert!(error.starts_with("pipeline: normalize must be the last"), "{error}");
    }

    #[test]
    fn sizes_follow_the_transforms() -> Result<()> {
        assert_eq!(evaluation(32).output_size(32, 32)?, (32, 32));
        assert_eq!(evaluation(64).output_size(96, 200)?, (64, 64));
        let resize = Pipeline::new(vec![Transform::Resize { size: 70 }])?;
        assert_eq!(resize.output_size(96, 128)?, (70, 93)); // int(70 · 128 / 96) = 93
        assert_eq!(simclr(32).output_size(96, 96)?, (32, 32));
        Ok(())
    }

    #[test]
    fn sizes_that_cannot_be_are_errors() {
        let check = |pipeline: Pipeline, size: usize, expected: &str| {
            let error = pipeline.output_size(size, size).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        let one = |transform| Pipeline::new(vec![transform]).unwrap();
        check(one(Transform::CenterCrop { size: 33 }), 32, "center-crop: size must lie within");
        let blur = Transform::GaussianBlur { kernel: 9, sigma: [0.1, 2.0], p: 0.5 };
        check(
            one(blur),
            4,
            "gaussian-blur: kernel must reflect within the image, expected at most 7",
        );
        check(evaluation(32), 0, "pipeline: images must not be empty");

        let mut uneven = simclr(32);
        uneven.b = simclr(24).b;
        assert!(uneven.output_size(32, 32).is_err());
    }
}
