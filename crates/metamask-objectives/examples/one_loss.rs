//! One objective inside somebody's own training loop: embeddings of two views,
//! moved by plain gradient descent until NT-Xent tells each sample from the rest.
//!
//! ```text
//! cargo run --release -p metamask-objectives --example one_loss
//! ```

use candle_core::{Device, Result, Var};
use metamask_objectives::{nt_xent, nt_xent_chance_level};

const BATCH: usize = 8;
const DIM: usize = 4;

fn main() -> Result<()> {
    // Stand-ins for an encoder's output: every entry its own number.
    let entries =
        |shift: f64| (0..BATCH * DIM).map(|i| (1.7 * i as f64 + shift).sin()).collect::<Vec<f64>>();
    let z_a = Var::from_vec(entries(0.0), (BATCH, DIM), &Device::Cpu)?;
    let z_b = Var::from_vec(entries(0.9), (BATCH, DIM), &Device::Cpu)?;

    println!("chance level {:.4}", nt_xent_chance_level(BATCH));
    for step in 0..=100 {
        let loss = nt_xent(z_a.as_tensor(), z_b.as_tensor(), 0.2)?;
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
