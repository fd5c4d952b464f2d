//! Recipes of the papers.

use crate::{Pipeline, Transform, TwoViews};

/// Mean of ImageNet's training images, channel by channel, in 0 to 1.
pub const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's training images, in 0 to 1.
pub const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// SimCLR's views at `size` pixels, the recipe of MetaMask's code: crop 0.08 to
/// 1, flip, jitter 0.4/0.4/0.4/0.1 with p 0.8, grayscale 0.2, ImageNet's mean
/// and standard deviation.
///
/// Chen et al. 2020 (arXiv:2002.05709) blur as well on ImageNet, not on small
/// images; this recipe never does. Add [`Transform::GaussianBlur`] for that.
///
/// # Panics
/// If `size` is not a valid one (1 to 4096).
pub fn simclr(size: usize) -> TwoViews {
    TwoViews::same(recipe(size, 0.4, []))
}

/// The asymmetric views of Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230,
/// section 2.1): view a is always blurred and never solarized, view b is
/// blurred with p 0.1 and solarized with p 0.2; saturation 0.2.
///
/// The kernel is the odd number nearest to a tenth of the side, at least 3
/// (23 at 224 pixels).
///
/// # Panics
/// If `size` is not a valid one (1 to 2559, by the range of the kernel).
pub fn barlow_twins(size: usize) -> TwoViews {
    let blur = |p| Transform::GaussianBlur { kernel: tenth(size), sigma: [0.1, 2.0], p };
    let solarize = Transform::Solarize { threshold: 0.5, p: 0.2 };
    TwoViews { a: recipe(size, 0.2, [blur(1.0)]), b: recipe(size, 0.2, [blur(0.1), solarize]) }
}

/// BYOL's views (Grill et al. 2020, arXiv:2006.07733, appendix B), which Barlow
/// Twins took over: the same recipe.
///
/// # Panics
/// As [`barlow_twins`].
pub fn byol(size: usize) -> TwoViews {
    barlow_twins(size)
}

/// What an evaluated image goes through: shorter side to `size`, centre square,
/// ImageNet's mean and standard deviation. On images of that size the first two
/// leave every pixel as it is.
///
/// # Panics
/// If `size` is not a valid one (1 to 4096).
pub fn evaluation(size: usize) -> Pipeline {
    checked(vec![Transform::Resize { size }, Transform::CenterCrop { size }, normalize()])
}

fn recipe<const N: usize>(size: usize, saturation: f64, last: [Transform; N]) -> Pipeline {
    let mut transforms = vec![
        Transform::RandomResizedCrop { size, scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] },
        Transform::HorizontalFlip { p: 0.5 },
        Transform::ColorJitter { brightness: 0.4, contrast: 0.4, saturation, hue: 0.1, p: 0.8 },
        Transform::Grayscale { p: 0.2 },
    ];
    transforms.extend(last);
    transforms.push(normalize());
    checked(transforms)
}

fn normalize() -> Transform {
    Transform::Normalize { mean: IMAGENET_MEAN, std: IMAGENET_STD }
}

fn tenth(size: usize) -> usize {
    (size / 20 * 2 + 1).max(3)
}

fn checked(transforms: Vec<Transform>) -> Pipeline {
    Pipeline::new(transforms).unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blur_kernel_is_a_tenth_of_the_side() {
        let kernels = [4, 32, 64, 96, 224].map(tenth);
        assert_eq!(kernels, [3, 3, 7, 9, 23]);
    }

    #[test]
    fn only_the_asymmetric_recipes_differ_between_the_views() {
        assert_eq!(simclr(32).a, simclr(32).b);
        assert_ne!(barlow_twins(32).a, barlow_twins(32).b);
        assert_eq!(barlow_twins(32), byol(32));
        assert!(!evaluation(32).is_random());
    }
}
