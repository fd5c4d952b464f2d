//! The six background patterns: how far the second of two colours shows at a pixel.

use std::f32::consts::{PI, TAU};

use metamask_random::Stream;

/// The patterns' names, in the order of the factor `background`.
pub(crate) const NAMES: [&str; 6] = ["flat", "gradient", "stripes", "checker", "blobs", "rings"];

const CELLS: usize = 6;
const SIDE: f32 = super::SIDE as f32;

/// A drawn pattern.
pub(crate) struct Pattern {
    kind: usize,
    sin: f32,
    cos: f32,
    /// Radians a pixel.
    pub frequency: f32,
    phase: f32,
    origin: (f32, f32),
    lattice: [[f32; CELLS + 1]; CELLS + 1],
}

impl Pattern {
    /// Draws all that any of the patterns needs, so that the draws behind it do
    /// not depend on the kind.
    pub(crate) fn draw(kind: usize, stream: &mut Stream) -> Self {
        let direction = stream.uniform_in(0.0, PI);
        let mut pattern = Self {
            kind,
            sin: libm::sinf(direction),
            cos: libm::cosf(direction),
            frequency: stream.uniform_in(0.6, 1.5),
            phase: stream.uniform_in(0.0, TAU),
            origin: (stream.uniform_in(-0.5, 1.5) * SIDE, stream.uniform_in(-0.5, 1.5) * SIDE),
            lattice: [[0.0; CELLS + 1]; CELLS + 1],
        };
        pattern.lattice.iter_mut().flatten().for_each(|node| *node = stream.uniform());
        pattern
    }

    /// Share of the second colour at a pixel, 0..1.
    pub(crate) fn at(&self, x: f32, y: f32) -> f32 {
        let along = x * self.cos + y * self.sin;
        let wave = |t: f32| 0.5 + 0.5 * libm::sinf(t * self.frequency + self.phase);
        match self.kind {
            0 => 0.5,
            1 => {
                let middle = 0.5 * (SIDE - 1.0);
                let off = (x - middle) * self.cos + (y - middle) * self.sin;
                (off / (1.4 * SIDE) + 0.5).clamp(0.0, 1.0) // the diagonal is 1.41 sides
            }
            2 => wave(along),
            3 => {
                let across = y * self.cos - x * self.sin;
                let square = 3.0 + 3.0 / self.frequency; // 5 to 8 pixels
                let parity = (along / square).floor() + (across / square).floor();
                if (parity * 0.5).floor() * 2.0 == parity { 0.1 } else { 0.9 }
            }
            4 => self.blobs(x * CELLS as f32 / SIDE, y * CELLS as f32 / SIDE),
            5 => {
                let (dx, dy) = (x - self.origin.0, y - self.origin.1);
                wave((dx * dx + dy * dy).sqrt())
            }
            _ => unreachable!("there are six patterns"),
        }
    }

    /// Value noise: random nodes, smoothly interpolated.
    fn blobs(&self, x: f32, y: f32) -> f32 {
        let (i, j) = (x as usize, y as usize);
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (tx, ty) = (ease(x - i as f32), ease(y - j as f32));
        let row = |row: &[f32; CELLS + 1]| row[i] + (row[i + 1] - row[i]) * tx;
        let (top, bottom) = (row(&self.lattice[j]), row(&self.lattice[j + 1]));
        top + (bottom - top) * ty
    }
}

#[cfg(test)]
mod tests {
    use metamask_random::{Key, Purpose};

    use super::*;

    #[test]
    fn every_pattern_stays_between_its_two_colours() {
        for (kind, name) in NAMES.iter().enumerate() {
            for sample in 0..50 {
                let mut stream = Key::new(1, Purpose::Test).sample(sample).stream();
                let pattern = Pattern::draw(kind, &mut stream);
                for i in 0..32 * 32u16 {
                    let share = pattern.at(f32::from(i % 32), f32::from(i / 32));
                    assert!((0.0..=1.0).contains(&share), "{name}: {share}");
                }
            }
        }
    }
}
