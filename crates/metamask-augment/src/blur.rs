//! Separable Gaussian blur with torchvision's kernel and reflected border.

/// Blurs three planes of `width` columns in place.
///
/// `rows` holds the planes half done, `row` one reflected row, `weights` the
/// kernel: memory of the caller, used again.
pub(crate) fn gaussian_blur(
    planes: &mut [f32],
    (height, width): (usize, usize),
    kernel: usize,
    sigma: f32,
    rows: &mut [f32],
    row: &mut Vec<f32>,
    weights: &mut Vec<f32>,
) {
    let radius = kernel / 2;
    plan(weights, radius, sigma);
    for (plane, rows) in
        planes.chunks_exact_mut(height * width).zip(rows.chunks_exact_mut(height * width))
    {
        for (y, out) in rows.chunks_exact_mut(width).enumerate() {
            out.fill(0.0);
            for (tap, &weight) in weights.iter().enumerate() {
                let from = reflect(y + tap, radius, height) * width;
                add_scaled(out, &plane[from..from + width], weight);
            }
        }
        for (source, out) in rows.chunks_exact(width).zip(plane.chunks_exact_mut(width)) {
            row.clear();
            row.extend((0..radius).map(|x| source[radius - x]));
            row.extend_from_slice(source);
            row.extend((0..radius).map(|x| source[width - 2 - x]));
            out.fill(0.0);
            for (tap, &weight) in weights.iter().enumerate() {
                add_scaled(out, &row[tap..tap + width], weight);
            }
        }
    }
}

/// The kernel of [`gaussian_blur`].
#[cfg(feature = "cuda")]
pub(crate) fn taps(kernel: usize, sigma: f32) -> Vec<f32> {
    let mut weights = Vec::new();
    plan(&mut weights, kernel / 2, sigma);
    weights
}

/// exp(−x² / 2σ²) at the integers −radius to radius, normalised to a sum of 1.
fn plan(weights: &mut Vec<f32>, radius: usize, sigma: f32) {
    let sigma = f64::from(sigma);
    let density = |tap: usize| {
        let x = tap as f64 - radius as f64;
        libm::exp(-0.5 * (x / sigma) * (x / sigma))
    };
    let total: f64 = (0..=2 * radius).map(density).sum();
    weights.clear();
    weights.extend((0..=2 * radius).map(|tap| (density(tap) / total) as f32));
}

/// The row that stands for row `padded − radius` when the image is reflected at
/// its border rows, which are not repeated; radius < height.
fn reflect(padded: usize, radius: usize, height: usize) -> usize {
    let y = padded.abs_diff(radius);
    if y < height { y } else { 2 * (height - 1) - y }
}

fn add_scaled(out: &mut [f32], values: &[f32], weight: f32) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += value * weight;
    }
}
