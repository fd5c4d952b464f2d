//! What a dimension is worth to the others: kNN without it.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::{Knn, check_labels, checked_features};

/// kNN with all dimensions, and what each one adds.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaveOneOut {
    /// Accuracy with all dimensions, in percent.
    pub accuracy_percent: f64,
    /// Mean share of the votes that the right class gets, in percent.
    pub vote_percent: f64,
    /// Points of accuracy lost without the dimension; below 0 where it does harm.
    pub accuracy_drop: Vec<f64>,
    /// Points of the vote share lost without it: finer, for a single dimension
    /// seldom turns a prediction over.
    pub vote_drop: Vec<f64>,
}

/// Weighted kNN with every single dimension left out in turn.
///
/// ```text
/// cos₋ₖ(q, b) = (q·b − qₖ bₖ) / √((‖q‖² − qₖ²)(‖b‖² − bₖ²))
/// ```
/// then the votes of [`knn_predict`](crate::knn_predict), whose definition this is on
/// features without column k. A dimension with a twin is worth nothing here, and its
/// twin neither: read it beside η², which looks at each alone.
///
/// Takes m · n · dim steps; results do not depend on the number of threads.
///
/// # Shapes
/// `bank`: `[n, dim]` with `n` labels, `queries`: `[m, dim]` with `m` labels; dim ≥ 2.
/// # Errors
/// If shapes, labels or settings do not fit, or a feature is not finite.
pub fn leave_one_out(
    (bank, bank_labels): (&Tensor, &[u32]),
    (queries, query_labels): (&Tensor, &[u32]),
    n_classes: usize,
    knn: Knn,
) -> Result<LeaveOneOut> {
    let f32s = |x: &Tensor| checked_features("leave_one_out", x)?.to_dtype(DType::F32);
    let (bank, queries) = (f32s(bank)?, f32s(queries)?);
    let ((n, dim), (m, query_dim)) = (bank.dims2()?, queries.dims2()?);
    if query_dim != dim || dim < 2 {
        bail!("leave_one_out: widths must agree and be at least 2, got {dim} and {query_dim}");
    }
    check_labels("leave_one_out", bank_labels, n, n_classes)?;
    check_labels("leave_one_out", query_labels, m, n_classes)?;
    let positive = knn.temperature > 0.0 && knn.temperature.is_finite();
    if !(positive && (1..=n).contains(&knn.k)) {
        bail!("leave_one_out: k must be from 1 to {n} and T positive, got {knn:?}");
    }

    let columns = bank.t()?.contiguous()?.flatten_all()?.to_vec1::<f32>()?; // [D, N]
    let squares = bank.to_dtype(DType::F64)?.sqr()?.sum(1)?.to_vec1::<f64>()?;
    // Row k: 1 / ‖b‖ without dimension k; the last row has all of them.
    let inverse_norms: Vec<f32> = (0..=dim)
        .into_par_iter()
        .flat_map_iter(|k| {
            let column = columns.get(k * n..(k + 1) * n);
            let squares = &squares;
            (0..n).map(move |i| inverse_norm(squares[i], column.map_or(0.0, |column| column[i])))
        })
        .collect();
    let rows = queries.to_vec2::<f32>()?;
    let products = |block: &[Vec<f32>], start: usize| -> Result<Vec<f32>> {
        let block = queries.narrow(0, start, block.len())?;
        block.matmul(&bank.t()?)?.flatten_all()?.to_vec1::<f32>()
    };

    // For each query and each dimension left out: is it right, how sure is it.
    let mut right = vec![0usize; dim + 1];
    let mut votes = vec![0.0; dim + 1];
    for (i, block) in rows.chunks(BLOCK).enumerate() {
        let dots = products(block, i * BLOCK)?;
        let outcomes: Vec<Vec<(bool, f64)>> = block
            .par_iter()
            .zip(dots.par_chunks_exact(n))
            .zip(&query_labels[i * BLOCK..][..block.len()])
            .map(|((query, dots), &label)| {
                let square: f64 = query.iter().map(|&x| f64::from(x).powi(2)).sum();
                let mut cosines = vec![0.0; n];
                (0..=dim)
                    .map(|k| {
                        let norms = &inverse_norms[k * n..][..n];
                        let value = query.get(k).copied().unwrap_or(0.0);
                        let own = inverse_norm(square, value);
                        match columns.get(k * n..(k + 1) * n) {
                            Some(column) => {
                                for j in 0..n {
                                    cosines[j] = (dots[j] - value * column[j]) * norms[j] * own;
                                }
                            }
                            None => (0..n).for_each(|j| cosines[j] = dots[j] * norms[j] * own),
                        }
                        vote(&cosines, bank_labels, label, n_classes, knn)
                    })
                    .collect()
            })
            .collect();
        for outcome in outcomes {
            for (k, (is_right, share)) in outcome.into_iter().enumerate() {
                right[k] += usize::from(is_right);
                votes[k] += share;
            }
        }
    }
    let percent = |sum: f64| 100.0 * sum / m as f64;
    let (accuracy_percent, vote_percent) = (percent(right[dim] as f64), percent(votes[dim]));
    Ok(LeaveOneOut {
        accuracy_percent,
        vote_percent,
        accuracy_drop: right[..dim].iter().map(|&n| accuracy_percent - percent(n as f64)).collect(),
        vote_drop: votes[..dim].iter().map(|&sum| vote_percent - percent(sum)).collect(),
    })
}

/// Queries at a time: their products with the bank stay a few megabytes.
const BLOCK: usize = 64;

/// 1 / √(square − x²); 0 where nothing but rounding is left, as a feature of zeros has.
fn inverse_norm(square: f64, x: f32) -> f32 {
    let rest = square - f64::from(x).powi(2);
    if rest > 1e-12 * square { rest.sqrt().recip() as f32 } else { 0.0 }
}

/// Whether the vote is for `label`, and that class's share of it.
fn vote(cosines: &[f32], labels: &[u32], label: u32, n_classes: usize, knn: Knn) -> (bool, f64) {
    // The k highest, of equal ones the first.
    let mut nearest: Vec<(f32, usize)> = Vec::with_capacity(knn.k + 1);
    for (idx, &cosine) in cosines.iter().enumerate() {
        if nearest.len() == knn.k {
            if cosine <= nearest[knn.k - 1].0 {
                continue;
            }
            nearest.pop();
        }
        let place = nearest.partition_point(|&(other, _)| other >= cosine);
        nearest.insert(place, (cosine, idx));
    }
    let highest = f64::from(nearest[0].0);
    let mut votes = vec![0.0; n_classes];
    for (cosine, idx) in nearest {
        votes[labels[idx] as usize] += ((f64::from(cosine) - highest) / knn.temperature).exp();
    }
    let best =
        (1..n_classes).fold(0, |best, class| if votes[class] > votes[best] { class } else { best });
    (best == label as usize, votes[label as usize] / votes.iter().sum::<f64>())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;
    use crate::{accuracy_percent, knn_predict};

    #[test]
    fn leaving_a_dimension_out_is_knn_without_its_column() -> Result<()> {
        const DIM: usize = 6;
        let mut stream = Key::new(4, Purpose::Test).stream();
        let mut set = |n: usize| -> Result<(Tensor, Vec<u32>)> {
            let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
            // Dimensions 0 to 2 carry the class, 3 to 5 are noise.
            let value = |y: u32, k: usize, noise: f64| f64::from(u8::from(y as usize == k)) + noise;
            let values: Vec<f64> = labels
                .iter()
                .flat_map(|&y| (0..DIM).map(move |k| (y, k)))
                .map(|(y, k)| value(y, k, 0.5 * stream.normal()))
                .collect();
            Ok((Tensor::from_vec(values, (n, DIM), &Device::Cpu)?, labels))
        };
        let ((bank, bank_labels), (queries, labels)) = (set(300)?, set(150)?);
        let knn = Knn { k: 7, temperature: 0.2 };
        let found = leave_one_out((&bank, &bank_labels), (&queries, &labels), 3, knn)?;

        let accuracy = |keep: &[u32]| -> Result<f64> {
            let keep = Tensor::new(keep, &Device::Cpu)?;
            let (bank, queries) = (bank.index_select(&keep, 1)?, queries.index_select(&keep, 1)?);
            accuracy_percent(&knn_predict(&bank, &bank_labels, &queries, knn, 3)?, &labels)
        };
        let all: Vec<u32> = (0..DIM as u32).collect();
        assert_eq!(found.accuracy_percent, accuracy(&all)?);
        for k in 0..DIM {
            let rest: Vec<u32> = all.iter().copied().filter(|&l| l as usize != k).collect();
            let expected = found.accuracy_percent - accuracy(&rest)?;
            // Rounding may swap two neighbours: one prediction of 150.
            assert!((found.accuracy_drop[k] - expected).abs() < 0.7, "{k}: {found:?}");
        }
        let (useful, noise) = found.vote_drop.split_at(3);
        assert!(useful.iter().all(|drop| *drop > 5.0), "{found:?}");
        assert!(noise.iter().all(|drop| *drop < 1.0), "{found:?}");
        Ok(())
    }
}
