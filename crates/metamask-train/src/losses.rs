//! The losses of a run as functions of features, head parameters and mask: what
//! the regular step, the meta step and the evaluation of a step all go through.

use std::cell::OnceCell;

use candle_core::{Result, Tensor};
use metamask_encoders::Mlp;
use metamask_objectives::{
    SupportQueue, barlow_twins, byol_cosine, debiased_nt_xent, hard_negative_nt_xent,
    nearest_neighbour_nt_xent, nnclr_chance_level, nt_xent, nt_xent_chance_level,
};
use metamask_ops::{BatchStats, Differentiable, Dual};
use metamask_optim::DimensionMask;

use crate::{
    config::{MaskPlace, Method, Objective, Through},
    learner::Learner,
};

/// What the base loss of a batch takes as given: no gradient goes through it, and
/// it is one and the same in all passes of an iteration.
#[derive(Clone, Debug)]
pub struct Given {
    /// BYOL: the target's embeddings of both views.
    pub(crate) targets: Option<[Tensor; 2]>,
    /// NNCLR: the support set as it stood before the iteration.
    pub(crate) queue: Option<SupportQueue>,
    /// HCL: β.
    pub(crate) beta: f64,
}

impl Given {
    /// What the first `n` samples of the batch take as given.
    ///
    /// # Errors
    /// If there are fewer.
    pub(crate) fn first(&self, n: usize) -> Result<Self> {
        let targets = match &self.targets {
            Some([a, b]) => Some([a.narrow(0, 0, n)?, b.narrow(0, 0, n)?]),
            None => None,
        };
        Ok(Self { targets, ..self.clone() })
    }
}

impl Learner {
    /// What the base loss takes as given on these views, under the mask that the network
    /// trains under.
    ///
    /// # Errors
    /// If a shape or dtype does not fit.
    pub fn given(&self, views: &[Tensor; 2], beta: f64) -> Result<Given> {
        let features = self.target_features(views)?;
        self.given_under(self.training_mask(), features.as_ref(), beta)
    }

    /// The same under any mask. BYOL's target sees the mask as the online network does,
    /// behind the stop-gradient; `features` are [`Self::target_features`].
    pub(crate) fn given_under(
        &self,
        mask: &DimensionMask,
        features: Option<&[Tensor; 2]>,
        beta: f64,
    ) -> Result<Given> {
        let targets = match (&self.target, features) {
            (Some(groups), Some([h_a, h_b])) => {
                let xi_g: Vec<Tensor> = groups[self.encoder.parameters().len()..]
                    .iter()
                    .map(|group| group.tensor().detach())
                    .collect();
                let m = mask.values()?.detach();
                let embed = |h: &Tensor| self.embedding(h, &xi_g, &m, BatchStats::BatchOnly);
                Some([embed(h_a)?, embed(h_b)?])
            }
            _ => None,
        };
        Ok(Given { targets, queue: self.queue.clone(), beta })
    }

    /// h of both views by BYOL's target, before the mask; none for the other methods.
    pub(crate) fn target_features(&self, views: &[Tensor; 2]) -> Result<Option<[Tensor; 2]>> {
        let Some(groups) = &self.target else { return Ok(None) };
        let xi_f: Vec<Tensor> = groups[..self.encoder.parameters().len()]
            .iter()
            .map(|group| group.tensor().detach())
            .collect();
        let features = |x: &Tensor| self.encoder.forward(x, &xi_f, BatchStats::BatchOnly);
        Ok(Some([features(&views[0])?, features(&views[1])?]))
    }

    /// z = g(m ⊙ h); with the mask on the embedding, m ⊙ g(h).
    pub(crate) fn embedding<T: Differentiable>(
        &self,
        h: &T,
        theta: &[T],
        m: &T,
        stats: BatchStats,
    ) -> Result<T> {
        match self.experimental.place {
            MaskPlace::Representation => self.head.forward(&h.mul(m)?, theta, stats),
            MaskPlace::Embedding => self.head.forward(h, theta, stats)?.mul(m),
        }
    }

    /// B as a function of both views' features, θ_g and m.
    ///
    /// The embeddings of the first call are left in `seen`, for the queue and the log.
    pub fn base_loss<'a>(
        &'a self,
        stats: BatchStats,
        given: &'a Given,
        seen: Option<&'a OnceCell<[Tensor; 2]>>,
    ) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> + 'a {
        let Objective { method, temperature: tau, tau_plus, redundancy_lambda, .. } =
            self.objective;
        move |h, theta, m| {
            let (theta_g, theta_q) = theta.split_at(self.head.parameters().len());
            let z_a = self.embedding(&h[0], theta_g, m, stats)?; // [N, P]
            let z_b = self.embedding(&h[1], theta_g, m, stats)?;
            if let Some(seen) = seen {
                seen.get_or_init(|| [z_a.value.detach(), z_b.value.detach()]);
            }
            let predict = |z: &Dual| match &self.predictor {
                Some(predictor) => predictor.forward(z, theta_q, stats),
                None => unreachable!("{method:?} has a predictor"),
            };
            match method {
                Method::SimClr => nt_xent(&z_a, &z_b, tau),
                Method::BarlowTwins => barlow_twins(&z_a, &z_b, redundancy_lambda),
                Method::Dcl => debiased_nt_xent(&z_a, &z_b, tau, tau_plus),
                Method::Hcl => hard_negative_nt_xent(&z_a, &z_b, tau, tau_plus, given.beta),
                Method::Byol => {
                    let Some([target_a, target_b]) = &given.targets else {
                        unreachable!("BYOL's target embeds every batch")
                    };
                    byol_cosine(&predict(&z_a)?, &predict(&z_b)?, target_a, target_b)
                }
                Method::Nnclr => {
                    let Some(queue) = &given.queue else { unreachable!("NNCLR has a queue") };
                    let (nn_a, nn_b) = (queue.nearest(&z_a.value)?, queue.nearest(&z_b.value)?);
                    nearest_neighbour_nt_xent(&predict(&z_a)?, &predict(&z_b)?, &nn_a, &nn_b, tau)
                }
            }
        }
    }

    /// L_drr as a function of both views' features, θ_r and m: the loss of g_r(m ⊙ h).
    pub fn redundancy_loss<'a>(
        &'a self,
        head: &'a Mlp,
        stats: BatchStats,
    ) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> + 'a {
        let masked = self.experimental.place == MaskPlace::Representation
            && !self.experimental.redundancy_unmasked;
        move |h, theta, m| {
            let z = |h: &Dual| match masked {
                true => head.forward(&h.mul(m)?, theta, stats),
                false => head.forward(h, theta, stats),
            };
            barlow_twins(&z(&h[0])?, &z(&h[1])?, self.objective.redundancy_lambda)
        }
    }

    /// What a lookahead differentiates of the regular step: L = ρ L_drr + α B as a
    /// function of both views' features, (θ_g, θ_r) and m; or α B alone.
    pub(crate) fn regular_loss<'a>(
        &'a self,
        stats: BatchStats,
        given: &'a Given,
    ) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> + 'a {
        let base = self.base_loss(stats, given, None);
        let Objective { alpha, redundancy_weight, .. } = self.objective;
        let redundancy = match self.experimental.through {
            Through::Full => self.redundancy_head.as_ref(),
            Through::Base => None,
        };
        let n_redundancy = self.redundancy_head.as_ref().map_or(0, |head| head.parameters().len());
        move |h, theta, m| {
            let (theta_g, theta_r) = theta.split_at(theta.len() - n_redundancy);
            let loss = base(h, theta_g, m)?.affine(alpha, 0.0)?;
            match redundancy {
                None => Ok(loss),
                Some(head) => {
                    let redundancy = self.redundancy_loss(head, stats)(h, theta_r, m)?;
                    loss.add(&redundancy.affine(redundancy_weight, 0.0)?)
                }
            }
        }
    }
}

/// The base loss of a representation that says nothing of its sample; `None`
/// where that has no fixed value.
pub fn chance_level(method: Method, batch: usize) -> Option<f64> {
    match method {
        Method::SimClr | Method::Dcl | Method::Hcl => Some(nt_xent_chance_level(batch)),
        Method::Nnclr => Some(nnclr_chance_level(batch)),
        Method::BarlowTwins | Method::Byol => None,
    }
}
