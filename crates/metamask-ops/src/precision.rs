//! How exactly a network's convolutions are computed.

/// The arithmetic of a [`crate::Network`]'s convolutions in f32.
///
/// The error of each kernel against f64 is tabulated in `docs/results/precision.md`.
/// Whatever the choice: sums are kept in f32, batch statistics, linear layers and
/// everything in f64 stay exact, and results do not depend on the number of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Every product as the definition has it.
    #[default]
    Exact,
    /// Winograd's F(4x4, 3x3) where it saves time: a quarter of the products in
    /// 3x3 convolutions of stride 1, an error a few times the rounding of f32.
    Fast,
    /// As [`Self::Fast`], with the factors of the products rounded to bfloat16 (8 bits of
    /// 24): an error of one part in a hundred where Winograd's map grows it, of a
    /// four-hundredth elsewhere. A direct sum over an odd number of channels (images), and
    /// the gradient in the weights of what is summed directly, stay in f32.
    Bf16,
}
