//! Each operation, with given parameters, against torchvision's own output.
//!
//! The fixtures are written by `xtask/golden/augment.py`: smooth and noisy
//! images at 32 x 32, 96 x 96 and 40 x 56, whole rectangles at both ends of the
//! range among them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use metamask_augment::{
    AugmentationKey, Image, ImageBatch, Operation, Pipeline, Transform, ViewParams, apply_with,
    evaluation, evaluation_views,
};

/// Steps of 1/255: PIL rounds or truncates to 8 bits, we do not.
const TOLERANCE: f32 = 2.0;

struct Fixtures(BTreeMap<String, Tensor>);

impl Fixtures {
    fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/augment.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect())
    }

    fn images(&self, kind: &str) -> Vec<(Vec<u8>, usize, usize)> {
        let images = &self.0[&format!("{kind}/image")];
        let (n, height, width, _) = images.dims4().unwrap();
        let image = |i| images.get(i).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (0..n).map(|i| (image(i), height, width)).collect()
    }

    /// The parameters of each case of an operation.
    fn params(&self, kind: &str, operation: &str) -> Vec<Vec<f32>> {
        self.0[&format!("{kind}/{operation}/params")].to_vec2().unwrap()
    }

    /// What torchvision made of image `image` in case `case`.
    fn expected(&self, kind: &str, operation: &str, case: usize, image: usize) -> Vec<f32> {
        let expected = &self.0[&format!("{kind}/{operation}/{case}")];
        let expected = expected.get(image).unwrap().flatten_all().unwrap();
        expected.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }
}

/// Largest and mean difference, in steps of 1/255, over all cases and images.
fn differences(
    kind: &str,
    name: &str,
    params: impl Fn(&[f32], usize, usize) -> ViewParams,
) -> (f32, f32) {
    let fixtures = Fixtures::load();
    let (mut largest, mut total, mut count) = (0f32, 0f64, 0usize);
    for (case, row) in fixtures.params(kind, name).iter().enumerate() {
        for (index, (bytes, height, width)) in fixtures.images(kind).into_iter().enumerate() {
            let params = params(row, height, width);
            let (out_height, out_width) = params.output_size(height, width).unwrap();
            let mut view = vec![f32::NAN; out_height * out_width * 3];
            apply_with(&params, Image::new(&bytes, height, width).unwrap(), &mut view).unwrap();
            let expected = fixtures.expected(kind, name, case, index);
            assert_eq!(view.len(), expected.len(), "{kind}/{name} {row:?}");
            for (ours, theirs) in view.iter().zip(&expected) {
                let difference = (ours * 255.0 - theirs).abs();
                assert!(!difference.is_nan());
                largest = largest.max(difference);
                total += f64::from(difference);
            }
            count += view.len();
        }
    }
    (largest, (total / count as f64) as f32)
}

fn check(kind: &str, name: &str, operation: impl Fn(&[f32]) -> Operation) {
    let params = |row: &[f32], _, _| ViewParams { operations: vec![operation(row)] };
    let (largest, _) = differences(kind, name, params);
    assert!(largest <= TOLERANCE, "{kind}/{name}: {largest}/255");
}

fn resized_crop(row: &[f32]) -> Operation {
    let [top, left, height, width, out_height, out_width] =
        [0, 1, 2, 3, 4, 5].map(|i| row[i] as usize);
    Operation::ResizedCrop { top, left, height, width, out_height, out_width }
}

fn blur(row: &[f32]) -> Operation {
    Operation::GaussianBlur { kernel: row[0] as usize, sigma: row[1] }
}

#[test]
fn resized_crop_equals_torchvision() {
    for kind in ["32", "96", "wide"] {
        check(kind, "resized_crop", resized_crop);
    }
}

#[test]
fn flip_equals_torchvision() {
    for kind in ["32", "wide"] {
        check(kind, "flip", |_| Operation::HorizontalFlip);
    }
}

#[test]
fn brightness_equals_torchvision() {
    check("32", "brightness", |row| Operation::Brightness(row[0]));
}

#[test]
fn contrast_equals_torchvision() {
    for kind in ["32", "96", "wide"] {
        check(kind, "contrast", |row| Operation::Contrast(row[0]));
    }
}

#[test]
fn saturation_equals_torchvision() {
    check("32", "saturation", |row| Operation::Saturation(row[0]));
}

#[test]
fn hue_equals_torchvision_in_floats() {
    for kind in ["32", "96"] {
        check(kind, "hue", |row| Operation::Hue(row[0]));
    }
}

#[test]
fn hue_is_near_what_pil_makes_of_eight_bits() {
    // PIL cuts the hue to 1/255 of the circle twice, 6/255 of the chroma each.
    let params = |row: &[f32], _, _| ViewParams { operations: vec![Operation::Hue(row[0])] };
    let (largest, mean) = differences("32", "hue_pil", params);
    assert!(largest <= 12.0 && mean <= 1.5, "largest {largest}, mean {mean}");
}

#[test]
fn grayscale_equals_torchvision() {
    check("32", "grayscale", |_| Operation::Grayscale);
}

#[test]
fn blur_equals_torchvision() {
    for kind in ["32", "96", "wide"] {
        check(kind, "blur", blur);
    }
}

#[test]
fn solarize_equals_torchvision() {
    check("32", "solarize", |row| Operation::Solarize(row[0]));
}

/// `Resize` and `CenterCrop` draw nothing: their operation is the pipeline's.
#[test]
fn resize_and_center_crop_equal_torchvision() {
    let only = |transform: Transform| {
        move |height, width| {
            let key = AugmentationKey { seed: 0, epoch: 0, sample: 0, view: 0 };
            Pipeline::new(vec![transform.clone()]).unwrap().draw(key, height, width)
        }
    };
    let size = |row: &[f32]| row[0] as usize;
    let (largest, _) = differences("wide", "resize", |row, height, width| {
        only(Transform::Resize { size: size(row) })(height, width)
    });
    assert!(largest <= TOLERANCE, "resize: {largest}/255");
    let (largest, _) = differences("wide", "center_crop", |row, height, width| {
        only(Transform::CenterCrop { size: size(row) })(height, width)
    });
    assert!(largest < 1e-3, "center_crop moves bytes, got {largest}/255");
}

/// Where no pixel is changed before it, normalising is the same arithmetic.
#[test]
fn evaluation_is_bit_identical_to_torchvision() -> Result<()> {
    let fixtures = Fixtures::load();
    for (index, (bytes, height, width)) in fixtures.images("32").into_iter().enumerate() {
        let images = ImageBatch::new(&bytes, height, width)?;
        let view = evaluation_views(&evaluation(32), images, &[0])?;
        assert!(view == fixtures.expected("32", "normalize", 0, index), "image {index}");
    }
    Ok(())
}

/// Crop, flip and the four parts of the jitter in a row: five roundings of PIL,
/// each of them strengthened by those after it, and its coarse hue.
#[test]
fn a_whole_view_stays_near_torchvision() {
    let params = |row: &[f32], _, _| ViewParams {
        operations: vec![
            resized_crop(row),
            Operation::HorizontalFlip,
            Operation::Brightness(row[6]),
            Operation::Contrast(row[7]),
            Operation::Saturation(row[8]),
            Operation::Hue(row[9]),
        ],
    };
    let (largest, mean) = differences("32", "simclr", params);
    assert!(largest <= 16.0 && mean <= 2.0, "largest {largest}, mean {mean}");
}
