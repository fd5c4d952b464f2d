//! The ten shapes of [`ConfoundedShapes`](super::ConfoundedShapes), as signed
//! distances: negative inside, in units of the object's radius.
//!
//! All have the same area, so that size tells nothing about class, and each
//! remains what it is in a mirror.

/// The shapes' names, in the order of their labels.
pub(crate) const NAMES: [&str; 10] =
    ["disc", "square", "triangle", "star", "plus", "ring", "crescent", "bars", "heart", "ell"];

/// Area of every shape, in squared radii.
#[cfg(test)]
pub(crate) const AREA: f32 = 1.8;

/// What each outline below is scaled by to have [`AREA`].
const SCALES: [f32; 10] =
    [0.9462, 0.9583, 1.0557, 1.1666, 0.9393, 0.9462, 1.0302, 0.9487, 0.9196, 0.9837];

/// Signed distance of `p` from the outline of shape `class`.
pub(crate) fn distance(class: usize, (x, y): (f32, f32)) -> f32 {
    let scale = SCALES[class];
    scale * outline(class, (x / scale, y / scale))
}

fn outline(class: usize, p: (f32, f32)) -> f32 {
    let (x, y) = p;
    match class {
        0 => disc(p, 0.8),
        1 => rectangle(p, 0.7, 0.7),
        2 => polygon(p, &[(0.0, -1.0), (0.95, 0.7), (-0.95, 0.7)]),
        3 => polygon(p, &STAR),
        4 => rectangle(p, 1.0, 0.3).min(rectangle(p, 0.3, 1.0)),
        5 => disc(p, 1.0).max(-disc(p, 0.6)),
        6 => disc(p, 1.0).max(-disc((x - 0.45, y + 0.1), 0.72)),
        7 => rectangle((x, y - 0.5), 1.0, 0.25).min(rectangle((x, y + 0.5), 1.0, 0.25)),
        8 => {
            let lobes = disc((x + 0.42, y + 0.35), 0.5).min(disc((x - 0.42, y + 0.35), 0.5));
            lobes.min(polygon(p, &[(-0.87, -0.12), (0.0, -0.45), (0.87, -0.12), (0.0, 0.98)]))
        }
        9 => {
            let post = rectangle((x + 0.5, y), 0.3, 1.0);
            post.min(rectangle((x - 0.05, y - 0.7), 0.85, 0.3))
        }
        _ => unreachable!("there are ten shapes"),
    }
}

/// Five points on radius 1, five dents on radius 0.45, the first point up.
const STAR: [(f32, f32); 10] = [
    (0.0, -1.0),
    (0.264_503, -0.364_058),
    (0.951_057, -0.309_017),
    (0.427_975, 0.139_058),
    (0.587_785, 0.809_017),
    (0.0, 0.45),
    (-0.587_785, 0.809_017),
    (-0.427_975, 0.139_058),
    (-0.951_057, -0.309_017),
    (-0.264_503, -0.364_058),
];

/// A disc around the origin.
pub(crate) fn disc((x, y): (f32, f32), radius: f32) -> f32 {
    (x * x + y * y).sqrt() - radius
}

/// A rectangle around the origin, given by half its sides.
pub(crate) fn rectangle((x, y): (f32, f32), half_width: f32, half_height: f32) -> f32 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    let (out_x, out_y) = (dx.max(0.0), dy.max(0.0));
    dx.max(dy).min(0.0) + (out_x * out_x + out_y * out_y).sqrt()
}

/// A simple polygon: distance to the nearest edge, sign by the even-odd rule.
fn polygon((x, y): (f32, f32), corners: &[(f32, f32)]) -> f32 {
    let mut nearest = f32::MAX;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &(x0, y0) in corners {
        let (ex, ey) = (previous.0 - x0, previous.1 - y0);
        let (wx, wy) = (x - x0, y - y0);
        let t = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (qx, qy) = (wx - ex * t, wy - ey * t);
        nearest = nearest.min(qx * qx + qy * qy);
        if (y0 > y) != (previous.1 > y) && wx < ex * wy / ey {
            inside = !inside;
        }
        previous = (x0, y0);
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of a fine grid over [-2, 2]² that lies inside, as an area.
    fn area(class: usize) -> f32 {
        const N: u16 = 1000;
        let at = |i: u16| (f32::from(i) + 0.5) * 4.0 / f32::from(N) - 2.0;
        let inside = |&(i, j): &(u16, u16)| distance(class, (at(i), at(j))) < 0.0;
        let count = (0..N).flat_map(|i| (0..N).map(move |j| (i, j))).filter(inside).count();
        count as f32 * 16.0 / (f32::from(N) * f32::from(N))
    }

    #[test]
    fn all_shapes_have_one_area() {
        for (class, name) in NAMES.iter().enumerate() {
            let area = area(class);
            assert!((area / AREA - 1.0).abs() < 0.01, "{name}: {area}");
        }
    }
}
