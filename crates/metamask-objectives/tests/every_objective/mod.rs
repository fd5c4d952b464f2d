//! The six objectives behind one signature.

use candle_core::{Result, Tensor};
use metamask_objectives::{
    barlow_twins, byol_cosine, debiased_nt_xent, hard_negative_nt_xent, nearest_neighbour_nt_xent,
    nt_xent,
};
use metamask_ops::Dual;

#[derive(Clone, Copy)]
pub struct Settings {
    pub lambda: f64,
    pub tau: f64,
    pub tau_plus: f64,
    pub beta: f64,
}

/// Two views, and the two constants of the objectives that have them.
pub type Objective = fn(&Dual, &Dual, [&Tensor; 2], Settings) -> Result<Dual>;

pub const OBJECTIVES: [(&str, Objective); 6] = [
    ("barlow_twins", |a, b, _, s| barlow_twins(a, b, s.lambda)),
    ("nt_xent", |a, b, _, s| nt_xent(a, b, s.tau)),
    ("byol_cosine", |a, b, others, _| byol_cosine(a, b, others[0], others[1])),
    ("debiased_nt_xent", |a, b, _, s| debiased_nt_xent(a, b, s.tau, s.tau_plus)),
    ("hard_negative_nt_xent", |a, b, _, s| hard_negative_nt_xent(a, b, s.tau, s.tau_plus, s.beta)),
    ("nearest_neighbour_nt_xent", |a, b, others, s| {
        nearest_neighbour_nt_xent(a, b, others[0], others[1], s.tau)
    }),
];
