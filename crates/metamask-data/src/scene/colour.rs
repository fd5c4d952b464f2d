//! Colours of the scenes: RGB in 0..1, no gamma.

/// Red, green, blue in 0..1.
pub(crate) type Rgb = [f32; 3];

/// From hue (in turns, any number), saturation and value.
pub(crate) fn hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    let sixth = (hue - hue.floor()) * 6.0;
    let fraction = sixth - sixth.floor();
    let low = value * (1.0 - saturation);
    let falling = value * (1.0 - saturation * fraction);
    let rising = value * (1.0 - saturation * (1.0 - fraction));
    match sixth as u8 {
        0 | 6 => [value, rising, low], // 6: hue rounded up to a whole turn
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

/// Brightness, as torchvision's grey has it.
pub(crate) fn luma([r, g, b]: Rgb) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

/// The colour of that hue and saturation (at full value) made exactly as bright
/// as asked: darkened towards black, or lightened towards white.
pub(crate) fn with_luma(hue: f32, saturation: f32, wanted: f32) -> Rgb {
    let full = hsv(hue, saturation, 1.0);
    let bright = luma(full);
    if wanted <= bright {
        full.map(|c| c * (wanted / bright))
    } else {
        let white = (wanted - bright) / (1.0 - bright).max(1e-6);
        full.map(|c| c + (1.0 - c) * white)
    }
}

/// `t` of the way from one colour to another.
pub(crate) fn mix(from: Rgb, to: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|i| from[i] + (to[i] - from[i]) * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_go_round_from_red_over_green_and_blue() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]);
        assert_eq!(hsv(1.0 / 3.0, 1.0, 1.0).map(|c| c.round()), [0.0, 1.0, 0.0]);
        assert_eq!(hsv(2.0 / 3.0, 1.0, 1.0).map(|c| c.round()), [0.0, 0.0, 1.0]);
        assert_eq!(hsv(-1e-9, 1.0, 1.0)[0], 1.0);
        assert_eq!(hsv(0.3, 0.0, 0.7), [0.7; 3]);
    }

    #[test]
    fn with_luma_meets_the_brightness_asked_for() {
        for i in 0..100u8 {
            let (hue, wanted) = (f32::from(i) * 0.01, f32::from(i % 11) * 0.1);
            let colour = with_luma(hue, 0.9, wanted);
            assert!((luma(colour) - wanted).abs() < 1e-5, "hue {hue} wanted {wanted}");
            assert!(colour.iter().all(|c| (-1e-6..=1.0 + 1e-6).contains(c)), "{colour:?}");
        }
    }
}
