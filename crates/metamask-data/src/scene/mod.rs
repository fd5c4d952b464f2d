//! Confounded scenes: an object of some class in a scene of nuisances, all logged.
//!
//! MetaMask's claim is about information in the representation that has nothing
//! to do with the task. Here that information is known: each image is a pure
//! function of (seed, split, index), and every choice that went into it is
//! returned beside it. Nuisances come in two groups ([`FactorGroup`]): those that
//! two views of an image share, and those that cropping and mirroring change.
//!
//! Only `libm` and exact operations are used (`sqrt`, `floor`, no fused
//! multiply-add), so that the bytes do not depend on the platform.

mod background;
mod colour;
mod shape;

use std::f32::consts::PI;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use metamask_random::{Key, Purpose, Stream};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::background::Pattern;
use self::colour::{Rgb, hsv, luma, mix, with_luma};
use crate::dataset::{Factor, FactorGroup, FactorKind, Factors, Labelled};
use crate::error::DataError;
use crate::grey::GreyImages;
use crate::images::Images;
use crate::split::Split;

/// Rows and columns of a scene.
pub(crate) const SIDE: usize = 32;
const BYTES: usize = SIDE * SIDE * Images::CHANNELS;
const MIDDLE: f32 = 0.5 * (SIDE as f32 - 1.0);

/// How much the scene hides the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Difficulty {
    /// Faint backgrounds, strong contrast, no distractors.
    Easy,
    /// Room above an untrained network and below a supervised one.
    #[default]
    Medium,
    /// Loud backgrounds, weak contrast, small objects, two distractors.
    Hard,
}

impl Difficulty {
    const ALL: [(Self, &str); 3] =
        [(Self::Easy, "easy"), (Self::Medium, "medium"), (Self::Hard, "hard")];
}

impl fmt::Display for Difficulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(difficulty, _)| difficulty == self);
        f.pad(known.expect("all are listed").1)
    }
}

impl FromStr for Difficulty {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(difficulty, _)| *difficulty).ok_or_else(|| {
            DataError::request(format!(
                "scene: unknown difficulty, expected `easy`, `medium` or `hard`, got `{name}`"
            ))
        })
    }
}

/// The ranges a scene's choices are drawn from. Lengths are in pixels,
/// colours and brightness in 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneSpec {
    /// Standard deviation of each pixel's noise, ≥ 0.
    pub noise: f32,
    /// How far the object's brightness lies from its background's, lighter or darker.
    pub contrast: (f32, f32),
    /// Number of small discs and squares strewn around, at most 4.
    pub distractors: usize,
    /// Largest turn of the object to either side, in degrees.
    pub max_angle: f32,
    /// Largest distance of the object's middle from the image's, along each axis.
    pub jitter: f32,
    /// Radius of the object; for image objects, half the side of their frame.
    pub radius: (f32, f32),
    /// How far apart the background's two colours lie in value.
    pub background_amplitude: (f32, f32),
    /// Share of the *training* images whose background pattern and hue follow
    /// from the class, 0 to 1; test images are never so. 0 unless a study of
    /// confounding asks for more.
    pub spurious: f32,
}

impl SceneSpec {
    /// Ranges for the shapes.
    pub fn shapes(difficulty: Difficulty) -> Self {
        match difficulty {
            Difficulty::Easy => Self {
                noise: 0.03,
                contrast: (0.40, 0.70),
                distractors: 0,
                max_angle: 15.0,
                jitter: 3.0,
                radius: (9.0, 12.0),
                background_amplitude: (0.0, 0.12),
                spurious: 0.0,
            },
            Difficulty::Medium => Self {
                noise: 0.04,
                contrast: (0.30, 0.65),
                distractors: 1,
                max_angle: 20.0,
                jitter: 4.0,
                radius: (8.0, 11.5),
                background_amplitude: (0.05, 0.25),
                spurious: 0.0,
            },
            Difficulty::Hard => Self {
                noise: 0.06,
                contrast: (0.18, 0.55),
                distractors: 2,
                max_angle: 25.0,
                jitter: 5.0,
                radius: (6.5, 10.5),
                background_amplitude: (0.15, 0.45),
                spurious: 0.0,
            },
        }
    }

    /// Ranges for garments and other image objects, which need more pixels than
    /// a shape to be told apart.
    ///
    /// On the raw pixels of the embedded garments, 7,000 to learn from and 2,000
    /// to judge by, weighted kNN (k 20, cosine, T 0.1) reaches 51 / 39 / 29 % and
    /// ridge regression 31 / 23 / 19 % (its best of three strengths), easy /
    /// medium / hard.
    pub fn garments(difficulty: Difficulty) -> Self {
        let shapes = Self::shapes(difficulty);
        match difficulty {
            Difficulty::Easy => Self {
                contrast: (0.35, 0.65),
                max_angle: 10.0,
                jitter: 2.0,
                radius: (12.0, 14.5),
                ..shapes
            },
            Difficulty::Medium => {
                Self { contrast: (0.30, 0.60), jitter: 3.5, radius: (10.5, 13.5), ..shapes }
            }
            Difficulty::Hard => Self {
                contrast: (0.18, 0.45),
                max_angle: 20.0,
                jitter: 4.0,
                radius: (9.5, 13.0),
                ..shapes
            },
        }
    }
}

/// An image and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// `[32, 32, 3]` bytes.
    pub pixels: Vec<u8>,
    /// One value for each of [`scene_factors`].
    pub factors: Vec<f32>,
}

/// Ten shapes in confounded scenes; image i shows shape i mod 10.
///
/// ```
/// use metamask_data::{ConfoundedShapes, Difficulty, SceneSpec, Split};
/// let spec = SceneSpec::shapes(Difficulty::Medium);
/// let shapes = ConfoundedShapes { seed: 0, split: Split::Train, spec: &spec };
/// assert_eq!(shapes.scene(41), shapes.scene(41));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ConfoundedShapes<'a> {
    /// Seed of all scenes.
    pub seed: u64,
    /// Training and test scenes are drawn apart.
    pub split: Split,
    /// What to draw from.
    pub spec: &'a SceneSpec,
}

impl ConfoundedShapes<'_> {
    /// The image of that index.
    pub fn scene(&self, index: u32) -> Scene {
        let class = index as usize % shape::NAMES.len();
        render(self.seed, self.split, index, class, self.spec, |p, radius| {
            // A pixel is covered as far as the outline is away, up to half a pixel.
            Cover {
                opacity: (0.5 - shape::distance(class, p) * radius).clamp(0.0, 1.0),
                relief: 0.0,
            }
        })
    }

    /// The first `n` images.
    pub fn generate(&self, n: u32) -> Labelled {
        let n_classes = shape::NAMES.len() as u32;
        let labels = (0..n).map(|i| i % n_classes).collect();
        collect(self.spec, labels, &shape::NAMES.map(String::from), |i| self.scene(i))
    }
}

/// Grey images on black (garments, digits) as objects in confounded scenes.
#[derive(Clone, Copy, Debug)]
pub struct ConfoundedImages<'a> {
    /// Seed of all scenes.
    pub seed: u64,
    /// Training and test scenes are drawn apart.
    pub split: Split,
    /// What to draw from.
    pub spec: &'a SceneSpec,
    /// The objects' brightness.
    pub objects: &'a GreyImages,
    /// What is around the objects in their images.
    pub ground: Ground,
    /// The class of each object.
    pub labels: &'a [u32],
    /// The classes' names.
    pub class_names: &'a [String],
}

/// What is around an object in its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Black, which turns transparent: garments, digits.
    Black,
    /// Part of a photograph: the whole frame is the object.
    Opaque,
}

impl ConfoundedImages<'_> {
    /// The image of that index, around the object of that index.
    pub fn scene(&self, index: u32) -> Scene {
        let object = self.objects.image(index as usize);
        let (height, width) = (self.objects.height(), self.objects.width());
        let class = self.labels[index as usize] as usize;
        render(self.seed, self.split, index, class, self.spec, |(x, y), _| {
            // The frame spans -1..1 in object coordinates.
            let column = 0.5 * (x * width as f32 + width as f32 - 1.0);
            let row = 0.5 * (y * height as f32 + height as f32 - 1.0);
            let value = bilinear(object, height, width, row, column);
            match self.ground {
                Ground::Black => garment_cover(value),
                Ground::Opaque => photograph_cover(value, x, y),
            }
        })
    }

    /// One image for each object.
    pub fn generate(&self) -> Labelled {
        collect(self.spec, self.labels.to_vec(), self.class_names, |i| self.scene(i))
    }
}

/// How an object shows at a point.
#[derive(Clone, Copy)]
struct Cover {
    /// 0: the background shows, 1: the object.
    opacity: f32,
    /// What is added to the object's colour.
    relief: f32,
}

/// Black is the ground around the garment; its folds and prints are a relief,
/// added rather than multiplied so that dark garments keep theirs.
fn garment_cover(value: f32) -> Cover {
    Cover { opacity: (value * 5.0).clamp(0.0, 1.0), relief: 0.4 * (value - 0.6) }
}

/// A photograph covers its frame and shows its brightness as a relief.
fn photograph_cover(value: f32, x: f32, y: f32) -> Cover {
    let inside = x.abs() <= 1.0 && y.abs() <= 1.0;
    Cover { opacity: f32::from(u8::from(inside)), relief: 0.8 * (value - 0.5) }
}

/// The value between four pixels, 0..1; black outside.
fn bilinear(image: &[u8], height: usize, width: usize, row: f32, column: f32) -> f32 {
    let (top, left) = (row.floor(), column.floor());
    let (ty, tx) = (row - top, column - left);
    let at = |dy: i32, dx: i32| {
        let (y, x) = (top as i32 + dy, left as i32 + dx);
        let inside = (0..height as i32).contains(&y) && (0..width as i32).contains(&x);
        if inside { f32::from(image[y as usize * width + x as usize]) } else { 0.0 }
    };
    let upper = at(0, 0) + (at(0, 1) - at(0, 0)) * tx;
    let lower = at(1, 0) + (at(1, 1) - at(1, 0)) * tx;
    (upper + (lower - upper) * ty) / 255.0
}

const fn shared(name: &'static str, kind: FactorKind) -> Factor {
    Factor { name, group: FactorGroup::SharedByViews, kind }
}

const fn differing(name: &'static str, kind: FactorKind) -> Factor {
    Factor { name, group: FactorGroup::DiffersBetweenViews, kind }
}

const FACTORS: [Factor; 16] = [
    shared("background", FactorKind::Categorical(background::NAMES.len() as u32)),
    shared("background_hue", FactorKind::Circular),
    shared("background_brightness", FactorKind::Continuous),
    shared("background_amplitude", FactorKind::Continuous),
    shared("background_frequency", FactorKind::Continuous),
    shared("object_hue", FactorKind::Circular),
    shared("object_saturation", FactorKind::Continuous),
    shared("object_brightness", FactorKind::Continuous),
    shared("tag", FactorKind::Categorical(N_TAGS)),
    shared("tag_hue", FactorKind::Circular),
    differing("centre_x", FactorKind::Continuous),
    differing("centre_y", FactorKind::Continuous),
    differing("radius", FactorKind::Continuous),
    differing("angle_degrees", FactorKind::Continuous),
    differing("aspect", FactorKind::Continuous),
    differing("mirrored", FactorKind::Categorical(2)),
];

const MAX_DISTRACTORS: usize = 4;
const DISTRACTOR_FACTORS: [[Factor; 5]; MAX_DISTRACTORS] = [
    distractor_factors([
        "distractor_1",
        "distractor_1_hue",
        "distractor_1_x",
        "distractor_1_y",
        "distractor_1_radius",
    ]),
    distractor_factors([
        "distractor_2",
        "distractor_2_hue",
        "distractor_2_x",
        "distractor_2_y",
        "distractor_2_radius",
    ]),
    distractor_factors([
        "distractor_3",
        "distractor_3_hue",
        "distractor_3_x",
        "distractor_3_y",
        "distractor_3_radius",
    ]),
    distractor_factors([
        "distractor_4",
        "distractor_4_hue",
        "distractor_4_x",
        "distractor_4_y",
        "distractor_4_radius",
    ]),
];

const fn distractor_factors([kind, hue, x, y, radius]: [&'static str; 5]) -> [Factor; 5] {
    [
        shared(kind, FactorKind::Categorical(2)), // disc, square
        shared(hue, FactorKind::Circular),
        differing(x, FactorKind::Continuous),
        differing(y, FactorKind::Continuous),
        differing(radius, FactorKind::Continuous),
    ]
}

/// The factors that scenes of `spec` log, in the order of [`Scene::factors`].
///
/// Pixel noise is drawn for every pixel of every image and has no column.
pub fn scene_factors(spec: &SceneSpec) -> Vec<Factor> {
    let distractors = DISTRACTOR_FACTORS.iter().take(spec.distractors).flatten();
    FACTORS.iter().chain(distractors).copied().collect()
}

/// Renders images in parallel; each depends on its index alone.
fn collect(
    spec: &SceneSpec,
    labels: Vec<u32>,
    class_names: &[String],
    scene: impl Fn(u32) -> Scene + Sync,
) -> Labelled {
    let n = u32::try_from(labels.len()).expect("scenes are numbered by u32");
    let factors = scene_factors(spec);
    let mut bytes = vec![0; labels.len() * BYTES];
    let mut values = vec![0.0; labels.len() * factors.len()];
    let images = bytes.par_chunks_exact_mut(BYTES).zip(values.par_chunks_exact_mut(factors.len()));
    images.zip(0..n).for_each(|((image, row), index)| {
        let Scene { pixels, factors } = scene(index);
        image.copy_from_slice(&pixels);
        row.copy_from_slice(&factors);
    });
    Labelled {
        images: Images::new(bytes, SIDE, SIDE).expect("whole images"),
        labels,
        class_names: class_names.to_vec(),
        factors: Some(Factors::new(&factors, values)),
    }
}

/// A disc or square of no meaning.
struct Distractor {
    square: bool,
    hue: f32,
    x: f32,
    y: f32,
    radius: f32,
    colour: Rgb,
}

impl Distractor {
    fn draw(stream: &mut Stream) -> Self {
        let side = SIDE as f32;
        let (square, hue) = (stream.uniform() < 0.5, stream.uniform());
        let (x, y) = (stream.uniform_in(1.0, side - 1.0), stream.uniform_in(1.0, side - 1.0));
        let radius = stream.uniform_in(1.2, 2.6);
        let colour = hsv(hue, stream.uniform_in(0.2, 0.9), stream.uniform_in(0.2, 0.95));
        Self { square, hue, x, y, radius, colour }
    }

    fn opacity(&self, x: f32, y: f32) -> f32 {
        let p = (x - self.x, y - self.y);
        let r = self.radius;
        let distance = if self.square { shape::rectangle(p, r, r) } else { shape::disc(p, r) };
        (0.5 - distance).clamp(0.0, 1.0)
    }
}

/// Nearer to black or white an object would lose its relief.
const OBJECT_BRIGHTNESS: RangeInclusive<f32> = 0.08..=0.95;

const N_TAGS: u32 = 4;

/// The corner tag, a planted short cut: 4×4 pixels one pixel off the corner,
/// either diagonal, upright or level bars.
fn tag_covers(tag: u32, x: usize, y: usize) -> bool {
    let inside = (1..5).contains(&x) && (1..5).contains(&y);
    inside
        && match tag {
            0 => x == y,
            1 => x + y == 5,
            2 => x % 2 == 1,
            _ => y % 2 == 1,
        }
}

/// The scene around any object: `cover` says how the object shows at a point in
/// its own coordinates (upright, its radius 1), given that radius in pixels.
fn render(
    seed: u64,
    split: Split,
    index: u32,
    class: usize,
    spec: &SceneSpec,
    cover: impl Fn((f32, f32), f32) -> Cover,
) -> Scene {
    assert!(spec.distractors <= MAX_DISTRACTORS, "at most {MAX_DISTRACTORS} distractors");
    let key = Key::new(seed, Purpose::Scene).epoch(split as u32).sample(index);
    let stream = &mut key.stream();
    let between = |stream: &mut Stream, (low, high): (f32, f32)| stream.uniform_in(low, high);

    let mut background = stream.below(background::NAMES.len() as u32);
    let mut background_hue = stream.uniform();
    let confounded = stream.uniform() < spec.spurious && split == Split::Train;
    if confounded {
        background = class as u32 % background::NAMES.len() as u32;
        background_hue = (class as f32 + 0.5) * 0.1;
        background_hue -= background_hue.floor();
    }
    let amplitude = between(stream, spec.background_amplitude);
    let value = stream.uniform_in(0.40, 0.85);
    let ground = [-0.5, 0.5].map(|side| {
        let hue = background_hue + stream.uniform_in(-0.04, 0.04);
        hsv(hue, stream.uniform_in(0.2, 0.8), (value + side * amplitude).clamp(0.05, 0.95))
    });
    let brightness = 0.5 * (luma(ground[0]) + luma(ground[1]));
    let pattern = Pattern::draw(background as usize, stream);

    let (object_hue, object_saturation) = (stream.uniform(), stream.uniform_in(0.2, 0.9));
    let contrast = between(stream, spec.contrast);
    let lighter = stream.uniform() < 0.5;
    // Lighter or darker as drawn, unless only the other fits between black and white.
    let fits = |wanted: &f32| OBJECT_BRIGHTNESS.contains(wanted);
    let sides = [brightness + contrast, brightness - contrast];
    let (first, second) = if lighter { (sides[0], sides[1]) } else { (sides[1], sides[0]) };
    let object_brightness = [first, second]
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| first.clamp(*OBJECT_BRIGHTNESS.start(), *OBJECT_BRIGHTNESS.end()));
    let object = with_luma(object_hue, object_saturation, object_brightness);

    let centre_x = MIDDLE + stream.uniform_in(-spec.jitter, spec.jitter);
    let centre_y = MIDDLE + stream.uniform_in(-spec.jitter, spec.jitter);
    let radius = between(stream, spec.radius);
    let angle = stream.uniform_in(-spec.max_angle, spec.max_angle);
    let (sin, cos) = (libm::sinf(angle * PI / 180.0), libm::cosf(angle * PI / 180.0));
    // Width over height; the area stays.
    let aspect = stream.uniform_in(0.8, 1.25);
    let mirrored = stream.uniform() < 0.5;
    let half_width = radius * aspect.sqrt() * if mirrored { -1.0 } else { 1.0 };
    let half_height = radius / aspect.sqrt();

    let (tag, tag_hue) = (stream.below(N_TAGS), stream.uniform());
    let tag_colour = hsv(tag_hue, 0.7, stream.uniform_in(0.3, 0.95));
    let distractors: Vec<_> = (0..spec.distractors).map(|_| Distractor::draw(stream)).collect();

    let mut noise = Noise { stream: key.view(1).stream(), deviation: spec.noise };
    let mut pixels = Vec::with_capacity(BYTES);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let (x, y) = (column as f32, row as f32);
            let mut colour = mix(ground[0], ground[1], pattern.at(x, y));
            for distractor in &distractors {
                colour = mix(colour, distractor.colour, distractor.opacity(x, y));
            }
            let (dx, dy) = (x - centre_x, y - centre_y);
            let p = ((dx * cos + dy * sin) / half_width, (dy * cos - dx * sin) / half_height);
            let Cover { opacity, relief } = cover(p, radius);
            colour = mix(colour, object.map(|c| (c + relief).clamp(0.0, 1.0)), opacity);
            if tag_covers(tag, column, row) {
                colour = tag_colour;
            }
            pixels.extend(colour.map(|c| noise.quantise(c)));
        }
    }

    let mut factors = vec![
        background as f32,
        background_hue,
        brightness,
        amplitude,
        pattern.frequency,
        object_hue,
        object_saturation,
        object_brightness,
        tag as f32,
        tag_hue,
        centre_x,
        centre_y,
        radius,
        angle,
        aspect,
        f32::from(u8::from(mirrored)),
    ];
    for d in &distractors {
        factors.extend([f32::from(u8::from(d.square)), d.hue, d.x, d.y, d.radius]);
    }
    Scene { pixels, factors }
}

/// Pixel noise, and the step from 0..1 to bytes.
struct Noise {
    stream: Stream,
    deviation: f32,
}

impl Noise {
    /// The sum of a word's four bytes is near enough to normal, and exact.
    fn quantise(&mut self, colour: f32) -> u8 {
        let sum: u32 = self.stream.next_u32().to_le_bytes().iter().map(|&b| u32::from(b)).sum();
        // A byte has mean 127.5 and variance (256² − 1) / 12.
        let normal = (sum as f32 - 510.0) / 147.799_41;
        ((colour + self.deviation * normal).clamp(0.0, 1.0) * 255.0 + 0.5) as u8
    }
}

#[cfg(test)]
mod tests;
