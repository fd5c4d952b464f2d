//! Tests of the scenes.

use super::*;
use crate::digest::sha256;

/// A spec without noise and distractors; pattern 0 is then one flat colour.
fn bare(spec: SceneSpec) -> SceneSpec {
    SceneSpec { noise: 0.0, distractors: 0, background_amplitude: (0.0, 0.0), ..spec }
}

fn shapes(split: Split, spec: &SceneSpec, n: u32) -> Labelled {
    ConfoundedShapes { seed: 0, split, spec }.generate(n)
}

fn column(set: &Labelled, name: &str) -> Vec<f32> {
    set.factors.as_ref().unwrap().column(name).unwrap()
}

#[test]
fn an_image_depends_on_its_seed_split_and_index_alone() {
    let spec = SceneSpec::shapes(Difficulty::Hard);
    let train = ConfoundedShapes { seed: 5, split: Split::Train, spec: &spec };
    let set = train.generate(30);
    let alone = train.scene(17);
    assert_eq!(set.images.image(17), alone.pixels);
    assert_eq!(set.factors.unwrap().row(17), alone.factors);
    assert_ne!(train.scene(27).pixels, alone.pixels);
    assert_ne!(ConfoundedShapes { seed: 6, ..train }.scene(17), alone);
    assert_ne!(ConfoundedShapes { split: Split::Test, ..train }.scene(17), alone);
}

#[test]
fn classes_are_balanced_and_factors_are_spread_over_their_ranges() {
    let spec = SceneSpec::shapes(Difficulty::Hard);
    let set = shapes(Split::Train, &spec, 4_000);
    for class in 0..10 {
        assert_eq!(set.labels.iter().filter(|&&label| label == class).count(), 400);
    }
    let middle = 15.5;
    let (low, high) = (middle - spec.jitter, middle + spec.jitter);
    for (name, low, high) in [
        ("background_hue", 0.0, 1.0),
        ("object_hue", 0.0, 1.0),
        ("tag_hue", 0.0, 1.0),
        ("background_amplitude", spec.background_amplitude.0, spec.background_amplitude.1),
        ("centre_x", low, high),
        ("centre_y", low, high),
        ("radius", spec.radius.0, spec.radius.1),
        ("angle_degrees", -spec.max_angle, spec.max_angle),
        ("aspect", 0.8, 1.25),
        ("distractor_2_hue", 0.0, 1.0),
    ] {
        let values = column(&set, name);
        assert!(values.iter().all(|v| (low..=high).contains(v)), "{name}");
        // A uniform mean is off by more than 4 of its standard errors,
        // range / sqrt(12 n), once in 16,000 tries.
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let error = (high - low) / (12.0 * values.len() as f32).sqrt();
        assert!((mean - 0.5 * (low + high)).abs() < 4.0 * error, "{name}: mean {mean}");
    }
    for (name, n) in [("background", 6), ("tag", 4), ("mirrored", 2), ("distractor_1", 2)] {
        let values = column(&set, name);
        for category in 0..n {
            let count = values.iter().filter(|&&v| v == category as f32).count() as f32;
            let expected = 4_000.0 / n as f32;
            assert!((count - expected).abs() < 4.5 * expected.sqrt(), "{name} {category}");
        }
    }
}

#[test]
fn factors_tell_nothing_about_the_class_unless_asked_to() {
    let spec = SceneSpec::shapes(Difficulty::Medium);
    for spurious in [0.0, 0.75] {
        let spec = SceneSpec { spurious, ..spec.clone() };
        for split in [Split::Train, Split::Test] {
            let set = shapes(split, &spec, 4_000);
            let (patterns, hues) = (column(&set, "background"), column(&set, "background_hue"));
            let follows = |i: &usize| {
                let class = set.labels[*i];
                let hue = (class as f32 + 0.5) * 0.1;
                patterns[*i] == (class % 6) as f32 && (hues[*i] - hue).abs() < 1e-6
            };
            let share = (0..4_000).filter(follows).count() as f32 / 4_000.0;
            let expected = if split == Split::Train { spurious } else { 0.0 };
            // Standard error: sqrt(0.75 · 0.25 / 4000) = 0.007.
            assert!((share - expected).abs() < 0.03, "{split:?} {spurious}: {share}");
        }
    }
}

#[test]
fn an_object_covers_the_area_its_radius_says_where_it_says() {
    let spec = bare(SceneSpec::shapes(Difficulty::Easy));
    // Everything within the frame: a star reaches to 1.17 radii, times the aspect.
    let spec = SceneSpec { radius: (8.0, 10.0), jitter: 2.0, ..spec };
    let set = shapes(Split::Train, &spec, 1200);
    let patterns = column(&set, "background");
    let (radii, aspects) = (column(&set, "radius"), column(&set, "aspect"));
    let (xs, ys) = (column(&set, "centre_x"), column(&set, "centre_y"));
    for i in (0..set.len()).filter(|&i| patterns[i] == 0.0) {
        let image = set.images.image(i);
        let grey = |pixel: &[u8]| luma([0, 1, 2].map(|c| f32::from(pixel[c]) / 255.0));
        let greys: Vec<f32> = image.chunks_exact(3).map(grey).collect();
        // The lower right corner is ground: the tag sits in the upper left one.
        let ground = greys[SIDE * SIDE - 1];
        let strongest = greys.iter().enumerate().filter(|(at, _)| !in_tag(*at));
        let strongest = strongest.map(|(_, g)| (g - ground).abs()).fold(0.0, f32::max);
        let (mut area, mut x, mut y) = (0.0, 0.0, 0.0);
        for (at, grey) in greys.iter().enumerate().filter(|(at, _)| !in_tag(*at)) {
            let covered = (grey - ground).abs() / strongest;
            area += covered;
            x += covered * (at % SIDE) as f32;
            y += covered * (at / SIDE) as f32;
        }
        let name = &set.class_names[set.labels[i] as usize];
        let expected = shape::AREA * radii[i] * radii[i];
        // Pixels at the rim are covered by distance, which the aspect bends.
        assert!((area / expected - 1.0).abs() < 0.08, "{name} {i}: {area} for {expected}");
        if ["disc", "square", "plus", "ring", "bars"].contains(&name.as_str()) {
            let off = (x / area - xs[i]).abs().max((y / area - ys[i]).abs());
            assert!(off < 0.35, "{name} {i}: {off} pixels off, aspect {}", aspects[i]);
        }
    }
}

fn in_tag(at: usize) -> bool {
    at % SIDE < 6 && at / SIDE < 6
}

#[test]
fn object_brightness_and_contrast_are_as_logged() {
    let spec = bare(SceneSpec::shapes(Difficulty::Medium));
    let spec = SceneSpec { jitter: 0.0, ..spec };
    let set = shapes(Split::Train, &spec, 100);
    let (objects, grounds) =
        (column(&set, "object_brightness"), column(&set, "background_brightness"));
    for i in (0..100).step_by(10) {
        // Discs: the middle pixel is object, the last one ground.
        let image = set.images.image(i);
        let at = |at: usize| luma([0, 1, 2].map(|c| f32::from(image[3 * at + c]) / 255.0));
        assert!((at(16 * SIDE + 16) - objects[i]).abs() < 0.004, "image {i}");
        let contrast = (objects[i] - grounds[i]).abs();
        assert!((0.05..=0.66).contains(&contrast), "image {i}: {contrast}");
    }
    let lighter = objects.iter().zip(&grounds).filter(|(o, g)| o > g).count();
    assert!((25..=75).contains(&lighter), "{lighter} of 100 are lighter");
}

#[test]
fn half_of_the_objects_are_mirrored_and_a_mirrored_one_is_the_other_s_mirror_image() {
    // An object of one bright column left of the middle.
    let mut object = vec![0; 28 * 28];
    object.iter_mut().skip(7).step_by(28).for_each(|pixel| *pixel = 255);
    let objects = GreyImages::new(object.repeat(40), 28, 28).unwrap();
    let spec = bare(SceneSpec::garments(Difficulty::Easy));
    let spec = SceneSpec { jitter: 0.0, max_angle: 0.0, radius: (14.0, 14.0), ..spec };
    let scenes = ConfoundedImages {
        seed: 0,
        split: Split::Train,
        spec: &spec,
        objects: &objects,
        ground: Ground::Black,
        labels: &[0; 40],
        class_names: &["column".to_owned()],
    };
    let set = scenes.generate();
    let (mirrored, aspects) = (column(&set, "mirrored"), column(&set, "aspect"));
    for i in 0..set.len() {
        let row = &set.images.image(i)[20 * SIDE * 3..][..SIDE * 3];
        let ground = &row[..3];
        let off = |pixel: &[u8]| (0..3).map(|c| pixel[c].abs_diff(ground[c])).max().unwrap();
        let strongest = (0..SIDE).max_by_key(|&x| off(&row[3 * x..][..3])).unwrap() as f32;
        // Column 7 lies 6.5 pixels left of the object's middle.
        let side = if mirrored[i] == 1.0 { 1.0 } else { -1.0 };
        let expected = MIDDLE + side * 6.5 * aspects[i].sqrt();
        assert!((strongest - expected).abs() <= 1.0, "image {i}: {strongest}, {expected}");
    }
    assert!(mirrored.contains(&0.0) && mirrored.contains(&1.0));
}

#[test]
fn the_corner_tag_is_drawn_over_everything() {
    let spec = SceneSpec { noise: 0.0, ..SceneSpec::garments(Difficulty::Hard) };
    let set = shapes(Split::Test, &spec, 100);
    for (i, tag) in column(&set, "tag").into_iter().enumerate() {
        let image = set.images.image(i);
        let at = |x: usize, y: usize| &image[3 * (y * SIDE + x)..][..3];
        let both: [(usize, usize); 2] = match tag as u32 {
            0 => [(1, 1), (4, 4)],
            1 => [(4, 1), (1, 4)],
            2 => [(1, 1), (1, 4)],
            _ => [(1, 1), (4, 1)],
        };
        assert_eq!(at(both[0].0, both[0].1), at(both[1].0, both[1].1), "image {i}");
    }
}

#[test]
fn pixel_noise_has_the_deviation_asked_for() {
    let mut noise = Noise { stream: Key::new(0, Purpose::Test).stream(), deviation: 0.05 };
    let values: Vec<f64> = (0..100_000).map(|_| f64::from(noise.quantise(0.5))).collect();
    let mean = values.iter().sum::<f64>() / 1e5;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1e5;
    // 0.05 · 255 and the rounding's 1/12; standard errors 0.04 and 0.03.
    let expected = (12.75f64.powi(2) + 1.0 / 12.0).sqrt();
    assert!((mean - 127.5).abs() < 0.16, "mean {mean}");
    assert!((variance.sqrt() - expected).abs() < 0.12, "deviation {}", variance.sqrt());
}

/// Pins the bytes: results are comparable only while these stand. The values
/// were printed by this program; that the images are right is for the tests above.
#[test]
fn the_first_64_scenes_of_each_split_stay_as_they_are() {
    let shapes_spec = SceneSpec::shapes(Difficulty::Medium);
    let garments_spec = SceneSpec::garments(Difficulty::Medium);
    let [train, test] = crate::garments::embedded().unwrap();
    for (split, objects, expected) in
        [(Split::Train, train, GOLDEN[0]), (Split::Test, test, GOLDEN[1])]
    {
        let labels: Vec<u32> = objects.labels.iter().map(|&label| label.into()).collect();
        let garments = ConfoundedImages {
            seed: 0,
            split,
            spec: &garments_spec,
            objects: &objects.images,
            ground: Ground::Black,
            labels: &labels,
            class_names: &crate::garments::CLASS_NAMES.map(String::from),
        };
        let bytes: Vec<u8> = (0..64).flat_map(|i| garments.scene(i).pixels).collect();
        let found = [sha256(&[shapes(split, &shapes_spec, 64).images.bytes()]), sha256(&[&bytes])];
        assert_eq!(found, expected, "{split:?}: shapes, garments");
    }
}

const GOLDEN: [[&str; 2]; 2] = [
    [
        "60e0b2c42f695a24160b3fbb76c37414563e07d030a1ac4db81e8e4842bf2d1f",
        "3d60bf1b67b536e5411359407026654dae1c5e20b2ac97046db4807b753087b6",
    ],
    [
        "7eac6eb3b949fb6b6ed155f4f55bd0df8c6d4dea1237673f2d952c0feabedd69",
        "80948c902ac4121058c47736c8f9bdc539250a03f36f3dc644b7c2f7c1272712",
    ],
];
