//! Embeddings to loss: one file for each objective of self-supervised learning.
//!
//! An objective takes the two views' embeddings and gives a scalar. It knows
//! nothing of encoders, masks or optimisers. Each is written once over
//! [`metamask_ops::Differentiable`]: on Candle tensors it is an ordinary loss,
//! on duals it carries its directional derivative along, which the mask's
//! hypergradient needs.

mod barlow_twins;
mod nt_xent;

pub use barlow_twins::barlow_twins;
pub use nt_xent::{nt_xent, nt_xent_chance_level};

use candle_core::{Result, Tensor, bail};

/// Batch and width of two views' embeddings, which must agree.
fn matching_dims2(operation: &str, z_a: &Tensor, z_b: &Tensor) -> Result<(usize, usize)> {
    if z_a.dims() != z_b.dims() || z_a.rank() != 2 {
        bail!(
            "{operation}: views must have one shape [batch, dim], expected {:?}, got {:?}",
            z_a.dims(),
            z_b.dims()
        );
    }
    let (batch, dim) = z_a.dims2()?;
    if batch < 2 {
        bail!(
            "{operation}: samples are compared within the batch, expected batch >= 2, got {batch}"
        );
    }
    Ok((batch, dim))
}

#[cfg(test)]
mod reference;
