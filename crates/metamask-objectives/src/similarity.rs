//! How alike the 2N views of a batch are, and which of them a view competes
//! with: what the contrastive objectives share.

use candle_core::{Result, Tensor};
use metamask_ops::Differentiable;

/// Cosines of all views with all, `[2N, 2N]`: first view a's rows, then view b's.
/// Rows of `u_a` and `u_b`, `[N, P]`, have unit length.
pub(crate) fn cosines<T: Differentiable>(u_a: &T, u_b: &T) -> Result<T> {
    let u = T::cat(&[u_a, u_b], 0)?; // [2N, P]
    u.matmul(&u.t()?)
}

/// Cosine of each view with its partner, the other view of the same sample: `[2N, 1]`.
pub(crate) fn partner_cosines<T: Differentiable>(u_a: &T, u_b: &T) -> Result<T> {
    let of_pairs = u_a.mul(u_b)?.sum_keepdim(1)?; // [N, 1]
    T::cat(&[&of_pairs, &of_pairs], 0)
}

/// Who takes no part in the competition of a view.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excluded {
    /// The view itself: its partner and 2N − 2 negatives are left.
    Itself,
    /// The view and its partner: 2N − 2 negatives are left.
    ItselfAndPartner,
}

/// What takes the excluded out of a row of logits when added to it: −∞ at their
/// places, 0 elsewhere.
pub(crate) fn excluding<T: Differentiable>(excluded: Excluded, logits: &T) -> Result<T> {
    let logits = logits.value();
    let (n_views, _) = logits.dims2()?;
    let mut entries = vec![0f32; n_views * n_views];
    for (i, row) in entries.chunks_exact_mut(n_views).enumerate() {
        row[i] = f32::NEG_INFINITY;
        if excluded == Excluded::ItselfAndPartner {
            row[(i + n_views / 2) % n_views] = f32::NEG_INFINITY;
        }
    }
    let entries = Tensor::from_vec(entries, (n_views, n_views), logits.device())?;
    Ok(T::constant(entries.to_dtype(logits.dtype())?))
}
