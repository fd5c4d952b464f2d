//! The vocabulary of a recipe: transforms with their settings, as a config
//! file holds them, and the check of their ranges.

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::presets::{IMAGENET_MEAN, IMAGENET_STD};

/// Largest side an image may be resized to, in pixels: a guard against typing
/// errors in a config, far above what this crate is for.
const MAX_SIZE: usize = 4096;
const MAX_KERNEL: usize = 255;

/// One step of a [`Pipeline`](crate::Pipeline), named and meant as in torchvision.
///
/// In a config file a transform is a table with the key `kind`; settings left
/// out take their default, unknown ones are an error:
///
/// ```
/// # use metamask_augment::Transform;
/// let jitter: Transform = toml::from_str("kind = 'color-jitter'\nhue = 0.2").unwrap();
/// assert_eq!(
///     jitter,
///     Transform::ColorJitter {
///         brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.2, p: 0.8,
///     },
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Transform {
    /// Cuts a random rectangle and resizes it to a square.
    ///
    /// Up to ten tries: area = U(scale) · image area, ratio log-uniform; width
    /// and height are rounded, the position is uniform. If none fits, the
    /// largest centred rectangle whose ratio is allowed.
    RandomResizedCrop {
        /// Side of the result in pixels, 1 to 4096; no default.
        size: usize,
        /// Smallest and largest share of the image's area, in (0, 1]; default 0.08 to 1.
        #[serde(default = "default_scale")]
        scale: [f64; 2],
        /// Smallest and largest width / height, positive; default 3/4 to 4/3.
        #[serde(default = "default_ratio")]
        ratio: [f64; 2],
    },
    /// Mirrors left and right.
    HorizontalFlip {
        /// Probability, 0 to 1; default 0.5.
        #[serde(default = "half")]
        p: f64,
    },
    /// Changes brightness, contrast, saturation and hue, in a random order.
    ColorJitter {
        /// Factor ~ U(max(0, 1 − b), 1 + b), b ≥ 0; default 0.4.
        #[serde(default = "default_jitter")]
        brightness: f64,
        /// Factor ~ U(max(0, 1 − c), 1 + c), c ≥ 0; default 0.4.
        #[serde(default = "default_jitter")]
        contrast: f64,
        /// Factor ~ U(max(0, 1 − s), 1 + s), s ≥ 0; default 0.4.
        #[serde(default = "default_jitter")]
        saturation: f64,
        /// Shift ~ U(−h, h) as a share of the circle, h in 0 to 0.5; default 0.1.
        #[serde(default = "default_hue")]
        hue: f64,
        /// Probability that the jitter happens at all, 0 to 1; default 0.8.
        #[serde(default = "default_jitter_p")]
        p: f64,
    },
    /// Replaces the three channels by the luma 0.299 R + 0.587 G + 0.114 B.
    Grayscale {
        /// Probability, 0 to 1; default 0.2.
        #[serde(default = "default_grayscale_p")]
        p: f64,
    },
    /// Blurs with a normalised Gaussian, reflecting at the border.
    GaussianBlur {
        /// Taps a side, odd, 3 to 255; default 3 (a tenth of 32 pixels).
        #[serde(default = "default_kernel")]
        kernel: usize,
        /// Standard deviation ~ U(sigma) in pixels, positive; default 0.1 to 2.
        #[serde(default = "default_sigma")]
        sigma: [f64; 2],
        /// Probability, 0 to 1; default 0.5.
        #[serde(default = "half")]
        p: f64,
    },
    /// Inverts the values at or above the threshold.
    Solarize {
        /// Threshold as a share of white, 0 to 1; default 0.5.
        #[serde(default = "half")]
        threshold: f64,
        /// Probability, 0 to 1; default 0.2.
        #[serde(default = "default_solarize_p")]
        p: f64,
    },
    /// Resizes so that the shorter side has this size, keeping the ratio.
    Resize {
        /// The shorter side in pixels, 1 to 4096; no default.
        size: usize,
    },
    /// Cuts the square in the middle.
    CenterCrop {
        /// Its side in pixels, 1 to 4096 and within the image; no default.
        size: usize,
    },
    /// (value − mean) / std of each channel, values in 0 to 1; only as the last.
    Normalize {
        /// Mean of each channel; default ImageNet's.
        #[serde(default = "default_mean")]
        mean: [f64; 3],
        /// Standard deviation of each channel, positive; default ImageNet's.
        #[serde(default = "default_std")]
        std: [f64; 3],
    },
}

impl Transform {
    /// The name in a config file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RandomResizedCrop { .. } => "random-resized-crop",
            Self::HorizontalFlip { .. } => "horizontal-flip",
            Self::ColorJitter { .. } => "color-jitter",
            Self::Grayscale { .. } => "grayscale",
            Self::GaussianBlur { .. } => "gaussian-blur",
            Self::Solarize { .. } => "solarize",
            Self::Resize { .. } => "resize",
            Self::CenterCrop { .. } => "center-crop",
            Self::Normalize { .. } => "normalize",
        }
    }

    /// Whether two keys can give two results.
    pub fn is_random(&self) -> bool {
        match *self {
            Self::RandomResizedCrop { .. } => true,
            Self::HorizontalFlip { p } | Self::Grayscale { p } | Self::Solarize { p, .. } => {
                p > 0.0 && p < 1.0
            }
            Self::ColorJitter { p, .. } | Self::GaussianBlur { p, .. } => p > 0.0,
            Self::Resize { .. } | Self::CenterCrop { .. } | Self::Normalize { .. } => false,
        }
    }

    /// Checks every setting against its documented range.
    ///
    /// # Errors
    /// Names the transform, the setting, its range and the value.
    pub fn validate(&self) -> Result<()> {
        let kind = self.kind();
        match *self {
            Self::RandomResizedCrop { size, scale, ratio } => {
                check_size(kind, size)?;
                check_interval(kind, "scale", scale)?;
                if scale[1] > 1.0 {
                    bail!(
                        "{kind}: scale must be a share of the image, \
                         expected 0 < low <= high <= 1, got {scale:?}"
                    );
                }
                check_interval(kind, "ratio", ratio)
            }
            Self::HorizontalFlip { p } | Self::Grayscale { p } => check_probability(kind, p),
            Self::ColorJitter { brightness, contrast, saturation, hue, p } => {
                let strengths = [
                    ("brightness", brightness),
                    ("contrast", contrast),
                    ("saturation", saturation),
                ];
                for (name, strength) in strengths {
                    if !(strength.is_finite() && strength >= 0.0) {
                        bail!(
                            "{kind}: {name} must not be negative, expected 0 or more, \
                             got {strength}"
                        );
                    }
                }
                check_within(kind, "hue", hue, 0.5)?;
                check_probability(kind, p)
            }
            Self::GaussianBlur { kernel, sigma, p } => {
                if kernel % 2 == 0 || !(3..=MAX_KERNEL).contains(&kernel) {
                    bail!("{kind}: kernel must be odd, expected 3 to {MAX_KERNEL}, got {kernel}");
                }
                check_interval(kind, "sigma", sigma)?;
                check_probability(kind, p)
            }
            Self::Solarize { threshold, p } => {
                check_within(kind, "threshold", threshold, 1.0)?;
                check_probability(kind, p)
            }
            Self::Resize { size } | Self::CenterCrop { size } => check_size(kind, size),
            Self::Normalize { mean, std } => {
                if !mean.iter().all(|m| m.is_finite()) {
                    bail!("{kind}: mean must be finite, expected three numbers, got {mean:?}");
                }
                if !std.iter().all(|s| s.is_finite() && *s > 0.0) {
                    bail!(
                        "{kind}: std must be positive, expected three positive numbers, got {std:?}"
                    );
                }
                Ok(())
            }
        }
    }
}

fn check_size(kind: &str, size: usize) -> Result<()> {
    if !(1..=MAX_SIZE).contains(&size) {
        bail!("{kind}: size must be a number of pixels, expected 1 to {MAX_SIZE}, got {size}");
    }
    Ok(())
}

fn check_interval(kind: &str, name: &str, [low, high]: [f64; 2]) -> Result<()> {
    if !(low > 0.0 && low <= high && high.is_finite()) {
        bail!("{kind}: {name} must be an interval, expected 0 < low <= high, got [{low}, {high}]");
    }
    Ok(())
}

fn check_probability(kind: &str, p: f64) -> Result<()> {
    check_within(kind, "p", p, 1.0)
}

fn check_within(kind: &str, name: &str, value: f64, high: f64) -> Result<()> {
    if !(0.0..=high).contains(&value) {
        bail!("{kind}: {name} must lie within its range, expected 0 to {high}, got {value}");
    }
    Ok(())
}

fn default_scale() -> [f64; 2] {
    [0.08, 1.0]
}

fn default_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}

fn half() -> f64 {
    0.5
}

fn default_jitter() -> f64 {
    0.4
}

fn default_hue() -> f64 {
    0.1
}

fn default_jitter_p() -> f64 {
    0.8
}

fn default_grayscale_p() -> f64 {
    0.2
}

fn default_kernel() -> usize {
    3
}

fn default_sigma() -> [f64; 2] {
    [0.1, 2.0]
}

fn default_solarize_p() -> f64 {
    0.2
}

fn default_mean() -> [f64; 3] {
    IMAGENET_MEAN
}

fn default_std() -> [f64; 3] {
    IMAGENET_STD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_left_out_take_their_documented_default() {
        let check = |text: &str, expected: Transform| {
            assert_eq!(toml::from_str::<Transform>(text).unwrap(), expected);
        };
        check(
            "kind = 'random-resized-crop'\nsize = 32",
            Transform::RandomResizedCrop { size: 32, scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] },
        );
        check("kind = 'horizontal-flip'", Transform::HorizontalFlip { p: 0.5 });
        check("kind = 'grayscale'", Transform::Grayscale { p: 0.2 });
        check(
            "kind = 'gaussian-blur'",
            Transform::GaussianBlur { kernel: 3, sigma: [0.1, 2.0], p: 0.5 },
        );
        check("kind = 'solarize'", Transform::Solarize { threshold: 0.5, p: 0.2 });
        check(
            "kind = 'normalize'",
            Transform::Normalize { mean: IMAGENET_MEAN, std: IMAGENET_STD },
        );
    }

    #[test]
    fn unknown_settings_and_kinds_are_errors() {
        let error = |text: &str| toml::from_str::<Transform>(text).unwrap_err().to_string();
        assert!(error("kind = 'grayscale'\nprob = 0.2").contains("unknown field `prob`"));
        assert!(error("kind = 'greyscale'\np = 0.2").contains("unknown variant `greyscale`"));
        assert!(error("kind = 'resize'").contains("missing field `size`"));
    }

    #[test]
    fn each_range_is_checked_and_named() {
        let check = |text: &str, expected: &str| {
            let transform: Transform = toml::from_str(text).unwrap();
            let error = transform.validate().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        check("kind = 'random-resized-crop'\nsize = 0", "random-resized-crop: size must");
        check(
            "kind = 'random-resized-crop'\nsize = 32\nscale = [0.5, 1.5]",
            "random-resized-crop: scale must be a share",
        );
        check(
            "kind = 'random-resized-crop'\nsize = 32\nscale = [0.5, 0.2]",
            "random-resized-crop: scale must be an interval, expected 0 < low <= high, got [0.5,",
        );
        check(
            "kind = 'random-resized-crop'\nsize = 32\nratio = [0.0, 1.0]",
            "random-resized-crop: ratio must be an interval",
        );
        check("kind = 'horizontal-flip'\np = 1.5", "horizontal-flip: p must lie within");
        check("kind = 'horizontal-flip'\np = nan", "horizontal-flip: p must lie within");
        check("kind = 'color-jitter'\nbrightness = -0.1", "color-jitter: brightness must not");
        check("kind = 'color-jitter'\nsaturation = inf", "color-jitter: saturation must not");
        check(
            "kind = 'color-jitter'\nhue = 0.7",
            "color-jitter: hue must lie within its range, expected 0 to 0.5, got 0.7",
        );
        check("kind = 'gaussian-blur'\nkernel = 4", "gaussian-blur: kernel must be odd");
        check("kind = 'gaussian-blur'\nsigma = [0.0, 1.0]", "gaussian-blur: sigma must be");
        check("kind = 'solarize'\nthreshold = 128", "solarize: threshold must lie within");
        check("kind = 'center-crop'\nsize = 100000", "center-crop: size must");
        check("kind = 'normalize'\nstd = [1, 0, 1]", "normalize: std must be positive");
        check("kind = 'normalize'\nmean = [nan, 0, 1]", "normalize: mean must be finite");
    }
}
