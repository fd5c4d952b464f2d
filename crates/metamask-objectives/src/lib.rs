//! Embeddings to loss: one file for each objective of self-supervised learning.
//!
//! An objective takes the two views' embeddings and gives a scalar. It knows
//! nothing of encoders, masks or optimisers. Each is written once over
//! [`metamask_ops::Differentiable`]: on Candle tensors it is an ordinary loss,
//! on duals it carries its directional derivative along, which the mask's
//! hypergradient needs.
//!
//! | method | objective | with |
//! |---|---|---|
//! | SimCLR | [`nt_xent`] | |
//! | Barlow Twins | [`barlow_twins`] | |
//! | BYOL | [`byol_cosine`] | a target network: [`target_parameters`], [`ema_momentum`], [`ema_update`] |
//! | DCL (debiased) | [`debiased_nt_xent`] | |
//! | HCL | [`hard_negative_nt_xent`] | [`annealed_beta`], if wanted |
//! | NNCLR | [`nearest_neighbour_nt_xent`] | a [`SupportQueue`] |
//!
//! Settings (temperatures and the like) are trusted: whoever reads them from a
//! user checks them against the ranges given here.

#![forbid(unsafe_code)]

mod barlow_twins;
mod byol;
mod debiased_nt_xent;
mod hard_negative_nt_xent;
mod nnclr;
mod nt_xent;
mod similarity;
mod support_queue;
mod target_network;

pub use barlow_twins::barlow_twins;
pub use byol::byol_cosine;
pub use debiased_nt_xent::debiased_nt_xent;
pub use hard_negative_nt_xent::{annealed_beta, hard_negative_nt_xent};
pub use nnclr::{nearest_neighbour_nt_xent, nnclr_chance_level};
pub use nt_xent::{nt_xent, nt_xent_chance_level};
pub use support_queue::SupportQueue;
pub use target_network::{ema_momentum, ema_update, target_parameters};

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
    if batch == 0 {
        bail!("{operation}: a mean needs a sample, expected batch >= 1, got 0");
    }
    Ok((batch, dim))
}

/// [`matching_dims2`] where samples are compared with each other.
fn compared_dims2(operation: &str, z_a: &Tensor, z_b: &Tensor) -> Result<(usize, usize)> {
    let (batch, dim) = matching_dims2(operation, z_a, z_b)?;
    if batch < 2 {
        bail!(
            "{operation}: samples are compared within the batch, expected batch >= 2, got {batch}"
        );
    }
    Ok((batch, dim))
}

/// What predictions are held against, which must have their shape.
fn check_constants(operation: &str, what: &str, p: &Tensor, constants: [&Tensor; 2]) -> Result<()> {
    for constant in constants {
        if constant.dims() != p.dims() {
            bail!(
                "{operation}: {what} must have the predictions' shape, expected {:?}, got {:?}",
                p.dims(),
                constant.dims()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod reference;
