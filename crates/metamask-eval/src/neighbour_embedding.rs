//! Features in the plane, neighbours beside each other: t-SNE.

use bhtsne::{Neighbor, tSNE};
use candle_core::{Error, Result, Tensor, bail};

use crate::{knn::nearest, principal_components::principal_components};

/// Perplexity of the neighbourhoods: how many neighbours count, about.
pub const PERPLEXITY: f32 = 30.0;
/// Iterations of t-SNE, its authors' number.
const ITERATIONS: usize = 1000;
/// θ of the Barnes-Hut approximation.
const THETA: f32 = 0.5;

/// A point for each feature, so that its nearest by the cosine lie beside it.
///
/// t-SNE (van der Maaten & Hinton 2008) by Barnes-Hut (van der Maaten 2014), by the crate
/// `bhtsne`, over the exact 3 · perplexity nearest neighbours at the distance √(2 − 2 cos), from
/// the two principal components scaled to 10⁻⁴ (Kobak & Berens 2019). Perplexity is 30, or a
/// fourth of the features if there are fewer than 120. A pure function of the features,
/// whatever the number of threads. Who lies beside whom means something; distances between
/// groups, their sizes and their density do not. Features that are all equal, which have no
/// nearest, stay where their principal components are.
///
/// # Shapes
/// `features`: `[n, dim]`, n ≥ 8. Returns n points.
/// # Errors
/// If there are fewer than eight features, or one is not finite.
pub fn neighbour_embedding(features: &Tensor) -> Result<Vec<[f64; 2]>> {
    let (n, _) = features.dims2()?;
    if n < 8 {
        bail!("neighbour_embedding: expected at least 8 features, got {n}");
    }
    let perplexity = PERPLEXITY.min(n as f32 / 4.0);
    let k = (3.0 * perplexity) as usize;
    let components = principal_components(features)?;
    let spread = components.iter().map(|p| p[0] * p[0]).sum::<f64>() / n as f64;
    let scale = if spread > 0.0 { 1e-4 / spread.sqrt() } else { 0.0 };
    let start: Vec<f32> = components.iter().flatten().map(|value| (scale * value) as f32).collect();

    let found = nearest(features, features, k + 1)?;
    let neighbours: Vec<Vec<Neighbor<f32>>> = found
        .into_iter()
        .enumerate()
        .map(|(i, row)| {
            let others = row.into_iter().filter(|&(_, j)| j != i);
            let neighbour = |(cosine, index): (f32, usize)| {
                let distance = (2.0 - 2.0 * cosine).max(0.0).sqrt();
                Neighbor { index, distance }
            };
            others.map(neighbour).take(k).collect()
        })
        .collect();
    // Only how many there are is looked at: neighbours and start are given.
    let items = vec![(); n];
    let points = || {
        let mut tsne: tSNE<'_, f32, ()> = tSNE::new(&items);
        tsne.perplexity(perplexity)
            .epochs(ITERATIONS)
            .initial_embedding(start)
            .barnes_hut_with_neighbors(THETA, &neighbours);
        tsne.embedding()
    };
    // One thread: sums of several come in no fixed order.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let points = pool.map_err(|error| Error::Msg(error.to_string()))?.install(points);
    if points.iter().any(|value| !value.is_finite()) {
        return Ok(components);
    }
    Ok(points.chunks_exact(2).map(|p| [f64::from(p[0]), f64::from(p[1])]).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    /// Three groups around three directions, 60 points each.
    fn groups() -> Result<(Tensor, Vec<usize>)> {
        let mut stream = Key::new(3, Purpose::Test).stream();
        let labels: Vec<usize> = (0..180).map(|i| i % 3).collect();
        let rows: Vec<f32> = labels
            .iter()
            .flat_map(|&group| {
                let noise: Vec<f64> = (0..8).map(|_| 0.15 * stream.normal()).collect();
                (0..8).map(move |k| (noise[k] + f64::from(u8::from(k == group))) as f32)
            })
            .collect();
        Ok((Tensor::from_vec(rows, (180, 8), &Device::Cpu)?, labels))
    }

    #[test]
    fn what_is_alike_lies_together() -> Result<()> {
        let (features, labels) = groups()?;
        let points = neighbour_embedding(&features)?;
        let distance = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
        let n_right = (0..points.len())
            .filter(|&i| {
                let others = (0..points.len()).filter(|&j| j != i);
                let nearest = others.min_by(|&a, &b| {
                    distance(points[a], points[i]).total_cmp(&distance(points[b], points[i]))
                });
                nearest.is_some_and(|j| labels[j] == labels[i])
            })
            .count();
        assert!(n_right >= 178, "{n_right} of 180 have a nearest point of their group");
        assert_eq!(points, neighbour_embedding(&features)?, "the same bits again");
        Ok(())
    }

    #[test]
    fn few_and_equal_features_have_points_too() -> Result<()> {
        let equal = Tensor::ones((12, 3), candle_core::DType::F32, &Device::Cpu)?;
        let points = neighbour_embedding(&equal)?;
        assert_eq!(points, [[0.0; 2]; 12]);
        assert!(neighbour_embedding(&equal.narrow(0, 0, 7)?).is_err());
        Ok(())
    }
}
