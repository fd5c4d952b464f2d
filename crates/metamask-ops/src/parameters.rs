//! Named parameters, several of which may live in one tensor.

use std::ops::Range;

use candle_core::{Tensor, Var};

/// What a number is for. Optimisers may treat kinds differently (LARS leaves
/// biases and norms alone), checkpoints convert convolution weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// Convolution weight, stored `[kernel_h, kernel_w, in, out]`.
    Convolution,
    /// Linear weight, stored `[out, in]` as PyTorch does.
    Linear,
    /// Additive bias.
    Bias,
    /// Scale of a normalisation.
    NormScale,
    /// Shift of a normalisation.
    NormShift,
    /// Logits of the dimension mask.
    MaskLogits,
    /// Running mean of a batch normalisation (not trained).
    RunningMean,
    /// Running variance of a batch normalisation (not trained).
    RunningVariance,
}

/// One named parameter inside a [`ParameterGroup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterEntry {
    /// PyTorch's name, such as `layer1.0.conv1.weight`.
    pub name: String,
    /// Shape as stored here.
    pub shape: Vec<usize>,
    /// Where it lies in the group's tensor, flattened.
    pub span: Range<usize>,
    /// What it is for.
    pub kind: ParameterKind,
}

/// One variable that holds one or more named parameters back to back.
///
/// An encoder keeps all its parameters in one flat group, so that an optimiser
/// step, an exponential average or a virtual step is one loop; a head keeps a
/// group for each tensor, because Candle's `narrow` would send back full-size
/// zeros for each slice.
#[derive(Clone, Debug)]
pub struct ParameterGroup {
    /// The numbers: flat, or of the only entry's shape.
    pub var: Var,
    /// The parameters, in order; their spans cover the variable.
    pub entries: Vec<ParameterEntry>,
}

impl ParameterGroup {
    /// A group of one parameter of the variable's own shape.
    pub fn single(name: impl Into<String>, kind: ParameterKind, var: Var) -> Self {
        let shape = var.dims().to_vec();
        let span = 0..var.elem_count();
        Self { var, entries: vec![ParameterEntry { name: name.into(), shape, span, kind }] }
    }

    /// The group's tensor, joined to autograd.
    pub fn tensor(&self) -> &Tensor {
        self.var.as_tensor()
    }
}
