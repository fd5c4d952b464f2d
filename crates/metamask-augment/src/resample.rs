//! Bilinear resizing with antialias, as PIL does it: separable, a triangle
//! filter as wide as the scale when it shrinks, weights cut and normalised at
//! the border.

/// Size of `height` x `width` after torchvision's `Resize(size)`: the shorter
/// side becomes `size`, the longer one is cut to an integer.
pub(crate) fn resized(height: usize, width: usize, size: usize) -> (usize, usize) {
    if width <= height { (size * height / width, size) } else { (size, size * width / height) }
}

/// For each output position, the input positions it mixes and their weights.
///
/// Every output has the same number of taps, so that the loops over them have
/// one shape; where fewer are needed the rest weigh 0.
#[derive(Default)]
pub(crate) struct Taps {
    len: usize,
    count: usize,
    starts: Vec<usize>,
    weights: Vec<f32>,
}

impl Taps {
    /// Plans a resize of `len` values to `out_len` (PIL's `precompute_coeffs`).
    pub(crate) fn plan(&mut self, len: usize, out_len: usize) {
        let scale = len as f64 / out_len as f64;
        let support = scale.max(1.0);
        // Enlarging, the open interval (centre − 1, centre + 1) holds two pixel centres.
        let widest = if scale <= 1.0 { 2 } else { 2 * support.ceil() as usize + 1 };
        self.len = len;
        self.count = widest.min(len);
        self.starts.clear();
        self.weights.clear();
        self.weights.resize(out_len * self.count, 0.0);
        for (out, weights) in self.weights.chunks_exact_mut(self.count).enumerate() {
            let centre = (out as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(len);
            let start = first.min(len - self.count);
            let triangle = |x: usize| (1.0 - ((x as f64 + 0.5 - centre) / support).abs()).max(0.0);
            let total: f64 = (first..end).map(triangle).sum();
            for x in first..end {
                weights[x - start] = (triangle(x) / total) as f32;
            }
            self.starts.push(start);
        }
    }

    /// Resizes every row as planned.
    pub(crate) fn resize_rows(&self, rows: &[f32], out: &mut [f32]) {
        let rows = rows.chunks_exact(self.len);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.starts.len())) {
            let taps = self.starts.iter().zip(self.weights.chunks_exact(self.count));
            if self.count == 2 {
                for (out, (&start, weights)) in out.iter_mut().zip(taps) {
                    let pair = &row[start..start + 2];
                    *out = pair[0] * weights[0] + pair[1] * weights[1];
                }
            } else {
                for (out, (&start, weights)) in out.iter_mut().zip(taps) {
                    *out = row[start..].iter().zip(weights).map(|(v, w)| v * w).sum();
                }
            }
        }
    }

    /// Resizes every column of one plane as planned.
    pub(crate) fn resize_columns(&self, plane: &[f32], out: &mut [f32]) {
        let width = plane.len() / self.len;
        let taps = self.starts.iter().zip(self.weights.chunks_exact(self.count));
        for (out, (&start, weights)) in out.chunks_exact_mut(width).zip(taps) {
            let rows = &plane[start * width..];
            if let [upper_weight, lower_weight] = *weights {
                let (upper, lower) = rows[..2 * width].split_at(width);
                for ((out, upper), lower) in out.iter_mut().zip(upper).zip(lower) {
                    *out = upper * upper_weight + lower * lower_weight;
                }
            } else {
                out.fill(0.0);
                for (row, &weight) in rows.chunks_exact(width).zip(weights) {
                    for (out, value) in out.iter_mut().zip(row) {
                        *out += value * weight;
                    }
                }
            }
        }
    }
}
