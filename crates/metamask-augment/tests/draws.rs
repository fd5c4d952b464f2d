//! The draws: their distributions, and that they are pure in their key.

use metamask_augment::{
    AugmentationKey, ImageBatch, Operation, Pipeline, Transform, TwoViews, barlow_twins, simclr,
    two_views, views,
};

const N: u32 = 20_000;

fn key(sample: u32) -> AugmentationKey {
    AugmentationKey { seed: 11, epoch: 2, sample, view: 1 }
}

/// The operations of `N` draws of one transform, for images of `height` x `width`.
fn draws(transform: Transform, height: usize, width: usize) -> Vec<Vec<Operation>> {
    let pipeline = Pipeline::new(vec![transform]).unwrap();
    (0..N).map(|sample| pipeline.draw(key(sample), height, width).operations).collect()
}

/// Kolmogorov's statistic of `values` against the uniform distribution.
///
/// 1.95 / sqrt(n) is exceeded once in a thousand times; the draws are fixed.
fn assert_uniform(what: &str, mut values: Vec<f64>, low: f64, high: f64) {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    assert!(values[0] >= low && values[values.len() - 1] <= high, "{what} leaves its range");
    let distance = values.iter().enumerate().fold(0f64, |worst, (i, value)| {
        let expected = (value - low) / (high - low);
        worst.max((expected - i as f64 / n).abs()).max((expected - (i + 1) as f64 / n).abs())
    });
    assert!(distance < 1.95 / n.sqrt(), "{what}: distance {distance}");
}

/// `count` of `n` independent cases of probability `p`, within 4.5 deviations.
fn assert_share(what: &str, count: usize, n: usize, p: f64) {
    let (expected, deviation) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    assert!((count as f64 - expected).abs() <= 4.5 * deviation, "{what}: {count} of {n}, p {p}");
}

#[test]
fn crops_have_uniform_area_log_uniform_ratio_and_uniform_place() {
    // No proposal is refused below a share of 3/4, and 4,000 pixels hide the rounding.
    let side = 4_000;
    let (scale, ratio) = ([0.08, 0.74], [3.0 / 4.0, 4.0 / 3.0]);
    let (mut areas, mut ratios, mut tops, mut lefts) = (vec![], vec![], vec![], vec![]);
    for operations in draws(Transform::RandomResizedCrop { size: 32, scale, ratio }, side, side) {
        let [Operation::ResizedCrop { top, left, height, width, out_height: 32, out_width: 32 }] =
            operations[..]
        else {
            panic!("one crop to 32 pixels, got {operations:?}")
        };
        areas.push((height * width) as f64 / (side * side) as f64);
        ratios.push((width as f64 / height as f64).ln());
        tops.push(top as f64 / (side - height) as f64);
        lefts.push(left as f64 / (side - width) as f64);
    }
    assert_uniform("area", areas, 0.0795, 0.7405);
    assert_uniform("ratio", ratios, -0.289, 0.289);
    assert_uniform("top", tops, 0.0, 1.0);
    assert_uniform("left", lefts, 0.0, 1.0);
}

#[test]
fn crops_of_small_images_stay_inside_and_reach_every_border() {
    let (scale, ratio) = ([0.08, 1.0], [3.0 / 4.0, 4.0 / 3.0]);
    let mut whole = 0;
    let (mut bottom, mut right) = (0, 0);
    for operations in draws(Transform::RandomResizedCrop { size: 32, scale, ratio }, 32, 32) {
        let Operation::ResizedCrop { top, left, height, width, .. } = operations[0] else {
            panic!("a crop, got {operations:?}")
        };
        assert!(top + height <= 32 && left + width <= 32 && height > 0 && width > 0);
        // Rounding moves the area and ratio of the smallest crops by a pixel a side.
        assert!((height + 1) * (width + 1) >= 81, "{height} x {width}");
        bottom = bottom.max(top + height);
        right = right.max(left + width);
        whole += usize::from((height, width) == (32, 32));
    }
    assert_eq!((bottom, right), (32, 32));
    assert!(whole > 0);
}

#[test]
fn a_crop_that_never_fits_falls_back_to_the_centre() {
    let check = |height, width, expected: [usize; 4]| {
        let (scale, ratio) = ([1.0, 1.0], [3.0 / 4.0, 4.0 / 3.0]);
        for operations in
            draws(Transform::RandomResizedCrop { size: 8, scale, ratio }, height, width)
        {
            let Operation::ResizedCrop { top, left, height, width, .. } = operations[0] else {
                panic!("a crop, got {operations:?}")
            };
            assert_eq!([top, left, height, width], expected);
        }
    };
    check(9, 200, [0, 94, 9, 12]);
    check(200, 9, [94, 0, 12, 9]);
}

#[test]
fn each_transform_happens_with_its_probability() {
    let check = |transform: Transform, p: f64| {
        let kind = transform.kind();
        let draws = draws(transform, 32, 32);
        let count = draws.iter().filter(|operations| !operations.is_empty()).count();
        assert_share(kind, count, N as usize, p);
    };
    for p in [0.0, 0.2, 0.5, 1.0] {
        check(Transform::HorizontalFlip { p }, p);
        check(Transform::Grayscale { p }, p);
        check(Transform::Solarize { threshold: 0.5, p }, p);
        check(Transform::GaussianBlur { kernel: 3, sigma: [0.1, 2.0], p }, p);
        let (brightness, contrast, saturation, hue) = (0.4, 0.4, 0.4, 0.1);
        check(Transform::ColorJitter { brightness, contrast, saturation, hue, p }, p);
    }
}

#[test]
fn the_jitter_takes_every_order_equally_often_and_uniform_factors() {
    let jitter = Transform::ColorJitter {
        brightness: 0.4,
        contrast: 0.3,
        saturation: 1.5,
        hue: 0.1,
        p: 1.0,
    };
    let mut orders = std::collections::BTreeMap::<Vec<u8>, usize>::new();
    let mut values = [const { Vec::new() }; 4];
    for operations in draws(jitter, 32, 32) {
        let parts: Vec<(u8, f32)> = operations
            .iter()
            .map(|operation| match *operation {
                Operation::Brightness(factor) => (0, factor),
                Operation::Contrast(factor) => (1, factor),
                Operation::Saturation(factor) => (2, factor),
                Operation::Hue(shift) => (3, shift),
                _ => panic!("no part of the jitter: {operation:?}"),
            })
            .collect();
        *orders.entry(parts.iter().map(|part| part.0).collect()).or_default() += 1;
        parts.iter().for_each(|&(part, value)| values[part as usize].push(f64::from(value)));
    }
    assert_eq!(orders.len(), 24);
    for (order, count) in orders {
        assert_share(&format!("order {order:?}"), count, N as usize, 1.0 / 24.0);
    }
    // The ends are those of f32: 0.6, 1.4 and so on are not exact.
    let slack = 1e-6;
    let ranges = [(0.6, 1.4), (0.7, 1.3), (0.0, 2.5), (-0.1, 0.1)];
    for ((values, (low, high)), name) in
        values.into_iter().zip(ranges).zip(["brightness", "contrast", "saturation", "hue"])
    {
        assert_eq!(values.len(), N as usize, "{name}");
        assert_uniform(name, values, low - slack, high + slack);
    }
}

#[test]
fn a_jitter_of_strength_zero_leaves_its_part_out() {
    let (brightness, contrast, saturation, hue) = (0.0, 0.4, 0.0, 0.0);
    let jitter = Transform::ColorJitter { brightness, contrast, saturation, hue, p: 1.0 };
    for operations in draws(jitter, 32, 32) {
        assert!(matches!(operations[..], [Operation::Contrast(_)]), "{operations:?}");
    }
}

#[test]
fn the_blur_draws_its_sigma_uniformly() {
    let sigmas = draws(Transform::GaussianBlur { kernel: 3, sigma: [0.1, 2.0], p: 1.0 }, 32, 32)
        .iter()
        .map(|operations| match operations[..] {
            [Operation::GaussianBlur { kernel: 3, sigma }] => f64::from(sigma),
            _ => panic!("one blur, got {operations:?}"),
        })
        .collect();
    assert_uniform("sigma", sigmas, 0.1, 2.0);
}

#[test]
fn every_part_of_the_key_changes_the_draw() {
    let recipe = simclr(32).a;
    let base = recipe.draw(key(5), 32, 32);
    assert_eq!(base, recipe.draw(key(5), 32, 32));
    for other in [
        AugmentationKey { seed: 12, ..key(5) },
        AugmentationKey { epoch: 3, ..key(5) },
        AugmentationKey { view: 0, ..key(5) },
        key(6),
    ] {
        assert_ne!(base, recipe.draw(other, 32, 32), "{other:?}");
    }
}

/// The numbers are this crate's own: if they change, recorded runs are not
/// repeated any more, which the commit has to say.
#[test]
fn draws_are_pinned() {
    let key = AugmentationKey { seed: 42, epoch: 1, sample: 8, view: 0 };
    let crop = Operation::ResizedCrop {
        top: 1,
        left: 10,
        height: 26,
        width: 22,
        out_height: 32,
        out_width: 32,
    };
    let expected = [
        crop,
        Operation::Contrast(1.088_388_8),
        Operation::Hue(-0.061_977_04),
        Operation::Brightness(1.300_504_4),
        Operation::Saturation(1.393_864_6),
        Operation::Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
    ];
    assert_eq!(simclr(32).a.draw(key, 32, 32).operations, expected);
}

#[test]
fn views_are_bit_identical_for_any_number_of_threads_and_any_batch() {
    let (n, side) = (40, 32);
    let bytes: Vec<u8> = (0..n * side * side * 3)
        .map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let images = ImageBatch::new(&bytes, side, side).unwrap();
    let samples: Vec<u32> = (0..n as u32).rev().collect();
    let recipe = barlow_twins(24);
    let make = |threads, samples: &[u32], recipe: &TwoViews| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| two_views(recipe, images, samples, 3, 9).unwrap())
    };
    let expected = make(1, &samples, &recipe);
    for threads in [2, 3, 4] {
        assert!(make(threads, &samples, &recipe) == expected, "{threads} threads");
    }

    // A sample's views do not depend on the batch around it, nor on what the
    // thread's memory held before.
    let _ = make(1, &samples, &simclr(40));
    let (view_a, view_b) = make(1, &samples[13..14], &recipe);
    let view_len = 24 * 24 * 3;
    assert!(view_a == expected.0[13 * view_len..][..view_len]);
    assert!(view_b == expected.1[13 * view_len..][..view_len]);
    assert!(views(&recipe.b, images, &samples[13..14], 3, 9, 1).unwrap() == view_b);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let bytes = [0u8; 4 * 4 * 3 * 2];
    let images = ImageBatch::new(&bytes, 4, 4).unwrap();
    let error = two_views(&simclr(8), images, &[0, 2], 0, 0).unwrap_err().to_string();
    assert!(error.starts_with("views: samples must be images of the batch, expected less than 2"));
    assert!(ImageBatch::new(&bytes[1..], 4, 4).is_err());
    assert!(ImageBatch::new(&bytes, 0, 4).is_err());

    let error = metamask_augment::evaluation_views(&simclr(8).a, images, &[0]).unwrap_err();
    assert!(error.to_string().contains("got `random-resized-crop`"), "{error}");
}
