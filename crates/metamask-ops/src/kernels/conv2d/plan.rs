//! What a correlation reads and writes: forward and backward-data as lists of
//! offsets, so that one loop serves both.

use super::ConvShape;

/// A correlation of bordered source images with weights.
///
/// Every target pixel is a sum over *runs* of contiguous source elements. NHWC
/// makes a whole kernel row such a run, so a 3x3 kernel has three of them,
/// whatever the number of channels.
pub(super) struct Plan {
    pub(super) batch: usize,
    pub(super) source: Frame,
    /// Elements of a target image, and its channels.
    pub(super) target_len: usize,
    pub(super) target_c: usize,
    pub(super) passes: Vec<Pass>,
    /// How to read the weights `[tap, k, n]`: strides of the source channel k
    /// and the target channel n.
    pub(super) k_stride: usize,
    pub(super) n_stride: usize,
}

/// A source image and its zero border.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) c: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) bottom: usize,
    pub(super) right: usize,
}

/// The target pixels that use the same taps: all of them forward; one for each
/// residue of the position modulo the stride backward.
pub(super) struct Pass {
    pub(super) pixels: Vec<Pixel>,
    pub(super) runs: Vec<Run>,
}

/// Where a target pixel of an image starts, and the source pixel that its runs
/// count from, in elements.
#[derive(Clone, Copy)]
pub(super) struct Pixel {
    pub(super) source: usize,
    pub(super) target: usize,
}

/// Contiguous source elements, and the taps (kernel positions) they meet: one
/// tap for each source pixel.
pub(super) struct Run {
    pub(super) offset: usize,
    pub(super) taps: Vec<usize>,
}

impl Frame {
    pub(super) fn is_bare(&self) -> bool {
        self.top + self.left + self.bottom + self.right == 0
    }

    /// Elements of the image without its border.
    pub(super) fn image_len(&self) -> usize {
        self.h * self.w * self.c
    }

    /// Elements of a bordered row.
    pub(super) fn row_len(&self) -> usize {
        (self.left + self.w + self.right) * self.c
    }

    /// Elements of the bordered image.
    pub(super) fn len(&self) -> usize {
        (self.top + self.h + self.bottom) * self.row_len()
    }
}

impl Pass {
    /// Length of the sum: source elements that a target pixel meets.
    pub(super) fn depth(&self, source_c: usize) -> usize {
        self.runs.iter().map(|run| run.taps.len() * source_c).sum()
    }
}

impl Plan {
    pub(super) fn forward(s: &ConvShape) -> Self {
        let source = frame(s);
        let runs = (0..s.kernel_h)
            .map(|kh| Run {
                offset: kh * source.row_len(),
                taps: (0..s.kernel_w).map(|kw| kh * s.kernel_w + kw).collect(),
            })
            .collect();
        let pixels = positions(s.out_h(), s.out_w())
            .map(|(y, x)| Pixel {
                source: y * s.stride * source.row_len() + x * s.stride * s.in_c,
                target: (y * s.out_w() + x) * s.out_c,
            })
            .collect();
        Self {
            batch: s.batch,
            source,
            target_len: s.out_h() * s.out_w() * s.out_c,
            target_c: s.out_c,
            passes: vec![Pass { pixels, runs }],
            k_stride: s.out_c,
            n_stride: 1,
        }
    }

    /// Input row iy meets output row (iy + padding − kh) / stride wherever that
    /// is whole. Rows of one residue have the same kh; going through them
    /// backwards walks forwards through dy. Columns likewise.
    pub(super) fn backward_data(s: &ConvShape) -> Self {
        let (top, bottom) = borders(s, s.kernel_h, s.in_h, s.out_h());
        let (left, right) = borders(s, s.kernel_w, s.in_w, s.out_w());
        let source = Frame { h: s.out_h(), w: s.out_w(), c: s.out_c, top, left, bottom, right };
        let meets = |residue: usize, kernel: usize| -> Vec<usize> {
            (0..kernel)
                .rev()
                .filter(|k| (residue + s.padding + kernel * s.stride - k).is_multiple_of(s.stride))
                .collect()
        };
        let passes = positions(s.stride.min(s.in_h), s.stride.min(s.in_w))
            .map(|(first_y, first_x)| {
                let (rows, columns) = (meets(first_y, s.kernel_h), meets(first_x, s.kernel_w));
                // Bordered dy's position that the first tap of the first pixel meets.
                let start = |residue: usize, border: usize, taps: &[usize]| {
                    taps.first()
                        .map_or(0, |k| (residue + s.padding + border * s.stride - k) / s.stride)
                };
                let origin = start(first_y, top, &rows) * source.row_len()
                    + start(first_x, left, &columns) * s.out_c;
                let runs = rows
                    .iter()
                    .enumerate()
                    .filter(|_| !columns.is_empty())
                    .map(|(j, kh)| Run {
                        offset: origin + j * source.row_len(),
                        taps: columns.iter().map(|kw| kh * s.kernel_w + kw).collect(),
                    })
                    .collect();
                let pixels = positions(
                    (s.in_h - first_y).div_ceil(s.stride),
                    (s.in_w - first_x).div_ceil(s.stride),
                )
                .map(|(y, x)| Pixel {
                    source: y * source.row_len() + x * s.out_c,
                    target: ((first_y + y * s.stride) * s.in_w + first_x + x * s.stride) * s.in_c,
                })
                .collect();
                Pass { pixels, runs }
            })
            .collect();
        Self {
            batch: s.batch,
            source,
            target_len: s.in_h * s.in_w * s.in_c,
            target_c: s.in_c,
            passes,
            k_stride: 1,
            n_stride: s.out_c,
        }
    }
}

/// The input with its padding.
pub(super) fn frame(s: &ConvShape) -> Frame {
    let border = s.padding;
    Frame {
        h: s.in_h,
        w: s.in_w,
        c: s.in_c,
        top: border,
        left: border,
        bottom: border,
        right: border,
    }
}

/// Zero rows that dy needs before and after itself along one axis.
fn borders(s: &ConvShape, kernel: usize, input: usize, output: usize) -> (usize, usize) {
    let before = (kernel - 1).saturating_sub(s.padding).div_ceil(s.stride);
    let after = ((input - 1 + s.padding) / s.stride + 1).saturating_sub(output);
    (before, after)
}

fn positions(h: usize, w: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..h).flat_map(move |y| (0..w).map(move |x| (y, x)))
}
