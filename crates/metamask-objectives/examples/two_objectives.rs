//! Objectives inside somebody's own training loop: embeddings of two views, moved
//! by plain gradient descent until each sample is told from the rest, first by
//! NT-Xent, then by NNCLR with its queue of earlier embeddings.
//!
//! ```text
//! cargo run --release -p metamask-objectives --example two_objectives
//! ```

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_objectives::{
    SupportQueue, nearest_neighbour_nt_xent, nnclr_chance_level, nt_xent, nt_xent_chance_level,
};
use metamask_random::{Key, Purpose};

const BATCH: usize = 8;
const DIM: usize = 4;
const CAPACITY: usize = 64;
const TAU: f64 = 0.2;

fn main() -> Result<()> {
    println!("NT-Xent, chance level {:.4}", nt_xent_chance_level(BATCH));
    train(|z_a, z_b| nt_xent(z_a, z_b, TAU))?;

    println!("NNCLR, chance level {:.4}", nnclr_chance_level(BATCH));
    let key = Key::new(0, Purpose::SupportQueue);
    let mut queue = SupportQueue::new(CAPACITY, DIM, key, DType::F64, &Device::Cpu)?;
    train(|z_a, z_b| {
        // A network would predict from z; here the embeddings are the predictions.
        let (nn_a, nn_b) = (queue.nearest(z_a)?, queue.nearest(z_b)?);
        let loss = nearest_neighbour_nt_xent(z_a, z_b, &nn_a, &nn_b, TAU)?;
        queue.enqueue(z_a)?;
        Ok(loss)
    })
}

fn train(mut objective: impl FnMut(&Tensor, &Tensor) -> Result<Tensor>) -> Result<()> {
    // Stand-ins for an encoder's output: every entry its own number.
    let entries =
        |shift: f64| (0..BATCH * DIM).map(|i| (1.7 * i as f64 + shift).sin()).collect::<Vec<f64>>();
    let z_a = Var::from_vec(entries(0.0), (BATCH, DIM), &Device::Cpu)?;
    let z_b = Var::from_vec(entries(0.9), (BATCH, DIM), &Device::Cpu)?;

    for step in 0..=100 {
        let loss = objective(z_a.as_tensor(), z_b.as_tensor())?;
        if step % 20 == 0 {
            println!("step {step:3}  loss {:.4}", loss.to_scalar::<f64>()?);
        }
        let gradients = loss.backward()?;
        for z in [&z_a, &z_b] {
            let gradient = gradients.get(z).expect("the loss depends on both views");
            z.set(&(z.as_tensor() - (gradient * 0.5)?)?)?;
        }
    }
    Ok(())
}
