//! The photometric operations, on three planes of values in 0 to 255.
//!
//! Loops are without branches, so that the compiler makes vectors of them.

/// Share of red, green and blue in the luma (ITU-R 601), as PIL has them.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];
const WHITE: f32 = 255.0;

/// An image of three planes, as one operation sees it.
pub(crate) struct Planes<'a> {
    red: &'a mut [f32],
    green: &'a mut [f32],
    blue: &'a mut [f32],
}

impl<'a> Planes<'a> {
    pub(crate) fn new(values: &'a mut [f32]) -> Self {
        let (red, rest) = values.split_at_mut(values.len() / 3);
        let (green, blue) = rest.split_at_mut(red.len());
        Self { red, green, blue }
    }

    /// Replaces every pixel by what `change` makes of it.
    fn map(self, change: impl Fn([f32; 3]) -> [f32; 3]) {
        for ((red, green), blue) in self.red.iter_mut().zip(self.green).zip(self.blue) {
            [*red, *green, *blue] = change([*red, *green, *blue]);
        }
    }

    pub(crate) fn brightness(self, factor: f32) {
        self.map(|pixel| pixel.map(|v| (v * factor).clamp(0.0, WHITE)));
    }

    pub(crate) fn contrast(self, factor: f32) {
        let mean = (self.mean_luma() + 0.5).floor() as f32;
        let rest = mean * (1.0 - factor);
        self.map(|pixel| pixel.map(|v| (v * factor + rest).clamp(0.0, WHITE)));
    }

    pub(crate) fn saturation(self, factor: f32) {
        self.map(|pixel| {
            let rest = luma(pixel) * (1.0 - factor);
            pixel.map(|v| (v * factor + rest).clamp(0.0, WHITE))
        });
    }

    /// Turns the hue by `shift` of the circle, −0.5 to 0.5, saturation and
    /// value kept.
    pub(crate) fn hue(self, shift: f32) {
        let shift = 6.0 * shift;
        self.map(|[r, g, b]| {
            let value = larger(r, larger(g, b));
            let low = smaller(r, smaller(g, b));
            let chroma = value - low;
            // The bound keeps the quotient finite; a grey pixel stays grey whatever its hue.
            let scale = 1.0 / larger(chroma, 1e-20);
            // Sextants: red 0, green 2, blue 4.
            let hue = if value == g { (b - r) * scale + 2.0 } else { (r - g) * scale + 4.0 };
            let hue = if value == r { (g - b) * scale } else { hue } + shift; // −4 to 8
            let hue = hue + if hue < 0.0 { 6.0 } else { 0.0 };
            let hue = hue - if hue >= 6.0 { 6.0 } else { 0.0 };
            [(hue - 3.0).abs() - 1.0, 2.0 - (hue - 2.0).abs(), 2.0 - (hue - 4.0).abs()]
                .map(|share| low + chroma * share.clamp(0.0, 1.0))
        });
    }

    pub(crate) fn grayscale(self) {
        self.map(|pixel| [luma(pixel); 3]);
    }

    pub(crate) fn solarize(self, threshold: f32) {
        let threshold = threshold * WHITE;
        self.map(|pixel| pixel.map(|v| if v >= threshold { WHITE - v } else { v }));
    }

    /// Mean luma: eight running sums a block, blocks added in f64, so that the
    /// order of the sum is fixed and its error far below the rounding to come.
    fn mean_luma(&self) -> f64 {
        const BLOCK: usize = 1024;
        const LANES: usize = 8;
        let blocks =
            self.red.chunks(BLOCK).zip(self.green.chunks(BLOCK)).zip(self.blue.chunks(BLOCK));
        let total: f64 = blocks
            .map(|((red, green), blue)| {
                let mut sums = [0f32; LANES];
                let pixels = red.chunks(LANES).zip(green.chunks(LANES)).zip(blue.chunks(LANES));
                for ((red, green), blue) in pixels {
                    for (((sum, r), g), b) in sums.iter_mut().zip(red).zip(green).zip(blue) {
                        *sum += luma([*r, *g, *b]);
                    }
                }
                f64::from(sums.iter().sum::<f32>())
            })
            .sum();
        total / self.red.len() as f64
    }
}

fn luma([r, g, b]: [f32; 3]) -> f32 {
    LUMA[0] * r + LUMA[1] * g + LUMA[2] * b
}

// `f32::max` and `min` also mind NaN, which costs three instructions more.
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_the_hue_keeps_greys_and_stays_finite_near_them() {
        for pixel in [[0.0; 3], [255.0; 3], [1e-40, 0.0, 0.0], [7.0, 7.0, 7.000_001]] {
            let mut turned = pixel;
            Planes::new(&mut turned).hue(0.3);
            let near = turned.iter().zip(pixel).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near, "{pixel:?} became {turned:?}");
        }
    }

    #[test]
    fn a_third_of_the_circle_moves_the_channels_on() {
        let mut pixel = [200.0, 30.0, 90.0];
        Planes::new(&mut pixel).hue(1.0 / 3.0);
        let near = pixel.iter().zip([90.0, 200.0, 30.0]).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(near, "{pixel:?}");
    }

    #[test]
    fn the_mean_luma_is_exact_over_blocks_and_tails() {
        let n = 2 * 1024 + 13;
        let mut values: Vec<f32> = (0..3 * n).map(|i| (i * 7 % 256) as f32).collect();
        let expected: f64 = (0..n)
            .map(|i| {
                let [r, g, b] = [0, n, 2 * n].map(|plane| f64::from(values[plane + i]));
                0.299 * r + 0.587 * g + 0.114 * b
            })
            .sum();
        let mean = Planes::new(&mut values).mean_luma();
        assert!((mean - expected / n as f64).abs() < 1e-4, "{mean}"); // f32 sums of 128 terms
    }
}
