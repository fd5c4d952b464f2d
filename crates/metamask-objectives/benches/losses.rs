//! Each loss with its gradient, on embeddings `[batch, 128]` of two views (Barlow Twins:
//! `[batch, 2048]`).
//!
//! ```text
//! cargo bench -p metamask-objectives --bench losses
//! ```

use candle_core::{Device, Result, Tensor, Var};
use divan::{Bencher, counter::ItemsCount};
use metamask_objectives::{
    barlow_twins, byol_cosine, debiased_nt_xent, hard_negative_nt_xent, nearest_neighbour_nt_xent,
    nt_xent,
};
use metamask_random::{Key, Purpose};

const BATCHES: [usize; 3] = [64, 256, 512];

fn main() {
    divan::main();
}

fn bench(
    bencher: Bencher<'_, '_>,
    (batch, dim): (usize, usize),
    loss: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let z: Vec<Var> = (0..4)
        .map(|i| {
            let mut stream = Key::new(0, Purpose::Test).sample(i).stream();
            let values: Vec<f32> = (0..batch * dim).map(|_| stream.normal() as f32).collect();
            let z = Tensor::from_vec(values, (batch, dim), &Device::Cpu)?;
            Var::from_tensor(&z)
        })
        .collect::<Result<_>>()
        .expect("embeddings");
    // The views are variables; targets and neighbours are given.
    let z: Vec<Tensor> = z
        .iter()
        .enumerate()
        .map(|(i, z)| if i < 2 { z.as_tensor().clone() } else { z.detach() })
        .collect();
    bencher
        .counter(ItemsCount::new(2 * batch))
        .bench_local(|| loss(&z).and_then(|loss| loss.backward()).expect("a gradient"));
}

#[divan::bench(args = BATCHES)]
fn simclr(bencher: Bencher<'_, '_>, batch: usize) {
    bench(bencher, (batch, 128), |z| nt_xent(&z[0], &z[1], 0.5));
}

#[divan::bench(args = BATCHES)]
fn barlow(bencher: Bencher<'_, '_>, batch: usize) {
    bench(bencher, (batch, 2048), |z| barlow_twins(&z[0], &z[1], 5e-3));
}

#[divan::bench(args = BATCHES)]
fn byol(bencher: Bencher<'_, '_>, batch: usize) {
    bench(bencher, (batch, 128), |z| byol_cosine(&z[0], &z[1], &z[2], &z[3]));
}

#[divan::bench(args = BATCHES)]
fn dcl(bencher: Bencher<'_, '_>, batch: usize) {
    bench(bencher, (batch, 128), |z| debiased_nt_xent(&z[0], &z[1], 0.5, 0.1));
}

#[divan::bench(args = BATCHES)]
fn hcl(bencher: Bencher<'_, '_>, batch: usize) {
    bench(bencher, (batch, 128), |z| hard_negative_nt_xent(&z[0], &z[1], 0.5, 0.1, 1.0));
}

#[divan::bench(args = BATCHES)]
fn nnclr(bencher: Bencher<'_, '_>, batch: usize) {
    bench(bencher, (batch, 128), |z| nearest_neighbour_nt_xent(&z[0], &z[1], &z[2], &z[3], 0.1));
}
