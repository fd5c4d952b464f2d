//! What holds of every objective, or of several, whatever the embeddings.

mod every_objective;

use candle_core::{Device, Result, Tensor};
use every_objective::{OBJECTIVES, Objective, Settings};
use metamask_objectives::{nnclr_chance_level, nt_xent_chance_level};
use metamask_random::{Key, Purpose};

const SETTINGS: Settings = Settings { lambda: 0.1, tau: 0.2, tau_plus: 0.1, beta: 1.0 };

/// Rounding of sums in another order.
const TOLERANCE: f64 = 1e-12;

const BATCH: usize = 9;

fn normal(sample: u32) -> Result<Tensor> {
    let mut stream = Key::new(0, Purpose::Test).sample(sample).stream();
    let values: Vec<f64> = (0..BATCH * 5).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, (BATCH, 5), &Device::Cpu)
}

/// The loss of views a and b, with constants a and b.
fn loss(objective: Objective, tensors: &[Tensor; 4]) -> Result<f64> {
    let [a, b, other_a, other_b] = tensors;
    objective(&a.clone().into(), &b.clone().into(), [other_a, other_b], SETTINGS)?.value.to_scalar()
}

fn tensors() -> Result<[Tensor; 4]> {
    Ok([normal(0)?, normal(1)?, normal(2)?, normal(3)?])
}

#[test]
fn the_order_of_the_samples_does_not_matter() -> Result<()> {
    let order = Key::new(1, Purpose::Test).stream().permutation(BATCH as u32);
    let order = Tensor::new(order, &Device::Cpu)?;
    let tensors = tensors()?;
    let mut shuffled = tensors.clone();
    for tensor in &mut shuffled {
        *tensor = tensor.index_select(&order, 0)?;
    }
    let mut mispaired = tensors.clone();
    mispaired[1] = mispaired[1].index_select(&order, 0)?;
    for (name, objective) in OBJECTIVES {
        let expected = loss(objective, &tensors)?;
        let got = loss(objective, &shuffled)?;
        assert!((got - expected).abs() < TOLERANCE, "{name}: {got} {expected}");
        // Which sample goes with which does matter.
        assert!((loss(objective, &mispaired)? - expected).abs() > 1e-3, "{name}");
    }
    Ok(())
}

#[test]
fn the_order_of_the_views_does_not_matter() -> Result<()> {
    let [a, b, other_a, other_b] = tensors()?;
    for (name, objective) in OBJECTIVES {
        let tensors = [&a, &b, &other_a, &other_b].map(Tensor::clone);
        let swapped = [&b, &a, &other_b, &other_a].map(Tensor::clone);
        let (got, expected) = (loss(objective, &swapped)?, loss(objective, &tensors)?);
        assert!((got - expected).abs() < TOLERANCE, "{name}: {got} {expected}");
    }
    Ok(())
}

#[test]
fn the_length_of_an_embedding_does_not_matter_but_to_barlow_twins() -> Result<()> {
    let tensors = tensors()?;
    let lengths = normal(4)?.narrow(1, 0, 1)?.exp()?; // [N, 1]
    let mut stretched = tensors.clone();
    for tensor in &mut stretched {
        *tensor = tensor.broadcast_mul(&lengths)?;
    }
    for (name, objective) in OBJECTIVES {
        let error = (loss(objective, &stretched)? - loss(objective, &tensors)?).abs();
        assert_eq!(error < TOLERANCE, name != "barlow_twins", "{name}: {error}");
    }
    Ok(())
}

#[test]
fn equal_embeddings_give_the_chance_level() -> Result<()> {
    let equal = [0; 4].map(|_| Tensor::new(&[[0.3f64, -1.0, 2.0]; BATCH], &Device::Cpu).unwrap());
    for (name, objective) in OBJECTIVES {
        let chance = match name {
            "nearest_neighbour_nt_xent" => nnclr_chance_level(BATCH),
            "barlow_twins" | "byol_cosine" => continue, // compare no samples
            _ => nt_xent_chance_level(BATCH),
        };
        let got = loss(objective, &equal)?;
        assert!((got - chance).abs() < TOLERANCE, "{name}: {got} {chance}");
    }
    Ok(())
}
