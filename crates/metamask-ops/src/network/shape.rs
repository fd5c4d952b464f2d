//! Shapes of one sample's activations, layer by layer.

use candle_core::{Result, bail};

use super::builder::{Layer, Window};

/// The shape of a layer's output for one sample. The batch axis is left out;
/// sizes may still be unknown while a network is being described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[height, width, channels]`
    Image { size: Option<(usize, usize)>, channels: usize },
    /// `[width]`
    Vector { width: Option<usize> },
    /// Behind a mistake that was reported already.
    Unknown,
}

impl Shape {
    /// Width of the last axis.
    pub fn channels(self) -> Option<usize> {
        match self {
            Self::Image { channels, .. } => Some(channels),
            Self::Vector { width } => width,
            Self::Unknown => None,
        }
    }

    /// Numbers in one sample. All shapes inside a running network are known.
    pub fn len(self) -> usize {
        match self {
            Self::Image { size: Some((height, width)), channels } => height * width * channels,
            Self::Vector { width: Some(width) } => width,
            _ => unreachable!("shapes are known once the input's is"),
        }
    }

    /// Height, width and channels; a vector is an image of one pixel.
    pub fn image(self) -> (usize, usize, usize) {
        match self {
            Self::Image { size: Some((height, width)), channels } => (height, width, channels),
            _ => (1, 1, self.len()),
        }
    }

    /// With the batch axis in front.
    pub fn with_batch(self, batch: usize) -> Vec<usize> {
        match self {
            Self::Image { size: Some((height, width)), channels } => {
                vec![batch, height, width, channels]
            }
            _ => vec![batch, self.len()],
        }
    }
}

impl Layer {
    /// The shape of the output, from the shapes of all layers before.
    pub fn infer(&self, shapes: &[Shape]) -> Result<Shape> {
        if self.inputs().any(|input| shapes[input] == Shape::Unknown) {
            return Ok(Shape::Unknown);
        }
        Ok(match self {
            Self::Input => shapes[0],
            Self::Conv { x, window, out_channels, .. } => {
                let (size, _) = image("conv2d", shapes[*x])?;
                let limit = window.height.min(window.width).saturating_sub(1);
                Shape::Image {
                    size: windows("conv2d", size, *window, limit)?,
                    channels: *out_channels,
                }
            }
            Self::MaxPool { x, window } => {
                let (size, channels) = image("max_pool2d", shapes[*x])?;
                Shape::Image {
                    size: windows("max_pool2d", size, *window, window.height / 2)?,
                    channels,
                }
            }
            Self::AvgPool { x, window } => {
                let (size, channels) = image("avg_pool2d", shapes[*x])?;
                Shape::Image {
                    size: windows("avg_pool2d", size, *window, window.height / 2)?,
                    channels,
                }
            }
            Self::GlobalAvgPool { x } => {
                let (_, channels) = image("global_avg_pool", shapes[*x])?;
                Shape::Vector { width: Some(channels) }
            }
            Self::Flatten { x } => {
                let (size, channels) = image("flatten", shapes[*x])?;
                Shape::Vector { width: size.map(|(height, width)| height * width * channels) }
            }
            Self::BatchNorm { x, .. } | Self::Relu { x } => shapes[*x],
            Self::Add { a, b } => {
                if shapes[*a] != shapes[*b] {
                    bail!(
                        "add: both shapes must be one, expected {:?}, got {:?}",
                        shapes[*a],
                        shapes[*b]
                    );
                }
                shapes[*a]
            }
            Self::Linear { x, out_features, .. } => match shapes[*x] {
                Shape::Vector { .. } => Shape::Vector { width: Some(*out_features) },
                other => {
                    bail!("linear: the input must be vectors, flatten or pool first, got {other:?}")
                }
            },
        })
    }
}

type Size = Option<(usize, usize)>;

fn image(operation: &str, shape: Shape) -> Result<(Size, usize)> {
    match shape {
        Shape::Image { size, channels } => Ok((size, channels)),
        other => bail!("{operation}: the input must be images, got {other:?}"),
    }
}

/// The number of windows along height and width.
fn windows(operation: &str, size: Size, window: Window, padding_limit: usize) -> Result<Size> {
    let Window { height, width, stride, padding } = window;
    if height == 0 || width == 0 || stride == 0 || padding > padding_limit {
        bail!(
            "{operation}: kernel and stride must be at least 1 and padding at most \
             {padding_limit}, got kernel {height}x{width}, stride {stride}, padding {padding}"
        );
    }
    let Some((h, w)) = size else { return Ok(None) };
    if h + 2 * padding < height || w + 2 * padding < width {
        bail!(
            "{operation}: the kernel must fit into the padded image, expected at most {}x{}, \
             got {height}x{width}",
            h + 2 * padding,
            w + 2 * padding
        );
    }
    Ok(Some(((h + 2 * padding - height) / stride + 1, (w + 2 * padding - width) / stride + 1)))
}
